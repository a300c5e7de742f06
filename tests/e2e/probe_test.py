"""The probe of a training: probe_test.py BUILD. What probe.jsonl says is computed here once more, in plain Python from the
checkpoints and token files; a probe changes nothing of the training, and a resumed run has the same lines.

The model is one MoE layer between an embedding and its transpose, so that its whole forward is a few lines.
"""
import array
import os
import shutil

from common import *

SCRIPT = """
local moec = require "moec"
local nn, gate, optim, phase, init = moec.nn, moec.gate, moec.optim, moec.phase, moec.init
local c = moec.config { seq = 16, batch = 8, accumulate = 2, d = 8, experts = 5, vocab = 256, threshold = 0.05 }
local embed = nn.embedding { vocab = c.vocab, d = c.d, init = init.normal(1) }
return moec.model {
  name = "bare", task = "lm", config = c,
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = c.experts, hidden = 12, ids = b.tokens, init = init.normal(0.5) }), embed)
  end,
  steps = 12, optimizer = optim.adam { lr = 0.02 },
  phases = phase.evomoe { shared = 4, anneal = 4, tau = { 2, 0.3 }, mask = 0.1,
                          gate = gate.dts { threshold = c.threshold, init = init.normal(0.7) } },
}
"""
TOKENS, EXPERTS, THRESHOLD = 64, 5, 0.05  # of a micro-batch


def prepare(t):
    make_text(t.path("text"), 1500)
    t.data, t.trainer, t.whole = t.path("data"), t.path("trainer"), t.path("whole")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=bytes")
    write(t.path("bare.lua"), SCRIPT)
    run(t.moec, "build", t.path("bare.lua"), "--target=cpu", "-o", t.trainer)


def train(t, out, *words, data=None, **options):
    return run(t.trainer, "train", "--data", data or t.data, "--out", out, "--eval-every=5", "--checkpoint-every=2", *words, **options)


def probe(run_directory):
    first, *lines = log(run_directory, "probe.jsonl")
    return first, lines


def token_file(data, split):
    content = read(os.path.join(data, split + ".bin"))
    tokens = array.array("H")
    tokens.frombytes(content[64:])
    assert len(tokens) == struct.unpack("<Q", content[24:32])[0]
    return list(tokens)


def test_first_line(t):
    train(t, t.whole, "--probe-every=1")
    first, _ = probe(t.whole)
    tokens, everything = token_file(t.data, "valid")[:TOKENS], token_file(t.data, "train")
    assert list(first) == ["format", "tokens", "text", "frequency", "split"] and first["format"] == 1 and first["split"] == "valid"
    assert first["tokens"] == tokens
    assert first["text"] == [chr(token) for token in tokens]  # a text of ASCII
    for token, share in zip(tokens, first["frequency"]):
        assert math.isclose(share, everything.count(token) / len(everything), rel_tol=1e-5), (token, share)


def test_when(t):
    """Where a phase has gates: every update, before and after the transition, at the end; nothing in phase shared."""
    _, lines = probe(t.whole)
    assert [(line["step"], line["phase"]) for line in lines] == [(4, "dense")] + [(k, "dense") for k in range(5, 9)] + \
        [(8, "top1")] + [(k, "top1") for k in range(9, 13)]
    rare = t.path("rare")
    train(t, rare, "--probe-every=100")
    assert [(line["step"], line["phase"]) for line in probe(rare)[1]] == [(4, "dense"), (8, "dense"), (8, "top1"), (12, "top1")]


def gelu(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Model:
    """The parameters of a checkpoint as nested lists, and the forward of one token."""

    def __init__(self, directory, tau):
        self.tau = tau
        for name, (shape, values) in tensors(os.path.join(directory, "model.safetensors")).items():
            rows = list(values)
            for size in reversed(shape[1:]):
                rows = [rows[i:i + size] for i in range(0, len(rows), size)]
            setattr(self, name.replace(".", "_"), rows)

    def choose(self, token):
        """The best expert with its weight, and how many pass the threshold; None where rounding could decide otherwise."""
        x = self.embedding_w[token]
        z = [sum(a * b for a, b in zip(x, w)) / self.tau for w in self.moe_gate_w]
        exponents = [math.exp(v - max(z)) for v in z]
        p = [v / sum(exponents) for v in exponents]
        ranked = sorted(p, reverse=True)
        if ranked[0] - ranked[1] < 1e-4 or any(abs(v - THRESHOLD) < 1e-4 for v in p):
            return None
        return p.index(ranked[0]), ranked[0], sum(v > THRESHOLD for v in p)

    def loss(self, token, target, expert, weight):
        x, w1, w2 = self.embedding_w[token], self.moe_w1[expert], self.moe_w2[expert]
        hidden = [gelu(sum(a * b for a, b in zip(x, w)) + b1) for w, b1 in zip(w1, self.moe_b1[expert])]
        y = [x[d] + weight * (sum(h * w[d] for h, w in zip(hidden, w2)) + self.moe_b2[expert][d]) for d in range(len(x))]
        logits = [sum(a * b for a, b in zip(y, w)) for w in self.embedding_w]
        most = max(logits)
        return most + math.log(sum(math.exp(v - most) for v in logits)) - logits[target]


def test_numbers(t):
    """Experts and losses of every probe token at every checkpoint of a phase with gates."""
    _, lines = probe(t.whole)
    stream = token_file(t.data, "valid")
    compared, counts, used = 0, set(), set()
    for step in (6, 8, 10, 12):
        state = json.loads(read(os.path.join(checkpoint(t.whole, step), "state.json")))
        model = Model(checkpoint(t.whole, step), state["schedules"][state["phase"] + ".tau"])
        line = next(line for line in lines if (line["step"], line["phase"]) == (step, state["phase"]))
        for i in range(TOKENS):
            chosen = model.choose(stream[i])
            if not chosen:
                continue
            compared += 1
            expert, weight, passing = chosen
            assert line["expert"]["moe"][i] == expert, (step, i)
            assert line["experts"]["moe"][i] == (passing if state["phase"] == "dense" else 1), (step, i)
            assert math.isclose(line["loss"][i], model.loss(stream[i], stream[i + 1], expert, weight), rel_tol=1e-5), (step, i)
            counts.add(line["experts"]["moe"][i])
            used.add(expert)
    assert compared > 3 * TOKENS and len(counts) > 2 and len(used) > 2, (compared, counts, used)


def test_changes_nothing(t):
    """The training is the same with a probe after every update and without any; without one there is no file."""
    bare = t.path("unprobed")
    train(t, bare)
    same_run(t.whole, bare, steps_of(t.whole))
    assert not os.path.exists(os.path.join(bare, "probe.jsonl"))


def cut(t, name, last):
    """The run as a kill behind its checkpoint `last` leaves it: logs go on, the later checkpoints are not there."""
    path = t.path(name)
    shutil.copytree(t.whole, path)
    for step in steps_of(path):
        if step > last:
            shutil.rmtree(checkpoint(path, step))
    return path


def test_resume(t):
    whole = read(os.path.join(t.whole, "probe.jsonl"))
    for last in (2, 4, 6, 8, 10):
        again = cut(t, f"cut{last}", last)
        train(t, again, "--resume", "--probe-every=1")
        assert read(os.path.join(again, "probe.jsonl")) == whole, last
        same_run(t.whole, again, steps_of(t.whole))
    # without the option nothing is added, and what the checkpoint does not know is gone
    quiet = cut(t, "quiet", 6)
    train(t, quiet, "--resume")
    assert [line["step"] for line in probe(quiet)[1]] == [4, 5, 6]
    late = t.path("late")  # with it from the middle on: the first line comes there
    train(t, late, "--steps=6")
    train(t, late, "--resume", "--probe-every=3")
    first, lines = probe(late)
    assert first == probe(t.whole)[0] and [line["step"] for line in lines] == [8, 8, 9, 12]


def test_dead_tail(t):
    """A valid split of less than a micro-batch: as many probe tokens as it has targets, whose mean is the evaluation's."""
    short, out = t.path("short"), t.path("short_run")
    write(t.path("short.txt"), read(t.path("text"))[:700])
    run(t.moec, "data", t.path("short.txt"), "-o", short, "--tokenizer=bytes")
    targets = len(token_file(short, "valid")) - 1
    assert 0 < targets < TOKENS
    train(t, out, "--probe-every=5", data=short)
    first, lines = probe(out)
    assert first["tokens"] == token_file(short, "valid")[:targets]
    evaluations = {(line["step"], line["phase"]): line for line in log(out) if "split" in line}
    for line in lines:
        for numbers in (line["loss"], line["expert"]["moe"], line["experts"]["moe"]):
            assert len(numbers) == targets
        assert math.isclose(sum(line["loss"]) / targets, evaluations[line["step"], line["phase"]]["ce"], rel_tol=1e-5)


def test_nothing_to_probe(t):
    out, trainer = t.path("dense_run"), t.path("dense")
    run(t.moec, "build", os.path.join(ROOT, "models", "gpt_dense.lua"), "-D", "size=tiny", "--target=cpu", "-o", trainer)
    said = run(trainer, "train", "--data", t.data, "--out", out, "--steps=1", "--probe-every=1")
    assert "no phase of this model has gates" in said and not os.path.exists(os.path.join(out, "probe.jsonl")), said


def test_without_tokenizer(t):
    data, out = t.path("no_tokenizer"), t.path("no_text")
    shutil.copytree(t.data, data)
    shutil.rmtree(os.path.join(data, "tokenizer"))
    os.makedirs(os.path.join(data, "tokenizer"))
    train(t, out, "--steps=5", "--probe-every=5", data=data)
    assert list(probe(out)[0]) == ["format", "tokens", "frequency", "split"]


def test_without_sentencepiece(t):
    """Its absence costs the texts, and the log says so."""
    data, away = t.path("pieces"), t.path("away")
    shutil.copytree(t.data, data)
    shutil.rmtree(os.path.join(data, "tokenizer"))
    run(t.moec, "data", t.path("text"), "-o", t.path("spm"), "--tokenizer=spm:300")
    shutil.copytree(t.path("spm", "tokenizer"), os.path.join(data, "tokenizer"))
    os.makedirs(away)
    write(os.path.join(away, "libsentencepiece.so.0"), "")  # found before the real one
    words = ("--steps=5", "--probe-every=5")
    said = train(t, t.path("lacking"), *words, data=data, env=environment(LD_LIBRARY_PATH=away))
    assert "probe.jsonl holds no texts, ids alone: this tokenizer needs SentencePiece" in said, said
    assert "text" not in probe(t.path("lacking"))[0] and len(probe(t.path("lacking"))[1]) == 2
    train(t, t.path("having"), *words, data=data)
    assert len(probe(t.path("having"))[0]["text"]) == TOKENS


def test_memory_record(t):
    """memory.json has the arenas that the forecast names, and the peaks that the log says."""
    forecast = {phase["name"]: phase["memory"] for phase in json.loads(run(t.trainer, "info", "--forecast"))["phases"]}
    recorded, notes = json.loads(read(os.path.join(t.whole, "memory.json")))["phases"], read(os.path.join(t.whole, "log.txt")).decode()
    assert list(recorded) == ["shared", "dense", "top1"]
    for name, kinds in recorded.items():
        for kind in ("parameters", "gradients", "moments", "accumulators", "activations"):
            assert kinds[kind] == forecast[name][kind] > 0, (name, kind)
        assert f"{name}  memory {kinds['arena_peak']} bytes" in notes, name
    again = cut(t, "memory", 8)  # what the phases before the checkpoint held is kept
    recorded["shared"]["arena_peak"] += 1000
    write(os.path.join(again, "memory.json"), json.dumps({"phases": {"shared": recorded["shared"]}}))
    train(t, again, "--resume")
    found = json.loads(read(os.path.join(again, "memory.json")))["phases"]
    assert found["shared"] == recorded["shared"] and found["top1"] == recorded["top1"], found
    write(os.path.join(again, "memory.json"), "{")
    shutil.rmtree(checkpoint(again, 12))
    train(t, again, "--resume", code=1, says=("memory.json: damaged", "without this file the run goes on"))


main(dict(globals()))
