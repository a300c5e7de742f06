"""What routing.jsonl shows of the gates: diagnostics_test.py MOEC.

The sums that the gate's kernel makes are compared with a plain recomputation in double from the weight and the mask of every
token, some of which are dead and hold NaN; the lines that the trainer writes with what follows from them and from the
load; the compiled models with those that have no diagnostics.
"""
import json
import math
import pathlib
import random
import re
import sys
import tempfile

from trainer import HERE, Trainer, command, floats, integers

MODELS = HERE.parent.parent / "models"
DEAD = (3, 4, 15)
LAYER = "h1.moe"


def softmax(row):
    top = max(row)
    parts = [math.exp(x - top) for x in row]
    return [part / sum(parts) for part in parts]


def largest(row, k):
    """The columns of the k largest."""
    return sorted(sorted(range(len(row)), key=lambda e: (-row[e], e))[:k])


def of_token(weight, experts):
    """entropy, kept weight, margin of a token with these experts."""
    kept = [weight[e] for e in experts]
    others = [w for e, w in enumerate(weight) if e not in experts]
    shares = [w / sum(kept) for w in kept]
    margin = (min(kept) - max(others)) / max(weight) if kept and others else 0
    return -sum(q * math.log(q) for q in shares if q > 0), sum(kept), margin


def recompute(weights, selected, chosen=None):
    """The sums over live tokens."""
    live = [t for t in range(len(weights)) if t not in DEAD]
    tokens = [of_token(weights[t], selected[t]) for t in live]
    sums = dict(zip(("entropy", "kept_weight", "margin"), map(sum, zip(*tokens))))
    sums["reached"] = sum(1 for t in live if selected[t])
    if chosen:
        sums["dropped_pairs"] = sum(len(chosen[t]) - len(selected[t]) for t in live)
    return sums


def compare(what, out, expected):
    found = {name.split(".")[1]: tensor.data[0] for name, tensor in out.items() if name.startswith("routing.")}
    assert sorted(found) == sorted(expected), f"{what}: the function gives {sorted(found)}, expected {sorted(expected)}"
    for name, value in expected.items():
        assert abs(found[name] - value) <= 2e-6 * max(1, abs(value)), f"{what}: {name} is {found[name]}, expected {value}"


def scores(t, seed):
    """Rows of every token, NaN where it is dead."""
    source = random.Random(seed)
    return [[math.nan if i in DEAD else source.gauss(0, 2) for _ in range(t.config["experts"])] for i in range(t.n)]


def run(t, function, seed=3, **given):
    z = scores(t, seed)
    out = t.run(function, z if t.config["gate"] != "hash" else None, live=floats([t.n], [float(i not in DEAD) for i in range(t.n)]), **given)
    selected = t.selected(out)
    assert not any(selected[i] for i in DEAD), "a dead token has an expert"
    assert sum(map(len, selected)) == sum(out["load." + LAYER].data), "the load counts other pairs than the route"
    return [row if math.isnan(row[0]) else softmax(row) for row in z], selected, out


def test_top1(moec, directory):
    t = Trainer(moec, directory, gate="switch")
    p, selected, out = run(t, "p.train")
    assert all(selected[i] == largest(p[i], 1) for i in range(t.n) if i not in DEAD)
    expected = recompute(p, selected)
    compare("Top-1", out, expected)
    assert expected["reached"] == t.n - len(DEAD) and expected["entropy"] == 0 and expected["margin"] > 0


def test_top1_capacity(moec, directory):
    t = Trainer(moec, directory, gate="switch", capacity=0.5)
    p, selected, out = run(t, "p.train")
    expected = recompute(p, selected, [largest(row, 1) for row in p])
    compare("Top-1 with a capacity", out, expected)
    assert expected["dropped_pairs"] == t.n - len(DEAD) - expected["reached"] > 0


def test_threshold(moec, directory):
    t = Trainer(moec, directory, gate="dts", threshold=0.05)
    _, selected, out = run(t, "dense.train", tau=floats([], [0.7]))
    weights = out["%p"].rows()
    assert all(selected[i] == [e for e in range(4) if weights[i][e] > 0.05] for i in range(t.n) if i not in DEAD)
    expected = recompute(weights, selected)
    compare("threshold", out, expected)
    counts = {len(selected[i]) for i in range(t.n) if i not in DEAD}
    assert len(counts) > 1 and expected["margin"] > 0, f"the case is too simple: experts of a token {counts}"
    every = Trainer(moec, directory, gate="dts", threshold=0.0)
    _, selected, out = run(every, "dense.train", tau=floats([], [2.0]))
    expected = recompute(out["%p"].rows(), selected)
    compare("all experts", out, expected)
    assert expected["margin"] == 0 and abs(expected["kept_weight"] - (t.n - len(DEAD))) < 1e-5


def test_top2_capacity(moec, directory):
    for normalize in ("after", "none"):
        t = Trainer(moec, directory, gate="gshard", capacity=0.5, normalize=normalize)
        p, selected, out = run(t, "p.train", seed=5)
        weights = p
        if normalize == "after":
            kept = [max(sum(row[e] for e in experts), 1.1920929e-7) for row, experts in zip(p, selected)]
            weights = [[w / total for w in row] for row, total in zip(p, kept)]
        expected = recompute(weights, selected, [largest(row, 2) for row in p])
        compare(f"Top-2 with a capacity, {normalize}", out, expected)
        assert expected["dropped_pairs"] > 0, "nothing is dropped"
        assert {len(selected[i]) for i in range(t.n) if i not in DEAD} == {0, 1, 2}, "the case is too simple"


def test_expert_choice(moec, directory):
    t = Trainer(moec, directory, gate="choice", capacity=0.75)
    p, selected, out = run(t, "p.train", seed=7)
    expected = recompute(p, selected)
    compare("expert choice", out, expected)
    assert expected["reached"] < t.n - len(DEAD) and any(len(experts) > 1 for experts in selected)


def test_hash(moec, directory):
    """A gate without scores: its weight is its mask."""
    t = Trainer(moec, directory, gate="hash")
    table = floats([16, 1], [float(i % 4) for i in range(16)])
    _, selected, out = run(t, "p.train", **{"@hash_table": table})
    compare("hash", out, recompute([[float(e in experts) for e in range(4)] for experts in selected], selected))


# ---------------------------------------------------------------- the lines that the trainer writes

def prepare_data(moec, directory):
    data, parity = pathlib.Path(directory) / "data", HERE.parent / "parity"
    if not data.exists():
        command(moec, "data", "--train", parity / "train.txt", "--valid", parity / "valid.txt", "--tokenizer=bytes", "-o", data)
    return data


def routing(t, name, data, steps, *words):
    out = t.directory / name
    command(t.path, "train", "--data", data, "--out", out, "--steps", steps, "--routing-every=1", "--eval-every=0",
            "--checkpoint-every=2", *words)
    return [json.loads(line) for line in open(out / "routing.jsonl")]


def check_line(line, tokens, keys):
    for layer, load in line["load"].items():
        shown = line["layers"][layer]
        assert list(shown) == keys, f"{layer} has {list(shown)}, expected {keys}"
        assert abs(shown["experts_per_token"] - sum(load) / tokens) < 1e-12 and shown["dead"] == load.count(0)
        for key in ("dropped", "dropped_pairs"):
            assert 0 <= shown.get(key, 0) <= tokens and shown.get(key, 0) == int(shown.get(key, 0))


def test_lines(moec, directory):
    data = prepare_data(moec, directory)
    keys = ["experts_per_token", "entropy", "kept_weight", "margin", "dropped"]
    size = {"gate": "gshard", "vocab": 256, "batch": 4, "seq": 16, "d": 8, "layers": 2}
    first = {}
    for accumulate in (1, 2):
        t = Trainer(moec, directory, accumulate=accumulate, **size)
        lines = routing(t, f"accumulate-{accumulate}", data, 3)
        assert [line["step"] for line in lines] == [1, 2, 3] and list(lines[0]["layers"]) == ["h1.moe", "h2.moe"]
        for line in lines:
            check_line(line, 64, keys + ["dead"])
        first[accumulate] = lines[0]
    assert first[1]["load"] == first[2]["load"]
    for layer, shown in first[1]["layers"].items():
        for key, value in shown.items():
            assert abs(first[2]["layers"][layer][key] - value) <= 1e-5 * abs(value) + 1e-6, f"{key} with two micro-batches"
    assert 0 < first[1]["layers"]["h1.moe"]["entropy"] <= math.log(2) and first[1]["layers"]["h1.moe"]["dropped"] == 0


def test_resume(moec, directory):
    data = prepare_data(moec, directory)
    t = Trainer(moec, directory, gate="gshard", capacity=0.75, vocab=256, batch=4, seq=16, d=8)
    whole = routing(t, "whole", data, 6)
    for line in whole:
        check_line(line, 64, ["experts_per_token", "entropy", "kept_weight", "margin", "dropped", "dropped_pairs", "dead"])
    assert any(line["layers"][LAYER]["dropped_pairs"] > 0 for line in whole)
    routing(t, "cut", data, 3)
    routing(t, "cut", data, 6, "--resume")
    assert (t.directory / "cut" / "routing.jsonl").read_bytes() == (t.directory / "whole" / "routing.jsonl").read_bytes()


def test_without(moec, directory):
    """diagnostics = false: the numbers that need no kernel remain."""
    data = prepare_data(moec, directory)
    t = Trainer(moec, directory, gate="switch", diagnostics=False, vocab=256)
    for line in routing(t, "without", data, 2):
        check_line(line, 16, ["experts_per_token", "dead"])


# ---------------------------------------------------------------- the compiled models

def launches(moec, script, *words):
    """Steps of every training function, by name."""
    plan = command(moec, "emit", script, "--what=plan", "-D", "size=small", *words)
    functions = re.findall(r"^func (\S+train\S*).*?\n(.*?)^end", plan, re.M | re.S)
    return {name: len(re.findall(r"^  (?!arg|result|value|work)[a-z]", body, re.M)) for name, body in functions}


def test_launches(moec, directory):
    """The diagnostics of a gate stand in kernels that are there without them."""
    for model in ("evomoe", "switch", "gshard", "noisy_topk", "loss_free", "expert_choice", "dselect", "stable", "base", "hash"):
        script = MODELS / f"gpt_{model}.lua"
        without = pathlib.Path(directory) / f"{model}.lua"
        without.write_text(re.sub(r"\bconfig = c,", "config = c, diagnostics = false,", script.read_text(), count=1))
        for words in (["--target=cpu"], ["--target=cuda"], ["--target=cpu", "-D", "precision=bf16"]):
            found, expected = launches(moec, script, *words), launches(moec, without, *words)
            assert found == expected, f"gpt_{model} {' '.join(words)}: steps {found}, without diagnostics {expected}"
            assert any(expected.values())


def main():
    moec, names = sys.argv[1], sys.argv[2:]
    for name, test in list(globals().items()):
        if name.startswith("test_") and (not names or name[5:] in names):
            with tempfile.TemporaryDirectory() as directory:
                test(moec, directory)
            print(f"{name[5:]}: ok")


main()
