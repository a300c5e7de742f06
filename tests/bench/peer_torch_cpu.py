#!/usr/bin/env python3
"""The peer of tests/bench/cpu.sh: the GPT-MoE that a PyTorch user would write, on the CPU.

Same shapes, same number of tokens and the same phases as models/gpt_evomoe.lua at size=small. Prints one JSON object per
line: {"phase", "precision", "mode", "tokens_per_s", "experts_per_token"}. Experts run as a loop over the tokens that chose
them (index_select, index_add): on a CPU that is the best known form; scaled_dot_product_attention is the fused one.
Needs torch from pip (see tests/bench/cpu.sh)."""
import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Expert(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class MoE(nn.Module):
    """experts == 1: plain feed-forward. Otherwise a gate: dense-to-sparse at temperature tau (threshold) or Top-1."""

    def __init__(self, d, hidden, experts):
        super().__init__()
        self.experts = nn.ModuleList(Expert(d, hidden) for _ in range(experts))
        self.gate = nn.Linear(d, experts, bias=False) if experts > 1 else None
        self.tau, self.top1, self.threshold = 2.0, False, 0.001
        self.balance, self.selected = None, None

    def forward(self, x):
        if self.gate is None:
            return self.experts[0](x)
        with torch.autocast("cpu", enabled=False):
            z = F.linear(x.float(), self.gate.weight)
            noise = -torch.log(-torch.log(torch.rand_like(z).clamp_min(1e-20)))
            p = torch.softmax((z + noise) / self.tau, -1)
        if self.top1:
            mask = F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)
        else:
            mask = (p > self.threshold).to(p.dtype)
        self.selected = mask.sum(-1).mean()
        self.balance = p.shape[-1] * (mask.mean(0) * p.mean(0)).sum()
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            index = mask[:, e].nonzero(as_tuple=True)[0]
            if index.numel():
                y = expert(x.index_select(0, index)) * p[index, e].unsqueeze(-1).to(x.dtype)
                out.index_add_(0, index, y.to(out.dtype))
        return out


class Block(nn.Module):
    def __init__(self, d, heads, hidden, experts):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.heads, self.ffn = heads, MoE(d, hidden, experts)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.out(a)
        return x + self.ffn(self.ln2(x).view(b * t, d)).view(b, t, d)


class GPT(nn.Module):
    def __init__(self, a, experts):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(a.vocabulary, a.d), nn.Embedding(a.sequence, a.d)
        self.blocks = nn.ModuleList(
            Block(a.d, a.heads, 4 * a.d, experts if (i + 1) % 2 == 0 else 1) for i in range(a.layers))
        self.norm = nn.LayerNorm(a.d)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


def step_function(model, a, optimizer, precision):
    def step(ids, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(ids, targets)
        balances = [m.balance for m in model.modules() if isinstance(m, MoE) and m.balance is not None]
        if balances:
            loss = loss + 0.1 * sum(balances) / len(balances)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def measure(a, phase, precision, mode):
    torch.manual_seed(1)
    experts = 1 if phase == "shared" else a.experts
    model = GPT(a, experts)
    for m in model.modules():
        if isinstance(m, MoE):
            m.top1, m.tau = phase == "top1", 2.0 if phase == "dense" else 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    run = torch.compile(model) if mode == "compiled" else model
    step = step_function(run, a, optimizer, precision)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(a.vocabulary, (a.batch, a.sequence + 1), generator=generator)
    times = []
    for i in range(a.warmup + a.steps):
        start = time.perf_counter()
        step(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        if i >= a.warmup:
            times.append(time.perf_counter() - start)
    chosen = [m.selected.item() for m in model.modules() if isinstance(m, MoE) and m.selected is not None]
    return {"phase": phase, "precision": precision, "mode": mode,
            "tokens_per_s": a.batch * a.sequence / sorted(times)[len(times) // 2],
            "experts_per_token": sum(chosen) / len(chosen) if chosen else 1.0}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for name, value in dict(layers=4, d=384, heads=6, experts=8, vocabulary=4096, sequence=256, batch=16, threads=2,
                            warmup=2, steps=3).items():
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--phases", default="shared,dense,sparse,top1")
    p.add_argument("--precisions", default="f32,bf16")
    p.add_argument("--modes", default="eager,compiled")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    for phase in a.phases.split(","):
        for precision in a.precisions.split(","):
            for mode in a.modes.split(","):
                print(json.dumps(measure(a, phase, precision, mode)), flush=True)


if __name__ == "__main__":
    main()
