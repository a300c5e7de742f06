#!/usr/bin/env bash
# Installs what is missing, builds, runs every test. --quick leaves out those labelled slow.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_WAIT_POLICY=passive
exclude=()
for argument in "$@"; do
  case "$argument" in
    --quick) exclude=(-LE slow) ;;
    *) echo "usage: ./test.sh [--quick]" >&2; exit 2 ;;
  esac
done
./install.sh test
cmake -G Ninja -S . -B build >/dev/null
cmake --build build
ctest --test-dir build --output-on-failure -j "$(nproc)" "${exclude[@]}"
