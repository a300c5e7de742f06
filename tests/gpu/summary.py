#!/usr/bin/env python3
"""What tests/gpu/run.sh left in RAW, as one JSON (result.json) and one table (table.txt) in OUT; the log of the first
failure and a short table on standard output.

usage: summary.py DIR RAW OUT      DIR: what prepare.sh made. Only the standard library is used. Exit status 1 when a part
that ran failed or missed its tolerance; parts that the machine cannot run count as neither."""
import glob
import json
import os
import re
import statistics
import subprocess
import sys

SKIP = 5  # steps at the start of a benchmark that are not counted: tuning, graph capture
EARLY, EARLY_TOLERANCE = 20, 1e-4  # f32: the first steps, as far as no routing decision differs
LAST, LAST_TOLERANCE = 50, {"f32": 0.005, "bf16": 0.01}  # the mean of the last losses
PEER_TOLERANCE = 0.02  # the mean of the last losses, at most LAST, beside the peer's: other draws, the same training
SHOWN, SHOWN_LOG = 7500, 3000  # characters on standard output
# The goals for one H200: tokens/s at least, aimed at.
GOALS = {"paper-top1-64": (190e3, 235e3), "paper-dense-16": (45e3, 50e3)}
AGAINST_PEER = {"paper-top1-64": (1.1, 1.35), "paper-top1-8": (1.25, 1.4)}
PAPER = dict(layers=24, d=1024, vocabulary=50257, sequence=1024, experts=16)


def lines_of(path):
    try:
        with open(path) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except OSError:
        return []


def steps_of(path):
    return [line for line in lines_of(path) if "tokens_per_s" in line]


def flops_per_token(phase):
    """Forward and backward; causal attention counted at half."""
    moe = 0 if phase == "shared" else PAPER["layers"] // 2
    experts, d = PAPER["experts"] if phase == "dense" else 1, PAPER["d"]
    products = (4 * d * d * PAPER["layers"] + 8 * d * d * (PAPER["layers"] - moe + moe * experts) +
                PAPER["vocabulary"] * d + moe * d * PAPER["experts"])
    return 6 * products + 6 * PAPER["layers"] * PAPER["sequence"] * d


def same_decisions(gpu, cpu, steps):
    """How many of the first steps give the experts of every layer as many tokens on both. As long as that holds, decisions
    replayed from one run into the other would be its own."""
    loads = [{line["step"]: line["load"] for line in routing} for routing in (gpu, cpu)]
    return min((step - 1 for step in range(1, steps + 1) if loads[0].get(step) != loads[1].get(step)), default=steps)


def parity(directory, out):
    """Losses of the GPU beside those of the CPU; the first ones, of f32, under the same decisions."""
    found = {}
    for path in sorted(glob.glob(os.path.join(out, "parity-*.jsonl"))):
        name = os.path.basename(path)[len("parity-"):-len(".jsonl")]
        model, precision = name.rsplit("-", 1)
        gpu = [s["loss"] for s in steps_of(path)]
        reference = os.path.join(directory, "cpu", model.split("_")[0])
        cpu = [s["loss"] for s in steps_of(os.path.join(reference, "metrics.jsonl"))]
        routing = lines_of(os.path.join(reference, "routing.jsonl"))
        count = min(len(gpu), len(cpu))
        if count == 0 or len(gpu) < len(cpu):
            found[name] = {"steps": len(gpu), "of": len(cpu), "good": False}
            continue
        same = same_decisions(lines_of(os.path.join(out, f"routing-{name}.jsonl")), routing, count)
        early = max((abs(a - b) / abs(b) for a, b in zip(gpu[:min(EARLY, same)], cpu)), default=0)
        last = abs(statistics.mean(gpu[-LAST:]) / statistics.mean(cpu[-LAST:]) - 1)
        good = last <= LAST_TOLERANCE[precision] and (precision != "f32" or (same > 0 and early <= EARLY_TOLERANCE))
        found[name] = {"steps": count, "same_decisions": same, "early": early, "last": last, "good": good}
    return found


def peer_losses(peer, name):
    """Of the best variant of the same phase and batch."""
    _, phase, batch = name.split("-")[:3]
    variants = [v for v in (peer or {}).get("variants", ()) if (v["phase"], v["batch"]) == (phase, int(batch)) and "losses" in v]
    return max(variants, key=lambda v: v["tokens_per_s"])["losses"] if variants else []


def beside_peer(losses, others):
    """How far the mean of the last losses that both have is off the peer's."""
    count = min(len(losses), len(others))
    if count < 20:
        return None
    first = max(count - LAST, count // 2)
    mine, theirs = statistics.mean(losses[first:count]), statistics.mean(others[first:count])
    return {"from": first + 1, "to": count, "ce": mine, "peer": theirs, "off": mine / theirs - 1,
            "same": abs(mine / theirs - 1) <= PEER_TOLERANCE}


def bench(out, peer):
    found = {}
    for path in sorted(glob.glob(os.path.join(out, "bench-*.jsonl"))):
        name = os.path.basename(path)[len("bench-"):-len(".jsonl")]
        every = steps_of(path)
        steps = every[SKIP:]
        if not steps:
            continue
        rates = sorted(s["tokens_per_s"] for s in steps)
        phase = steps[-1]["phase"]
        rate = statistics.median(rates)
        found[name] = {"phase": phase, "steps": len(steps), "tokens_per_s": rate, "slowest": rates[0], "fastest": rates[-1],
                       "experts_per_token": steps[-1].get("experts_per_token"), "version": steps[-1].get("version"),
                       "tflops": rate * flops_per_token(phase) / 1e12, "mfu": rate * flops_per_token(phase) / 989e12,
                       "beside_peer": beside_peer([s["ce"] for s in every], peer_losses(peer, name))}
    return found


def kernels(out):
    """Which of a plan's ways each trainer took: (way, milliseconds, how many were timed, all of them)."""
    found = {}
    for path in sorted(glob.glob(os.path.join(out, "tuning-*.json"))):
        name = os.path.basename(path)[len("tuning-"):-len(".json")]
        with open(path) as file:
            choices = json.load(file)["choices"]
        found[name] = [{"took": c["algorithm"], "ms": 1e3 * c["seconds"], "of": c["candidates"], "ways": c["shape"]}
                       for c in choices if c["kind"] == "kernel"]
    return found


def profile(out):
    """The kernels that cost most, by function of the plan."""
    found = {}
    for path in sorted(glob.glob(os.path.join(out, "profile-*.log"))):
        func, table = None, {}
        with open(path, errors="replace") as file:
            for line in file:
                head = re.match(r"(\S+): (\d+) runs of ([0-9.]+) ms", line)
                row = re.match(r" +([0-9.]+) +([0-9.]+)% +(\d+) +([0-9.]+)? +(\S.*)", line)
                if head:
                    func = head.group(1)
                    table[func] = {"ms": float(head.group(3)), "steps": []}
                elif func and row:
                    table[func]["steps"].append({"ms": float(row.group(1)), "share": float(row.group(2)),
                                                 "calls": int(row.group(3)),
                                                 "gflops": float(row.group(4)) if row.group(4) else None,
                                                 "step": row.group(5).strip()})
        if table:
            found[os.path.basename(path)[len("profile-"):-len(".log")]] = table
    return found


def read_parts(out):
    with open(os.path.join(out, "parts.tsv")) as file:
        return [dict(zip(("part", "name", "status", "seconds"), line.rstrip("\n").split("\t"))) for line in file]


def read_peer(out):
    try:
        with open(os.path.join(out, "peer.json")) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def gpu_name():
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no nvidia-smi"


def peer_rate(peer, name):
    """(tokens/s of the best variant, what it was) for "paper-top1-64"."""
    _, phase, batch = name.split("-")[:3]
    best = (peer or {}).get("best", {}).get(f"{phase} {batch}x")
    return (best["tokens_per_s"], f"{best['precision']} {best['experts']} {best['mode']}") if best else (None, "")


def attention_flops(rows, backward):
    """Of the causal half: two products forward, five backward."""
    return (5 if backward else 2) * rows * PAPER["sequence"] * PAPER["d"]


def peer_rates(peer):
    rows = [f"peer: torch {peer['torch']}, attention by {peer['attention']}; TFLOP/s: matmul {peer.get('matmul_tflops') or 0:.0f}"]
    for name, rate in peer.get("grouped_tflops", {}).items():
        rows.append(f"  grouped {name:6} " + (f"{rate:6.0f}" if isinstance(rate, float) else str(rate)[:80]))
    for name, times in peer["attention_ms"].items():
        if isinstance(times, list):
            ahead, both = (attention_flops(64 * PAPER["sequence"], b) for b in (False, True))
            rows.append(f"  attention by {name}: forward {ahead / times[0] / 1e9:.0f}, backward {both / (times[1] - times[0]) / 1e9:.0f}")
        else:
            rows.append(f"  attention by {name}: {str(times)[:80]}")
    return rows


def kernel_rate(name, choice):
    """TFLOP/s of an attention or a grouped product among the kernels of paper-top1-64 and the like; None: another kernel."""
    _, phase, batch = name.split("-")[:3]
    rows, ways = int(batch) * PAPER["sequence"], choice["ways"]
    if "attention" in ways:
        flops = attention_flops(rows, "attention_grad" in ways)
    elif "grouped" in ways:
        flops = 2 * rows * (PAPER["experts"] if phase == "dense" else 1) * 4 * PAPER["d"]**2
    else:
        return None
    return flops / choice["ms"] / 1e9


def first_failure(result, out):
    """The end of the log of the first part that failed, and of its run step by step where there is one."""
    for part in result["parts"]:
        if part["status"] in ("ok", "not there", "no time"):
            continue
        rows = []
        for name in (f"{part['part']}-{part['name']}.log", f"{part['part']}-{part['name']}-blocking.log"):
            try:
                with open(os.path.join(out, name), errors="replace") as file:
                    rows += [f"--- the end of {name}", file.read()[-SHOWN_LOG // 2:].rstrip()]
            except OSError:
                continue
        return "\n".join(rows) + "\n"
    return ""


def cut(text):
    return text if len(text) <= SHOWN else text[:SHOWN].rsplit("\n", 1)[0] + "\n... the rest stands in table.txt\n"


def table_text(result, short=False):
    most_steps, most_ways, ways_text = (8, 12, 60) if short else (30, 1000, 150)
    parts = [p for p in result["parts"] if p["status"] != "ok"] if short else result["parts"]
    good = sum(p["status"] == "ok" for p in result["parts"])
    rows = [f"GPU: {result['gpu']}", f"{good} of {len(result['parts'])} tests ok"]
    if parts:
        rows += ["part       test                         result     seconds"]
    rows += [f"{p['part']:10} {p['name']:28} {p['status']:10} {p['seconds']}" for p in parts]
    if result["parity"]:
        rows += ["", f"parity              steps   same decisions   first {EARLY} of these: largest   last {LAST}: mean off by"]
        rows += [f"{name:19} {p['steps']:5}   " + (f"{p['same_decisions']:14}   {p['early']:23.2e}   {p['last']:20.2e}   " if "last" in p else
                 f"ended early, of {p['of']}   ") + ("good" if p["good"] else "MISSED") for name, p in result["parity"].items()]
    if result["bench"]:
        rows += ["", "benchmark                  tokens/s  TFLOP/s  of 989   version  peer tokens/s  ratio  (goal, aim)"]
        for name, b in result["bench"].items():
            rate, what = peer_rate(result["peer"], name)
            ratio = f"{b['tokens_per_s'] / rate:6.2f}" if rate else "     -"
            goal = [f"{g / 1e3:.0f}k" for g in GOALS.get(name, ())] + [f"x{r}" for r in AGAINST_PEER.get(name, ())]
            rows.append(f"{name:25} {b['tokens_per_s']:9.0f} {b['tflops']:8.1f} {100 * b['mfu']:6.1f}%  {b['version'] or '':8} "
                        f"{rate or 0:12.0f} {ratio}  ({', '.join(goal)}) {what}")
    for name, b in result["bench"].items():
        c = b["beside_peer"]
        if c:
            rows.append(f"{name}: ce of steps {c['from']} to {c['to']} {c['ce']:.4f}, the peer's {c['peer']:.4f}: {100 * c['off']:+.2f}%, "
                        + ("the same training" if c["same"] else "NOT the same training: the comparison is void"))
    if result["peer"]:
        rows += ["", *peer_rates(result["peer"])]
        rows += [f"  {v['phase']:7} {v['batch']:3} {v['precision']:9} {v['experts']:8} {v['mode']:12} " +
                 (v["error"] if "error" in v else f"{v['tokens_per_s']:9.0f} tokens/s, graph breaks {v['graph_breaks']}")
                 for v in result["peer"]["variants"]]
    for name, choices in result["kernels"].items():
        if choices:
            rows += ["", f"{name} took        ms   of  TFLOP/s  ways"]
            slowest = sorted(choices, key=lambda c: -c["ms"])[:most_ways]
            rates = [kernel_rate(name, c) for c in slowest]
            rows += [f"{c['took']:20} {c['ms']:9.3f} {c['of']:4}  " + (f"{rate:7.0f}" if rate else " " * 7) +
                     f"  {c['ways'][:ways_text]}" for c, rate in zip(slowest, rates)]
    for name, table in result["profile"].items():
        for func, f in table.items():
            if not func.endswith((".update",)) and ".train" not in func:
                continue
            rows += ["", f"{name} {func}: {f['ms']:.2f} ms", "        ms  share  calls  TFLOP/s  step"]
            rows += [f"{s['ms']:10.3f} {s['share']:5.1f}% {s['calls']:6} " +
                     (f"{s['gflops'] / 1e3:8.1f}" if s["gflops"] else "        ") + f"  {s['step']}" for s in f["steps"][:most_steps]]
    return "\n".join(rows) + "\n"


def main():
    directory, raw, out = sys.argv[1:4]
    peer = read_peer(raw)
    result = {"gpu": gpu_name(), "parts": read_parts(raw), "parity": parity(directory, raw), "bench": bench(raw, peer),
              "kernels": kernels(raw), "profile": profile(raw), "peer": peer}
    result["good"] = (all(p["status"] in ("ok", "not there") for p in result["parts"]) and
                      all(p["good"] for p in result["parity"].values()))
    with open(os.path.join(out, "result.json"), "w") as file:
        json.dump(result, file, indent=1)
    text = table_text(result)
    with open(os.path.join(out, "table.txt"), "w") as file:
        file.write(text)
    print(first_failure(result, raw) + cut(table_text(result, short=True)))
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
