/* tests/simulator/simulator_kernel.h on a real GPU: the kernel tests, which run on the simulator everywhere, run on the
 * device when this library stands in the simulator's place (LD_LIBRARY_PATH).
 *
 * An allocation is host memory, which the test reads and writes, and as much device memory; a launch copies all of them
 * there and back and translates parameters that are addresses. Every launch runs twice, with two different patterns in
 * all bytes that nobody has written: bytes that keep their pattern both times were not written, and all others must
 * have the same bits both times. What the simulator alone can see (accesses out of bounds, missing barriers) is left to
 * compute-sanitizer. The libraries are opened as a trainer opens them: $MOEC_CUDA_PATH, the loader, the toolkit.
 */
#include "tests/simulator/simulator_kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/libraries.h"

enum { MOST_PARAMETERS = 256, MESSAGE = 4096 };
static const unsigned char patterns[2] = {0xff, 0x55};

typedef struct Allocation {
  unsigned char *host;
  unsigned char *written;        /* by byte: 1 where it is */
  unsigned char *known;          /* what stood there last; where the test has changed anything, it has written all */
  unsigned char *before, *first; /* during a launch: what stood there, and what the first run made of it */
  CUdeviceptr device;
  size_t bytes;
  struct Allocation *next;
} Allocation;

struct SimulatorUnit {
  CUmodule module;
};

static Allocation *allocations;
static CUstream stream;
static char architecture[64];
static char message[MESSAGE];

__attribute__((format(printf, 1, 2))) static bool wrong(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return false;
}

static bool good(CUresult result, const char *what) {
  return result == CUDA_SUCCESS || wrong("%s: %s", what, cuda_error_text(result));
}

/* Once: the first GPU and its architecture. Without one the tests cannot run. */
static void open_device(void) {
  static bool open;
  if (open)
    return;
  open = true;
  const char *problem = cuda_open(CUDA_DRIVER);
  problem = problem ? problem : cuda_open(CUDA_NVRTC);
  CUdevice device = 0;
  CUcontext context;
  int major = 0, minor = 0;
  bool works =
      !problem && good(cuda.cuInit(0), "cuInit") && good(cuda.cuDeviceGet(&device, 0), "cuDeviceGet") &&
      good(cuda.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain") &&
      good(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent") &&
      good(cuda.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device), "cuDevice") &&
      good(cuda.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), "cuDevice") &&
      good(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  if (!works) {
    printf("FAILED: no GPU: %s\n", problem ? problem : message);
    exit(1);
  }
  snprintf(architecture, sizeof architecture, "--gpu-architecture=sm_%d%d%s", major, minor, major == 9 ? "a" : "");
}

/* ---------------------------------------------------------------- units */

SimulatorUnit *simulator_compile(const char *text) {
  open_device();
  const char *const options[] = {"--std=c++17", "--diag-suppress=177", architecture};
  nvrtcProgram program;
  size_t bytes = 0;
  if (cuda.nvrtcCreateProgram(&program, text, "kernel.cu", 0, NULL, NULL) != NVRTC_SUCCESS) {
    wrong("NVRTC takes no program");
    return NULL;
  }
  SimulatorUnit *unit = NULL;
  char *data = NULL;
  if (cuda.nvrtcCompileProgram(program, 3, options) != NVRTC_SUCCESS) {
    cuda.nvrtcGetProgramLogSize(program, &bytes);
    data = calloc(bytes + 1, 1);
    cuda.nvrtcGetProgramLog(program, data);
    wrong("%.4000s", data);
  } else {
    cuda.nvrtcGetCUBINSize(program, &bytes);
    data = calloc(bytes + 1, 1);
    cuda.nvrtcGetCUBIN(program, data);
    unit = calloc(1, sizeof *unit);
    if (!good(cuda.cuModuleLoadData(&unit->module, data), "cuModuleLoadData")) {
      free(unit);
      unit = NULL;
    }
  }
  cuda.nvrtcDestroyProgram(&program);
  free(data);
  return unit;
}

bool simulator_has_entry(const SimulatorUnit *unit, const char *entry) {
  CUfunction function;
  return cuda.cuModuleGetFunction(&function, unit->module, entry) == CUDA_SUCCESS;
}

bool simulator_runs(const char *arch) {
  open_device();
  return strcmp(strchr(architecture, '=') + 1, arch) == 0;
}

bool simulator_is_simulated(void) {
  return false;
}

/* ---------------------------------------------------------------- memory */

void *simulator_alloc(size_t bytes) {
  open_device();
  Allocation *a = calloc(1, sizeof *a);
  a->bytes = bytes;
  a->host = malloc(bytes + 1);
  a->written = calloc(bytes + 1, 1);
  a->known = malloc(bytes + 1);
  memset(a->host, patterns[0], bytes);
  memset(a->known, patterns[0], bytes);
  if (!good(cuda.cuMemAlloc_v2(&a->device, bytes ? bytes : 1), "cuMemAlloc")) {
    printf("FAILED: %s\n", message);
    exit(1);
  }
  a->next = allocations;
  allocations = a;
  return a->host;
}

static Allocation *find(const void *memory) {
  const unsigned char *at = memory;
  for (Allocation *a = allocations; a; a = a->next)
    if (at >= a->host && at < a->host + (a->bytes ? a->bytes : 1))
      return a;
  return NULL;
}

void *simulator_copy(const void *data, size_t bytes) {
  void *memory = simulator_alloc(bytes);
  memcpy(memory, data, bytes);
  simulator_mark_written(memory, bytes);
  return memory;
}

void simulator_free(void *memory) {
  for (Allocation **at = &allocations; memory && *at; at = &(*at)->next)
    if ((*at)->host == memory) {
      Allocation *a = *at;
      *at = a->next;
      cuda.cuMemFree_v2(a->device);
      free(a->host);
      free(a->written);
      free(a->known);
      free(a);
      return;
    }
}

void simulator_mark_written(void *memory, size_t bytes) {
  Allocation *a = find(memory);
  if (a)
    memset(a->written + ((unsigned char *)memory - a->host), 1, bytes);
}

int64_t simulator_unwritten(const void *memory, size_t from, size_t bytes) {
  const Allocation *a = find(memory);
  size_t start = a ? (size_t)((const unsigned char *)memory - a->host) + from : 0;
  for (size_t i = 0; a && i < bytes; i++)
    if (!a->written[start + i])
      return (int64_t)(from + i);
  return a ? -1 : (int64_t)from;
}

bool simulator_is_memory(const void *memory, size_t bytes) {
  const Allocation *a = find(memory);
  return a && (size_t)((const unsigned char *)memory - a->host) + bytes <= a->bytes;
}

/* ---------------------------------------------------------------- launches */

static uint64_t on_device(uint64_t parameter) {
  const Allocation *a = parameter ? find((const void *)(uintptr_t)parameter) : NULL;
  return a ? a->device + (parameter - (uintptr_t)a->host) : parameter;
}

static unsigned count_of(int64_t blocks) {
  return (unsigned)(blocks ? blocks : 1);
}

/* Everything to the device, with a pattern in what is not written; the kernel; everything back. */
static bool run_pattern(const SimulatorLaunch *launch, CUfunction function, const uint64_t *parameters, int count,
                        unsigned char pattern) {
  uint64_t value[MOST_PARAMETERS];
  void *pointer[MOST_PARAMETERS];
  for (int i = 0; i < count; i++) {
    value[i] = on_device(parameters[i]);
    pointer[i] = &value[i];
  }
  for (Allocation *a = allocations; a; a = a->next) {
    memcpy(a->host, a->before, a->bytes);
    for (size_t i = 0; i < a->bytes; i++)
      if (!a->written[i])
        a->host[i] = pattern;
    if (a->bytes && !good(cuda.cuMemcpyHtoDAsync_v2(a->device, a->host, a->bytes, stream), "copy to the device"))
      return false;
  }
  CUresult result = cuda.cuLaunchKernel(function, count_of(launch->blocks[0]), count_of(launch->blocks[1]),
                                        count_of(launch->blocks[2]), (unsigned)launch->threads, 1, 1,
                                        (unsigned)launch->shared_bytes, stream, pointer, NULL);
  if (!good(result, launch->entry) || !good(cuda.cuStreamSynchronize(stream), launch->entry))
    return false;
  for (Allocation *a = allocations; a; a = a->next)
    if (a->bytes && !good(cuda.cuMemcpyDtoHAsync_v2(a->host, a->device, a->bytes, stream), "copy from the device"))
      return false;
  return good(cuda.cuStreamSynchronize(stream), launch->entry);
}

/* Host memory holds the second run: what was written, and whether both made the same of it. */
static bool compare_runs(const char *entry) {
  bool same = true;
  for (Allocation *a = allocations; a; a = a->next)
    for (size_t i = 0; i < a->bytes; i++) {
      bool kept = !a->written[i] && a->first[i] == patterns[0] && a->host[i] == patterns[1];
      if (!kept && a->first[i] != a->host[i] && same)
        same = wrong("%s: byte %zu of an allocation of %zu bytes differs between two runs", entry, i, a->bytes);
      a->written[i] |= !kept;
      a->host[i] = a->first[i];
    }
  return same;
}

bool simulator_run(const SimulatorLaunch *launch, const uint64_t *parameters, int count) {
  CUfunction function;
  if (count > MOST_PARAMETERS)
    return wrong("%s: more than %d parameters", launch->entry, MOST_PARAMETERS);
  if (!good(cuda.cuModuleGetFunction(&function, launch->unit->module, launch->entry), launch->entry))
    return false;
  if (launch->shared_bytes > 0 &&
      !good(
          cuda.cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)launch->shared_bytes),
          launch->entry))
    return false;
  for (Allocation *a = allocations; a; a = a->next) {
    a->before = malloc(a->bytes + 1);
    a->first = malloc(a->bytes + 1);
    memcpy(a->before, a->host, a->bytes);
    if (memcmp(a->host, a->known, a->bytes) != 0)
      memset(a->written, 1, a->bytes);
  }
  bool ran = run_pattern(launch, function, parameters, count, patterns[0]);
  for (Allocation *a = allocations; ran && a; a = a->next)
    memcpy(a->first, a->host, a->bytes);
  ran = ran && run_pattern(launch, function, parameters, count, patterns[1]) && compare_runs(launch->entry);
  for (Allocation *a = allocations; a; a = a->next) {
    memcpy(a->known, a->host, a->bytes);
    free(a->before);
    free(a->first);
  }
  return ran;
}

/* A GPU has one order, its own. */
bool simulator_run_once(const SimulatorLaunch *launch, const uint64_t *parameters, int count, SimulatorOrder order,
                        uint64_t seed) {
  (void)order;
  (void)seed;
  return simulator_run(launch, parameters, count);
}

const char *simulator_error(void) {
  return message;
}
