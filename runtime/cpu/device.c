/* The device CPU: steps of the plan are the builtins of this directory and the emitted kernels (sections
 * kernels.v3.so, kernels.v4.so and, with --cpu=native, kernels.native.so), run in order in the host's own memory.
 *
 * In: a function of the plan, its arguments filled. Out: its results in memory. */
#include "runtime/device.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/features.h"
#include "runtime/cpu/onednn.h"
#include "runtime/error.h"
#include "runtime/kernels.h"
#include "runtime/memory.h"

typedef struct CpuState {
  moec_kernel *kernels; /* by index in plan->kernels */
  CpuLevel level;
  bool products; /* the plan has products, so oneDNN is open */
} CpuState;

static const CpuState *cpu_state(const Executor *executor) {
  return executor->state;
}

/* ---------------------------------------------------------------- life */

static bool has_products(const Plan *plan) {
  for (int f = 0; f < plan->func_count; f++)
    for (int s = 0; s < plan->funcs[f].step_count; s++) {
      PlanStepKind kind = plan->funcs[f].steps[s].kind;
      if (kind == STEP_GEMM || kind == STEP_GROUPED_GEMM || kind == STEP_GROUPED_OUTER)
        return true;
    }
  return false;
}

/* The section of the kernels for this machine. */
static const char *kernel_section(CpuLevel level, const Payload *payload) {
  if (!cpu_is_native())
    return level >= CPU_V4 ? "kernels.v4.so" : "kernels.v3.so";
  const PayloadSection *features = payload ? payload_find(payload, "native.cpu") : NULL;
  if (!features)
    runtime_fail(FAIL_USAGE, "--cpu=native: this trainer carries no such kernels; 'moec build --cpu=native' adds them");
  const char *missing = cpu_lacks((const char *)features->data, features->size);
  if (missing)
    runtime_fail(FAIL_ENVIRONMENT,
                 "--cpu=native: the trainer was built for a CPU with %s, which this one lacks; without the option it "
                 "runs here",
                 missing);
  return "kernels.native.so";
}

static void cpu_open(Executor *executor, const Payload *payload) {
  CpuState *state = runtime_allocate(1, sizeof *state);
  executor->state = state;
  state->level = cpu_level();
  if (state->level == CPU_BELOW_V3)
    runtime_fail(FAIL_ENVIRONMENT, "this CPU lacks AVX2 or FMA: the trainer needs x86-64-v3 or better");
  state->kernels = kernels_load(executor->plan, payload, kernel_section(state->level, payload));
  state->products = has_products(executor->plan);
  if (state->products)
    onednn_open();
  executor->base[SPACE_ACT] = memory_map("activations", executor->plan->act);
  executor->base[SPACE_SEED] = (char *)&executor->seed;
}

static void cpu_close(Executor *executor) {
  CpuState *state = executor->state;
  memory_unmap(executor->base[SPACE_ACT], executor->plan->act);
  free(state->kernels);
  free(state);
}

static const char *level(const Executor *executor) {
  switch (cpu_state(executor)->level) {
  case CPU_V4_BF16:
    return cpu_is_native() ? "native with AVX512_BF16" : "x86-64-v4 with AVX512_BF16";
  case CPU_V4:
    return cpu_is_native() ? "native above x86-64-v4" : "x86-64-v4";
  default:
    return cpu_is_native() ? "native above x86-64-v3" : "x86-64-v3";
  }
}

static const char *library(const Executor *executor) {
  return cpu_state(executor)->products ? onednn_name() : "none";
}

static int threads(const Executor *executor) {
  (void)executor; /* one process has one team */
  return omp_get_max_threads();
}

/* ---------------------------------------------------------------- memory */

static char *allocate(Executor *executor, const char *what, int64_t bytes) {
  (void)executor;
  return memory_map(what, bytes);
}

static void release(Executor *executor, char *memory, int64_t bytes) {
  (void)executor;
  memory_unmap(memory, bytes);
}

static int64_t available(Executor *executor) {
  (void)executor;
  return memory_available();
}

static void refuse(const Executor *executor, const char *need) {
  (void)executor;
  runtime_fail(FAIL_ENVIRONMENT, "not enough memory: %s, %.3f GB are held already, %.3f GB are available", need,
               (double)memory_held() / 1e9, (double)memory_available() / 1e9);
}

static void cpu_read(const Executor *executor, void *to, const char *from, int64_t bytes) {
  (void)executor;
  memcpy(to, from, (size_t)bytes);
}

static void cpu_write(Executor *executor, char *to, const void *from, int64_t bytes) {
  (void)executor;
  if (to != from)
    memcpy(to, from, (size_t)bytes);
}

static void add(Executor *executor, char *to, const char *a, const char *b, int64_t elements) {
  (void)executor;
  float *sum = (float *)to;
  const float *first = (const float *)a, *second = (const float *)b;
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < elements; i++)
    sum[i] = second ? first[i] + second[i] : first[i];
}

static void *argument_memory(Executor *executor, const PlanFunc *func, const PlanArgument *argument) {
  (void)func;
  return device_address(executor, argument->at);
}

static const void *result_memory(const Executor *executor, const PlanFunc *func, const PlanResult *result) {
  (void)func;
  return device_address(executor, result->at);
}

static int64_t count(const Executor *executor, PlanCount count) {
  return count.dynamic ? *(const int32_t *)device_address(executor, count.place) : count.number;
}

/* ---------------------------------------------------------------- steps */

static CpuMatrix matrix(const Executor *executor, PlanPlace place, int64_t ld) {
  return (CpuMatrix){device_address(executor, place), ld};
}

static void run_launch(const Executor *executor, const StepLaunch *s) {
  void *pointers[s->operand_count + 1];
  for (int i = 0; i < s->operand_count; i++)
    pointers[i] = s->operands[i].space == SPACE_TAG ? (void *)(uintptr_t)s->operands[i].offset
                                                    : device_address(executor, s->operands[i]);
  moec_launch launch = {.pointer = pointers, .rows = count(executor, s->rows)};
  cpu_state(executor)->kernels[s->kernel](&launch);
}

/* Each returns the floating point operations it did, for the profile; 0 where they are not the point. */
static double run_gemm(const Executor *executor, const StepGemm *s) {
  CpuGemm gemm = {.m = count(executor, s->m),
                  .n = count(executor, s->n),
                  .k = count(executor, s->k),
                  .ta = s->ta,
                  .tb = s->tb,
                  .beta = s->beta,
                  .ragged = s->m.dynamic || s->k.dynamic,
                  .a = matrix(executor, s->a, s->lda),
                  .b = matrix(executor, s->b, s->ldb),
                  .c = matrix(executor, s->c, s->ldc),
                  .type = s->type,
                  .ctype = s->ctype};
  cpu_gemm(&gemm);
  return 2.0 * (double)gemm.m * (double)gemm.n * (double)gemm.k;
}

static double run_grouped(const Executor *executor, const StepGrouped *s, bool outer) {
  CpuGrouped grouped = {.groups = s->groups,
                        .m = s->m,
                        .n = s->n,
                        .k = s->k,
                        .tb = s->tb,
                        .off = device_address(executor, s->off),
                        .a = matrix(executor, s->a, s->lda),
                        .b = matrix(executor, s->b, s->ldb),
                        .c = matrix(executor, s->c, s->ldc),
                        .type = s->type,
                        .ctype = s->ctype};
  double rows = grouped.off[s->groups];
  if (outer)
    cpu_grouped_outer(&grouped);
  else
    cpu_grouped_gemm(&grouped);
  return 2.0 * rows * (double)s->n * (double)(outer ? s->m : s->k);
}

static void run_attention(const Executor *executor, const StepAttention *s, bool gradient) {
  CpuAttention attention = {.n = s->n,
                            .segments = s->segments,
                            .heads = s->heads,
                            .head = s->head,
                            .causal = s->causal,
                            .off = device_address(executor, s->off),
                            .type = s->type,
                            .q = matrix(executor, s->q, s->ldq),
                            .k = matrix(executor, s->k, s->ldk),
                            .v = matrix(executor, s->v, s->ldv),
                            .o = matrix(executor, s->o, s->ldo),
                            .lse = device_address(executor, s->lse)};
  if (!gradient) {
    cpu_attention(&attention);
    return;
  }
  attention.dout = matrix(executor, s->dout, s->lddo);
  attention.dq = matrix(executor, s->dq, s->lddq);
  attention.dk = matrix(executor, s->dk, s->lddk);
  attention.dv = matrix(executor, s->dv, s->lddv);
  cpu_attention_gradient(&attention);
}

static void run_route(const Executor *executor, const PlanStep *step) {
  const StepRoute *s = &step->route;
  CpuRoute route = {.n = s->n,
                    .experts = s->experts,
                    .k = s->k,
                    .bound = s->bound,
                    .mask = device_address(executor, s->mask),
                    .ldm = s->ldm,
                    .pair = device_address(executor, s->pair),
                    .off = device_address(executor, s->off),
                    .slot = device_address(executor, s->slot),
                    .scratch = device_address(executor, s->scratch)};
  CpuRouteStatus status = cpu_route(&route);
  MistakeBounds bounds = {.n = s->n, .k = s->k, .bound = s->bound};
  if (status.error == ROUTE_TOO_MANY_OF_TOKEN)
    device_fail_mistake(step, MISTAKE_EXPERTS, status.token, status.count, bounds);
  if (status.error == ROUTE_TOO_MANY)
    device_fail_mistake(step, MISTAKE_PAIRS, 0, status.count, bounds);
}

static void run_groups(const Executor *executor, const PlanStep *step) {
  const StepGroups *s = &step->groups;
  CpuGroups groups = {.n = s->n,
                      .columns = s->columns,
                      .groups = s->groups,
                      .x = matrix(executor, s->x, s->ldx),
                      .scratch = device_address(executor, s->scratch)};
  if (step->kind == STEP_RANK_ROWS)
    cpu_rank_rows(&groups, device_address(executor, s->c));
  else
    cpu_balanced_assignment(&groups, device_address(executor, s->c));
}

static void run_scatter(const Executor *executor, const PlanStep *step) {
  const StepScatter *s = &step->scatter;
  CpuScatter scatter = {.n = s->n,
                        .d = s->d,
                        .rows = s->rows,
                        .ids = device_address(executor, s->ids),
                        .x = matrix(executor, s->x, s->ldx),
                        .c = matrix(executor, s->c, s->d),
                        .type = s->type,
                        .ctype = s->ctype,
                        .scratch = device_address(executor, s->scratch)};
  int64_t wrong = cpu_scatter_rows(&scatter);
  if (wrong >= 0)
    device_fail_mistake(step, MISTAKE_ID, wrong, scatter.ids[wrong], (MistakeBounds){.rows = s->rows});
}

static void run_segment_sum(const Executor *executor, const StepSegmentSum *s) {
  CpuSegmentSum sum = {.groups = s->groups,
                       .n = s->n,
                       .off = device_address(executor, s->off),
                       .x = matrix(executor, s->x, s->ldx),
                       .c = matrix(executor, s->c, s->ldc),
                       .type = s->type,
                       .ctype = s->ctype};
  cpu_segment_sum(&sum);
}

static double run_step(const Executor *executor, const PlanStep *step) {
  switch (step->kind) {
  case STEP_LAUNCH:
    run_launch(executor, &step->launch);
    return 0;
  case STEP_GEMM:
    return run_gemm(executor, &step->gemm);
  case STEP_GROUPED_GEMM:
  case STEP_GROUPED_OUTER:
    return run_grouped(executor, &step->grouped, step->kind == STEP_GROUPED_OUTER);
  case STEP_ATTENTION:
  case STEP_ATTENTION_GRAD:
    run_attention(executor, &step->attention, step->kind == STEP_ATTENTION_GRAD);
    return 0;
  case STEP_ROUTE:
    run_route(executor, step);
    return 0;
  case STEP_RANK_ROWS:
  case STEP_BALANCED_ASSIGNMENT:
    run_groups(executor, step);
    return 0;
  case STEP_SCATTER_ROWS:
    run_scatter(executor, step);
    return 0;
  case STEP_SEGMENT_SUM:
    run_segment_sum(executor, &step->segment_sum);
    return 0;
  case STEP_COPY:
    cpu_copy(count(executor, step->copy.rows), step->copy.columns, step->copy.type,
             matrix(executor, step->copy.from, step->copy.ldf), matrix(executor, step->copy.to, step->copy.ldt));
    return 0;
  case STEP_FILL:
    cpu_fill(count(executor, step->copy.rows), step->copy.columns, step->copy.type,
             matrix(executor, step->copy.to, step->copy.ldt), step->copy.value);
    return 0;
  case STEP_MEMSET: /* of plans for CUDA */
  case STEP_KIND_COUNT:
    break;
  }
  runtime_fail(FAIL_BUG, "a step of kind %d", (int)step->kind);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void run_profiled(Executor *executor, const PlanFunc *func, int step) {
  double start = now(), flops = run_step(executor, &func->steps[step]);
  profile_add(executor->profile, func, step, now() - start, flops);
}

static void cpu_run(Executor *executor, const PlanFunc *func) {
  for (int i = 0; i < func->step_count; i++)
    if (executor->profile)
      run_profiled(executor, func, i);
    else
      run_step(executor, &func->steps[i]);
}

const Device device_cpu = {.name = "cpu",
                           .open = cpu_open,
                           .close = cpu_close,
                           .level = level,
                           .library = library,
                           .threads = threads,
                           .allocate = allocate,
                           .release = release,
                           .available = available,
                           .refuse = refuse,
                           .read = cpu_read,
                           .write = cpu_write,
                           .add = add,
                           .argument = argument_memory,
                           .start = cpu_run,
                           .result = result_memory,
                           .host_memory = true};
