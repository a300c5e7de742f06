/* The emitted kernels: a shared library carried in the payload, one per CPU level, loaded from memory. */
#ifndef MOEC_RUNTIME_KERNELS_H
#define MOEC_RUNTIME_KERNELS_H

#include "runtime/kernel_abi.h"
#include "runtime/payload.h"
#include "runtime/plan.h"

/* One function per name in plan->kernels, in that order, from section `kernels.v3.so`, `kernels.v4.so` or
 * `kernels.native.so`. */
moec_kernel *kernels_load(const Plan *plan, const Payload *payload, const char *section);

#endif
