/* functions.def, constants.def and types.h against the CUDA toolkit, where the machine has it. The compiler refuses a
 * declaration, a number or a struct that differs from the toolkit's headers; every name is the one that a program
 * compiled with these headers asks the library for; the libraries have them all. Elsewhere the test is skipped.
 */
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

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

/* Handles are pointers and enumerations are ints, as types.h has them. */
#define SAME_SIZE(type, as) _Static_assert(sizeof(type) == sizeof(as), #type)
SAME_SIZE(CUresult, int);
SAME_SIZE(CUdevice, int);
SAME_SIZE(CUdevice_attribute, int);
SAME_SIZE(CUfunction_attribute, int);
SAME_SIZE(CUstreamCaptureMode, int);
SAME_SIZE(CUdeviceptr, unsigned long long);
SAME_SIZE(CUcontext, void *);
SAME_SIZE(CUmodule, void *);
SAME_SIZE(CUfunction, void *);
SAME_SIZE(CUstream, void *);
SAME_SIZE(CUevent, void *);
SAME_SIZE(CUgraph, void *);
SAME_SIZE(CUgraphExec, void *);
SAME_SIZE(nvrtcResult, int);
SAME_SIZE(nvrtcProgram, void *);
SAME_SIZE(cublasStatus_t, int);
SAME_SIZE(cublasComputeType_t, int);
SAME_SIZE(cudaDataType_t, int);
SAME_SIZE(cublasLtMatmulDescAttributes_t, int);
SAME_SIZE(cublasLtMatmulPreferenceAttributes_t, int);
SAME_SIZE(cublasLtHandle_t, void *);
SAME_SIZE(cublasLtMatmulDesc_t, void *);
SAME_SIZE(cublasLtMatrixLayout_t, void *);
SAME_SIZE(cublasLtMatmulPreference_t, void *);

/* The two structs of types.h. */
_Static_assert(sizeof(cublasLtMatmulAlgo_t) == 64, "cublasLtMatmulAlgo_t");
_Static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == 96, "cublasLtMatmulHeuristicResult_t");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, algo) == 0, "algo");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == 64, "workspaceSize");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == 72, "state");
_Static_assert(offsetof(cublasLtMatmulHeuristicResult_t, wavesCount) == 76, "wavesCount");

/* The headers give functions newer versions by #define; the second text is behind that. */
#define TEXT(name) #name
#define FUNCTION(library, returns, name, parameters) {#library, #name, TEXT(name)},
static const struct {
  const char *library, *name, *redirected;
} functions[] = {
#include "runtime/cuda/functions.def"
};
#undef FUNCTION

/* The driver's own stands for linking in the toolkit: a library with its names that does nothing. */
static const struct {
  const char *library, *path;
} files[] = {{"driver", CUDA_LIBRARIES "/stubs/libcuda.so"},
             {"nvrtc", CUDA_LIBRARIES "/libnvrtc.so.13"},
             {"cublas", CUDA_LIBRARIES "/libcublasLt.so.13"}};

static int check_names(void) {
  int wrong = 0;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    if (strcmp(functions[i].name, functions[i].redirected) != 0) {
      printf("FAILED: %s is %s by the headers\n", functions[i].name, functions[i].redirected);
      wrong++;
    }
  return wrong;
}

static int check_library(const char *of, const char *path) {
  int wrong = 0, found = 0;
  void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!library) {
    printf("not looked into: %s\n", dlerror());
    return 0;
  }
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    if (strcmp(functions[i].library, of) != 0)
      continue;
    bool there = dlsym(library, functions[i].name) != NULL;
    found += there;
    wrong += !there;
    if (!there)
      printf("FAILED: %s has no %s\n", path, functions[i].name);
  }
  printf("%s has all of its %d functions\n", path, found);
  return wrong;
}

int main(void) {
  int wrong = check_names();
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    wrong += check_library(files[i].library, files[i].path);
  printf("%zu functions and the constants held against CUDA %d, %d wrong\n", sizeof functions / sizeof *functions,
         CUDA_VERSION, wrong);
  return wrong > 0;
}
#else
int main(void) {
  printf("skipped: no headers of the CUDA toolkit\n");
  return 77;
}
#endif
