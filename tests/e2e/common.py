"""What the end-to-end tests share: running commands, checking messages, data made on the spot, reading what a run wrote.

A test is a function test_NAME(t) of a script; main() runs them in their order and prints the time of each.
"""
import array
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TIMEOUT = 300
MARKS_OF_A_CRASH = ("traceback", "Traceback", "Assertion", "core dumped", "Sanitizer", "runtime error:", "[C]:")


def environment(**changes):
    words = dict(os.environ, OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="2", ASAN_OPTIONS="detect_leaks=0",
                 MOEC_CUDA_PATH="/nowhere")  # the CPU, also where there is a GPU
    words.update(changes)
    return words


def run(*words, code=0, says=(), lines=1, stdout=None, **options):
    """The standard output. With a code other than 0: standard error is `lines` lines that have every text of `says`."""
    options.setdefault("env", environment())
    words = [str(word) for word in words]
    done = subprocess.run(words, stdout=subprocess.PIPE if stdout is None else stdout, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=TIMEOUT, **options)
    shown = f"\n{' '.join(words)}\nexit code {done.returncode}, expected {code}\n{done.stdout or ''}{done.stderr}"
    assert done.returncode == code, shown
    for mark in MARKS_OF_A_CRASH:
        assert mark not in done.stderr, shown
    for text in (says,) if isinstance(says, str) else says:
        assert text in done.stderr, f"{shown}\nnot there: {text}"
    if code:
        assert done.stderr.count("\n") == lines, f"{shown}\nexpected {lines} lines"
    return done.stdout


def write(path, content):
    with open(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def make_text(path, words, seed=5):
    """Sentences of made-up words, the frequent ones first, so that there is something to learn."""
    draw = random.Random(seed)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s")]
    names = ["".join(draw.choice(syllables) for _ in range(draw.choice((1, 1, 2, 2, 3)))) for _ in range(600)]
    with open(path, "w") as file:
        for _ in range(words // 10):
            sentence = [names[min(599, int(draw.expovariate(1 / 60)))] for _ in range(10)]
            file.write(" ".join(sentence).capitalize() + ".\n")


def make_data(t, words):
    """Token files of such text, in t.data."""
    t.data = t.path("data")
    make_text(t.path("text"), words)
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=bytes")


def settings(**keys):
    """The words of a command that set these keys of a configuration."""
    return [word for key, value in keys.items() for word in ("-D", f"{key}={value}")]


def tensors(path):
    """A safetensors file: {name: (shape, values)}; its header must describe the file exactly."""
    data = read(path)
    size = struct.unpack("<Q", data[:8])[0]
    assert size % 8 == 0 and 8 + size <= len(data), path
    header, body, out, at = json.loads(data[8:8 + size]), data[8 + size:], {}, 0
    for name, tensor in header.items():  # in the order of the file
        begin, end = tensor["data_offsets"]
        kind, width = {"F32": ("f", 4), "I64": ("q", 8)}[tensor["dtype"]]
        assert begin == at and end - begin == width * math.prod(tensor["shape"]), (path, name)
        values = array.array(kind)
        values.frombytes(body[begin:end])
        out[name], at = (tensor["shape"], values), end
    assert at == len(body), path
    return out


def checkpoint(run_directory, step):
    return os.path.join(run_directory, "checkpoints", f"step-{step:08d}")


def steps_of(run_directory):
    return sorted(int(name[5:]) for name in os.listdir(os.path.join(run_directory, "checkpoints")) if "partial" not in name)


def no_key_twice(pairs):
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), keys
    return dict(pairs)


def log(run_directory, name="metrics.jsonl"):
    """The lines of a log, without what depends on the clock."""
    out = []
    for line in open(os.path.join(run_directory, name)):
        out.append(json.loads(line, object_pairs_hook=no_key_twice))
        out[-1].pop("tokens_per_s", None)
    return out


def same_run(a, b, steps):
    """The checkpoints that both have are equal in every byte, and so are the logs up to the clock."""
    for step in steps:
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            x, y = (read(os.path.join(checkpoint(r, step), name)) for r in (a, b))
            if name == "state.json":  # offsets of logs count the digits of tokens_per_s
                x, y = ({k: v for k, v in json.loads(text).items() if k not in ("logs", "checksum")} for text in (x, y))
            assert x == y, (a, b, step, name)
    for name in ("metrics.jsonl", "routing.jsonl", "probe.jsonl"):
        if name != "probe.jsonl" or all(os.path.exists(os.path.join(r, name)) for r in (a, b)):
            assert log(a, name) == log(b, name), (a, b, name)


class Place:
    def __init__(self, build, directory):
        self.moec, self.directory, self.mounts = os.path.join(os.path.abspath(build), "moec"), directory, []

    def path(self, *names):
        return os.path.join(self.directory, *names)


def main(functions):
    with tempfile.TemporaryDirectory() as directory:
        place = Place(sys.argv[1], directory)
        try:
            for name, test in functions.items():
                if name.startswith(("prepare", "test_")):
                    start = time.time()
                    test(place)
                    print(f"{name}: ok ({time.time() - start:.1f} s)", flush=True)
        finally:
            for path in place.mounts:
                subprocess.call(["umount", path])
