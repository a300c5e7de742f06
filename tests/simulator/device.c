/* What the simulated device is: compute capability $MOEC_SIMULATOR_ARCH (default 8.0).
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/simulator/private.h"

int device_arch(void) {
  const char *text = getenv("MOEC_SIMULATOR_ARCH");
  int major = 8, minor = 0;
  if (text && *text && sscanf(text, "%d.%d", &major, &minor) != 2) {
    fprintf(stderr, "simulator: MOEC_SIMULATOR_ARCH=%s is not a number like 8.0\n", text);
    exit(1);
  }
  return major * 10 + minor;
}

/* What only Hopper has (codegen/cuda/hopper.cu) is not simulated. */
bool simulator_runs(const char *arch) {
  (void)arch;
  return false;
}

bool simulator_is_simulated(void) {
  return true;
}

/* CUDA C++ Programming Guide, "Compute Capabilities": the table of technical specifications. */
int64_t device_shared_limit(void) {
  switch (device_arch()) {
  case 80:
  case 87:
    return 163 << 10;
  case 86:
  case 89:
    return 99 << 10;
  default:
    return 227 << 10;
  }
}
