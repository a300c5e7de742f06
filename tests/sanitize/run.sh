#!/usr/bin/env bash
# Builds everything again with address and undefined-behaviour sanitizers and runs what exercises the most code: the C
# tests, every error path, fewer mutations in the fuzzers, a tiny model from text to sampled text. Kernels that a trainer carries are
# compiled without sanitizers, oneDNN is what the machine has.
#   run.sh BUILD    BUILD is made
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2
# Leaks: the compiler frees nothing by design, and code that oneDNN generates cannot be unwound.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1

section() {
  echo "-- $1 (${SECONDS} s)"
}

section "build"
cmake -G Ninja -S "$root" -B "$build" -DMOEC_SANITIZE=ON >/dev/null
cmake --build "$build" | tail -1

section "tests"
ctest --test-dir "$build" --output-on-failure -j 2 \
  -R '_test$|^lit-(ir|passes|lua|cli)$|^runtime_app-run$|^e2e-errors$' \
  -E 'kernels_test|prelude_test|nvrtc_test|cuda_models_test|_units_test|_fuzz_test' # tests of emitted text, and of many mutations
(cd "$build/tests" && ./parse_fuzz_test 3000 && ./lua_fuzz_test 500)

section "the compiler's commands"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for model in "$root"/models/gpt_*.lua; do
  for precision in f32 bf16; do
    "$build/moec" emit "$model" -D size=tiny -D precision=$precision --what=plan >"$place/plan"
    "$build/moec" emit "$model" -D size=tiny -D precision=$precision --what=cuda >"$place/cuda"
  done
  "$build/moec" ir "$model" -D size=tiny --after=all >"$place/ir"
  "$build/moec" explain "$model" -D size=tiny --json >"$place/explain"
  "$build/moec" forecast "$model" -D size=tiny --json >"$place/forecast"
done

section "a tiny model from text to text"
python3 - "$root" "$place/text" <<'END'
import os, sys
sys.path.insert(0, os.path.join(sys.argv[1], "tests", "e2e"))
sys.dont_write_bytecode = True
from common import make_text
make_text(sys.argv[2], 6000)
END
"$build/moec" data "$place/text" -o "$place/data" --tokenizer=spm:512
"$build/moec" build "$root/models/gpt_evomoe.lua" -D size=tiny -o "$place/trainer"
train=("$place/trainer" train --data "$place/data" --out "$place/run" --eval-every=7 --checkpoint-every=5)
"${train[@]}" --steps=12
"${train[@]}" --resume
"$place/trainer" eval --data "$place/data" --checkpoint "$place/run" --split test
"$place/trainer" sample --checkpoint "$place/run" --prompt "Bar" -n 20
section "done"
