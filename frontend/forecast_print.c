/* The forecast as text for people and as JSON for tools. */
#include "frontend/forecast.h"
#include "frontend/forecast_step.h"
#include "frontend/rates_file.h"

static double mebibytes(int64_t bytes) {
  return (double)bytes / (1 << 20);
}

/* ---------------------------------------------------------------- text */

static void print_parameters(const ParameterCount *p, FILE *out) {
  fprintf(out, "  parameters   %.2fM", (double)p->total / 1e6);
  if (p->expert)
    fprintf(out, ": shared %.2fM, experts %.2fM (weights %.1fM), active at one expert per token %.2fM",
            (double)p->shared / 1e6, (double)p->expert / 1e6, (double)p->expert_weights / 1e6, p->active / 1e6);
  if (p->frozen)
    fprintf(out, ", frozen %.2fM", (double)p->frozen / 1e6);
  fputc('\n', out);
}

static void print_work(const Module *m, const WorkForecast *w, FILE *out) {
  fprintf(out, "  forward      %.2fG MACs per sequence of %lld tokens (attention over all pairs%s)\n",
          w->macs * (double)m->sequence_length / 1e9, (long long)m->sequence_length,
          w->routed ? ", one expert per token" : "");
  fprintf(out, "  inference    %.2f MFLOPs per token%s\n", w->inference / 1e6,
          w->routed ? ", one expert per token" : "");
  fprintf(out, "  training     %.2f MFLOPs per token%s", w->train / 1e6, w->routed ? ", one expert per token" : "");
  if (w->routed)
    fprintf(out, "; %.2f at the bound of the router", w->train_bound / 1e6);
  fputc('\n', out);
}

enum { LARGEST_SHOWN = 4 };

/* What one function needs, by kind, and the values that take the most. */
static void print_func(Arena *arena, const FuncForecast *func, FILE *out) {
  const FuncPlan *plan = func->plan;
  if (plan->peak.step == NO_STEP)
    return;
  fprintf(out, "    %-20s %.1f MiB", plan->func->name, mebibytes(plan->act));
  const char *separator = ": ";
  for (int kind = 0; kind < STORAGE_KIND_COUNT; kind++) {
    if (mebibytes(plan->peak.by_kind[kind]) < 0.05)
      continue;
    fprintf(out, "%s%s %.1f", separator, storage_kind_name[kind], mebibytes(plan->peak.by_kind[kind]));
    separator = ", ";
  }
  fprintf(out, "%sgaps %.1f", separator, mebibytes(plan->act - plan->peak.live));
  if (func->one_expert < plan->peak.live)
    fprintf(out, "; %.1f in use at one expert per token", mebibytes(func->one_expert));
  const Storage **largest = forecast_largest(arena, plan, LARGEST_SHOWN);
  for (uint32_t i = 0; i < vec_len(largest) && mebibytes(largest[i]->bytes) >= 0.05; i++)
    fprintf(out, "%s%%%s %.1f",
            i ? ", " : "\n                         most: ", plan->func->values[largest[i]->value].name,
            mebibytes(largest[i]->bytes));
  fputc('\n', out);
}

static void print_memory(const Forecast *forecast, const PhaseForecast *f, FILE *out) {
  fprintf(out, "  memory       %.1f MiB: parameters %.1f, gradients %.1f, moments %.1f", mebibytes(f->total),
          mebibytes(f->param + f->copies), mebibytes(f->grad), mebibytes(f->moments));
  if (f->accumulators)
    fprintf(out, ", sums over micro-batches %.1f", mebibytes(f->accumulators));
  fprintf(out, ", activations %.1f\n", mebibytes(forecast->act));
  if (f->copies)
    fprintf(out, "    of the parameters %.1f MiB are their copies in bf16, remade with every update\n",
            mebibytes(f->copies));
  for (uint32_t i = 0; i < vec_len(f->funcs); i++)
    print_func(forecast->plan->arena, &f->funcs[i], out);
  if (f->entry)
    fprintf(out, "    the transition into it holds both tables: %.1f MiB\n", mebibytes(f->entry));
}

void forecast_print(const Plan *plan, const Phase *only, const Rates *rates, FILE *out) {
  Forecast forecast = forecast_make(plan);
  const Module *m = plan->module;
  fprintf(out, "%s: batch %lld x %lld tokens in %lld micro-batch%s\n", m->name, (long long)m->batch,
          (long long)m->sequence_length, (long long)(m->accumulate ? m->accumulate : 1), m->accumulate > 1 ? "es" : "");
  for (uint32_t i = 0; i < vec_len(forecast.phases); i++) {
    const PhaseForecast *f = &forecast.phases[i];
    if (only && f->phase != only)
      continue;
    fprintf(out, "phase %s\n", f->phase->name);
    print_parameters(&f->parameters, out);
    print_work(m, &f->work, out);
    forecast_steps_print(forecast_steps(plan, f->phase, rates), rates, out);
    print_memory(&forecast, f, out);
  }
  fprintf(out, "peak memory %.1f MiB\n", mebibytes(forecast.peak));
}

/* ---------------------------------------------------------------- JSON */

static void add_number(cJSON *object, const char *name, double value) {
  cJSON_AddNumberToObject(object, name, value);
}

static cJSON *parameters_json(const ParameterCount *p) {
  cJSON *json = cJSON_CreateObject();
  add_number(json, "total", (double)p->total);
  add_number(json, "shared", (double)p->shared);
  add_number(json, "expert", (double)p->expert);
  add_number(json, "expert_weights", (double)p->expert_weights);
  add_number(json, "active", p->active);
  add_number(json, "frozen", (double)p->frozen);
  return json;
}

static cJSON *work_json(const Module *m, const WorkForecast *w) {
  cJSON *json = cJSON_CreateObject();
  add_number(json, "macs_per_sequence", w->macs * (double)m->sequence_length);
  add_number(json, "inference_flops_per_token", w->inference);
  add_number(json, "train_flops_per_token", w->train);
  add_number(json, "train_flops_per_token_at_bound", w->train_bound);
  cJSON_AddBoolToObject(json, "routed", w->routed);
  return json;
}

static cJSON *func_json(const FuncForecast *func) {
  const FuncPlan *plan = func->plan;
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "function", plan->func->name);
  add_number(json, "activations", (double)plan->act);
  add_number(json, "live", (double)plan->peak.live);
  add_number(json, "live_at_one_expert", (double)func->one_expert);
  for (int kind = 0; kind < STORAGE_KIND_COUNT; kind++)
    add_number(json, storage_kind_name[kind], (double)plan->peak.by_kind[kind]);
  return json;
}

static cJSON *memory_json(const Forecast *forecast, const PhaseForecast *f) {
  cJSON *json = cJSON_CreateObject();
  add_number(json, "parameters", (double)(f->param + f->copies));
  add_number(json, "parameters_bf16", (double)f->copies);
  add_number(json, "gradients", (double)f->grad);
  add_number(json, "moments", (double)f->moments);
  add_number(json, "accumulators", (double)f->accumulators);
  add_number(json, "activations", (double)forecast->act);
  add_number(json, "total", (double)f->total);
  add_number(json, "entry", (double)f->entry);
  cJSON *funcs = cJSON_AddArrayToObject(json, "functions");
  for (uint32_t i = 0; i < vec_len(f->funcs); i++)
    cJSON_AddItemToArray(funcs, func_json(&f->funcs[i]));
  return json;
}

char *forecast_json(const Plan *plan, const Phase *only, const Rates *rates) {
  Forecast forecast = forecast_make(plan);
  const Module *m = plan->module;
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "model", m->name);
  add_number(json, "batch", (double)m->batch);
  add_number(json, "sequence", (double)m->sequence_length);
  add_number(json, "accumulate", (double)(m->accumulate ? m->accumulate : 1));
  cJSON_AddItemToObject(json, "rates", rates_json(rates));
  cJSON *phases = cJSON_AddArrayToObject(json, "phases");
  for (uint32_t i = 0; i < vec_len(forecast.phases); i++) {
    const PhaseForecast *f = &forecast.phases[i];
    if (only && f->phase != only)
      continue;
    cJSON *phase = cJSON_CreateObject();
    cJSON_AddStringToObject(phase, "name", f->phase->name);
    cJSON_AddItemToObject(phase, "parameters", parameters_json(&f->parameters));
    cJSON_AddItemToObject(phase, "work", work_json(m, &f->work));
    cJSON_AddItemToObject(phase, "step", forecast_steps_json(forecast_steps(plan, f->phase, rates), rates));
    cJSON_AddItemToObject(phase, "memory", memory_json(&forecast, f));
    cJSON_AddItemToArray(phases, phase);
  }
  add_number(json, "peak_bytes", (double)forecast.peak);
  char *text = cJSON_Print(json);
  cJSON_Delete(json);
  return text;
}
