#!/usr/bin/env bash
# prepare.sh and run.sh themselves, without a GPU: a tiny model packed, trained on the device simulator and held against the
# CPU; parts that this machine cannot run are reported as such. usage: suite_test.sh BUILD
set -euo pipefail
build=$1 here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ONLY_TINY=1 STEPS=3 MODELS=dense "$here/prepare.sh" "$work/gpu" "$build"
size=$(stat -c %s "$work/gpu.tar.gz")
[ "$size" -lt $((60 << 20)) ]
export MOEC_CUDA_PATH=$build/tests/simulator/cuda LIMITS="parity=300" STEPS=3
"$work/gpu/run.sh" "$work/out" parity sanitizer peer
grep -q '^dense-f32 .* good$' "$work/out/table.txt"
grep -q '^dense-bf16 .* good$' "$work/out/table.txt"
grep -q '^dense_epilogue-bf16 .* good$' "$work/out/table.txt"
grep -q '^dense_separate-f32 .* good$' "$work/out/table.txt"
python3 -c 'import json, sys; result = json.load(open(sys.argv[1])); sys.exit(not result["good"])' "$work/out/result.json"

# A part that fails does not lose the others, and is seen.
printf '#!/bin/sh\nexit 1\n' >"$work/gpu/trainers/tiny-dense-bf16"
if "$work/gpu/run.sh" "$work/failed" parity; then
  exit 1
fi
grep -q '^parity *dense-bf16 *exit 1' "$work/failed/table.txt"
grep -q '^dense-f32 .* good$' "$work/failed/table.txt"
