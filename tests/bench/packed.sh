#!/usr/bin/env bash
# Cost of an MoE layer against the experts per token, 1 to N, in its packed and in its wide version, measured in turns;
# docs/performance.md has the numbers. Arguments are those of packed.py (--rounds 5 --steps 5 --precision f32 --experts 8).
#   BUILD, OMP_NUM_THREADS, CPU_TIME: see setup.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/setup.sh
exec python3 tests/bench/packed.py --build "$build" "$@"
