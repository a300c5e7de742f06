#!/usr/bin/env python3
"""The measuring behind diagnostics.sh: a trainer with routing diagnostics and one without (`diagnostics = false`) of the
same model and phase at size=small. A turn is a short run of each, which of them first alternating; a round is a turn of
every phase. The ratio is that of the medians over all measured steps. Beside it stands what the profile says of the
kernels that only one of the two has, per step: that hardly depends on what else the machine does."""
import argparse
import re
import statistics
import sys

import cpu
from bench import Workplace, spread

LIMIT = 1.05
# Model and settings; a trainer starts in the phase it measures. The shared phase has no gate.
PHASES = {f"evomoe {name}": ("gpt_evomoe", settings) for name, settings in cpu.PHASES.items() if name != "shared"}
PHASES["gshard"] = ("gpt_gshard", "")


def without_diagnostics(place, model):
    with open(f"models/{model}.lua") as f:
        text, count = re.subn(r"\bconfig = c,", "config = c, diagnostics = false,", f.read(), count=1)
    if count != 1:
        sys.exit(f"models/{model}.lua: no place for `diagnostics = false`")
    out = place.path(f"{model}.lua")
    with open(out, "w") as f:
        f.write(text)
    return out


def build(place, phase):
    model, settings = PHASES[phase]
    scripts = {"on": f"models/{model}.lua", "off": without_diagnostics(place, model)}
    trainers = {side: place.build(script, f"{phase.replace(' ', '-')}-{side}", f"size=small warmup=1 {settings}")
                for side, script in scripts.items()}
    if None in trainers.values():
        sys.exit("a trainer could not be built")
    return trainers


def kernels(profile):
    """Milliseconds a run of every kernel, by name, of the training function that ran most."""
    parts = re.findall(r"^(\S+\.train\S*): (\d+) runs of .*\n((?: .*\n)*)", profile, re.M)
    _, _, lines = max(parts, key=lambda part: int(part[1]))
    return {name: float(ms) for ms, name in re.findall(r"^ +([0-9.]+) .* (moec_\w+) rows=", lines, re.M)}


def own_kernels(profiles, side):
    """Median over the turns of the milliseconds in kernels that the other side does not have."""
    others = set().union(*profiles["off" if side == "on" else "on"])
    return statistics.median(sum(ms for name, ms in turn.items() if name not in others) for turn in profiles[side])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=5, help="measured steps of every turn")
    p.add_argument("--phases", default=",".join(PHASES), help="which of: " + ", ".join(PHASES))
    a = p.parse_args()
    place = Workplace(a.build, "diagnostics")
    place.make_data("spm:4096")
    trainers = {phase: build(place, phase) for phase in a.phases.split(",")}
    times = {(phase, side): [] for phase in trainers for side in ("on", "off")}
    profiles = {phase: {"on": [], "off": []} for phase in trainers}
    for i in range(a.rounds):
        for phase, sides in trainers.items():
            for side in ("on", "off") if i % 2 == 0 else ("off", "on"):
                lines, _ = place.run(sides[side], a.steps)
                tokens = lines[0]["tokens"] / lines[0]["step"]
                times[phase, side] += [1e3 * tokens / line["tokens_per_s"] for line in lines]
                profiles[phase][side].append(kernels(place.profile))
        print(f"round {i + 1} of {a.rounds} done", flush=True)

    print("| phase | ms a step with diagnostics | without | ratio | ms of the kernels that differ, with | without | of a step |\n"
          "|---|---|---|---|---|---|---|")
    worst = 0
    for phase in trainers:
        cells = ["{1:.1f} ({0:.1f} to {2:.1f})".format(*spread(times[phase, side])) for side in ("on", "off")]
        ratio = statistics.median(times[phase, "on"]) / statistics.median(times[phase, "off"])
        worst = max(worst, ratio)
        on, off = (own_kernels(profiles[phase], side) for side in ("on", "off"))
        share = (on - off) / statistics.median(times[phase, "off"])
        print(f"| {phase} | {cells[0]} | {cells[1]} | {ratio:.4f} | {on:.2f} | {off:.2f} | {100 * share:+.2f} % |")
    print(f"largest ratio {worst:.4f}, limit {LIMIT}")
    return worst > LIMIT


if __name__ == "__main__":
    sys.exit(main())
