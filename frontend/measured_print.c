/* What a run measured beside what was predicted, as text for people and as JSON for tools. */
#include <cjson/cJSON.h>

#include "frontend/measured.h"

static double median(const double *sorted) {
  uint32_t count = vec_len(sorted);
  return 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
}

static double mebibytes(int64_t bytes) {
  return (double)bytes / (1 << 20);
}

static double mean_experts(const PhaseMeasured *p) {
  return p->experts_sum / (double)vec_len(p->rates);
}

/* The most the phase holds, the transition into it included. */
static int64_t forecast_memory(const PhaseForecast *f) {
  return f->entry > f->total ? f->entry : f->total;
}

/* ---------------------------------------------------------------- text */

static void print_speed(const PhaseMeasured *p, FILE *out) {
  fprintf(out, "  speed        %.0f tokens/s", median(p->rates));
  const char *separator = "; ";
  for (uint32_t i = 0; i < vec_len(p->versions); i++) {
    const VersionMeasured *v = &p->versions[i];
    fprintf(out, "%s%s %u update%s at %.0f", separator, v->name, vec_len(v->rates), vec_len(v->rates) == 1 ? "" : "s",
            median(v->rates));
    separator = ", ";
  }
  fprintf(out, " (medians)\n");
}

static void print_experts(const PhaseMeasured *p, FILE *out) {
  fprintf(out, "  experts      %.2f per token (%.2f to %.2f)", mean_experts(p), p->experts_low, p->experts_high);
  if (p->crossover > 0)
    fprintf(out, "; wide above %.2f by %s, predicted %.2f", p->crossover, p->crossover_by, p->phase->crossover);
  fputc('\n', out);
}

static void print_work(const PhaseMeasured *p, const PhaseForecast *f, FILE *out) {
  fprintf(out, "  training     %.2f MFLOPs per token ran, the update included; %.4g GFLOPs in all",
          p->flops / p->tokens / 1e6, p->flops / 1e9);
  if (f->work.routed)
    fprintf(out, "; forecast %.2f at one expert per token, %.2f at the bound", f->work.train / 1e6,
            f->work.train_bound / 1e6);
  else
    fprintf(out, "; forecast %.2f", f->work.train / 1e6);
  fputc('\n', out);
}

static void print_memory(const PhaseMeasured *p, const PhaseForecast *f, FILE *out) {
  if (p->memory)
    fprintf(out, "  memory       %.1f MiB at most in arenas", mebibytes(p->memory));
  else
    fprintf(out, "  memory       known when the phase ends");
  fprintf(out, "; forecast %.1f\n", mebibytes(forecast_memory(f)));
}

/* What was chosen by timing on a GPU: the ways of a plan one by one, algorithms of products all together. */
static void print_choices(const Measured *measured, FILE *out) {
  int products = 0;
  for (uint32_t i = 0; i < vec_len(measured->choices); i++) {
    const ChoiceMeasured *c = &measured->choices[i];
    products += c->product;
    if (!c->product)
      fprintf(out, "timed: %s is the fastest of %.0f ways, %.3f ms\n  among        %s\n", c->chosen, c->candidates,
              1e3 * c->seconds, c->among);
  }
  if (products)
    fprintf(out, "timed: the algorithms of %d product%s\n", products, products == 1 ? "" : "s");
}

void measured_print(const Measured *measured, const Forecast *forecast, FILE *out) {
  fprintf(out, "measured in %s: %s\n", measured->run, measured->machine);
  for (uint32_t i = 0; i < vec_len(measured->phases); i++) {
    const PhaseMeasured *p = &measured->phases[i];
    const PhaseForecast *f = &forecast->phases[i];
    if (!p->first) {
      fprintf(out, "phase %s, not run\n", p->phase->name);
      continue;
    }
    fprintf(out, "phase %s, updates %lld to %lld\n", p->phase->name, (long long)p->first, (long long)p->last);
    print_speed(p, out);
    print_experts(p, out);
    print_work(p, f, out);
    print_memory(p, f, out);
  }
  print_choices(measured, out);
}

/* ---------------------------------------------------------------- JSON */

static void add_number(cJSON *object, const char *name, double value) {
  cJSON_AddNumberToObject(object, name, value);
}

static void add_versions(cJSON *json, const PhaseMeasured *p) {
  cJSON *versions = cJSON_AddArrayToObject(json, "versions");
  for (uint32_t i = 0; i < vec_len(p->versions); i++) {
    cJSON *version = cJSON_CreateObject();
    cJSON_AddStringToObject(version, "name", p->versions[i].name);
    add_number(version, "updates", vec_len(p->versions[i].rates));
    add_number(version, "tokens_per_s", median(p->versions[i].rates));
    cJSON_AddItemToArray(versions, version);
  }
}

static void add_measured(cJSON *json, const PhaseMeasured *p) {
  add_number(json, "first_update", (double)p->first);
  add_number(json, "last_update", (double)p->last);
  add_number(json, "tokens", p->tokens);
  add_number(json, "tokens_per_s", median(p->rates));
  add_number(json, "flops", p->flops);
  add_number(json, "flops_per_token", p->flops / p->tokens);
  add_number(json, "experts_per_token", mean_experts(p));
  add_number(json, "experts_per_token_least", p->experts_low);
  add_number(json, "experts_per_token_most", p->experts_high);
  add_versions(json, p);
  if (p->memory)
    add_number(json, "memory_bytes", (double)p->memory);
  if (p->crossover > 0) {
    add_number(json, "crossover", p->crossover);
    cJSON_AddStringToObject(json, "crossover_by", p->crossover_by);
  }
}

static void add_choices(cJSON *json, const Measured *measured) {
  cJSON *choices = cJSON_AddArrayToObject(json, "choices");
  for (uint32_t i = 0; i < vec_len(measured->choices); i++) {
    const ChoiceMeasured *c = &measured->choices[i];
    cJSON *choice = cJSON_CreateObject();
    cJSON_AddStringToObject(choice, "kind", c->product ? "product" : "kernel");
    if (c->chosen)
      cJSON_AddStringToObject(choice, "chosen", c->chosen);
    cJSON_AddStringToObject(choice, "among", c->among);
    add_number(choice, "seconds", c->seconds);
    add_number(choice, "candidates", c->candidates);
    cJSON_AddItemToArray(choices, choice);
  }
}

static void add_predicted(cJSON *json, const PhaseMeasured *p, const PhaseForecast *f) {
  cJSON *predicted = cJSON_AddObjectToObject(json, "predicted");
  if (p->phase->crossover > 0)
    add_number(predicted, "crossover", p->phase->crossover);
  add_number(predicted, "memory_bytes", (double)forecast_memory(f));
  add_number(predicted, "flops_per_token_at_one_expert", f->work.train);
  add_number(predicted, "flops_per_token_at_bound", f->work.train_bound);
}

char *measured_json(const Measured *measured, const Forecast *forecast, const char *ledger) {
  cJSON *root = cJSON_Parse(ledger);
  if (!root)
    ir_bug("the ledger's JSON is none");
  cJSON *run = cJSON_AddObjectToObject(root, "run");
  cJSON_AddStringToObject(run, "directory", measured->run);
  cJSON_AddStringToObject(run, "machine", measured->machine);
  cJSON *phases = cJSON_AddArrayToObject(run, "phases");
  for (uint32_t i = 0; i < vec_len(measured->phases); i++) {
    const PhaseMeasured *p = &measured->phases[i];
    cJSON *phase = cJSON_CreateObject();
    cJSON_AddStringToObject(phase, "name", p->phase->name);
    if (p->first)
      add_measured(phase, p);
    add_predicted(phase, p, &forecast->phases[i]);
    cJSON_AddItemToArray(phases, phase);
  }
  add_choices(run, measured);
  char *text = cJSON_Print(root);
  cJSON_Delete(root);
  if (!text)
    ir_bug("no memory for the JSON of %s", measured->run);
  return text;
}
