#!/usr/bin/env python3
"""The peer of the CUDA target: models/gpt_evomoe.lua as PyTorch (2.8 or later) trains it fastest on one GPU.

24 pre-LN blocks, D = 1024, 16 heads, learned positions, tied embedding padded to 50304, tanh-GELU, biases, no dropout;
every second block is a Mixture of 16 Experts. Three phases, as in the paper: `shared` (one expert, no gate), `dense` (all
experts, softmax of the noised scores over tau) and `top1`. What a variant is made of:

  precision  autocast: f32 parameters under torch.autocast(bf16)
             master:   bf16 parameters, f32 masters in the fused optimizer
  experts    grouped:  tokens sorted by expert, torch._grouped_mm with offsets that stay on the device (top1)
             batched:  all experts for all tokens by batched products (dense)
             loop:     a Python loop over the experts and the tokens that chose them: what most research code does
  mode       eager, or a mode of torch.compile
  attention  cudnn | flash | default: the two are timed first and the faster one is kept

Every variant runs on its own: a failure (memory, a compiler that gives up) is recorded beside the others' results. The
best of a phase and batch is the one to beat. Timing: steps behind the warm-up by CUDA events; median, 10th and 90th
percentile. Graph breaks are counted, for a break in the MoE layer would make the comparison unfair.

Tokens: --tokens FILE is a token file of `moec data` (runtime/data.h) or any .npy of integers: real text makes routing
skewed. Without it they are uniform. One JSON object goes to --out, rewritten behind every variant.
"""
import argparse
import contextlib
import itertools
import json
import math
import statistics
import struct
import subprocess
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200, from the data sheet
TAU = {"dense": 2.0, "top1": 0.3}


# ---------------------------------------------------------------- the model

def gelu(x):
    return F.gelu(x, approximate="tanh")


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(d, 3 * d), nn.Linear(d, d), heads

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    def __init__(self, d, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x)))


class MoE(nn.Module):
    """w1[E,D,F], w2[E,F,D]; the gate in f32. `balance` is the auxiliary loss of the last forward."""

    def __init__(self, d, hidden, experts, phase, form):
        super().__init__()
        self.experts, self.tau, self.top1, self.form = experts, TAU[phase], phase == "top1", form
        self.gate = nn.Linear(d, experts, bias=False)
        self.w1, self.b1 = nn.Parameter(torch.empty(experts, d, hidden)), nn.Parameter(torch.zeros(experts, hidden))
        self.w2, self.b2 = nn.Parameter(torch.empty(experts, hidden, d)), nn.Parameter(torch.zeros(experts, d))
        self.balance = None

    def route(self, x):
        with torch.autocast(x.device.type, enabled=False):
            z = F.linear(x.float(), self.gate.weight.float())
            noise = -torch.log(-torch.log(torch.rand_like(z).clamp_min(1e-20)))
            p = torch.softmax((z + noise) / self.tau, -1)
        chosen = F.one_hot(p.argmax(-1), self.experts).to(p.dtype) if self.top1 else torch.ones_like(p)
        self.balance = self.experts * (chosen.mean(0) * p.mean(0)).sum()
        return p

    def operands(self, x):
        """What products take: autocast does not know _grouped_mm."""
        dtype = torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else self.w1.dtype
        return [t.to(dtype) for t in (x, self.w1, self.b1, self.w2, self.b2)]

    def grouped(self, x, p):
        x, w1, b1, w2, b2 = self.operands(x)
        weight, expert = p.max(-1)
        order = torch.argsort(expert, stable=True)
        offsets = F.one_hot(expert, self.experts).sum(0).cumsum(0).to(torch.int32)
        sorted_expert = expert[order]
        h = gelu(torch._grouped_mm(x[order], w1, offs=offsets) + b1[sorted_expert])
        y = torch._grouped_mm(h, w2, offs=offsets) + b2[sorted_expert]
        return torch.zeros_like(y).index_copy(0, order, y) * weight.unsqueeze(-1).to(y.dtype)

    def batched(self, x, p):
        x, w1, b1, w2, b2 = self.operands(x)
        weight = p.to(x.dtype)
        h = gelu(torch.baddbmm(b1.unsqueeze(1), x.expand(self.experts, *x.shape), w1))
        y = torch.bmm(h * weight.t().unsqueeze(-1), w2).sum(0)
        return y + weight @ b2

    def loop(self, x, p):
        x, w1, b1, w2, b2 = self.operands(x)
        chosen = p.argmax(-1) if self.top1 else None
        out = torch.zeros_like(x)
        for e in range(self.experts):
            rows = (chosen == e).nonzero(as_tuple=True)[0] if self.top1 else None
            part = x[rows] if self.top1 else x
            weight = (p[rows, e] if self.top1 else p[:, e]).unsqueeze(-1).to(x.dtype)
            y = (gelu(part @ w1[e] + b1[e]) @ w2[e] + b2[e]) * weight
            out = out.index_add(0, rows, y) if self.top1 else out + y
        return out

    def forward(self, x):
        return getattr(self, self.form)(x, self.route(x))


class Block(nn.Module):
    def __init__(self, d, heads, ffn):
        super().__init__()
        self.ln1, self.ln2, self.attention, self.ffn = nn.LayerNorm(d), nn.LayerNorm(d), Attention(d, heads), ffn

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        b, t, d = x.shape
        return x + self.ffn(self.ln2(x).view(b * t, d)).view(b, t, d)


class GPT(nn.Module):
    def __init__(self, shape, phase, form):
        super().__init__()
        d = shape.d
        self.tokens, self.positions = nn.Embedding(shape.vocabulary, d), nn.Embedding(shape.sequence, d)
        ffn = [MoE(d, 4 * d, shape.experts, phase, form) if i % 2 and phase != "shared" else FeedForward(d, 4 * d)
               for i in range(shape.layers)]
        self.blocks, self.norm = nn.ModuleList(Block(d, shape.heads, f) for f in ffn), nn.LayerNorm(d)
        small = 0.02 / math.sqrt(2 * shape.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "ln" not in name and not name.endswith((".b1", ".b2")):
                before_residual = name.endswith((".out.weight", ".fc2.weight", ".w2"))
                nn.init.normal_(parameter, std=small if before_residual else 0.02)

    def forward(self, ids, targets, chunks):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        x, targets = self.norm(x).view(-1, x.shape[-1]), targets.reshape(-1)
        ce = sum(F.cross_entropy(F.linear(part, self.tokens.weight).float(), t, reduction="sum")
                 for part, t in zip(x.chunk(chunks), targets.chunk(chunks))) / targets.numel()
        balances = [b.ffn.balance for b in self.blocks if isinstance(b.ffn, MoE)]
        return ce, sum(balances) / len(balances) if balances else torch.zeros_like(ce)


# ---------------------------------------------------------------- a step

class Optimizer:
    """Fused AdamW; with bf16 parameters on f32 masters of them. Gradients are clipped to norm 1."""

    def __init__(self, parameters, learning_rate, device):
        self.parameters = list(parameters)
        self.masters = None
        if any(p.dtype == torch.bfloat16 for p in self.parameters):
            self.masters = [p.detach().float().requires_grad_() for p in self.parameters]
            for master in self.masters:
                master.grad = torch.zeros_like(master)
        self.adam = torch.optim.AdamW(self.masters or self.parameters, lr=learning_rate, betas=(0.9, 0.95),
                                      weight_decay=0.1, fused=True)

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        if self.masters:
            torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.parameters])
        self.adam.step()
        if self.masters:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.masters)
        for parameter in self.parameters:
            parameter.grad = None


class Trainer:
    def __init__(self, options, phase, variant, batch, data):
        torch.manual_seed(options.seed)
        self.options, self.batch, self.data, self.steps = options, batch, data, 0
        self.autocast = variant["precision"] == "autocast"
        self.chunks = variant["chunks"]
        model = GPT(options, phase, variant["experts"]).to(options.device)
        if variant["precision"] == "master":
            model = model.bfloat16()
            for gate in (b.ffn.gate for b in model.blocks if isinstance(b.ffn, MoE)):
                gate.float()
        self.model = model
        self.optimizer = Optimizer(model.parameters(), options.learning_rate, options.device)
        self.run = model if variant["mode"] == "eager" else torch.compile(model, mode=variant["mode"], dynamic=False)

    def step(self):
        ids, targets = self.data.batch(self.steps, self.batch)
        self.steps += 1
        with torch.autocast(self.options.device, dtype=torch.bfloat16, enabled=self.autocast):
            ce, balance = self.run(ids, targets, self.chunks)
        (ce + self.options.balance * balance).backward()
        self.optimizer.step()
        return ce.detach()


class Data:
    """Windows of `sequence` tokens, in order; moved to the device ahead."""

    def __init__(self, options):
        self.sequence = options.sequence
        tokens = read_tokens(options.tokens, options.vocabulary) if options.tokens else torch.randint(
            options.vocabulary, (4 << 20,), generator=torch.Generator().manual_seed(options.seed))
        self.tokens = tokens.to(options.device)
        self.windows = (len(tokens) - 1) // self.sequence
        if self.windows < 1:
            raise SystemExit(f"{options.tokens}: fewer than {self.sequence + 1} tokens")

    def batch(self, step, batch):
        first = (torch.arange(batch, device=self.tokens.device) + step * batch) % self.windows * self.sequence
        at = first.unsqueeze(1) + torch.arange(self.sequence, device=self.tokens.device)
        return self.tokens[at], self.tokens[at + 1]


def read_tokens(path, vocabulary):
    """A token file of moec (header of 64 bytes, then u16 or u32) or an array of NumPy; ids beyond the vocabulary: error."""
    import numpy
    if path.endswith(".npy"):
        array = numpy.load(path).reshape(-1)
    else:
        with open(path, "rb") as file:
            head = file.read(64)
        if len(head) < 64 or head[:8] != b"MOECTOKN":
            raise SystemExit(f"{path}: neither a token file of moec nor .npy")
        width, = struct.unpack_from("<I", head, 12)
        count, = struct.unpack_from("<Q", head, 24)
        array = numpy.fromfile(path, dtype={2: "<u2", 4: "<u4"}[width], offset=64, count=count)
    if array.max() >= vocabulary:
        raise SystemExit(f"{path}: token {array.max()}, but the vocabulary has {vocabulary}")
    return torch.from_numpy(array.astype(numpy.int64))


# ---------------------------------------------------------------- measuring

def flops_per_token(shape, phase, causal):
    """Products of forward and backward; attention of all pairs, or of the causal half."""
    d, hidden, layers = shape.d, 4 * shape.d, shape.layers
    moe = 0 if phase == "shared" else layers // 2
    experts = shape.experts if phase == "dense" else 1
    products = 4 * d * d * layers + 2 * d * hidden * (layers - moe + moe * experts) + shape.vocabulary * d
    return 6 * (products + moe * d * shape.experts) + 12 * layers * shape.sequence * d / (2 if causal else 1)


def step_times(trainer, steps, device):
    """Seconds of each step."""
    if device != "cuda":
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            trainer.step()
            times.append(time.perf_counter() - start)
        return times
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for event in events[1:]:
        trainer.step()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:])]


def graph_breaks():
    return {reason: count for reason, count in torch._dynamo.utils.counters["graph_break"].items()}


def clocks(device):
    """MHz of the processors and the memory, as nvidia-smi says."""
    if device != "cuda":
        return None
    asked = subprocess.run(["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"],
                           capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def measure(options, phase, variant, batch, data):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    trainer = Trainer(options, phase, variant, batch, data)
    first_loss = trainer.step().item()
    first = time.perf_counter() - start
    step_times(trainer, options.warmup - 1, options.device)
    times = step_times(trainer, options.steps, options.device)
    seconds = statistics.median(times)
    tokens = batch * options.sequence
    deciles = statistics.quantiles(times, n=10) if len(times) > 1 else [seconds] * 9
    return {"tokens_per_s": tokens / seconds, "ms": seconds * 1e3, "ms_p10": deciles[0] * 1e3, "ms_p90": deciles[8] * 1e3,
            "mfu_causal": flops_per_token(options, phase, True) * tokens / seconds / PEAK_FLOPS,
            "mfu_all_pairs": flops_per_token(options, phase, False) * tokens / seconds / PEAK_FLOPS,
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else None,
            "clocks": clocks(options.device), "graph_breaks": graph_breaks(), "compile_s": first,
            "first_loss": first_loss, "last_loss": trainer.step().item()}


def loss_curve(options, phase, variant, batch, data):
    trainer = Trainer(options, phase, variant, batch, data)
    return [trainer.step().item() for _ in range(options.curve)]


@contextlib.contextmanager
def attention_backend(name):
    backends = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION"}
    if name not in backends:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel
    with sdpa_kernel([getattr(SDPBackend, backends[name])], set_priority=True):
        yield


def time_matmul(options):
    """TFLOP/s of an 8192 x 8192 x 8192 product of random bf16 numbers: what the machine can do."""
    if options.device != "cuda":
        return None
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(10):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * 8192**3 * 10 / start.elapsed_time(end) / 1e9


def time_attention(options, batch):
    """Milliseconds of causal attention, forward and backward, by backend."""
    found = {}
    shape = (batch, options.heads, options.sequence, options.d // options.heads)
    q, k, v = (torch.randn(shape, device=options.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    for name in ("cudnn", "flash") if options.device == "cuda" else ():
        try:
            with attention_backend(name):
                def once():
                    F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
                for _ in range(3):
                    once()
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(10):
                    once()
                end.record()
                torch.cuda.synchronize()
                found[name] = start.elapsed_time(end) / 10
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
    return found


# ---------------------------------------------------------------- variants

FORMS = {"shared": ("none",), "dense": ("batched", "loop"), "top1": ("grouped", "loop")}
MODES = ("default", "max-autotune-no-cudagraphs", "reduce-overhead")


def variants(options, phase):
    """The likely best first, so that a time limit costs the others. The naive loop is eager: it cannot be compiled whole."""
    compiled = [{"precision": p, "experts": FORMS[phase][0], "mode": m, "chunks": c}
                for m, p, c in itertools.product(options.modes, options.precisions, options.chunks)]
    naive = [{"precision": "autocast", "experts": FORMS[phase][-1], "mode": "eager", "chunks": 1}]
    return compiled[:1] + naive + compiled[1:]


def run_variant(options, phase, variant, batch, data):
    record = {"phase": phase, "batch": batch, **variant}
    try:
        with attention_backend(options.attention):
            record.update(measure(options, phase, variant, batch, data))
            if options.curve:
                record["losses"] = loss_curve(options, phase, variant, batch, data)
    except Exception as error:  # a variant that PyTorch cannot run is a result, too
        record["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    return record


def best_of(records):
    best = {}
    for record in records:
        key = f"{record['phase']} {record['batch']}x"
        if "error" not in record and record["tokens_per_s"] > best.get(key, {"tokens_per_s": 0})["tokens_per_s"]:
            best[key] = {k: v for k, v in record.items() if k != "losses"}
    return best


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    numbers = lambda text: [int(n) for n in text.split(",")]
    cells = lambda text: [(phase, int(batch)) for phase, batch in (cell.split(":") for cell in text.split(","))]
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokens")
    parser.add_argument("--phases", type=words, default=["top1", "shared", "dense"])
    parser.add_argument("--batches", type=numbers, default=[64, 32, 16, 8])
    parser.add_argument("--cells", type=cells, help="top1:64,dense:16: these phases and batches, in this order, only")
    parser.add_argument("--modes", type=words, default=list(MODES))
    parser.add_argument("--precisions", type=words, default=["master", "autocast"])
    parser.add_argument("--chunks", type=numbers, default=[1, 8], help="parts of the rows that logits are made for")
    parser.add_argument("--attention", default="faster", choices=["faster", "cudnn", "flash", "default"])
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--curve", type=int, default=0, help="also the losses of so many steps from the beginning")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no variant is begun later than this")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2.5e-4)
    parser.add_argument("--balance", type=float, default=0.1)
    for name, value in dict(vocabulary=50304, sequence=1024, layers=24, d=1024, heads=16, experts=16).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main():
    options = parse()
    started = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    data = Data(options)
    result = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
              "tokens": options.tokens or "uniform", "matmul_tflops": time_matmul(options),
              "attention_ms": time_attention(options, 64 if options.cells else options.batches[0]),
              "variants": [], "left_out": []}
    timed = {k: v for k, v in result["attention_ms"].items() if isinstance(v, float)}
    if options.attention == "faster":
        options.attention = min(timed, key=timed.get) if timed else "default"
    result["attention"] = options.attention
    for phase, batch in options.cells or itertools.product(options.phases, options.batches):
        for variant in variants(options, phase):
            if time.perf_counter() - started > options.seconds:
                result["left_out"].append({"phase": phase, "batch": batch, **variant})
                continue
            record = run_variant(options, phase, variant, batch, data)
            result["variants"].append(record)
            result["best"] = best_of(result["variants"])
            with open(options.out, "w") as file:
                json.dump(result, file, indent=1)
            speed = f"{record['tokens_per_s']:10.0f} tokens/s" if "error" not in record else record["error"]
            print(f"{phase:7} {batch:3} x {options.sequence} {variant['precision']:9} {variant['experts']:8} "
                  f"{variant['mode']:27} {variant['chunks']} {speed}", flush=True)


if __name__ == "__main__":
    main()
