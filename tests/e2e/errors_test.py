"""What a user, a disk or a launcher can do wrong: errors_test.py BUILD.

Each case: one clear message on standard error, the right exit code, and what was on disk is there and loadable.
Runs itself in a mount namespace of its own where that is allowed, so that a full disk is one (a small tmpfs);
elsewhere a limit on the size of files stands in for it, which is said.
"""
import json
import os
import resource
import shutil
import struct
import subprocess
import sys

from common import *

sys.path.insert(0, os.path.join(ROOT, "tests", "runtime_app"))
from token_checksum import checksummed

MINI = """
local moec = require "moec"
local nn, op, optim = moec.nn, moec.op, moec.optim
local c = moec.config { seq = 16, batch = 4, d = 16, bound = 2, lr = 1e-2, decay = 0.0, vocab = 256 }
local embed = nn.embedding { vocab = c.vocab, d = c.d }
local function top2(x, g)
  local w = moec.param("w", { g.experts, c.d }, moec.init.normal(0.02))
  local p = op.softmax(op.matmul(x, w, { tb = true }))
  return p, op.topk_mask(p, 2), { k = c.bound }
end
return moec.model {
  name = "mini", task = "lm", config = c,
  forward = function(b)
    local x = embed(b.tokens)
    x = x + nn.moe(x, { experts = 3, hidden = 16, ids = b.tokens, gate = top2 })
    return nn.tied_logits(x, embed)
  end,
  steps = 6, optimizer = optim.adam { lr = c.lr, weight_decay = c.decay }, phases = { { name = "all", experts = 3 } },
}
"""
LINE_OF_THE_LAYER = MINI[:MINI.index("nn.moe")].count("\n") + 1


def prepare(t):
    t.script, t.data, t.trainer, t.good = t.path("mini.lua"), t.path("data"), t.path("trainer"), t.path("good")
    write(t.script, MINI)
    make_text(t.path("text"), 1500)
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=bytes")
    run(t.moec, "build", t.script, "-o", t.trainer)
    run(t.trainer, "train", "--data", t.data, "--out", t.good, "--checkpoint-every=2")
    t.namespace = "E2E_NAMESPACE" in os.environ


def damaged_data(t, name, change, split="train"):
    broken = t.path("data_" + name)
    shutil.copytree(t.data, broken)
    path = os.path.join(broken, split + ".bin")
    write(path, change(read(path)))
    return broken


def test_ir_text(t):
    """Broken IR text: wherever it is cut or changed there is a message with its place."""
    text = run(t.moec, "ir", t.script)
    broken = t.path("broken.ir")
    write(broken, text)
    assert run(t.moec, "opt", broken) == text
    for content, says in ((text[:len(text) // 2], "broken.ir:"), (text.replace(" = matmul ", " = matmull ", 1), "matmull"),
                          (text.replace("f32[N,D]", "f32[D,N]", 1), "broken.ir"), (b"\0" + text.encode(), "a byte 0"),
                          (bytes(range(255, 0, -1)), "broken.ir:1"), ("", "broken.ir")):
        write(broken, content)
        run(t.moec, "opt", broken, code=1, says=says)
        run(t.moec, "build", broken, "-o", t.path("never"), code=1, says=says)
    assert not os.path.exists(t.path("never"))


def test_token_files(t):
    for name, change, says in (("short", lambda d: d[:-3], "truncated"), ("half", lambda d: d[:len(d) // 2], "truncated"),
                               ("header", lambda d: d[:40], "shorter than its header"), ("text", lambda d: b"Once upon a time " * 9,
                                                                                         "not a token file"),
                               ("long", lambda d: d + b"xy", "damaged"), ("few", lambda d: checksummed(d[:24] + struct.pack("<Q", 3) + d[32:70]),
                                                                          "too short"),
                               ("id", lambda d: checksummed(d[:-2] + b"\xff\xff"), "damaged"),
                               ("bit", lambda d: d[:-9] + bytes([d[-9] ^ 4]) + d[-8:], "damaged: its content has the checksum"), ("empty", lambda d: b"", "not a token file")):
        data = damaged_data(t, name, change)
        out = t.path("out_" + name)
        words = (t.trainer, "train", "--data", data, "--out", out)
        if name == "id":  # found when it is read: the last token is within the held-out text of this file
            data = damaged_data(t, name + "_valid", change, "valid")
            words = (t.trainer, "eval", "--data", data, "--checkpoint", t.good)
        run(*words, code=1, says=(says, data))
        assert not os.path.exists(out), "a run directory before the data was looked at"
    data = damaged_data(t, "no_valid", lambda d: d)
    os.remove(os.path.join(data, "valid.bin"))
    run(t.trainer, "train", "--data", data, "--out", t.path("no_valid"), code=1, says="no valid data there")
    run(t.trainer, "train", "--data", t.path("nowhere"), "--out", t.path("x"), code=1, says="nowhere")


def test_wrong_vocabulary(t):
    """More ids than the model has: refused. Fewer: trained, and said. Another tokenizer's data: refused on resume and by eval."""
    big, small = t.path("big"), t.path("small")
    run(t.moec, "data", t.path("text"), "-o", big, "--tokenizer=spm:300")
    run(t.trainer, "train", "--data", big, "--out", t.path("big_out"), code=1, says=("wrong vocabulary", "300 ids", "the model 256"))
    shutil.copytree(t.data, small)
    for split in ("train", "valid"):  # ids up to 127 from another tokenizer
        path = os.path.join(small, split + ".bin")
        whole = read(path)
        write(path, checksummed(whole[:16] + struct.pack("<I", 128) + whole[20:32] + b"another." + whole[40:]))
    said = run(t.trainer, "train", "--data", small, "--out", t.path("small_out"), "--steps=1")
    assert "the data has 128 token ids, the model 256" in said
    run(t.trainer, "train", "--data", small, "--out", t.good, "--resume", "--steps=8", code=1, says="other data than the run's")
    run(t.trainer, "eval", "--data", small, "--checkpoint", t.good, code=1, says="another tokenizer")
    run(t.trainer, "eval", "--data", big, "--checkpoint", t.good, code=1, says="another tokenizer")


def flips(size):
    return [size // 7, size // 2, size - 5]


def test_damaged_checkpoint(t):
    """Each file of a checkpoint missing, cut, or with one flipped bit anywhere: found before anything is written."""
    broken = t.path("damaged")
    shutil.copytree(t.good, broken)
    newest = checkpoint(broken, 6)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        path = os.path.join(newest, name)
        whole = read(path)
        changes = [("missing", None), ("empty", b""), ("half", whole[:len(whole) // 2]), ("last byte", whole[:-1])]
        for at in flips(len(whole)):
            changes.append((f"bit of byte {at}", whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:]))
        for what, content in changes:
            os.remove(path) if content is None else write(path, content)
            logs = {n: read(os.path.join(broken, n)) for n in ("metrics.jsonl", "log.txt")}
            says = name if content is None else (name, "damaged")
            run(t.trainer, "train", "--data", t.data, "--out", broken, "--resume", "--steps=8", code=1, says=says)
            if name != "optimizer.safetensors" and content is not None:
                run(t.trainer, "eval", "--data", t.data, "--checkpoint", newest, code=1, says=says)
                run(t.trainer, "sample", "--checkpoint", newest, code=1, says=says)
            assert all(read(os.path.join(broken, n)) == text for n, text in logs.items()), (name, what)
            write(path, whole)
    path = os.path.join(broken, "metrics.jsonl")
    whole = read(path)
    write(path, whole[:-30])
    run(t.trainer, "train", "--data", t.data, "--out", broken, "--resume", "--steps=8", code=1, says=("metrics.jsonl", "damaged"))
    write(path, whole)
    run(t.trainer, "train", "--data", t.data, "--out", broken, "--resume", "--steps=8")
    assert steps_of(broken)[-1] == 8


def test_missing_checkpoint(t):
    empty = t.path("empty")
    os.makedirs(empty)
    for command in (("eval", "--data", t.data), ("sample",)):
        run(t.trainer, *command, "--checkpoint", t.path("nowhere"), code=1, says=("nowhere", "no such directory"))
        run(t.trainer, *command, "--checkpoint", empty, code=1, says="neither a checkpoint nor a run directory")
    run(t.trainer, "train", "--data", t.data, "--out", t.path("nowhere"), "--resume", code=1, says="no run directory")
    run(t.trainer, "train", "--data", t.data, "--out", t.good, code=1, says="holds a run already")


def test_another_model(t):
    """Other shapes: refused. The same shapes from another script: eval and sample say so, train refuses."""
    wide, steep, other = t.path("wide"), t.path("steep"), t.path("other")
    run(t.moec, "build", t.script, "-D", "d=24", "-o", wide)
    run(wide, "eval", "--data", t.data, "--checkpoint", t.good, code=1, says=("does not match this trainer", "[256,16]", "[256,24]"))
    run(wide, "sample", "--checkpoint", t.good, code=1, says="does not match this trainer")
    run(wide, "train", "--data", t.data, "--out", t.good, "--resume", code=1, says="written by a trainer of another model")
    run(t.moec, "build", t.script, "-D", "lr=1e30", "-o", steep)
    run(steep, "train", "--data", t.data, "--out", t.good, "--resume", "--steps=8", code=1, says="written by a trainer of another model")
    run(steep, "eval", "--data", t.data, "--checkpoint", t.good, says="note: ")
    moved = t.path("moved.lua")  # the same model from another file: the same run
    write(moved, "-- a comment\n" + MINI)
    shutil.copytree(t.good, t.path("moved_run"))
    run(t.moec, "build", moved, "-o", other)
    said = run(other, "train", "--data", t.data, "--out", t.path("moved_run"), "--resume", "--steps=7")
    assert "warning" not in said, said


def disk(t, name, kilobytes):
    path = t.path(name)
    os.makedirs(path)
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", path])
    t.mounts.append(path)
    return path


def limit_files(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_full_disk(t):
    """Exit code 3, no half-written file under its own name, the newest checkpoint goes on to the same bits."""
    if t.namespace:
        place, options, says = disk(t, "disk", 256), {}, ("cannot write", "No space left on device")
    else:
        print("(no mount namespace here: a limit on the size of files stands in for the full disk)", end=" ")
        place, options, says = t.path("disk"), {"preexec_fn": limit_files(20000)}, "cannot write"
        os.makedirs(place)
    write(os.path.join(place, "trainer"), b"what stood here")
    run(t.moec, "build", t.script, "-o", os.path.join(place, "trainer"), code=3, says="cannot write", **options)
    assert read(os.path.join(place, "trainer")) == b"what stood here" and os.listdir(place) == ["trainer"]
    make_text(t.path("long_text"), 60000)
    run(t.moec, "data", t.path("long_text"), "-o", os.path.join(place, "data"), "--tokenizer=bytes", code=3, says=says, **options)
    assert os.listdir(place) == ["trainer"], os.listdir(place)
    out = os.path.join(place, "run")
    words = (t.trainer, "train", "--data", t.data, "--out", out, "--checkpoint-every=2")
    if t.namespace:
        run(*words, code=3, says=says)
        assert steps_of(out) and steps_of(out)[-1] < 6, steps_of(out)
        run(t.trainer, "eval", "--data", t.data, "--checkpoint", out)
        run(*words, "--resume", code=3, says=says)
        subprocess.check_call(["mount", "-o", "remount,size=8m", place])
    else:
        run(*words, "--steps=2")
        run(*words, "--resume", code=3, says="File too large", **options)
    run(*words, "--resume")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert read(os.path.join(checkpoint(t.good, 6), name)) == read(os.path.join(checkpoint(out, 6), name)), name


def test_full_standard_output(t):
    with open("/dev/full", "w") as full:
        for words in ((t.moec, "ir", t.script), (t.moec, "emit", t.script, "--what=plan"), (t.moec, "forecast", t.script),
                      (t.moec, "explain", t.script), (t.moec, "--help"), (t.moec, "build", "--help"), (t.moec, "data", "--help"),
                      (t.trainer, "info"), (t.trainer, "info", "--plan"), (t.trainer, "--help"),
                      (t.trainer, "sample", "--checkpoint", t.good), (t.trainer, "eval", "--data", t.data, "--checkpoint", t.good)):
            run(*words, code=3, says="standard output", stdout=full)


def test_unwritable(t):
    """A place under a plain file, and (in a namespace) on a disk mounted read-only."""
    places = [os.path.join(t.script, "x")]
    if t.namespace:
        read_only = disk(t, "read_only", 64)
        subprocess.check_call(["mount", "-o", "remount,ro", read_only])
        places += [os.path.join(read_only, "x")]
    for place in places:
        run(t.moec, "build", t.script, "-o", place, code=3, says=("cannot write the trainer", place))
        run(t.trainer, "train", "--data", t.data, "--out", place, code=3, says=("cannot", os.path.dirname(place)))
        run(t.moec, "train", t.script, "--data", t.data, "--out", place, code=3, says=("cannot", place))
        run(t.moec, "data", t.path("text"), "-o", place, "--tokenizer=bytes", code=3, says="cannot make directory")
        run(t.moec, "ir", t.script, "-o", place, code=3, says=("cannot write", place))


def test_more_pairs_than_the_bound(t):
    run(t.moec, "build", t.script, "-D", "bound=1", "-o", t.path("bound"))
    run(t.path("bound"), "train", "--data", t.data, "--out", t.path("bound_run"), code=1,
        says=(f"mini.lua:{LINE_OF_THE_LAYER}: the gate selects 2 experts for token ", "its bound is k = 1"))


def test_damaged_trainer(t):
    whole, broken = read(t.trainer), t.path("broken_trainer")
    offset, length = struct.unpack("<QQ", whole[-24:-8])
    spots = [len(whole) - 8, len(whole) - 20, offset + 3]
    sections = [tuple(map(int, line.split()[1:])) for line in whole[offset:offset + length].decode().splitlines()]
    spots += [begin + size // 2 for begin, size in sections]
    for at in spots:
        write(broken, whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1:])
        os.chmod(broken, 0o755)
        run(broken, "info", code=1, says=("broken_trainer", "damaged"))
    out = t.path("broken_run")
    run(broken, "train", "--data", t.data, "--out", out, code=1, says="damaged")
    assert not os.path.exists(out)
    program = min(begin for begin, _ in sections)  # a shorter file is no program at all
    for end in (len(whole) - 1, offset, (program + offset) // 2):
        write(broken, whole[:end])
        run(broken, "info", code=1, says="its end was cut off")


def test_devices_and_ranks(t):
    words = ("train", "--data", t.data, "--out", t.path("never"))
    run(t.trainer, *words, "--device=cuda", code=3, says=("--device=cuda: libcuda.so.1 is not in /nowhere", "driver"),
        env=environment(MOEC_CUDA_PATH="/nowhere"))
    run(t.trainer, *words, "--device=tpu", code=2, says="--device=tpu: expected cpu or cuda")
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        run(t.trainer, *words, code=2, says=("started on 2 ranks", "dp:1,ep:1"), env=environment(**{name: "2"}))
    assert not os.path.exists(t.path("never"))


def test_not_finite(t):
    """A loss or a parameter that is not a number stops the run; no checkpoint holds one."""
    out = t.path("steep_run")
    run(t.path("steep"), "train", "--data", t.data, "--out", out, "--checkpoint-every=1", code=1,
        says=("step 2 (phase all): the loss is ", "training stops, the last checkpoint is "))
    assert steps_of(out) == [1] and log(out)[-1]["step"] == 1
    run(t.moec, "build", t.script, "-D", "lr=1e38", "-D", "decay=100", "-o", t.path("steeper"))
    out = t.path("steeper_run")
    run(t.path("steeper"), "train", "--data", t.data, "--out", out, "--checkpoint-every=1", code=1,
        says=("step 1 (phase all): element ", " of parameter ", "not there yet"))
    assert steps_of(out) == []


def test_data_directory(t):
    """moec data makes a whole directory or none, replaces one of its own, and no other."""
    out = t.path("made")
    words = (t.moec, "data", t.path("text"), "-o", out, "--tokenizer=bytes")
    write(t.path("latin"), read(t.path("text")) + b"caf\xe9 au lait\n")
    run(t.moec, "data", t.path("latin"), "-o", out, "--tokenizer=spm:300", code=1, says="latin")
    run(t.moec, "data", t.path("missing"), "-o", out, code=1, says="missing")
    assert not os.path.exists(out)
    os.makedirs(out + ".partial")  # what a kill left
    write(os.path.join(out + ".partial", "train.bin"), b"half")
    run(*words)
    first = {name: read(os.path.join(out, name)) for name in ("train.bin", "valid.bin", "test.bin", "meta.json")}
    assert sorted(os.listdir(out)) == ["meta.json", "test.bin", "tokenizer", "train.bin", "valid.bin"]
    run(*words, "--test=0")
    assert not os.path.exists(os.path.join(out, "test.bin")) and read(os.path.join(out, "train.bin")) != first["train.bin"]
    run(*words)
    assert all(read(os.path.join(out, name)) == content for name, content in first.items())
    mine = t.path("mine")
    os.makedirs(mine)
    write(os.path.join(mine, "thesis.txt"), "years of work")
    run(t.moec, "data", t.path("text"), "-o", mine, "--tokenizer=bytes", code=1, says="holds other files")
    assert os.listdir(mine) == ["thesis.txt"]
    assert not [name for name in os.listdir(t.directory) if name.endswith(".partial")]


def enter_namespace():
    """Once more in a namespace with mounts of its own, as root of a user namespace where we are not root."""
    for words in (["unshare", "-m"], ["unshare", "-rm"]):
        probe = [*words, "sh", "-c", "mount -t tmpfs -o size=16k none /mnt"]
        if subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            os.environ["E2E_NAMESPACE"] = "1"
            os.execvp(words[0], [*words, sys.executable, *sys.argv])


if shutil.which("unshare") and "E2E_NAMESPACE" not in os.environ:
    enter_namespace()
main(dict(globals()))
