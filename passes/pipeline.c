/* The pipeline as one list, and what runs around each pass: stage check, timing, verification, dumps. See pipeline.h.
 */
#include "passes/pipeline.h"

#include "passes/fuse.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  GRAPH = 1u << STAGE_GRAPH,
  GRADIENT = 1u << STAGE_GRADIENT,
  FUSED = 1u << STAGE_FUSED,
  ANY = GRAPH | GRADIENT | FUSED
};

#define SAME STAGE_COUNT

const Pass pipeline_passes[] = {
    {"dense_experts", GRAPH, SAME, "crossover", pass_dense_experts,
     "a second training function in which all experts of a layer are one wide FFN"},
    {"autodiff", GRAPH, STAGE_GRADIENT, "", pass_autodiff, "adds the gradients of result `loss` by reverse mode"},
    {"fold", ANY, SAME, "", pass_fold, "evaluates constants, drops what changes nothing"},
    {"cse", ANY, SAME, "", pass_cse, "computes equal expressions once"},
    {"dce", ANY, SAME, "", pass_dce, "removes what no result needs"},
    {"precision", GRAPH | GRADIENT, SAME, "gradients scores", pass_precision,
     "bf16 operands for matrix products and attention, where the module asks for them"},
    {"chunk_head", GRADIENT, SAME, "rows", pass_chunk_head,
     "the output layer, its loss and their gradients together, in chunks of rows where that pays"},
    {"recompute", GRADIENT, SAME, "policy prices", pass_recompute,
     "makes again, where the backward part needs it, what is not worth keeping"},
    {"narrow_rows", GRADIENT, SAME, "", pass_narrow_rows,
     "on a GPU, in bf16 what row kernels leave in memory for later ones"},
    {"fuse_gate", ANY, STAGE_FUSED, FUSE_OPTIONS, pass_fuse_gate,
     "one kernel for a gate: product, noise, softmax, mask"},
    {"fuse_rows", ANY, STAGE_FUSED, FUSE_OPTIONS, pass_fuse_rows, "one kernel for chains of ops on the same rows"},
    {"schedule", ANY, SAME, "", pass_schedule, "orders instructions so that less memory is live at once"},
    {NULL, 0, SAME, "", NULL, NULL},
};

const Pass *pipeline_find(const char *name) {
  for (const Pass *p = pipeline_passes; p->name != NULL; p++)
    if (strcmp(p->name, name) == 0)
      return p;
  return NULL;
}

/* ---------------------------------------------------------------- settings */

const char *pass_setting_text(const PassContext *context, const char *option, const char *otherwise) {
  const char *value = otherwise;
  for (uint32_t i = 0; i < vec_len(context->settings); i++)
    if (strcmp(context->settings[i].pass, context->pass) == 0 && strcmp(context->settings[i].option, option) == 0)
      value = context->settings[i].value;
  return value;
}

int64_t pass_setting_int(const PassContext *context, const char *option, int64_t otherwise) {
  const char *text = pass_setting_text(context, option, NULL);
  if (text == NULL)
    return otherwise;
  char *end;
  const long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || value < 0)
    ir_fail((Loc){0}, "--%s:%s=%s: expected a whole number, not negative", context->pass, option, text);
  return value;
}

/* Whether `word` is one of the words of `list`, which are separated by blanks. */
static bool has_word(const char *list, const char *word) {
  const size_t length = strlen(word);
  for (const char *at = list; *at != '\0'; at += strspn(at, " ")) {
    const size_t n = strcspn(at, " ");
    if (n == length && memcmp(at, word, n) == 0)
      return true;
    at += n;
  }
  return false;
}

static const char *names_of_all(Arena *arena) {
  const char *all = "";
  for (const Pass *p = pipeline_passes; p->name != NULL; p++)
    all = arena_print(arena, "%s%s%s", all, *all ? ", " : "", p->name);
  return all;
}

const char *pipeline_check(Arena *arena, const PipelineOptions *o) {
  const char **named = NULL;
  for (uint32_t i = 0; i < vec_len(o->only); i++)
    vec_push(arena, named, o->only[i]);
  for (uint32_t i = 0; i < vec_len(o->disabled); i++)
    vec_push(arena, named, o->disabled[i]);
  for (uint32_t i = 0; i < vec_len(o->settings); i++)
    vec_push(arena, named, o->settings[i].pass);
  if (o->after != NULL)
    vec_push(arena, named, o->after);
  for (uint32_t i = 0; i < vec_len(named); i++)
    if (pipeline_find(named[i]) == NULL)
      return arena_print(arena, "there is no pass `%s`; the passes are %s", named[i], names_of_all(arena));
  for (uint32_t i = 0; i < vec_len(o->settings); i++) {
    const Pass *p = pipeline_find(o->settings[i].pass);
    if (!has_word(p->options, o->settings[i].option))
      return arena_print(arena, "pass %s has no option `%s`; its options are: %s", p->name, o->settings[i].option,
                         *p->options ? p->options : "none");
  }
  return NULL;
}

/* ---------------------------------------------------------------- running */

static const char *const stage_name[STAGE_COUNT] = {
    [STAGE_GRAPH] = "graph", [STAGE_GRADIENT] = "gradient", [STAGE_FUSED] = "fused"};

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool is_disabled(const PipelineOptions *o, const Pass *p) {
  for (uint32_t i = 0; i < vec_len(o->disabled); i++)
    if (strcmp(o->disabled[i], p->name) == 0)
      return true;
  return false;
}

static void run_pass(Module *m, const Pass *p, const PipelineOptions *o, Ledger *ledger) {
  if (!(p->stages >> m->stage & 1))
    ir_fail((Loc){0}, "pass %s cannot take a module at stage %s", p->name, stage_name[m->stage]);
  PassContext context = {.module = m,
                         .ledger = ledger,
                         .pass = p->name,
                         .settings = o->settings,
                         .rates = o->rates ? o->rates : &rates_cpu};
  const double start = seconds_now();
  bool changed = p->function(&context);
  if (p->stage_out != SAME)
    m->stage = p->stage_out;
  const double end = seconds_now();
  if (o->verify == VERIFY_EACH)
    module_verify(m, p->name);
  if (o->time_passes)
    fprintf(stderr, "%-14s %9.3f ms%s, verify %.3f ms\n", p->name, 1e3 * (end - start), changed ? "" : " (unchanged)",
            1e3 * (seconds_now() - end));
  if (o->dump != NULL)
    o->dump(o->dump_context, m, p, changed);
}

/* The passes to run, in order. */
static const Pass **chosen_passes(Arena *arena, const PipelineOptions *o) {
  const Pass **chosen = NULL;
  if (o->only != NULL) {
    for (uint32_t i = 0; i < vec_len(o->only); i++)
      vec_push(arena, chosen, pipeline_find(o->only[i]));
    return chosen;
  }
  for (const Pass *p = pipeline_passes; p->name != NULL; p++)
    if (!is_disabled(o, p))
      vec_push(arena, chosen, p);
  return chosen;
}

void pipeline_run(Module *m, const PipelineOptions *o, Ledger *ledger) {
  const char *wrong = pipeline_check(m->arena, o);
  if (wrong != NULL)
    ir_bug("pipeline options were not checked: %s", wrong);
  const Pass **chosen = chosen_passes(m->arena, o);
  for (uint32_t i = 0; i < vec_len(chosen); i++) {
    run_pass(m, chosen[i], o, ledger);
    if (o->after != NULL && strcmp(o->after, chosen[i]->name) == 0)
      break;
  }
  if (o->verify == VERIFY_END)
    module_verify(m, "pipeline");
}
