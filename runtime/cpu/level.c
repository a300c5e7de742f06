/* The instruction set level of this CPU, and what the command line makes of it. */
#include <stdlib.h>
#include <string.h>

#include "runtime/cpu/cpu.h"
#include "runtime/error.h"

static const char *chosen; /* by --cpu; NULL: not given */

void cpu_choose(const char *command, const char *level) {
  if (level && strcmp(level, "v3") != 0 && strcmp(level, "v4") != 0 && strcmp(level, "native") != 0)
    runtime_fail(FAIL_USAGE, "%s: --cpu=%s: expected v3, v4 or native", command, level);
  chosen = level;
}

bool cpu_is_native(void) {
  return chosen && !strcmp(chosen, "native");
}

CpuLevel cpu_level(void) {
  static int known = -1;
  if (known >= 0)
    return (CpuLevel)known;
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
            __builtin_cpu_supports("bmi2");
  bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl");
  bool bf16 = v4 && __builtin_cpu_supports("avx512bf16");
  CpuLevel best = bf16 ? CPU_V4_BF16 : v4 ? CPU_V4 : v3 ? CPU_V3 : CPU_BELOW_V3;
  const char *asked = chosen ? chosen : getenv("MOEC_CPU");
  if (asked && !strcmp(asked, "v3") && best > CPU_V3)
    best = CPU_V3;
  if (asked && !strcmp(asked, "v4") && best > CPU_V4)
    best = CPU_V4;
  known = (int)best;
  return best;
}
