#!/usr/bin/env python3
"""Goldens of the parity test: what an independent implementation gets for the models of models/*.lua.

    make_goldens.py [CASE...]      rewrites goldens/CASE.json (all without an argument)

Needs PyTorch (2.x, CPU) and NumPy; nothing of moec: everything from the random numbers to Adam is written here again,
in float64, from what is documented: the scripts of models/ and features.lua beside this file, EvoMoE's formulas (arXiv
2112.14397, Eq. 8-11, Alg. 1-2), docs/names.md for initialisation and random streams, docs/ops.md for `uniform` and
`attention`, runtime/data.h and data.c for the order of the data. Gradients are torch's. All experts work on all tokens
here and masks select, where moec packs rows.

A golden holds its case (model, -D overrides, seed) and, per update, the phase, losses, norm of the gradient and how
many tokens each expert took; and the evaluations at the ends of the phases. tests/parity/parity.py trains the same
cases with moec and compares.

Choices (Top-1, threshold) are discontinuous: an f32 run may choose otherwise than this one where it is nearly a tie.
So each case records its margin, the least difference of log-probabilities (or to the log of the threshold) over all
choices in training, and must reach MARGIN, well above what rounding adds up to (losses of the two differ by 3e-7); a
case that does not needs another seed. Switch, without noise and with a gate that starts near zero, is the tightest.
"""
import json
import math
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
MARGIN = 2e-5

# The keys are those of the scripts. Small enough to train in a second and for choices with margin, with every feature
# on somewhere: accumulation, clipping, dropout, jitter, z loss, both weight modes, both curves, moments copied or not.
SIZE = {"vocab": 256, "seq": 16, "batch": 8, "accumulate": 1, "layers": 4, "d": 32, "heads": 4, "dropout": 0.0,
        "lr": 0.004, "warmup": 4, "weight_decay": 0.1, "clip": 0.0, "steps": 20}
EXPERTS = {"experts": 4, "moe_every": 2}
PHASES = {"threshold": 0.001, "balance": 0.1, "mask": 0.1, "shared_steps": 8, "anneal_steps": 9, "dense_steps": 11,
          "steps": 28, "tau_max": 2.0, "tau_min": 0.3}
CASES = {
    "dense": ("models/gpt_dense.lua", 1, {**SIZE, "wider": False}),
    "dense_dropout": ("models/gpt_dense.lua", 2**33 + 5, {**SIZE, "wider": True, "dropout": 0.1, "accumulate": 2,
                                                          "clip": 1.0}),
    "switch": ("models/gpt_switch.lua", 5, {**SIZE, **EXPERTS, "balance": 0.01, "jitter": 0.0, "z_loss": 0.0}),
    "switch_jitter": ("models/gpt_switch.lua", 20, {**SIZE, **EXPERTS, "balance": 0.1, "jitter": 0.01, "z_loss": 0.01,
                                                    "dropout": 0.1, "accumulate": 2, "clip": 0.5}),
    "evomoe_paper": ("models/gpt_evomoe.lua", 1, {**SIZE, **EXPERTS, **PHASES, "weight": "paper", "moments": "copy",
                                                  "curve": "linear", "clip": 1.0}),
    "evomoe_code": ("models/gpt_evomoe.lua", 1, {**SIZE, **EXPERTS, **PHASES, "weight": "code", "moments": "zero",
                                                 "curve": "exponential", "dropout": 0.1, "accumulate": 2}),
    "features": ("tests/parity/features.lua", 15, {
        **SIZE, "experts": 4, "layers": 2, "accumulate": 2, "dropout": 0.1, "threshold": 0.3, "balance": 0.05,
        "noise": 0.01, "final": 0.0005, "weight_decay": 0.2, "clip": 1.0, "shared_steps": 7, "dense_steps": 7,
        "steps": 21, "tau_max": 2.0, "tau_min": 0.5, "anneal_steps": 6, "smoothing": 0.1}),
}


class Rules:
    """What a script says beside the keys of its configuration."""

    def __init__(self, model):
        features = model == "tests/parity/features.lua"
        self.features = features
        self.moe = model != "models/gpt_dense.lua"
        self.one_first = features or model == "models/gpt_evomoe.lua"
        self.last = {"models/gpt_dense.lua": "train", "models/gpt_switch.lua": "switch",
                     "models/gpt_evomoe.lua": "top1"}.get(model, "top2")
        self.betas, self.epsilon = ((0.9, 0.999), 1e-6) if features else ((0.9, 0.98), 1e-8)

    def decays(self, name):
        return not (self.features and name.endswith((".b", ".g")))

    def is_frozen(self, name, phase):
        return self.features and phase == "top2" and (name == "positions.w" or name.startswith("h1.attention."))

    def learning_rate(self, c, step):
        if step < c["warmup"]:
            return c["lr"] * (step + 1) / c["warmup"]
        left = max(0, 1 - (step - c["warmup"]) / (c["steps"] - c["warmup"]))
        if self.features:
            return c["final"] + (c["lr"] - c["final"]) * (1 - math.cos(math.pi * left)) / 2
        return c["lr"] * left

    def temperature(self, c, step):
        """`step` counts from the start of the gate's life."""
        if step >= c["anneal_steps"]:
            return c["tau_min"]
        share = step / c["anneal_steps"]
        if not self.features and c["curve"] == "linear":
            return c["tau_max"] + (c["tau_min"] - c["tau_max"]) * share
        return c["tau_max"] * (c["tau_min"] / c["tau_max"])**share


# ---------------------------------------------------------------- random numbers


def tag(text):
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def philox(counter, key):
    """First word of Philox 4x32-10 (Salmon et al. 2011); counter: four arrays of uint64 below 2^32, key: two ints."""
    low = np.uint64(0xFFFFFFFF)
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        x, y = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, c = (y >> np.uint64(32)) ^ b ^ np.uint64(k0), (x >> np.uint64(32)) ^ d ^ np.uint64(k1)
        b, d = y & low, x & low
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return a


class Draws:
    def __init__(self, seed):
        self.key = seed & 0xFFFFFFFF, seed >> 32

    def uniform(self, index, columns, name, step):
        """One row per index: ((x >> 9) + 0.5) / 2^23 of element index*columns + column."""
        element = np.asarray(index, np.uint64)[:, None] * np.uint64(columns) + np.arange(columns, dtype=np.uint64)
        same = np.zeros_like(element)
        counter = (element & np.uint64(0xFFFFFFFF), element >> np.uint64(32), same + np.uint64(tag(name)),
                   same + np.uint64(step))
        return torch.from_numpy(((philox(counter, self.key) >> np.uint64(9)).astype(np.float64) + 0.5) / 2**23)

    def of_parameter(self, shape, name, step):
        return self.uniform(np.arange(math.prod(shape[:-1])), shape[-1], name, step).reshape(shape)

    def normal(self, shape, name, deviation, step=0):
        """Box and Muller's transform of two uniform draws."""
        first, second = self.of_parameter(shape, name, step), self.of_parameter(shape, name + "#2", step)
        return torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second) * deviation


# ---------------------------------------------------------------- data


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


class Order:
    """Where sequence number i of a run begins: window i % windows of epoch i // windows."""

    def __init__(self, tokens, length, seed):
        self.length, self.seed = length, seed
        self.windows = max(1, tokens // length - 1)
        self.slack = min(tokens - 1 - self.windows * length, length - 1)

    def key(self, epoch, use):
        golden = 0x9E3779B97F4A7C15
        return mix((mix((self.seed + golden) % 2**64) + epoch * golden + use) % 2**64)

    def permute(self, index, key):
        """A Feistel network of six rounds over the least power of four, walked until it falls into the range."""
        half = 1
        while 4**half < self.windows:
            half += 1
        while True:
            left, right = index >> half, index % 2**half
            for number in range(6):
                left, right = right, left ^ mix((key + (number << 56) + right) % 2**64) % 2**half
            index = left << half | right
            if index < self.windows:
                return index

    def start(self, number):
        epoch, window = divmod(number, self.windows)
        offset = self.key(epoch, 1) % (self.slack + 1)
        return offset + self.permute(window, self.key(epoch, 2)) * self.length


# ---------------------------------------------------------------- the model


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, gain, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * gain + bias


class Forward:
    """One run of the model over windows of equal length; token [B, T], the global indices, and step: for the draws."""

    def __init__(self, model, phase, training, tau=None, token=None, step=None, dense_gate=False):
        self.model, self.c, self.p, self.rules = model, model.c, model.parameters, model.rules
        self.phase, self.training, self.tau, self.dense_gate = phase, training, tau, dense_gate
        self.token, self.step = token, step
        self.balance, self.z_loss, self.load = [], [], {}

    def uniform(self, name, x, expert=0, experts=1):
        """A number for each of x, whose rows are tokens, or pairs of a token and an expert."""
        rows = self.token.reshape(-1) * experts + expert
        return self.model.draws.uniform(rows, x.shape[-1], name + "#1", self.step).reshape(x.shape)

    def dropout(self, name, x, expert=0, experts=1):
        rate = self.c["dropout"]
        if not self.training or rate == 0:
            return x
        return torch.where(self.uniform(name, x, expert, experts) > rate, x / (1 - rate), 0.0)

    def norm(self, name, x):
        return layer_norm(x, self.p[name + ".g"], self.p[name + ".b"])

    def attention(self, name, x):
        batch, time, d = x.shape
        heads = self.c["heads"]
        q, k, v = (x @ self.p[name + ".qkv.w"].T + self.p[name + ".qkv.b"]).split(d, -1)
        q, k, v = (t.reshape(batch, time, heads, d // heads).transpose(1, 2) for t in (q, k, v))
        score = q @ k.transpose(2, 3) / math.sqrt(d // heads)
        score = score.masked_fill(torch.ones(time, time).triu(1) > 0, -math.inf)
        y = (score.softmax(-1) @ v).transpose(1, 2).reshape(batch, time, d)
        return y @ self.p[name + ".out.w"].T + self.p[name + ".out.b"]

    def expert(self, name, x, e):
        if self.rules.features:
            w1, b1, w2, b2 = (self.p[name + part] for part in (".linear.w", ".linear.b", ".linear_2.w", ".linear_2.b"))
            h = self.dropout(name + ".dropout", torch.relu(x @ w1[e].T + b1[e]), e, len(w1))
            return h @ w2[e].T + b2[e]
        h = gelu(x @ self.p[name + ".w1"][e].T + self.p[name + ".b1"][e])
        return h @ self.p[name + ".w2"][e] + self.p[name + ".b2"][e]

    def note_margin(self, distance):
        if self.training:
            self.model.margin = min(self.model.margin, distance.min().item())

    def top(self, log_p, k=1):
        """The mask of the k largest; notes how near the next one is."""
        best = log_p.detach().topk(k + 1, -1)
        self.note_margin(best.values[..., k - 1] - best.values[..., k])
        return torch.nn.functional.one_hot(best.indices[..., :k], log_p.shape[-1]).sum(-2).double()

    def above_threshold(self, log_p):
        """The mask of what passes, or of the largest alone."""
        log_p, threshold = log_p.detach(), self.c["threshold"]
        self.note_margin((log_p - math.log(threshold)).abs())
        mask = (log_p.exp() > threshold).double()
        if threshold * log_p.shape[-1] < 0.99:
            return mask
        return torch.where(mask.sum(-1, keepdim=True) > 0, mask, self.top(log_p))

    def gate_dts(self, name, x):
        """Weight, mask, and the probabilities of the balance loss."""
        z = x @ self.p[name + ".w"].T
        paper, hard = self.c.get("weight") != "code", self.phase == "top1"
        if self.training:
            noise = -torch.log(-torch.log(self.uniform(name, z)))
            log_p = ((z + noise) / self.tau).log_softmax(-1)
            mask = self.top(log_p) if hard else self.above_threshold(log_p)
            weight = log_p.exp() if paper else z.softmax(-1)
            return weight, mask, weight if paper else weight * mask
        if self.dense_gate:
            log_p = (z / self.tau).log_softmax(-1)
            return (log_p.exp() if paper else z.softmax(-1)), self.above_threshold(log_p), None
        log_p = (z / self.tau if paper else z).log_softmax(-1)
        return log_p.exp(), self.top(log_p), None

    def gate_switch(self, name, x):
        jitter = self.c["jitter"]
        if self.training and jitter > 0:
            x = x * (1 - jitter + 2 * jitter * self.uniform(name, x))
        z = x @ self.p[name + ".w"].T
        self.z_loss.append((torch.logsumexp(z, -1)**2).mean())
        log_p = z.log_softmax(-1)
        return log_p.exp(), self.top(log_p), log_p.exp()

    def gate_top2(self, name, x):
        log_p = (x @ self.p[name + ".w"].T).log_softmax(-1)
        p, mask = log_p.exp(), self.top(log_p, 2)
        return p / (p * mask).sum(-1, keepdim=True), mask, p

    def moe(self, name, x):
        if self.phase == "shared":
            return self.expert(name, x, 0)
        gate = {"switch": self.gate_switch, "top2": self.gate_top2}.get(self.phase, self.gate_dts)
        weight, mask, p = gate(name + ".gate", x)
        experts = mask.shape[-1]
        if self.training:
            counted = self.top(p.log()) if self.phase == "top2" else mask  # of Top-2, first choices
            self.balance.append(experts * (counted.mean((0, 1)) * p.mean((0, 1))).sum())
        self.load[name] = [int(n) for n in mask.sum((0, 1))]
        return sum((weight * mask)[..., e:e + 1] * self.expert(name, x, e) for e in range(experts))

    def logits(self, tokens):
        x = self.p["embedding.w"][tokens] + self.p["positions.w"][:tokens.shape[1]]
        own = (lambda name, y: y) if self.rules.features else self.dropout  # features.lua has it in the experts alone
        x = own("dropout", x)
        for layer in range(1, self.c["layers"] + 1):
            h = f"h{layer}."
            y = self.attention(h + "attention", self.norm(h + "layer_norm", x))
            x = x + own(h + "dropout", y)
            y = self.norm(h + "layer_norm_2", x)
            y = self.moe(h + "moe", y) if self.model.is_moe(layer) else self.expert(h + "ffn", y, 0)
            x = x + own(h + "dropout_2", y)
        return self.norm("layer_norm", x) @ self.p["embedding.w"].T

    def cross_entropy(self, windows):
        """The sum over all targets; windows [B, T+1]."""
        log_p = self.logits(windows[:, :-1]).log_softmax(-1)
        share = self.c.get("smoothing", 0) if self.training else 0
        hit = log_p.gather(-1, windows[:, 1:, None])[..., 0]
        return -((1 - share) * hit + share * log_p.mean(-1)).sum()


class Model:
    def __init__(self, rules, config, seed):
        self.rules, self.c, self.draws = rules, config, Draws(seed)
        self.margin = math.inf
        self.parameters, self.m, self.v, self.count = {}, {}, {}, {}
        self.make_all(1 if rules.one_first else config.get("experts"))

    def is_moe(self, layer):
        return self.rules.moe and layer % self.c.get("moe_every", 1) == 0

    def put(self, name, value, m=None, v=None, count=0):
        self.parameters[name] = value.detach().clone().requires_grad_()
        self.m[name] = torch.zeros_like(value) if m is None else m
        self.v[name] = torch.zeros_like(value) if v is None else v
        self.count[name] = count

    def make_all(self, experts):
        c, d = self.c, self.c["d"]
        before_residual = 0.02 if self.rules.features else 0.02 / math.sqrt(2 * c["layers"])
        hidden = int(4 * d * 1.075 / 16) * 16 if c.get("wider") else 4 * d

        def normal(name, *shape, deviation=0.02):
            self.put(name, self.draws.normal(shape, name, deviation))

        def norm(name):
            self.put(name + ".g", torch.ones(d))
            self.put(name + ".b", torch.zeros(d))

        normal("embedding.w", c["vocab"], d)
        normal("positions.w", c["seq"], d)
        for layer in range(1, c["layers"] + 1):
            h = f"h{layer}."
            norm(h + "layer_norm")
            norm(h + "layer_norm_2")
            normal(h + "attention.qkv.w", 3 * d, d)
            self.put(h + "attention.qkv.b", torch.zeros(3 * d))
            normal(h + "attention.out.w", d, d, deviation=before_residual)
            self.put(h + "attention.out.b", torch.zeros(d))
            ffn, n = (h + "moe", experts) if self.is_moe(layer) else (h + "ffn", 1)
            if self.rules.features:
                normal(ffn + ".linear.w", n, hidden, d)
                self.put(ffn + ".linear.b", torch.zeros(n, hidden))
                normal(ffn + ".linear_2.w", n, d, hidden)
                self.put(ffn + ".linear_2.b", torch.zeros(n, d))
            else:
                normal(ffn + ".w1", n, hidden, d)
                self.put(ffn + ".b1", torch.zeros(n, hidden))
                normal(ffn + ".w2", n, hidden, d, deviation=before_residual)
                self.put(ffn + ".b2", torch.zeros(n, d))
            if self.is_moe(layer) and n > 1:
                normal(ffn + ".gate.w", n, d)
        norm("layer_norm")

    def diversify(self, step):
        """One expert becomes many: its matrices masked or with noise, for each on its own. The gates begin."""
        c, experts = self.c, self.c["experts"]
        for name in [name for name in self.parameters if ".moe." in name]:
            old, stream = self.parameters[name].detach(), name + "#diversify"
            shape = (experts, *old.shape[1:])
            kept, noise = torch.ones(shape), torch.zeros(shape)
            if len(shape) == 3 and "noise" in c:
                noise = self.draws.normal(shape, stream, c["noise"], step)
            elif len(shape) == 3:
                kept = (self.draws.of_parameter(shape, stream, step) > c["mask"]).double()
            new = old * kept + noise
            if c.get("moments") == "zero":
                self.put(name, new)
            else:
                self.put(name, new, self.m[name] * kept, self.v[name].expand(shape), self.count[name])
        for layer in filter(self.is_moe, range(1, c["layers"] + 1)):
            name = f"h{layer}.moe.gate.w"
            self.put(name, self.draws.normal((experts, c["d"]), name, 0.02))

    def update(self, step, phase):
        """Adam with decoupled weight decay, all gradients scaled where their norm exceeds the bound; gives the norm."""
        c, (beta1, beta2) = self.c, self.rules.betas
        moving = {name: p for name, p in self.parameters.items() if not self.rules.is_frozen(name, phase)}
        norm = torch.sqrt(sum((p.grad**2).sum() for p in moving.values())).item()
        scale = min(1.0, c["clip"] / (norm + 1e-6)) if c["clip"] > 0 else 1.0
        rate = self.rules.learning_rate(c, step)
        for name, p in moving.items():
            g = p.grad * scale
            self.count[name] += 1
            self.m[name] = beta1 * self.m[name] + (1 - beta1) * g
            self.v[name] = beta2 * self.v[name] + (1 - beta2) * g**2
            m, v = self.m[name] / (1 - beta1**self.count[name]), self.v[name] / (1 - beta2**self.count[name])
            decay = c["weight_decay"] if self.rules.decays(name) else 0
            with torch.no_grad():
                p -= rate * (m / (torch.sqrt(v) + self.rules.epsilon) + decay * p)
        for p in self.parameters.values():
            p.grad = None
        return norm


# ---------------------------------------------------------------- a run


def read_tokens(name):
    """The tokeniser `bytes`: a token is a byte."""
    return torch.tensor(list((HERE / name).read_bytes()))


class Run:
    def __init__(self, model, seed, config):
        self.c, self.rules = config, Rules(model)
        self.model = Model(self.rules, config, seed)
        self.train, self.valid = read_tokens("train.txt"), read_tokens("valid.txt")
        self.order = Order(len(self.train), config["seq"], seed)
        self.phases = [(self.rules.last, 0)]
        if self.rules.one_first:
            dense = config["shared_steps"]
            self.phases = [("shared", 0), ("dense", dense), (self.rules.last, dense + config["dense_steps"])]
        self.lines, self.evaluations = [], []

    def tau(self, phase, step):
        return self.rules.temperature(self.c, step - self.c["shared_steps"]) if phase in ("dense", "top1") else None

    def update(self, phase, step):
        c, model = self.c, self.model
        micro, length = c["batch"] // c["accumulate"], c["seq"]
        weights = {"balance": c.get("balance"), "z": c.get("z_loss")}
        ce, losses, load = 0.0, {}, {}
        for first in range(0, c["batch"], micro):
            starts = [self.order.start(step * c["batch"] + first + i) for i in range(micro)]
            windows = torch.stack([self.train[at:at + length + 1] for at in starts])
            token = np.arange(first * length, (first + micro) * length).reshape(micro, length)
            run = Forward(model, phase, True, self.tau(phase, step), token, step)
            total = run.cross_entropy(windows) / (c["batch"] * length)
            ce += total.item()
            for name, terms in (("balance", run.balance), ("z", run.z_loss)):
                weight = weights[name]
                if terms and (weight or name == "balance"):
                    share = c["accumulate"] * (1 if self.rules.features else len(terms))  # summed over layers, or mean
                    part = sum(terms) / share
                    losses[name] = losses.get(name, 0.0) + part.item()
                    total = total + weight * part
            total.backward()
            for name, counts in run.load.items():
                load[name] = [a + b for a, b in zip(load.get(name, [0] * len(counts)), counts)]
        loss = ce + sum(value * weights[name] for name, value in losses.items())
        pairs = sum(map(sum, load.values()))
        experts = pairs / (c["batch"] * length * len(load)) if load else 1
        norm = model.update(step, phase)
        line = {"step": step + 1, "phase": phase, "loss": loss, "ce": ce, **losses, "grad_norm": norm,
                "experts_per_token": experts}
        self.lines.append({**line, "load": load} if load else line)

    @torch.no_grad()
    def evaluate(self, phase, step):
        """Every target of the split once, in windows one after the other; the last one may be shorter."""
        targets, length = len(self.valid) - 1, self.c["seq"]
        whole = targets // length
        windows = [self.valid[i * length:(i + 1) * length + 1] for i in range(whole)]
        tail = self.valid[whole * length:]

        def mean(dense_gate):
            forward = Forward(self.model, phase, False, self.tau(phase, step), dense_gate=dense_gate)
            total = forward.cross_entropy(torch.stack(windows))
            if len(tail) > 1:
                total += forward.cross_entropy(tail[None])
            return total.item() / targets

        line = {"step": step, "phase": phase, "ce": mean(False)}
        if phase == "dense":
            line["ce_gate"] = mean(True)
        self.evaluations.append(line)

    def run(self):
        for (phase, start), end in zip(self.phases, [at for _, at in self.phases[1:]] + [self.c["steps"]]):
            if start > 0:
                if phase == "dense":
                    self.model.diversify(start)
                self.evaluate(phase, start)
            for step in range(start, end):
                self.update(phase, step)
            self.evaluate(phase, end)


def rounded(value):
    """12 digits: more than the last bits of a sum that depends on the machine."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return value


def write(name):
    model, seed, config = CASES[name]
    run = Run(model, seed, config)
    run.run()
    write_golden(name, model, seed, config, run)


def write_golden(name, model, seed, config, run):
    margin = run.model.margin
    head = {"model": model, "seed": seed, "config": config, "margin": rounded(margin) if margin < math.inf else None}
    parts = [f'  {json.dumps(key)}: {json.dumps(value)}' for key, value in head.items()]
    for key, lines in (("train", run.lines), ("evaluations", run.evaluations)):
        body = ",\n".join("    " + json.dumps(rounded(line)) for line in lines)
        parts.append(f'  "{key}": [\n{body}\n  ]')
    (HERE / "goldens" / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(f"{name}: loss {run.lines[0]['loss']:.6f} to {run.lines[-1]['loss']:.6f}, margin {margin:.2g}")
    if margin < MARGIN:
        sys.exit(f"{name}: the margin {margin:.2g} is below {MARGIN:g}: choose another seed")


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        write(case)
