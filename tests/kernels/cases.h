/* What the tests of the row kernels share: the programs in tests/kernels/cases/, evaluated by the interpreter on random
 * data and lowered, every row op as a kernel of its own and every group as one. */
#ifndef MOEC_TESTS_KERNELS_CASES_H
#define MOEC_TESTS_KERNELS_CASES_H

#include "codegen/kernel.h"
#include "ir/eval.h"

typedef struct Launch {
  uint32_t first, last; /* instructions */
  KernelCall *call;
} Launch;

typedef struct KernelCase {
  const char *name; /* "gates" */
  const Func *func;
  const Evaluation *run;
  int64_t *ld; /* by ValueId */
  Launch *launches;
} KernelCase;

/* Reads all cases in order of their names. padding: elements between the rows of matrices. Function @f of a case:
 * arguments i32 called x_n hold numbers in [0, n), `off` offsets, scalars f32 numbers in [0.5, 1.5), others in [-2, 2).
 */
KernelCase *cases_load(Arena *arena, KernelSet *set, int64_t padding);

enum { CASE_SEED = 0x1234567 };

#endif
