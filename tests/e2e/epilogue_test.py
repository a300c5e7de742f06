"""bf16 on the device CUDA, on the simulator's libraries: epilogue_test.py BUILD LIBRARIES.

Products with their epilogues and products with kernels of their own are two ways to the same numbers: each is forced through all
phases of a small EvoMoE GPT, next to the f32 run of the CPU. Copies of the weights in bf16 follow the masters through updates, the
transition (diversify writes masters), --resume and evaluation. Gradients of a step of one micro-batch are bf16 too.
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
    make_data(t, 1500)
    for name, precision, target, accumulate in (("reference", "f32", "cpu", 2), ("trainer", "bf16", "cpu,cuda", 2),
                                                ("single", "bf16", "cuda", 1)):
        words = settings(**dict(SIZES, precision=precision, accumulate=accumulate))
        run(t.moec, "build", MODEL, *words, f"--target={target}", "-o", t.path(name))
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


def test_gradients_in_bf16(t):
    """One micro-batch a step: as f32 in two, and resumed bit for bit."""
    train(t, "narrow", trainer="single")
    as_reference(t, "narrow")
    shutil.copytree(t.path("narrow"), t.path("narrow_cut"))
    shutil.rmtree(checkpoint(t.path("narrow_cut"), LAST))
    train(t, "narrow_cut", "--resume", trainer="single")
    assert model(t, "narrow_cut") == model(t, "narrow")


def test_memory_by_kind(t):
    """What the run says it held is what the forecast said, copies in bf16 included."""
    for out, accumulate in (("chosen", 2), ("narrow", 1)):
        words = settings(**dict(SIZES, precision="bf16", accumulate=accumulate))
        forecast = json.loads(run(t.moec, "forecast", MODEL, *words, "--target=cuda", "--json"))
        held = json.loads(read(os.path.join(t.path(out), "memory.json")))["phases"]
        for phase in forecast["phases"]:
            said = phase["memory"]
            assert said["parameters_bf16"] > 0 and said["gradients"] == accumulate * said["parameters_bf16"]
            for kind in ("parameters", "gradients", "moments", "accumulators", "activations"):
                assert held[phase["name"]][kind] == said[kind], (out, phase["name"], kind, held[phase["name"]], said)


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
    run(t.moec, "build", out, *settings(**SIZES, precision="bf16"), "-o", t.path("odd"))
    losses = []
    for option in ("epilogue", "separate"):
        words = (t.path("odd"), "train", "--data", t.data, "--out", t.path("odd_" + option), "--eval-every=0", "--steps=1",
                 "--device=cuda")
        done = subprocess.run(words, env=cuda(MOEC_CUDA_OPTIONS=option), capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 0 and done.stderr.count("it runs without what it does besides") > 1, done
        losses.append(log(t.path("odd_" + option))[0]["loss"])
    assert abs(losses[0] - losses[1]) <= 0.01 * losses[1]


main(dict(globals()))
