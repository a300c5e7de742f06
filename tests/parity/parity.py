"""Parity with an independent implementation: parity.py MOEC [CASE...].

Trains every case of goldens/*.json (made by make_goldens.py, float64, PyTorch) with moec on the CPU in f32 and compares
metrics.jsonl and routing.jsonl, line by line: losses to 1e-4 of their value, the tokens of every expert exactly.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "models"
ENVIRONMENT = dict(os.environ, OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="2")
TOLERANCE = {"loss": 1e-4, "ce": 1e-4, "balance": 1e-4, "z": 1e-4, "ce_gate": 1e-4, "grad_norm": 1e-3,
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
        for key, value in expected.items():
            if key == "load":
                continue
            got = found["ppl_gate"] if key == "ce_gate" else found[key]
            if key not in TOLERANCE:
                if got != value:
                    self.fail(expected, f"{key} is {got}, expected {value}")
            elif key == "ce_gate":  # the run's log has the perplexity
                import math
                self.number(expected, key, math.log(got), value)
            else:
                self.number(expected, key, got, value)

    def sequence(self, what, expected, found):
        if len(expected) != len(found):
            self.failures.append(f"{self.case}: {len(found)} {what}, expected {len(expected)}")
        for pair in zip(expected, found):
            self.line(*pair)


def compare(moec, path, data, directory):
    golden = json.loads(path.read_text())
    trainer, out = directory / path.stem, directory / (path.stem + ".run")
    defines = [word for key, value in golden["config"].items() for word in ("-D", f"{key}={text(value)}")]
    run(moec, "build", MODELS / (golden["model"] + ".lua"), *defines, "-o", trainer)
    run(trainer, "train", "--data", data, "--out", out, "--seed", golden["seed"], "--routing-every", 1)
    metrics, routing = lines(out / "metrics.jsonl"), lines(out / "routing.jsonl")
    comparison = Comparison(path.stem)
    comparison.sequence("updates", golden["train"], [line for line in metrics if "split" not in line])
    comparison.sequence("evaluations", golden["evaluations"], [line for line in metrics if "split" in line])
    routed = [line for line in golden["train"] if "load" in line]
    comparison.sequence("lines in routing.jsonl", [{k: line[k] for k in ("step", "phase")} for line in routed], routing)
    for expected, found in zip(routed, routing):
        if found["load"] != expected["load"]:
            comparison.fail(expected, f"the experts' tokens are {found['load']}, expected {expected['load']}")
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
