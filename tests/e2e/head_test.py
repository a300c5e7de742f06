"""The output layer at once and in chunks of rows, from end to end: head_test.py BUILD [LIBRARIES].

A small model with label smoothing and two micro-batches a step trains and is evaluated. However its output layer is cut,
and where it is not moved at all, losses, perplexities and checkpoints are the same up to rounding: with tied weights, and
with weights of its own and a bias, whose gradient is one more sum over rows. The vocabulary divides by nothing, so that a
GPU's rows are padded. LIBRARIES is a folder with the simulator's libcuda, libnvrtc and libcublasLt.
"""
import json
import os
import re
import sys

from common import *

SCRIPT = """
local moec = require "moec"
local nn, op, optim = moec.nn, moec.op, moec.optim
local c = moec.config { seq = 16, batch = 8, accumulate = 2, d = 32, vocab = 515, tied = true, precision = "f32" }
local embed = nn.embedding { vocab = c.vocab, d = c.d }
return moec.model {
  name = "head", task = "lm", config = c, steps = 6, precision = c.precision,
  forward = function(b)
    local x = embed(b.tokens)
    x = nn.layer_norm(x + nn.ffn(nn.layer_norm(x), { hidden = 2 * c.d }))
    if c.tied then
      return nn.tied_logits(x, embed)
    end
    local w = moec.param("head.w", { c.vocab, c.d }, moec.init.normal(0.02))
    return op.matmul(x, w, { tb = true }) + moec.param("head.b", { c.vocab }, moec.init.zeros())
  end,
  loss = { label_smoothing = 0.1 },
  optimizer = optim.adam { lr = 1e-2, clip = 1 },
}
"""
WAYS = {"apart": ("--no-chunk_head",), "at_once": (), "chunks": ("--chunk_head:rows=16",)}
STEPS, NO_BF16 = 6, "has no bf16 products on this CPU"
LIBRARIES = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None


def prepare(t):
    make_data(t, 3000)
    write(t.path("head.lua"), SCRIPT)


def train(t, name, defines, ways, *words, **options):
    """Builds and trains; the lines of the log, the tensors of the last checkpoint."""
    trainer, out = t.path(f"trainer_{name}"), t.path(f"run_{name}")
    run(t.moec, "build", t.path("head.lua"), *(w for d in defines for w in ("-D", d)), *ways, "-o", trainer)
    run(trainer, "train", "--data", t.data, "--out", out, "--checkpoint-every=0", f"--eval-every={STEPS}", *words, **options)
    return log(out), tensors(os.path.join(checkpoint(out, STEPS), "model.safetensors"))


def close(a, b, tolerance):
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-3)


def agree(a, b, tolerance, weights):
    """Every loss, norm and perplexity; every weight, up to a share of the steps that Adam made."""
    assert len(a[0]) == len(b[0]) > STEPS and any("ppl" in line for line in a[0])
    for x, y in zip(a[0], b[0]):
        assert list(x) == list(y), (x, y)
        for key in x:
            assert not isinstance(x[key], float) or close(x[key], y[key], tolerance), (key, x, y)
    for name, (shape, values) in a[1].items():
        worst = max(abs(p - q) for p, q in zip(values, b[1][name][1]))
        assert worst <= weights, (name, worst)


def test_cuts_agree(t):
    for tied in ("true", "false"):
        runs = {way: train(t, f"{way}_{tied}", (f"tied={tied}",), words) for way, words in WAYS.items()}
        assert any(name == "head.b" and any(values) for name, (_, values) in runs["apart"][1].items()) == (tied == "false")
        agree(runs["at_once"], runs["apart"], 1e-5, 2e-4)
        agree(runs["chunks"], runs["apart"], 1e-5, 2e-4)
        assert runs["chunks"][0] != runs["apart"][0], "nothing was cut"


def test_device(t):
    """The same on a GPU, where rows are padded and kernels write the gradient over the scores."""
    if LIBRARIES is None:
        print("left out: no simulator")
        return
    reference = train(t, "on_cpu", ("tied=false",), ())
    env = environment(MOEC_CUDA_PATH=LIBRARIES, MOEC_CACHE=t.path("cache"))
    for way in ("at_once", "chunks"):
        agree(train(t, f"on_cuda_{way}", ("tied=false",), WAYS[way], "--device=cuda", env=env), reference, 2e-5, 5e-4)


def test_bf16(t):
    """Scores in bf16, whole and cut, beside scores in f32; on a GPU as on the CPU."""
    probe = t.path("trainer_bf16")
    run(t.moec, "build", t.path("head.lua"), "-D", "precision=bf16", "-o", probe)
    done = subprocess.run([probe, "train", "--data", t.data, "--out", t.path("probe"), "--steps=1"], capture_output=True,
                          text=True, env=environment())
    if done.returncode == 3 and NO_BF16 in done.stderr:
        print("left out: this CPU has no bf16 products")
        return
    defines = ("precision=bf16", "tied=false")
    wide = train(t, "scores_f32", defines, ("--precision:scores=f32",))
    narrow = train(t, "scores_bf16", defines, ())
    assert narrow[0][0]["loss"] != wide[0][0]["loss"], "scores are not bf16"
    agree(narrow, wide, 5e-3, 3e-2)
    agree(train(t, "chunks_bf16", defines, WAYS["chunks"]), narrow, 5e-3, 3e-2)
    if LIBRARIES is not None:
        env = environment(MOEC_CUDA_PATH=LIBRARIES, MOEC_CACHE=t.path("cache"))
        agree(train(t, "cuda_bf16", defines, WAYS["chunks"], "--device=cuda", env=env), narrow, 5e-3, 3e-2)


def peak(t, *words):
    """The peak of the training function, as forecast for a large vocabulary, in bytes per token and word."""
    report = json.loads(run(t.moec, "forecast", t.path("head.lua"), "-D", "vocab=20000", "-D", "tied=false", "--json", *words))
    functions = {f["function"]: f for phase in report["phases"] for f in phase["memory"]["functions"]}
    return functions["train.train"]["live"] / (64 * 20000)


def test_memory(t):
    """Of f32 scores 4 bytes, of their gradient nothing more; in bf16 half; of a quarter of the rows a quarter."""
    for target in (("--target=cpu",), ("--target=cuda",)):
        bf16 = target + ("-D", "precision=bf16")
        whole, half = peak(t, *target), peak(t, *bf16)
        assert 4 < whole < 4.5, (target, whole)
        assert peak(t, *target, *WAYS["chunks"]) < whole - 2.9, target
        assert half < peak(t, *bf16, "--precision:scores=f32") - 1.9, (target, half)
        assert peak(t, *bf16, *WAYS["chunks"]) < half - 1.4, target


def test_ledger(t):
    """moec explain says what was done, what else was priced, and what stood in the way."""
    text = run(t.moec, "explain", t.path("head.lua"), "--chunk_head:rows=16")
    for say in (r"chunk_head +@train\.train", r"chosen: +4 chunks of 16 rows \(32\.96 kB", r"instead: +2 chunks of 32 rows",
                r"instead: +8 chunks of 8 rows"):
        assert re.search(say, text), (say, text)


main(dict(globals()))
