"""What every gate must do: checks_test.py MOEC [NAME...]; a number is that of the list of acceptance checks of routing.

Each check builds probe.lua with one gate, runs single functions of the trainer on scores made for it, and compares with
what follows from the gate's definition. The other numbers of that list are no gates' and stand elsewhere.
"""
import collections
import json
import math
import pathlib
import random
import re
import sys
import tempfile

from trainer import HERE, Trainer, command, floats, integers, matrix, read, write

N = 1e-6  # what f32 may be off


class Checks:
    def __init__(self, moec, directory):
        self.moec, self.directory, self.failures = moec, directory, 0

    def trainer(self, **config):
        return Trainer(self.moec, self.directory, **config)

    def say(self, holds, what):
        self.failures += not holds
        if not holds:
            print(f"  wrong: {what}")

    def near(self, found, expected, what, tolerance=N):
        self.say(abs(found - expected) <= tolerance * max(1, abs(expected)), f"{what} is {found}, expected {expected}")

    def data(self):
        path = pathlib.Path(self.directory) / "data"
        if not path.exists():
            parity = HERE.parent / "parity"
            command(self.moec, "data", "--train", parity / "train.txt", "--valid", parity / "valid.txt",
                    "--tokenizer=bytes", "-o", path)
        return path


def softmax(row):
    top = max(row)
    parts = [math.exp(x - top) for x in row]
    return [part / sum(parts) for part in parts]


def scores(n, columns, seed=0, deviation=1.0):
    source = random.Random(seed)
    return [[source.gauss(0, deviation) for _ in range(columns)] for _ in range(n)]


def is_identity(out, z, token):
    """Whether the layer gave the token nothing: its logits are the products of its own row with all rows."""
    own = [sum(a * b for a, b in zip(z[token], row)) for row in z]
    return all(abs(found - expected) < 1e-5 for found, expected in zip(out["%logits"].row(token), own))


def tau(value):
    return floats([], [value])


DENSE = {"gate": "dts", "batch": 64, "seq": 64, "vocab": 4096, "experts": 16, "d": 16}


def check_1(c):
    for curve, at in (("linear", 1.15), ("exponential", 0.7746)):
        script = pathlib.Path(c.directory) / "schedule.lua"
        script.write_text(f"""
local s = require "moec".schedule.{curve}(2.0, 0.3, 5000)
error(table.concat({{ s(0), s(2500), s(5000), s(9000) }}, " "), 0)""")
        try:
            command(c.moec, "ir", script)
            found = ""
        except RuntimeError as failed:
            found = str(failed).splitlines()[-1]
        values = [float(word) for word in re.findall(r"\d+\.\d+", found.split(".lua")[-1])]
        for value, expected in zip(values, (2.0, at, 0.3, 0.3)):
            c.near(value, expected, f"the {curve} schedule", 1e-4)
        c.say(len(values) == 4, f"the {curve} schedule gives {found}")


def check_2(c):
    t = c.trainer(**DENSE)
    for value, expected in ((2.0, 16.0), (0.5, 10.2), (0.3, 5.1)):
        out = t.run("dense.train", [[0.0] * 16] * 4096, tau=tau(value))
        counts = list(map(len, t.selected(out)))
        c.near(sum(counts) / 4096, expected, f"experts of a token at tau {value}", 0.2 / expected)
        c.say(min(counts) >= 1, f"a token without experts at tau {value}")
        c.say(sum(out["%w"].data) / 4096 >= 0.995, f"the kept weight at tau {value}")


def check_3(c):
    t = c.trainer(gate="dts", threshold=0.5, batch=16, seq=64, vocab=1024)
    out = t.run("dense.train", [[0.0] * 4] * 1024, tau=tau(2.0))
    counts = collections.Counter(map(len, t.selected(out)))
    c.say(counts == {1: 1024}, f"experts of a token with a threshold above 1/E: {counts}")
    passing = sum(max(row) > 0.5 for row in out["%w"].rows())
    c.say(passing < 600, f"{passing} of 1024 pass the threshold: the fallback is not tried")


def check_4(c):
    t = c.trainer(**DENSE)
    z = scores(1, 16, seed=1)[0]
    chosen = [t.selected(t.run("top1.train", [z] * 4096, tau=tau(value))) for value in (2.0, 0.3)]
    c.say(chosen[0] == chosen[1], "the choice depends on tau for the same noise")
    counts = collections.Counter(row[0] for row in chosen[0])
    statistic = sum((counts[e] - 4096 * p)**2 / (4096 * p) for e, p in enumerate(softmax(z)))
    c.say(statistic < 37.7, f"chi-square of the choices is {statistic:.1f}, 15 degrees of freedom (0.1 %: 37.7)")


def check_5(c):
    t = c.trainer(gate="dts")
    z = scores(16, 4)
    first, second = (t.run("dense.eval", z, tau=tau(0.7)) for _ in range(2))
    c.say(all(first[name].data == second[name].data for name in ("%pair", "%w", "ce")), "two evaluations differ")
    for row, weight, experts in zip(z, first["%w"].rows(), t.selected(first)):
        c.say(experts == [row.index(max(row))], "evaluation does not take the largest score")
        c.near(max(weight), max(softmax([x / 0.7 for x in row])), "the weight in evaluation")


def check_6(c):
    for weight in ("paper", "code"):
        t = c.trainer(gate="dts", weight=weight, threshold=0.05, balance=0.0)
        z = [[8.0 + i / 16, 7.0, 1.0, -20.0] for i in range(16)]
        expert = {f"@h1.moe.w{i}": matrix3(scores(4 * 8, 4, seed=i)) for i in (1, 2)}
        out = t.run("dense.train", z, tau=tau(0.3), **expert)
        loads = out["load.h1.moe"].data
        c.say(loads[3] == 0 and loads[0] > 0, f"loads {loads}, expected none of the last expert")
        gradient = out["grad @h1.moe.w1"].data
        c.say(not any(gradient[3 * 32:]) and any(gradient[:32]), "the gradient of an expert that nobody selected")
        c.say(any(out["grad @h1.moe.gate.w"].row(3)), "the gradient of the score of an unselected expert is 0")
        command(c.moec, "check", HERE / "probe.lua", "-D", "gate=dts", "-D", f"weight={weight}")


def matrix3(rows):
    kind, shape, data = matrix(rows)
    return kind, [4, 8, 4], data


def check_7(c):
    switch, dts = c.trainer(gate="switch"), c.trainer(gate="dts", threshold=0.0)
    c.near(switch.run("p.train", [[0.0] * 4] * 16)["aux.balance"].data[0], 1, "balance of a uniform router")
    out = switch.run("p.train", [[100.0, 0, 0, 0]] * 16)
    c.near(out["aux.balance"].data[0], 4, "balance of a router that takes one expert")
    out = dts.run("dense.train", scores(16, 4), tau=tau(2.0))
    c.near(out["aux.balance"].data[0], 4, "balance of a dense gate")


def check_8(c):
    t = c.trainer(gate="switch", capacity=1.0, batch=1, seq=8, vocab=8, experts=2, d=2)
    z = [[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 3
    out = t.run("p.train", z, **{"@h1.moe.b2": matrix([[1.0, 1.0]] * 2)})
    c.say([len(e) for e in t.selected(out)] == [1] * 6 + [0] * 2, f"who is kept: {t.selected(out)}")
    c.say([is_identity(out, z, i) for i in range(8)] == [False] * 6 + [True] * 2, "what dropped tokens get is not 0")
    halves = c.trainer(gate="switch", capacity=1.0, groups=2, batch=1, seq=8, vocab=8, experts=2, d=2)
    out = halves.run("p.train", z)
    c.say([len(e) for e in halves.selected(out)] == [1, 1, 0, 1, 1, 1, 1, 0], f"who is kept in two groups: {halves.selected(out)}")
    p = softmax([1.0, 0.0])
    mean = [(6 * p[e] + 2 * p[1 - e]) / 8 for e in range(2)]
    c.near(out["aux.balance"].data[0], 2 * (6 / 8 * mean[0] + 2 / 8 * mean[1]), "balance counts what is dropped, too")


def check_9(c):
    t = c.trainer(gate="gshard", capacity=1.0, batch=1, seq=4, vocab=4, experts=4)  # room for 2 of each expert
    z = [[2.0, 1.0, 0, 0]] * 2 + [[1.0, 2.0, 0, 0]] * 2
    out = t.run("p.train", z)
    c.say(t.selected(out) == [[0], [0], [1], [1]], f"first choices before all second: {t.selected(out)}")
    c.say(all(abs(max(row) - 1) < N for row in out["%w"].rows()), "the weight of a survivor is not 1")
    out = t.run("p.train", [[2.0, 1.0, 0, 0]] * 4)
    c.say(t.selected(out) == [[0, 1], [0, 1], [], []], f"both dropped: {t.selected(out)}")
    c.say(not any(out["%w"].row(3)), "the weight of a token without experts is not 0")


def check_10(c):
    single = c.trainer(gate="noisy", k=1, importance=0.0, load=0.0)
    out = single.run("p.train", scores(16, 4), **{"@h1.moe.w2": matrix3(scores(32, 4, seed=2)),
                                                 "@h1.moe.w1": matrix3(scores(32, 4, seed=3))})
    c.say(not any(out["grad @h1.moe.gate.w"].data), "with k=1 the task teaches the router")
    both = c.trainer(gate="noisy")
    out = both.run("p.train", scores(16, 4))
    c.say(all(abs(sum(row) - 1) < N for row in out["%w"].rows()), "weights do not add up to 1")
    first, second = (both.run("p.eval", scores(16, 4))["%w"].data for _ in range(2))
    c.say(first == second, "two evaluations differ")
    out = both.run("p.eval", [[0.0] * 4] * 16)
    c.say(both.selected(out) == [[0, 1]] * 16, "without scores and noise not the first k experts")


def check_11(c):
    t = c.trainer(gate="base", residual=True)
    for seed in range(8):
        z = scores(16, 4, seed, deviation=2.0)
        out = t.run("p.train", z)
        chosen = t.selected(out)
        loads = collections.Counter(e for row in chosen for e in row)
        c.say(all(len(row) == 1 for row in chosen) and loads == {e: 4 for e in range(4)}, f"assignment {chosen}")
        for row, weight, (expert,) in zip(z, out["%w"].rows(), chosen):
            c.near(weight[expert], 1 / (1 + math.exp(-row[expert])), "alpha")
        c.say(all(is_identity(out, z, i) for i in range(16)), "at the start the layer is not the identity")
        out = t.run("p.eval", z)
        c.say(t.selected(out) == [[row.index(max(row))] for row in z], "evaluation is not greedy")
    halves = c.trainer(gate="base", residual=True, groups=2)
    chosen = halves.selected(halves.run("p.train", scores(16, 4)))
    c.say(all(collections.Counter(e for (e,) in half) == {e: 2 for e in range(4)} for half in (chosen[:8], chosen[8:])),
          f"assignment in two groups {chosen}")


def check_12(c):
    t = c.trainer(gate="hash", layers=2, vocab=8)
    tokens = [i * i % 8 for i in range(16)]
    table = {"@hash_table": floats([8, 1], [3, 1, 2, 0, 1, 1, 2, 3])}
    expected = [[[3, 1, 2, 0, 1, 1, 2, 3][token]] for token in tokens]
    for function, step in (("p.train", 0), ("p.train", 7), ("p.eval", 0)):
        out = t.run(function, None, step=step, tokens=tokens, **table)
        for pairs in ("%pair", "%pair_2"):
            c.say(t.selected(out, pairs) == expected, f"{function}: {pairs} does not follow the table")
        c.say(out["load.h1.moe"].data == out["load.h2.moe"].data, "layers have other tables")
    balanced = c.trainer(gate="hash", table="balanced", vocab=256)
    out = balanced.train(c.data(), 0)
    table = balanced.checkpoint(out, 0)["hash_table"].data
    text = (HERE.parent / "parity" / "train.txt").read_bytes()
    counts, mass = collections.Counter(text), collections.Counter()
    for token, count in counts.items():
        mass[table[token]] += count / len(text)
    c.say(max(mass.values()) <= 1 / 4 + max(counts.values()) / len(text), f"mass of the experts {dict(mass)}")
    c.say(set(table) == {0, 1, 2, 3}, "an expert has no token")


def dselect(c, experts, z, batch=2):
    """A trainer and its results with one selector whose bits are z for every token."""
    t = c.trainer(gate="dselect", k=1, experts=experts, batch=batch, entropy=1.0)
    gate = "@h1.moe.gate."
    return t.run("p.train", **{
        "@embedding.w": matrix([[0.0] * 4] * 16),
        gate + "selector.b": floats([len(z)], z), gate + "selector.w": floats([len(z), 4], [0.0] * 4 * len(z)),
        gate + "mixture.b": floats([1], [0.0]), gate + "mixture.w": floats([1, 4], [0.0] * 4)})


def check_13(c):
    out = dselect(c, 16, [0.0] * 4)
    c.say(all(abs(w - 1 / 16) < N for w in out["%w"].data), "weights at z = 0 are not 1/16")
    single = out["aux.entropy"].data[0]
    c.near(single, 16 * math.log(16), "entropy of 16 tokens", 1e-4)
    c.near(dselect(c, 16, [0.0] * 4, batch=4)["aux.entropy"].data[0], 2 * single, "entropy of twice the batch", 1e-5)
    out = dselect(c, 16, [1.0, -1.0, 1.0, 1.0])
    c.say(all(row == [float(e == 0b1011) for e in range(16)] for row in out["%w"].rows()), "z = +-1 is not one expert")
    c.say(out["pairs"].data[0] == 16, "experts of weight 0 are selected")
    out = dselect(c, 12, [0.0] * 4)
    c.near(out["aux.unreached"].data[0], 16 * 16 / 12, "the loss on experts that do not exist")


def check_14(c):
    t = c.trainer(gate="stable", vocab=256, d=8, residual=True)
    out = t.train(c.data(), 20, "--probe-every", 1)
    change, end = t.checkpoint(out, 10), t.checkpoint(out, 20)
    probes = map(json.loads, (out / "probe.jsonl").read_text().splitlines()[1:])
    routes = [(line["step"], line["expert"]) for line in probes]
    last = max(step for step, expert in routes if expert != routes[-1][1])
    c.say(0 < last < 10, f"the last fluctuation is at step {last}, the router is frozen at 10")
    router = [name for name in end if ".router." in name]
    c.say(len(router) == 2, f"parameters of the router: {router}")
    for name in router:
        c.say(change[name].data == end[name].data, f"{name} changes in the second stage")
    c.say(change["h1.moe.gate.w"].data != end["h1.moe.gate.w"].data, "the centroids do not learn in the second stage")
    gate = "h1.moe.gate."
    words, centres = end[gate + "router.words"].rows(), end[gate + "router.w"].rows()
    expected = [[max(range(4), key=lambda e: sum(a * b for a, b in zip(word, centres[e])))] for word in words[:16]]
    given = {"@" + name: floats(end[name].shape, end[name].data) for name in end}
    for function in ("frozen.train", "frozen.eval", "distill.eval"):
        out = t.run(function, None, tokens=list(range(16)), **given)
        c.say(t.selected(out) == expected, f"{function} does not follow the distilled router")
    small = c.trainer(gate="stable", residual=True)
    z = [[1.0, 0.5, 0, 0]] * 12 + [[0.5, 1.0, 0, 0]] * 2 + [[0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    out = small.run("distill.train", z)
    loads = [12, 2, 1, 1]
    alpha = 1 / (1 + math.exp(-1.0))
    expected = sum((load - 4) / 4 * load * alpha for load in loads) / 16
    c.near(out["aux.balance"].data[0], expected, "the balance loss")
    pushed = out["grad @h1.moe.gate.w"]
    c.say(pushed.row(0)[0] > 0 > pushed.row(1)[1], "overloaded experts are not pushed down, or others not up")


def check_16(c):
    t = c.trainer(gate="evomoe", experts=16, d=16, vocab=64)
    shape = [1, 8, 16]
    parent = {f"w{i}": scores(8, 16, seed=i) for i in (1, 2)}
    given = {f"@shared::h1.moe.{name}": floats(shape, [x for row in rows for x in row]) for name, rows in parent.items()}
    given["@shared::h1.moe.b1"] = matrix(scores(1, 8, seed=3))
    given["@shared::h1.moe.b2"] = matrix(scores(1, 16, seed=4))
    out = transition(t, given)
    for name in ("w1", "w2"):
        data = out["param @h1.moe." + name].data
        zeros, count = data.count(0.0), len(data)
        c.say(abs(zeros - 0.1 * count) <= 3 * math.sqrt(0.09 * count), f"{zeros} of {count} weights of {name} are 0")
        experts = {tuple(data[e * 128:(e + 1) * 128]) for e in range(16)}
        c.say(len(experts) == 16, "two experts are alike")
        flat = [x for row in parent[name] for x in row]
        c.say(all(x == 0 or abs(x - flat[i % 128]) < N for i, x in enumerate(data)), "a weight is not the parent's")
    for name, width in (("b1", 8), ("b2", 16)):
        rows = out["param @h1.moe." + name].rows()
        c.say(len({tuple(row) for row in rows}) == 1 and len(rows[0]) == width, f"{name} is not the parent's")
    plain = c.trainer(gate="evomoe", experts=16, d=16, vocab=64, mask=0.0)
    copied = transition(plain, given)
    dense = {"@h1.moe." + name: floats(copied["param @h1.moe." + name].shape, copied["param @h1.moe." + name].data)
             for name in ("w1", "w2", "b1", "b2")}
    alone = {name.replace("shared::", ""): value for name, value in given.items()}
    z = scores(64, 16)
    table = {"@embedding.w": matrix(z)}
    expected = plain.run("shared.eval", **table, **alone)["ce"].data[0]
    found = plain.run("dense.eval_gate", **table, **dense, tau=tau(2.0))["ce"].data[0]
    c.near(found, expected, "the loss of unmasked copies with equal weights")


def transition(t, given, name="shared_to_dense"):
    write(t.directory / "in", {"step": integers([], [5]), **given})
    command(t.path, "exec", f"--func={name}", f"--in={t.directory / 'in'}", f"--out={t.directory / 'out'}")
    return read(t.directory / "out")


def cluster(rows, count, iterations):
    """Lloyd's algorithm from evenly spaced rows; of centres equally near, the first."""
    centres = [rows[i * (len(rows) // count)] for i in range(count)]
    for last in range(iterations + 1):
        chosen = [min(range(count), key=lambda c: sum((a - b)**2 for a, b in zip(row, centres[c]))) for row in rows]
        if last == iterations:
            return chosen
        for c in range(count):
            members = [row for row, own in zip(rows, chosen) if own == c]
            centres[c] = [sum(column) / len(members) for column in zip(*members)] if members else centres[c]


def check_clusters(c):
    """The tables of Hash that follow an embedding: clusters to experts, or each cluster spread over all of them."""
    words = scores(64, 4, seed=5)
    clusters = cluster(words, 4, 10)
    c.say(clusters != cluster(words, 4, 0), "the first clusters are the last: nothing is tried")
    tables = {}
    for table in ("clustered", "dispersed"):
        t = c.trainer(gate="hash", table=table, vocab=64)
        out = transition(t, {"@dense::embedding.w": matrix(words)}, "dense_to_p")
        tables[table] = [int(x) for x in out["param @hash_table"].data]
    c.say(tables["clustered"] == clusters, f"the clusters are {tables['clustered']}, expected {clusters}")
    for own in range(4):
        spread = [expert for expert, which in zip(tables["dispersed"], clusters) if which == own]
        expected = [(own + place) % 4 for place in range(len(spread))]
        c.say(spread == expected, f"cluster {own} is spread as {spread}, expected {expected}")


def check_bias(c):
    """The state of the loss-free gate: it moves once per update, by the mean over the micro-batches."""
    t = c.trainer(gate="sigmoid", vocab=256)
    out = t.train(c.data(), 2, "--routing-every", 1)
    loads = [json.loads(line)["load"]["h1.moe"] for line in (out / "routing.jsonl").read_text().splitlines()]
    bias = [0.0] * 4
    for step, load in enumerate(loads):
        bias = [b + 0.125 * ((load_of < 8) - (load_of > 8)) for b, load_of in zip(bias, load)]
        found = t.checkpoint(out, step + 1)["h1.moe.gate.bias"].data
        c.say(found == bias, f"after update {step + 1} the bias is {found}, expected {bias} of the loads {load}")
    z = [[1.0, 0.9, 0.8, 0.7]] * 16
    given = {"@h1.moe.gate.bias": floats([4], [0.0, 0.0, 0.5, 0.5])}
    t = c.trainer(gate="sigmoid")
    c.say(t.selected(t.run("p.eval", z, **given)) == [[2, 3]] * 16, "the bias does not take part in the choice")
    weight = t.run("p.eval", z, **given)["%w"].row(0)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.8, 0.7)]
    c.near(weight[2], sigmoid[0] / sum(sigmoid), "the weight, in which the bias takes no part")


def check_choice(c):
    t = c.trainer(gate="choice", capacity=2.0, groups=2)
    z = scores(16, 4)
    chosen = t.selected(t.run("p.train", z))
    p = [softmax(row) for row in z]
    for first in (0, 8):
        for e in range(4):
            best = sorted(range(first, first + 8), key=lambda i: -p[i][e])[:4]
            taken = [i for i in range(first, first + 8) if e in chosen[i]]
            c.say(sorted(best) == taken, f"expert {e} takes {taken} of slice {first // 8}, expected {sorted(best)}")


def main(moec, *names):
    checks = {name[6:]: check for name, check in globals().items() if name.startswith("check_")}
    with tempfile.TemporaryDirectory() as directory:
        c = Checks(moec, directory)
        for name in names or checks:
            print(f"check {name}", flush=True)
            checks[name](c)
    return 1 if c.failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
