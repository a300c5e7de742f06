/* Compiles the row kernels of a plan to shared objects, one per CPU level. */
#ifndef MOEC_COMPILE_H
#define MOEC_COMPILE_H

#include "codegen/kernel.h"

typedef struct CompiledKernels {
  const char *level; /* in: the architecture behind -march=, "x86-64-v3" */
  char *data;        /* out: the shared object */
  size_t size;
} CompiledKernels;

/* One C file with every kernel, as the trainer carries it. */
char *kernels_source_c(Arena *arena, const KernelSet *set);
/* Section kernels.cu (docs/plan.md, "Kernel source"): the head, then a unit for every kernel. */
char *kernels_source_cuda(Arena *arena, const KernelSet *set);

/* Runs `cc` (or $CC), in parallel, in a directory of its own under $TMPDIR, which is removed again. No compiler, or one
 * that does not know the level: environment_fail. C that does not compile is a bug of moec. */
void kernels_compile(Arena *arena, const KernelSet *set, CompiledKernels *levels, int level_count);

#endif
