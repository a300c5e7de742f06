/* Law 2: a pass never changes what is computed.
 *
 * In: a model behind its script. Out: the model behind all passes; per function one row with the results of the
 * interpreter before and behind each pass that touched it. Passes that only remove or order what is there must leave
 * the same bits; others may round otherwise. A function that a pass split into versions is compared with what it was,
 * and the gradients of its versions with each other.
 */
#include <stdlib.h>
#include <string.h>

#include "codegen/package.h"
#include "frontend/check.h"

static const double tolerance = 1e-11;
static const char *const exact_passes[] = {"cse", "dce", "recompute", "schedule"};

/* A function as it stood behind the last pass that touched it. */
typedef struct Snapshot {
  const char *func, *text;
  const char **labels;
  const Tensor **results; /* arena vectors of equal length */
} Snapshot;

typedef struct Walk {
  Check *check;
  Snapshot *snapshots; /* arena vector */
} Walk;

static bool is_exact(const Pass *pass) {
  for (size_t i = 0; i < sizeof exact_passes / sizeof exact_passes[0]; i++)
    if (strcmp(exact_passes[i], pass->name) == 0)
      return true;
  return false;
}

static const char *func_text(Arena *arena, const Func *f) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    environment_fail("out of memory");
  func_print(f, out);
  if (fclose(out) != 0)
    environment_fail("out of memory");
  char *copy = arena_copy(arena, text, size);
  free(text);
  return copy;
}

static Snapshot *find_snapshot(const Walk *walk, const char *func) {
  for (uint32_t i = 0; i < vec_len(walk->snapshots); i++)
    if (strcmp(walk->snapshots[i].func, func) == 0)
      return &walk->snapshots[i];
  return NULL;
}

static const Tensor *find_result(const Snapshot *s, const char *label) {
  for (uint32_t i = 0; s && i < vec_len(s->labels); i++)
    if (strcmp(s->labels[i], label) == 0)
      return s->results[i];
  return NULL;
}

/* What that result was: of the function itself, else of a version of it. */
static const Tensor *expected_result(const Walk *walk, const char *func, const char *label) {
  const CheckInputs *inputs = walk->check->inputs;
  const Tensor *found = find_result(find_snapshot(walk, func), label);
  for (uint32_t i = 0; !found && i < vec_len(walk->snapshots); i++)
    if (inputs_origin(inputs, func) == inputs_origin(inputs, walk->snapshots[i].func))
      found = find_result(&walk->snapshots[i], label);
  return found;
}

static const Tensor *keep(Arena *arena, const Tensor *t) {
  Tensor *copy = tensor_new(arena, t->dtype, t->rank, t->dim);
  copy->live = t->live;
  for (int64_t at = 0; at < tensor_live_elements(t); at++) {
    if (t->i)
      copy->i[at] = t->i[at];
    else
      copy->f[at] = t->f[at];
  }
  return copy;
}

/* Compares a run with what is known of its results and makes it what is known. `pass` is NULL for the script. */
static void compare_run(Walk *walk, const Evaluation *run, const Pass *pass, const char *text) {
  Arena *arena = walk->check->arena;
  const Func *f = run->func;
  Snapshot now = {.func = f->name, .text = text};
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    const char *label = f->results[i].label;
    const Tensor *found = run->tensors[f->results[i].value], *expected = expected_result(walk, f->name, label);
    if (expected) {
      Deviation d = compare_tensors(label, found, expected, NULL, pass && is_exact(pass) ? 0 : tolerance);
      d.detail = d.detail ? d.detail : arena_print(arena, "behind %s", pass ? pass->name : "the script");
      check_note(check_row(walk->check, "passes", f->name), d);
    }
    vec_push(arena, now.labels, label);
    vec_push(arena, now.results, keep(arena, found));
  }
  Snapshot *before = find_snapshot(walk, f->name);
  if (before)
    *before = now;
  else
    vec_push(arena, walk->snapshots, now);
}

/* A result that a pass drops is no comparison, but a mistake. */
static void compare_labels(Walk *walk, const Func *f, const Pass *pass) {
  const Snapshot *before = find_snapshot(walk, f->name);
  for (uint32_t i = 0; before && i < vec_len(before->labels); i++)
    if (func_find_result(f, before->labels[i]) == NO_VALUE)
      check_note(check_row(walk->check, "passes", f->name),
                 (Deviation){.what = before->labels[i],
                             .detail = arena_print(walk->check->arena, "is missing behind %s", pass->name),
                             .error = 1});
}

static void visit_func(Walk *walk, const Func *f, const Pass *pass) {
  Check *check = walk->check;
  const char *text = func_text(check->arena, f);
  const Snapshot *before = find_snapshot(walk, f->name);
  if (before && strcmp(before->text, text) == 0)
    return;
  if (pass)
    compare_labels(walk, f, pass);
  Arena *scratch = arena_new();
  const Evaluation *run = eval_func(f, inputs_environment(check->inputs, f), scratch);
  compare_run(walk, run, pass, text);
  if (pass && pass->stage_out == STAGE_GRADIENT && func_find_result(f, "loss") != NO_VALUE)
    check_gradients(check, run);
  arena_free(scratch);
}

static void visit_module(void *context, const Module *m, const Pass *pass, bool changed) {
  (void)changed; /* what a pass says of itself is not believed */
  Walk *walk = context;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    if (phase_has(walk->check->phase, m->funcs[i]))
      visit_func(walk, m->funcs[i], pass);
}

/* IR text enters the pipeline at its stage: the passes for earlier ones are left out. */
static void optimize_text(Model *model, Options *options) {
  const Module *m = model->module;
  for (const Pass *p = pipeline_passes; p->name; p++)
    if (!(p->stages >> m->stage & 1))
      vec_push(m->arena, options->pipeline.disabled, p->name);
  model->ledger = ledger_new(model->arena);
  pipeline_run(model->module, &options->pipeline, model->ledger);
}

void check_passes(Check *check, Model *model) {
  Walk walk = {.check = check};
  visit_module(&walk, model->module, NULL, false);
  Options options = *check->options;
  options.pipeline.dump = visit_module;
  options.pipeline.dump_context = &walk;
  model->options = &options;
  if (model_is_text(&options))
    optimize_text(model, &options);
  else
    model_optimize(model);
  model->options = check->options;
}
