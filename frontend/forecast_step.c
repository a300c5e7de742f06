/* The forecast of a step's time. See forecast_step.h.
 *
 * In: a plan, rates. Out: sums over the steps of the plan's functions (codegen/plan_work.h), so that what is counted is
 * what is launched. Holds: times add up; nothing overlaps, and no launch costs anything by itself. */
#include "frontend/forecast_step.h"

#include <string.h>

static int64_t rows_of(const Func *f, Op op, int output) {
  int64_t most = 0;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    if (f->insts[i].op != op)
      continue;
    const int64_t rows = dim_value(f->module, f->values[f->insts[i].output[output]].type.dim[0]);
    most = rows > most ? rows : most;
  }
  return most;
}

static StepForecast make_step(const Plan *plan, const FuncPlan *train, const Phase *phase, const Rates *rates,
                              double rows) {
  const Module *m = plan->module;
  const double runs = m->accumulate > 1 ? (double)m->accumulate : 1;
  StepForecast step = {.train = train->func, .rows = rows, .tokens = (double)(m->batch * m->sequence_length)};
  const FuncWork work = plan_func_work(train, rates, rows);
  work_add(&step.work, &work, runs);
  const FuncPlan *update = plan_find(plan, arena_print(plan->arena, "%s.update", phase->table->name));
  if (update) {
    const FuncWork own = plan_func_work(update, rates, 0);
    work_add(&step.work, &own, 1);
  }
  return step;
}

StepForecast *forecast_steps(const Plan *plan, const Phase *phase, const Rates *rates) {
  static const char *const names[] = {"train", "train.wide", "train.packed"};
  StepForecast *steps = NULL;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const FuncPlan *train = plan_find(plan, arena_print(plan->arena, "%s.%s", phase->name, names[i]));
    if (!train)
      continue;
    const double bound = (double)rows_of(train->func, OP_route, 0), tokens = (double)rows_of(train->func, OP_route, 2);
    vec_push(plan->arena, steps, make_step(plan, train, phase, rates, bound));
    if (strcmp(names[i], "train.packed") == 0 && bound > tokens)
      vec_push(plan->arena, steps, make_step(plan, train, phase, rates, tokens));
  }
  return steps;
}

/* ---------------------------------------------------------------- text */

static double tokens_per_second(const StepForecast *step, double seconds) {
  return seconds > 0 ? step->tokens / seconds : 0;
}

static void print_line(const char *name, const WorkSum *sum, const Rates *rates, FILE *out) {
  fprintf(out, "    %-22s %8.0f %12.2f %10.3f", name, sum->launches, 1e-9 * sum->flops, 1e-9 * sum->bytes);
  if (rates->bound)
    fprintf(out, " %10.3f", 1e3 * sum->bound);
  fprintf(out, " %10.3f\n", 1e3 * sum->seconds);
}

static void print_table(const StepForecast *step, const Rates *rates, FILE *out) {
  fprintf(out, "    %-22s %8s %12s %10s%s %10s\n", "", "launches", "GFLOP", "GB", rates->bound ? "   bound ms" : "",
          "ms");
  for (int kind = 0; kind < WORK_KIND_COUNT; kind++)
    if (step->work.kind[kind].launches > 0)
      print_line(work_kind_name[kind], &step->work.kind[kind], rates, out);
  print_line("all", &step->work.all, rates, out);
}

static void print_rows(const StepForecast *step, FILE *out) {
  if (step->rows > 0)
    fprintf(out, " with %.0f rows to experts in a layer", step->rows);
}

static void print_summary(const StepForecast *step, const Rates *rates, FILE *out) {
  const WorkSum *all = &step->work.all;
  if (rates->bound)
    fprintf(out, "no more than %.0f tokens/s, %.0f", tokens_per_second(step, all->bound),
            tokens_per_second(step, all->seconds));
  else
    fprintf(out, "%.0f tokens/s", tokens_per_second(step, all->seconds));
}

void forecast_steps_print(const StepForecast *steps, const Rates *rates, FILE *out) {
  for (uint32_t i = 0; i < vec_len(steps); i++) {
    const StepForecast *step = &steps[i];
    if (i == 0) {
      fprintf(out, "  a step       at the rates of %s, %s", rates->name, step->train->name);
      print_rows(step, out);
      fprintf(out, ": ");
      print_summary(step, rates, out);
      fprintf(out, " (not measured; every operand once, nothing overlaps)\n");
      print_table(step, rates, out);
    } else {
      fprintf(out, "    %s", step->train->name);
      print_rows(step, out);
      fprintf(out, ": %.3f ms, ", 1e3 * step->work.all.seconds);
      print_summary(step, rates, out);
      fputc('\n', out);
    }
  }
}

/* ---------------------------------------------------------------- JSON */

static void add_sum(cJSON *json, const WorkSum *sum, const Rates *rates) {
  cJSON_AddNumberToObject(json, "launches", sum->launches);
  cJSON_AddNumberToObject(json, "flops", sum->flops);
  cJSON_AddNumberToObject(json, "bytes", sum->bytes);
  cJSON_AddNumberToObject(json, "ms", 1e3 * sum->seconds);
  if (rates->bound)
    cJSON_AddNumberToObject(json, "bound_ms", 1e3 * sum->bound);
}

static cJSON *step_json(const StepForecast *step, const Rates *rates) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "function", step->train->name);
  cJSON_AddNumberToObject(json, "rows", step->rows);
  cJSON_AddNumberToObject(json, "tokens", step->tokens);
  cJSON_AddNumberToObject(json, "tokens_per_s", tokens_per_second(step, step->work.all.seconds));
  if (rates->bound)
    cJSON_AddNumberToObject(json, "bound_tokens_per_s", tokens_per_second(step, step->work.all.bound));
  add_sum(json, &step->work.all, rates);
  cJSON *kinds = cJSON_AddArrayToObject(json, "kinds");
  for (int kind = 0; kind < WORK_KIND_COUNT; kind++) {
    if (!(step->work.kind[kind].launches > 0))
      continue;
    cJSON *own = cJSON_CreateObject();
    cJSON_AddStringToObject(own, "kind", work_kind_name[kind]);
    add_sum(own, &step->work.kind[kind], rates);
    cJSON_AddItemToArray(kinds, own);
  }
  return json;
}

cJSON *forecast_steps_json(const StepForecast *steps, const Rates *rates) {
  cJSON *json = cJSON_CreateArray();
  for (uint32_t i = 0; i < vec_len(steps); i++)
    cJSON_AddItemToArray(json, step_json(&steps[i], rates));
  return json;
}
