#!/usr/bin/env bash
# Cost of an MoE layer against the experts per token, 1 to N, in its packed and in its wide version, measured in turns;
# docs/performance.md has the numbers. Arguments are those of packed.py (--rounds 5 --steps 5 --precision f32 --experts 8).
#   BUILD=...    the build directory (default: build)
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath -m "${BUILD:-build}")
cmake -G Ninja -S . -B "$build" >/dev/null
cmake --build "$build" --target moec >/dev/null
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"
exec python3 tests/bench/packed.py --build "$build" "$@"
