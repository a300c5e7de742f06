#!/bin/sh
# compile.sh SOURCE.cu OUTPUT.so LIBRARY: emitted CUDA source, unchanged, as a shared object that LIBRARY (the simulator) runs.
# The compiler announces every memory access to LIBRARY; behind every variable in shared memory stand 64 bytes that belong
# to nobody. What the compiler has to say goes to standard error.
set -e
source=$1 output=$2 library=$3
here=$(dirname "$0")
work=$output.$$
trap 'rm -f "$work".*' EXIT

# The kernels' names, behind the preprocessor, which templates use to name them.
kernels=$(g++ -E -P -x c++ -DMOEC_SIMULATOR "$source" | tr '\n' ' ' |
  sed -E 's/__launch_bounds__ *\([^()]*(\([^()]*\)[^()]*)*\)//g' |
  grep -oE '__global__ +void +[A-Za-z_0-9]+ *\(' | sed -E 's/.*void +([A-Za-z_0-9]+).*/\1/')
{
  printf '#include "%s/simulator.h"\n#line 1 "%s"\n' "$here" "$source"
  cat "$source"
  printf '\n#line 1 "entries"\nSIMULATOR_SOURCE("%s")\n' "$source"
  for kernel in $kernels; do printf 'SIMULATOR_ENTRY(%s)\n' "$kernel"; done
} >"$work.cc"

# Aggregates stay whole (a load of 16 bytes is announced as one), and no loop becomes a call of memcpy.
g++ -x c++ -std=gnu++17 -O1 -g1 -w -fPIC -march=x86-64-v3 -DMOEC_SIMULATOR -fsanitize=thread,bounds \
  --param tsan-instrument-func-entry-exit=0 -ffp-contract=off -fno-strict-aliasing \
  -fwrapv -fvisibility=hidden -fno-tree-sra -fno-store-merging -fno-tree-loop-distribute-patterns -fno-tree-vectorize \
  -fno-extern-tls-init -fno-gnu-unique -fno-threadsafe-statics -fno-exceptions -fno-rtti \
  -S "$work.cc" -o "$work.s"

# A guard behind every variable; `extern __shared__` arrays all begin where the launch's dynamic shared memory does.
awk '
  /^\t\.(section|text|data|bss)/ { shared = /\.tbss/ }
  { print }
  shared && /^\t\.zero/ { print "\t.zero 64" }
  /^[A-Za-z_][A-Za-z_0-9.]*:/ { sub(/:.*/, ""); defined[$0] = 1 }
  match($0, /[A-Za-z_][A-Za-z_0-9]*@(tlsgd|tlsld|dtpoff|gottpoff|tpoff)/) {
    name = substr($0, RSTART, RLENGTH); sub(/@.*/, "", name); used[name] = 1
  }
  END {
    print "\t.section .tbss.dynamic,\"awT\",@nobits\n\t.balign 128"
    for (name in used) if (!(name in defined)) {
      print "\t.globl " name "\n\t.hidden " name "\n\t.type " name ",@object\n\t.size " name ",232448\n" name ":"
      dynamic = 1
    }
    if (dynamic) print "\t.zero 232448\n\t.zero 64"
  }' "$work.s" >"$work.2.s"
g++ -shared "$work.2.s" -o "$work.so" -Wl,-z,defs "$library" "-Wl,-rpath,$(dirname "$library")" -lm
mv "$work.so" "$output"
