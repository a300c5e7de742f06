/* Inputs of a check: what every table holds and the arguments of every function.
 *
 * In: a module at stage GRAPH and a seed. Out: an environment of the interpreter per function. Holds: the parameters
 * are those of @init and of the transitions, moved a little, so that no bias is 0 and no two experts are alike; the
 * segments of a batch have different lengths, the last one of several is empty, and a tail of dead tokens follows; the
 * step is in the middle of the phase. Every number is one of f32, so that a trainer reads the same.
 */
#include <stdlib.h>
#include <string.h>

#include "frontend/check.h"

typedef struct FunctionInputs {
  const char *name;
  EvalEnvironment *env;
} FunctionInputs;

struct CheckInputs {
  Arena *arena;
  const Module *module;
  uint64_t seed;
  TableValues *tables;       /* arena vector */
  FunctionInputs *functions; /* arena vector */
};

/* How far parameters are moved from where they start. */
static const double moved = 0.1;

/* ---------------------------------------------------------------- numbers */

static double round_f32(double x) {
  return (double)(float)x;
}

/* The stream of draws that belongs to a name. */
static uint32_t stream(const char *name) {
  uint32_t hash = 2166136261u;
  for (; *name; name++)
    hash = (hash ^ (unsigned char)*name) * 16777619u;
  return hash;
}

/* In (0,1). */
static double draw(const CheckInputs *in, const char *name, int64_t index) {
  return eval_uniform_draw(in->seed, (uint64_t)index, stream(name), 0);
}

static int64_t draw_below(const CheckInputs *in, const char *name, int64_t index, int64_t bound) {
  return (int64_t)(draw(in, name, index) * (double)bound);
}

static Tensor *copy_rounded(Arena *arena, const Tensor *from) {
  Tensor *to = tensor_new(arena, from->dtype, from->rank, from->dim);
  for (int64_t at = 0; at < tensor_all_elements(from); at++) {
    if (to->i)
      to->i[at] = from->i[at];
    else
      to->f[at] = round_f32(from->f[at]);
  }
  return to;
}

/* Numbers in (-width, width), or their squares. */
static Tensor *draw_tensor(const CheckInputs *in, const Type type, const char *name, double width, bool square) {
  Tensor *t = tensor_of_type(in->arena, in->module, type);
  for (int64_t at = 0; at < tensor_all_elements(t); at++) {
    double x = (2 * draw(in, name, at) - 1) * width;
    t->f[at] = round_f32(square ? x * x : x);
  }
  return t;
}

/* ---------------------------------------------------------------- which function is what */

enum { NO_PHASE = -1 };

/* The first phase the function belongs to; @init to the first of all. IR text may have functions of no phase. */
static int phase_of(const Module *m, const Func *f) {
  for (uint32_t i = 0; i < vec_len(m->phases); i++)
    if (phase_has(m->phases[i], f))
      return (int)i;
  return strcmp(f->name, "init") == 0 && vec_len(m->phases) ? 0 : NO_PHASE;
}

/* Updates done when the phase begins; the phase behind the last begins where an open one ends. */
static int64_t phase_start(const Module *m, int phase) {
  int64_t start = 0;
  for (int i = 0; i < phase; i++)
    start += m->phases[i]->steps;
  return start;
}

/* The step within the phase at which the function runs: 0 for what leads into it. */
static int64_t step_in_phase(const Module *m, const Func *f) {
  int phase = phase_of(m, f);
  if (phase == NO_PHASE || (m->phases[phase]->enter && strcmp(m->phases[phase]->enter, f->name) == 0))
    return 0;
  int64_t left = m->steps - phase_start(m, phase);
  return (m->phases[phase]->steps ? m->phases[phase]->steps : left > 1 ? left : 1) / 2;
}

/* ---------------------------------------------------------------- arguments */

static int64_t argument_size(const Func *f, const char *name, int64_t otherwise) {
  ValueId v = func_find_value(f, name);
  return v == NO_VALUE ? otherwise : type_elements(f->module, f->values[v].type);
}

/* Tokens in segment `s` of `count`: between half and all of a sequence, at most what is left but for one dead token. */
static int64_t segment_length(const CheckInputs *in, int64_t s, int64_t count, int64_t left) {
  int64_t sequence = in->module->sequence_length;
  int64_t length = sequence - draw_below(in, "segment", s, sequence / 2 + 1);
  if (s > 1 && s == count - 1)
    return 0;
  return length < left ? length : left > 1 ? left - 1 : left;
}

/* The data arguments of a batch of n tokens in `count` segments. */
typedef struct Rows {
  int64_t n, count, live;
  int32_t *offset, *position;
  double *weight;
  double targets;
} Rows;

static Rows make_rows(const CheckInputs *in, const Func *f) {
  Rows r = {.n = argument_size(f, "tokens", 0), .count = argument_size(f, "off", 2) - 1};
  r.offset = arena_alloc(in->arena, (size_t)(r.count + 1) * sizeof *r.offset);
  r.position = arena_alloc(in->arena, (size_t)(r.n + 1) * sizeof *r.position);
  r.weight = arena_alloc(in->arena, (size_t)(r.n + 1) * sizeof *r.weight);
  for (int64_t s = 0; s < r.count; s++) {
    int64_t length = segment_length(in, s, r.count, r.n - r.live);
    for (int64_t i = 0; i < length; i++) {
      r.position[r.live + i] = (int32_t)i;
      r.weight[r.live + i] = draw(in, "weight", r.live + i) > 0.1 ? 1 : 0;
      r.targets += r.weight[r.live + i];
    }
    r.live += length;
    r.offset[s + 1] = (int32_t)r.live;
  }
  if (r.live > 0 && r.targets == 0)
    r.targets = r.weight[0] = 1;
  return r;
}

/* Fills an argument that has a value per token, segment or row; false when `name` is none. */
static bool fill_data(const CheckInputs *in, const Rows *r, const char *name, Tensor *t) {
  static const char *const names[] = {"tokens", "targets", "weight", "position", "off", "live", "token", "last"};
  size_t which = 0, count = sizeof names / sizeof names[0];
  while (which < count && strcmp(names[which], name) != 0)
    which++;
  for (int64_t at = 0; which < count && at < tensor_all_elements(t); at++) {
    bool is_live = at < r->live;
    switch (which) {
    case 0:
    case 1:
      t->i[at] = is_live ? (int32_t)draw_below(in, name, at, in->module->vocabulary) : 0;
      break;
    case 2:
      t->f[at] = r->weight[at];
      break;
    case 3:
      t->i[at] = r->position[at];
      break;
    case 4:
      t->i[at] = r->offset[at];
      break;
    case 5:
      t->f[at] = is_live ? 1 : 0;
      break;
    case 6:
      t->i[at] = (int32_t)at;
      break;
    default:
      t->i[at] = (int32_t)(r->live > 0 ? r->live - 1 : 0);
    }
  }
  return which < count;
}

/* "t3" with letters "t": 3; -1 when the name is not a letter of `letters` and digits. */
static int numbered(const char *name, const char *letters) {
  size_t digits = strspn(name + 1, "0123456789");
  if (!strchr(letters, name[0]) || digits == 0 || name[1 + digits])
    return -1;
  return (int)strtol(name + 1, NULL, 10);
}

bool is_segment_argument(const char *name) {
  return numbered(name, "pgmv") >= 0;
}

static bool schedule_value(const Module *m, const char *name, int64_t step, double *value) {
  for (uint32_t i = 0; i < vec_len(m->schedules); i++) {
    const Schedule *s = m->schedules[i];
    if (strcmp(s->name, name) == 0)
      *value = s->values[step < vec_len(s->values) ? step : vec_len(s->values) - 1];
    if (strcmp(s->name, name) == 0)
      return true;
  }
  return false;
}

/* False when nothing says what the argument is, as may be in IR text. */
static bool scalar_argument(const CheckInputs *in, const Func *f, const Rows *r, const char *name, double *value) {
  const Module *m = in->module;
  int phase = phase_of(m, f), segment = numbered(name, "t");
  int64_t step = step_in_phase(m, f), global = phase_start(m, phase) + step;
  if (strcmp(name, "step") == 0)
    *value = (double)global;
  else if (strcmp(name, "inverse_targets") == 0)
    *value = func_find_result(f, "loss") != NO_VALUE ? round_f32(1 / r->targets) : 1;
  else if (segment >= 0 && func_is_update(f))
    *value = (double)(global - phase_start(m, f->table->segments[segment].birth) + 1);
  else if (strcmp(name, "lr") == 0)
    return schedule_value(m, "lr", global, value);
  else
    return phase != NO_PHASE &&
           schedule_value(m, arena_print(in->arena, "%s.%s", m->phases[phase]->name, name), step, value);
  return true;
}

/* A segment of the table's parameters, gradients or moments as one flat tensor; 0 between parameters. */
static void fill_segment(const CheckInputs *in, const Func *f, char letter, int segment, Tensor *t) {
  const TableValues *values = inputs_table(in, f->table);
  Tensor **from = letter == 'g'   ? values->gradient
                  : letter == 'p' ? values->slot[SLOT_VALUE]
                  : letter == 'm' ? values->slot[SLOT_M]
                                  : values->slot[SLOT_V];
  for (int64_t at = 0; at < tensor_all_elements(t); at++)
    t->f[at] = 0;
  for (uint32_t i = 0; i < vec_len(f->table->params); i++) {
    const Param *p = &f->table->params[i];
    if (p->segment == segment)
      memcpy(t->f + (p->offset - f->table->segments[segment].offset), from[i]->f,
             (size_t)tensor_all_elements(from[i]) * sizeof *t->f);
  }
}

/* An argument of IR text that nothing is known of. As an index, a step or offsets only 0 is right everywhere. */
static Tensor *draw_argument(const CheckInputs *in, const Value *value) {
  if (value->type.dtype != DTYPE_I32)
    return draw_tensor(in, value->type, value->name, 1, false);
  Tensor *t = tensor_of_type(in->arena, in->module, value->type);
  memset(t->i, 0, (size_t)tensor_all_elements(t) * sizeof *t->i);
  return t;
}

static Tensor *make_argument(const CheckInputs *in, const Func *f, const Rows *rows, const Value *value) {
  Tensor *t = tensor_of_type(in->arena, in->module, value->type);
  int segment = func_is_update(f) ? numbered(value->name, "pgmv") : -1;
  double scalar;
  if (segment >= 0)
    fill_segment(in, f, value->name[0], segment, t);
  else if (fill_data(in, rows, value->name, t))
    return t;
  else if (t->rank > 0 || !scalar_argument(in, f, rows, value->name, &scalar))
    return draw_argument(in, value);
  else if (t->i)
    t->i[0] = (int32_t)scalar;
  else
    t->f[0] = scalar;
  return t;
}

static void bind_arguments(const CheckInputs *in, const Func *f, EvalEnvironment *env) {
  Rows rows = make_rows(in, f);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT)
      eval_bind_argument(env, f->values[v].name, make_argument(in, f, &rows, &f->values[v]));
}

/* ---------------------------------------------------------------- tables */

const TableValues *inputs_table(const CheckInputs *in, const Table *table) {
  for (uint32_t i = 0; i < vec_len(in->tables); i++)
    if (in->tables[i].table == table)
      return &in->tables[i];
  return NULL;
}

static void bind_table(EvalEnvironment *env, const TableValues *values) {
  for (uint32_t i = 0; values && i < vec_len(values->table->params); i++) {
    const char *name = values->table->params[i].name;
    for (int slot = SLOT_VALUE; slot <= SLOT_V; slot++)
      eval_bind_parameter(env, values->table, name, (ParamSlot)slot, values->slot[slot][i]);
    eval_bind_parameter(env, values->table, name, SLOT_NEXT, values->gradient[i]);
  }
}

/* A table's tensor out of the results of the function that makes the table; drawn where there is none. */
static Tensor *table_tensor(const CheckInputs *in, const Evaluation *run, const Param *p, const char *letter,
                            double width) {
  const char *label = arena_print(in->arena, "%s @%s", letter, p->name);
  const Tensor *made = run ? eval_result(run, label) : NULL;
  if (made)
    return copy_rounded(in->arena, made);
  return draw_tensor(in, p->type, label, width, letter[0] == 'v');
}

/* Gradients that are the same in bf16, which a version of the update may take. */
static void truncate_to_bf16(Tensor *t) {
  for (int64_t at = 0; at < tensor_all_elements(t); at++) {
    float x = (float)t->f[at];
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffff0000;
    memcpy(&x, &bits, sizeof bits);
    t->f[at] = x;
  }
}

static void move(const CheckInputs *in, const Param *p, Tensor *t) {
  for (int64_t at = 0; p->segment >= 0 && at < tensor_all_elements(t); at++)
    t->f[at] = round_f32(t->f[at] + (2 * draw(in, p->name, at) - 1) * moved);
}

/* The values of a table from a run of @init or of the transition into it; NULL: IR text without one. */
static void add_table(CheckInputs *in, const Table *table, const Evaluation *run) {
  uint32_t count = vec_len(table->params);
  TableValues values = {.table = table, .gradient = arena_alloc(in->arena, (count + 1) * sizeof *values.gradient)};
  for (int slot = SLOT_VALUE; slot <= SLOT_V; slot++)
    values.slot[slot] = arena_alloc(in->arena, (count + 1) * sizeof *values.slot[slot]);
  for (uint32_t i = 0; i < count; i++) {
    const Param *p = &table->params[i];
    values.slot[SLOT_VALUE][i] = table_tensor(in, run, p, "param", moved);
    move(in, p, values.slot[SLOT_VALUE][i]);
    values.slot[SLOT_M][i] = table_tensor(in, run, p, "m", moved);
    values.slot[SLOT_V][i] = table_tensor(in, run, p, "v", moved);
    values.gradient[i] = draw_tensor(in, p->type, arena_print(in->arena, "grad @%s", p->name), moved, false);
    if (p->segment >= 0)
      truncate_to_bf16(values.gradient[i]);
  }
  vec_push(in->arena, in->tables, values);
}

/* The table of a phase by @init or the transition into it, from tables that are there or drawn. */
static void make_table(CheckInputs *in, uint32_t phase) {
  const Module *m = in->module;
  const char *name = phase == 0 ? "init" : m->phases[phase]->enter;
  const Func *f = name ? module_find_func(m, name) : NULL;
  if (!f)
    return;
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_PARAMETER && !inputs_table(in, f->values[v].table))
      add_table(in, f->values[v].table, NULL);
  EvalEnvironment *env = eval_environment_new(in->arena, in->seed);
  bind_arguments(in, f, env);
  for (uint32_t t = 0; t < vec_len(in->tables); t++)
    bind_table(env, &in->tables[t]);
  Arena *scratch = arena_new();
  add_table(in, m->phases[phase]->table, eval_func(f, env, scratch));
  arena_free(scratch);
}

static void make_tables(CheckInputs *in) {
  const Module *m = in->module;
  for (uint32_t i = 0; i < vec_len(m->phases); i++)
    if (!inputs_table(in, m->phases[i]->table))
      make_table(in, i);
  for (uint32_t i = 0; i < vec_len(m->tables); i++)
    if (!inputs_table(in, m->tables[i]))
      add_table(in, m->tables[i], NULL);
}

/* ---------------------------------------------------------------- all together */

CheckInputs *inputs_new(const Module *m, uint64_t seed) {
  CheckInputs *in = arena_alloc(m->arena, sizeof *in);
  *in = (CheckInputs){.arena = m->arena, .module = m, .seed = seed};
  make_tables(in);
  for (uint32_t i = 0; i < vec_len(m->funcs); i++) {
    const Func *f = m->funcs[i];
    EvalEnvironment *env = eval_environment_new(in->arena, seed);
    bind_arguments(in, f, env);
    for (uint32_t t = 0; t < vec_len(in->tables); t++)
      bind_table(env, &in->tables[t]);
    vec_push(in->arena, in->functions, (FunctionInputs){f->name, env});
  }
  return in;
}

const Tensor *environment_argument(const EvalEnvironment *env, const char *name) {
  for (uint32_t i = 0; i < vec_len(env->bindings); i++)
    if (!env->bindings[i].table && strcmp(env->bindings[i].name, name) == 0)
      return env->bindings[i].tensor;
  ir_bug("check: no argument %s", name);
}

/* "dense.train.wide" is a version of "dense.train". */
static const FunctionInputs *find_function(const CheckInputs *in, const char *name) {
  for (uint32_t i = 0; i < vec_len(in->functions); i++) {
    size_t length = strlen(in->functions[i].name);
    if (strncmp(name, in->functions[i].name, length) == 0 && (name[length] == '\0' || name[length] == '.'))
      return &in->functions[i];
  }
  ir_bug("check: @%s is no version of a function of the script", name);
}

EvalEnvironment *inputs_environment(const CheckInputs *in, const Func *f) {
  return find_function(in, f->name)->env;
}

const char *inputs_origin(const CheckInputs *in, const char *func) {
  return find_function(in, func)->name;
}
