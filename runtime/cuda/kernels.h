/* The entry points of a CUDA plan, compiled and loaded.
 *
 * In: sections kernels.cu and, where the trainer has one for this GPU, cubin.<arch>. Out: a function per name in
 * plan->kernels. A name that no unit holds, or one of another architecture's unit: FAIL_BUG.
 */
#ifndef MOEC_RUNTIME_CUDA_KERNELS_H
#define MOEC_RUNTIME_CUDA_KERNELS_H

#include "runtime/cuda/gpu.h"
#include "runtime/payload.h"
#include "runtime/plan.h"

CUfunction *cuda_kernels_load(const Plan *plan, const Payload *payload, const CudaGpu *gpu);

/* The runtime's own kernel moec_add(sum, first, second, count): sum[i] = first[i] + second[i], f32, a thread each, 256
 * threads a block. Compiled and loaded now. */
CUfunction cuda_kernel_add(const CudaGpu *gpu);

#endif
