/* The simulator finds what it is for: small kernels that are right run clean, and with one fault planted each is
 * refused with the message for that fault.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/kernel.h"
#include "tests/simulator/simulator_kernel.h"

enum { THREADS = 128, BLOCKS = 3, COUNT = THREADS * BLOCKS };

/* A text with a right and a wrong form of one place, marked @. */
typedef struct Fault {
  const char *name, *text;
  const char *right, *wrong;
  const char *message; /* part of it */
} Fault;

/* All kernels are k(const float *x, float *y, int64_t n), n = COUNT; y is written whole. */
#define HEAD "extern \"C\" __global__ void k(const float *x, float *y, int64_t n) {\n"
#define PLACE "  const int t = threadIdx.x; const int64_t i = blockIdx.x * 128 + t;\n"

static const char reverse[] = HEAD PLACE "  __shared__ float row[128];\n"
                                         "  row[t] = x[i];\n"
                                         "  @\n"
                                         "  y[i] = row[127 - t];\n}\n";
static const char again[] = HEAD PLACE "  __shared__ float row[128];\n"
                                       "  float sum = 0;\n"
                                       "  for (int round = 0; round < 3; round++) {\n"
                                       "    row[t] = x[i] + round;\n"
                                       "    __syncthreads();\n"
                                       "    sum += row[(t + 64) % 128];\n"
                                       "    @\n"
                                       "  }\n"
                                       "  y[i] = sum;\n}\n";
static const char warp[] = HEAD PLACE "  __shared__ float row[4][32];\n"
                                      "  float *own = row[t / 32];\n"
                                      "  own[t % 32] = x[i];\n"
                                      "  @\n"
                                      "  y[i] = own[31 - t % 32];\n}\n";
static const char plain[] = HEAD PLACE "  @\n}\n";
static const char bound[] = HEAD PLACE "  for (int64_t j = i; j @ n; j += 128 * gridDim.x)\n    y[j] = x[j];\n}\n";
static const char dynamic[] = HEAD PLACE "  extern __shared__ float room[];\n"
                                         "  room[t @] = x[i];\n"
                                         "  __syncthreads();\n"
                                         "  y[i] = room[t];\n}\n";
static const char copy[] = HEAD PLACE "  __shared__ float4 stage[2][32];\n"
                                      "  if (t < 32) {\n"
                                      "    moec_copy_async_16(&stage[0][t], x + blockIdx.x * 128 + t * 4, true);\n"
                                      "    moec_copy_commit();\n"
                                      "    moec_copy_async_16(&stage[1][t], x, false);\n"
                                      "    moec_copy_commit();\n"
                                      "  }\n"
                                      "  @\n"
                                      "  y[i] = ((const float *)stage[0])[t];\n}\n";
static const char product[] = HEAD PLACE "  float d[4] = {x[i], 0, 0, 0};\n"
                                         "  uint32_t a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};\n"
                                         "  uint32_t b[2] = {0x3f803f80u, 0x3f803f80u};\n"
                                         "  @ moec_mma_bf16(d, a, b);\n"
                                         "  y[i] = d[0];\n}\n";

static const Fault faults[] = {
    {"a removed barrier between write and read", reverse, "__syncthreads();", "", "nobody has written"},
    {"a wait of the warp where the block must wait", reverse, "__syncthreads();", "__syncwarp();",
     "nobody has written"},
    {"a removed barrier between read and write", again, "__syncthreads();", "", "without a barrier"},
    {"a removed wait of the warp", warp, "__syncwarp();", "", "nobody has written"},
    {"shuffles do not order memory", warp, "__syncwarp();", "__shfl_sync(0xffffffffu, t, 0);", "without a barrier"},
    {"a barrier for half of the block", reverse, "__syncthreads();", "if (t < 64) __syncthreads();",
     "without a barrier"},
    {"different barriers", reverse, "__syncthreads();",
     "if (t < 64)\n    __syncthreads();\n  else\n    __syncthreads();", "divergent"},
    {"a thread that ends early", reverse, "__syncthreads();", "if (t == 5) return; __syncthreads();", "has ended"},
    {"a shuffle in half of a warp", plain, "y[i] = __shfl_xor_sync(0xffffffffu, x[i], 1);",
     "y[i] = 0; if (t % 32 < 16) y[i] = __shfl_xor_sync(0xffffffffu, x[i], 1);", "divergent"},
    {"a shuffle from outside of the mask", plain, "y[i] = t % 32 < 16 ? __shfl_sync(0x0000ffffu, x[i], 3) : 0.0f;",
     "y[i] = t % 32 < 16 ? __shfl_sync(0x0000ffffu, x[i], 20) : 0.0f;", "not in the mask"},
    {"a lane that is not in its mask", plain, "y[i] = __any_sync(0xffffffffu, x[i] > 0);",
     "y[i] = __any_sync(0x7fffffffu, x[i] > 0);", "not in its mask"},
    {"a product by half of a warp", product, "", "if (t % 2)", "divergent"},
    {"one row too many", bound, "<", "<=", "of an allocation of"},
    {"one before the first", plain, "y[i] = x[i];", "y[i] = x[i - 1];", "byte -4 of an allocation"},
    {"a null pointer", plain, "y[i] = x[i];", "y[i] = ((const float *)0)[t];", "where nothing is"},
    {"dynamic shared memory too small", dynamic, "", "+ 1", "outside of every variable"},
    {"an array's end", HEAD PLACE "  float part[4] = {x[i], x[i], x[i], x[i]};\n  y[i] = part[(t & 3) @];\n}\n", "",
     "+ 1", "outside of the array"},
    {"a float4 at an odd place",
     HEAD PLACE "  const float4 v = ((const float4 *)(x @))[t / 8];\n  y[i] = v.x + v.y + v.z + v.w;\n}\n", "", "+ 1",
     "not a multiple of 16"},
    {"shared memory that nobody wrote",
     HEAD PLACE "  __shared__ float row[128];\n  @ row[t] = x[i];\n  y[i] = row[t];\n}\n", "", "if (t != 7)",
     "nobody has written"},
    {"shared memory left by another block",
     HEAD PLACE "  __shared__ float row[128];\n  @ row[t] = x[i];\n  y[i] = row[t];\n}\n", "", "if (blockIdx.x == 0)",
     "nobody has written"},
    {"a missing wait for copies", copy, "moec_copy_wait<1>(); __syncthreads();", "__syncthreads();",
     "has not delivered"},
    {"a wait for the wrong copies", copy, "moec_copy_wait<1>(); __syncthreads();",
     "moec_copy_wait<2>(); __syncthreads();", "has not delivered"},
    {"copies without a barrier behind the wait", copy, "moec_copy_wait<0>(); __syncthreads();", "moec_copy_wait<0>();",
     ""},
    {"two threads at one place", plain, "y[i] = x[i];", "y[i] = x[i]; if (t == 9) y[i - 1] = 1;", "without a barrier"},
    {"two blocks at one place", plain, "y[i] = x[i];", "y[i] = x[i]; if (t == 9) y[t] = x[i];", "another block"},
    {"a result of another block", plain, "y[i] = x[i];", "y[i] = x[i] + (i < 128 ? 0.0f : y[i - 128]);",
     "another block"},
};

static SimulatorUnit *compile(const Fault *fault, const char *form) {
  char *text = NULL;
  size_t size = 0;
  const char *mark = strchr(fault->text, '@');
  FILE *out = open_memstream(&text, &size);
  fprintf(out, "%s\n%.*s%s%s", kernel_prelude_cuda(), (int)(mark - fault->text), fault->text, form, mark + 1);
  fclose(out);
  SimulatorUnit *unit = simulator_compile(text);
  if (!unit)
    printf("FAILED: %s: does not compile: %s\n", fault->name, simulator_error());
  free(text);
  return unit;
}

/* Whether it ran clean; *written: and wrote all of its output. */
static bool runs(const Fault *fault, const char *form, bool *written) {
  SimulatorUnit *unit = compile(fault, form);
  if (!unit)
    exit(1);
  float data[COUNT];
  for (int i = 0; i < COUNT; i++)
    data[i] = (float)i;
  float *x = simulator_copy(data, sizeof data), *y = simulator_alloc(sizeof data);
  SimulatorLaunch launch = {unit, "k", .blocks = {BLOCKS}, .threads = THREADS};
  launch.shared_bytes = fault->text == dynamic ? THREADS * sizeof(float) : 0;
  const uint64_t parameters[] = {(uintptr_t)x, (uintptr_t)y, COUNT};
  bool good = simulator_run(&launch, parameters, 3);
  *written = simulator_unwritten(y, 0, sizeof data) < 0;
  simulator_free(x);
  simulator_free(y);
  return good;
}

static int failures;

static void expect(bool true_one, const char *name, const char *what) {
  if (true_one)
    return;
  failures++;
  printf("FAILED: %s: %s (%s)\n", name, what, simulator_error());
}

/* Where nothing breaks a rule, the results show it: an output that no thread writes. */
static void check_unwritten(void) {
  static const Fault hole = {"an unwritten output", plain, "y[i] = x[i];", "if (i != 200) y[i] = x[i];", ""};
  bool written;
  expect(runs(&hole, hole.right, &written) && written, hole.name, "the right kernel has unwritten outputs");
  expect(runs(&hole, hole.wrong, &written) && !written, hole.name, "not found");
}

static void check_launches(void) {
  static const Fault none = {"launches", plain, "y[i] = x[i];", "", ""};
  SimulatorUnit *unit = compile(&none, none.right);
  const uint64_t parameters[3] = {0};
  SimulatorLaunch launch = {unit, "k", .blocks = {1}, .threads = 2048};
  expect(!simulator_run(&launch, parameters, 3) && strstr(simulator_error(), "2048 threads"), none.name,
         "2048 threads in a block");
  launch = (SimulatorLaunch){unit, "k", .blocks = {1}, .threads = 32, .shared_bytes = 164 << 10};
  expect(!simulator_run(&launch, parameters, 3) && strstr(simulator_error(), "shared memory"), none.name,
         "164 KB of shared memory on an 8.0");
  launch = (SimulatorLaunch){unit, "k", .blocks = {1}, .threads = 32};
  expect(!simulator_run(&launch, parameters, 2) && strstr(simulator_error(), "3 parameters"), none.name,
         "a missing parameter");
  launch.entry = "l";
  expect(!simulator_run(&launch, parameters, 3) && strstr(simulator_error(), "no kernel l"), none.name,
         "a kernel that is not there");
}

/* Two warpgroups that take turns (codegen/cuda/wgmma.cu), and what goes wrong where one does not. */
static void check_turns(void) {
  static const struct {
    const char *takes, *passes, *message; /* NULL: it is right */
  } forms[] = {{"t / 128 == 1", "t / 128 == 0", NULL},
               {"t / 128 == 1", "t < 0", "waits at barrier 1"},
               {"t / 128 == 1", "t < 64", "waits at barrier 1"},
               {"t < 0", "t / 128 == 0", "128 threads have arrived at barrier 1"}};
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    char text[500];
    snprintf(text, sizeof text,
             HEAD "  const int t = threadIdx.x;\n  if (%s) moec_turn_take<0, 2>(1);\n  y[t] = x[t];\n"
                  "  if (%s) moec_turn_pass<0, 2, 2>(0);\n}\n",
             forms[i].takes, forms[i].passes);
    const Fault fault = {"turns", text, "", "", ""};
    char *whole = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&whole, &size);
    fprintf(out, "%s\n%s", kernel_prelude_cuda(), text);
    fclose(out);
    SimulatorUnit *unit = simulator_compile(whole);
    free(whole);
    float *x = simulator_alloc(256 * sizeof *x), *y = simulator_alloc(256 * sizeof *y);
    memset(x, 0, 256 * sizeof *x);
    simulator_mark_written(x, 256 * sizeof *x);
    const uint64_t parameters[] = {(uintptr_t)x, (uintptr_t)y, 256};
    SimulatorLaunch launch = {unit, "k", .blocks = {1}, .threads = 256};
    bool clean = unit && simulator_run(&launch, parameters, 3);
    expect(clean == !forms[i].message, fault.name, forms[i].passes);
    expect(clean || strstr(simulator_error(), forms[i].message), fault.name, "found, but with another message");
    simulator_free(x);
    simulator_free(y);
  }
}

int main(void) {
  const int count = (int)(sizeof faults / sizeof faults[0]);
  for (int i = 0; i < count; i++) {
    const Fault *f = &faults[i];
    bool written;
    expect(runs(f, f->right, &written) && written, f->name, "the right kernel is refused");
    bool clean = runs(f, f->wrong, &written);
    expect(!clean, f->name, "not found");
    expect(clean || (strstr(simulator_error(), f->message) && strstr(simulator_error(), "kernel k, block (")), f->name,
           "found, but with another message");
  }
  check_unwritten();
  check_launches();
  check_turns();
  printf("%d faults, %d failures\n", count + 1, failures);
  return failures > 0;
}
