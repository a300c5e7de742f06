/* How fast the grouped products are on this GPU: the six of an expert FFN, by the portable kernel and, on sm_90a, by
 * Hopper's, with equal groups and with skewed ones; and whether the two kernels agree.
 *
 *   grouped_bench [rows experts d f]      default 65536 16 1024 4096: the paper's layer, 4096 rows for each expert
 *
 * A line per product and kernel: median milliseconds of a launch and TFLOP/s. FLOPs are 2 * rows * d * f, the useful
 * ones: what tiles waste at the edges of groups is not counted. Operands are random, each launch reads and writes some
 * 0.8 GB, which no cache holds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/plan.h"
#include "runtime/cuda/libraries.h"

enum { PRODUCTS = 6, RUNS = 11, STATIC_SHARED = 48 << 10, MOST_OPERANDS = 8 };

static const char text[] = "module grouped\n"
                           "sym R=%1$d E=%2$d D=%3$d F=%4$d\n"
                           "func @f (%%x: bf16[R<%%off>,D], %%h: bf16[R<%%off>,F], %%off: i32[E+1],\n"
                           "         %%w1: bf16[E,D,F], %%w2: bf16[E,F,D]) {\n"
                           "  %%fc1: bf16[R<%%off>,F] = grouped_matmul %%x, %%w1, %%off\n"
                           "  %%fc2: bf16[R<%%off>,D] = grouped_matmul %%h, %%w2, %%off\n"
                           "  %%fc2_dx: bf16[R<%%off>,F] = grouped_matmul %%x, %%w2, %%off {tb=1}\n"
                           "  %%fc1_dx: bf16[R<%%off>,D] = grouped_matmul %%h, %%w1, %%off {tb=1}\n"
                           "  %%fc1_dw: bf16[E,D,F] = grouped_outer %%x, %%h, %%off\n"
                           "  %%fc2_dw: bf16[E,F,D] = grouped_outer %%h, %%x, %%off\n"
                           "  return a=%%fc1, b=%%fc2, c=%%fc2_dx, d=%%fc1_dx, e=%%fc1_dw, g=%%fc2_dw\n}\n";
static const char *const product_name[PRODUCTS] = {"fc1", "fc2", "fc2_dx", "fc1_dx", "fc1_dw", "fc2_dw"};

typedef struct Shape {
  int rows, experts, d, f;
} Shape;

/* One of the two plans in device memory of its own. */
typedef struct Bench {
  const char *name;
  Arena *arena;
  const FuncPlan *func;
  CUdeviceptr memory;
} Bench;

static CUstream stream;

static void check(CUresult result, const char *what) {
  if (result == CUDA_SUCCESS)
    return;
  printf("FAILED: %s: %s\n", what, cuda_error_text(result));
  exit(1);
}

/* The architecture as NVRTC wants it. */
static const char *open_device(Arena *arena) {
  const char *problem = cuda_open(CUDA_DRIVER);
  problem = problem ? problem : cuda_open(CUDA_NVRTC);
  if (problem) {
    printf("FAILED: no GPU: %s\n", problem);
    exit(1);
  }
  CUdevice device;
  CUcontext context;
  int major, minor;
  char name[256] = "";
  check(cuda.cuInit(0), "cuInit");
  check(cuda.cuDeviceGet(&device, 0), "cuDeviceGet");
  check(cuda.cuDeviceGetName(name, sizeof name, device), "cuDeviceGetName");
  check(cuda.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
  check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent");
  check(cuda.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device), "attribute");
  check(cuda.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), "attribute");
  check(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  printf("# %s\n", name);
  return arena_print(arena, "sm_%d%d%s", major, minor, major == 9 ? "a" : "");
}

static CUfunction compile(Arena *arena, const Kernel *kernel, const char *arch, int64_t shared_bytes) {
  const char *source = arena_print(arena, "%s\n%s", kernel_prelude_cuda(), kernel_cuda(kernel));
  const char *const options[] = {"--std=c++17", "--diag-suppress=177",
                                 arena_print(arena, "--gpu-architecture=%s", arch)};
  nvrtcProgram program;
  size_t bytes = 0;
  if (cuda.nvrtcCreateProgram(&program, source, "kernel.cu", 0, NULL, NULL) != NVRTC_SUCCESS ||
      cuda.nvrtcCompileProgram(program, 3, options) != NVRTC_SUCCESS ||
      cuda.nvrtcGetCUBINSize(program, &bytes) != NVRTC_SUCCESS) {
    printf("FAILED: NVRTC refuses %s\n", kernel_name(kernel));
    exit(1);
  }
  char *cubin = arena_alloc(arena, bytes);
  CUmodule module;
  CUfunction function;
  cuda.nvrtcGetCUBIN(program, cubin);
  cuda.nvrtcDestroyProgram(&program);
  check(cuda.cuModuleLoadData(&module, cubin), "cuModuleLoadData");
  check(cuda.cuModuleGetFunction(&function, module, kernel_name(kernel)), kernel_name(kernel));
  if (shared_bytes > STATIC_SHARED)
    check(cuda.cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared_bytes),
          "dynamic shared memory");
  return function;
}

/* ---------------------------------------------------------------- operands */

static CUdeviceptr value_address(const Bench *b, const char *name) {
  const Func *f = b->func->func;
  return b->memory + (CUdeviceptr)place_offset(b->func, b->func->values[func_find_value(f, name)].place);
}

static size_t value_bytes(const Bench *b, const char *name) {
  const Func *f = b->func->func;
  Type type = f->values[func_find_value(f, name)].type;
  return (size_t)type_elements(f->module, type) * dtype_size(type.dtype);
}

static void upload(CUdeviceptr to, const void *from, size_t bytes) {
  check(cuda.cuMemcpyHtoDAsync_v2(to, from, bytes, stream), "copy to the device");
  check(cuda.cuStreamSynchronize(stream), "copy to the device");
}

/* bf16 between -1 and 1, the same for every plan. */
static void fill(const Bench *b, const char *name, uint32_t state) {
  size_t bytes = value_bytes(b, name);
  uint16_t *data = malloc(bytes);
  for (size_t i = 0; i < bytes / 2; i++) {
    state = state * 1664525u + 1013904223u;
    float x = (float)(int32_t)state * 0x1p-31f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    data[i] = (uint16_t)(bits >> 16);
  }
  upload(value_address(b, name), data, bytes);
  free(data);
}

/* Equal groups, or the one of expert e in proportion to 1 / (e + 1). */
static void set_groups(const Bench *b, const Shape *shape, bool skewed) {
  int32_t *off = arena_alloc(b->arena, (size_t)(shape->experts + 1) * sizeof *off);
  double total = 0, sum = 0;
  for (int e = 0; e < shape->experts; e++)
    total += skewed ? 1.0 / (e + 1) : 1;
  for (int e = 0; e < shape->experts; e++) {
    off[e] = (int32_t)(shape->rows * (sum / total));
    sum += skewed ? 1.0 / (e + 1) : 1;
  }
  off[shape->experts] = shape->rows;
  upload(value_address(b, "off"), off, (size_t)(shape->experts + 1) * sizeof *off);
}

static Bench bench_make(Arena *arena, const Shape *shape, bool wgmma) {
  Module *m =
      module_parse(arena, "grouped_bench", arena_print(arena, text, shape->rows, shape->experts, shape->d, shape->f));
  const Plan *plan = plan_lower_cuda(m, false, (CudaOptions){.grouped_wgmma = wgmma});
  Bench b = {.name = wgmma ? "wgmma" : "mma", .arena = arena, .func = &plan->funcs[0]};
  check(cuda.cuMemAlloc_v2(&b.memory, (size_t)b.func->act), "device memory");
  fill(&b, "x", 1);
  fill(&b, "h", 2);
  fill(&b, "w1", 3);
  fill(&b, "w2", 4);
  return b;
}

/* ---------------------------------------------------------------- running */

static int64_t step_field(const Step *s, const char *key) {
  for (uint32_t i = 0; i < vec_len(s->fields); i++) {
    const Field *f = &s->fields[i];
    if (f->key && strcmp(f->key, key) == 0)
      return f->kind == FIELD_WORD ? strtoll(f->word, NULL, 10) : f->number;
  }
  return 0;
}

static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Median milliseconds of a launch behind one that is not counted. */
static float time_step(const Bench *b, const Step *s, CUfunction function) {
  uint64_t value[MOST_OPERANDS];
  void *pointer[MOST_OPERANDS];
  int count = 0;
  for (uint32_t i = 0; i < vec_len(s->fields); i++)
    if (s->fields[i].kind == FIELD_READ || s->fields[i].kind == FIELD_WRITE) {
      value[count] = b->memory + (uint64_t)place_offset(b->func, s->fields[i].place);
      pointer[count] = &value[count];
      count++;
    }
  float times[RUNS];
  CUevent start, end;
  check(cuda.cuEventCreate(&start, 0), "cuEventCreate");
  check(cuda.cuEventCreate(&end, 0), "cuEventCreate");
  for (int run = -1; run < RUNS; run++) {
    check(cuda.cuEventRecord(start, stream), "cuEventRecord");
    check(cuda.cuLaunchKernel(function, (unsigned)step_field(s, "blocks"), 1, 1, (unsigned)step_field(s, "threads"), 1,
                              1, (unsigned)step_field(s, "shared"), stream, pointer, NULL),
          kernel_name(s->kernel));
    check(cuda.cuEventRecord(end, stream), "cuEventRecord");
    check(cuda.cuEventSynchronize(end), kernel_name(s->kernel));
    float milliseconds;
    check(cuda.cuEventElapsedTime(&milliseconds, start, end), "cuEventElapsedTime");
    if (run >= 0)
      times[run] = milliseconds;
  }
  qsort(times, RUNS, sizeof *times, compare);
  return times[RUNS / 2];
}

/* Step i makes product i; its kernel is compiled anew, which takes a fraction of a second. */
static void run_bench(const Bench *b, const Shape *shape, const char *arch, const char *groups) {
  if (vec_len(b->func->steps) != PRODUCTS) {
    printf("FAILED: %u steps instead of %d\n", vec_len(b->func->steps), PRODUCTS);
    exit(1);
  }
  double flops = 2.0 * shape->rows * shape->d * shape->f;
  for (int i = 0; i < PRODUCTS; i++) {
    const Step *s = &b->func->steps[i];
    float milliseconds = time_step(b, s, compile(b->arena, s->kernel, arch, step_field(s, "shared")));
    printf("%-8s %-6s %-6s %8.3f ms %7.1f TFLOP/s\n", product_name[i], b->name, groups, milliseconds,
           flops / milliseconds * 1e-9);
  }
}

/* ---------------------------------------------------------------- comparing */

static float from_bf16(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* The relative difference of a product's results, norm over norm; both sum in f32 and round once. */
static bool agree(const Bench *a, const Bench *b, const char *name) {
  size_t bytes = value_bytes(a, name);
  uint16_t *x = malloc(bytes), *y = malloc(bytes);
  check(cuda.cuMemcpyDtoHAsync_v2(x, value_address(a, name), bytes, stream), "copy from the device");
  check(cuda.cuMemcpyDtoHAsync_v2(y, value_address(b, name), bytes, stream), "copy from the device");
  check(cuda.cuStreamSynchronize(stream), "copy from the device");
  double difference = 0, norm = 0;
  for (size_t i = 0; i < bytes / 2; i++) {
    double p = from_bf16(x[i]), q = from_bf16(y[i]);
    difference += (p - q) * (p - q);
    norm += p * p;
  }
  free(x);
  free(y);
  double relative = sqrt(difference / norm);
  bool good = relative < 1e-3; /* NaN is not */
  printf("%-8s %s and %s differ by %.2g%s\n", name, a->name, b->name, relative, good ? "" : ": FAILED");
  return good;
}

int main(int argc, char **argv) {
  Shape shape = {65536, 16, 1024, 4096};
  if (argc == 5)
    shape = (Shape){atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4])};
  if ((argc != 1 && argc != 5) || shape.rows < 1 || shape.experts < 1 || shape.d < 1 || shape.f < 1) {
    fprintf(stderr, "usage: grouped_bench [rows experts d f]\n");
    return 2;
  }
  Arena *arena = arena_new();
  const char *arch = open_device(arena);
  bool hopper = strcmp(arch, "sm_90a") == 0, good = true;
  Bench mma = bench_make(arena, &shape, false), wgmma = hopper ? bench_make(arena, &shape, true) : mma;
  for (int skewed = 0; skewed < 2; skewed++) {
    const char *groups = skewed ? "skewed" : "equal";
    set_groups(&mma, &shape, skewed);
    run_bench(&mma, &shape, arch, groups);
    if (!hopper)
      continue;
    set_groups(&wgmma, &shape, skewed);
    run_bench(&wgmma, &shape, arch, groups);
    for (int i = 0; i < PRODUCTS; i++)
      good &= agree(&mma, &wgmma, product_name[i]);
  }
  arena_free(arena);
  return !good;
}
