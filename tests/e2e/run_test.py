"""A real model from end to end: run_test.py BUILD. models/gpt_evomoe.lua at size=tiny through all its phases.

What is promised bit for bit: the same script, the same seed, kill -9 and --resume, stopping anywhere, moec train.
"""
import collections
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import time

from common import *

MODEL = os.path.join(ROOT, "models", "gpt_evomoe.lua")
TINY = (MODEL, "-D", "size=tiny")
SHARED_ENDS, DENSE_ENDS, LAST = 10, 20, 30  # of size=tiny


def prepare(t):
    make_text(t.path("text"), 6000)
    t.data, t.trainer, t.whole = t.path("data"), t.path("trainer"), t.path("whole")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=spm:512")
    run(t.moec, "build", *TINY, "-o", t.trainer)


def train(t, out, *words, **options):
    return run(t.trainer, "train", "--data", t.data, "--out", out, "--eval-every=7", "--checkpoint-every=3",
               "--routing-every=2", *words, **options)


def test_same_script_same_ir(t):
    text = run(t.moec, "ir", *TINY)
    assert text == run(t.moec, "ir", *TINY)
    without_places = [line.split("#")[0].rstrip() for line in text.split("\n")]
    elsewhere = run(t.moec, "ir", os.path.relpath(MODEL, t.directory), "-D", "size=tiny", cwd=t.directory)
    assert without_places == [line.split("#")[0].rstrip() for line in elsewhere.split("\n")]


def test_uninterrupted(t):
    start = time.time()
    train(t, t.whole)
    t.seconds = time.time() - start
    assert steps_of(t.whole) == [3, 6, 9, 10, 12, 15, 18, 20, 21, 24, 27, 30]
    metrics = log(t.whole)
    updates = [line for line in metrics if "split" not in line]
    assert [line["step"] for line in updates] == list(range(1, LAST + 1))
    assert [line["phase"] for line in updates] == ["shared"] * 10 + ["dense"] * 10 + ["top1"] * 10
    for line in updates:
        for key in "loss ce lr tau grad_norm tokens flops experts_per_token version".split():
            assert key in line, (key, line)
        assert ("balance" in line) == (line["phase"] != "shared"), line
    assert updates[-1]["experts_per_token"] == 1 and updates[10]["experts_per_token"] > 1
    assert updates[-1]["loss"] < updates[0]["loss"] - 0.3
    evaluations = [(line["step"], line["phase"]) for line in metrics if "split" in line]
    assert evaluations == [(7, "shared"), (10, "shared"), (10, "dense"), (14, "dense"), (20, "dense"), (20, "top1"), (21, "top1"),
                           (28, "top1"), (30, "top1")], evaluations
    assert all("ppl_gate" in line for line in metrics if "split" in line and line["phase"] == "dense")
    # the dense phase ends at the tau at which top1 begins, and both evaluate Top-1 of it
    before, after = [line["ppl"] for line in metrics if "split" in line and line["step"] == DENSE_ENDS]
    assert math.isclose(before, after, rel_tol=1e-6), (before, after)
    for line in log(t.whole, "routing.jsonl"):
        (layer,) = line["load"]
        shown, load = line["layers"][layer], line["load"][layer]
        assert shown["dead"] == load.count(0) and shown["dropped"] == 0 and shown["kept_weight"] < 1 + 1e-6, line
        assert (shown["entropy"] > 0) == (line["phase"] == "dense") and shown["margin"] >= 0, line
        if line["phase"] == "top1":
            assert shown["experts_per_token"] == 1 and shown["entropy"] == 0 and 0 < shown["margin"] <= 1, line


def test_checkpoint_headers(t):
    """The tensors are the parameters of the IR with its shapes, the header describes the file: what any reader sees."""
    expected, sizes = {}, {"V": 512, "D": 64, "T": 64, "F": 256}
    for line in open(os.path.join(t.whole, "model.ir")):
        words = line.split()
        if words[:1] == ["func"]:
            break
        if words[:1] == ["table"]:
            table = expected.setdefault(words[1][1:], {})
            sizes["E"] = 1 if words[1] == "@shared" else 4
        elif words[:1] == ["param"]:
            dims = [dim.split("*") for dim in words[2][4:-1].split(",")]
            table[words[1][1:-1]] = [math.prod(sizes.get(factor) or int(factor) for factor in dim) for dim in dims]
    for step, phase in ((3, "shared"), (10, "shared"), (20, "dense"), (30, "dense")):
        model = tensors(os.path.join(checkpoint(t.whole, step), "model.safetensors"))
        moments = tensors(os.path.join(checkpoint(t.whole, step), "optimizer.safetensors"))
        shapes = {name: shape for name, (shape, _) in model.items()}
        assert shapes == expected[phase], (step, shapes, expected[phase])
        for name, shape in shapes.items():
            assert moments["m." + name][0] == shape and moments["v." + name][0] == shape
            born = SHARED_ENDS if ".gate." in name else 0
            assert list(moments["t." + name][1]) == [step - born], (name, step)
        assert len(moments) == 3 * len(model)
    state = json.loads(read(os.path.join(checkpoint(t.whole, 10), "state.json")))
    assert (state["phase"], state["next_phase"]) == ("shared", "dense")


def test_same_seed(t):
    again, other = t.path("again"), t.path("other")
    train(t, again, "--seed=1")
    same_run(t.whole, again, steps_of(t.whole))
    train(t, other, "--seed=2", "--steps=3")
    assert read(os.path.join(checkpoint(other, 3), "model.safetensors")) != read(
        os.path.join(checkpoint(t.whole, 3), "model.safetensors"))


def test_threads(t):
    """One thread and two give the same bits here; a resume with another number says so in any case."""
    one = t.path("one")
    train(t, one, "--steps=12", env=environment(OMP_NUM_THREADS="1"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert read(os.path.join(checkpoint(one, 12), name)) == read(os.path.join(checkpoint(t.whole, 12), name)), name
    said = train(t, one, "--steps=13", "--resume")
    assert "warning: the checkpoint was written with threads 1, this is 2" in said, said


def test_step_zero(t):
    """--steps 0 writes the initial state; going on from it is the whole run."""
    zero = t.path("zero")
    train(t, zero, "--steps", "0")
    assert steps_of(zero) == [0] and [line for line in log(zero) if "split" not in line] == []
    train(t, zero, "--resume")
    reference = [line for line in log(t.whole)]
    assert [line for line in log(zero) if line["step"] > 0] == reference
    assert read(os.path.join(checkpoint(zero, LAST), "optimizer.safetensors")) == read(
        os.path.join(checkpoint(t.whole, LAST), "optimizer.safetensors"))


def test_stop_at_boundaries(t):
    """A run told to end exactly where a phase ends stands before the transition, and goes on as if it had not ended."""
    stopped = t.path("stopped")
    for steps in (SHARED_ENDS, DENSE_ENDS, LAST):
        train(t, stopped, f"--steps={steps}", *(["--resume"] if steps > SHARED_ENDS else []))
        state = json.loads(read(os.path.join(checkpoint(stopped, steps), "state.json")))
        assert state["phase"] == {SHARED_ENDS: "shared", DENSE_ENDS: "dense", LAST: "top1"}[steps]
        assert steps == LAST or log(stopped)[-1]["phase"] == state["phase"]
    same_run(t.whole, stopped, steps_of(t.whole))
    before = read(os.path.join(stopped, "metrics.jsonl"))
    assert "done already" in train(t, stopped, "--resume")
    assert read(os.path.join(stopped, "metrics.jsonl")) == before


def kill_and_resume(t, out, draw):
    """Runs to the end, killed at random moments; returns the phases in which that was."""
    os.makedirs(out)
    phases = []
    for _ in range(40):
        process = subprocess.Popen([t.trainer, "train", "--data", t.data, "--out", out, "--eval-every=7", "--checkpoint-every=3",
                                    "--routing-every=2", "--resume"], env=environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        try:
            _, error = process.communicate(timeout=draw.uniform(0.1, 0.7) * t.seconds)
            assert process.returncode == 0, error
            return phases
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        steps = steps_of(out) if os.path.isdir(os.path.join(out, "checkpoints")) else []
        phases.append(json.loads(read(os.path.join(checkpoint(out, steps[-1]), "state.json")))["next_phase"] if steps else "start")
    train(t, out, "--resume")
    return phases


def test_kill(t):
    """kill -9 and --resume give the same bits as the whole run, wherever the kill falls."""
    draw, phases = random.Random(11), []
    for attempt in range(8):
        t.killed = t.path(f"killed{attempt}")
        phases += kill_and_resume(t, t.killed, draw)
        same_run(t.whole, t.killed, steps_of(t.whole))
        if len(phases) >= 12 and {"shared", "dense", "top1"} <= set(phases):
            break
    print({phase: phases.count(phase) for phase in sorted(set(phases))}, "kills", end=", ")
    assert len(phases) >= 3, phases


def test_eval(t):
    """The command gives what the run wrote, from any checkpoint, and again from a run that was resumed."""
    written = {(line["step"], line["phase"]): line for line in log(t.whole) if "split" in line}
    for place, step, phase in ((t.whole, LAST, "top1"), (t.killed, LAST, "top1"), (checkpoint(t.whole, 20), 20, "dense"),
                               (checkpoint(t.whole, 10), 10, "shared")):
        out = run(t.trainer, "eval", "--data", t.data, "--checkpoint", place)
        lines = [json.loads(line, object_pairs_hook=no_key_twice) for line in out.splitlines()]
        assert lines[0] == written[step, phase], (lines, written[step, phase])
        assert lines[1]["split"] == "test"


def test_native(t):
    """The kernels for this machine alone come to run by moec train --cpu=native, and read the others' checkpoints."""
    out = t.path("native")
    said = run(t.moec, "train", *TINY, "--target=cpu", "--cpu=native", "--data", t.data, "--out", out, "--steps=2")
    assert "cpu, native" in said, said
    found = json.loads(run(os.path.join(out, "trainer"), "eval", "--data", t.data, "--checkpoint", t.whole, "--cpu=native").splitlines()[0])
    written = [line for line in log(t.whole) if "split" in line][-1]
    assert math.isclose(found["ce"], written["ce"], rel_tol=1e-5), (found, written)


def test_explain_run(t):
    """moec explain --run: what the logs say, summed up here once more."""
    found = json.loads(run(t.moec, "explain", *TINY, "--json", f"--run={t.whole}"))
    assert found["decisions"] == json.loads(run(t.moec, "explain", *TINY, "--json"))["decisions"]
    phases = {phase["name"]: phase for phase in found["run"]["phases"]}
    assert list(phases) == ["shared", "dense", "top1"]
    everything = map(json.loads, open(os.path.join(t.whole, "metrics.jsonl")))
    updates = [line for line in everything if "split" not in line]
    note = open(os.path.join(t.whole, "log.txt")).read()
    before = 0
    for name, phase in phases.items():
        mine = [line for line in updates if line["phase"] == name]
        assert (phase["first_update"], phase["last_update"]) == (mine[0]["step"], mine[-1]["step"])
        assert math.isclose(phase["flops"], mine[-1]["flops"] - before)
        assert math.isclose(phase["experts_per_token"], sum(line["experts_per_token"] for line in mine) / len(mine))
        assert phase["experts_per_token_most"] == max(line["experts_per_token"] for line in mine)
        assert math.isclose(phase["tokens_per_s"], statistics.median(line["tokens_per_s"] for line in mine))
        versions = {version["name"]: version["updates"] for version in phase["versions"]}
        assert versions == collections.Counter(line["version"] for line in mine)
        assert f"{name}  memory {phase['memory_bytes']} bytes" in note
        assert 0.9 < phase["predicted"]["memory_bytes"] / phase["memory_bytes"] < 1.1
        before = mine[-1]["flops"]
    choice = json.load(open(os.path.join(t.whole, "tuning.json")))["choices"][0]
    assert phases["dense"]["crossover"] == choice["experts_per_token"] == phases["dense"]["predicted"]["crossover"]
    assert "crossover" not in phases["top1"]
    text = run(t.moec, "explain", *TINY, f"--run={t.whole}")
    assert f"measured in {t.whole}: cpu, " in text and "phase dense, updates 11 to 20" in text and "wide above" in text
    # a run under way: an update without the end of its line, phases to come
    early = t.path("early")
    shutil.copytree(t.whole, early)
    lines = open(os.path.join(t.whole, "metrics.jsonl")).read().split("\n")
    with open(os.path.join(early, "metrics.jsonl"), "w") as file:
        file.write("\n".join(lines[:4]) + "\n" + lines[4][:30])
    text = run(t.moec, "explain", *TINY, f"--run={early}")
    assert "phase shared, updates 1 to 4" in text and "phase top1, not run" in text
    with open(os.path.join(early, "metrics.jsonl"), "w") as file:
        file.write(lines[0] + "\n{}\n")
    run(t.moec, "explain", *TINY, f"--run={early}", code=1, says=("metrics.jsonl:2", "damaged"))
    run(t.moec, "explain", *TINY, "-D", "lr=0.5", f"--run={t.whole}", code=1, says="another model")
    run(t.moec, "explain", *TINY, f"--run={t.path('none')}", code=1, says="none/model.ir")


def test_moec_train(t):
    """Build and run in one go gives the same run; the run keeps the trainer that fits it."""
    out = t.path("one_go")
    words = (t.moec, "train", *TINY, "--data", t.data, "--out", out, "--eval-every=7", "--checkpoint-every", "3")
    run(*words)
    assert log(out) == log(t.whole)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert read(os.path.join(checkpoint(out, LAST), name)) == read(os.path.join(checkpoint(t.whole, LAST), name))
    trainer = read(os.path.join(out, "trainer"))
    run(*words, code=1, says="holds a run already")
    run(*words, "--resume", "-D", "d=32", code=1, says=("gpt_evomoe.lua: this is another model than the run's", "model.ir"))
    assert read(os.path.join(out, "trainer")) == trainer
    assert run(os.path.join(out, "trainer"), "info") == run(t.trainer, "info")


def test_sample(t):
    """A run is enough to sample from: its own copy of the tokenizer, nothing of the data directory."""
    gone = t.path("data_gone")
    os.rename(t.data, gone)
    words = (t.trainer, "sample", "--checkpoint", t.whole, "--prompt", "Ban", "-n", 12)
    out = run(*words)
    assert out.startswith("Ban") and len(out) > 8 and out == run(*words), out
    assert run(*words, "--seed=2") != out
    shutil.move(os.path.join(t.whole, "tokenizer"), t.path("tokenizer_away"))
    run(*words, code=1, says=("cannot read", "tokenizer"))
    shutil.move(t.path("tokenizer_away"), os.path.join(t.whole, "tokenizer"))
    os.rename(gone, t.data)


main(dict(globals()))
