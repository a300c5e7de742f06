/* The texts in front of emitted kernels, embedded by the build: runtime/kernel_abi.h and prelude_cpu.h; prelude_cuda.h.
 * Each ends with a zero byte. */
#include "codegen/kernel.h"

#include <stdlib.h>
#include <string.h>

extern const char moec_kernel_abi_start[], moec_prelude_cpu_start[], moec_prelude_cuda_start[];

const char *kernel_prelude_c(void) {
  static char *text;
  if (!text) {
    size_t abi = strlen(moec_kernel_abi_start), prelude = strlen(moec_prelude_cpu_start);
    text = malloc(abi + prelude + 2);
    if (!text)
      ir_bug("out of memory");
    memcpy(text, moec_kernel_abi_start, abi);
    text[abi] = '\n';
    memcpy(text + abi + 1, moec_prelude_cpu_start, prelude + 1);
  }
  return text;
}

const char *kernel_prelude_cuda(void) {
  return moec_prelude_cuda_start;
}
