/* Plain products by cuBLASLt, its algorithm chosen by timing once per distinct product.
 *
 * In: gemm steps (docs/plan.md) with addresses. Out: products in the stream. A product that no choice is known for runs
 * with the library's first suggestion until product_tune; from then on with the fastest of its suggestions. What was
 * chosen stands in choices.h, so that another run that is given it computes the same bits.
 */
#ifndef MOEC_RUNTIME_CUDA_PRODUCT_H
#define MOEC_RUNTIME_CUDA_PRODUCT_H

#include <stdbool.h>

#include "runtime/cuda/gpu.h"
#include "runtime/execute.h"

typedef struct ProductAddresses {
  char *a, *b, *c, *bias, *aux, *add; /* bias, aux, add: NULL where the step has no use for them */
} ProductAddresses;

enum { PRODUCT_WORKSPACE = 32 << 20 }; /* bytes */

/* Opens the library, or FAIL_ENVIRONMENT. `workspace`: PRODUCT_WORKSPACE bytes of the device. */
void product_open(const CudaGpu *gpu, char *workspace);
void product_close(void);
const char *product_library(void); /* "cuBLASLt 13.1.0" */

/* Whether the library has an algorithm for the step, as it must for products without an epilogue. */
bool product_available(const StepGemm *step);
void product_run(const StepGemm *step, const ProductAddresses *addresses);
bool product_chosen(const StepGemm *step, const ProductAddresses *addresses);
/* Times the suggestions on this memory, the result of which is not kept, and chooses. */
void product_tune(const StepGemm *step, const ProductAddresses *addresses);

#endif
