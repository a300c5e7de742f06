/* The three CUDA libraries, opened at run time: driver (libcuda.so.1), NVRTC (libnvrtc.so.13), cuBLASLt
 * (libcublasLt.so.13), so that one trainer runs with and without each of them.
 *
 * With $MOEC_CUDA_PATH they are opened from that directory alone; else where the loader looks, then in the lib64 of the
 * toolkits under /usr/local. A library that lacks one function of functions.def is not usable.
 */
#ifndef MOEC_RUNTIME_CUDA_LIBRARIES_H
#define MOEC_RUNTIME_CUDA_LIBRARIES_H

#include "runtime/cuda/types.h"

typedef struct CudaFunctions {
#define FUNCTION(library, returns, name, parameters) returns(*name) parameters;
#include "runtime/cuda/functions.def"
#undef FUNCTION
} CudaFunctions;

/* Those of a library are set once it is open. */
extern CudaFunctions cuda;

typedef enum CudaLibrary { CUDA_DRIVER, CUDA_NVRTC, CUDA_CUBLAS, CUDA_LIBRARIES } CudaLibrary;

/* NULL: the library is open. Else why it is not, as part of a message. Idempotent; not thread-safe. */
const char *cuda_open(CudaLibrary library);

/* Ends the program when `result` is not CUDA_SUCCESS: FAIL_ENVIRONMENT where the machine is to blame, else FAIL_BUG.
 * `what` was being done. */
void cuda_check(CUresult result, const char *what);
/* "CUDA_ERROR_OUT_OF_MEMORY: out of memory", in memory that lives on. */
const char *cuda_error_text(CUresult result);

#endif
