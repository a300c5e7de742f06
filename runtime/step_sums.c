/* See step_sums.h. */
#include "runtime/step_sums.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/files.h"

static bool starts_with(const char *text, const char *prefix) {
  return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_load(const PlanResult *result) {
  return starts_with(result->label, "load.");
}

static bool is_scalar(const PlanResult *result) {
  return !result->parameter && result->type == PLAN_F32 && result->shape.elements == 1 && !is_load(result);
}

Sums sums_new(const PlanFunc *func) {
  size_t count = (size_t)func->result_count;
  Sums sums = {func, runtime_allocate(count, sizeof(double)), runtime_allocate(count, sizeof(double *)), 0};
  for (size_t i = 0; i < count; i++)
    if (is_load(&func->results[i]))
      sums.load[i] = runtime_allocate((size_t)func->results[i].shape.elements, sizeof(double));
  return sums;
}

void sums_free(Sums *sums) {
  for (int i = 0; i < sums->func->result_count; i++)
    free(sums->load[i]);
  free(sums->load);
  free(sums->scalar);
}

void sums_add(Sums *sums, const Executor *executor, const Batch *batch) {
  for (int i = 0; i < sums->func->result_count; i++) {
    const PlanResult *result = &sums->func->results[i];
    if (!is_scalar(result) && !sums->load[i])
      continue;
    const float *at = executor_result(executor, sums->func, result->label);
    if (!at)
      runtime_fail(FAIL_BUG, "result '%s' of %s lies in no memory of activations", result->label, sums->func->name);
    if (is_scalar(result))
      sums->scalar[i] += (double)*at;
    for (int64_t e = 0; sums->load[i] && e < result->shape.elements; e++)
      sums->load[i][e] += (double)at[e];
  }
  for (int64_t i = 0; i < batch->rows; i++)
    sums->live += batch->live ? (double)batch->live[i] : 1;
}

double sums_find(const Sums *sums, const char *label, double otherwise) {
  for (int i = 0; i < sums->func->result_count; i++)
    if (!sums->func->results[i].parameter && strcmp(sums->func->results[i].label, label) == 0)
      return sums->scalar[i];
  return otherwise;
}

void sums_write_means(Text *line, const Sums *sums, int64_t micro_batches) {
  for (int i = 0; i < sums->func->result_count; i++) {
    const char *label = sums->func->results[i].label;
    if (!starts_with(label, "aux.") && !starts_with(label, "metric."))
      continue;
    text_append(line, ",", 1);
    text_json_string(line, strchr(label, '.') + 1);
    text_append(line, ":", 1);
    text_json_double(line, sums->scalar[i] / (double)micro_batches);
  }
}

/* ---------------------------------------------------------------- routing */

static const char *layer_of(const PlanResult *load) {
  return strchr(load->label, '.') + 1;
}

static void write_load(Text *line, const PlanResult *result, const double *load) {
  for (int64_t e = 0; e < result->shape.elements; e++)
    text_format(line, "%s%.0f", e ? "," : "[", load[e]);
  text_append(line, "]", 1);
}

/* The sum routing.KEY of the layer; NAN when the function has none. */
static double layer_sum(const Sums *sums, const char *key, const char *layer) {
  char *label = string_format("routing.%s.%s", key, layer);
  double sum = sums_find(sums, label, NAN);
  free(label);
  return sum;
}

/* What follows from the load alone, and from what the gate's kernel summed over the tokens. */
static void write_layer(Text *line, const Sums *sums, int load) {
  static const char *const means[] = {"entropy", "kept_weight", "margin"};
  const PlanResult *result = &sums->func->results[load];
  double pairs = 0;
  int dead = 0;
  for (int64_t e = 0; e < result->shape.elements; e++) {
    pairs += sums->load[load][e];
    dead += sums->load[load][e] == 0;
  }
  text_format(line, "{\"experts_per_token\":");
  text_json_double(line, pairs / sums->live);
  double reached = layer_sum(sums, "reached", layer_of(result)),
         cut = layer_sum(sums, "dropped_pairs", layer_of(result));
  for (size_t k = 0; k < sizeof means / sizeof *means && !isnan(reached); k++) {
    text_format(line, ",\"%s\":", means[k]);
    text_json_double(line, layer_sum(sums, means[k], layer_of(result)) / sums->live);
  }
  if (!isnan(reached))
    text_format(line, ",\"dropped\":%.0f", sums->live - reached);
  if (!isnan(cut))
    text_format(line, ",\"dropped_pairs\":%.0f", cut);
  text_format(line, ",\"dead\":%d}", dead);
}

void sums_write_routing(Text *line, const Sums *sums) {
  for (int part = 0; part < 2; part++) {
    const char *separator = part == 0 ? ",\"load\":{" : "},\"layers\":{";
    for (int i = 0; i < sums->func->result_count; i++) {
      if (!sums->load[i])
        continue;
      text_format(line, "%s", separator);
      text_json_string(line, layer_of(&sums->func->results[i]));
      text_append(line, ":", 1);
      if (part == 0)
        write_load(line, &sums->func->results[i], sums->load[i]);
      else
        write_layer(line, sums, i);
      separator = ",";
    }
  }
  text_append(line, "}", 1);
}
