# Read by cpu.sh and packed.sh, from the root of the tree: builds into $BUILD (default: build) what they measure, and
# sets the environment of all programs.
#   OMP_NUM_THREADS=n   threads of every program (default: all cores)
#   CPU_TIME=1          one thread, and CPU seconds in place of wall time: for a machine that others use as well
build=$(realpath -m "${BUILD:-build}")
cmake -G Ninja -S . -B "$build" >/dev/null
cmake --build "$build" --target moec products_test >/dev/null
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"
if [ "${CPU_TIME:-0}" = 1 ]; then
  mkdir -p "$build/bench"
  cc -O2 -shared -fPIC tests/bench/cpu_time.c -o "$build/bench/cpu_time.so"
  export OMP_NUM_THREADS=1 MOEC_BENCH_PRELOAD="$build/bench/cpu_time.so"
fi
