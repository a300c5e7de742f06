"""bf16 on the device CUDA, on the simulator's libraries: epilogue_test.py BUILD LIBRARIES.

Products with their epilogues and products with kernels of their own are two ways to the same numbers: each is forced through all
phases of a small EvoMoE GPT, next to the f32 run of the CPU. Copies of the weights in bf16 follow the masters through updates, the
transition (diversify writes masters), --resume and evaluation.
"""
import json
import os
import shutil
import subprocess
import sys

from common import *

MODEL = os.path.join(ROOT, "models", "gpt_evomoe.lua")
SIZES = dict(size="tiny", seq=16, batch=4, accumulate=2, d=32, heads=2, experts=4, warmup=2, shared_steps=3, anneal_steps=3,
             dense_steps=3, steps=9)
LIBRARIES = os.path.abspath(sys.argv[2])
LAST = 9


def cuda(**changes):
    return environment(MOEC_CUDA_PATH=LIBRARIES, MOEC_CACHE=CACHE, **changes)


def prepare(t):
    global CACHE
    CACHE = t.path("cache")
    make_text(t.path("text"), 1500)
    t.data = t.path("data")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=bytes")
    for name, precision, target in (("reference", "f32", "cpu"), ("trainer", "bf16", "cpu,cuda")):
        defines = [word for key, value in dict(SIZES, precision=precision).items() for word in ("-D", f"{key}={value}")]
        run(t.moec, "build", MODEL, *defines, f"--target={target}", "-o", t.path(name))
    train(t, "on_cpu", trainer="reference", device="cpu")
    for option in ("epilogue", "separate"):
        train(t, option, env=cuda(MOEC_CUDA_OPTIONS=option))
    train(t, "chosen")


def train(t, out, *words, trainer="trainer", device="cuda", **options):
    options.setdefault("env", cuda())
    return run(t.path(trainer), "train", "--data", t.data, "--out", t.path(out), "--eval-every=0", "--checkpoint-every=2",
               f"--device={device}", *words, **options)


def as_reference(t, out):
    mine, reference = log(t.path(out)), log(t.path("on_cpu"))
    assert len(mine) == len(reference) > LAST
    for a, b in zip(mine, reference):
        assert (a["step"], a["phase"]) == (b["step"], b["phase"])
        for key, tolerance in (("loss", 0.01), ("ce", 0.01), ("ppl", 0.03), ("grad_norm", 0.05)):
            if key in b:
                assert abs(a[key] - b[key]) <= tolerance * abs(b[key]), (out, key, a, b)


def model(t, out, step=LAST):
    return read(os.path.join(checkpoint(t.path(out), step), "model.safetensors"))


def test_every_way(t):
    """Each agrees with f32, and they are not the same: bf16 is rounded at other places."""
    for out in ("epilogue", "separate", "chosen"):
        as_reference(t, out)
    assert model(t, "epilogue") != model(t, "separate")


def test_choice_is_kept(t):
    """What was faster stands in the tuning file, once for equal pairs; another run takes it from there."""
    def pairs(out):
        choices = json.loads(read(os.path.join(t.path(out), "tuning.json")))["choices"]
        return {c["shape"]: c["algorithm"] for c in choices if c["kind"] == "kernel" and "epilogue: gemm" in c["shape"]}
    chosen = pairs("chosen")
    assert len(chosen) > 4 and set(chosen.values()) <= {"epilogue", "separate"}, chosen
    assert not pairs("epilogue") and not pairs("separate")  # asked for, so nothing was timed
    train(t, "again", "--tuning=" + os.path.join(t.path("chosen"), "tuning.json"))
    assert pairs("again") == chosen and model(t, "again") == model(t, "chosen")


def test_resume(t):
    """Bit for bit, in a phase and across a transition: copies of weights are made anew from what was read."""
    for last in (2, 6):
        shutil.copytree(t.path("chosen"), t.path(f"cut_{last}"))
        for step in steps_of(t.path(f"cut_{last}")):
            if step > last:
                shutil.rmtree(checkpoint(t.path(f"cut_{last}"), step))
        train(t, f"cut_{last}", "--resume")
        assert model(t, f"cut_{last}") == model(t, "chosen") != model(t, "chosen", 2)


def test_evaluation(t):
    """Of a checkpoint that was just read, with the copies made for it."""
    ppl = [json.loads(run(t.path(trainer), "eval", "--data", t.data, "--checkpoint", t.path("chosen"), "--split=valid",
                          f"--device={device}", env=cuda()).splitlines()[0])["ppl"]
           for trainer, device in (("reference", "cpu"), ("trainer", "cuda"))]
    assert abs(ppl[0] - ppl[1]) <= 0.02 * ppl[0], ppl


def test_no_epilogue_for_odd_rows(t):
    """GELU's input in rows that the library has no kernel for: the other way runs, whatever is asked for."""
    out = t.path("odd_model.lua")
    write(out, read(MODEL).decode().replace("hidden = 4 * c.d", "hidden = 4 * c.d + 4"))
    defines = [word for key, value in dict(SIZES, precision="bf16").items() for word in ("-D", f"{key}={value}")]
    run(t.moec, "build", out, *defines, "-o", t.path("odd"))
    losses = []
    for option in ("epilogue", "separate"):
        words = (t.path("odd"), "train", "--data", t.data, "--out", t.path("odd_" + option), "--eval-every=0", "--steps=1",
                 "--device=cuda")
        done = subprocess.run(words, env=cuda(MOEC_CUDA_OPTIONS=option), capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 0 and done.stderr.count("it runs without what it does besides") > 1, done
        losses.append(log(t.path("odd_" + option))[0]["loss"])
    assert abs(losses[0] - losses[1]) <= 0.01 * losses[1]


main(dict(globals()))
