#!/usr/bin/env bash
# Tokens/s of models/gpt_evomoe.lua at size=small on the CPU, every phase, f32 and bf16, beside the same model in PyTorch
# and beside oneDNN's own GEMM rate: all in one run, in turns, so that noise hits all alike. docs/performance.md has the
# numbers. Arguments are those of cpu.py (--rounds 5 --steps 5 --phases shared,dense,sparse,top1 --precisions f32,bf16).
#   PYTHON=...   a Python that has torch; otherwise a virtual environment is made in build/ with pip install torch numpy
#   BUILD=...    the build directory (default: build)
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath -m "${BUILD:-build}")
cmake -G Ninja -S . -B "$build" >/dev/null
cmake --build "$build" --target moec products_test >/dev/null
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$build/bench/venv/bin/python
  if [ ! -x "$PYTHON" ]; then
    python3 -m venv "$build/bench/venv"
    "$build/bench/venv/bin/pip" install --quiet torch numpy
  fi
fi
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"
exec python3 tests/bench/cpu.py --build "$build" --python "$PYTHON" "$@"
