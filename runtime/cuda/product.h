/* Plain products by cuBLASLt, its algorithm chosen by timing once per distinct product.
 *
 * In: gemm steps (docs/plan.md) with addresses. Out: products in the stream. A product that no choice is known for runs
 * with the library's first suggestion until product_tune; from then on with the fastest of its suggestions. What was
 * chosen can be taken out and given to another run (ProductChoice), which then computes the same bits.
 */
#ifndef MOEC_RUNTIME_CUDA_PRODUCT_H
#define MOEC_RUNTIME_CUDA_PRODUCT_H

#include <stdbool.h>

#include "runtime/cuda/gpu.h"
#include "runtime/execute.h"

typedef struct ProductAddresses {
  char *a, *b, *c, *bias, *aux; /* bias, aux: NULL where the epilogue has no use for them */
} ProductAddresses;

enum { PRODUCT_WORKSPACE = 32 << 20 }; /* bytes */

/* Opens the library, or FAIL_ENVIRONMENT. `workspace`: PRODUCT_WORKSPACE bytes of the device. */
void product_open(const CudaGpu *gpu, char *workspace);
void product_close(void);
const char *product_library(void); /* "cuBLASLt 13.1.0" */

void product_run(const StepGemm *step, const ProductAddresses *addresses);
bool product_chosen(const StepGemm *step, const ProductAddresses *addresses);
/* Times the suggestions on this memory, the result of which is not kept, and chooses. */
void product_tune(const StepGemm *step, const ProductAddresses *addresses);

void product_set_choices(const ProductChoice *choices, int count);
const ProductChoice *product_choices(int *count);

#endif
