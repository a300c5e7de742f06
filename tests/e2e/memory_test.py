"""What moec forecast says of memory against what a trainer then holds: memory_test.py BUILD. A model of more than 1 GB.

The trainer notes, at the end of every phase, the most that its arenas held. Routing is worst at first (threshold 0: every
token selects every expert) and balanced to one expert per token at the end (Top-1).
"""
import json
import os
import re
import resource

from common import *

THREE_STEPS = ["-D", "size=tiny", "-D", "threshold=0", "-D", "shared_steps=1", "-D", "anneal_steps=1",
               "-D", "dense_steps=1", "-D", "steps=3", "-D", "warmup=1"]
LARGE = [*THREE_STEPS, "-D", "d=256", "-D", "vocab=2048", "-D", "batch=192", "-D", "experts=8"]
DEEP = [*THREE_STEPS, "-D", "layers=6", "-D", "batch=16"]
MODEL = os.path.join(ROOT, "models", "gpt_evomoe.lua")
GIGABYTE = 1e9


def phases_of(t, *words):
    """By phase: bytes of a run, its transition included."""
    forecast = json.loads(run(t.moec, "forecast", MODEL, *words, "--json"))
    return {phase["name"]: max(phase["memory"]["total"], phase["memory"]["entry"]) for phase in forecast["phases"]}


def held_by(t, name, *words):
    """By phase: bytes at most in arenas; and the most the whole process ever had in memory."""
    trainer, out = t.path(name), t.path(name + "-run")
    run(t.moec, "build", MODEL, *words, "-o", trainer)
    run(trainer, "train", "--data", t.data, "--out", out, "--eval-every=0", "--checkpoint-every=0")
    resident = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    notes = re.findall(r"step \d+  (\w+)  memory (\d+) bytes at most", open(os.path.join(out, "log.txt")).read())
    lines = [line for line in log(out) if "split" not in line]
    return {phase: int(held) for phase, held in notes}, resident, {line["phase"]: line for line in lines}


def prepare(t):
    make_text(t.path("text"), 20000)
    t.data = t.path("data")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=spm:512")


def test_forecast(t):
    forecast = phases_of(t, *LARGE)
    held, resident, lines = held_by(t, "large", *LARGE)
    assert lines["dense"]["experts_per_token"] == 8 and lines["top1"]["experts_per_token"] == 1, lines
    for phase, bytes_held in held.items():
        print(f"  {phase}: forecast {forecast[phase] / 1e6:.1f} MB, held {bytes_held / 1e6:.1f} MB")
        assert bytes_held > GIGABYTE and abs(forecast[phase] / bytes_held - 1) < 0.05, (phase, forecast, held)
    peak = max(forecast.values())
    print(f"  peak: forecast {peak / 1e6:.1f} MB, resident {resident / 1e6:.1f} MB")
    assert set(held) == {"shared", "dense", "top1"} and resident < 1.05 * peak, (resident, peak)


def test_budget(t):
    """--memory: more runs again until the forecast fits; the trainer then holds no more, and computes the same."""
    usual = phases_of(t, *DEEP)
    budget = int(0.8 * max(usual.values())) // 1024
    forecast = phases_of(t, *DEEP, f"--memory={budget}K")
    assert max(forecast.values()) <= 1024 * budget, (usual, forecast, budget)
    _, _, plain = held_by(t, "plain", *DEEP)
    held, _, tight = held_by(t, "tight", *DEEP, f"--memory={budget}K")
    assert max(held.values()) <= 1.05 * 1024 * budget, (held, budget)
    for phase, line in plain.items():
        assert abs(line["loss"] - tight[phase]["loss"]) < 1e-5 * line["loss"], (line, tight[phase])
    run(t.moec, "forecast", MODEL, *DEEP, "--memory=10M", code=1, says=("--memory allows 10.0 MiB", "too little"))


main(dict(globals()))
