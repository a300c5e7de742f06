"""bf16 compute with f32 masters, from end to end: precision_test.py BUILD.

models/gpt_evomoe.lua at size=tiny through all its phases in f32 and in bf16: the losses agree, checkpoints are f32 and
fit both trainers, resume is bit for bit. A CPU without bf16 products gets one message and exit code 3.
"""
import os
import subprocess
import sys

from common import *

MODEL = os.path.join(ROOT, "models", "gpt_evomoe.lua")
SIZES = ("size=tiny", "steps=150", "shared_steps=50", "anneal_steps=40", "dense_steps=40")
LAST, MEAN_OF, AGREE = 150, 50, 0.01
NO_BF16 = 'has no bf16 products on this CPU: build the model with precision = "f32"'


def prepare(t):
    make_text(t.path("text"), 20000)
    t.data = t.path("data")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=spm:512")
    for precision in ("f32", "bf16"):
        defines = [word for size in SIZES + (f"precision={precision}",) for word in ("-D", size)]
        run(t.moec, "build", MODEL, *defines, "-o", t.path(precision))


def train(t, precision, out, *words, **options):
    return run(t.path(precision), "train", "--data", t.data, "--out", t.path(out), "--eval-every=0", *words, **options)


def prepare_runs(t):
    probe = subprocess.run([t.path("bf16"), "train", "--data", t.data, "--out", t.path("probe"), "--steps", "1"],
                           capture_output=True, text=True, env=environment())
    if probe.returncode == 3 and NO_BF16 in probe.stderr:
        print("left out: this CPU has no bf16 products")
        sys.exit(0)
    train(t, "f32", "run_f32", "--checkpoint-every=0")
    train(t, "bf16", "run_bf16", "--checkpoint-every=60")


def mean_loss(t, out):
    losses = [line["loss"] for line in log(t.path(out)) if "split" not in line]
    assert len(losses) == LAST
    return sum(losses[-MEAN_OF:]) / MEAN_OF


def test_losses_agree(t):
    wide, narrow = mean_loss(t, "run_f32"), mean_loss(t, "run_bf16")
    assert abs(narrow / wide - 1) < AGREE, (wide, narrow)
    assert log(t.path("run_f32"))[0]["loss"] != log(t.path("run_bf16"))[0]["loss"]


def test_masters_are_f32(t):
    model = tensors(os.path.join(checkpoint(t.path("run_bf16"), LAST), "model.safetensors"))
    assert all(values.typecode == "f" for _, values in model.values())
    assert any(int.from_bytes(bytes(model["h1.ffn.w1"][1][i:i + 1].tobytes()), "little") & 0xffff for i in range(64)), "rounded"


def test_resume(t):
    train(t, "bf16", "parts", "--checkpoint-every=60", "--steps", "60")
    train(t, "bf16", "parts", "--checkpoint-every=60", "--resume")
    for step in (60, LAST):
        for name in ("model.safetensors", "optimizer.safetensors"):
            a, b = (read(os.path.join(checkpoint(t.path(out), step), name)) for out in ("run_bf16", "parts"))
            assert a == b, (step, name)


def test_one_for_the_other(t):
    """A checkpoint fits the trainer of the other precision, whose training is another run."""
    ppl = [float(run(t.path(precision), "eval", "--data", t.data, "--checkpoint", t.path("run_bf16"), "--split=valid")
                 .split('"ppl":')[1].split(",")[0]) for precision in ("f32", "bf16")]
    assert abs(ppl[0] / ppl[1] - 1) < AGREE, ppl
    train(t, "f32", "run_bf16", "--resume", code=1, says="written by a trainer of another model")


def test_without_bf16(t):
    train(t, "bf16", "old", "--steps", "1", code=3, says=NO_BF16, env=environment(DNNL_MAX_CPU_ISA="AVX2", ONEDNN_MAX_CPU_ISA="AVX2"))


main(dict(globals()))
