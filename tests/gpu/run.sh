#!/usr/bin/env bash
# Everything that needs a GPU, from a directory that prepare.sh made: kernel suite, training against the CPU, sanitizer,
# benchmark, profile, peer. Builds nothing; needs bash, coreutils and, for the summary, a python3 without packages.
# usage: DIR/run.sh OUT [PART ...]     parts: suite parity sanitizer bench profile peer (default: all)
#
# Every part has a time limit of its own, together under 8 minutes; a part that fails or is cut leaves what it has, and the
# others run. OUT gets a log per part, result.json and table.txt. Exit status: 0 when every part that could run did well.
#   CUDA=DIR   directories (with colons) of libnvrtc.so.13 and libcublasLt.so.13, where the loader does not find them
#   LIMITS="suite=70 ..."   other time limits, in seconds
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ]; then
  sed -n '4p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(suite parity sanitizer bench profile peer)
declare -A limit=([suite]=80 [parity]=75 [sanitizer]=50 [bench]=110 [profile]=40 [peer]=120)
for setting in ${LIMITS:-}; do
  limit[${setting%%=*}]=${setting#*=}
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export MOEC_CACHE=$work/cache MOEC_CASES=$here/suite/cases OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
: >"$out/parts.tsv"

# ---- where the CUDA libraries are: what CUDA says, the loader's, a toolkit's, PyTorch's
find_library() { # NAME: its directory, or nothing
  local name=$1 path
  for path in ${CUDA//:/ } /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu \
    $(python3 -c 'import sys; print(" ".join(p + "/nvidia/*/lib" for p in sys.path if p.endswith("-packages")))' 2>/dev/null); do
    if [ -e "$path/$name" ]; then
      echo "$path"
      return
    fi
  done
}
CUDA=${CUDA:-}
if [ -z "${MOEC_CUDA_PATH:-}" ]; then
  for name in libcuda.so.1 libnvrtc.so.13 libcublasLt.so.13; do
    found=$(find_library $name)
    [ -z "$found" ] || LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
  done
fi
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$here/lib

# record PART NAME STATUS SECONDS: a line of parts.tsv
record() {
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$out/parts.tsv"
  printf '%-10s %-28s %-10s %s s\n' "$@"
}

# step PART NAME COMMAND...: runs within what is left of the part's time; log in OUT/PART-NAME.log
step() {
  local part=$1 name=$2 started=$SECONDS left status
  shift 2
  left=$((deadline - SECONDS))
  if [ $left -le 0 ]; then
    record "$part" "$name" "no time" 0
    return 1
  fi
  if [ "$(type -t "$1")" = function ]; then # timeout runs programs only
    timeout -k 5 $left bash -c '"$@"' bash "$@" >"$out/$part-$name.log" 2>&1
  else
    timeout -k 5 $left "$@" >"$out/$part-$name.log" 2>&1
  fi
  status=$?
  case $status in
  0) record "$part" "$name" ok $((SECONDS - started)) ;;
  124 | 137) record "$part" "$name" "time limit" $((SECONDS - started)) ;;
  *)
    record "$part" "$name" "exit $status" $((SECONDS - started))
    tail -n 3 "$out/$part-$name.log" | sed 's/^/    /'
    ;;
  esac
  return $status
}

# train NAME TRAINER DATA STEPS [OPTION ...]
train() {
  local name=$1 trainer=$2 data=$3 steps=$4
  shift 4
  "$here/trainers/$trainer" train --data "$here/data/$data" --out "$work/$name" --device=cuda --steps "$steps" \
    --eval-every=0 --checkpoint-every=0 "$@"
}

# All at once: most of their time is NVRTC's.
part_suite() {
  local name part
  cd "$work" || return
  for name in routing grouped epilogue attention; do
    step suite $name "$here/suite/${name}_device_test" &
  done
  for part in 0 1 2 3 4 5; do
    step suite rows-$part "$here/suite/rows_device_test" $part 6 &
  done
  wait
}

part_parity() {
  local model precision way name
  for model in dense switch evomoe; do
    for precision in f32 bf16; do
      [ -e "$here/trainers/tiny-$model-$precision" ] || continue
      step parity "$model-$precision" train "$model-$precision" "tiny-$model-$precision" tiny "${STEPS:-500}"
      cp "$work/$model-$precision/metrics.jsonl" "$out/parity-$model-$precision.jsonl" 2>/dev/null
    done
  done
  for way in epilogue separate; do # every product with its epilogue, every one without
    for precision in f32 bf16; do
      name=dense_$way-$precision
      MOEC_CUDA_OPTIONS=$way step parity "$name" train "$name" "tiny-dense-$precision" tiny "${STEPS:-500}"
      cp "$work/$name/metrics.jsonl" "$out/parity-$name.jsonl" 2>/dev/null
    done
  done
}

part_sanitizer() {
  local tool
  if ! command -v compute-sanitizer >/dev/null; then
    record sanitizer all "not there" 0
    return
  fi
  for tool in memcheck racecheck; do
    step sanitizer "$tool" compute-sanitizer --tool=$tool --error-exitcode=9 --target-processes=all \
      "$here/trainers/tiny-evomoe-bf16" train --data "$here/data/tiny" --out "$work/sanitizer-$tool" --device=cuda \
      --steps 2 --eval-every=0 --checkpoint-every=0
  done
}

# A run that is ended behind STEPS steps: the checkpoint of the end would write 22 GB.
measure() { # NAME DATA STEPS
  local name=$1 data=$2 steps=$3 log=$out/bench-$1.jsonl trainer lines=0 waited=0
  "$here/trainers/$name" train --data "$here/data/$data" --out "$work/$name" --device=cuda --steps 100000 \
    --eval-every=0 --checkpoint-every=0 --routing-every=1000 &
  trainer=$!
  while kill -0 $trainer 2>/dev/null && [ "$lines" -lt "$steps" ]; do
    sleep 0.5
    waited=$((waited + 1))
    lines=$(wc -l <"$work/$name/metrics.jsonl" 2>/dev/null || echo 0)
    cp "$work/$name/metrics.jsonl" "$log" 2>/dev/null
    if [ $((waited % 4)) = 0 ]; then
      nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,memory.used --format=csv,noheader,nounits 2>/dev/null
    fi
  done
  kill -9 $trainer 2>/dev/null
  wait $trainer 2>/dev/null
  cp "$work/$name/tuning.json" "$out/tuning-$name.json" 2>/dev/null # which kernels it took
  [ "$lines" -ge "$steps" ]
}

part_bench() {
  local name
  for name in paper-top1-64 paper-top1-8 paper-dense-16 paper-shared-64; do
    [ -e "$here/trainers/$name" ] || continue
    step bench $name measure $name text 30
    rm -rf "${work:?}/$name"
  done
}

part_profile() {
  local name
  step profile grouped "$here/suite/grouped_bench" # the grouped products by themselves, in every way that a plan has
  for name in profile-top1-64 profile-dense-16; do
    [ -e "$here/trainers/$name" ] || continue
    step profile $name train $name $name text 5 --profile
    cp "$work/$name/tuning.json" "$out/tuning-$name.json" 2>/dev/null
    rm -rf "${work:?}/$name"
  done
}

part_peer() {
  if ! python3 -c 'import torch, numpy; assert torch.cuda.is_available()' 2>/dev/null; then
    record peer torch "not there" 0
    return
  fi
  step peer torch python3 "$here/peer_torch.py" --out "$out/peer.json" --tokens "$here/data/text/train.bin" \
    --cells top1:64,top1:8,shared:64,dense:16 --modes default --precisions master --chunks 1 --seconds $((limit[peer] - 25)) \
    --warmup 10 --steps 20
}

export -f train measure
export here work out
for part in "${parts[@]}"; do
  deadline=$((SECONDS + limit[$part]))
  "part_$part"
done
cd "$out" && python3 "$here/summary.py" "$here" "$out"
