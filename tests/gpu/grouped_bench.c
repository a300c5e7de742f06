/* How fast the grouped products are on this GPU: the six of an expert FFN, and three of them with the row kernels
 * behind them, in every way that a plan has: the portable kernel, on sm_90a Hopper's, and each of them with the row
 * kernel as its epilogue; with equal groups and with skewed ones; and whether the ways agree.
 *
 *   grouped_bench [rows experts d f]      default 65536 16 1024 4096: the paper's layer, 4096 rows for each expert
 *
 * A line per product and way: median milliseconds of its launches and TFLOP/s. FLOPs are 2 * rows * d * f, the useful
 * ones: what tiles waste at the edges of groups is not counted. Operands are random, each launch reads and writes some
 * 0.8 GB, which no cache holds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/libraries.h"
#include "tests/cuda/epilogues.h"
#include "tests/cuda/step_field.h"

enum { MOST_PRODUCTS = 6, RUNS = 11, MOST_OPERANDS = 16, MOST_STEPS = 2 };

static const char text[] = "module grouped\n"
                           "sym R=%1$d D=%2$d F=%3$d E=%4$d\n"
                           "func @f (%%x: bf16[R<%%off>,D], %%h: bf16[R<%%off>,F], %%off: i32[E+1],\n"
                           "         %%w1: bf16[E,D,F], %%w2: bf16[E,F,D]) {\n"
                           "  %%fc1: bf16[R<%%off>,F] = grouped_matmul %%x, %%w1, %%off\n"
                           "  %%fc2: bf16[R<%%off>,D] = grouped_matmul %%h, %%w2, %%off\n"
                           "  %%fc2_dx: bf16[R<%%off>,F] = grouped_matmul %%x, %%w2, %%off {tb=1}\n"
                           "  %%fc1_dx: bf16[R<%%off>,D] = grouped_matmul %%h, %%w1, %%off {tb=1}\n"
                           "  %%fc1_dw: bf16[E,D,F] = grouped_outer %%x, %%h, %%off\n"
                           "  %%fc2_dw: bf16[E,F,D] = grouped_outer %%h, %%x, %%off\n"
                           "  return a=%%fc1, b=%%fc2, c=%%fc2_dx, d=%%fc1_dx, e=%%fc1_dw, g=%%fc2_dw\n}\n";

/* Products in the order of the plan: what they are called here, and the value that ways must agree on. */
typedef struct Layer {
  const char *text;
  int products;
  const char *name[MOST_PRODUCTS], *value[MOST_PRODUCTS];
} Layer;

static const Layer layers[] = {
    {text,
     6,
     {"fc1", "fc2", "fc2_dx", "fc1_dx", "fc1_dw", "fc2_dw"},
     {"fc1", "fc2", "fc2_dx", "fc1_dx", "fc1_dw", "fc2_dw"}},
    {epilogues_text, 3, {"fc1, bias, GELU", "fc2, bias, weight", "fc2_dx, dGELU"}, {"g", "b7", "d"}}};

typedef struct Shape {
  int rows, experts, d, f;
} Shape;

/* A plan in device memory. */
typedef struct Bench {
  Arena *arena;
  const Layer *layer;
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

static CUfunction compile(Arena *arena, const Step *step, const char *arch) {
  const Kernel *kernel = step->kernel;
  const int64_t shared_bytes = step_field(step, "shared");
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
  if (shared_bytes > 0)
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

/* Numbers between -1 and 1. */
static void fill(const Bench *b, const char *name, DType dtype, uint32_t state) {
  size_t bytes = value_bytes(b, name), size = dtype_size(dtype);
  char *data = malloc(bytes);
  for (size_t i = 0; i < bytes / size; i++) {
    state = state * 1664525u + 1013904223u;
    float x = (float)(int32_t)state * 0x1p-31f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = dtype == DTYPE_BF16 ? bits >> 16 : bits;
    memcpy(data + i * size, &bits, size);
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
  if (func_find_value(b->func->func, "pair") == NO_VALUE)
    return;
  int32_t *pair = arena_alloc(b->arena, (size_t)shape->rows * sizeof *pair),
          *slot = arena_alloc(b->arena, (size_t)shape->rows * sizeof *slot);
  for (int e = 0; e < shape->experts; e++)
    for (int row = off[e]; row < off[e + 1]; row++) {
      pair[row] = row * shape->experts + e;
      slot[row] = row;
    }
  upload(value_address(b, "pair"), pair, (size_t)shape->rows * sizeof *pair);
  upload(value_address(b, "slot"), slot, (size_t)shape->rows * sizeof *slot);
}

static Bench bench_make(Arena *arena, const Layer *layer, const Shape *shape) {
  const char *module = arena_print(arena, layer->text, shape->rows, shape->d, shape->f, shape->experts);
  const Plan *plan = plan_lower_cuda(module_parse(arena, "grouped_bench", module), false, (CudaOptions){0});
  Bench b = {.arena = arena, .layer = layer, .func = &plan->funcs[0]};
  const Func *f = b.func->func;
  check(cuda.cuMemAlloc_v2(&b.memory, (size_t)b.func->act), "device memory");
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT && f->values[v].type.dtype != DTYPE_I32)
      fill(&b, f->values[v].name, f->values[v].type.dtype, v + 1);
  return b;
}

/* ---------------------------------------------------------------- running */

static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* A launch: its kernel, compiled, and its operands. */
typedef struct Launch {
  const Step *step;
  CUfunction function;
  uint64_t value[MOST_OPERANDS];
  void *pointer[MOST_OPERANDS];
} Launch;

static Launch launch_of(const Bench *b, const Step *s, const char *arch) {
  Launch l = {.step = s, .function = compile(b->arena, s, arch)};
  int count = 0;
  for (uint32_t i = 1; i < vec_len(s->fields); i++) { /* behind the entry point's name */
    const Field *f = &s->fields[i];
    if (f->key)
      continue;
    l.value[count] = f->kind != FIELD_WORD              ? b->memory + (uint64_t)place_offset(b->func, f->place)
                     : strncmp(f->word, "tag:", 4) == 0 ? strtoull(f->word + 4, NULL, 10)
                                                        : 0;
    count++;
  }
  return l;
}

static void launch(Launch *l) {
  for (int i = 0; i < MOST_OPERANDS; i++)
    l->pointer[i] = &l->value[i];
  check(cuda.cuLaunchKernel(l->function, (unsigned)step_field(l->step, "blocks"), 1, 1,
                            (unsigned)step_field(l->step, "threads"), 1, 1, (unsigned)step_field(l->step, "shared"),
                            stream, l->pointer, NULL),
        kernel_name(l->step->kernel));
}

/* Median milliseconds of the launches together, behind a run that is not counted. */
static float time_launches(Launch *launches, int count) {
  float times[RUNS];
  CUevent start, end;
  check(cuda.cuEventCreate(&start, 0), "cuEventCreate");
  check(cuda.cuEventCreate(&end, 0), "cuEventCreate");
  for (int run = -1; run < RUNS; run++) {
    check(cuda.cuEventRecord(start, stream), "cuEventRecord");
    for (int i = 0; i < count; i++)
      launch(&launches[i]);
    check(cuda.cuEventRecord(end, stream), "cuEventRecord");
    check(cuda.cuEventSynchronize(end), kernel_name(launches[0].step->kernel));
    float milliseconds;
    check(cuda.cuEventElapsedTime_v2(&milliseconds, start, end), "cuEventElapsedTime");
    if (run >= 0)
      times[run] = milliseconds;
  }
  qsort(times, RUNS, sizeof *times, compare);
  return times[RUNS / 2];
}

/* ---------------------------------------------------------------- comparing */

static float element(const void *data, DType dtype, size_t i) {
  uint32_t bits = dtype == DTYPE_BF16 ? (uint32_t)((const uint16_t *)data)[i] << 16 : ((const uint32_t *)data)[i];
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static char *download(const Bench *b, const char *name) {
  char *data = malloc(value_bytes(b, name));
  check(cuda.cuMemcpyDtoHAsync_v2(data, value_address(b, name), value_bytes(b, name), stream), "copy from the device");
  check(cuda.cuStreamSynchronize(stream), "copy from the device");
  return data;
}

/* The relative difference of two results, norm over norm; products sum in f32 and round once. */
static bool agree(const Bench *b, const char *name, const char *option, const char *first, const char *own) {
  const Func *f = b->func->func;
  DType dtype = f->values[func_find_value(f, name)].type.dtype;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < value_bytes(b, name) / dtype_size(dtype); i++) {
    double p = element(first, dtype, i), q = element(own, dtype, i);
    difference += (p - q) * (p - q);
    norm += p * p;
  }
  double relative = sqrt(difference / norm);
  bool good = relative < 2e-3; /* NaN is not */
  printf("%-18s %-15s differs from the first way by %.2g%s\n", name, option, relative, good ? "" : ": FAILED");
  return good;
}

/* ---------------------------------------------------------------- all ways */

/* Steps from `first` on that are one way; `end`: behind them, `next`: whether another product begins there. */
static uint32_t way_end(const Step *steps, uint32_t first) {
  uint32_t end = first + 1;
  while (steps[first].choice && end < vec_len(steps) && steps[end].choice == steps[first].choice &&
         strcmp(steps[end].option, steps[first].option) == 0)
    end++;
  return end;
}

static bool runs_on(const Step *steps, uint32_t first, uint32_t end, const char *arch) {
  for (uint32_t i = first; i < end; i++)
    if (kernel_arch(steps[i].kernel) && strcmp(kernel_arch(steps[i].kernel), arch) != 0)
      return false;
  return true;
}

/* Kernels are compiled anew for every way, which takes a fraction of a second. */
static bool run_bench(const Bench *b, const Shape *shape, const char *arch, const char *groups) {
  const Step *steps = b->func->steps;
  const double flops = 2.0 * shape->rows * shape->d * shape->f;
  bool good = true;
  char *first = NULL;
  int product = -1;
  for (uint32_t i = 0, end; i < vec_len(steps); i = end) {
    end = way_end(steps, i);
    if (i == 0 || !steps[i].choice || steps[i].choice != steps[i - 1].choice) {
      product++;
      free(first);
      first = NULL;
    }
    if (!runs_on(steps, i, end, arch))
      continue;
    Launch launches[MOST_STEPS];
    for (uint32_t k = i; k < end; k++)
      launches[k - i] = launch_of(b, &steps[k], arch);
    const char *option = steps[i].option ? steps[i].option : "mma", *value = b->layer->value[product];
    float milliseconds = time_launches(launches, (int)(end - i));
    printf("%-18s %-15s %-6s %8.3f ms %7.1f TFLOP/s\n", b->layer->name[product], option, groups, milliseconds,
           flops / milliseconds * 1e-9);
    char *own = download(b, value);
    if (first)
      good &= agree(b, value, option, first, own);
    if (first)
      free(own);
    else
      first = own;
  }
  free(first);
  if (product + 1 != b->layer->products)
    printf("FAILED: %d products instead of %d\n", product + 1, b->layer->products);
  return good && product + 1 == b->layer->products;
}

int main(int argc, char **argv) {
  Shape shape = {65536, 16, 1024, 4096};
  if (argc == 5)
    shape = (Shape){atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4])};
  if ((argc != 1 && argc != 5) || shape.rows < 1 || shape.experts < 1 || shape.d < 1 || shape.f < 1) {
    fprintf(stderr, "usage: grouped_bench [rows experts d f]\n");
    return 2;
  }
  bool good = true;
  for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
    Arena *arena = arena_new();
    const char *arch = open_device(arena);
    Bench bench = bench_make(arena, &layers[i], &shape);
    for (int skewed = 0; skewed < 2; skewed++) {
      set_groups(&bench, &shape, skewed);
      good &= run_bench(&bench, &shape, arch, skewed ? "skewed" : "equal");
    }
    check(cuda.cuMemFree_v2(bench.memory), "device memory");
    arena_free(arena);
  }
  return !good;
}
