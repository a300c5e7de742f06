#!/usr/bin/env python3
"""Goldens of the gates: make_gate_goldens.py [CASE...] rewrites goldens/gate_CASE.json.

The model, data, random numbers, Adam and the form of a golden are those of make_goldens.py beside this file; here is, in
float64 and by PyTorch's gradients, what every gate of gates.lua computes, from the papers' formulas and from what
frontend/lua/moec documents of its options. Capacities, queues and expert choice are sorts over whole slices here,
the auction of BASE works on matrices. All experts work on all tokens and masks select.

Every choice has a margin, as make_goldens.py says; that of the auction, which has no single number to be near to, is
that assignments stay when the scores are disturbed by MARGIN.
"""
import math
import sys

import numpy as np
import torch

import make_goldens
from make_goldens import HERE, MARGIN, SIZE, Forward, Model, Rules, Run, gelu, layer_norm

GATE = {**SIZE, "layers": 2, "experts": 4, "moe_every": 2, "accumulate": 2, "groups": 4, "dropout": 0.0, "gate_init": 0.1}
CASES = {
    "switch": (3, {**GATE, "gate": "switch", "capacity": 1.0, "eval_capacity": 1.25, "balance": 0.1}),
    "gshard_sampling": (3, {**GATE, "gate": "gshard", "second": "sampling", "capacity": 0.75, "eval_capacity": 0.75}),
    "gshard_random": (1, {**GATE, "gate": "gshard", "second": "random", "normalize": "before", "capacity": 0.75, "steps": 8,
                          "priority": "probability", "clip": 0.5}),
    "gshard_all": (5, {**GATE, "gate": "gshard", "normalize": "none", "dropout": 0.1}),
    "noisy": (6, {**GATE, "gate": "noisy", "importance": 0.1, "load": 0.1}),
    "sigmoid": (1, {**GATE, "gate": "sigmoid", "k": 2, "lr": 0.002, "steps": 12}),
    "dselect": (2, {**GATE, "gate": "dselect", "experts": 6, "steps": 8}),
    "hash": (9, {**GATE, "gate": "hash", "table": "balanced"}),
    "base": (15, {**GATE, "gate": "base", "steps": 8}),
    "stable": (1, {**GATE, "gate": "stable", "balance": 0.3, "accumulate": 1, "steps": 10, "first": 5}),
    "choice": (1, {**GATE, "gate": "choice", "capacity": 1.5, "steps": 8}),
}
DEFAULTS = {"k": 2, "balance": 0.01, "capacity": 0.0, "eval_capacity": 0.0, "second": "all", "normalize": "after",
            "priority": "token", "importance": 0.01, "load": 0.01, "rate": 0.01, "scale": 1.5, "gamma": 1.0,
            "entropy": 1e-4, "unreached": 1e-3, "table": "random", "first": 8, "word_d": 8, "distill": 0.3, "sublayers": 2,
            "random_threshold": 0.5, "epsilon": 0.01}
RESIDUAL = ("base", "stable")


class GateRules(Rules):
    def __init__(self, config):
        super().__init__("models/gpt_switch.lua")
        self.last = config["gate"]

    def is_frozen(self, name, phase):
        return name.endswith(("gate.bias", "hash_table")) or phase == "frozen" and ".router." in name


# ---------------------------------------------------------------- choices over a slice


def first_rows(order, capacity):
    """By column: 1 at the `capacity` rows of largest order, where that is positive."""
    kept = torch.zeros_like(order)
    for column in range(order.shape[1]):
        rows = torch.argsort(-order[:, column], stable=True)[:capacity]
        kept[rows, column] = 1.0
    return kept * (order > 0)


def auction(score):
    """The assignment of rows [S,E] to experts, S/E each; matrices as in Lewis et al. (2021), experts first."""
    value = score.T.clone()
    experts, rows = value.shape
    share, raw = rows // experts, value.clone()
    epsilon = max((raw.max() - raw.min()).item() / 50, 1e-4)
    cost, held = torch.zeros(rows), None
    for count in range(10000):
        order = torch.argsort(-value, dim=1, stable=True)
        top = value.gather(1, order[:, :share + 1])
        bids = torch.zeros_like(value).scatter(1, order[:, :share], top[:, :share] - top[:, share:] + epsilon)
        if held is not None and count < 100:
            bids[held] = epsilon
        high, winner = bids.max(0)
        if (high > 0).all():
            return torch.nn.functional.one_hot(winner, experts).double()
        cost += high
        value = raw - cost
        column = torch.nonzero(high > 0)[:, 0]
        held = (winner[column], column)
        value[held] = raw.max() if count < 100 else raw[held]
    raise RuntimeError("the auction does not end")


def disturbance(score, generator):
    """Noise on scores, the same for equal rows: which of those an expert gets makes no difference."""
    rows, which = score.round(decimals=12).unique(dim=0, return_inverse=True)
    return (MARGIN / 10 * torch.randn(rows.shape, generator=generator))[which]


# ---------------------------------------------------------------- the model


class GateModel(Model):
    def make_all(self, experts):
        super().make_all(experts)
        c, d = self.c, self.c["d"]
        for layer in filter(self.is_moe, range(1, c["layers"] + 1)):
            name = f"h{layer}.moe"
            del self.parameters[name + ".gate.w"]
            if c["gate"] in RESIDUAL:
                self.make_residual(f"h{layer}", name, experts, d)
            self.make_gate(name + ".gate", experts, d)
        if c["gate"] == "hash":
            self.put("hash_table", torch.tensor(hash_table(c, self.draws))[:, None])

    def make_residual(self, block, name, experts, d):
        for part in (".w1", ".b1", ".w2", ".b2"):
            del self.parameters[name + part]
        del self.parameters[block + ".layer_norm_2.g"], self.parameters[block + ".layer_norm_2.b"]
        for i in range(self.c["sublayers"]):
            suffix = "" if i == 0 else f"_{i + 1}"
            first, second = name + (".linear" if i == 0 else f".linear_{2 * i + 1}"), name + f".linear_{2 * i + 2}"
            self.put(f"{name}.layer_norm{suffix}.g", torch.ones(experts, d))
            self.put(f"{name}.layer_norm{suffix}.b", torch.zeros(experts, d))
            self.put(first + ".w", self.draws.normal((experts, 4 * d, d), first + ".w", 0.02))
            self.put(first + ".b", torch.zeros(experts, 4 * d))
            self.put(second + ".w", torch.zeros(experts, d, 4 * d))
            self.put(second + ".b", torch.zeros(experts, d))

    def orthogonal(self, name, rows, columns):
        """The orthogonal factor of the polar decomposition."""
        u, _, v = torch.linalg.svd(self.draws.normal((rows, columns), name, 1.0), full_matrices=False)
        self.put(name, 0.1 * u @ v)

    def uniform(self, name, *shape, bound):
        self.put(name, (self.draws.of_parameter(shape, name, 0) - 0.5) * (2 * bound))

    def make_gate(self, name, experts, d):
        c, gate = self.c, self.c["gate"]
        if gate in ("switch", "gshard", "noisy", "sigmoid", "choice"):
            self.put(name + ".w", self.draws.normal((experts, d), name + ".w", c["gate_init"]))
        if gate == "noisy":
            self.put(name + ".noise.w", self.draws.normal((experts, d), name + ".noise.w", c["gate_init"]))
        if gate == "sigmoid":
            self.put(name + ".bias", torch.zeros(experts))
        if gate in RESIDUAL:
            self.orthogonal(name + ".w", experts, d)
        if gate == "stable":
            self.put(name + ".router.words", self.draws.normal((c["vocab"], c["word_d"]), name + ".router.words", 1.0))
            self.orthogonal(name + ".router.w", experts, c["word_d"])
        if gate == "dselect":
            bits = (experts - 1).bit_length()
            self.uniform(name + ".selector.w", c["k"] * bits, d, bound=c["gamma"] / 100)
            self.uniform(name + ".selector.b", c["k"] * bits, bound=c["gamma"] / 100)
            self.uniform(name + ".mixture.w", c["k"], d, bound=0.05)
            self.uniform(name + ".mixture.b", c["k"], bound=0.05)


def hash_table(c, draws):
    if c["table"] == "random":
        return np.floor(draws.uniform(np.arange(c["vocab"]), 1, "gate.hash", 0)[:, 0].numpy() * c["experts"])
    counts = np.bincount(np.frombuffer((HERE / "train.txt").read_bytes(), np.uint8), minlength=c["vocab"])
    taken, kinds = [0] * c["experts"], [0] * c["experts"]
    table = np.zeros(c["vocab"])
    for token in sorted(range(c["vocab"]), key=lambda v: (-counts[v], v)):
        load = taken if counts[token] else kinds
        expert = load.index(min(load))
        taken[expert] += int(counts[token])
        kinds[expert] += 1
        table[token] = expert
    return table


class GateForward(Forward):
    """Rows of all windows in order; `live`: 1 for those that are there."""

    def __init__(self, model, phase, training, live, **rest):
        super().__init__(model, phase, training, **rest)
        self.live = live.reshape(-1, 1).double()
        self.losses, self.next = {}, {}
        c = self.c
        self.slice = c["batch"] * c["seq"] // c["groups"]

    def draw(self, name, ordinal, columns):
        return self.model.draws.uniform(self.token.reshape(-1), columns, f"{name}#{ordinal}", self.step)

    def lose(self, name, value):
        if self.training:
            self.losses.setdefault(name, []).append(value)

    def mean(self, x):
        return (x * self.live).sum(0) / self.live.sum()

    def count(self, mask):
        return (mask * self.live).sum(0)

    def balance_loss(self, mask, p):
        self.lose("balance", mask.shape[1] * (self.mean(mask) * self.mean(p)).sum())

    def top(self, score, k=1):
        """As the base class has it; the margin is that of live rows, of small scores relative to the largest."""
        if k == score.shape[-1]:
            return torch.ones_like(score)
        best = score.detach().topk(k + 1, -1)
        gap = (best.values[:, k - 1] - best.values[:, k])[self.live[:, 0] > 0]
        gap = gap / score.detach().abs().max().clamp_max(1)
        self.note_margin(gap)
        return torch.nn.functional.one_hot(best.indices[:, :k], score.shape[-1]).sum(-2).double()

    def by_slices(self, order, capacity, note=False):
        """The rows that each expert takes of every slice; where `note`, the order comes from numbers that may be near."""
        kept = []
        for part in (order.detach() * self.live).split(self.slice):
            kept.append(first_rows(part, capacity))
            sorted_part = part.sort(0, descending=True).values
            if note and capacity < len(part):
                last, left = sorted_part[capacity - 1], sorted_part[capacity]
                near = (last > 0) & (left > 0) & (last - left > 1e-13)  # equal rows: either gives the same
                if near.any():
                    self.note_margin((last.log() - left.log())[near])
        return torch.cat(kept)

    def capacity(self, k):
        factor = self.c["capacity"] if self.training else self.c["eval_capacity"]
        return k * int(factor * math.ceil(self.slice / self.c["experts"])) if factor else None

    def positions(self):
        """Earlier tokens stand before later ones."""
        return torch.arange(len(self.live), 0, -1)[:, None].double()

    # ---- the gates: weight, mask; x [rows, D]

    def gate_switch(self, name, x):
        log_p = (x @ self.p[name + ".w"].T).log_softmax(-1)
        mask = self.top(log_p)
        self.balance_loss(mask, log_p.exp())
        capacity = self.capacity(1)
        return log_p.exp(), mask * self.by_slices(mask * self.positions(), capacity) if capacity else mask

    def gate_gshard(self, name, x):
        c = self.c
        z = x @ self.p[name + ".w"].T
        p = z.softmax(-1)
        first = self.top(z)
        noisy = z
        if self.training and c["second"] == "sampling":
            noisy = z - torch.log(-torch.log(self.draw(name, 1, z.shape[1])))
        second = self.top(noisy.masked_fill(first > 0, -1e9))
        weight = p
        if c["normalize"] == "before":
            weight = p * (first + second) / ((p * (first + second)).sum(-1, keepdim=True) + 1e-9)
        if self.training and c["second"] == "random":
            chance = (weight * second).sum(-1, keepdim=True).detach() / c["random_threshold"]
            u = self.draw(name, 1, 1)
            self.note_margin((chance - u).abs())
            second = second * (chance > u)
        self.balance_loss(first, p)
        mask, capacity = first + second, self.capacity(2)
        if capacity and c["priority"] == "token":
            mask = mask * self.by_slices(first * (1e6 + self.positions()) + second * self.positions(), capacity)
        elif capacity:
            largest = p.max(-1, keepdim=True).values
            mask = mask * self.by_slices(first * largest + second * largest * 1e-9, capacity, note=True)
        if c["normalize"] == "after":
            weight = p * mask / (p * mask).sum(-1, keepdim=True).clamp_min(1.1920929e-7)
        return weight, mask

    def gate_noisy(self, name, x):
        clean, k = x @ self.p[name + ".w"].T, self.c["k"]
        if not self.training:
            mask = self.top(clean, k)
            return clean.masked_fill(mask == 0, -math.inf).softmax(-1), mask
        deviation = torch.nn.functional.softplus(x @ self.p[name + ".noise.w"].T) + self.c["epsilon"]
        first, second = self.draw(name, 1, clean.shape[1]), self.draw(name, 2, clean.shape[1])
        noisy = clean + torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second) * deviation
        mask = self.top(noisy, k)
        weight = noisy.masked_fill(mask == 0, -math.inf).softmax(-1)
        chance = mask
        if k < clean.shape[1]:
            best = noisy.topk(k + 1, -1).values
            threshold = torch.where(mask > 0, best[:, k:k + 1], best[:, k - 1:k])
            chance = torch.distributions.Normal(0.0, 1.0).cdf((clean - threshold) / deviation)

        def variation(load):
            return load.var(unbiased=False) / (load.mean()**2 + 1e-10)

        self.lose("importance", variation(self.count(weight)))
        self.lose("load_balance", variation(self.count(chance)))
        return weight, mask

    def gate_sigmoid(self, name, x):
        s, bias = torch.sigmoid(x @ self.p[name + ".w"].T), self.p[name + ".bias"].detach()
        mask = self.top(s + bias, self.c["k"])
        load = self.count(mask)
        self.next[name + ".bias"] = bias + self.c["rate"] * torch.sign(load.mean() - load)
        whole = (s * mask).sum(-1, keepdim=True) + 1e-20 if self.c["k"] > 1 else 1
        return self.c["scale"] * s * mask / whole, mask

    def gate_dselect(self, name, x):
        c, k, gamma = self.c, self.c["k"], self.c["gamma"]
        experts, bits = c["experts"], (c["experts"] - 1).bit_length()
        z = x @ self.p[name + ".selector.w"].T + self.p[name + ".selector.b"]
        self.note_margin((z.abs() - gamma / 2).abs().detach())
        s = torch.where(z <= -gamma / 2, 0.0,
                        torch.where(z >= gamma / 2, 1.0, -2 * z**3 / gamma**3 + 1.5 * z / gamma + 0.5))
        s = s.reshape(-1, k, 1, bits)
        code = torch.tensor([[(e >> (bits - 1 - b)) & 1 for b in range(bits)] for e in range(experts)]).double()
        r = (s * code + (1 - s) * (1 - code)).prod(-1)
        share = (x @ self.p[name + ".mixture.w"].T + self.p[name + ".mixture.b"]).softmax(-1)
        self.lose("entropy", c["accumulate"] * -(r * torch.log(r + 1e-6)).sum((1, 2)) @ self.live[:, 0])
        if experts != 2**bits:
            self.lose("unreached", c["accumulate"] * (1 / r.sum(-1)).sum(1) @ self.live[:, 0])
        weight = (share[:, :, None] * r).sum(1)
        return weight, (weight > 0).double()

    def gate_hash(self, name, x):
        expert = self.p["hash_table"].detach()[self.ids, 0].long()
        mask = torch.nn.functional.one_hot(expert, self.c["experts"]).double()
        return mask, mask

    def gate_base(self, name, x):
        z = x @ self.p[name + ".w"].T
        if not self.training:
            return torch.sigmoid(z), self.top(z)
        parts = z.detach().split(self.slice)
        mask = torch.cat([auction(part) for part in parts])
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            disturbed = [part + disturbance(part, generator) for part in parts]
            if not torch.equal(torch.cat([auction(part) for part in disturbed]), mask):
                self.model.margin = 0.0
        return torch.sigmoid(z), mask

    def gate_stable(self, name, x):
        z = x @ self.p[name + ".w"].T
        routed = self.p[name + ".router.words"][self.ids] @ self.p[name + ".router.w"].T
        alpha, capacity = torch.sigmoid(z), self.capacity(1)
        if not self.training or self.phase == "frozen":
            mask = self.top(routed)
        else:
            mask = self.top(z)
            load = self.count(mask)
            even = load.sum() / len(load)
            self.lose("balance", ((load - even) / even * self.count(mask * alpha)).sum() / self.live.sum())
            missed = torch.nn.functional.cross_entropy(routed, mask.argmax(-1), reduction="none")
            self.lose("distill", self.mean(missed[:, None])[0])
        return alpha, mask * self.by_slices(mask * self.positions(), capacity) if capacity else mask

    def gate_choice(self, name, x):
        p = (x @ self.p[name + ".w"].T).softmax(-1)
        taken = min(self.slice, int(self.c["capacity"] * self.slice / self.c["experts"]))
        return p, self.by_slices(p, taken, note=True)

    # ---- layers

    def residual_expert(self, name, x, e):
        y = x
        for i in range(self.c["sublayers"]):
            norm = name + (".layer_norm" if i == 0 else f".layer_norm_{i + 1}")
            first, second = name + (".linear" if i == 0 else f".linear_{2 * i + 1}"), name + f".linear_{2 * i + 2}"
            h = layer_norm(y, self.p[norm + ".g"][e], self.p[norm + ".b"][e])
            h = gelu(h @ self.p[first + ".w"][e].T + self.p[first + ".b"][e])
            y = y + h @ self.p[second + ".w"][e].T + self.p[second + ".b"][e]
        return y - x

    def moe(self, name, x):
        rows = x.reshape(-1, x.shape[-1])
        weight, mask = getattr(self, "gate_" + self.c["gate"])(name + ".gate", rows)
        mask = mask * self.live
        self.load[name] = [int(n) for n in mask.sum(0)]
        expert = self.residual_expert if self.c["gate"] in RESIDUAL else self.expert
        y = sum((weight * mask)[:, e:e + 1] * expert(name, rows, e) for e in range(mask.shape[1]))
        return y.reshape(x.shape)

    def logits(self, tokens):
        self.ids = tokens.reshape(-1)
        x = self.dropout("dropout", self.p["embedding.w"][tokens] + self.p["positions.w"][:tokens.shape[1]])
        for layer in range(1, self.c["layers"] + 1):
            h = f"h{layer}."
            x = x + self.dropout(h + "dropout", self.attention(h + "attention", self.norm(h + "layer_norm", x)))
            if self.model.is_moe(layer) and self.c["gate"] in RESIDUAL:
                x = x + self.moe(h + "moe", x)
                continue
            y = self.norm(h + "layer_norm_2", x)
            y = self.moe(h + "moe", y) if self.model.is_moe(layer) else self.expert(h + "ffn", y, 0)
            x = x + self.dropout(h + "dropout_2", y)
        return self.norm("layer_norm", x) @ self.p["embedding.w"].T

    def cross_entropy(self, windows):
        log_p = self.logits(windows[:, :-1]).log_softmax(-1)
        hit = log_p.gather(-1, windows[:, 1:, None])[..., 0]
        return -(hit * self.live.reshape(hit.shape)).sum()


# ---------------------------------------------------------------- a run


class GateRun(Run):
    def __init__(self, seed, config):
        config = {**DEFAULTS, **config}
        self.c, self.rules = config, GateRules(config)
        self.model = GateModel(self.rules, config, seed)
        self.train, self.valid = make_goldens.read_tokens("train.txt"), make_goldens.read_tokens("valid.txt")
        self.order = make_goldens.Order(len(self.train), config["seq"], seed)
        self.phases = [("distill", 0), ("frozen", config["first"])] if config["gate"] == "stable" else [(config["gate"], 0)]
        self.lines, self.evaluations = [], []
        self.weights = {"balance": config["balance"], "importance": config["importance"], "load_balance": config["load"],
                        "entropy": config["entropy"], "unreached": config["unreached"], "distill": config["distill"]}

    def update(self, phase, step):
        c, model = self.c, self.model
        micro, length, share = c["batch"] // c["accumulate"], c["seq"], 1 / c["accumulate"]
        ce, losses, load, following = 0.0, {}, {}, {}
        for first in range(0, c["batch"], micro):
            starts = [self.order.start(step * c["batch"] + first + i) for i in range(micro)]
            windows = torch.stack([self.train[at:at + length + 1] for at in starts])
            token = np.arange(first * length, (first + micro) * length).reshape(micro, length)
            run = GateForward(model, phase, True, torch.ones(micro, length), token=token, step=step)
            total = run.cross_entropy(windows) / (c["batch"] * length)
            ce += total.item()
            for name, terms in run.losses.items():
                part = sum(terms) / len(terms) * share
                losses[name] = losses.get(name, 0.0) + part.item()
                total = total + self.weights[name] * part
            total.backward()
            for name, value in run.next.items():
                following[name] = following.get(name, 0) + value * share
            for name, counts in run.load.items():
                load[name] = [a + b for a, b in zip(load.get(name, [0] * len(counts)), counts)]
        loss = ce + sum(value * self.weights[name] for name, value in losses.items())
        experts = sum(map(sum, load.values())) / (c["batch"] * length * len(load))
        norm = model.update(step, phase)
        for name, value in following.items():
            model.parameters[name] = value.detach().clone().requires_grad_()
        self.lines.append({"step": step + 1, "phase": phase, "loss": loss, "ce": ce, **dict(sorted(losses.items())),
                           "grad_norm": norm, "experts_per_token": experts, "load": load})

    @torch.no_grad()
    def evaluate(self, phase, step):
        """The windows of a micro-batch at a time, as routing groups have it; the last one is filled with dead tokens."""
        length, targets = self.c["seq"], len(self.valid) - 1
        micro = self.c["batch"] // self.c["accumulate"]
        rows = micro * length
        total = 0.0
        for first in range(0, targets, rows):
            count = min(rows, targets - first)
            at = torch.arange(micro)[:, None] * length + torch.arange(length + 1)
            windows = self.valid[(first + at).clamp_max(targets)]
            live = torch.arange(rows).reshape(micro, length) < count
            run = GateForward(self.model, phase, False, live)
            total += run.cross_entropy(windows).item()
        self.evaluations.append({"step": step, "phase": phase, "ce": total / targets})


def write(name):
    seed, config = CASES[name]
    run = GateRun(seed, config)
    run.run()
    make_goldens.write_golden("gate_" + name, "tests/parity/gates.lua", seed, config, run)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write(case)
