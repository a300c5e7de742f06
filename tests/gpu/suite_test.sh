#!/usr/bin/env bash
# prepare.sh and run.sh themselves, without a GPU: a tiny model packed, trained on the device simulator and held against the
# CPU; parts that this machine cannot run are reported as such. usage: suite_test.sh BUILD
set -euo pipefail
build=$1 here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ONLY_TINY=1 STEPS=7 MODELS=dense TINY="seq=16 batch=4 d=32 heads=2" "$here/prepare.sh" "$work/gpu" "$build"
size=$(stat -c %s "$work/gpu.tar.gz")
[ "$size" -lt $((60 << 20)) ]
# As it will run: unpacked elsewhere, with nothing in the environment, the benchmark's model a tiny one.
mkdir "$work/there"
tar -xzf "$work/gpu.tar.gz" -C "$work/there"
gpu=$work/there
for library in $(ldd "$gpu"/suite/{*_test,grouped_bench} "$gpu"/trainers/* | awk '$3 ~ /^\// { print $1 }' | sort -u); do
  [[ $library =~ ^lib(c|m|dl|pthread|rt)\.so ]] || [ -e "$gpu/lib/$library" ]
done
cp "$gpu/trainers/tiny-dense-bf16" "$gpu/trainers/paper-top1-64"
rm -rf "$gpu/data/text"
cp -r "$gpu/data/tiny" "$gpu/data/text"
run() { # VARIABLE=VALUE ... OUT PART ...: run.sh
  local words=()
  while [[ $1 == *=* ]]; do
    words+=("$1")
    shift
  done
  env -i PATH="$PATH" MOEC_CUDA_PATH="$build/tests/simulator/cuda" LIMITS="parity=300 bench=300" STEPS=7 "${words[@]}" "$gpu/run.sh" "$@"
}
run "$work/out" parity
run "$work/out" bench sanitizer peer | tee "$work/said"
[ "$(ls "$work/out" | tr '\n' ' ')" = "details.tar.gz result.json table.txt " ]
for name in dense-f32 dense-bf16 dense_epilogue-bf16 dense_separate-f32; do
  grep -q "^$name .* good$" "$work/out/table.txt"
done
grep -q '^bench *paper-top1-64 *ok' "$work/out/table.txt"
grep -Eq '^paper-top1-64 +[0-9]+ ' "$work/said"
python3 -c 'import json, sys; result = json.load(open(sys.argv[1])); sys.exit(not result["good"])' "$work/out/result.json"

# Losses are held against each other as far as routing was the same on both.
(cd "$here" && python3 -B -c '
from summary import same_decisions
lines = [{"step": step, "load": {"h2.moe": [step, 8 - step]}} for step in range(3, 7)]
other = [dict(line, load={"h2.moe": [4, 4]}) for line in lines[2:]]
assert same_decisions(lines, lines, 9) == 9 and same_decisions([], [], 5) == 5
assert same_decisions(lines, lines[:2] + other, 9) == 4 and same_decisions(lines, [], 9) == 2')

# A part that fails does not lose the others, and is seen with its log; Hopper's kernels that fail are left out.
printf '#!/bin/sh\necho "this is what went wrong"\nexit 1\n' >"$gpu/trainers/tiny-dense-bf16"
printf '#!/bin/sh\n[ "$MOEC_CUDA_OPTIONS" = mma ] && exec %s "$@"\nexit 70\n' "$gpu/trainers/tiny-dense-f32" >"$gpu/trainers/paper-top1-64"
if run "$work/failed" parity bench >"$work/said"; then
  exit 1
fi
grep -q '^parity *dense-bf16 *exit 1' "$work/failed/table.txt"
grep -q '^dense-f32 .* good$' "$work/failed/table.txt"
grep -q '^bench *paper-top1-64 *exit 70' "$work/failed/table.txt"
grep -q '^bench *paper-top1-64-mma *ok' "$work/failed/table.txt"
grep -q '^this is what went wrong' "$work/said"
