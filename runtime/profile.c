/* The profile: a sum per step of the plan, put together by what a step is when it is printed. */
#include "runtime/profile.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"

enum { LABEL = 160 };

typedef struct Cost {
  char label[LABEL]; /* empty until it is printed */
  double seconds, flops;
  int64_t calls;
} Cost;

typedef struct FuncCost {
  const PlanFunc *func;
  Cost *steps; /* NULL: never ran */
  double seconds;
} FuncCost;

struct Profile {
  const Plan *plan;
  FuncCost *funcs; /* as in the plan */
};

Profile *profile_new(const Plan *plan) {
  Profile *profile = runtime_allocate(1, sizeof *profile);
  profile->plan = plan;
  profile->funcs = runtime_allocate((size_t)plan->func_count, sizeof *profile->funcs);
  for (int i = 0; i < plan->func_count; i++)
    profile->funcs[i].func = &plan->funcs[i];
  return profile;
}

void profile_free(Profile *profile) {
  if (!profile)
    return;
  for (int i = 0; i < profile->plan->func_count; i++)
    free(profile->funcs[i].steps);
  free(profile->funcs);
  free(profile);
}

void profile_add(Profile *profile, const PlanFunc *func, int step, double seconds, double flops) {
  FuncCost *of = &profile->funcs[func - profile->plan->funcs];
  if (!of->steps)
    of->steps = runtime_allocate((size_t)func->step_count, sizeof *of->steps);
  of->steps[step].seconds += seconds;
  of->steps[step].flops += flops;
  of->steps[step].calls++;
  of->seconds += seconds;
}

/* ---------------------------------------------------------------- printing */

static const char *count_text(PlanCount count, char *buffer, size_t size) {
  if (count.dynamic)
    return "rows";
  snprintf(buffer, size, "%" PRId64, count.number);
  return buffer;
}

static void label_step(const Plan *plan, const PlanStep *step, char *label) {
  char m[24], n[24], k[24];
  const char *name = plan_step_name(step->kind);
  switch (step->kind) {
  case STEP_LAUNCH:
    if (step->launch.blocks[0]) {
      snprintf(label, LABEL, "%s blocks=%" PRId64 "%s%s", plan->kernels[step->launch.kernel],
               step->launch.blocks[0] * step->launch.blocks[1] * step->launch.blocks[2], step->option ? " option=" : "",
               step->option ? step->option : "");
      return;
    }
    snprintf(label, LABEL, "%s rows=%s", plan->kernels[step->launch.kernel],
             count_text(step->launch.rows, m, sizeof m));
    return;
  case STEP_GEMM:
    snprintf(label, LABEL, "%s m=%s n=%s k=%s ta=%d tb=%d %s", name, count_text(step->gemm.m, m, sizeof m),
             count_text(step->gemm.n, n, sizeof n), count_text(step->gemm.k, k, sizeof k), (int)step->gemm.ta,
             (int)step->gemm.tb, plan_type_name(step->gemm.type));
    return;
  case STEP_GROUPED_GEMM:
    snprintf(label, LABEL, "%s groups=%" PRId64 " n=%" PRId64 " k=%" PRId64 " tb=%d %s", name, step->grouped.groups,
             step->grouped.n, step->grouped.k, (int)step->grouped.tb, plan_type_name(step->grouped.type));
    return;
  case STEP_GROUPED_OUTER:
    snprintf(label, LABEL, "%s groups=%" PRId64 " m=%" PRId64 " n=%" PRId64 " %s", name, step->grouped.groups,
             step->grouped.m, step->grouped.n, plan_type_name(step->grouped.type));
    return;
  case STEP_ATTENTION:
  case STEP_ATTENTION_GRAD:
    snprintf(label, LABEL, "%s n=%" PRId64 " heads=%" PRId64 " head=%" PRId64 " %s", name, step->attention.n,
             step->attention.heads, step->attention.head, plan_type_name(step->attention.type));
    return;
  case STEP_SCATTER_ROWS:
    snprintf(label, LABEL, "%s n=%" PRId64 " d=%" PRId64 " rows=%" PRId64, name, step->scatter.n, step->scatter.d,
             step->scatter.rows);
    return;
  case STEP_SEGMENT_SUM:
    snprintf(label, LABEL, "%s groups=%" PRId64 " n=%" PRId64, name, step->segment_sum.groups, step->segment_sum.n);
    return;
  case STEP_COPY:
  case STEP_FILL:
    snprintf(label, LABEL, "%s rows=%s columns=%" PRId64, name, count_text(step->copy.rows, m, sizeof m),
             step->copy.columns);
    return;
  case STEP_MEMSET:
    snprintf(label, LABEL, "%s bytes=%" PRId64, name, step->memset.bytes);
    return;
  case STEP_ROUTE:
  case STEP_RANK_ROWS:
  case STEP_BALANCED_ASSIGNMENT:
  case STEP_KIND_COUNT:
    break;
  }
  snprintf(label, LABEL, "%s", name);
}

static int compare_costs(const void *a, const void *b) {
  double x = ((const Cost *)a)->seconds, y = ((const Cost *)b)->seconds;
  return (x < y) - (x > y);
}

static int compare_funcs(const void *a, const void *b) {
  double x = ((const FuncCost *)a)->seconds, y = ((const FuncCost *)b)->seconds;
  return (x < y) - (x > y);
}

/* Adds a step to the line of its label, which it opens when there is none. */
static int add_line(Cost *lines, int count, const Cost *step, const char *label) {
  int at = 0;
  while (at < count && strcmp(lines[at].label, label) != 0)
    at++;
  memcpy(lines[at].label, label, LABEL);
  lines[at].seconds += step->seconds;
  lines[at].flops += step->flops;
  lines[at].calls += step->calls;
  return at < count ? count : count + 1;
}

static void print_func(const Plan *plan, const FuncCost *of, FILE *out) {
  Cost *lines = runtime_allocate((size_t)of->func->step_count, sizeof *lines);
  int count = 0;
  int64_t runs = 0;
  for (int i = 0; i < of->func->step_count; i++) {
    char label[LABEL];
    if (!of->steps[i].calls) /* of an option that was not taken */
      continue;
    runs = of->steps[i].calls > runs ? of->steps[i].calls : runs;
    label_step(plan, &of->func->steps[i], label);
    count = add_line(lines, count, &of->steps[i], label);
  }
  qsort(lines, (size_t)count, sizeof *lines, compare_costs);
  fprintf(out, "%s: %" PRId64 " runs of %.3f ms\n", of->func->name, runs, 1e3 * of->seconds / (double)runs);
  fprintf(out, "%10s %6s %6s %9s  %s\n", "ms a run", "share", "calls", "GFLOP/s", "step");
  for (int i = 0; i < count; i++) {
    fprintf(out, "%10.3f %5.1f%% %6" PRId64 " ", 1e3 * lines[i].seconds / (double)runs,
            100 * lines[i].seconds / of->seconds, lines[i].calls / runs);
    if (lines[i].flops > 0)
      fprintf(out, "%9.1f  %s\n", 1e-9 * lines[i].flops / lines[i].seconds, lines[i].label);
    else
      fprintf(out, "%9s  %s\n", "", lines[i].label);
  }
  free(lines);
}

void profile_print(const Profile *profile, FILE *out) {
  size_t count = (size_t)profile->plan->func_count;
  FuncCost *funcs = runtime_allocate(count, sizeof *funcs);
  memcpy(funcs, profile->funcs, count * sizeof *funcs);
  qsort(funcs, count, sizeof *funcs, compare_funcs);
  for (size_t i = 0; i < count && funcs[i].steps; i++)
    print_func(profile->plan, &funcs[i], out);
  free(funcs);
}
