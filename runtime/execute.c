/* The executor: binds the spaces of a plan to memory and runs its steps in order.
 *
 * In: a function of the plan, its arguments filled. Out: its results in memory. Invariant: `base[space]` is the memory
 * of every space that is bound; a function whose spaces are not all bound does not run. */
#include "runtime/execute.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/onednn.h"
#include "runtime/error.h"
#include "runtime/kernels.h"
#include "runtime/memory.h"
#include "runtime/profile.h"

struct Executor {
  const Plan *plan;
  moec_kernel *kernels; /* by index in plan->kernels */
  char *base[SPACE_COUNT];
  const PlanTable *table;
  uint64_t seed;
  CpuLevel level;
  bool products;    /* the plan has products, so oneDNN is open */
  Profile *profile; /* NULL: not profiling */
};

/* ---------------------------------------------------------------- memory */

Arenas *arenas_new(const PlanTable *table) {
  Arenas *arenas = runtime_allocate(1, sizeof *arenas);
  int64_t bytes = table->size * (int64_t)sizeof(float), available = memory_available();
  if (4 * bytes > available)
    runtime_fail(FAIL_ENVIRONMENT,
                 "not enough memory: table %s needs 4 arenas of %.3f GB (parameters, gradients, two moments), %.3f GB "
                 "are held already, %.3f GB are available",
                 table->name, (double)bytes / 1e9, (double)memory_held() / 1e9, (double)available / 1e9);
  *arenas = (Arenas){.table = table,
                     .param = memory_map("parameters", bytes),
                     .grad = memory_map("gradients", bytes),
                     .m = memory_map("first moments", bytes),
                     .v = memory_map("second moments", bytes)};
  return arenas;
}

void arenas_free(Arenas *arenas) {
  if (!arenas)
    return;
  int64_t bytes = arenas->table->size * (int64_t)sizeof(float);
  memory_unmap(arenas->param, bytes);
  memory_unmap(arenas->grad, bytes);
  memory_unmap(arenas->m, bytes);
  memory_unmap(arenas->v, bytes);
  free(arenas);
}

void executor_set_seed(Executor *executor, uint64_t seed) {
  executor->seed = seed;
}

void executor_set_table(Executor *executor, const Arenas *arenas) {
  executor->table = arenas ? arenas->table : NULL;
  executor->base[SPACE_PARAM] = arenas ? (char *)arenas->param : NULL;
  executor->base[SPACE_GRAD] = arenas ? (char *)arenas->grad : NULL;
  executor->base[SPACE_M] = arenas ? (char *)arenas->m : NULL;
  executor->base[SPACE_V] = arenas ? (char *)arenas->v : NULL;
}

void executor_set_source(Executor *executor, const Arenas *arenas) {
  executor->base[SPACE_SOURCE_PARAM] = arenas ? (char *)arenas->param : NULL;
  executor->base[SPACE_SOURCE_M] = arenas ? (char *)arenas->m : NULL;
  executor->base[SPACE_SOURCE_V] = arenas ? (char *)arenas->v : NULL;
}

void *executor_memory(const Executor *executor, PlanPlace place) {
  char *base = executor->base[place.space];
  return base ? base + place.offset : NULL;
}

int64_t executor_count(const Executor *executor, PlanCount count) {
  if (!count.dynamic)
    return count.number;
  const int32_t *cell = executor_memory(executor, count.place);
  return cell ? *cell : 0;
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

Executor *executor_new(const Plan *plan, const Payload *payload) {
  Executor *executor = runtime_allocate(1, sizeof *executor);
  executor->plan = plan;
  executor->level = cpu_level();
  if (executor->level == CPU_BELOW_V3)
    runtime_fail(FAIL_ENVIRONMENT, "this CPU lacks AVX2 or FMA: the trainer needs x86-64-v3 or better");
  if (strcmp(plan->target, "cpu"))
    runtime_fail(FAIL_BUG, "the plan is for target %s, not for the CPU", plan->target);
  executor->kernels = kernels_load(plan, payload, executor->level == CPU_V4 ? "kernels.v4.so" : "kernels.v3.so");
  executor->products = has_products(plan);
  if (executor->products)
    onednn_open();
  executor->base[SPACE_ACT] = memory_map("activations", plan->act);
  executor->base[SPACE_SEED] = (char *)&executor->seed;
  return executor;
}

void executor_free(Executor *executor) {
  if (!executor)
    return;
  memory_unmap(executor->base[SPACE_ACT], executor->plan->act);
  free(executor->kernels);
  profile_free(executor->profile);
  free(executor);
}

const char *executor_cpu_level(const Executor *executor) {
  return executor->level == CPU_V4 ? "x86-64-v4" : "x86-64-v3";
}

const char *executor_library(const Executor *executor) {
  return executor->products ? onednn_name() : "none";
}

int executor_threads(const Executor *executor) {
  (void)executor; /* one process has one team */
  return omp_get_max_threads();
}

/* ---------------------------------------------------------------- arguments and results */

void *executor_argument(Executor *executor, const PlanFunc *func, const char *name) {
  const PlanArgument *argument = plan_argument(func, name);
  return argument ? executor_memory(executor, argument->at) : NULL;
}

const void *executor_result(const Executor *executor, const PlanFunc *func, const char *label) {
  const PlanResult *result = plan_result(func, label, NULL);
  return result ? executor_memory(executor, result->at) : NULL;
}

float executor_scalar(const Executor *executor, const PlanFunc *func, const char *label) {
  const PlanResult *result = plan_result(func, label, NULL);
  if (!result || result->type != PLAN_F32 || result->shape.elements != 1)
    runtime_fail(FAIL_BUG, "%s has no scalar result '%s'", func->name, label);
  return *(const float *)executor_memory(executor, result->at);
}

/* ---------------------------------------------------------------- steps */

static CpuMatrix matrix(const Executor *executor, PlanPlace place, int64_t ld) {
  return (CpuMatrix){executor_memory(executor, place), ld};
}

static void run_launch(const Executor *executor, const StepLaunch *s) {
  void *pointers[s->operand_count + 1];
  for (int i = 0; i < s->operand_count; i++)
    pointers[i] = s->operands[i].space == SPACE_TAG ? (void *)(uintptr_t)s->operands[i].offset
                                                    : executor_memory(executor, s->operands[i]);
  moec_launch launch = {.pointer = pointers, .rows = executor_count(executor, s->rows)};
  executor->kernels[s->kernel](&launch);
}

/* Each returns the floating point operations it did, for the profile; 0 where they are not the point. */
static double run_gemm(const Executor *executor, const StepGemm *s) {
  CpuGemm gemm = {.m = executor_count(executor, s->m),
                  .n = executor_count(executor, s->n),
                  .k = executor_count(executor, s->k),
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
                        .off = executor_memory(executor, s->off),
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
                            .off = executor_memory(executor, s->off),
                            .type = s->type,
                            .q = matrix(executor, s->q, s->ldq),
                            .k = matrix(executor, s->k, s->ldk),
                            .v = matrix(executor, s->v, s->ldv),
                            .o = matrix(executor, s->o, s->ldo),
                            .lse = executor_memory(executor, s->lse)};
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
                    .mask = executor_memory(executor, s->mask),
                    .ldm = s->ldm,
                    .pair = executor_memory(executor, s->pair),
                    .off = executor_memory(executor, s->off),
                    .slot = executor_memory(executor, s->slot),
                    .scratch = executor_memory(executor, s->scratch)};
  CpuRouteStatus status = cpu_route(&route);
  if (status.error == ROUTE_TOO_MANY_OF_TOKEN)
    runtime_fail(FAIL_USER,
                 "%s: the gate selects %lld experts for token %lld of the micro-batch, its bound is k = %lld",
                 plan_step_location(step), (long long)status.count, (long long)status.token, (long long)s->k);
  if (status.error == ROUTE_TOO_MANY)
    runtime_fail(FAIL_USER,
                 "%s: the gate selects %lld expert-token pairs in a micro-batch of %lld tokens, its bound is "
                 "rows = %lld",
                 plan_step_location(step), (long long)status.count, (long long)s->n, (long long)s->bound);
}

static void run_scatter(const Executor *executor, const PlanStep *step) {
  const StepScatter *s = &step->scatter;
  CpuScatter scatter = {.n = s->n,
                        .d = s->d,
                        .rows = s->rows,
                        .ids = executor_memory(executor, s->ids),
                        .x = matrix(executor, s->x, s->ldx),
                        .c = matrix(executor, s->c, s->d),
                        .type = s->type,
                        .ctype = s->ctype,
                        .scratch = executor_memory(executor, s->scratch)};
  int64_t wrong = cpu_scatter_rows(&scatter);
  if (wrong >= 0)
    runtime_fail(FAIL_USER, "%s: id %d at row %lld is outside a table of %lld rows", plan_step_location(step),
                 scatter.ids[wrong], (long long)wrong, (long long)s->rows);
}

static void run_segment_sum(const Executor *executor, const StepSegmentSum *s) {
  CpuSegmentSum sum = {.groups = s->groups,
                       .n = s->n,
                       .off = executor_memory(executor, s->off),
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
  case STEP_SCATTER_ROWS:
    run_scatter(executor, step);
    return 0;
  case STEP_SEGMENT_SUM:
    run_segment_sum(executor, &step->segment_sum);
    return 0;
  case STEP_COPY:
    cpu_copy(executor_count(executor, step->copy.rows), step->copy.columns, step->copy.type,
             matrix(executor, step->copy.from, step->copy.ldf), matrix(executor, step->copy.to, step->copy.ldt));
    return 0;
  case STEP_FILL:
    cpu_fill(executor_count(executor, step->copy.rows), step->copy.columns, step->copy.type,
             matrix(executor, step->copy.to, step->copy.ldt), step->copy.value);
    return 0;
  case STEP_KIND_COUNT:
    break;
  }
  runtime_fail(FAIL_BUG, "a step of kind %d", (int)step->kind);
}

/* ---------------------------------------------------------------- running */

static void check_bound(const Executor *executor, const PlanFunc *func) {
  const unsigned of_table = 1u << SPACE_PARAM | 1u << SPACE_GRAD | 1u << SPACE_M | 1u << SPACE_V;
  for (int space = 0; space < SPACE_COUNT; space++)
    if (func->spaces >> space & 1 && !executor->base[space])
      runtime_fail(FAIL_BUG, "%s runs without the arena of space %d", func->name, space);
  if (func->spaces & of_table && func->table != executor->table)
    runtime_fail(FAIL_BUG, "%s runs on table %s, but table %s is bound", func->name,
                 func->table ? func->table->name : "-", executor->table ? executor->table->name : "-");
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

void executor_run(Executor *executor, const PlanFunc *func) {
  check_bound(executor, func);
  for (int i = 0; i < func->step_count; i++)
    if (executor->profile)
      run_profiled(executor, func, i);
    else
      run_step(executor, &func->steps[i]);
}

void executor_set_profile(Executor *executor, bool on) {
  profile_free(executor->profile);
  executor->profile = on ? profile_new(executor->plan) : NULL;
}

void executor_print_profile(const Executor *executor, FILE *out) {
  if (executor->profile)
    profile_print(executor->profile, out);
}
