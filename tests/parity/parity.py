"""Parity with an independent implementation: parity.py MOEC [CASE...].

Trains every case of goldens/*.json (made by make_goldens.py, float64, PyTorch) with moec on the CPU in f32 and compares
metrics.jsonl and routing.jsonl, line by line: losses to 1e-5 of their value (f32 reaches 3e-7), how many tokens every
expert took exactly.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENT = dict(os.environ, OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="2")
TOLERANCE = {"loss": 1e-5, "ce": 1e-5, "ce_gate": 1e-5, "balance": 1e-5, "z": 1e-5, "grad_norm": 1e-4,
             "importance": 1e-5, "load_balance": 1e-5, "entropy": 1e-5, "unreached": 1e-5, "distill": 1e-5,
             "experts_per_token": 1e-7}


def run(*words):
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


class Comparison:
    def __init__(self, case):
        self.case, self.failures, self.worst = case, [], {}

    def fail(self, line, message):
        self.failures.append(f"{self.case}: step {line['step']}, phase {line['phase']}: {message}")

    def number(self, line, key, found, expected):
        difference = abs(found - expected) / abs(expected)
        self.worst[key] = max(self.worst.get(key, 0), difference)
        if not difference <= TOLERANCE[key]:
            self.fail(line, f"{key} is {found}, expected {expected} (relative difference {difference:.2g})")

    def line(self, expected, found):
        if "ppl_gate" in found:
            found["ce_gate"] = math.log(found["ppl_gate"])
        for key, value in expected.items():
            if key not in found:
                self.fail(expected, f"the line has no {key}")
            elif key in TOLERANCE:
                self.number(expected, key, found[key], value)
            elif found[key] != value:
                self.fail(expected, f"{key} is {found[key]}, expected {value}")

    def sequence(self, what, expected, found):
        if len(expected) != len(found):
            self.failures.append(f"{self.case}: {len(found)} {what}, expected {len(expected)}")
        for pair in zip(expected, found):
            self.line(*pair)


def compare(moec, path, data, directory):
    golden = json.loads(path.read_text())
    trainer, out = directory / path.stem, directory / (path.stem + ".run")
    defines = [word for key, value in golden["config"].items() for word in ("-D", f"{key}={text(value)}")]
    run(moec, "build", ROOT / golden["model"], *defines, "-o", trainer)
    run(trainer, "train", "--data", data, "--out", out, "--seed", golden["seed"], "--routing-every", 1)
    metrics, routing = lines(out / "metrics.jsonl"), lines(out / "routing.jsonl")
    updates = [line for line in metrics if "split" not in line]
    for line in routing:
        updates[line["step"] - 1]["load"] = line["load"]
    comparison = Comparison(path.stem)
    comparison.sequence("updates", golden["train"], updates)
    comparison.sequence("evaluations", golden["evaluations"], [line for line in metrics if "split" in line])
    worst = ", ".join(f"{key} {value:.1e}" for key, value in comparison.worst.items())
    print(f"{path.stem}: largest relative differences: {worst}", flush=True)
    return comparison.failures


def main(moec, *cases):
    paths = [HERE / "goldens" / f"{case}.json" for case in cases] or sorted((HERE / "goldens").glob("*.json"))
    failures = []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        data = directory / "data"
        run(moec, "data", "--train", HERE / "train.txt", "--valid", HERE / "valid.txt", "--tokenizer=bytes", "-o", data)
        for path in paths:
            failures += compare(moec, path, data, directory)
    for failure in failures:
        print(failure)
    return 1 if failures or not paths else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
