#!/usr/bin/env bash
# Packs everything that tests/gpu/run.sh needs into DIR, on a machine without a GPU: run.sh builds nothing and needs neither
# Lua nor network nor root. usage: tests/gpu/prepare.sh DIR [BUILD]      (BUILD: a finished build, default build)
#
#   DIR/suite      the kernel tests for the device, and their cases
#   DIR/trainers   tiny models, f32 and bf16; the paper's model in bf16 by phase and batch; two layers of it for profiles
#   DIR/cpu        what the tiny models do on this machine's CPU in f32: metrics.jsonl of 500 steps
#   DIR/data       token files of real text: tiny (500 ids) and text (8000 ids, for the paper's vocabulary)
#   DIR/lib        libraries beside the C library's own that the programs need
# Cubins for ARCH (default sm_90a) are carried where NVRTC is on this machine; without it the GPU's machine needs NVRTC.
#   TEXT=FILE   other text than the King James Bible
#   STEPS=n     of the tiny models' runs (default 500); MODELS="dense ..." which of them; ONLY_TINY=1: no paper-size trainers
#   TINY="seq=16 ..."   other settings of the tiny models
#   MEMORY=nG   of the GPU, that the paper's model may use (default 130G)
set -euo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,4p' "$0" >&2
  exit 2
fi
directory=$(realpath -m "$1") build=$(realpath "${2:-build}")
cd "$(dirname "$0")/../.."
arch=${ARCH:-sm_90a}
rm -rf "$directory"
mkdir -p "$directory"/{suite,trainers,cpu,data,lib}
export OMP_WAIT_POLICY=passive

# ---- the kernel suite and the scripts
for name in rows attention routing grouped epilogue; do
  strip -o "$directory/suite/${name}_device_test" "$build/tests/gpu/${name}_device_test"
done
strip -o "$directory/suite/grouped_bench" "$build/tests/gpu/grouped_bench"
cp -r tests/kernels/cases "$directory/suite/cases"
cp tests/gpu/run.sh tests/gpu/summary.py tests/bench/peer_torch.py tests/bench/data_order.py "$directory"
ldd "$build/moec-runtime" "$directory"/suite/{*_test,grouped_bench} |
  awk '$3 ~ /^\// && $1 !~ /^lib(c|m|dl|pthread|rt)\.so/ { print $3 }' | sort -u | xargs -r cp -Lt "$directory/lib"

# ---- real text; numbers of a counter where there is none
text=${TEXT:-$directory/text.txt}
if [ -z "${TEXT:-}" ]; then
  if command -v bible >/dev/null; then
    bible -f 'Gen1:1-Rev22:21' </dev/null | cut -d' ' -f2- >"$text"
  else
    echo "prepare: no bible on this machine: the text is numbers, its routing is not that of a language" >&2
    awk 'BEGIN { s = 1; for (i = 0; i < 400000; i++) { s = (s * 1103515245 + 12345) % 2147483648; printf "%d%s", s % 9973, i % 12 == 11 ? ".\n" : " " } }' >"$text"
  fi
fi
head -n 4000 "$text" >"$directory/tiny.txt"
"$build/moec" data "$directory/tiny.txt" -o "$directory/data/tiny" --tokenizer=spm:500 >/dev/null
"$build/moec" data "$text" -o "$directory/data/text" --tokenizer=spm:8000 >/dev/null
rm -f "$directory/tiny.txt" "$directory/text.txt"

# ---- trainers
precompile=()
if "$build/moec" build models/gpt_dense.lua -D size=tiny --precompile="$arch" -o "$directory/trainers/probe" 2>/dev/null; then
  precompile=("--precompile=$arch")
else
  echo "prepare: no NVRTC on this machine: trainers carry no cubins" >&2
fi
rm -f "$directory/trainers/probe"

# trainer NAME MODEL [SETTING ...], with the words of `options`
options=()
trainer() {
  local name=$1 model=$2 settings=()
  shift 2
  for setting in "$@"; do
    settings+=(-D "$setting")
  done
  "$build/moec" build "models/$model.lua" "${settings[@]}" "${precompile[@]}" "${options[@]}" -o "$directory/trainers/$name"
}

phases="shared_steps=170 dense_steps=170 anneal_steps=170 steps=500"
models=${MODELS:-dense switch evomoe}
for model in $models; do
  for precision in f32 bf16; do
    settings="steps=500"
    [ "$model" != evomoe ] || settings=$phases
    # shellcheck disable=SC2086
    trainer "tiny-$model-$precision" "gpt_$model" size=tiny precision=$precision $settings ${TINY:-}
  done
done

# The paper's model, for the GPU alone. As much is kept as fits into MEMORY: the 140 GiB of an H200 less what the driver and
# the libraries take. paper NAME SETTING ...
paper() {
  local name=$1
  shift
  options=(--target=cuda "--memory=${MEMORY:-130G}")
  trainer "$name" gpt_evomoe precision=bf16 dropout=0 warmup=100 clip=1.0 "$@"
  options=()
}
shared=(shared_steps=100000 dense_steps=0 steps=200000) # no dense phase: its memory at this batch would not fit
dense=(shared_steps=0 dense_steps=100000 anneal_steps=100000 tau_max=2 tau_min=2 steps=200000)
top1=(shared_steps=0 dense_steps=0 tau_max=0.5 tau_min=0.5 steps=200000)
if [ -z "${ONLY_TINY:-}" ]; then
  paper paper-top1-64 batch=64 "${top1[@]}"
  paper paper-top1-8 batch=8 "${top1[@]}"
  paper paper-dense-16 batch=16 "${dense[@]}"
  paper paper-shared-64 batch=64 "${shared[@]}"
  paper profile-top1-64 layers=2 batch=64 "${top1[@]}"
  paper profile-dense-16 layers=2 batch=16 "${dense[@]}"
fi

# ---- what the CPU makes of the tiny models
for model in $models; do
  "$directory/trainers/tiny-$model-f32" train --data "$directory/data/tiny" --out "$directory/run" --device=cpu \
    --steps "${STEPS:-500}" --eval-every=0 --checkpoint-every=0 --routing-every=1 >/dev/null
  mkdir -p "$directory/cpu/$model"
  cp "$directory/run/metrics.jsonl" "$directory/run/routing.jsonl" "$directory/cpu/$model/"
  rm -rf "$directory/run"
done
tar -C "$directory" -czf "$directory.tar.gz" .
du -sh "$directory" "$directory.tar.gz"
if [ "$(stat -c %s "$directory.tar.gz")" -gt 60000000 ]; then
  echo "prepare: $directory.tar.gz has more than 60 MB" >&2
  exit 1
fi
