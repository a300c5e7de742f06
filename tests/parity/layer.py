"""One MoE layer with every gate, number by number: layer.py MOEC [CASE...].

Gives the functions of layer.lua's trainers what stands in goldens/layer/*.json (made by make_layer_goldens.py, float64,
PyTorch) and compares all that comes out, tensor by tensor: losses, loads, the layer's output, the gradient of every
parameter, each relative to the tensor's largest number; of a phase that has one also the version with wide experts.
"""
import json
import math
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "gates"))
from trainer import command, floats, integers, read, write  # noqa: E402

TOLERANCE = 1e-5
NOTHING = 1e-7  # what f32 may leave of an exact 0
LAYER = "%combine"  # the output of nn.moe; where experts are wide there is no such value


class Trainers:
    """Those of layer.lua, one for every set of gates, built as they are asked for."""

    def __init__(self, moec, directory):
        self.moec, self.directory, self.built = moec, directory, {}

    def of(self, golden):
        """The executable and what it says of itself."""
        name = golden["set"]
        if name not in self.built:
            path = self.directory / name
            command(self.moec, "build", HERE / "layer.lua", "-D", f"set={name}", "-D", f"experts={golden['experts']}",
                    "--target=cpu", "--keep-values", "-o", path)
            self.built[name] = path, command(path, "info")
        return self.built[name]

    def functions(self, golden, case, mode):
        """The function, or its versions."""
        _, text = self.of(golden)
        line, = [line for line in text.splitlines() if line.startswith(f"phase       {case}:")]
        versions = (".packed", ".wide") if mode == "train" and "versions packed and wide" in line else ("",)
        return [f"{case}.{mode}{version}" for version in versions]

    def run(self, function, golden, training):
        path, _ = self.of(golden)
        source, target = self.directory / "in", self.directory / "out"
        write(source, inputs(golden, training))
        command(path, "exec", f"--func={function}", f"--in={source}", f"--out={target}", f"--seed={golden['seed']}")
        return read(target)


def inputs(golden, training):
    given = golden["inputs"]
    n = len(given["tokens"])
    tensors = {key: integers([len(given[key])], given[key]) for key in ("tokens", "targets", "position", "off")}
    tensors |= {key: floats([n], given[key]) for key in ("weight", "live")}
    tensors["inverse_targets"] = floats([], [1 / sum(given["weight"])])
    tensors["tau"] = floats([], [golden["tau"]])
    if training:
        tensors |= {"token": integers([n], range(n)), "step": integers([], [golden["step"]])}
    for name, given in golden["parameters"].items():
        tensors["@" + name] = floats(given["shape"], [part / 64 for part in given["parts"]])
    return tensors


def difference(found, expected):
    """The largest, relative to the largest number expected; 0 where all are 0, as they must be."""
    largest = max(map(abs, expected))
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if largest == 0:
        return 0.0 if worst <= NOTHING else math.inf
    return worst / largest if worst == worst else math.inf


class Comparison:
    def __init__(self):
        self.failures, self.worst, self.count = 0, 0.0, 0

    def fail(self, function, message):
        self.failures += 1
        print(f"{function}: {message}")

    def results(self, function, expected, found):
        """All that is expected is there and right, and no other loss or gradient is there."""
        compared = {key for key in expected if key != "y" or not function.endswith(".wide")}
        for key in sorted(compared):
            label = LAYER if key == "y" else key
            if label not in found:
                self.fail(function, f"there is no {label}")
                continue
            worst = difference(found[label].data, expected[key])
            self.worst, self.count = max(self.worst, worst), self.count + 1
            if not worst <= (0 if key.startswith("load.") else TOLERANCE):
                self.fail(function, f"{label} is off by {worst:.2g} of its largest number: {list(found[label].data)}, "
                          f"expected {expected[key]}")
        for label in sorted(found):
            if label.startswith(("grad ", "aux.", "next ")) and label not in compared:
                self.fail(function, f"{label} is not expected")

    def case(self, trainers, case, golden):
        for mode in golden["results"]:
            for function in trainers.functions(golden, case, mode):
                found = trainers.run(function, golden, mode == "train")
                self.results(function, golden["results"][mode], found)


def main(moec, *cases):
    goldens = HERE / "goldens" / "layer"
    paths = [goldens / f"{case}.json" for case in cases] or sorted(goldens.glob("*.json"))
    comparison = Comparison()
    with tempfile.TemporaryDirectory() as directory:
        trainers = Trainers(moec, pathlib.Path(directory))
        for path in paths:
            comparison.case(trainers, path.stem, json.loads(path.read_text()))
    print(f"{len(paths)} gates, {comparison.count} tensors, largest relative difference {comparison.worst:.1e}")
    return 1 if comparison.failures or not paths else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
