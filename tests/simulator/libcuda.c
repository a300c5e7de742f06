/* libcuda.so.1 of the simulated device: the functions of runtime/cuda/functions.def for one device, one context.
 *
 * $MOEC_SIMULATOR_MEMORY: its memory in MiB (default 4096); $MOEC_SIMULATOR_DRIVER: its version (13000). A launch or
 * copy that breaks a rule is printed, reported (report.c) and fails with CUDA_ERROR_LAUNCH_FAILED, as does everything
 * on that stream from then on.
 */
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/simulator/private.h"
#include "tests/simulator/stream.h"

#define FUNCTION(library, returns, name, parameters) returns name parameters;
#include "runtime/cuda/functions.def"
#undef FUNCTION

enum {
  ERROR_INVALID_VALUE = 1,
  ERROR_INVALID_IMAGE = 200,
  ERROR_LAUNCH_FAILED = 719,
  MOST_PARAMETERS = 256,
  SHARED_WITHOUT_ASKING = 48 << 10,
  MULTIPROCESSORS = 4
};

struct CUctx_st {
  int users;
};
struct CUevent_st {
  struct timespec at;
  CUstream stream; /* that it was recorded in; NULL: in none */
  int64_t position;
};
struct CUmod_st {
  SimulatorUnit *unit;
};
struct CUfunc_st {
  SimulatorUnit *unit;
  char *name;
  void (*enter)(void **);
  int parameters;
  int64_t most_shared; /* dynamic; without asking for more it shares 48 KB with the static */
};
struct CUgraphExec_st {
  CUgraph graph;
};

static struct CUctx_st context;
static size_t memory_used;
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---------------------------------------------------------------- the device */

CUresult cuInit(unsigned int flags) {
  return flags ? ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
  const char *text = getenv("MOEC_SIMULATOR_DRIVER");
  *version = text && *text ? atoi(text) : 13000;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  *count = 1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  *device = 0;
  return ordinal ? ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  (void)device;
  snprintf(name, (size_t)length, "moec simulator");
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  (void)device;
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
    *value = MULTIPROCESSORS;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
    *value = device_arch() / 10;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
    *value = device_arch() % 10;
    return CUDA_SUCCESS;
  default:
    stream_complain("cuDeviceGetAttribute: attribute %d is not simulated", attribute);
    return ERROR_INVALID_VALUE;
  }
}

static size_t memory_size(void) {
  const char *text = getenv("MOEC_SIMULATOR_MEMORY");
  return (text && *text ? strtoul(text, NULL, 10) : 4096) << 20;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  (void)device;
  *bytes = memory_size();
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *made, CUdevice device) {
  (void)device;
  context.users++;
  *made = &context;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  (void)device;
  return context.users-- > 0 ? CUDA_SUCCESS : ERROR_INVALID_VALUE;
}

CUresult cuCtxSetCurrent(CUcontext wanted) {
  return !wanted || wanted == &context ? CUDA_SUCCESS : ERROR_INVALID_VALUE;
}

/* ---------------------------------------------------------------- memory */

CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
  *total = memory_size();
  *available = *total - memory_used;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
  if (!bytes)
    return ERROR_INVALID_VALUE;
  pthread_mutex_lock(&memory_lock);
  bool fits = bytes <= memory_size() - memory_used;
  if (fits) {
    memory_used += bytes;
    *memory = (CUdeviceptr)(uintptr_t)simulator_alloc(bytes);
  }
  pthread_mutex_unlock(&memory_lock);
  return fits ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFree_v2(CUdeviceptr memory) {
  int hint = 0;
  void *at = (void *)(uintptr_t)memory;
  stream_wait_all();
  pthread_mutex_lock(&memory_lock);
  const Allocation *a = memory_find(at, 0, &hint);
  bool known = a && a->at == at;
  if (known) {
    memory_used -= a->bytes;
    simulator_free(at);
  }
  pthread_mutex_unlock(&memory_lock);
  if (!known)
    stream_complain("cuMemFree: %p is not the beginning of an allocation", at);
  return known ? CUDA_SUCCESS : ERROR_INVALID_VALUE;
}

CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned int flags) {
  (void)flags;
  *memory = calloc(1, bytes);
  return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void *memory) {
  stream_wait_all();
  free(memory);
  return CUDA_SUCCESS;
}

/* Copies, with a flag for each side that is on the device; without `from`, all bytes become `value`. */
typedef struct Copy {
  void *to;
  const void *from;
  size_t bytes;
  bool to_device, from_device;
  unsigned char value;
} Copy;

static bool run_copy(const void *data) {
  const Copy *c = data;
  if ((c->from_device && !stream_reads("a copy", c->from, c->bytes)) ||
      (c->to_device && !stream_writes(c->from ? "a copy" : "a memset", c->to, c->bytes)))
    return false;
  if (c->from)
    memmove(c->to, c->from, c->bytes);
  else
    memset(c->to, c->value, c->bytes);
  return true;
}

static CUresult submit_copy(Copy copy, CUstream stream) {
  return stream_submit(stream, run_copy, &copy, sizeof copy);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  return submit_copy((Copy){(void *)(uintptr_t)to, from, bytes, true, false, 0}, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return submit_copy((Copy){to, (const void *)(uintptr_t)from, bytes, false, true, 0}, stream);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return submit_copy((Copy){(void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, true, true, 0}, stream);
}

CUresult cuMemsetD8Async(CUdeviceptr memory, unsigned char value, size_t bytes, CUstream stream) {
  return submit_copy((Copy){(void *)(uintptr_t)memory, NULL, bytes, true, false, value}, stream);
}

/* ---------------------------------------------------------------- streams, graphs, events */

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  (void)flags;
  *stream = stream_new();
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
  return stream_wait(stream, stream_position(stream));
}

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  (void)mode;
  return stream_capture(stream);
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  return stream_capture_end(stream, graph);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
  (void)flags;
  *executable = malloc(sizeof **executable);
  (*executable)->graph = stream_graph_copy(graph);
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  return stream_graph_run(executable->graph, stream);
}

CUresult cuGraphExecDestroy(CUgraphExec executable) {
  stream_graph_free(executable->graph);
  free(executable);
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  stream_graph_free(graph);
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
  (void)flags;
  *event = calloc(1, sizeof **event);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
  stream_wait_all();
  free(event);
  return CUDA_SUCCESS;
}

static bool run_record(const void *data) {
  CUevent event = *(const CUevent *)data;
  clock_gettime(CLOCK_MONOTONIC, &event->at);
  return true;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  CUresult result = stream_submit(stream, run_record, &event, sizeof event);
  event->stream = stream;
  event->position = stream_position(stream);
  return result;
}

CUresult cuEventSynchronize(CUevent event) {
  return event->stream ? stream_wait(event->stream, event->position) : CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
  *milliseconds =
      (float)((double)(end->at.tv_sec - start->at.tv_sec) * 1e3 + (double)(end->at.tv_nsec - start->at.tv_nsec) * 1e-6);
  return CUDA_SUCCESS;
}

/* ---------------------------------------------------------------- kernels */

static size_t image_size(const void *image) {
  const ElfW(Ehdr) *head = image;
  bool elf = memcmp(head->e_ident, ELFMAG, SELFMAG) == 0;
  return elf ? (size_t)head->e_shoff + (size_t)head->e_shnum * head->e_shentsize : 0;
}

/* The loader wants a file, and so does what finds the line of a fault: it stays, under the hash of its bytes. */
static bool write_image(const char *path, const void *image, size_t size) {
  char made[4300];
  if (access(path, R_OK) == 0)
    return true;
  snprintf(made, sizeof made, "%s.XXXXXX", path);
  int file = mkstemp(made);
  bool good = file >= 0 && write(file, image, size) == (ssize_t)size;
  return file >= 0 && close(file) == 0 && good && rename(made, path) == 0;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  char path[4200];
  size_t size = image_size(image);
  uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ ((const unsigned char *)image)[i]) * 0x100000001b3u;
  snprintf(path, sizeof path, "%s/module-%016llx.so", compile_cache(), (unsigned long long)hash);
  if (!size || !write_image(path, image, size)) {
    stream_complain("cuModuleLoadData: %s", size ? path : "not an image of the simulator");
    return ERROR_INVALID_IMAGE;
  }
  *module = calloc(1, sizeof **module);
  (*module)->unit = unit_load(path);
  return (*module)->unit ? CUDA_SUCCESS : ERROR_INVALID_IMAGE;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  int parameters;
  void (*enter)(void **) = unit_entry(module->unit, name, &parameters);
  if (!enter)
    return CUDA_ERROR_NOT_FOUND;
  *function = malloc(sizeof **function);
  **function = (struct CUfunc_st){module->unit, strdup(name), enter, parameters,
                                  SHARED_WITHOUT_ASKING - module->unit->static_bytes};
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > device_shared_limit()) {
    stream_complain("cuFuncSetAttribute: %s: attribute %d = %d", function->name, attribute, value);
    return ERROR_INVALID_VALUE;
  }
  function->most_shared = value;
  return CUDA_SUCCESS;
}

typedef struct LaunchWork {
  Launch launch;
  uint64_t parameter[MOST_PARAMETERS];
} LaunchWork;

static bool run_launch(const void *data) {
  LaunchWork work = *(const LaunchWork *)data;
  void *pointer[MOST_PARAMETERS];
  for (int i = 0; i < MOST_PARAMETERS; i++)
    pointer[i] = &work.parameter[i];
  work.launch.parameters = pointer;
  return launch_run(&work.launch);
}

CUresult cuLaunchKernel(CUfunction function, unsigned int blocks_x, unsigned int blocks_y, unsigned int blocks_z,
                        unsigned int threads_x, unsigned int threads_y, unsigned int threads_z,
                        unsigned int shared_bytes, CUstream stream, void **parameters, void **extra) {
  LaunchWork work = {.launch = {.unit = function->unit,
                                .kernel = function->name,
                                .enter = function->enter,
                                .grid = {blocks_x, blocks_y, blocks_z},
                                .block = {threads_x, threads_y, threads_z},
                                .shared_bytes = shared_bytes,
                                .order = SIMULATOR_SHUFFLED,
                                .seed = 1}};
  if (extra || !blocks_x || !blocks_y || !blocks_z || function->parameters > MOST_PARAMETERS) {
    stream_complain("cuLaunchKernel: %s: %u x %u x %u blocks, %d parameters", function->name, blocks_x, blocks_y,
                    blocks_z, function->parameters);
    return ERROR_INVALID_VALUE;
  }
  if (shared_bytes > function->most_shared) {
    stream_complain("cuLaunchKernel: %s: %u bytes of dynamic shared memory, %lld have been asked for", function->name,
                    shared_bytes, (long long)function->most_shared);
    return ERROR_INVALID_VALUE;
  }
  if (!launch_check(&work.launch)) {
    stream_complain("%s", simulator_error());
    return ERROR_INVALID_VALUE;
  }
  for (int i = 0; i < function->parameters; i++)
    work.parameter[i] = *(const uint64_t *)parameters[i];
  return stream_submit(stream, run_launch, &work, sizeof work);
}

/* ---------------------------------------------------------------- errors */

CUresult cuGetErrorName(CUresult error, const char **name) {
  switch (error) {
  case CUDA_SUCCESS:
    *name = "CUDA_SUCCESS";
    return CUDA_SUCCESS;
  case CUDA_ERROR_OUT_OF_MEMORY:
    *name = "CUDA_ERROR_OUT_OF_MEMORY";
    return CUDA_SUCCESS;
  case CUDA_ERROR_NOT_FOUND:
    *name = "CUDA_ERROR_NOT_FOUND";
    return CUDA_SUCCESS;
  case ERROR_INVALID_VALUE:
    *name = "CUDA_ERROR_INVALID_VALUE";
    return CUDA_SUCCESS;
  case ERROR_INVALID_IMAGE:
    *name = "CUDA_ERROR_INVALID_IMAGE";
    return CUDA_SUCCESS;
  case ERROR_LAUNCH_FAILED:
    *name = "CUDA_ERROR_LAUNCH_FAILED";
    return CUDA_SUCCESS;
  default:
    return ERROR_INVALID_VALUE;
  }
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  const char *name;
  *text = error == ERROR_LAUNCH_FAILED ? simulator_error() : "refused by the simulated device";
  return cuGetErrorName(error, &name);
}
