"""Trainers of probe.lua and what they compute: functions run by `exec` on tensors that the caller gives, checkpoints."""
import json
import os
import pathlib
import struct
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ENVIRONMENT = dict(os.environ, OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="2")


def command(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Tensor:
    def __init__(self, shape, data):
        self.shape, self.data = shape, list(data)

    def row(self, i):
        width = self.shape[-1]
        return self.data[i * width:(i + 1) * width]

    def rows(self):
        return [self.row(i) for i in range(len(self.data) // self.shape[-1])]


def floats(shape, data):
    return "F32", list(shape), struct.pack(f"<{len(data)}f", *data)


def integers(shape, data):
    return "I32", list(shape), struct.pack(f"<{len(data)}i", *data)


def matrix(rows):
    return floats((len(rows), len(rows[0])), [value for row in rows for value in row])


def unit(n):
    return matrix([[float(i == j) for j in range(n)] for i in range(n)])


def write(path, tensors):
    head, body = {}, b""
    for name, (kind, shape, data) in tensors.items():
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def read(path):
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name != "__metadata__":
            first, last = (8 + size + at for at in entry["data_offsets"])
            code = {"F32": "f", "I32": "i"}[entry["dtype"]]
            tensors[name] = Tensor(entry["shape"], struct.unpack(f"<{(last - first) // 4}{code}", raw[first:last]))
    return tensors


class Trainer:
    """probe.lua built with these keys of its configuration."""

    def __init__(self, moec, directory, **config):
        self.directory = pathlib.Path(directory)
        self.config = {"batch": 2, "seq": 8, "vocab": 16, "experts": 4, "d": 4, **config}
        self.path = self.directory / ("trainer" + "".join(f"-{k}={v}" for k, v in config.items()))
        if not self.path.exists():
            defines = [word for key, value in self.config.items()
                       for word in ("-D", f"{key}={str(value).lower() if isinstance(value, bool) else value}")]
            command(moec, "build", HERE / "probe.lua", *defines, "--target=cpu", "--no-dense_experts", "--keep-values", "-o", self.path)
        self.n = self.config["batch"] * self.config["seq"]

    def run(self, function, scores=None, seed=1, step=0, tokens=None, **given):
        """Results and values by name. `scores`: rows by token for @embedding.w; then the gate is the unit matrix."""
        c, n = self.config, self.n
        tensors = {
            "tokens": integers([n], tokens or [i % c["vocab"] for i in range(n)]),
            "targets": integers([n], [0] * n), "weight": floats([n], [1.0] * n),
            "position": integers([n], [i % c["seq"] for i in range(n)]),
            "off": integers([c["batch"] + 1], range(0, n + 1, c["seq"])), "live": floats([n], [1.0] * n),
            "inverse_targets": floats([], [1 / n]),
        }
        if function.endswith((".train", ".train.packed")):
            tensors.update(token=integers([n], range(n)), step=integers([], [step]))
        if scores:
            tensors["@embedding.w"] = matrix(scores)
            tensors["@h1.moe.gate.w"] = unit(c["experts"])
        tensors.update({name.replace("__", "."): value for name, value in given.items()})
        source, target = self.directory / "in", self.directory / "out"
        write(source, tensors)
        command(self.path, "exec", f"--func={function}", f"--in={source}", f"--out={target}", f"--seed={seed}")
        return read(target)

    def selected(self, out, pairs="%pair"):
        """The experts of every token, from the pairs of a route."""
        chosen = [[] for _ in range(self.n)]
        for pair in out[pairs].data:
            if pair >= 0:
                chosen[pair // self.config["experts"]].append(pair % self.config["experts"])
        return [sorted(experts) for experts in chosen]

    def train(self, data, steps, *words):
        out = self.directory / (self.path.name + ".run")
        command(self.path, "train", "--data", data, "--out", out, "--steps", steps, "--checkpoint-every", 1, *words)
        return out

    @staticmethod
    def checkpoint(out, step):
        return read(out / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
