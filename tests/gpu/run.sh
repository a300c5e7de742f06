#!/usr/bin/env bash
# Everything that needs a GPU, from a directory that prepare.sh made: kernel suite, training against the CPU, benchmark, peer,
# profile, sanitizer. Builds nothing; needs bash, coreutils, tar and, for the summary, a python3 without packages.
# usage: DIR/run.sh OUT [PART ...]     parts: suite parity bench peer profile sanitizer (default: all)
#
# Every part has a time limit of its own, together under 8 minutes; a part that fails or is cut leaves what it has, and the
# others run. OUT gets three files, written anew behind every part: table.txt, result.json, and details.tar.gz with every log
# and all losses; parts of an earlier details.tar.gz in OUT that do not run again stay. The end of the output is the first
# failure's log and a short table, together under 11,000 characters. Exit status: 0 when every part that could run did well.
#   CUDA=DIR   directories (with colons) of libnvrtc.so.13 and libcublasLt.so.13, where the loader does not find them
#   LIMITS="suite=70 ..."   other time limits, in seconds
#   STEPS=n    of every training run (default: 500 of the tiny models, 30 or 200 of the paper's)
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
[ ${#parts[@]} -gt 0 ] || parts=(suite parity bench peer profile sanitizer)
declare -A limit=([suite]=75 [parity]=45 [bench]=125 [peer]=130 [profile]=50 [sanitizer]=50)
for setting in ${LIMITS:-}; do
  limit[${setting%%=*}]=${setting#*=}
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
raw=$work/raw # logs, losses, times: what details.tar.gz holds
mkdir "$raw"
export MOEC_CACHE=$work/cache MOEC_CASES=$here/suite/cases OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin
[ ! -e "$out/details.tar.gz" ] || tar -C "$raw" -xzf "$out/details.tar.gz"
touch "$raw/parts.tsv"

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
CUDA=${CUDA:-} loader=${LD_LIBRARY_PATH:-} # loader: what the peer gets, whose libraries are its own
if [ -z "${MOEC_CUDA_PATH:-}" ]; then
  for name in libcuda.so.1 libnvrtc.so.13 libcublasLt.so.13; do
    found=$(find_library $name)
    [ -z "$found" ] || LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
    echo "$name: ${found:-left to the loader}"
  done
fi
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$here/lib

# record PART NAME STATUS SECONDS: a line of parts.tsv
record() {
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$raw/parts.tsv"
  printf '%-10s %-28s %-10s %s s\n' "$@"
}

# limited SECONDS LOG COMMAND...: a program or a function of this script
limited() {
  local seconds=$1 log=$2
  shift 2
  if [ "$(type -t "$1")" = function ]; then # timeout runs programs only
    timeout -k 5 "$seconds" bash -c '"$@"' bash "$@" >"$log" 2>&1
  else
    timeout -k 5 "$seconds" "$@" >"$log" 2>&1
  fi
}

# step PART NAME COMMAND...: runs within what is left of the part's time, and no longer than $most seconds where that is set;
# log in PART-NAME.log. The first trainer that fails runs once more and waits after every step, so that the message names it.
step() {
  local part=$1 name=$2 started=$SECONDS left status
  shift 2
  left=$((deadline - SECONDS))
  [ "${most:-$left}" -ge $left ] || left=$most
  if [ $left -le 0 ]; then
    record "$part" "$name" "no time" 0
    return 1
  fi
  limited $left "$raw/$part-$name.log" "$@"
  status=$?
  case $status in
  0) record "$part" "$name" ok $((SECONDS - started)) ;;
  124 | 137) record "$part" "$name" "time limit" $((SECONDS - started)) ;;
  *)
    record "$part" "$name" "exit $status" $((SECONDS - started))
    tail -n 3 "$raw/$part-$name.log" | cut -c1-300 | sed 's/^/    /'
    if { [ "$1" = train ] || [ "$1" = measure ]; } && mkdir "$work/diagnosed" 2>/dev/null; then
      MOEC_CUDA_BLOCKING=1 limited 20 "$raw/$part-$name-blocking.log" "$@"
    fi
    ;;
  esac
  return $status
}

# train NAME TRAINER DATA STEPS [OPTION ...]
train() {
  local name=$1 trainer=$2 data=$3 steps=$4
  shift 4
  rm -rf "${work:?}/$name"
  "$here/trainers/$trainer" train --data "$here/data/$data" --out "$work/$name" --device=cuda --steps "$steps" \
    --eval-every=0 --checkpoint-every=0 "$@"
}

# All at once: most of their time is NVRTC's.
part_suite() {
  local name part count=6
  [ "$(nproc)" -lt 12 ] || count=10
  cd "$work" || return
  for name in routing grouped epilogue attention; do
    step suite $name "$here/suite/${name}_device_test" &
  done
  for ((part = 0; part < count; part++)); do
    step suite rows-$part "$here/suite/rows_device_test" $part $count &
  done
  wait
}

parity_of() { # NAME TRAINER
  step parity "$1" train "$1" "$2" tiny "${STEPS:-500}" --routing-every=1
  cp "$work/$1/metrics.jsonl" "$raw/parity-$1.jsonl" 2>/dev/null
  cp "$work/$1/routing.jsonl" "$raw/routing-$1.jsonl" 2>/dev/null
}

# All at once, too: nothing is timed.
part_parity() {
  local model precision way
  for model in dense switch evomoe; do
    for precision in f32 bf16; do
      [ ! -e "$here/trainers/tiny-$model-$precision" ] || parity_of "$model-$precision" "tiny-$model-$precision" &
    done
  done
  for way in epilogue separate; do # every product with its epilogue, every one without
    for precision in f32 bf16; do
      MOEC_CUDA_OPTIONS=$way parity_of "dense_$way-$precision" "tiny-dense-$precision" &
    done
  done
  wait
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
measure() { # NAME TRAINER STEPS
  local name=$1 steps=$3 log=$raw/bench-$1.jsonl trainer lines=0 waited=0 status
  rm -rf "${work:?}/$name"
  "$here/trainers/$2" train --data "$here/data/text" --out "$work/$name" --device=cuda --steps 100000 \
    --eval-every=0 --checkpoint-every=0 --routing-every=1000 &
  trainer=$!
  while kill -0 $trainer 2>/dev/null && [ "$lines" -lt "$steps" ]; do
    sleep 0.5
    waited=$((waited + 1))
    lines=$(wc -l 2>/dev/null <"$work/$name/metrics.jsonl" || echo 0)
    cp "$work/$name/metrics.jsonl" "$log" 2>/dev/null
    if [ $((waited % 10)) = 0 ]; then
      nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,memory.used --format=csv,noheader,nounits 2>/dev/null
    fi
  done
  kill -9 $trainer 2>/dev/null
  wait $trainer 2>/dev/null
  status=$?
  cp "$work/$name/tuning.json" "$raw/tuning-$name.json" 2>/dev/null # which kernels it took
  rm -rf "${work:?}/$name"
  [ "$lines" -ge "$steps" ] || return $((status ? status : 1))
}

# Where Hopper's own kernels fail in the suite or in a run, the run is measured with the portable ones.
portable=mma

part_bench() {
  local name steps most=50
  local -x MOEC_CUDA_OPTIONS=${MOEC_CUDA_OPTIONS:-}
  if awk -F'\t' '$1 == "suite" && $2 ~ /^(attention|grouped|epilogue)$/ && $3 != "ok" { bad = 1 } END { exit !bad }' "$raw/parts.tsv"; then
    MOEC_CUDA_OPTIONS=$portable
    echo "the suite failed: measured with MOEC_CUDA_OPTIONS=$portable"
  fi
  for name in paper-top1-64 paper-top1-8 paper-dense-16 paper-shared-64; do
    [ -e "$here/trainers/$name" ] || continue
    steps=30
    [ $name != paper-top1-8 ] || steps=200 # long enough to hold the losses against the peer's
    step bench $name measure $name $name "${STEPS:-$steps}" || [ -n "$MOEC_CUDA_OPTIONS" ] ||
      MOEC_CUDA_OPTIONS=$portable step bench "$name-$portable" measure "$name-$portable" $name "${STEPS:-$steps}"
  done
}

part_profile() {
  local name
  step profile grouped "$here/suite/grouped_bench" # the grouped products by themselves, in every way that a plan has
  for name in profile-top1-64 profile-dense-16; do
    [ -e "$here/trainers/$name" ] || continue
    step profile $name train $name $name text 5 --profile
    cp "$work/$name/tuning.json" "$raw/tuning-$name.json" 2>/dev/null
    rm -rf "${work:?}/$name"
  done
}

# With a limit far above 130 s it comes to more than the first variant of each cell.
part_peer() {
  if ! LD_LIBRARY_PATH=$loader python3 -c 'import torch, numpy; assert torch.cuda.is_available()' 2>/dev/null; then
    record peer torch "not there" 0
    return
  fi
  LD_LIBRARY_PATH=$loader step peer torch python3 "$here/peer_torch.py" --out "$raw/peer.json" \
    --tokens "$here/data/text/train.bin" --cells top1:64,top1:8:190,dense:16,shared:64 --modes blocks,default \
    --seconds $((limit[peer] - 30)) --warmup 10 --steps 20
}

summarize() {
  tar -C "$raw" -czf "$out/details.tar.gz.new" . && mv "$out/details.tar.gz.new" "$out/details.tar.gz"
  python3 -B "$here/summary.py" "$here" "$raw" "$out"
}

export -f train measure
export here work raw
status=0
for part in "${parts[@]}"; do
  deadline=$((SECONDS + limit[$part]))
  sed -i "/^$part\t/d" "$raw/parts.tsv"
  "part_$part"
  summarize >"$work/summary.txt"
  status=$?
done
cat "$work/summary.txt"
exit $status
