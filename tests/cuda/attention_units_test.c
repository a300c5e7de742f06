/* The attention kernels of every tiling, compiled by NVRTC for sm_80 and sm_90a: no word from the compiler, no
 * stack, no spilled register, so many registers that as many blocks as intended stand on a multiprocessor. No GPU is
 * needed. */
#include <stdio.h>
#include <string.h>

#include "codegen/plan.h"
#include "tests/kernels/nvrtc.h"

static int failures, units;

/* Both ops at the shapes of a large model: the numbers of rows decide nothing that is compiled but offsets. */
static const char text[] = "module attention task=lm stage=gradient\n"
                           "run steps=0 batch=0 accumulate=0 sequence=0 vocabulary=0\n"
                           "sym N=65536 D=%1$d S=64 H=2\n"
                           "func @f (%%x: %2$s[N,3*D], %%off: i32[S+1], %%do: %2$s[N,D]) {\n"
                           "  %%q: %2$s[N,D], %%k: %2$s[N,D], %%v: %2$s[N,D] = split %%x {parts=3}\n"
                           "  %%o: %2$s[N,D], %%lse: f32[N,H] = attention %%q, %%k, %%v, %%off {heads=2, causal=1}\n"
                           "  %%dq: %2$s[N,D], %%dk: %2$s[N,D], %%dv: %2$s[N,D] = attention_grad %%q, %%k, %%v, "
                           "%%off, %%o, %%lse, %%do {heads=2, causal=1}\n"
                           "  %%dx: %2$s[N,3*D] = concat %%dq, %%dk, %%dv\n"
                           "  return o=%%o, dx=%%dx\n}\n";

static void check_unit(Arena *arena, const KernelSet *set, uint32_t index, const char *arch, int most_registers) {
  NvrtcUse uses[NVRTC_ENTRIES];
  int count = 0;
  bool good = nvrtc_accepts(nvrtc_source(arena, set, index, index + 1), arch, uses, &count) && count > 0;
  for (int i = 0; i < count; i++) {
    const NvrtcUse *u = &uses[i];
    bool fits = u->stack == 0 && u->spill_out == 0 && u->spill_in == 0 && u->registers <= most_registers;
    printf("%s%s %s: %d registers, %d bytes of stack, %d and %d spilled\n", fits ? "" : "FAILED: ", u->entry, arch,
           u->registers, u->stack, u->spill_out, u->spill_in);
    good = good && fits;
  }
  units++;
  failures += !good;
}

/* most_registers: of a thread, so that 65536 are enough for the blocks that shall be there at one time. */
static void check_head(int head, const char *dtype, bool wgmma, int most_registers) {
  Arena *arena = arena_new();
  Module *m = module_parse(arena, "attention", arena_print(arena, text, 2 * head, dtype));
  const Plan *plan = plan_lower_cuda(m, false, (CudaOptions){.attention = wgmma ? CUDA_KINDS_WGMMA : CUDA_KINDS_MMA});
  for (uint32_t i = 0; i < vec_len(plan->kernels.kernels); i++) {
    const char *arch = kernel_arch(plan->kernels.kernels[i]);
    if (!strstr(kernel_name(plan->kernels.kernels[i]), "attention"))
      continue;
    if (!arch)
      check_unit(arena, &plan->kernels, i, "sm_80", most_registers);
    check_unit(arena, &plan->kernels, i, arch ? arch : "sm_90a", most_registers);
  }
  arena_free(arena);
}

/* A product whose result is read without a wait for it: what the assembler then puts in must not pass unseen. */
static void check_remark(void) {
  static const char wait[] = "moec_wgmma_wait<0>(score[0]);";
  Arena *arena = arena_new();
  Module *m = module_parse(arena, "attention", arena_print(arena, text, 128, "bf16"));
  const KernelSet *set = &plan_lower_cuda(m, false, (CudaOptions){.attention = CUDA_KINDS_WGMMA})->kernels;
  bool refused = false;
  for (uint32_t i = 0; i < vec_len(set->kernels); i++) {
    const char *source = nvrtc_source(arena, set, i, i + 1);
    char *copy = arena_copy(arena, source, strlen(source)), *at = strstr(copy, wait);
    if (!at)
      continue;
    memset(at, ' ', strlen(wait));
    printf("must fail, for want of a wait:\n");
    refused = !nvrtc_accepts(copy, "sm_90a", NULL, NULL);
  }
  units++;
  failures += !refused;
  arena_free(arena);
}

int main(void) {
  if (!nvrtc_open()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return NVRTC_SKIPPED;
  }
  for (int head = 32; head <= 128; head += 32) /* the widest of each tiling */
    check_head(head, "bf16", false, 255);      /* 128 threads: two blocks */
  check_head(64, "bf16", true, 168);           /* 384 threads */
  check_head(128, "bf16", true, 255);          /* 256 threads: one block */
  check_head(64, "f32", false, 128);
  check_head(256, "bf16", false, 255);
  check_remark();
  printf("%d units, %d failed\n", units, failures);
  return failures != 0 || units == 0;
}
