"""What the benchmarks share: data, trainers, and the measured steps of a run."""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

SKIP = 2  # steps at the start of a run that are not counted: pages are touched, the version is chosen


def measured_environment(**more):
    """The environment of a program that takes times; what CPU_TIME=1 preloads is for these alone."""
    preload = os.environ.get("MOEC_BENCH_PRELOAD")
    return dict(os.environ, **more, **({"LD_PRELOAD": preload} if preload else {}))


class Workplace:
    """A directory for data, trainers and runs below the build directory."""

    def __init__(self, build, name):
        self.directory = os.path.join(build, "bench", name)
        self.moec = os.path.join(build, "moec")
        self.profile = ""  # what the last run printed
        os.makedirs(self.directory, exist_ok=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def make_data(self, tokenizer):
        """Real text: the same Debian package as the demo's. Small, so that the evaluation at the end costs little."""
        if os.path.exists(self.path("data", "meta.json")):
            return
        text = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=True).stdout
        verses = [line.split(" ", 1)[1] for line in text.splitlines() if " " in line]
        with open(self.path("text.txt"), "w") as f:
            f.write("\n".join(verses[:4000]) + "\n")
        subprocess.run([self.moec, "data", self.path("text.txt"), "-o", self.path("data"), f"--tokenizer={tokenizer}"],
                       check=True, stdout=subprocess.DEVNULL)

    def build(self, model, trainer, settings, *options):
        """The trainer's file; None with a message when it cannot be built."""
        out = self.path(trainer)
        done = subprocess.run([self.moec, "build", model, "-o", out, *options] +
                              [word for setting in settings.split() for word in ("-D", setting)],
                              capture_output=True, text=True)
        if done.returncode == 0:
            return out
        print(f"{trainer}: not available: {done.stderr.strip()}", file=sys.stderr)
        return None

    def run(self, trainer, steps):
        """(the lines of metrics.jsonl that count, milliseconds of an optimizer's update)"""
        run = self.path("run")
        shutil.rmtree(run, ignore_errors=True)
        done = subprocess.run([trainer, "train", "--data", self.path("data"), "--out", run, "--steps",
                               str(SKIP + steps), "--eval-every=0", "--checkpoint-every=0", "--profile"],
                              capture_output=True, text=True, env=measured_environment())
        if done.returncode:
            sys.exit(f"{trainer}: {done.stderr}")
        self.profile = done.stdout
        with open(os.path.join(run, "metrics.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        update = re.search(r"\.update: \d+ runs of ([0-9.]+) ms", done.stdout)
        return [line for line in lines if "tokens_per_s" in line][SKIP:], float(update.group(1))


def spread(values):
    return min(values), statistics.median(values), max(values)
