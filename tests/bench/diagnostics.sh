#!/usr/bin/env bash
# What the routing diagnostics cost: the time of a step with them over that of the same model without, phase by phase,
# measured in turns; docs/performance.md has the numbers. Arguments are those of diagnostics.py (--rounds 5 --steps 5).
#   BUILD, OMP_NUM_THREADS, CPU_TIME: see setup.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/setup.sh
exec python3 tests/bench/diagnostics.py --build "$build" "$@"
