"""What the ledger says of a gate: gate_decisions.py PASS VALUE... < explain.json

The gate of the first training function that has one must be one row kernel that makes these values, told with what it
saves; every refusal of the fusion passes must have a reason, and one about rows must name two numbers that differ.
"""
import json
import re
import sys


def makes(decision, value):
    return any(re.fullmatch(value + r"(_\d+)?", name) for name in decision["values"])


def check_refusals(decisions):
    refused = [d for d in decisions if d["chosen"].startswith("two kernels")]
    for d in refused:
        rows = re.fullmatch(r"\S+ has (.*), the kernel's loop (.*)", d["reason"])
        assert d["reason"] and (not rows or rows[1] != rows[2]), d
        assert d["alternatives"][0]["why_lost"], d
    assert refused


def main(name, *values):
    decisions = [d for d in json.load(sys.stdin)["decisions"] if d["pass"] in ("fuse_gate", "fuse_rows")]
    check_refusals(decisions)
    kernels = [d for d in decisions if d["chosen"].startswith("one row kernel: ") and ".train" in d["function"]]
    gates = [d for d in kernels if d["pass"] == name and all(makes(d, value) for value in values)]
    assert gates, [d["values"] for d in kernels if d["pass"] == name]
    gate = gates[0]
    apart = gate["alternatives"][0]
    assert gate["cost"]["launches"] == 1 and apart["cost"]["launches"] == len(gate["values"]), gate
    assert apart["what"] == "a kernel for each instruction" and apart["cost"]["bytes"] > gate["cost"]["bytes"], gate
    assert apart["why_lost"].startswith(f"{len(gate['values']) - 1} launch"), gate


if __name__ == "__main__":
    main(*sys.argv[1:])
