#!/usr/bin/env python3
"""Goldens of one MoE layer, number by number: make_layer_goldens.py [CASE...] rewrites goldens/layer/CASE.json.

A case is a phase of layer.lua: one gate between embedding and tied logits. Its golden holds everything that goes in
(tokens, some of them dead, one live without a target; parameters in sixty-fourths, which f32 holds exactly; tau; the seed
and the step of the draws) and what comes out in training and evaluation, in float64 by PyTorch's gradients: losses, loads,
the layer's output, the gradient of every parameter, the next value of a state. The gates are those of make_goldens.py and
make_gate_goldens.py beside this file.

Biases and second products are not 0 here, unlike at the start of training, so that no gradient vanishes. Every choice
has a margin, as make_goldens.py says: the first seed with MARGIN is taken.
"""
import itertools
import json
import math
import sys
import types

import numpy as np
import torch

import make_goldens
from make_gate_goldens import DEFAULTS, RESIDUAL, GateForward
from make_goldens import HERE, Draws, Forward

MARGIN = 1e-3
BATCH, LENGTH, VOCAB, D, HIDDEN, STEP, TAU = 2, 8, 12, 4, 5, 3, 0.7
ROWS = BATCH * LENGTH
DIGITS = 9  # behind the point of a tensor's largest number

DTS = {"gate": "dts", "threshold": 0.15, "balance": 0.1}
SWITCH = {"gate": "switch", "balance": 0.1}
GSHARD = {"gate": "gshard", "balance": 0.1}
NOISY = {"gate": "noisy", "importance": 0.1, "load": 0.1}
STABLE = {"gate": "stable", "balance": 0.3, "distill": 0.3, "capacity": 1.0, "eval_capacity": 1.5, "word_d": 5}
CASES = {
    "dts_paper": DTS,
    "dts_code": {**DTS, "weight": "code"},
    "dts_fallback": {**DTS, "threshold": 0.6},
    "top1_paper": DTS,
    "top1_code": {**DTS, "weight": "code"},
    "top1_tau": {**DTS, "eval_tau": 0.4},
    "topk_one": {"gate": "topk", "k": 1, "balance": 0.1},
    "topk_two": {"gate": "topk", "k": 2, "balance": 0.1, "jitter": 0.1, "z": 0.01},
    "switch": SWITCH,
    "switch_capacity": {**SWITCH, "capacity": 1.0, "eval_capacity": 1.25},
    "switch_jitter": {**SWITCH, "jitter": 0.1, "z": 0.01},
    "gshard_sampling_after": {**GSHARD, "second": "sampling", "capacity": 0.75},
    "gshard_sampling_before": {**GSHARD, "second": "sampling", "normalize": "before", "capacity": 1.0},
    "gshard_random_after": {**GSHARD, "second": "random", "capacity": 0.75, "priority": "probability"},
    "gshard_random_before": {**GSHARD, "second": "random", "normalize": "before", "capacity": 0.75, "random_threshold": 0.8},
    "gshard_all_after": GSHARD,
    "gshard_all_before": {**GSHARD, "normalize": "before", "capacity": 0.5, "eval_capacity": 0.75},
    "gshard_all_none": {**GSHARD, "normalize": "none", "capacity": 1.0, "z": 0.01},
    "noisy_one": {**NOISY, "k": 1},
    "noisy_two": NOISY,
    "noisy_four": {**NOISY, "k": 4, "epsilon": 0.5},
    "sigmoid_one": {"gate": "sigmoid", "k": 1, "rate": 0.125, "scale": 1.0, "balance": 0.1, "balanced": True},
    "sigmoid_two": {"gate": "sigmoid", "rate": 0.125},
    "dselect": {"gate": "dselect", "entropy": 1e-2},
    "choice": {"gate": "choice", "capacity": 1.5},
    "hash": {"gate": "hash"},
    "cosine": {"gate": "cosine"},
    "dselect_six": {"gate": "dselect", "experts": 6, "entropy": 1e-2, "unreached": 1e-2, "gamma": 2.0},
    "base": {"gate": "base"},
    "stable_distill": STABLE,
    "stable_frozen": STABLE,
}
OWN = {"accumulate": 1, "batch": BATCH, "seq": LENGTH, "groups": 2, "experts": 4, "dropout": 0.0, "jitter": 0.0, "z": 0.0}


def config_of(name):
    c = {**DEFAULTS, **OWN, **CASES[name]}
    c["eval_capacity"] = c["eval_capacity"] or c["capacity"]
    return c


def set_of(c):
    """The set of layer.lua that has the gate."""
    if c["experts"] == 6:
        return "six_experts"
    sets = {"dts": "evomoe", "topk": "top", "switch": "top", "gshard": "top", **dict.fromkeys(RESIDUAL, "residual")}
    return sets.get(c["gate"], "others")


# ---------------------------------------------------------------- what goes in


def shapes(c):
    """Of all parameters and states, by name."""
    experts, gate = c["experts"], c["gate"]
    bits = (experts - 1).bit_length()
    result = {"embedding.w": (VOCAB, D)}
    if gate in RESIDUAL:
        for suffix, first, second in (("", "", "_2"), ("_2", "_3", "_4")):
            result[f"moe.layer_norm{suffix}.g"] = result[f"moe.layer_norm{suffix}.b"] = (experts, D)
            result[f"moe.linear{first}.w"], result[f"moe.linear{first}.b"] = (experts, HIDDEN, D), (experts, HIDDEN)
            result[f"moe.linear{second}.w"], result[f"moe.linear{second}.b"] = (experts, D, HIDDEN), (experts, D)
    else:
        result["moe.w1"] = result["moe.w2"] = (experts, HIDDEN, D)
        result["moe.b1"], result["moe.b2"] = (experts, HIDDEN), (experts, D)
    own = {
        "dselect": {"selector.w": (c["k"] * bits, D), "selector.b": (c["k"] * bits,), "mixture.w": (c["k"], D),
                    "mixture.b": (c["k"],)},
        "noisy": {"w": (experts, D), "noise.w": (experts, D)},
        "sigmoid": {"w": (experts, D), "bias": (experts,)},
        "stable": {"w": (experts, D), "router.words": (VOCAB, c["word_d"]), "router.w": (experts, c["word_d"])},
        "hash": {},
    }
    for part, shape in own.get(gate, {"w": (experts, D)}).items():
        result["moe.gate." + part] = shape
    if gate == "hash":
        result["hash_table"] = (VOCAB, 1)
    return result


def is_state(name):
    return name in ("hash_table", "moe.gate.bias")


def make_inputs(c, seed):
    source = np.random.default_rng(seed)
    inputs = {
        "tokens": source.integers(VOCAB, size=ROWS).tolist(), "targets": source.integers(VOCAB, size=ROWS).tolist(),
        "weight": [float(i not in (5, ROWS - 2, ROWS - 1)) for i in range(ROWS)],
        "live": [float(i < ROWS - 2) for i in range(ROWS)],
        "position": [i % LENGTH for i in range(ROWS)], "off": [i * LENGTH for i in range(BATCH + 1)],
    }
    parts = {}
    for name, shape in shapes(c).items():
        size = math.prod(shape)
        value = source.integers(-64, 65, size=size) + 64 * name.endswith(".g")
        if name == "hash_table":
            value = 64 * source.integers(c["experts"], size=size)
        parts[name] = {"shape": shape, "parts": value.tolist()}
    return inputs, parts


# ---------------------------------------------------------------- the layer


class Layer(GateForward):
    def __init__(self, name, c, seed, inputs, parts, mode):
        self.c, self.training, self.dense_gate = c, mode == "train", mode == "eval_gate"
        self.phase = {"top": "top1", "sta": name[7:]}.get(name[:3], name)
        self.rules = types.SimpleNamespace(features=False)
        self.model = types.SimpleNamespace(draws=Draws(seed), margin=math.inf)
        self.p = {key: (torch.tensor(given["parts"]) / 64.0).reshape(given["shape"]).requires_grad_()
                  for key, given in parts.items()}
        self.inputs, self.ids = inputs, torch.tensor(inputs["tokens"])
        self.live, self.slice = torch.tensor(inputs["live"])[:, None], ROWS // c["groups"]
        self.token, self.step = np.arange(ROWS), STEP
        self.tau = TAU if self.training or "eval_tau" not in c else c["eval_tau"]
        self.losses, self.next, self.load = {}, {}, {}

    def note_margin(self, distance):
        self.model.margin = min(self.model.margin, distance.min().item())

    def gate_dts(self, name, x):
        weight, mask, p = Forward.gate_dts(self, name, x)
        if self.training:
            self.balance_loss(mask, p)
        return weight, mask

    def seen(self, name, x):
        """What the router sees of x, with the loss on how large its scores are."""
        jitter = self.c["jitter"]
        if self.training and jitter:
            x = x * (1 - jitter + 2 * jitter * self.draw(name, 1, D))
        if self.c["z"]:
            self.lose("z", self.mean(torch.logsumexp(x @ self.p[name + ".w"].T, -1, keepdim=True)**2)[0])
        return x

    def gate_switch(self, name, x):
        return super().gate_switch(name, self.seen(name, x))

    def gate_gshard(self, name, x):
        return super().gate_gshard(name, self.seen(name, x))

    def gate_topk(self, name, x):
        x = self.seen(name, x)
        p, k = (x @ self.p[name + ".w"].T).softmax(-1), self.c["k"]
        mask = self.top(p, k)
        self.balance_loss(self.top(p), p)
        return p / (p * mask).sum(-1, keepdim=True) if k > 1 else p, mask

    def gate_sigmoid(self, name, x):
        weight, mask = super().gate_sigmoid(name, x)
        if "balanced" in self.c:
            self.balance_loss(mask, torch.sigmoid(x @ self.p[name + ".w"].T))
        return weight, mask

    def gate_cosine(self, name, x):
        p = (10 * torch.nn.functional.cosine_similarity(x[:, None], self.p[name + ".w"][None], dim=-1)).softmax(-1)
        mask = self.top(p, 2)
        self.balance_loss(mask, p)
        return p * mask / (p * mask).sum(-1, keepdim=True), mask

    def run(self):
        """The results by name; gradients of everything that learns."""
        x = self.p["embedding.w"][self.ids]
        y = self.moe("moe", x)
        y.retain_grad()
        log_p = ((x + y) @ self.p["embedding.w"].T).log_softmax(-1)
        weight = torch.tensor(self.inputs["weight"])
        ce = -(weight * log_p[range(ROWS), self.inputs["targets"]]).sum() / weight.sum()
        results = {"ce": ce, "load.moe": torch.tensor(self.load["moe"]), "y": y}
        if not self.training:
            return results
        losses = {name: sum(terms) for name, terms in self.losses.items()}
        scale = {**self.c, "load_balance": self.c["load"]}
        results["loss"] = ce + sum(scale[name] * value for name, value in losses.items())
        results["loss"].backward()
        results |= {"aux." + name: value for name, value in losses.items()}
        results |= {"next @" + name: value for name, value in self.next.items()}
        for name, p in self.p.items():
            if not is_state(name) and not (self.phase == "frozen" and ".router." in name):
                results["grad @" + name] = torch.zeros_like(p) if p.grad is None else p.grad
        return results


# ---------------------------------------------------------------- the golden


def numbers(tensor):
    """What is 0 but for rounding is 0."""
    values = tensor.detach().double().reshape(-1)
    largest = values.abs().max().item()
    if largest < 1e-12:
        return [0] * len(values)
    digits = DIGITS - math.ceil(math.log10(largest))
    return [int(v) if v == int(v) else v for v in (round(v.item(), digits) for v in values)]


def make(name, c, seed):
    """The golden's parts and its margin."""
    inputs, parts = make_inputs(c, seed)
    margin, results = math.inf, {}
    for mode in ["train", "eval"] + ["eval_gate"] * name.startswith("dts_"):
        layer = Layer(name, c, seed, inputs, parts, mode)
        results[mode] = {key: numbers(value) for key, value in layer.run().items()}
        margin = min(margin, layer.model.margin)
    return inputs, parts, results, margin


def lines_of(table):
    """An entry a line."""
    entries = [f"  {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in table.items()]
    return "{\n" + ",\n".join(entries) + "\n}"


def write(name):
    c = config_of(name)
    for seed in itertools.count(1):
        inputs, parts, results, margin = make(name, c, seed)
        loads = results["train"]["load.moe"]
        if margin >= MARGIN and sum(n > 0 for n in loads) > 1:
            break
    lines = [f'"set": "{set_of(c)}",', f'"experts": {c["experts"]},']
    lines += [f'"seed": {seed},', f'"step": {STEP},', f'"tau": {TAU},']
    lines += [f'"inputs": {lines_of(inputs)},', f'"parameters": {lines_of(parts)},']
    modes = ",\n".join(f'"{mode}": {lines_of(values)}' for mode, values in results.items())
    lines.append(f'"results": {{\n{modes}\n}}')
    (HERE / "goldens" / "layer").mkdir(exist_ok=True)
    (HERE / "goldens" / "layer" / f"{name}.json").write_text("{\n" + "\n".join(lines) + "\n}\n")
    print(f"{name}: seed {seed}, loss {results['train']['loss'][0]:.6f}, margin {margin:.2g}, load {loads}")


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write(case)
