/* The instruction set level of this CPU. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

CpuLevel cpu_level(void) {
  static int known = -1;
  if (known >= 0)
    return (CpuLevel)known;
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
            __builtin_cpu_supports("bmi2");
  bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl");
  const char *asked = getenv("MOEC_CPU");
  if (v4 && asked && !strcmp(asked, "v3"))
    v4 = false;
  known = v4 ? CPU_V4 : v3 ? CPU_V3 : CPU_BELOW_V3;
  return (CpuLevel)known;
}
