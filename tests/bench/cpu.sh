#!/usr/bin/env bash
# Tokens/s of models/gpt_evomoe.lua at size=small on the CPU, every phase, f32 and bf16, beside the same model in PyTorch
# and beside oneDNN's own GEMM rate: all in one run, in turns, so that noise hits all alike. docs/performance.md has the
# numbers. Arguments are those of cpu.py (--rounds 5 --steps 5 --phases shared,dense,sparse,top1 --precisions f32,bf16).
#   PYTHON=...   a Python that has torch; otherwise a virtual environment is made in build/ with pip install torch numpy
#   BUILD, OMP_NUM_THREADS, CPU_TIME: see setup.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/bench/setup.sh
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$build/bench/venv/bin/python
  if [ ! -x "$PYTHON" ]; then
    python3 -m venv "$build/bench/venv"
    "$build/bench/venv/bin/pip" install --quiet torch numpy
  fi
fi
exec python3 tests/bench/cpu.py --build "$build" --python "$PYTHON" "$@"
