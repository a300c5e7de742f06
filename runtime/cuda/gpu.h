/* The GPU: found, described, made current. */
#ifndef MOEC_RUNTIME_CUDA_GPU_H
#define MOEC_RUNTIME_CUDA_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cuda/types.h"

typedef struct CudaGpu {
  const char *name; /* "NVIDIA H200" */
  const char *arch; /* "sm_80", "sm_90a": what kernels are compiled for */
  CUstream stream;  /* the one that everything runs in */
  CUdevice device;
} CudaGpu;

/* Opens the driver and makes the first GPU's context current. What is missing: FAIL_ENVIRONMENT. */
CudaGpu cuda_gpu_open(void);
void cuda_gpu_close(const CudaGpu *gpu); /* everything of it must have been given back */
const char *cuda_gpu_driver(void);       /* the newest CUDA that the driver serves: "driver for CUDA 13.0" */

/* NULL when bytes could not be had; else the device's memory, not zeroed. */
char *cuda_gpu_allocate(int64_t bytes);
void cuda_gpu_free(char *memory);
int64_t cuda_gpu_available(int64_t *total); /* bytes; `total` may be NULL */
/* Page-locked memory of the host, which copies run from and to asynchronously. */
void *cuda_gpu_host_memory(int64_t bytes);
void cuda_gpu_free_host(void *memory); /* NULL is taken */
/* Until everything in the stream is done; `what` that was. */
void cuda_gpu_wait(const CudaGpu *gpu, const char *what);

/* Seconds of the fastest of a few runs behind one that warms up; what runs has gone into the stream when `run` comes
 * back. Negative: `run` says that it cannot. A run that takes longer than `limit` is the last; negative: any is fine.
 */
double cuda_gpu_time(const CudaGpu *gpu, const char *what, bool (*run)(void *context), void *context, double limit);

static inline CUdeviceptr cuda_pointer(const void *address) {
  return (CUdeviceptr)(uintptr_t)address;
}

#endif
