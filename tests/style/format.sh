#!/usr/bin/env bash
# Every C file is formatted as .clang-format says (clang-format 14: other versions differ in details).
set -u
cd "$(dirname "$0")/../.."
clang-format-14 --dry-run --Werror $(git ls-files '*.c' '*.h' | grep -v 'codegen/prelude_')
