#!/usr/bin/env bash
# Includes go only down: ir <- passes <- codegen <- frontend; runtime depends on none of them.
set -u
cd "$(dirname "$0")/../.."
status=0
forbid() { # forbid DIR PATTERN: no file of DIR includes a header matching PATTERN
  if grep -nE "^#include \"($2)/" "$1"/*.[ch] "$1"/*/*.[ch] 2>/dev/null; then
    echo "forbidden include in $1: it must not depend on $2"
    status=1
  fi
}
forbid ir 'passes|codegen|frontend|runtime'
forbid passes 'codegen|frontend|runtime'
forbid codegen 'frontend'
forbid runtime 'ir|passes|codegen|frontend'
exit $status
