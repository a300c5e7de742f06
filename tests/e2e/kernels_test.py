"""Several kernels for the same on the device CUDA, on the simulator's libraries: kernels_test.py BUILD LIBRARIES.

What a trainer has several kernels for it times in its first step, keeps in tuning.json and says; a resumed run takes what stands
there; $MOEC_CUDA_OPTIONS takes what it names. A GPU of another architecture compiles and takes only what it can run. A row kernel
in the epilogue of a grouped product changes no bit. Cubins that a trainer carries are enough, micro-batches included.
"""
import json
import os
import shutil
import sys

from common import *

LIBRARIES = os.path.abspath(sys.argv[2])
DENSE = dict(size="tiny", precision="bf16", layers=1, d=64, heads=1, seq=16, batch=2, warmup=1, steps=2)
EVOMOE = dict(size="tiny", precision="bf16", seq=16, batch=2, d=32, heads=2, experts=4, shared_steps=1, anneal_steps=1, dense_steps=1,
              warmup=1, steps=3)


def cuda(arch="8.0", **changes):
    words = dict(MOEC_CUDA_PATH=LIBRARIES, MOEC_CACHE=os.path.join(CACHE, arch), MOEC_SIMULATOR_ARCH=arch)
    words.update(changes)
    return environment(**words)


def build(t, name, model, sizes, *words, **options):
    run(t.moec, "build", os.path.join(ROOT, "models", model + ".lua"), *settings(**sizes), "--target=cuda", *words, "-o", t.path(name),
        **options)


def prepare(t):
    global CACHE
    CACHE = t.path("cache")
    make_data(t, 1500)
    build(t, "dense", "gpt_dense", DENSE)


def train(t, out, *words, trainer="dense", **options):
    options.setdefault("env", cuda())
    return run(t.path(trainer), "train", "--data", t.data, "--out", t.path(out), "--eval-every=0", "--checkpoint-every=1",
               "--device=cuda", *words, **options)


def choices(t, out):
    return [c for c in json.loads(read(os.path.join(t.path(out), "tuning.json")))["choices"] if c["kind"] == "kernel"]


def attention(t, out):
    """Forward and backward."""
    return [c for c in choices(t, out) if "moec_attention" in c["shape"]]


def cubins(arch):
    return len(os.listdir(os.path.join(CACHE, arch)))


def test_both_kinds(t):
    """On sm_90 both are timed; the log says which was taken; a resumed run does not time again and has the same bits."""
    said = train(t, "hopper", env=cuda("9.0"))
    taken = attention(t, "hopper")
    assert len(taken) == 2 and all(c["candidates"] == 2 and c["algorithm"] in ("mma", "wgmma") for c in taken), taken
    assert all("wgmma: moec_attention_" in c["shape"] and "; " in c["shape"] for c in taken), taken
    assert all(f"kernels: {c['algorithm']} is the fastest of 2 ways" in said for c in taken), said
    shutil.copytree(t.path("hopper"), t.path("cut"))
    shutil.rmtree(checkpoint(t.path("cut"), 2))
    said = train(t, "cut", "--resume", env=cuda("9.0"))
    assert "kernels:" not in said and choices(t, "cut") == choices(t, "hopper"), said
    same_run(t.path("hopper"), t.path("cut"), steps_of(t.path("hopper")))


def test_the_named_kind(t):
    for kind, other in (("wgmma", "mma"), ("mma", "wgmma")):
        said = train(t, "named_" + kind, "--profile", "--steps=1", env=cuda("9.0", MOEC_CUDA_OPTIONS=f"nothing,{kind}"))
        assert f"option={kind}" in said and f"option={other}\n" not in said, said
        assert not attention(t, "named_" + kind)


def test_another_architecture(t):
    """sm_80 has one kernel left for attention, and compiles no other."""
    said = train(t, "portable", "--profile")
    assert "option=mma" in said and "sm90" not in said and not attention(t, "portable"), said
    assert cubins("9.0") == cubins("8.0") + 4, (cubins("9.0"), cubins("8.0"))  # forward at two sizes, and the two of the gradient
    build(t, "only", "gpt_dense", DENSE, "--attention=wgmma")
    train(t, "only_run", trainer="only", code=3, says="this trainer is made for sm_90a, the GPU is an sm_80")


def test_epilogues(t):
    """Of the grouped products' ways those with mma.sync give the same bits; the plain products' algorithms are one run's."""
    build(t, "evomoe", "gpt_evomoe", EVOMOE)
    logs, tuned = [], ()
    for option in ("mma", "mma-epilogue"):
        said = train(t, option, "--profile", *tuned, trainer="evomoe", env=cuda(MOEC_CUDA_OPTIONS=option + ",separate"))
        tuned = ("--tuning=" + os.path.join(t.path(option), "tuning.json"),)
        assert ("moec_grouped_epilogue" in said) == (option == "mma-epilogue"), said
        logs.append([{key: value for key, value in line.items() if key != "tokens_per_s"} for line in log(t.path(option))])
    assert len(logs[0]) > 3 and logs[0] == logs[1]


def test_carried(t):
    """With cubins nothing is compiled, so that NVRTC need not be there; the sum over micro-batches is carried, too. Another GPU than they
    are for compiles its own, which the log says, or cannot."""
    some = t.path("without_nvrtc")
    os.makedirs(some)
    for name in ("libcuda.so.1", "libcublasLt.so.13"):
        os.symlink(os.path.join(LIBRARIES, name), os.path.join(some, name))
    build(t, "carrying", "gpt_dense", dict(DENSE, accumulate=2), "--precompile=sm_80", env=cuda())
    said = train(t, "carried", trainer="carrying", env=cuda(MOEC_CUDA_PATH=some, MOEC_CACHE=t.path("empty")))
    assert "0 kernels compiled" in said and "0 from the cache" in said and "precompiled kernels" in said, said
    assert not os.path.exists(t.path("empty"))
    said = train(t, "elsewhere", trainer="carrying", env=cuda("9.0"))
    assert " 0 carried" in said and "0 kernels compiled in" not in said, said
    train(t, "nowhere", trainer="carrying", env=cuda("9.0", MOEC_CUDA_PATH=some, MOEC_CACHE=t.path("empty")), code=3,
          says=("kernels are to be compiled for sm_90a, but libnvrtc.so.13 is not in", "toolkit"))


main(dict(globals()))
