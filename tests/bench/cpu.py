#!/usr/bin/env python3
"""The measuring behind cpu.sh: builds a trainer per phase and precision, starts the PyTorch peer, and lets them work in
turns. A round measures every pair of them once: median tokens/s of some steps, the first steps of a phase left out (pages
are touched, versions chosen, code compiled). Of the peer's forms (loop or batched, eager or compiled) the fastest of a
first round is kept per phase and precision."""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys

from bench import Workplace, measured_environment, spread

# Each trainer starts in the phase it measures.
PHASES = {
    "shared": "shared_steps=1000 steps=2000",
    "dense": "shared_steps=0 dense_steps=1000 anneal_steps=1000 tau_max=2 tau_min=2 steps=2000",
    "sparse": "shared_steps=0 dense_steps=1000 anneal_steps=1000 tau_max=0.5 tau_min=0.5 steps=2000",
    "top1": "shared_steps=0 dense_steps=0 tau_max=0.5 tau_min=0.5 steps=2000",
}
# size=small of models/gpt_evomoe.lua, and the peer's.
VOCABULARY, SEQUENCE, LAYERS, D, EXPERTS = 4096, 256, 4, 384, 8


def flops_per_token(phase, experts_per_token):
    """Forward and backward, products and causal attention, of the pairs that were selected; nothing that is done twice."""
    moe = LAYERS // 2
    ffn = (LAYERS - moe + moe * experts_per_token) * 8 * D * D
    gate = 0 if phase == "shared" else moe * D * EXPERTS
    return 6 * (LAYERS * 4 * D * D + ffn + VOCABULARY * D + gate) + 12 * LAYERS * SEQUENCE * D / 2


class Bench:
    def __init__(self, a):
        self.a = a
        self.place = Workplace(a.build, "cpu")
        self.samples, self.experts, self.versions = {}, {}, {}  # by (who, phase, precision)
        self.peak = {}  # by precision: GFLOP/s of every product measured
        self.trainers, self.form, self.peer = {}, {}, None

    def build(self, phase, precision):
        settings = f"size=small warmup=1 precision={precision} {PHASES[phase]}"
        trainer = self.place.build("models/gpt_evomoe.lua", f"{phase}-{precision}", settings)
        if trainer:
            self.trainers[phase, precision] = trainer

    def record(self, who, phase, precision, tokens_per_s, experts):
        self.samples.setdefault((who, phase, precision), []).append(tokens_per_s)
        self.experts[who, phase, precision] = experts

    def run_moec(self, phase, precision):
        steps, _ = self.place.run(self.trainers[phase, precision], self.a.steps)
        self.versions[phase, precision] = steps[-1]["version"]
        self.record("moec", phase, precision, statistics.median(s["tokens_per_s"] for s in steps),
                    statistics.mean(s["experts_per_token"] for s in steps))

    # -------------------------------------------------------------- the peer

    def start_peer(self):
        # glibc gives large blocks back at once and PyTorch would touch fresh pages at every step: keep them.
        environment = measured_environment(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="100000000000")
        self.peer = subprocess.Popen([self.a.python, "tests/bench/peer_torch_cpu.py"], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=open(self.place.path("peer.log"), "w"), text=True,
                                     env=environment)
        return json.loads(self.peer.stdout.readline())

    def ask_peer(self, phase, precision, form, warmup):
        self.peer.stdin.write(f"{phase} {precision} {form} {warmup} {self.a.steps}\n")
        self.peer.stdin.flush()
        line = self.peer.stdout.readline()
        if not line:
            sys.exit(f"the peer died: see {self.place.path('peer.log')}")
        return json.loads(line)

    def choose_form(self, phase, precision):
        forms = ["loop eager", "loop compiled"]
        if phase in ("dense", "sparse"):
            forms += ["batched eager", "batched compiled"]
        rates = {form: self.ask_peer(phase, precision, form, 3)["tokens_per_s"] for form in forms}
        best = self.form[phase, precision] = max(rates, key=rates.get)
        for form in forms:
            if form != best:
                self.peer.stdin.write(f"drop {phase} {precision} {form}\n")
        print(f"peer {phase} {precision}: " + ", ".join(f"{form} {rate:.0f}" for form, rate in rates.items()) + " tokens/s",
              flush=True)

    def run_peer(self, phase, precision):
        answer = self.ask_peer(phase, precision, self.form[phase, precision], 1)
        self.record("peer", phase, precision, answer["tokens_per_s"], answer["experts_per_token"])

    # -------------------------------------------------------------- all of it

    def run_peak(self):
        out = subprocess.run([os.path.join(self.a.build, "tests", "products_test"), "--bench"], capture_output=True,
                             text=True, check=True, env=measured_environment()).stdout
        for precision, rate in re.findall(r"^gemm (\w+)>.*: ([0-9.]+) GFLOP/s$", out, re.M):
            self.peak.setdefault(precision, []).append(float(rate))

    def row(self, phase, precision):
        ours, theirs = (self.samples.get((who, phase, precision)) for who in ("moec", "peer"))
        if not ours:
            return f"| {phase} | {precision} | | not available | | | | |"
        experts = self.experts["moec", phase, precision]
        low, middle, high = spread(ours)
        gflops = 1e-9 * middle * flops_per_token(phase, experts)
        text = (f"| {phase} | {precision} | {experts:.2f} | {middle:.0f} ({low:.0f} to {high:.0f}) | "
                f"{self.versions[phase, precision]} | {gflops:.0f} ({100 * gflops / max(self.peak[precision]):.0f} %) |")
        if not theirs:
            return text + " | |"
        low, peer, high = spread(theirs)
        ratio = spread([a / b for a, b in zip(ours, theirs)])
        return (text + f" {peer:.0f} ({low:.0f} to {high:.0f}), {self.form[phase, precision]} | "
                f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f}) |")

    def print_table(self):
        print("oneDNN GEMM, GFLOP/s: " + ", ".join(f"{p} best {max(r):.0f}, median {statistics.median(r):.0f}"
                                                   for p, r in self.peak.items()))
        print("| phase | precision | experts/token | moec tokens/s | version | GFLOP/s (of best GEMM) | "
              "PyTorch tokens/s | moec / PyTorch |\n|---|---|---|---|---|---|---|---|")
        for phase in self.a.phases:
            for precision in self.a.precisions:
                print(self.row(phase, precision))

    def run(self):
        self.place.make_data(f"spm:{VOCABULARY}")
        pairs = [(phase, precision) for phase in self.a.phases for precision in self.a.precisions]
        for pair in pairs:
            self.build(*pair)
        if not self.a.no_peer:
            print("PyTorch {torch}, {threads} threads".format(**self.start_peer()), flush=True)
            for pair in pairs:
                self.choose_form(*pair)
        for i in range(self.a.rounds):
            self.run_peak()
            for pair in pairs:
                if pair in self.trainers:
                    self.run_moec(*pair)
                if self.peer:
                    self.run_peer(*pair)
            print(f"round {i + 1} of {self.a.rounds} done, load {os.getloadavg()[0]:.1f}", flush=True)
        self.print_table()
        if self.peer:
            self.peer.stdin.close()
            self.peer.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", required=True)
    p.add_argument("--python", required=True, help="a Python with torch")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=5, help="measured steps of every turn")
    p.add_argument("--phases", default=list(PHASES), type=lambda s: s.split(","))
    p.add_argument("--precisions", default=["f32", "bf16"], type=lambda s: s.split(","))
    p.add_argument("--no-peer", action="store_true")
    Bench(p.parse_args()).run()


if __name__ == "__main__":
    main()
