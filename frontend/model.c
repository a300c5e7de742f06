/* From a model script to its plan: script, passes, lowering. Times of the parts go to standard error where asked for.
 */
#include "frontend/model.h"

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

void model_optimize(Model *m) {
  m->ledger = ledger_new(m->arena);
  if (model_is_text(m->options))
    return;
  double start = seconds_now();
  PipelineOptions pipeline = m->options->pipeline;
  if (can_fit(m->options)) {
    pipeline = fit_memory(m);
    report_time(m->options, "--memory", start);
  }
  pipeline_run(m->module, &pipeline, m->ledger);
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
  double start = seconds_now();
  m->cuda = plan_lower_cuda(
      m->module, m->options->keep_values,
      (CudaOptions){.grouped = m->options->grouped, .attention = m->options->attention, .ledger = m->ledger});
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
         (strncmp(f->name, phase->table->name, table) == 0 && strcmp(f->name + table, ".update") == 0) ||
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
