"""moec compare: tables recomputed from the runs' logs, kills, budgets, the search, failures and mistakes.

    compare_test.py BUILD
"""
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
from common import ROOT, checkpoint, environment, log, main, make_text, read, run, same_run, write

MODELS = os.path.join(ROOT, "models")
COMMON = 'config = { size = "tiny", batch = 4, seq = 32, d = 32, heads = 2 }'


def spec(t, name, body):
    """The first line of the body is line 3."""
    path = t.path(name + ".lua")
    write(path, f'local moec = require "moec"\nreturn moec.compare {{\n{body}\n}}\n')
    return path


def model(name, more=""):
    return f'{{ name = "{name}", model = "{MODELS}/gpt_{name}.lua"{more} }}'


def compare(t, path, out, *words, **options):
    return run(t.moec, "compare", path, "--out", t.path(out), "--device=cpu", *words, **options)


def lines_of(path):
    return [json.loads(line) for line in open(path)]


def table(t, out):
    rows = json.loads(read(t.path(out, "table.json")))["rows"]
    return {(row["run"], row["setting"]): row for row in rows}


def curve(directory):
    """(FLOPs so far, perplexity) of the evaluations on valid."""
    points, flops = [], 0
    for line in lines_of(os.path.join(directory, "metrics.jsonl")):
        if "split" not in line:
            flops = line["flops"]
        elif line["split"] == "valid":
            points.append((flops, line["ppl"]))
    return points, flops


def near(a, b):
    assert math.isclose(a, b, rel_tol=1e-12), (a, b)


def check_table(t, out, baseline, seeds):
    """Every number of every row from the logs."""
    bases = [curve(t.path(out, baseline, "base", f"seed-{seed}"))[0] for seed in seeds]
    rows = table(t, out)
    for (name, setting), row in rows.items():
        directories = [t.path(out, name, setting, f"seed-{seed}") for seed in seeds]
        curves = [curve(directory) for directory in directories]
        assert row["seeds"] == row["done"] == len(seeds), row
        for split in ("valid", "test"):
            values = [line["ppl"] for d in directories for line in lines_of(os.path.join(d, "evaluation.jsonl"))
                      if line["split"] == split]
            near(row[split]["mean"], statistics.mean(values))
            near(row[split]["spread"], statistics.stdev(values))
        near(row["valid"]["mean"], statistics.mean(points[-1][1] for points, _ in curves))
        near(row["flops"]["mean"], statistics.mean(flops for _, flops in curves))
        reached = [next((flops for flops, ppl in points if ppl <= min(p for _, p in base)), None)
                   for (points, _), base in zip(curves, bases)]
        assert row["reached"] == sum(flops is not None for flops in reached), (row, reached)
        if None in reached:
            assert row["flops_to_baseline"]["mean"] is None and row["speedup"] is None, row
        else:
            near(row["flops_to_baseline"]["mean"], statistics.mean(reached))
            near(row["speedup"], rows[baseline, "base"]["flops_to_baseline"]["mean"] / statistics.mean(reached))
    return rows


def prepare(t):
    make_text(t.path("text.txt"), 20000)
    run(t.moec, "data", t.path("text.txt"), "-o", t.path("data"), "--tokenizer=bytes")


THREE = f"""
  data = "data", {COMMON}, seeds = {{ 1, 2 }}, budget = {{ steps = 40 }}, baseline = "dense",
  sweep = {{ experts = {{ 2, 4 }} }}, eval_every = 10, checkpoint_every = 10, probe_every = 15,
  runs = {{ {model("dense")}, {model("switch")},
    {model("evomoe", ", shares = { shared_steps = 0.3, anneal_steps = 0.2, dense_steps = 0.2 }")} }},"""


def kill_in_the_middle(t, path):
    """Kills moec when the third training has a checkpoint and goes on; the trainer must not live on."""
    with open(t.path("killed.txt"), "w") as output:
        child = subprocess.Popen([t.moec, "compare", path, "--out", t.path("three"), "--device=cpu"], stdout=output,
                                 stderr=output, env=environment())
        victim, end = t.path("three", "switch", "experts=2", "seed-1"), time.time() + 240
        while not os.path.exists(checkpoint(victim, 10)):
            assert child.poll() is None and time.time() < end, read(t.path("killed.txt"))
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
    time.sleep(0.5)
    length = os.path.getsize(os.path.join(victim, "metrics.jsonl"))
    time.sleep(0.5)
    assert os.path.getsize(os.path.join(victim, "metrics.jsonl")) == length, "the trainer lives on"
    assert not os.path.exists(os.path.join(victim, "done.json")), "killed too late"
    return victim


def test_three_models_killed(t):
    path = spec(t, "three", THREE)
    listing = compare(t, path, "three", "--dry-run", "--rate=1e9")
    assert listing.count("40 steps") == 10 and "10 trainings" in listing and "hours" in listing, listing
    assert not os.path.exists(t.path("three")), "a dry run writes"
    victim = kill_in_the_middle(t, path)
    finished = t.path("three", "dense", "base", "seed-1")
    before = {name: os.stat(os.path.join(finished, name)).st_mtime_ns for name in ("metrics.jsonl", "done.json")}
    assert "FLOPs/s" in compare(t, path, "three", "--dry-run"), "the rate of the finished run is not taken"
    printed = compare(t, path, "three")
    assert os.path.getsize(t.path("three", "report.html")) > 10000
    assert {name: os.stat(os.path.join(finished, name)).st_mtime_ns for name in before} == before, "trained again"
    assert printed == read(t.path("three", "table.md")).decode()
    rows = check_table(t, "three", "dense", (1, 2))
    assert set(rows) == {("dense", "base")} | {(m, f"experts={e}") for m in ("switch", "evomoe") for e in (2, 4)}
    assert rows["switch", "experts=4"]["parameters"] > rows["switch", "experts=2"]["parameters"]
    for (name, setting), row in rows.items():
        assert f"| {name} " in printed and f"{row['valid']['mean']:.3f} ± {row['valid']['spread']:.3f}" in printed
    for name, setting, expected in (("dense", "base", None), ("switch", "experts=2", [15, 30, 40]),
                                    ("evomoe", "experts=4", [12, 15, 20, 20, 30, 40])):
        probed = t.path("three", name, setting, "seed-1", "probe.jsonl")
        found = [line["step"] for line in lines_of(probed)[1:]] if os.path.exists(probed) else None
        assert found == expected, (name, found)
    phases = [line["phase"] for line in log(t.path("three", "evomoe", "experts=4", "seed-2")) if "split" not in line]
    assert [phases.count(p) for p in ("shared", "dense", "top1")] == [12, 8, 20], phases
    trainer = json.loads(read(os.path.join(victim, "done.json")))["trainer"]
    run(t.path("three", "trainers", trainer), "train", "--data", t.path("data"), "--out", t.path("whole"), "--seed=1",
        "--eval-every=10", "--checkpoint-every=10", "--steps=40", "--device=cpu")
    same_run(victim, t.path("whole"), (10, 20, 30, 40))
    changed = spec(t, "changed", THREE.replace("steps = 40", "steps = 41"))
    compare(t, changed, "three", code=1, says="was trained for another specification or model")


def test_equal_flops_and_search(t):
    budget = 1.2e9
    path = spec(t, "flops", f"""
      data = "data", {COMMON}, seeds = {{ 3, 4 }}, budget = {{ flops = {budget} }}, baseline = "dense",
      search = {{ key = "lr", values = {{ 1e-6, 4e-3 }}, budget = 0.25 }}, eval_every = 5, checkpoint_every = 7,
      config = {{ size = "tiny", batch = 4, seq = 32, d = 32, heads = 2, experts = 4 }},
      runs = {{ {model("dense")},
        {model("evomoe", ", shares = { shared_steps = 0.3, anneal_steps = 0.2, dense_steps = 0.2 }, density = { dense = 0.5 }")} }},
      parallel = 2,""".replace(COMMON + ",", ""))
    compare(t, path, "flops")
    rows = check_table(t, "flops", "dense", (3, 4))
    for (name, setting), row in rows.items():
        final = {}
        for value in ("1e-06", "0.004"):
            directory = t.path("flops", name, setting, "search", f"lr={value}", "seed-3")
            final[value] = lines_of(os.path.join(directory, "evaluation.jsonl"))[0]["ppl"]
            last = [line["flops"] for line in log(directory) if "split" not in line][-2:]
            assert last[0] < budget / 4 <= last[1], (directory, last)
        assert row["chosen"] == min(final, key=final.get) == "0.004", (row, final)
        for seed in (3, 4):
            directory = t.path("flops", name, setting, f"seed-{seed}")
            updates = [line for line in log(directory) if "split" not in line]
            assert updates[-2]["flops"] < budget <= updates[-1]["flops"], directory
            state = json.loads(read(os.path.join(checkpoint(directory, updates[-1]["step"]), "state.json")))
            assert state["flops_budget"] == budget and state["flops"] == updates[-1]["flops"], state
            planned = json.loads(read(os.path.join(directory, "done.json")))["steps"]
            assert abs(planned - len(updates)) <= 0.15 * planned, (name, planned, len(updates))


def test_a_failed_run(t):
    body = f"""
      data = "data", {COMMON}, budget = {{ steps = 6 }}, baseline = "dense",
      runs = {{ {model("switch", ", config = { lr = 1e30 }")}, {model("dense")} }},"""
    path = spec(t, "failed", body)
    printed = compare(t, path, "failed", code=1, lines=4, says=("switch/base/seed-1: training failed with exit code 1", "seed-1.out",
                                                         "dense/base/seed-1: done"))
    rows = table(t, "failed")
    assert rows["switch", "base"]["done"] == 0 and rows["dense", "base"]["done"] == 1, rows
    assert "0 of 1" in printed and "1 of 1" in printed, printed


MISTAKES = [  # what stands in place of the valid entry, the message, whether it has a line
    ("seed = { 1 },", "unknown option `seed`, expected `seeds`", True),
    ("budget = { steps = 4, flops = 1 },", "expected either steps or flops", True),
    ("budget = { step = 4 },", "unknown option `step`", True),
    ("budget = { steps = 0 },", "found 0, expected at least 1", True),
    ("runs = {},", "expected a list with at least one entry", True),
    (f"runs = {{ {model('dense')}, {model('dense')} }},", "two runs are named dense", True),
    (f"runs = {{ {model('dense', ', colour = 1')} }},", "unknown option `colour`", True),
    (f"runs = {{ {model('dense', ', config = { steps = 3 }')} }},", "the budget decides the number of steps", True),
    (f"runs = {{ {model('dense', ', shares = { warmup = 3 }')} }},", "expected a share from 0 to 1", True),
    ('runs = { { name = "a/b", model = "m.lua" } },', "for a directory's name", True),
    ('baseline = "dens",', "there is no run `dens`, the nearest is `dense`", True),
    ("sweep = { d = 3 },", "found 3, expected a list", True),
    ("sweep = { d = { 3, 3 } },", "3 stands there twice", True),
    ("sweep = { depth = { 3 } },", "no model of the runs has a configuration key `depth`", False),
    ('search = { key = "rate", values = { 1 } },', "no model of the runs has a configuration key `rate`", False),
    ('sweep = { steps = { 3 } },', "sweep.steps: the budget decides the number of steps", True),
    ('search = { key = "steps", values = { 1 } },', "search.key: the budget decides the number of steps", True),
    ('search = { key = "d", values = { 1 } }, sweep = { d = { 32 } },', "`d` is swept as well", True),
    ("parallel = 0,", "found 0, expected at least 1", True),
    (f"runs = {{ {model('dense', ', config = { depth = 3 }')} }},", "unknown key `depth`", False),
    (f"runs = {{ {model('missing')} }},", "cannot read the script", False),
]


def test_mistakes(t):
    valid = {"data": 'data = "data",', "budget": "budget = { steps = 4 },", "runs": f"runs = {{ {model('dense')} }},"}
    for wrong, message, has_line in MISTAKES:
        key = wrong.split(" ")[0]
        entries = [entry for name, entry in valid.items() if name != key] + [wrong]
        path = spec(t, "wrong", "\n".join(entries))
        says = (message,) + ((f"{path}:2:",) if has_line else ())
        compare(t, path, "wrong", code=1, says=says)
    write(t.path("number.lua"), "return 3")
    compare(t, t.path("number.lua"), "wrong", code=1, says="expected moec.compare {...}")
    compare(t, os.path.join(MODELS, "gpt_dense.lua"), "wrong", code=1, says="the script returns a model")
    run(t.moec, "compare", path, code=2, says="--out DIR is missing")
    run(t.moec, "compare", "--out", t.path("wrong"), code=2, says="the specification is missing")
    assert not os.path.exists(t.path("wrong"))


if __name__ == "__main__":
    main(dict(globals()))
