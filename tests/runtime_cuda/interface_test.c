/* functions.def and constants.def against the headers of the CUDA toolkit, where the machine has them: the compiler
 * refuses a declaration that differs. Elsewhere the test is skipped. */
#include <stdio.h>

#if __has_include(<cuda.h>) && __has_include(<nvrtc.h>) && __has_include(<cublasLt.h>)
#define MOEC_CUDA_HEADERS
#include <cublasLt.h>
#include <cuda.h>
#include <nvrtc.h>

#include "runtime/cuda/types.h"

#define FUNCTION(library, returns, name, parameters) extern returns name parameters;
#include "runtime/cuda/functions.def"
#undef FUNCTION

#define CONSTANT(name, value) _Static_assert((int)name == (value), #name);
#include "runtime/cuda/constants.def"
#undef CONSTANT

/* The two structs of types.h. */
_Static_assert(sizeof(cublasLtMatmulAlgo_t) == 64, "cublasLtMatmulAlgo_t");
_Static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == 96, "cublasLtMatmulHeuristicResult_t");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == 64, "workspaceSize");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == 72, "state");

int main(void) {
  printf("functions and constants are those of CUDA %d\n", CUDA_VERSION);
  return 0;
}
#else
int main(void) {
  printf("skipped: no headers of the CUDA toolkit\n");
  return 77;
}
#endif
