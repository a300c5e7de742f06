/* From a model script to its plan: script, passes, lowering. Times of the parts go to standard error where asked for.
 */
#include "frontend/model.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codegen/package.h"
#include "frontend/fit_memory.h"
#include "frontend/forecast.h"
#include "frontend/script.h"

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report_time(const Options *options, const char *part, double start) {
  if (options->pipeline.time_passes)
    fprintf(stderr, "%-14s %9.3f ms\n", part, 1e3 * (seconds_now() - start));
}

const char *module_text(const Module *m) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    environment_fail("out of memory");
  module_print(m, out);
  if (fclose(out) != 0)
    environment_fail("out of memory");
  char *copy = arena_copy(m->arena, text, size);
  free(text);
  return copy;
}

bool model_is_text(const Options *options) {
  const char *path = options->model;
  size_t length = strlen(path);
  return length > 3 && strcmp(path + length - 3, ".ir") == 0;
}

static Script read_ir(Arena *arena, const Options *options) {
  FILE *in = fopen(options->model, "rb");
  if (!in)
    ir_fail((Loc){0}, "cannot read %s: %s", options->model, strerror(errno));
  char *text = NULL; /* an arena vector */
  for (int c; (c = getc(in)) != EOF;)
    vec_push(arena, text, (char)c);
  bool failed = ferror(in);
  fclose(in);
  if (failed)
    ir_fail((Loc){0}, "cannot read %s: %s", options->model, strerror(errno));
  if (vec_len(options->defines))
    ir_fail((Loc){.file = options->model}, "-D %s: IR text has no configuration to override", options->defines[0]);
  vec_push(arena, text, '\0');
  if (strlen(text) + 1 != vec_len(text))
    ir_fail((Loc){.file = options->model}, "a byte 0 in the text");
  Module *m = module_parse(arena, options->model, text);
  module_verify(m, NULL);
  return (Script){m, arena_print(arena, "{\"model\":\"%s\",\"task\":\"%s\",\"config\":{}}", m->name, m->task)};
}

static Script load_script(Arena *arena, const Options *options) {
  ScriptOptions script_options = {.path = options->model, .defines = options->defines, .seed = options->seed};
  return model_is_text(options) ? read_ir(arena, options) : script_compile(arena, &script_options);
}

Model model_load(Arena *arena, const Options *options, bool keep_text) {
  double start = seconds_now();
  Script script = load_script(arena, options);
  Model m = {.arena = arena, .options = options, .module = script.module, .config_json = script.config_json};
  report_time(options, "script", start);
  if (keep_text)
    m.graph_text = module_text(m.module);
  return m;
}

/* Whether values may run again so that --memory suffices. */
static bool can_fit(const Options *o) {
  for (uint32_t i = 0; i < vec_len(o->pipeline.disabled); i++)
    if (strcmp(o->pipeline.disabled[i], "recompute") == 0)
      return false;
  return o->memory && !model_is_text(o);
}

const Rates *model_rates(const Options *options, PlanTarget target) {
  if (options->pipeline.rates)
    return options->pipeline.rates;
  return target == PLAN_CPU ? &rates_cpu : &rates_cuda;
}

static void run_passes(Model *m, Module *module, Ledger *ledger, PlanTarget target) {
  double start = seconds_now();
  PipelineOptions pipeline = m->options->pipeline;
  pipeline.rates = model_rates(m->options, target);
  if (module != m->module)
    pipeline.dump = NULL;
  if (can_fit(m->options)) {
    pipeline = fit_memory(m, module, target, pipeline);
    report_time(m->options, "--memory", start);
  }
  pipeline_run(module, &pipeline, ledger);
}

void model_optimize(Model *m) {
  m->ledger = ledger_new(m->arena);
  if (model_is_text(m->options))
    return;
  if (m->options->cpu && m->options->cuda && !m->graph_text)
    m->graph_text = module_text(m->module);
  run_passes(m, m->module, m->ledger, m->options->cpu ? PLAN_CPU : PLAN_CUDA);
}

/* The module behind the passes for CUDA. What shows passes one by one shows those of the first target. */
static void optimize_cuda(Model *m) {
  m->cuda_module = m->module;
  m->cuda_ledger = m->ledger;
  if (!m->options->cpu || model_is_text(m->options))
    return;
  m->cuda_module = module_parse(m->arena, m->options->model, m->graph_text);
  m->cuda_ledger = ledger_new(m->arena);
  run_passes(m, m->cuda_module, m->cuda_ledger, PLAN_CUDA);
}

char *model_ledger_json(const Model *m) {
  const bool two = m->cuda_ledger && m->cuda_ledger != m->ledger;
  char *first = ledger_json(m->ledger), *second = two ? ledger_json(m->cuda_ledger) : NULL;
  if (!second)
    return first;
  cJSON *all = cJSON_Parse(first);
  cJSON_AddItemToObject(all, "cuda", cJSON_Parse(second));
  char *text = cJSON_Print(all);
  cJSON_Delete(all);
  free(first);
  free(second);
  return text;
}

static double mebibytes(int64_t bytes) {
  return (double)bytes / (1 << 20);
}

static void check_memory(const Model *m, const Plan *plan, const char *device) {
  int64_t allowed = m->options->memory, needed = allowed ? forecast_peak(plan) : 0;
  if (needed > allowed)
    ir_fail((Loc){0},
            "%s: a trainer needs %.1f MiB%s%s, --memory allows %.1f MiB, which is %.1f MiB too little; moec forecast "
            "shows what for",
            m->options->model, mebibytes(needed), device,
            can_fit(m->options) ? ", with everything running again that can" : "", mebibytes(allowed),
            mebibytes(needed - allowed));
}

void model_lower(Model *m) {
  double start = seconds_now();
  m->plan = plan_lower(m->module, PLAN_CPU, m->options->keep_values);
  report_time(m->options, "plan", start);
  if (m->options->cpu)
    check_memory(m, m->plan, "");
}

void model_lower_cuda(Model *m) {
  optimize_cuda(m);
  double start = seconds_now();
  m->cuda = plan_lower_cuda(
      m->cuda_module, m->options->keep_values,
      (CudaOptions){.grouped = m->options->grouped, .attention = m->options->attention, .ledger = m->cuda_ledger});
  report_time(m->options, "plan for CUDA", start);
  check_memory(m, m->cuda, " on a GPU");
}

const Phase *model_phase(const Model *m) {
  if (!m->options->phase)
    return NULL;
  const char *names = "";
  for (uint32_t i = 0; i < vec_len(m->module->phases); i++) {
    const Phase *phase = m->module->phases[i];
    if (strcmp(phase->name, m->options->phase) == 0)
      return phase;
    names = arena_print(m->arena, "%s%s%s", names, i ? ", " : "", phase->name);
  }
  ir_fail((Loc){.file = m->options->model}, "there is no phase `%s`; the phases are %s", m->options->phase, names);
}

bool phase_has(const Phase *phase, const Func *f) {
  if (!phase)
    return true;
  size_t length = strlen(phase->name), table = strlen(phase->table->name);
  return (strncmp(f->name, phase->name, length) == 0 && f->name[length] == '.') ||
         (strncmp(f->name, phase->table->name, table) == 0 &&
          (strcmp(f->name + table, ".update") == 0 || strcmp(f->name + table, ".copies") == 0)) ||
         (phase->enter && strcmp(f->name, phase->enter) == 0);
}

FILE *output_open(const Options *options) {
  if (!options->output)
    return stdout;
  FILE *out = fopen(options->output, "w");
  if (!out)
    environment_fail("%s: cannot write: %s", options->output, strerror(errno));
  return out;
}

void output_close(const Options *options, FILE *out) {
  bool good = fflush(out) == 0 && !ferror(out);
  if (out != stdout)
    good = fclose(out) == 0 && good;
  if (!good)
    environment_fail("%s: cannot write: %s", options->output ? options->output : "standard output", strerror(errno));
}
