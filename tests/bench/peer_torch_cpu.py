#!/usr/bin/env python3
"""The peer of tests/bench/cpu.sh: the GPT-MoE that a PyTorch user would write, on the CPU.

Same shapes, tokens per step and phases as models/gpt_evomoe.lua at size=small, same optimizer. Two forms of the MoE
layer: `loop` computes an expert over the tokens that chose it (index_select, index_add), which is what saves work where
routing is sparse; `batched` computes all experts for all tokens by batched products and weights them with zeros, which
is faster where nearly all are chosen. Either runs eager or under torch.compile. Attention is the fused
scaled_dot_product_attention, the optimizer the fused AdamW.

Serves: a line "PHASE PRECISION FORM MODE WARMUP STEPS" on standard input (shared|dense|sparse|top1, f32|bf16,
loop|batched, eager|compiled) is answered by one JSON object on standard output: the median tokens/s of STEPS steps behind
WARMUP steps that are not counted. A model is made at first use and kept until a line "drop PHASE PRECISION FORM MODE"."""
import gc
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = dict(vocabulary=4096, sequence=256, batch=16, layers=4, d=384, heads=6, experts=8)
TAU = dict(dense=2.0, sparse=0.5, top1=0.5)
THRESHOLD = 0.001


class FeedForward(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class MoE(nn.Module):
    """Dense-to-sparse gate: threshold at temperature tau, or the largest alone (top1)."""

    def __init__(self, d, hidden, experts, phase, form):
        super().__init__()
        self.tau, self.top1, self.form = TAU[phase], phase == "top1", form
        self.gate = nn.Linear(d, experts, bias=False)
        self.selected, self.balance = None, None
        if form == "loop":
            self.experts = nn.ModuleList(FeedForward(d, hidden) for _ in range(experts))
        else:
            self.w1 = nn.Parameter(torch.randn(experts, d, hidden) * 0.02)
            self.b1 = nn.Parameter(torch.zeros(experts, 1, hidden))
            self.w2 = nn.Parameter(torch.randn(experts, hidden, d) * 0.02)
            self.b2 = nn.Parameter(torch.zeros(experts, d))

    def route(self, x):
        with torch.autocast("cpu", enabled=False):
            z = F.linear(x.float(), self.gate.weight)
            noise = -torch.log(-torch.log(torch.rand_like(z).clamp_min(1e-20)))
            p = torch.softmax((z + noise) / self.tau, -1)
            mask = F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype) if self.top1 else (p > THRESHOLD).to(p.dtype)
            self.balance = p.shape[-1] * (mask.mean(0) * p.mean(0)).sum()
        self.selected = mask.sum(-1).mean().detach()
        return p, mask

    def forward(self, x):
        p, mask = self.route(x)
        if self.form == "batched":
            weight = p * mask
            h = F.gelu(torch.baddbmm(self.b1, x.expand(len(self.w1), *x.shape), self.w1), approximate="tanh")
            y = torch.bmm(h * weight.t().unsqueeze(-1).to(h.dtype), self.w2).sum(0)
            return y + weight.to(y.dtype) @ self.b2.to(y.dtype)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            index = mask[:, e].nonzero(as_tuple=True)[0]
            y = expert(x.index_select(0, index)) * p[index, e].unsqueeze(-1).to(x.dtype)
            out = out.index_add(0, index, y.to(out.dtype))
        return out


class Block(nn.Module):
    def __init__(self, d, heads, ffn):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.heads, self.ffn = heads, ffn

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(a)
        return x + self.ffn(self.ln2(x).view(b * t, d)).view(b, t, d)


class GPT(nn.Module):
    def __init__(self, phase, form):
        super().__init__()
        d, hidden = SIZES["d"], 4 * SIZES["d"]
        self.tokens, self.positions = nn.Embedding(SIZES["vocabulary"], d), nn.Embedding(SIZES["sequence"], d)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        ffn = [FeedForward(d, hidden) if i % 2 == 0 or phase == "shared" else
               MoE(d, hidden, SIZES["experts"], phase, form) for i in range(SIZES["layers"])]
        self.blocks = nn.ModuleList(Block(d, SIZES["heads"], f) for f in ffn)
        self.norm = nn.LayerNorm(d)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


class Trainer:
    def __init__(self, phase, precision, form, mode):
        torch.manual_seed(1)
        self.model, self.precision = GPT(phase, form), precision
        self.gates = [m for m in self.model.modules() if isinstance(m, MoE)]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.1,
                                           fused=True)
        self.run = torch.compile(self.model) if mode == "compiled" else self.model
        generator = torch.Generator().manual_seed(2)
        self.ids = torch.randint(SIZES["vocabulary"], (SIZES["batch"], SIZES["sequence"] + 1), generator=generator)

    def step(self):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.run(self.ids[:, :-1].contiguous(), self.ids[:, 1:].contiguous())
        if self.gates:
            loss = loss + 0.1 * sum(g.balance for g in self.gates) / len(self.gates)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def measure(self, warmup, steps):
        times = []
        for i in range(warmup + steps):
            start = time.perf_counter()
            self.step()
            if i >= warmup:
                times.append(time.perf_counter() - start)
        chosen = [g.selected.item() for g in self.gates]
        return {"tokens_per_s": SIZES["batch"] * SIZES["sequence"] / statistics.median(times),
                "experts_per_token": sum(chosen) / len(chosen) if chosen else 1.0}


def main():
    made = {}
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "drop":
            del made[tuple(words[1:])]
            gc.collect()
            continue
        *key, warmup, steps = words
        key = tuple(key)
        if key not in made:
            made[key] = Trainer(*key)
        print(json.dumps(made[key].measure(int(warmup), int(steps))), flush=True)


if __name__ == "__main__":
    main()
