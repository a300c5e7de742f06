"""The two training functions of a phase: versions_test.py BUILD. models/gpt_evomoe.lua at size=tiny, whose dense phase
starts with all experts and grows sparse.

Which version an update runs follows from the experts per token of the update before, so a resumed run runs the same
ones; where the versions cost the same is priced, given, or timed once, and stands in tuning.json.
"""
import json
import os
import shutil

from common import *

CROSSOVER, EXPERTS, FIRST = 3.4, 4, 10  # the dense phase has the updates behind FIRST
MODEL = (os.path.join(ROOT, "models", "gpt_evomoe.lua"), "-D", "size=tiny", "-D", "anneal_steps=20", "-D",
         "dense_steps=20", "-D", "threshold=0.02", "-D", "steps=32")


def prepare(t):
    make_text(t.path("text"), 6000)
    t.data, t.trainer, t.packed, t.whole = t.path("data"), t.path("trainer"), t.path("packed"), t.path("whole")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=spm:512")
    run(t.moec, "build", *MODEL, f"--dense_experts:crossover={CROSSOVER}", "-o", t.trainer)
    run(t.moec, "build", *MODEL, "--no-dense_experts", "-o", t.packed)


def train(t, out, *words, trainer=None, code=0, says=()):
    return run(trainer or t.trainer, "train", "--data", t.data, "--out", out, "--eval-every=0", "--checkpoint-every=1",
               *words, code=code, says=says)


def updates(out):
    return [line for line in log(out) if "split" not in line]


def tuning(out):
    return json.loads(read(os.path.join(out, "tuning.json")))["choices"]


def expected_versions(lines, crossover):
    versions, before = [], None
    for line in lines:
        if line["phase"] != "dense":
            versions.append("single")
            before = None
            continue
        was_wide = before is not None and versions[-1] == "wide"
        wide = before is not None and (before > 1.05 * crossover or (was_wide and before >= 0.95 * crossover))
        versions.append("wide" if wide else "packed")
        before = line["experts_per_token"]
    return versions


def test_choice(t):
    train(t, t.whole)
    lines = updates(t.whole)
    versions = [line["version"] for line in lines]
    assert versions == expected_versions(lines, CROSSOVER), versions
    dense = [version for version, line in zip(versions, lines) if line["phase"] == "dense"]
    t.switch = FIRST + dense.index("packed", 1)  # updates done when the first packed one behind wide ones begins
    assert dense[0] == "packed" and dense[1] == "wide" and t.switch > FIRST + 2, dense
    assert tuning(t.whole) == [{"kind": "crossover", "phase": "dense", "experts_per_token": CROSSOVER, "by": "cost model"}]
    wide, packed = (next(line for line in lines[FIRST + 1:] if line["version"] == kind) for kind in ("wide", "packed"))
    before = {line["step"]: line["flops"] for line in lines}
    work = [line["flops"] - before[line["step"] - 1] for line in (wide, packed)]
    assert work[0] > work[1], work  # wide runs all pairs, packed those that are selected


def test_same_training(t):
    """Packed alone, the same model learns the same, to rounding."""
    alone = t.path("alone")
    train(t, alone, trainer=t.packed)
    for a, b in zip(updates(t.whole), updates(alone)):
        assert b["version"] == "single" and abs(a["loss"] - b["loss"]) < 1e-3 * b["loss"], (a, b)
        assert abs(a["experts_per_token"] - b["experts_per_token"]) < 0.02 * EXPERTS, (a, b)
    assert tuning(alone) == []


def test_resume_across_the_switch(t):
    for stop in (FIRST, FIRST + 1, FIRST + 2, t.switch - 1, t.switch, t.switch + 1):
        out = t.path(f"stop{stop}")
        train(t, out, f"--steps={stop}")
        train(t, out, "--resume")
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert read(os.path.join(checkpoint(out, 32), name)) == read(os.path.join(checkpoint(t.whole, 32), name)), stop
        assert updates(out) == updates(t.whole), stop


def test_tune(t):
    """Timed when the phase begins; kept by a resume, also one that begins the phase again, and by another run."""
    out, other = t.path("tuned"), t.path("other")
    said = train(t, out, "--tune", f"--steps={FIRST + 3}")
    assert f"step {FIRST}  dense  timed: packed " in said, said
    choice = tuning(out)[0]
    assert choice["by"] == "timing" and all(choice[name]["seconds"] > 0 for name in ("packed", "thin", "wide")), choice
    assert 0.4 < choice["thin"]["experts_per_token"] / choice["packed"]["experts_per_token"] < 0.6, choice
    lines = updates(out)
    assert [line["version"] for line in lines] == expected_versions(lines, choice["experts_per_token"])
    assert [line["loss"] for line in lines[:FIRST + 1]] == [line["loss"] for line in updates(t.whole)[:FIRST + 1]]
    for step in range(FIRST + 1, FIRST + 4):
        shutil.rmtree(checkpoint(out, step))
    assert "timed" not in train(t, out, "--tune", "--resume", f"--steps={FIRST + 3}")
    assert tuning(out) == [choice] and updates(out) == lines
    assert "timed" not in train(t, other, "--tune", f"--tuning={out}/tuning.json", f"--steps={FIRST + 3}")
    assert tuning(other) == [choice] and updates(other) == lines


def test_errors(t):
    wrong = t.path("wrong.json")
    train(t, t.path("none"), f"--tuning={wrong}", code=1, says=("wrong.json",))
    for text, says in (("{", "damaged"), ('{"format":2}', "another format"), ('{"format":1}', "no list 'choices'"),
                       ('{"format":1,"choices":[{"kind":"crossover","phase":"dense","by":"timing"}]}', "experts_per_token")):
        write(wrong, text)
        train(t, t.path("none"), f"--tuning={wrong}", code=1, says=("wrong.json", says))
    train(t, t.whole, "--resume", f"--tuning={wrong}", code=2, says="--tuning is for a new run")


main(globals())
