/* The texts in front of emitted kernels, embedded by the build: runtime/kernel_abi.h and prelude_cpu.h; device_cuda.h
 * and prelude_cuda.h. Each ends with a zero byte. */
#include "codegen/kernel.h"

#include <stdlib.h>
#include <string.h>

extern const char moec_kernel_abi_start[], moec_prelude_cpu_start[], moec_device_cuda_start[],
    moec_prelude_cuda_start[];

static char *join(const char *first, const char *second) {
  size_t before = strlen(first), behind = strlen(second);
  char *text = malloc(before + behind + 2);
  if (!text)
    ir_bug("out of memory");
  memcpy(text, first, before);
  text[before] = '\n';
  memcpy(text + before + 1, second, behind + 1);
  return text;
}

const char *kernel_prelude_c(void) {
  static char *text;
  if (!text)
    text = join(moec_kernel_abi_start, moec_prelude_cpu_start);
  return text;
}

const char *kernel_prelude_cuda(void) {
  static char *text;
  if (!text)
    text = join(moec_device_cuda_start, moec_prelude_cuda_start);
  return text;
}
