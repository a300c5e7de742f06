/* A trainer against the interpreter, value by value.
 *
 * In: the module behind all passes. A trainer of it is built that keeps every value, and runs each function on the
 * inputs of the check (`TRAINER exec`), on the CPU, or with --target=cuda alone on the GPU. Two comparisons follow.
 *   ops      each instruction is interpreted on the trainer's own operands, so that no rounding adds up and a mistake
 *            shows at the op that makes it. Choices must be those the operands allow.
 *   results  the whole function is interpreted in f64 with the trainer's choices; the results must agree as far as f32
 *            carries through the whole function.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/package.h"
#include "frontend/check.h"
#include "frontend/check_exchange.h"
#include "frontend/command_build.h"
#include "runtime/files.h"

/* Largest error of a result of a whole function relative to its largest element, and largest distance by which numbers
 * in f64 may stand on the other side of a choice. Where values are bf16, which the interpreter does not round, the
 * results are no more than plausible; then it is the ops that prove. */
typedef struct Tolerance {
  double result, choice;
} Tolerance;
static const Tolerance f32_tolerance = {2e-5, 1e-4}, bf16_tolerance = {1e-1, 5e-2};

/* ---------------------------------------------------------------- running the trainer */

static const char *directory; /* holds the trainer and the exchanged files while the check runs */

static void remove_files(void) {
  directory_remove(directory);
}

/* The exit code; a signal is one above 128. */
static int run_trainer(Arena *arena, const Options *options, const char *func) {
  const char *trainer = arena_print(arena, "%s/trainer", directory);
  char *words[] = {arena_print(arena, "%s", trainer),
                   "exec",
                   arena_print(arena, "--func=%s", func),
                   arena_print(arena, "--in=%s/in", directory),
                   arena_print(arena, "--out=%s/out", directory),
                   arena_print(arena, "--seed=%" PRId64, options->seed),
                   options->cpu ? "--device=cpu" : "--device=cuda",
                   NULL};
  fflush(NULL);
  pid_t pid = fork();
  if (pid < 0)
    environment_fail("cannot start the trainer: %s", strerror(errno));
  if (pid == 0) {
    execv(trainer, words);
    _exit(127);
  }
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      environment_fail("cannot wait for the trainer: %s", strerror(errno));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---------------------------------------------------------------- what it reads */

static void add_tensor(Arena *arena, ExchangeTensor **list, const char *name, const Tensor *from) {
  ExchangeTensor t = {.name = name, .rank = from->rank};
  memcpy(t.dim, from->dim, sizeof from->dim);
  if (from->i) {
    t.i = from->i;
  } else {
    int64_t count = tensor_all_elements(from);
    float *data = arena_alloc(arena, (size_t)(count + 1) * sizeof *data);
    for (int64_t at = 0; at < count; at++)
      data[at] = (float)from->f[at];
    t.f = data;
  }
  vec_push(arena, *list, t);
}

/* "@NAME", "@TABLE::NAME!m", ...; for updates the gradients too. */
static void add_table(Arena *arena, ExchangeTensor **list, const TableValues *values, const char *prefix, bool moments,
                      bool gradient) {
  static const char *const marks[] = {"", "!m", "!v"};
  for (uint32_t i = 0; i < vec_len(values->table->params); i++) {
    const char *name = values->table->params[i].name;
    for (int slot = SLOT_VALUE; slot <= (moments ? SLOT_V : SLOT_VALUE); slot++)
      add_tensor(arena, list, arena_print(arena, "@%s%s%s", prefix, name, marks[slot]), values->slot[slot][i]);
    if (gradient)
      add_tensor(arena, list, arena_print(arena, "grad @%s", name), values->gradient[i]);
  }
}

static bool makes_table(const Func *f) {
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    if (strncmp(f->results[i].label, "param @", 7) == 0)
      return true;
  return false;
}

static void write_inputs(Arena *arena, const Check *check, const Func *f) {
  ExchangeTensor *list = NULL;
  const EvalEnvironment *env = inputs_environment(check->inputs, f);
  bool update = func_is_update(f);
  const Table *source = NULL;
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    const Value *value = &f->values[v];
    if (value->kind == VALUE_PARAMETER && value->table != f->table)
      source = value->table;
    if (value->kind == VALUE_ARGUMENT && !(update && is_segment_argument(value->name)))
      add_tensor(arena, &list, value->name, environment_argument(env, value->name));
  }
  if (f->table && (update || !makes_table(f)))
    add_table(arena, &list, inputs_table(check->inputs, f->table), "", update, update);
  if (source)
    add_table(arena, &list, inputs_table(check->inputs, source), arena_print(arena, "%s::", source->name), true, false);
  exchange_write(arena, arena_print(arena, "%s/in", directory), list);
}

/* ---------------------------------------------------------------- what it computed */

/* In the shape of `type`, every row live; NULL when the trainer gave another or none. */
static Tensor *read_tensor(Arena *arena, const Module *m, const ExchangeTensor *given, const char *name, Type type) {
  const ExchangeTensor *from = exchange_find(given, name);
  Tensor *t = tensor_of_type(arena, m, type);
  bool fits = from && from->rank == t->rank && (from->i != NULL) == (t->i != NULL);
  for (int d = 0; fits && d < t->rank; d++)
    fits = from->dim[d] == t->dim[d];
  for (int64_t at = 0; fits && at < tensor_all_elements(t); at++) {
    if (t->i)
      t->i[at] = from->i[at];
    else
      t->f[at] = (double)from->f[at];
  }
  return fits ? t : NULL;
}

/* By ValueId: what the trainer computed; NULL for values that never stood in its memory. */
static Tensor **read_values(Arena *arena, const Func *f, const ExchangeTensor *given) {
  Tensor **values = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *values);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_RESULT)
      values[v] =
          read_tensor(arena, f->module, given, arena_print(arena, "%%%s", f->values[v].name), f->values[v].type);
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    const Tensor *offsets = f->values[v].type.extent == NO_VALUE ? NULL : values[f->values[v].type.extent];
    int64_t live = offsets ? offsets->i[tensor_all_elements(offsets) - 1] : -1;
    if (values[v] && live >= 0 && live <= values[v]->dim[0])
      values[v]->live = live;
  }
  return values;
}

/* The trainer's choices, to be replayed; a mistake is noted for each that it did not give. */
static EvalDecisions *read_decisions(Check *check, const Func *f, Tensor *const *values, CheckRow *row) {
  EvalDecisions *decisions = arena_alloc(check->arena, sizeof *decisions);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    ValueId v = inst->output[0];
    if (!(op_info[inst->op].flags & FLAG_DECISION))
      continue;
    const char *name = f->values[v].name;
    if (values[v])
      vec_push(check->arena, decisions->items, (EvalDecision){.func = f->name, .value = name, .tensor = values[v]});
    else
      check_note(row, (Deviation){.what = arena_print(check->arena, "%%%s", name),
                                  .detail = "the trainer does not give this choice",
                                  .error = 1});
  }
  return decisions;
}

/* ---------------------------------------------------------------- function by function */

/* Whether something is rounded to bf16: arguments are given as numbers of their type. */
static Tolerance function_tolerance(const Func *f) {
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    for (int o = 0; o < f->insts[i].output_count; o++)
      if (f->values[f->insts[i].output[o]].type.dtype == DTYPE_BF16 && !(op_info[f->insts[i].op].flags & FLAG_VIEW))
        return bf16_tolerance;
  return f32_tolerance;
}

static void compare_results(Check *check, Arena *arena, const Func *f, const ExchangeTensor *given,
                            const EvalDecisions *decisions) {
  CheckRow *row = check_row(check, "results", f->name);
  EvalEnvironment *env = inputs_environment(check->inputs, f);
  Tolerance tolerance = function_tolerance(f);
  EvalReplay replay = {.from = decisions, .tolerance = tolerance.choice};
  env->replay = &replay;
  const Evaluation *run = eval_func(f, env, arena);
  env->replay = NULL;
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    const Result *result = &f->results[i];
    const Tensor *expected = run->tensors[result->value];
    Tensor *found = read_tensor(arena, f->module, given, result->label, f->values[result->value].type);
    Deviation d = {.what = result->label, .detail = "the trainer does not give this result", .error = 1};
    if (found) {
      found->live = expected->live;
      d = compare_tensors(result->label, found, expected, NULL, tolerance.result);
    }
    check_note(row, d);
  }
  note_conflicts(check, row, &replay);
}

static void check_function(Check *check, const Func *f) {
  Arena *arena = arena_new();
  write_inputs(arena, check, f);
  int code = run_trainer(arena, check->options, f->name);
  if (code != 0) {
    check_note(check_row(check, "ops", f->name), (Deviation){.what = "the trainer",
                                                             .detail = "does not run this function: its exit code",
                                                             .found = code,
                                                             .error = 1});
    arena_free(arena);
    return;
  }
  ExchangeTensor *given = exchange_read(arena, arena_print(arena, "%s/out", directory));
  Tensor **values = read_values(arena, f, given);
  CheckRow *row = check_row(check, "ops", f->name);
  int64_t mistakes = row->deviating;
  EvalDecisions *decisions = read_decisions(check, f, values, row);
  if (row->deviating == mistakes && check_ops(check, row, f, values, decisions))
    compare_results(check, arena, f, given, decisions);
  arena_free(arena);
}

void check_target(Check *check, const Module *m) {
  directory = temporary_directory(check->arena, "the trainer");
  atexit(remove_files);
  build_trainer(check->arena, check->options, arena_print(check->arena, "%s/trainer", directory), NULL);
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    if (phase_has(check->phase, m->funcs[i]))
      check_function(check, m->funcs[i]);
}
