/* The kernels of grouped products, as the lowering makes them for a large model and for small ones, compiled by NVRTC
 * for sm_80 and sm_90a: no word from the compiler, no stack, no spilled register. No GPU is needed. */
#include <stdio.h>
#include <string.h>

#include "codegen/plan.h"
#include "tests/cuda/epilogues.h"
#include "tests/kernels/nvrtc.h"

static int failures, units;

/* The six products of an expert FFN: the two of the forward part, their adjoints, the gradients of the weights. */
static const char text[] = "module grouped\n"
                           "sym R=%1$d E=16 D=%2$d F=%3$d\n"
                           "func @f (%%x: %4$s[R<%%off>,D], %%h: %4$s[R<%%off>,F], %%off: i32[E+1],\n"
                           "         %%w1: %4$s[E,D,F], %%w2: %4$s[E,F,D]) {\n"
                           "  %%a: %4$s[R<%%off>,F] = grouped_matmul %%x, %%w1, %%off\n"
                           "  %%b: %4$s[R<%%off>,D] = grouped_matmul %%h, %%w2, %%off\n"
                           "  %%c: %4$s[R<%%off>,F] = grouped_matmul %%x, %%w2, %%off {tb=1}\n"
                           "  %%d: %4$s[R<%%off>,D] = grouped_matmul %%h, %%w1, %%off {tb=1}\n"
                           "  %%e: %4$s[E,D,F] = grouped_outer %%x, %%h, %%off\n"
                           "  %%g: f32[E,F,D] = grouped_outer %%h, %%x, %%off {dtype=f32}\n"
                           "  return a=%%a, b=%%b, c=%%c, d=%%d, e=%%e, g=%%g\n}\n";

static void check_unit(Arena *arena, const KernelSet *set, uint32_t index, const char *arch) {
  NvrtcUse uses[NVRTC_ENTRIES];
  int count = 0;
  bool good = nvrtc_accepts(nvrtc_source(arena, set, index, index + 1), arch, uses, &count) && count == 1;
  if (good) {
    const NvrtcUse *u = &uses[0];
    good = u->stack == 0 && u->spill_out == 0 && u->spill_in == 0;
    printf("%s%s %s: %d registers, %d bytes of stack, %d and %d spilled\n", good ? "" : "FAILED: ", u->entry, arch,
           u->registers, u->stack, u->spill_out, u->spill_in);
  }
  units++;
  failures += !good;
}

/* The kernels of the plan whose names hold `which`. */
static int check_plan(Arena *arena, const char *module, bool wgmma, const char *which) {
  const Plan *plan = plan_lower_cuda(module_parse(arena, "grouped", module), false,
                                     (CudaOptions){.grouped = wgmma ? CUDA_KINDS_WGMMA : CUDA_KINDS_MMA});
  int found = 0;
  for (uint32_t i = 0; i < vec_len(plan->kernels.kernels); i++) {
    const char *arch = kernel_arch(plan->kernels.kernels[i]);
    if (!strstr(kernel_name(plan->kernels.kernels[i]), which))
      continue;
    found++;
    if (wgmma && (!arch || strcmp(arch, "sm_90a") != 0)) {
      printf("FAILED: %s is not for sm_90a\n", kernel_name(plan->kernels.kernels[i]));
      failures++;
    }
    if (!arch)
      check_unit(arena, &plan->kernels, i, "sm_80");
    check_unit(arena, &plan->kernels, i, "sm_90a");
  }
  return found;
}

static void check_shape(int rows, int d, int f, const char *dtype, bool wgmma) {
  Arena *arena = arena_new();
  check_plan(arena, arena_print(arena, text, rows, d, f, dtype), wgmma, "moec_grouped");
  arena_free(arena);
}

static void check_epilogues(int rows, int d, int f, bool wgmma) {
  Arena *arena = arena_new();
  int found = check_plan(arena, arena_print(arena, epilogues_text, rows, d, f, 16), wgmma, "epilogue");
  if (found != 3) {
    printf("FAILED: %d kernels with epilogues, expected 3\n", found);
    failures++;
  }
  arena_free(arena);
}

int main(void) {
  if (!nvrtc_open()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return NVRTC_SKIPPED;
  }
  check_shape(65536, 1024, 4096, "bf16", false);
  check_shape(65536, 1024, 4096, "bf16", true);
  check_shape(65536, 128, 128, "bf16", false); /* the middle tile */
  check_shape(4096, 192, 64, "bf16", false);   /* the small one */
  check_shape(4096, 65, 129, "bf16", false);   /* rows that 16-byte pieces do not fit */
  check_shape(4096, 64, 256, "f32", false);
  check_epilogues(65536, 1024, 4096, false);
  check_epilogues(65536, 1024, 4096, true);
  check_epilogues(65536, 128, 128, false);
  check_epilogues(4096, 192, 64, false);
  printf("%d units, %d failed\n", units, failures);
  return failures != 0 || units == 0;
}
