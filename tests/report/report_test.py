"""moec report: report_test.py BUILD. Tiny runs of three gates, and a run whose logs are written here so that every number
of the page is known; headless Chromium opens the pages, where it is installed.

What the page must say is computed here from the logs that were written, by code that shares nothing with the report's.
"""
import html.parser
import json
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from common import *

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
SUMMARY = ["table-runs", "table-time", "table-predicted"]
FIGURES = ["figure-loss", "figure-perplexity", "figure-density", "figure-fluctuation", "figure-time"]
OF_A_RUN = ["figure-load", "figure-gate", "figure-token", "figure-difficulty", "table-experts", "figure-memory", "ledger"]


class Page(html.parser.HTMLParser):
    """Ids, what is said in place of a missing figure, labels of pictures, text, tags that load something."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.missing, self.labels, self.text, self.loads = [], set(), {}, "", []
        self.figure = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if "id" in a:
            self.ids.append(a["id"])
        if tag == "figure":
            self.figure = a["id"]
            if a.get("class") == "missing":
                self.missing.add(a["id"])
        if tag == "svg":
            self.labels[self.figure] = a["aria-label"]
        if tag in ("script", "img", "iframe", "object") or "src" in a or (tag == "link" and a["href"] != "data:,"):
            self.loads.append(tag)

    def handle_data(self, data):
        self.text += data


def browse(path):
    """The page as Chromium has it once loaded; no error may appear in its console."""
    if not CHROMIUM:
        print("  Chromium is not installed (apt: chromium): the page is not opened in it", flush=True)
        return read(path).decode()
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
                           f"--user-data-dir={path}.profile", "file://" + path], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    return done.stdout


def report(t, name, *words, says=()):
    path = t.path(name)
    run(t.moec, "report", *words, "-o", path, says=says)
    page = Page(browse(path))
    assert not page.loads, page.loads
    doubled = {i for i in page.ids if page.ids.count(i) > 1}
    assert not doubled, doubled
    return page


def prepare(t):
    make_text(t.path("text"), 6000)
    t.data, t.evomoe, t.stable, t.switch = t.path("data"), t.path("evomoe"), t.path("stable"), t.path("switch")
    run(t.moec, "data", t.path("text"), "-o", t.data, "--tokenizer=spm:512")
    for out, model in ((t.evomoe, "gpt_evomoe"), (t.stable, "gpt_stable"), (t.switch, "gpt_switch")):
        run(t.moec, "build", os.path.join(ROOT, "models", model + ".lua"), "-D", "size=tiny", "--target=cpu", "-o", t.path(model))
        run(t.path(model), "train", "--data", t.data, "--out", out, "--routing-every=1", "--eval-every=5", "--probe-every=2")
    shutil.copy(t.path("gpt_evomoe"), os.path.join(t.evomoe, "trainer"))  # where moec train leaves it


def test_three_runs(t):
    """Every figure of real runs is there, none is missing."""
    t.runs = (t.evomoe, t.stable, t.switch)
    t.page = page = report(t, "three.html", *t.runs, *(f"--trainer={t.path(model)}" for model in ("gpt_switch", "gpt_stable")))
    for i in SUMMARY + FIGURES + [f"{name}-{k}" for name in OF_A_RUN for k in (1, 2, 3)]:
        assert i in page.ids and i not in page.missing, i
        assert i in page.labels or not i.startswith("figure"), i
    assert not page.missing, page.missing
    for out in t.runs:  # the main numbers are the logs' own
        lines = log(out)
        assert "%.4g" % [l for l in lines if "split" not in l][-1]["loss"] in page.labels["figure-loss"], out
        assert "%.4g" % [l for l in lines if l.get("split") == "valid"][-1]["ppl"] in page.labels["figure-perplexity"], out
    parameters = sum(math.prod(shape) for shape, _ in tensors(os.path.join(checkpoint(t.evomoe, 30), "model.safetensors")).values())
    assert f"{parameters} (" in page.text
    assert "fuse_gate" in page.text and "forecast" in page.text
    forecast = json.loads(run(t.path("gpt_evomoe"), "info", "--forecast"))  # what the memory figure is drawn from
    assert [phase["name"] for phase in forecast["phases"]] == ["shared", "dense", "top1"]
    recorded = json.loads(read(os.path.join(t.evomoe, "memory.json")))["phases"]
    most = max(recorded, key=lambda name: recorded[name]["arena_peak"])
    said = f"Forecast peak {forecast['peak_bytes'] / 2**20:.1f} MiB; the run held {recorded[most]['arena_peak'] / 2**20:.1f} MiB at most, in phase {most}."
    assert said in page.labels["figure-memory-1"], (said, page.labels["figure-memory-1"])


def paths_of(out):
    """The first line of probe.jsonl, the steps, and the strongest expert of every probe token at each of them; one layer."""
    first, *lines = log(out, "probe.jsonl")
    (layer,) = lines[0]["expert"]
    return first, lines, [line["step"] for line in lines], list(zip(*(line["expert"][layer] for line in lines)))


def test_probe_numbers(t):
    """StableMoE's fluctuation, the paths and the experts' tokens, recomputed from the lines that the runs wrote."""
    for k, out in enumerate(t.runs, 1):
        first, lines, steps, paths = paths_of(out)
        last_steps = [max([step for step, expert in zip(steps, path) if expert != path[-1]], default=0) for path in paths]
        shares = [100 * sum(step / 30 > after for step in last_steps) / len(paths) for after in (0.2, 0.5, 0.8)]
        said = "%s: %.1f %% of the probe tokens still change expert after 20 %% of training, %.1f %% after 50 %%, %.1f %% after 80 %%." % (
            os.path.basename(out), *shares)
        assert said in t.page.labels["figure-fluctuation"], (said, t.page.labels["figure-fluctuation"])
        changes = [sum(a != b for a, b in zip(path, path[1:])) for path in paths]
        token = changes.index(max(changes))
        assert f"at position {token} changes its strongest expert {max(changes)} times." in t.page.labels[f"figure-token-{k}"], changes
        mean = sum(sum(numbers) for numbers in lines[-1]["experts"].values()) / len(paths)
        assert f"{mean:.2f} experts per probe token at update 30" in t.page.labels[f"figure-difficulty-{k}"]
        for expert in range(4):
            share = 100 * sum(path[-1] == expert for path in paths) / len(paths)
            assert f"h2.moe{expert}{share:.1f} %" in t.page.text, (out, expert, share)
        if out == t.stable:  # the distilled router does not move once it is frozen
            frozen = [line["expert"] for line in lines if line["phase"] == "frozen"]
            assert len(frozen) > 5 and all(experts == frozen[0] for experts in frozen) and max(last_steps) <= 10, last_steps
        else:
            assert shares[1] > 0, shares


def test_token_of_a_run(t):
    """--token takes a text as well, with or without the space before a word."""
    first, _, _, paths = paths_of(t.switch)
    word = next(text[1:] for text in first["text"] if text.startswith(" ") and len(text) > 3)
    positions = [i for i, text in enumerate(first["text"]) if text.lstrip(" ") == word]
    changes = {i: sum(a != b for a, b in zip(paths[i], paths[i][1:])) for i in positions}
    best = max(positions, key=lambda i: (changes[i], -i))
    for asked in (word, first["tokens"][best]):
        label = report(t, "word.html", t.switch, f"--token={asked}").labels["figure-token-1"]
        assert f"at position {best} changes its strongest expert" in label or first["tokens"][best] != asked, (label, best)
        assert word in label, label


def known_run(t):
    """Twenty updates of four experts; probe tokens whose paths, and so whose last fluctuations, are chosen."""
    out = t.path("known")
    os.makedirs(out)
    with open(os.path.join(out, "metrics.jsonl"), "w") as file:
        for step in range(1, 21):
            file.write(json.dumps({"step": step, "phase": "dense", "loss": 5 - step / 10, "ce": 5 - step / 10, "lr": 1e-3,
                                   "tau": 2 - step / 20, "grad_norm": 1, "tokens": 64 * step, "tokens_per_s": 640,
                                   "flops": 1e9 * step, "experts_per_token": 2, "version": "single"}) + "\n")
        file.write('{"step":20,"phase":"dense","split":"valid","ppl":12.25}\n')
    with open(os.path.join(out, "routing.jsonl"), "w") as file:
        for step in range(1, 21):
            file.write(json.dumps({"step": step, "phase": "dense", "load": {"h2.moe": [48, 16, 0, 0]}, "layers": {"h2.moe": {
                "experts_per_token": 1, "entropy": 0.125, "kept_weight": 0.5, "margin": 0.25, "dropped": 0, "dead": 2}}}) + "\n")
    texts, tokens = ["<b>", "it's", "\n", "d"], [k % 4 for k in range(32)]
    settled = [4 * (k % 6) for k in range(32)]  # at this step a token still has another expert than at the end
    with open(os.path.join(out, "probe.jsonl"), "w") as file:
        file.write(json.dumps({"format": 1, "tokens": tokens, "text": [texts[i] for i in tokens],
                               "frequency": [0.4 / (1 + i) for i in tokens], "split": "valid"}) + "\n")
        for step in (4, 8, 12, 16, 20):
            file.write(json.dumps({"step": step, "phase": "dense", "expert": {"h2.moe": [3 if step <= s and s < 20 else i % 2 for s, i in
                                                                                       zip(settled, tokens)]},
                                   "experts": {"h2.moe": [1 + i for i in tokens]}, "loss": [1.0 + i for i in tokens]}) + "\n")
    kinds = dict(parameters=1, gradients=1, moments=2, accumulators=0, activations=3, arena_peak=8)
    write(os.path.join(out, "memory.json"), json.dumps({"phases": {"dense": {kind: n << 20 for kind, n in kinds.items()}}}))
    t.settled = [s if s < 20 else 0 for s in settled]
    return out


def test_known_numbers(t):
    t.known = known_run(t)
    page = report(t, "known.html", t.known)
    for i in SUMMARY + FIGURES + [name + "-1" for name in OF_A_RUN]:
        assert i in page.ids, i
    assert page.missing == {"ledger-1"}, page.missing  # there is no trainer of it
    assert "its forecast is in the trainer (--trainer=FILE); the run held 8.0 MiB at most, in phase dense" in page.labels["figure-memory-1"]
    late = 100 * sum(s / 20 > 0.5 for s in t.settled) / len(t.settled)
    assert f"{late:.1f} % after 50 %" in page.labels["figure-fluctuation"], page.labels
    assert "3.00 times its even share, and 2 experts have nothing" in page.labels["figure-load-1"]
    assert "entropy of 0.125" in page.labels["figure-gate-1"]
    assert "2.50 experts per probe token at update 20" in page.labels["figure-difficulty-1"]
    assert "100 ms per update" in page.labels["figure-time"]
    assert "changes its strongest expert once" in page.labels["figure-token-1"]
    assert "12.25" in page.labels["figure-perplexity"]
    row = re.search(r"h2\.moe050\.0 %<b>\s8\s*\u23ce\s8", page.text)  # half of the tokens: two pieces, eight of each
    assert row, page.text[page.text.find("each expert sees"):][:600]


def test_chosen_token(t):
    page = report(t, "token.html", t.known, "--token=1")
    assert page.labels["figure-token-1"].count("it's") == 1
    page = report(t, "token.html", t.known, "--token=99")
    assert "figure-token-1" in page.missing and "99 is none of the probe tokens" in page.text


def test_damaged(t):
    damaged = t.path("damaged")
    shutil.copytree(t.known, damaged)
    lines = read(os.path.join(damaged, "metrics.jsonl")).decode().splitlines()
    lines[2], lines[4] = lines[2][:30], '{"step":5}'
    write(os.path.join(damaged, "metrics.jsonl"), "\n".join(lines) + "\n" + '{"step":')  # the last is under way
    os.remove(os.path.join(damaged, "probe.jsonl"))
    os.remove(os.path.join(damaged, "routing.jsonl"))
    write(os.path.join(damaged, "memory.json"), "{")
    page = report(t, "damaged.html", damaged, says=("metrics.jsonl:3: damaged: no JSON object; this line and 1 more", "memory.json: damaged"))
    assert "metrics.jsonl:3: damaged" in page.text
    assert {"figure-memory-1", "figure-load-1", "figure-fluctuation", "figure-token-1", "table-experts-1"} <= page.missing, page.missing


def test_errors(t):
    out = t.path("error.html")
    empty = t.path("empty")
    os.makedirs(empty)
    run(t.moec, "report", empty, "-o", out, code=1, says="no run directory")
    write(os.path.join(empty, "metrics.jsonl"), "")
    run(t.moec, "report", empty, "-o", out, code=1, says=("metrics.jsonl", "no update is recorded"))
    run(t.moec, "report", t.path("nowhere"), "-o", out, code=1, says="no such directory")
    run(t.moec, "report", "-o", out, code=2, says="no run directory is named")
    run(t.moec, "report", t.known, code=2, says="-o FILE is missing")
    run(t.moec, "report", t.known, "-o", out, code=3, says="gnuplot-nox", env=environment(PATH="/nowhere"))
    run(t.moec, "report", t.known, "-o", t.path("nowhere", "r.html"), code=3, says="nowhere")
    assert not os.path.exists(out)
    temporary = t.path("temporary")
    os.makedirs(temporary)
    run(t.moec, "report", t.known, "-o", out, env=environment(TMPDIR=temporary))
    assert os.listdir(temporary) == []


main(globals())
