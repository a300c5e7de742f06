"""Runs on the device CUDA from end to end: cuda_test.py BUILD LIBRARIES. LIBRARIES is a folder with the simulator's
libcuda, libnvrtc and libcublasLt, so that no GPU is needed. A small EvoMoE GPT through all phases, two micro-batches a step.

What is promised: the losses of the CPU target up to rounding; --resume bit for bit, also with chosen algorithms; what
is missing or too small is said, with exit code 3 and nothing on disk.
"""
import json
import os
import sys
import shutil
import subprocess

from common import *

# The gate selects two experts of each token, whatever bound it states.
BOUND = """
local moec = require "moec"
local nn, op, optim = moec.nn, moec.op, moec.optim
local c = moec.config { seq = 16, batch = 4, d = 16, bound = 1, vocab = 256 }
local embed = nn.embedding { vocab = c.vocab, d = c.d }
local function top2(x, g)
  local w = moec.param("w", { g.experts, c.d }, moec.init.normal(0.02))
  return op.softmax(op.matmul(x, w, { tb = true })), op.topk_mask(op.matmul(x, w, { tb = true }), 2), { k = c.bound }
end
return moec.model {
  name = "bound", task = "lm", config = c,
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 3, hidden = 16, ids = b.tokens, gate = top2 }), embed)
  end,
  steps = 2, optimizer = optim.adam { lr = 1e-3 }, phases = { { name = "all", experts = 3 } },
}
"""

MODEL = os.path.join(ROOT, "models", "gpt_evomoe.lua")
SMALL = (MODEL, *settings(size="tiny", seq=16, batch=4, accumulate=2, d=32, heads=2, experts=4, warmup=2, shared_steps=3,
                          anneal_steps=3, dense_steps=3, steps=9))
LIBRARIES = os.path.abspath(sys.argv[2])


def cuda(**changes):
    words = dict(MOEC_CUDA_PATH=LIBRARIES, MOEC_CACHE=CACHE)
    words.update(changes)
    return environment(**words)


def prepare(t):
    global CACHE
    CACHE = t.path("cache")
    make_data(t, 1500)
    t.trainer, t.whole = t.path("trainer"), t.path("whole")
    run(t.moec, "build", *SMALL, "-o", t.trainer)


def train(t, out, *words, **options):
    options.setdefault("env", cuda())
    return run(t.trainer, "train", "--data", t.data, "--out", out, "--eval-every=0", "--checkpoint-every=2", "--probe-every=2", *words, **options)


def close(a, b, tolerance):
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def test_as_the_cpu(t):
    """Without --device the GPU that answers is taken. Every loss, norm, perplexity and load is the CPU's up to rounding."""
    said, on_cpu = train(t, t.whole), t.path("on_cpu")
    assert "cuda, " in said and "NVRTC" in said and "cuBLASLt" in said and "kernels compiled in" in said, said
    train(t, on_cpu, "--device=cpu")
    mine, reference = log(t.whole), log(on_cpu)
    assert len(mine) == len(reference) > 9
    for a, b in zip(mine, reference):
        assert list(a) == list(b) and (a["step"], a["phase"]) == (b["step"], b["phase"])
        for key in a:
            if isinstance(a[key], float):
                assert close(a[key], b[key], 2e-5), (key, a, b)
    for a, b in zip(log(t.whole, "routing.jsonl"), log(on_cpu, "routing.jsonl"), strict=True):
        assert a["load"] == b["load"] and list(a["layers"]) == list(b["layers"]) == list(a["load"])
        for layer, shown in a["layers"].items():
            for key, value in shown.items():
                assert abs(value - b["layers"][layer][key]) <= 2e-5, (key, a, b)
    probes = list(zip(log(t.whole, "probe.jsonl"), log(on_cpu, "probe.jsonl"), strict=True))
    assert probes[0][0] == probes[0][1] and [a["step"] for a, _ in probes[1:]] == [3, 4, 6, 6, 8, 9]
    for a, b in probes[1:]:
        assert (a["phase"], a["expert"], a["experts"]) == (b["phase"], b["expert"], b["experts"])
        assert all(close(x, y, 2e-5) for x, y in zip(a["loss"], b["loss"], strict=True)), (a["loss"], b["loss"])
    state = json.loads(read(os.path.join(checkpoint(t.whole, 9), "state.json")))
    assert state["device"] == "cuda" and "cuBLASLt" in state["library"], state
    choices = json.loads(read(os.path.join(t.whole, "tuning.json")))["choices"]
    products = [c for c in choices if c["kind"] == "product"]
    assert products and len({p["shape"] for p in products}) == len(products)
    assert all(p["candidates"] > 1 and len(p["algorithm"]) == 128 for p in products), products


def test_resume(t):
    """From a checkpoint in a phase and from one at its end: the bits of the run that was not interrupted."""
    for last in (2, 6):
        cut = t.path(f"cut_{last}")
        shutil.copytree(t.whole, cut)
        for step in steps_of(cut):
            if step > last:
                shutil.rmtree(checkpoint(cut, step))
        said = train(t, cut, "--resume")
        assert "0 kernels compiled" in said and "warning" not in said, said
        same_run(t.whole, cut, steps_of(t.whole))


def test_running_ahead(t):
    """On a device that does everything as late as it may, the host is always one update ahead: the same bits."""
    late = t.path("late")
    train(t, late, "--checkpoint-every=0", "--probe-every=0", "--tuning=" + os.path.join(t.whole, "tuning.json"),
          env=cuda(MOEC_SIMULATOR_DELAYED="1"))
    same_run(t.whole, late, (3, 6, 9))


def test_other_device(t):
    """A run may go on elsewhere, which it says."""
    moved = t.path("moved")
    shutil.copytree(t.whole, moved)
    for step in steps_of(moved)[1:]:
        shutil.rmtree(checkpoint(moved, step))
    said = train(t, moved, "--steps=3", "--resume", "--device=cpu")
    assert "warning: the checkpoint was written with device cuda, this is cpu" in said, said
    assert close(log(moved)[2]["loss"], log(t.whole)[2]["loss"], 2e-5)


def test_eval_and_sample(t):
    results = {}
    for device in ("cuda", "cpu"):
        text = run(t.trainer, "eval", "--data", t.data, "--checkpoint", t.whole, f"--device={device}", env=cuda())
        results[device] = [json.loads(line) for line in text.splitlines()]
        results[device].append(run(t.trainer, "sample", "--checkpoint", t.whole, "--prompt", "ba", "-n", "8", "--temperature=0",
                                   f"--device={device}", env=cuda()))
    for a, b in zip(results["cuda"][:-1], results["cpu"][:-1]):
        assert a["split"] == b["split"] and close(a["ppl"], b["ppl"], 2e-5), (a, b)
    assert results["cuda"][-1] == results["cpu"][-1]


def test_tuning_file(t):
    """Another run's choices are taken, of another GPU's it is said that they are not; an algorithm that the library does not know is an
    error."""
    tuning, out = t.path("tuning.json"), t.path("tuned")
    shutil.copy(os.path.join(t.whole, "tuning.json"), tuning)
    train(t, out, "--steps=2", f"--tuning={tuning}")
    same = read(os.path.join(out, "tuning.json"))
    assert same == read(tuning)
    document = json.loads(same)
    for choice in document["choices"]:
        if choice["kind"] == "product":
            choice["algorithm"] = "f" * 128
    write(tuning, json.dumps(document))
    train(t, t.path("untuned"), "--steps=2", f"--tuning={tuning}", code=1, says="has no such algorithm for the product")
    timed = [choice for choice in document["choices"] if choice["kind"] != "crossover"]
    for choice in timed:
        choice["gpu"] += " II"
    write(tuning, json.dumps(document))
    said = train(t, t.path("elsewhere"), "--steps=1", f"--tuning={tuning}")
    assert f"tuning: {len(timed)} of {len(timed)} choices are of another GPU or library ({timed[0]['gpu']}, " in said, said
    assert "are of another GPU" not in train(t, t.path("again"), "--steps=1", "--tuning=" + os.path.join(t.whole, "tuning.json"))


def test_explain_run(t):
    """moec explain --run of a run on the GPU: the GPU's forecast, and what was timed there."""
    found = json.loads(run(t.moec, "explain", *SMALL, "--json", f"--run={t.whole}"))["run"]
    forecast = json.loads(run(t.moec, "forecast", *SMALL, "--json", "--target=cuda"))
    timed = [c for c in json.loads(read(os.path.join(t.whole, "tuning.json")))["choices"] if c["kind"] != "crossover"]
    assert found["machine"].startswith("cuda, ") and len(found["choices"]) == len(timed) > 9
    assert [c["among"] for c in found["choices"]] == [c["shape"] for c in timed]
    for phase, expected in zip(found["phases"], forecast["phases"], strict=True):
        assert phase["predicted"]["memory_bytes"] == max(expected["memory"]["total"], expected["memory"]["entry"]), phase["name"]
        assert 0 <= phase["memory_bytes"] - phase["predicted"]["memory_bytes"] < 34e6, phase  # the workspace of products, 32 MiB
    text = run(t.moec, "explain", *SMALL, f"--run={t.whole}")
    assert f"measured in {t.whole}: cuda, " in text and "timed: the algorithms of" in text, text


def test_info(t):
    for words, changes, says in (((), {}, "device      cuda: "), (("--device=cpu",), {}, "device      cpu\n"),
                                 ((), {"MOEC_CUDA_PATH": "/nowhere"}, "device      cpu, since for --device=cuda libcuda.so.1 is not in"),
                                 (("--device=cuda",), {"MOEC_CUDA_PATH": "/nowhere"}, "device      cuda, which cannot run here: libcuda")):
        assert says in run(t.trainer, "info", *words, env=cuda(**changes)), says
    assert run(t.trainer, "info", "--plan", env=cuda()).startswith("moec-plan 1 target=cuda ")


def test_profile(t):
    said = train(t, t.path("profiled"), "--steps=2", "--profile")
    assert "shared.train: 4 runs" in said and "gemm m=" in said and "GFLOP/s" in said, said


def test_damaged_cache(t):
    """Noticed, said, mended; with the same algorithms of products the losses do not change."""
    entries = [os.path.join(CACHE, name) for name in sorted(os.listdir(CACHE))]
    for path in entries[:2]:
        data = read(path)
        write(path, data[:-1] + bytes([data[-1] ^ 1]))
    done = subprocess.run([t.trainer, "train", "--data", t.data, "--out", t.path("mended"), "--steps=2",
                           "--tuning=" + os.path.join(t.whole, "tuning.json")],
                          env=cuda(), capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and done.stderr.count("damaged: this kernel is compiled anew") == 2, done.stderr
    assert "2 kernels compiled" in done.stdout, done.stdout
    assert log(t.path("mended"))[0] == log(t.whole)[0]


def test_what_is_missing(t):
    words = ("train", "--data", t.data, "--out", t.path("never"), "--device=cuda")
    run(t.trainer, *words, env=cuda(MOEC_CUDA_PATH="/nowhere"), code=3, says="libcuda.so.1 is not in /nowhere (it comes with")
    for name, others in (("libnvrtc.so.13", ("libcuda.so.1", "libcublasLt.so.13")),
                         ("libcublasLt.so.13", ("libcuda.so.1", "libnvrtc.so.13"))):
        some = t.path("without_" + name)
        os.makedirs(some)
        for other in others:
            os.symlink(os.path.join(LIBRARIES, other), os.path.join(some, other))
        run(t.trainer, *words, env=cuda(MOEC_CUDA_PATH=some, MOEC_CACHE=t.path("empty")), code=3, says=(name, "is not in", "toolkit"))
    run(t.trainer, *words, env=cuda(MOEC_SIMULATOR_DRIVER="12080"), code=3, says="driver for CUDA 12.8: one for CUDA 13.0 or newer is needed")
    run(t.trainer, *words, env=cuda(MOEC_SIMULATOR_MEMORY="32"), code=3, lines=7,
        says=("not enough memory on the GPU: the workspace of products need 0.034 GB", "the forecast, in GB", "dense", "top1", "accumulate=N", "--memory="))
    run(t.trainer, *words, env=cuda(MOEC_SIMULATOR_MEMORY="34"), code=3, lines=7,
        says=("not enough memory on the GPU: the transition into phase dense needs", "beside the activations"))
    only_cpu = t.path("only_cpu")
    run(t.moec, "build", *SMALL, "--target=cpu", "-o", only_cpu)
    run(only_cpu, *words, env=cuda(), code=3, says="--device=cuda: this trainer carries no plan for cuda, only for cpu")
    assert not os.path.exists(t.path("never"))


def test_more_pairs_than_the_bound(t):
    """What a kernel finds wrong in the user's model has the words of the CPU target."""
    script, trainer, messages = t.path("bound.lua"), t.path("bound"), []
    write(script, BOUND)
    run(t.moec, "build", script, "-o", trainer)
    for device in ("cuda", "cpu"):
        words = [trainer, "train", "--data", t.data, "--out", t.path("bound_" + device), f"--device={device}"]
        done = subprocess.run(words, env=cuda(), capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 1, done
        messages.append(done.stderr)
    assert messages[0] == messages[1] and "the gate selects 2 experts for token 0 of" in messages[0], messages


main(dict(globals()))
