/* The types and constants of the CUDA libraries that the runtime needs, so that it builds on a machine without CUDA.
 * Names are the libraries' own. With MOEC_CUDA_HEADERS defined their headers must stand before this one and nothing is
 * declared here: so the test holds functions.def and constants.def against the real declarations. C and C++.
 */
#ifndef MOEC_RUNTIME_CUDA_TYPES_H
#define MOEC_RUNTIME_CUDA_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifndef MOEC_CUDA_HEADERS
typedef int CUresult, CUdevice, CUdevice_attribute, CUfunction_attribute, CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

typedef int nvrtcResult;
typedef struct _nvrtcProgram *nvrtcProgram;

typedef int cublasStatus_t, cublasComputeType_t, cudaDataType, cudaDataType_t;
typedef int cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t;
typedef struct cublasLtContext *cublasLtHandle_t;
typedef struct cublasLtMatmulDescOpaque_t *cublasLtMatmulDesc_t;
typedef struct cublasLtMatrixLayoutOpaque_t *cublasLtMatrixLayout_t;
typedef struct cublasLtMatmulPreferenceOpaque_t *cublasLtMatmulPreference_t;

/* Plain data: may be stored and restored for the same version of the library. */
typedef struct cublasLtMatmulAlgo_t {
  uint64_t data[8];
} cublasLtMatmulAlgo_t;

typedef struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
  size_t workspaceSize;
  cublasStatus_t state;
  float wavesCount;
  int reserved[4];
} cublasLtMatmulHeuristicResult_t;

enum {
#define CONSTANT(name, value) name = (value),
#include "runtime/cuda/constants.def"
#undef CONSTANT
};
#endif

#endif
