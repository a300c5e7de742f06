/* See gpu.h. */
#include "runtime/cuda/gpu.h"

#include "runtime/cuda/libraries.h"
#include "runtime/error.h"
#include "runtime/execute.h"
#include "runtime/files.h"

enum {
  LEAST_MAJOR = 8,     /* compute capability: bf16 products of tensor cores, asynchronous copies */
  LEAST_DRIVER = 13000 /* an older one takes no cubins of NVRTC 13 */
};

static int attribute(CUdevice device, CUdevice_attribute which) {
  int value = 0;
  cuda_check(cuda.cuDeviceGetAttribute(&value, which, device), "a query of the device");
  return value;
}

static int driver_version(void) {
  int version = 0;
  cuda_check(cuda.cuDriverGetVersion(&version), "a query of the driver");
  return version;
}

static const char *find_gpu(CUdevice *device) {
  const char *problem = cuda_open(CUDA_DRIVER);
  int count = 0;
  if (problem)
    return problem;
  CUresult result = cuda.cuInit(0);
  if (result == CUDA_SUCCESS)
    result = cuda.cuDeviceGetCount(&count);
  if (result != CUDA_SUCCESS)
    return string_format("the driver finds no GPU (%s)", cuda_error_text(result));
  if (count == 0)
    return "the driver finds no GPU";
  if (driver_version() < LEAST_DRIVER)
    return string_format("%s: one for CUDA %d.%d or newer is needed", cuda_gpu_driver(), LEAST_DRIVER / 1000,
                         LEAST_DRIVER % 1000 / 10);
  cuda_check(cuda.cuDeviceGet(device, 0), "the choice of the device");
  int major = attribute(*device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  if (major < LEAST_MAJOR)
    return string_format("the GPU has compute capability %d.%d, %d.0 or newer is needed", major,
                         attribute(*device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), LEAST_MAJOR);
  return NULL;
}

const char *executor_no_gpu(void) {
  CUdevice device;
  return find_gpu(&device);
}

static CudaGpu describe(CUdevice device) {
  char name[256] = "";
  cuda_check(cuda.cuDeviceGetName(name, sizeof name, device), "a query of the device");
  int major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  int minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  const char *all_of_hopper = major == 9 && minor == 0 ? "a" : ""; /* wgmma is in sm_90a alone */
  return (CudaGpu){.device = device,
                   .name = string_format("%s", name),
                   .arch = string_format("sm_%d%d%s", major, minor, all_of_hopper)};
}

const char *executor_gpu(void) {
  CUdevice device;
  const char *problem = find_gpu(&device);
  if (problem)
    runtime_fail(FAIL_ENVIRONMENT, "--device=cuda: %s", problem);
  CudaGpu gpu = describe(device);
  size_t bytes = 0;
  cuda_check(cuda.cuDeviceTotalMem_v2(&bytes, device), "a query of the device");
  return string_format("%s (%s), %.1f GB, %s", gpu.name, gpu.arch, (double)bytes / 1e9, cuda_gpu_driver());
}

CudaGpu cuda_gpu_open(void) {
  CUdevice device;
  CUcontext context;
  const char *problem = find_gpu(&device);
  if (problem)
    runtime_fail(FAIL_ENVIRONMENT, "--device=cuda: %s", problem);
  CudaGpu gpu = describe(device);
  cuda_check(cuda.cuDevicePrimaryCtxRetain(&context, device), "the start of the device");
  cuda_check(cuda.cuCtxSetCurrent(context), "the start of the device");
  cuda_check(cuda.cuStreamCreate(&gpu.stream, CU_STREAM_NON_BLOCKING), "the making of a stream");
  return gpu;
}

void cuda_gpu_close(const CudaGpu *gpu) {
  cuda_check(cuda.cuDevicePrimaryCtxRelease_v2(gpu->device), "the release of the device");
}

const char *cuda_gpu_driver(void) {
  int version = driver_version();
  return string_format("driver for CUDA %d.%d", version / 1000, version % 1000 / 10);
}

char *cuda_gpu_allocate(int64_t bytes) {
  CUdeviceptr memory = 0;
  CUresult result = cuda.cuMemAlloc_v2(&memory, (size_t)(bytes ? bytes : 1));
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    return NULL;
  cuda_check(result, "an allocation");
  return (char *)(uintptr_t)memory;
}

void cuda_gpu_free(char *memory) {
  cuda_check(cuda.cuMemFree_v2(cuda_pointer(memory)), "the release of memory");
}

int64_t cuda_gpu_available(int64_t *total) {
  size_t available = 0, all = 0;
  cuda_check(cuda.cuMemGetInfo_v2(&available, &all), "a query of the memory");
  if (total)
    *total = (int64_t)all;
  return (int64_t)available;
}

void *cuda_gpu_host_memory(int64_t bytes) {
  void *memory = NULL;
  cuda_check(cuda.cuMemHostAlloc(&memory, (size_t)(bytes ? bytes : 1), 0), "an allocation of page-locked memory");
  return memory;
}

void cuda_gpu_free_host(void *memory) {
  if (memory)
    cuda_check(cuda.cuMemFreeHost(memory), "the release of page-locked memory");
}

void cuda_gpu_wait(const CudaGpu *gpu, const char *what) {
  cuda_check(cuda.cuStreamSynchronize(gpu->stream), what);
}

double cuda_gpu_time(const CudaGpu *gpu, const char *what, bool (*run)(void *context), void *context, double limit) {
  enum { ROUNDS = 4 };
  CUevent begin, done;
  double fastest = -1;
  bool runs = true;
  cuda_check(cuda.cuEventCreate(&begin, CU_EVENT_DEFAULT), "the making of an event");
  cuda_check(cuda.cuEventCreate(&done, CU_EVENT_DEFAULT), "the making of an event");
  for (int round = 0; round < ROUNDS && runs && !(limit >= 0 && fastest > limit); round++) {
    float milliseconds = 0;
    cuda_check(cuda.cuEventRecord(begin, gpu->stream), "an event");
    runs = run(context);
    if (!runs)
      continue;
    cuda_check(cuda.cuEventRecord(done, gpu->stream), "an event");
    cuda_check(cuda.cuEventSynchronize(done), what);
    cuda_check(cuda.cuEventElapsedTime_v2(&milliseconds, begin, done), "an event");
    double seconds = 1e-3 * (double)milliseconds;
    if (round > 0 && (fastest < 0 || seconds < fastest))
      fastest = seconds;
  }
  cuda_check(cuda.cuEventDestroy_v2(begin), "the end of an event");
  cuda_check(cuda.cuEventDestroy_v2(done), "the end of an event");
  return runs ? fastest : -1;
}
