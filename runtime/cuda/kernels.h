/* The entry points of a CUDA plan, compiled and loaded.
 *
 * In: sections kernels.cu and, where the trainer has one for this GPU, cubin.<arch>. Out: a function per name in
 * plan->kernels; NULL for one that only options of choices launch and that is of another architecture's unit or that
 * the driver refuses, which is said. A name that no unit holds, a kernel that must run and is refused: FAIL_BUG; one of
 * another architecture that must run: FAIL_ENVIRONMENT.
 */
#ifndef MOEC_RUNTIME_CUDA_KERNELS_H
#define MOEC_RUNTIME_CUDA_KERNELS_H

#include "runtime/cuda/gpu.h"
#include "runtime/payload.h"
#include "runtime/plan.h"

typedef struct CudaKernels {
  CUfunction *functions; /* by index in plan->kernels */
  CUfunction sum_arenas; /* NULL: a step of the plan has one micro-batch */
  char *note;            /* what the start took */
} CudaKernels;

CudaKernels cuda_kernels_load(const Plan *plan, const Payload *payload, const CudaGpu *gpu);

#endif
