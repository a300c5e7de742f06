#!/usr/bin/env python3
"""The measuring behind packed.sh: the time of forward and backward of packed.lua (the step without the optimizer's
update), median of some steps, for every number of experts per token in both versions; then the line through the packed
times and where it meets the wide ones."""
import argparse
import re
import statistics
import subprocess

from bench import Workplace, spread

MODEL = "tests/bench/packed.lua"
# The crossover that forces a version, and the name the trainer has for it: where wide never pays there is but one.
FORCED = {"packed": ("1000000", "single"), "wide": ("0.01", "wide")}


def milliseconds(place, trainer, version, steps):
    lines, update = place.run(trainer, steps)
    if {line["version"] for line in lines} != {FORCED[version][1]}:
        raise SystemExit(f"{trainer} did not run the {version} version")
    experts = statistics.mean(line["experts_per_token"] for line in lines)
    tokens = lines[0]["tokens"] / lines[0]["step"]
    return experts, 1e3 * tokens / statistics.median(line["tokens_per_s"] for line in lines) - update


def fit(points):
    """The least-squares line through (experts, ms): its value at 0 and its slope."""
    mean_x, mean_y = (statistics.mean(p[i] for p in points) for i in (0, 1))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - slope * mean_x, slope


def predicted_crossover(place, settings):
    plan = subprocess.run([place.moec, "emit", MODEL, "--what=plan"] +
                          [word for setting in settings.split() for word in ("-D", setting)],
                          capture_output=True, text=True, check=True).stdout
    return float(re.search(r"^phase .* crossover=([0-9.]+)", plan, re.M).group(1))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=5, help="measured steps of every turn")
    p.add_argument("--precision", default="f32")
    p.add_argument("--experts", type=int, default=8)
    a = p.parse_args()
    place = Workplace(a.build, "packed")
    place.make_data("bytes")
    common = f"precision={a.precision} experts={a.experts}"
    trainers = {(k, version): place.build(MODEL, f"{version}-{k}-{a.precision}", f"k={k} {common}",
                                          f"--dense_experts:crossover={crossover}")
                for k in range(1, a.experts + 1) for version, (crossover, _) in FORCED.items()}
    if None in trainers.values():
        raise SystemExit("a trainer could not be built")
    times = {pair: [] for pair in trainers}
    for i in range(a.rounds):
        for (k, version), trainer in trainers.items():
            experts, ms = milliseconds(place, trainer, version, a.steps)
            if abs(experts - k) > 1e-6:
                raise SystemExit(f"{trainer} selected {experts} experts per token")
            times[k, version].append(ms)
        print(f"round {i + 1} of {a.rounds} done", flush=True)

    print(f"{a.precision}, {a.experts} experts; ms of forward and backward: median (smallest to largest)")
    print("| experts/token | packed | of Top-1 | wide |\n|---|---|---|---|")
    middle = {pair: statistics.median(values) for pair, values in times.items()}
    for k in range(1, a.experts + 1):
        cells = ["{1:.0f} ({0:.0f} to {2:.0f})".format(*spread(times[k, version])) for version in FORCED]
        print(f"| {k} | {cells[0]} | {middle[k, 'packed'] / middle[1, 'packed']:.2f} | {cells[1]} |")
    base, slope = fit([(k, middle[k, "packed"]) for k in range(1, a.experts + 1)])
    wide = statistics.median(middle[k, "wide"] for k in range(1, a.experts + 1))
    error = max(abs(base + slope * k - middle[k, "packed"]) / middle[k, "packed"] for k in range(1, a.experts + 1))
    print(f"packed: {base:.0f} + {slope:.0f} ms per expert of a token, every k within {100 * error:.0f} % of this line, "
          f"Top-1 {middle[1, 'packed'] / (base + slope):.2f} of it")
    print(f"wide: {wide:.0f} ms at every k; measured crossover {(wide - base) / slope:.2f} experts per token, "
          f"the cost model's {predicted_crossover(place, f'k={a.experts} {common}'):.2f}")


if __name__ == "__main__":
    main()
