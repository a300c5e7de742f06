"""The trainer's application on a hand-made trainer (toy.py): run_test.py MOEC_RUNTIME.

What a run writes, that kill -9 and --resume change no bit, and every error the user can cause.
"""
import array
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import toy
from token_checksum import checksummed

ENVIRONMENT = dict(os.environ, OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="2")


def run(*words, code=0, message=None, **options):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, errors="replace", env=ENVIRONMENT, timeout=300, **options)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    if message:
        assert message in done.stderr, (words, message, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
    return done.stdout


def tokens(path):
    data = open(path, "rb").read()
    magic, version, width, vocabulary, _, count, _ = struct.unpack("<8sIIIIQQ", data[:40])
    assert magic == b"MOECTOKN" and version == 1
    values = array.array("H" if width == 2 else "I")
    values.frombytes(data[64:])
    assert len(values) == count
    return list(values)


def write_tokens(path, values, vocabulary=256, tokenizer=None):
    tokenizer = TOKENIZER if tokenizer is None else tokenizer
    header = struct.pack("<8sIIIIQQ24x", b"MOECTOKN", 1, 2, vocabulary, 0, len(values), tokenizer)
    with open(path, "wb") as file:
        file.write(checksummed(header + array.array("H", values).tobytes()))


TOKENIZER = toy.fnv(b"bytes")


def make_data(directory, train=4001, valid=403):
    draw = random.Random(7)
    text = [97]
    while len(text) < train + valid:
        text.append((text[-1] * 5 + draw.choice((1, 1, 1, 2, 9))) % 256)
    os.makedirs(os.path.join(directory, "tokenizer"))
    write_tokens(os.path.join(directory, "train.bin"), text[:train])
    write_tokens(os.path.join(directory, "valid.bin"), text[train:])
    with open(os.path.join(directory, "tokenizer", "tokenizer.json"), "w") as file:
        json.dump({"kind": "bytes", "vocabulary": 256, "hash": f"{TOKENIZER:016x}"}, file)


def safetensors(path):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    header, body, out = json.loads(data[8:8 + size]), data[8 + size:], {}
    for name, t in header.items():
        values = array.array({"F32": "f", "I64": "q"}[t["dtype"]])
        values.frombytes(body[slice(*t["data_offsets"])])
        assert len(values) == math.prod(t["shape"])
        out[name] = (t["shape"], values)
    return out


def lines(run_directory, name="metrics.jsonl"):
    """Without what depends on the clock."""
    out = [json.loads(line) for line in open(os.path.join(run_directory, name))]
    for line in out:
        line.pop("tokens_per_s", None)
    return out


def checkpoint(run_directory, step):
    return os.path.join(run_directory, "checkpoints", f"step-{step:08d}")


def same_tensors(a, b, step):
    for name in ("model.safetensors", "optimizer.safetensors"):
        x, y = (open(os.path.join(checkpoint(r, step), name), "rb").read() for r in (a, b))
        assert x == y, (name, step)


def evaluate(tensors, values):
    w, b = tensors["w"][1], tensors["b"][1] if "b" in tensors else [0.0] * 256
    total = 0
    for token, target in zip(values, values[1:]):
        z = [w[token * 256 + j] + b[j] for j in range(256)]
        total += math.log(sum(math.exp(x) for x in z)) - z[target]
    return total / (len(values) - 1)


def test_run(t):
    """What an uninterrupted run leaves behind."""
    r = t.dir("whole")
    run(t.trainer, "train", "--data", t.data, "--out", r, "--eval-every=8", "--checkpoint-every=7", "--steps=24", "--routing-every=3")
    assert sorted(os.listdir(r)) == ["checkpoints", "config.json", "log.txt", "memory.json", "metrics.jsonl", "model.ir", "routing.jsonl",
                                     "tokenizer", "tuning.json"]
    assert sorted(os.listdir(os.path.join(r, "checkpoints"))) == [f"step-{s:08d}" for s in (7, 10, 14, 21, 24)]
    log = lines(r)
    train = [line for line in log if "split" not in line]
    assert [line["step"] for line in train] == list(range(1, 25))
    for key in "step phase loss ce lr tau grad_norm tokens flops experts_per_token version".split():
        assert key in train[0] and key in train[-1], key
    assert [line["phase"] for line in train] == ["a"] * 10 + ["b"] * 14
    assert train[0]["tau"] is None and abs(train[10]["tau"] - 2) < 1e-6 and abs(train[11]["tau"] - 1.99) < 1e-6
    assert abs(train[2]["lr"] - 0.012) < 1e-7 and abs(train[20]["lr"] - 0.013) < 1e-7
    assert train[9]["flops"] == 10 * 1100 and train[10]["flops"] == 11 * 1100 + 32 * 10
    assert train[10]["balance"] == train[10]["tau"] and train[10]["experts_per_token"] == 1
    assert abs(train[10]["loss"] - train[10]["ce"] - 0.01 * train[10]["balance"]) < 1e-5
    assert train[23]["loss"] < train[0]["loss"]
    assert [(line["step"], line["phase"]) for line in log if "split" in line] == [(8, "a"), (10, "a"), (10, "b"), (16, "b"), (24, "b")]
    before, after = [line for line in log if "split" in line and line["step"] == 10]
    assert before["ce"] == after["ce"]  # the transition adds a bias of zero
    routing = lines(r, "routing.jsonl")
    assert [line["step"] for line in routing] == [13, 16, 19, 22] and sum(routing[0]["load"]["h2"]) == 32
    held_out = tokens(os.path.join(t.data, "valid.bin"))
    for line in (before, log[-1]):
        tensors = safetensors(os.path.join(checkpoint(r, line["step"]), "model.safetensors"))
        assert abs(evaluate(tensors, held_out) - line["ce"]) < 1e-5
        assert abs(math.exp(line["ce"]) - line["ppl"]) < 1e-9 and line["tokens"] == len(held_out) - 1
    state = json.load(open(os.path.join(checkpoint(r, 10), "state.json")))
    assert (state["step"], state["phase"], state["next_phase"], state["data"]["sequences"]) == (10, "a", "b", 40)
    moments = safetensors(os.path.join(checkpoint(r, 24), "optimizer.safetensors"))
    assert moments["t.w"][1][0] == 24 and moments["t.b"][1][0] == 14 and moments["m.w"][0] == [256, 256]
    out = json.loads(run(t.trainer, "eval", "--data", t.data, "--checkpoint", r))
    assert out == {k: v for k, v in log[-1].items()}
    out = json.loads(run(t.trainer, "eval", "--data", t.data, "--checkpoint", checkpoint(r, 10)))
    assert out == before
    sample = run(t.trainer, "sample", "--checkpoint", r, "--prompt", "ab", "-n", 20)
    assert sample.startswith("ab") and sample == run(t.trainer, "sample", "--checkpoint", r, "--prompt", "ab", "-n", 20)
    assert "table big" in run(t.trainer, "info").replace("table       ", "table ")
    assert run(t.trainer, "info", "--ir") == "module toy\n"


def test_resume(t):
    """Stops at given steps, then kill -9 at any moment."""
    whole, r = t.dir("resume_whole"), t.dir("resume")
    run(t.trainer, "train", "--data", t.data, "--out", whole, "--checkpoint-every=3", "--eval-every=0", "--steps=22")
    for steps in (0, 3, 10, 12, 22):  # 10: the end of phase a
        run(t.trainer, "train", "--data", t.data, "--out", r, "--checkpoint-every=3", "--eval-every=0", f"--steps={steps}",
            *(["--resume"] if steps else []))
    for step in (3, 9, 10, 12, 18, 22):
        same_tensors(whole, r, step)
    extra = {(0, "a"), (3, "a"), (12, "b")}  # evaluations where the run had been told to end
    assert lines(whole) == [x for x in lines(r) if not ("split" in x and (x["step"], x["phase"]) in extra)]
    assert lines(whole, "routing.jsonl") == lines(r, "routing.jsonl")

    killed, draw, kills = t.dir("killed"), random.Random(3), 0
    words = [t.trainer, "train", "--data", t.data, "--out", killed, "--checkpoint-every=4", "--eval-every=5", "--steps=600"]
    os.makedirs(killed)
    for _ in range(200):
        process = subprocess.Popen([*words, "--resume"], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, error = process.communicate(timeout=draw.uniform(0.01, 0.15))
            assert process.returncode == 0, error
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    else:  # a slow machine does not come to the end within any of the times
        run(*words, "--resume")
    reference = t.dir("not_killed")
    run(*[reference if w == killed else w for w in words])
    assert kills > 2, kills
    print(f"killed {kills} times", end=", ")
    for step in (4, 10, 24, 200, 600):
        same_tensors(reference, killed, step)
    assert lines(reference) == lines(killed) and lines(reference, "routing.jsonl") == lines(killed, "routing.jsonl")


def test_accumulation(t):
    """Two micro-batches give the step of one batch, up to the order of sums."""
    halves, r1, r2 = os.path.join(t.directory, "halves"), t.dir("one"), t.dir("two")
    toy.pack(t.runtime, halves, t.directory, accumulate=2)
    run(t.trainer, "train", "--data", t.data, "--out", r1, "--steps=14")
    run(halves, "train", "--data", t.data, "--out", r2, "--steps=14")
    for x, y in zip(lines(r1), lines(r2)):
        assert abs(x["ce"] - y["ce"]) < 1e-4 and x["step"] == y["step"] and x["tokens"] == y["tokens"]
        assert x.get("balance") == y.get("balance")


def test_native(t):
    """--cpu=native runs the kernels made for this machine, and only where they are and fit."""
    here, elsewhere = os.path.join(t.directory, "here"), os.path.join(t.directory, "elsewhere")
    toy.pack(t.runtime, here, t.directory, native="avx2 fma ")
    toy.pack(t.runtime, elsewhere, t.directory, native="avx2 avx9000 fma ")
    train = ("train", "--data", t.data, "--steps=2")
    plain, native = t.dir("plain_level"), t.dir("native_level")
    assert "native" not in run(here, *train, "--out", plain)
    assert "native" in run(here, *train, "--out", native, "--cpu=native")
    assert lines(plain) == lines(native)
    assert "the bits will differ" in run(here, "train", "--data", t.data, "--steps=3", "--out", native, "--resume")
    run(t.trainer, *train, "--out", t.dir("not_carried"), "--cpu=native", code=2, message="moec build --cpu=native")
    run(elsewhere, *train, "--out", t.dir("not_here"), "--cpu=native", code=3, message="avx9000")
    run(elsewhere, *train, "--out", t.dir("still_here"))
    run(t.trainer, "eval", "--data", t.data, "--checkpoint", plain, "--cpu=v9", code=2, message="expected v3, v4 or native")


def test_errors(t):
    whole = t.dir("errors")
    train = [t.trainer, "train", "--data", t.data]
    run(*train, "--out", whole, "--steps=2")
    run(*train, "--out", whole, "--steps=2", code=1, message="holds a run already")
    run(*train, "--out", t.dir("absent"), "--resume", code=1, message="no run directory")
    for words, message in ((["train"], "--data D is missing"), (["train", "--data", t.data], "--out R is missing"),
                           (["walk"], "unknown command"), ([], "expected"), (["train", "--stride=3"], "unknown option"),
                           (["train", "--steps=x"], "not a whole number"), (["train", "--steps"], "needs a value"),
                           (["eval", "--data", t.data], "--checkpoint C is missing"),
                           (["train", "--data=a", "--out=b", "--device=tpu"], "expected cpu or cuda")):
        run(t.trainer, *words, code=2, message=message)
    run(*train, "--out", t.dir("gpu"), "--device=cuda", code=3, message="no plan for cuda")
    run(*train, "--out", "/proc/none/run", code=3, message="cannot make directory")
    run(t.trainer, "train", "--data", t.dir("nothing"), "--out", t.dir("x"), code=1, message="cannot read token file")
    # damaged data
    valid = os.path.join(t.data, "valid.bin")
    for name, change, message in (
            ("truncated", lambda d: d[:-3], "truncated"), ("header", lambda d: d[:40], "shorter than its header"),
            ("magic", lambda d: b"x" + d[1:], "not a token file"),
            ("vocabulary", lambda d: checksummed(d[:16] + struct.pack("<I", 300) + d[20:]), "wrong vocabulary"),
            ("id", lambda d: checksummed(d[:16] + struct.pack("<I", 100) + d[20:]), "has id"),
            ("empty", lambda d: checksummed(d[:24] + struct.pack("<Q", 1) + d[32:66]), "too short"),
            ("flipped", lambda d: d[:-1] + bytes([d[-1] ^ 128]), "has the checksum"),
            ("swapped", lambda d: d[:70] + d[72:74] + d[70:72] + d[74:], "has the checksum"),
            ("hash", lambda d: d[:32] + bytes([d[32] ^ 1]) + d[33:], "has the checksum"),
            ("unsummed", lambda d: d[:40] + bytes(8) + d[48:], "has the checksum")):
        broken = t.dir("data_" + name)
        shutil.copytree(t.data, broken)
        content = open(valid, "rb").read()
        open(os.path.join(broken, "valid.bin"), "wb").write(change(content))
        run(t.trainer, "train", "--data", broken, "--out", t.dir("r_" + name), "--steps=1", code=1, message=message)
    # damaged checkpoints
    newest = checkpoint(whole, 2)
    for name, change, message in (
            ("model.safetensors", lambda d: d[:-4], "damaged"), ("model.safetensors", lambda d: d[:-1] + bytes([d[-1] ^ 1]), "checksum"),
            ("model.safetensors", lambda d: d[:20], "damaged"), ("optimizer.safetensors", lambda d: b"\xff" * 8 + d[8:], "damaged"),
            ("state.json", lambda d: d[:-9], "damaged"), ("state.json", lambda d: d.replace(b'"seed":1', b'"seed":2'), "checksum")):
        path = os.path.join(newest, name)
        content = open(path, "rb").read()
        open(path, "wb").write(change(content))
        run(*train, "--out", whole, "--resume", "--steps=3", code=1, message=message)
        open(path, "wb").write(content)
    other = os.path.join(t.directory, "other")
    toy.pack(t.runtime, other, t.directory, ir="module other\n")
    run(other, "train", "--data", t.data, "--out", whole, "--resume", code=1, message="another model")
    run(*train, "--out", whole, "--resume", "--seed=5", code=1, message="cannot change")
    run(t.trainer, "eval", "--data", t.data, "--checkpoint", t.directory, code=1, message="neither a checkpoint nor")
    longer = t.dir("longer")
    make_data(longer, train=4100)
    run(t.trainer, "train", "--data", longer, "--out", whole, "--resume", code=1, message="other data")
    assert "warning" in subprocess.run([t.trainer, "train", "--data", t.data, "--out", whole, "--resume", "--steps=3"],
                                       env=dict(ENVIRONMENT, OMP_NUM_THREADS="1"), capture_output=True, text=True).stdout
    run(t.runtime, "info", code=1)


def test_safetensors(t):
    """The reader refuses every header that does not describe the file exactly."""
    path, out = t.dir("in.safetensors"), t.dir("out.safetensors")

    def attempt(header, body=b"", size=None, **expected):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        open(path, "wb").write(struct.pack("<Q", len(header) if size is None else size) + header + body)
        run(t.trainer, "exec", "--func=init", f"--in={path}", f"--out={out}", **expected)

    def tensor(begin, end, shape, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    attempt({})
    assert safetensors(out) == {}  # init has no results of its own
    for header, body, message in (
            (b"{", b"", "header: byte 1"), (b"[]", b"", "no object"), (b"{}x", b"", "something behind"),
            ({"a": tensor(0, 4, [1])}, b"123", "beyond the end"), ({"a": tensor(0, 4, [2])}, b"1234", "do not fit its shape"),
            ({"a": tensor(0, 4, [1])}, b"12345", "bytes behind"), ({"a": tensor(4, 8, [1])}, b"12345678", "a hole"),
            ({"a": tensor(0, 8, [2]), "b": tensor(4, 8, [1])}, b"12345678", "overlap"),
            ({"a": tensor(0, 4, [1], "F33")}, b"1234", "not known"), ({"a": tensor(0, 4, [-1])}, b"1234", "no size"),
            ({"a": tensor(0, 4, [2**40, 2**40])}, b"1234", "no size"), ({"a": tensor(0, 4, [1.5])}, b"1234", "no size"),
            ({"a": tensor(4, 0, [1])}, b"1234", "beyond the end"), ({"a": {"dtype": "F32"}}, b"", "no shape"),
            ({"a": dict(tensor(0, 4, [1]), data_offsets=[0])}, b"1234", "data_offsets"), ({"a": 3}, b"", "no dtype"),
            (b'{"a":' + json.dumps(tensor(0, 0, [0])).encode() + b',"a":' + json.dumps(tensor(0, 0, [0])).encode() + b"}", b"", "twice"),
            ({"a": tensor(0, 4, [1])}, b"1234", "no such argument"), ({"@w": tensor(0, 4, [1])}, b"1234", "the plan wants"),
            ({"@x": tensor(0, 4, [1])}, b"1234", "no such parameter")):
        attempt(header, body, code=1, message=message)
    attempt(b"{}", size=2**40, code=1, message="header of more than")
    attempt(b"{}", size=9, code=1, message="does not end")
    open(path, "wb").write(b"123")
    run(t.trainer, "exec", "--func=init", f"--in={path}", f"--out={out}", code=1, message="shorter than")


def test_exec(t):
    """A function on given tensors: the update of Adam's first step."""
    path, out = t.dir("update.safetensors"), t.dir("updated.safetensors")
    tensors = {"lr": ([], [0.5]), "t0": ([], [1.0]), "@w": ([256, 256], [1.0] * toy.W), "grad @w": ([256, 256], [-2.0] * toy.W)}
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + 4 * len(values)]}
        body += array.array("f", values).tobytes()
    header = json.dumps(header).encode()
    open(path, "wb").write(struct.pack("<Q", len(header)) + header + body)
    run(t.trainer, "exec", "--func=small.update", f"--in={path}", f"--out={out}")
    assert abs(safetensors(out)["grad_norm"][1][0] - 512) < 1e-3


def test_not_finite(t):
    bad, r = os.path.join(t.directory, "bad"), t.dir("bad_run")
    toy.pack(t.runtime, bad, t.directory, bad_step=7)
    run(bad, "train", "--data", t.data, "--out", r, "--checkpoint-every=3", code=1, message="step 8 (phase a): the loss is nan")
    assert max(os.listdir(os.path.join(r, "checkpoints"))) == "step-00000006" and lines(r)[-1]["step"] == 7


def test_full_disk(t):
    """A limit on the size of files stands in for a full disk: exit code 3, and the checkpoint before stays loadable."""
    r = t.dir("full")
    words = [t.trainer, "train", "--data", t.data, "--out", r, "--checkpoint-every=3"]
    run(*words, "--steps=3")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

    run(*words, "--resume", "--steps=6", code=3, message="cannot write", preexec_fn=limit)
    run(*words, "--resume", "--steps=6")
    reference = t.dir("not_full")
    run(*[reference if w == r else w for w in words], "--steps=6")
    same_tensors(reference, r, 6)


class Place:
    def __init__(self, runtime, directory):
        self.runtime, self.directory = os.path.abspath(runtime), directory
        self.trainer, self.data = os.path.join(directory, "toy"), os.path.join(directory, "data")
        toy.pack(self.runtime, self.trainer, directory)
        make_data(self.data)

    def dir(self, name):
        return os.path.join(self.directory, name)


with tempfile.TemporaryDirectory() as place:
    t = Place(sys.argv[1], place)
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            start = time.time()
            test(t)
            print(f"{name}: ok ({time.time() - start:.1f} s)", flush=True)
