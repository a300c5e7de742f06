#!/usr/bin/env python3
"""The peer of the CUDA target: models/gpt_evomoe.lua as PyTorch (2.8 or later) trains it fastest on one GPU.

24 pre-LN blocks, D = 1024, 16 heads, learned positions, tied embedding padded to 50304, tanh-GELU, biases, no dropout;
every second block is a Mixture of 16 Experts. Three phases, as in the paper: `shared` (one expert, no gate), `dense` (all
experts, softmax of the noised scores over tau) and `top1`. What a variant is made of:

  precision  autocast: f32 parameters under torch.autocast(bf16)
             master:   bf16 parameters, f32 masters in the fused optimizer
  experts    grouped:  tokens sorted by expert, torch._grouped_mm with offsets that stay on the device (top1)
             gathered: the same, and the adjoint of sorting is a gather, not an accumulating scatter
             batched:  all experts for all tokens by batched products (dense)
             loop:     a Python loop over the experts and the tokens that chose them: what most research code does
  mode       eager; blocks: every block and the loss compiled by itself, which takes a fraction of the time to compile;
             or a mode of torch.compile for the model as a whole
  attention  cudnn | flash | default: the two are timed first and the faster one is kept

Every variant runs on its own: a failure (memory, a compiler that gives up) is recorded beside the others' results. The
best of a phase and batch is the one to beat. Timing: steps behind the warm-up by CUDA events; median, 10th and 90th
percentile. Graph breaks are counted, for a break in the MoE layer would make the comparison unfair.

Tokens: --tokens FILE is a token file of `moec data` (runtime/data.h) or any .npy of integers: real text makes routing
skewed. Without it they are uniform. Batches are those of a trainer with this seed, and so are learning rate, moments,
decay, clipping, temperature and initialisation, so the losses of all steps, which are in the record, must be a
trainer's up to noise: else the comparison is void. One JSON object goes to --out, rewritten behind every variant.
"""
import argparse
import contextlib
import gc
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

from data_order import DataOrder

PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200, from the data sheet
TAU = {"dense": 2.0, "top1": 0.5}


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
    """Gives its output and no auxiliary loss."""

    def __init__(self, d, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x))), None


class Permute(torch.autograd.Function):
    """x[order] of a permutation; `inverse` undoes it."""

    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    def backward(ctx, gradient):
        inverse, = ctx.saved_tensors
        return gradient[inverse], None, None


class MoE(nn.Module):
    """w1[E,D,F], w2[E,F,D]; the gate in f32. Gives its output and the auxiliary loss."""

    def __init__(self, d, hidden, experts, phase, form):
        super().__init__()
        self.experts, self.tau, self.top1, self.form = experts, TAU[phase], phase == "top1", form
        self.gate = nn.Linear(d, experts, bias=False)
        self.w1, self.b1 = nn.Parameter(torch.empty(experts, d, hidden)), nn.Parameter(torch.zeros(experts, hidden))
        self.w2, self.b2 = nn.Parameter(torch.empty(experts, hidden, d)), nn.Parameter(torch.zeros(experts, d))

    def route(self, x):
        with torch.autocast(x.device.type, enabled=False):
            z = F.linear(x.float(), self.gate.weight.float())
            noise = -torch.log(-torch.log(torch.rand_like(z).clamp_min(1e-20)))
            p = torch.softmax((z + noise) / self.tau, -1)
        chosen = F.one_hot(p.argmax(-1), self.experts).to(p.dtype) if self.top1 else torch.ones_like(p)
        return p, self.experts * (chosen.mean(0) * p.mean(0)).sum()

    def operands(self, x):
        """What products take: autocast does not know _grouped_mm."""
        dtype = torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else self.w1.dtype
        return [t.to(dtype) for t in (x, self.w1, self.b1, self.w2, self.b2)]

    def grouped(self, x, p, gathers=False):
        x, w1, b1, w2, b2 = self.operands(x)
        weight, expert = p.max(-1)
        order = torch.argsort(expert, stable=True)
        offsets = F.one_hot(expert, self.experts).sum(0).cumsum(0).to(torch.int32)
        inverse = torch.zeros_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        sorted_expert = expert[order]
        h = gelu(torch._grouped_mm(Permute.apply(x, order, inverse) if gathers else x[order], w1, offs=offsets) +
                 b1[sorted_expert])
        y = torch._grouped_mm(h, w2, offs=offsets) + b2[sorted_expert]
        y = Permute.apply(y, inverse, order) if gathers else torch.zeros_like(y).index_copy(0, order, y)
        return y * weight.unsqueeze(-1).to(y.dtype)

    def gathered(self, x, p):
        return self.grouped(x, p, gathers=True)

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
        p, balance = self.route(x)
        return getattr(self, self.form)(x, p), balance


class Block(nn.Module):
    def __init__(self, d, heads, ffn):
        super().__init__()
        self.ln1, self.ln2, self.attention, self.ffn = nn.LayerNorm(d), nn.LayerNorm(d), Attention(d, heads), ffn

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        b, t, d = x.shape
        y, balance = self.ffn(self.ln2(x).view(b * t, d))
        return x + y.view(b, t, d), balance


class Head(nn.Module):
    """The last norm, the logits by the embedding and their loss, in parts of the rows."""

    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)

    def forward(self, x, targets, embedding, chunks):
        x, targets = self.norm(x).view(-1, x.shape[-1]), targets.reshape(-1)
        return sum(F.cross_entropy(F.linear(part, embedding).float(), t, reduction="sum")
                   for part, t in zip(x.chunk(chunks), targets.chunk(chunks))) / targets.numel()


class GPT(nn.Module):
    def __init__(self, shape, phase, form):
        super().__init__()
        d = shape.d
        self.tokens, self.positions = nn.Embedding(shape.vocabulary, d), nn.Embedding(shape.sequence, d)
        ffn = [MoE(d, 4 * d, shape.experts, phase, form) if i % 2 and phase != "shared" else FeedForward(d, 4 * d)
               for i in range(shape.layers)]
        self.blocks, self.head = nn.ModuleList(Block(d, shape.heads, f) for f in ffn), Head(d)
        small = 0.02 / math.sqrt(2 * shape.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "ln" not in name and not name.endswith((".b1", ".b2")):
                before_residual = name.endswith((".out.weight", ".fc2.weight", ".w2"))
                nn.init.normal_(parameter, std=small if before_residual else 0.02)

    def forward(self, ids, targets, chunks):
        x, balances = self.tokens(ids) + self.positions.weight[: ids.shape[1]], []
        for block in self.blocks:
            x, balance = block(x)
            if balance is not None:
                balances.append(balance)
        ce = self.head(x, targets, self.tokens.weight, chunks)
        return ce, sum(balances) / len(balances) if balances else torch.zeros_like(ce)


# ---------------------------------------------------------------- a step

class Optimizer:
    """Fused AdamW; with bf16 parameters on f32 masters of them. Gradients are clipped to norm 1. The learning rate rises
    through the warm-up, then falls in a line."""

    def __init__(self, parameters, options):
        self.options, self.steps = options, 0
        self.parameters = list(parameters)
        self.masters = None
        if any(p.dtype == torch.bfloat16 for p in self.parameters):
            self.masters = [p.detach().float().requires_grad_() for p in self.parameters]
            for master in self.masters:
                master.grad = torch.zeros_like(master)
        self.adam = torch.optim.AdamW(self.masters or self.parameters, betas=(0.9, options.beta2), eps=1e-8,
                                      weight_decay=0.1, fused=True)

    def rate(self):
        o, behind = self.options, self.steps - self.options.rate_warmup
        share = (behind + o.rate_warmup + 1) / o.rate_warmup if behind < 0 else 1 - behind / (o.rate_total - o.rate_warmup)
        return o.learning_rate * share

    def step(self):
        for group in self.adam.param_groups:
            group["lr"] = self.rate()
        self.steps += 1
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
    def __init__(self, options, phase, variant, data):
        torch.manual_seed(options.seed)
        self.options, self.data, self.steps = options, data, 0
        self.autocast = variant["precision"] == "autocast"
        self.chunks = variant["chunks"]
        model = GPT(options, phase, variant["experts"]).to(options.device)
        if variant["precision"] == "master":
            model = model.bfloat16()
            for gate in (b.ffn.gate for b in model.blocks if isinstance(b.ffn, MoE)):
                gate.float()
        self.model = model
        self.optimizer, self.run, self.losses = Optimizer(model.parameters(), options), model, []
        if variant["mode"] == "blocks":
            for part in (*model.blocks, model.head):
                part.compile(dynamic=False)
        elif variant["mode"] != "eager":
            self.run = torch.compile(model, mode=variant["mode"], dynamic=False)

    def step(self):
        ids, targets = self.data.batch(self.steps)
        self.steps += 1
        with torch.autocast(self.options.device, dtype=torch.bfloat16, enabled=self.autocast):
            ce, balance = self.run(ids, targets, self.chunks)
        (ce + self.options.balance * balance).backward()
        self.optimizer.step()
        self.losses.append(ce.detach().clone())  # a captured graph writes its own output again


class Data:
    """The batches of a trainer with the same seed; tokens and where the sequences begin are on the device ahead."""

    def __init__(self, options):
        self.sequence = options.sequence
        tokens = read_tokens(options.tokens, options.vocabulary) if options.tokens else torch.randint(
            options.vocabulary, (4 << 20,), generator=torch.Generator().manual_seed(options.seed))
        if len(tokens) < self.sequence + 1:
            raise SystemExit(f"{options.tokens}: fewer than {self.sequence + 1} tokens")
        self.tokens, self.order = tokens.to(options.device), DataOrder(len(tokens), self.sequence, options.seed)
        self.starts = None

    def prepare(self, steps, batch):
        starts = [self.order.start(i) for i in range(steps * batch)]
        self.starts = torch.tensor(starts, device=self.tokens.device).view(steps, batch)

    def batch(self, step):
        at = self.starts[step].unsqueeze(1) + torch.arange(self.sequence, device=self.tokens.device)
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


def measure(options, phase, variant, batch, steps, data):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    data.prepare(options.warmup + steps, batch)
    start = time.perf_counter()
    trainer = Trainer(options, phase, variant, data)
    trainer.step()
    trainer.losses[0].item()
    first = time.perf_counter() - start
    step_times(trainer, options.warmup - 1, options.device)
    times = step_times(trainer, steps, options.device)
    seconds = statistics.median(times)
    tokens = batch * options.sequence
    deciles = statistics.quantiles(times, n=10) if len(times) > 1 else [seconds] * 9
    return {"tokens_per_s": tokens / seconds, "ms": seconds * 1e3, "ms_p10": deciles[0] * 1e3, "ms_p90": deciles[8] * 1e3,
            "mfu_causal": flops_per_token(options, phase, True) * tokens / seconds / PEAK_FLOPS,
            "mfu_all_pairs": flops_per_token(options, phase, False) * tokens / seconds / PEAK_FLOPS,
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else None,
            "clocks": clocks(options.device), "graph_breaks": graph_breaks(), "compile_s": first,
            "losses": torch.stack(trainer.losses).tolist()}


@contextlib.contextmanager
def attention_backend(name):
    backends = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION"}
    if name not in backends:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel
    with sdpa_kernel([getattr(SDPBackend, backends[name])], set_priority=True):
        yield


def milliseconds(once):
    """Of one call on the GPU, the mean of ten."""
    for _ in range(3):
        once()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(10):
        once()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 10


def time_matmul(options):
    """TFLOP/s of an 8192 x 8192 x 8192 product of random bf16 numbers: what the machine can do."""
    if options.device != "cuda":
        return None
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / milliseconds(lambda: a @ b) / 1e9


def time_attention(options, batch):
    """Milliseconds of causal attention, [forward, forward and backward] by backend."""
    found = {}
    shape = (batch, options.heads, options.sequence, options.d // options.heads)
    q, k, v, dy = (torch.randn(shape, device=options.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(4))
    dy = dy.detach()

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    for name in ("cudnn", "flash") if options.device == "cuda" else ():
        try:
            with attention_backend(name):
                found[name] = [milliseconds(forward), milliseconds(lambda: forward().backward(dy))]
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
    return found


def time_grouped(options, batch):
    """TFLOP/s of torch._grouped_mm for an expert layer's products: rows of `batch` sequences, equal groups."""
    if options.device != "cuda":
        return {}
    rows, d, hidden, experts = batch * options.sequence, options.d, 4 * options.d, options.experts
    make = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
    x, h, w = make(rows, d), make(rows, hidden), make(experts, d, hidden)
    ends = torch.arange(1, experts + 1, device="cuda", dtype=torch.int32) * (rows // experts)
    ways = {"x w": lambda: torch._grouped_mm(x, w, offs=ends),
            "h w^T": lambda: torch._grouped_mm(h, w.transpose(1, 2), offs=ends),
            "x^T h": lambda: torch._grouped_mm(x.t(), h, offs=ends)}
    found = {}
    for name, way in ways.items():
        try:
            found[name] = 2 * rows * d * hidden / milliseconds(way) / 1e9
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
    return found


# ---------------------------------------------------------------- variants

FORMS = {"shared": ("none",), "dense": ("batched",), "top1": ("gathered", "grouped")}  # those to compile
NAIVE = {"shared": "none", "dense": "loop", "top1": "loop"}
MODES = ("blocks", "default", "max-autotune-no-cudagraphs", "reduce-overhead")


def variants(options, phase):
    """The likely best first, so that a time limit costs the others. The naive loop is eager: it cannot be compiled whole."""
    ways = (options.modes, options.precisions, FORMS[phase], options.chunks)
    ranks = sorted(itertools.product(*(range(len(w)) for w in ways)), key=sum)  # first what differs from the best in one
    compiled = [dict(zip(("mode", "precision", "experts", "chunks"), (w[i] for w, i in zip(ways, rank)))) for rank in ranks]
    naive = [{"precision": "autocast", "experts": NAIVE[phase], "mode": "eager", "chunks": 1}]
    return compiled[:1] + naive + compiled[1:]


def run_variant(options, phase, variant, batch, steps, data):
    record = {"phase": phase, "batch": batch, **variant}
    try:
        with attention_backend(options.attention):
            record.update(measure(options, phase, variant, batch, steps, data))
    except Exception as error:  # a variant that PyTorch cannot run is a result, too
        record["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    return record


def in_turns(options):
    """The first variant of every cell, then the second of every cell, and so on."""
    cells = options.cells or [(p, b, None) for p, b in itertools.product(options.phases, options.batches)]
    of_cells = [[(*cell, variant) for variant in variants(options, cell[0])] for cell in cells]
    return [variant for turn in itertools.zip_longest(*of_cells) for variant in turn if variant]


def write(path, result):
    with open(path, "w") as file:
        json.dump(result, file)


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
    cells = lambda text: [(phase, int(batch), int(steps[0]) if steps else None)
                          for phase, batch, *steps in (cell.split(":") for cell in text.split(","))]
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokens")
    parser.add_argument("--phases", type=words, default=["top1", "shared", "dense"])
    parser.add_argument("--batches", type=numbers, default=[64, 32, 16, 8])
    parser.add_argument("--cells", type=cells, help="top1:64,top1:8:190: these phases and batches only, with so many steps")
    parser.add_argument("--modes", type=words, default=list(MODES))
    parser.add_argument("--precisions", type=words, default=["master", "autocast"])
    parser.add_argument("--chunks", type=numbers, default=[1, 8], help="parts of the rows that logits are made for")
    parser.add_argument("--attention", default="faster", choices=["faster", "cudnn", "flash", "default"])
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no variant is begun later than this")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2.5e-4)
    parser.add_argument("--rate-warmup", type=int, default=100, help="steps")
    parser.add_argument("--rate-total", type=int, default=200000, help="steps to a rate of 0")
    parser.add_argument("--beta2", type=float, default=0.98)
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
              "attention_ms": time_attention(options, 64), "grouped_tflops": time_grouped(options, 64),
              "variants": [], "left_out": []}
    timed = {k: v[1] for k, v in result["attention_ms"].items() if isinstance(v, list)}
    if options.attention == "faster":
        options.attention = min(timed, key=timed.get) if timed else "default"
    result["attention"] = options.attention
    for phase, batch, steps, variant in in_turns(options):
        if time.perf_counter() - started > options.seconds:
            result["left_out"].append({"phase": phase, "batch": batch, **variant})
            continue
        record = run_variant(options, phase, variant, batch, steps or options.steps, data)
        result["variants"].append(record)
        result["best"] = best_of(result["variants"])
        write(options.out, result)
        speed = f"{record['tokens_per_s']:10.0f} tokens/s" if "error" not in record else record["error"]
        print(f"{phase:7} {batch:3} x {options.sequence} {variant['precision']:9} {variant['experts']:8} "
              f"{variant['mode']:27} {variant['chunks']} {speed}", flush=True)
    write(options.out, result)


if __name__ == "__main__":
    main()
