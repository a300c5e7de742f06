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
static const double moved = 0.02;

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

bool is_update_function(const Func *f) {
  if (!f->table)
    return false;
  size_t length = strlen(f->table->name);
  return strncmp(f->name, f->table->name, length) == 0 && strcmp(f->name + length, ".update") == 0;
}

/* The first phase the function belongs to; @init to the first of all. */
static uint32_t phase_of(const Module *m, const Func *f) {
  for (uint32_t i = 0; i < vec_len(m->phases); i++)
    if (phase_has(m->phases[i], f))
      return i;
  if (strcmp(f->name, "init") != 0)
    ir_bug("check: @%s belongs to no phase", f->name);
  return 0;
}

/* Updates done when the phase begins; the phase behind the last begins where an open one ends. */
static int64_t phase_start(const Module *m, uint32_t phase) {
  int64_t start = 0;
  for (uint32_t i = 0; i < phase; i++)
    start += m->phases[i]->steps;
  return start;
}

static int64_t phase_steps(const Module *m, uint32_t phase) {
  int64_t left = m->steps - phase_start(m, phase);
  return m->phases[phase]->steps ? m->phases[phase]->steps : left > 1 ? left : 1;
}

static bool is_transition(const Module *m, const Func *f) {
  const char *enter = m->phases[phase_of(m, f)]->enter;
  return enter && strcmp(enter, f->name) == 0;
}

/* The step within the phase at which the function runs. */
static int64_t step_in_phase(const Module *m, const Func *f) {
  return is_transition(m, f) ? 0 : phase_steps(m, phase_of(m, f)) / 2;
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

static double schedule_value(const Module *m, const char *name, int64_t step) {
  for (uint32_t i = 0; i < vec_len(m->schedules); i++) {
    const Schedule *s = m->schedules[i];
    if (strcmp(s->name, name) == 0)
      return s->values[step < vec_len(s->values) ? step : vec_len(s->values) - 1];
  }
  ir_bug("check: there is no schedule %s", name);
}

static double scalar_argument(const CheckInputs *in, const Func *f, const Rows *r, const char *name) {
  const Module *m = in->module;
  uint32_t phase = phase_of(m, f);
  int64_t step = step_in_phase(m, f), global = phase_start(m, phase) + step;
  int segment = numbered(name, "t");
  if (strcmp(name, "step") == 0)
    return (double)global;
  if (strcmp(name, "inverse_targets") == 0)
    return func_find_result(f, "loss") != NO_VALUE ? round_f32(1 / r->targets) : 1;
  if (strcmp(name, "lr") == 0)
    return schedule_value(m, "lr", global);
  if (segment >= 0 && is_update_function(f))
    return (double)(global - phase_start(m, (uint32_t)f->table->segments[segment].birth) + 1);
  return schedule_value(m, arena_print(in->arena, "%s.%s", m->phases[phase]->name, name), step);
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

static void bind_arguments(const CheckInputs *in, const Func *f, EvalEnvironment *env) {
  Rows rows = make_rows(in, f);
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    const Value *value = &f->values[v];
    if (value->kind != VALUE_ARGUMENT)
      continue;
    Tensor *t = tensor_of_type(in->arena, in->module, value->type);
    int segment = is_update_function(f) ? numbered(value->name, "pgmv") : -1;
    if (segment >= 0) {
      fill_segment(in, f, value->name[0], segment, t);
    } else if (!fill_data(in, &rows, value->name, t)) {
      double scalar = scalar_argument(in, f, &rows, value->name);
      if (t->i)
        t->i[0] = (int32_t)scalar;
      else
        t->f[0] = scalar;
    }
    eval_bind_argument(env, value->name, t);
  }
}

/* ---------------------------------------------------------------- tables */

const TableValues *inputs_table(const CheckInputs *in, const Table *table) {
  for (uint32_t i = 0; i < vec_len(in->tables); i++)
    if (in->tables[i].table == table)
      return &in->tables[i];
  return NULL;
}

static void bind_table(EvalEnvironment *env, const TableValues *values) {
  for (uint32_t i = 0; values && i < vec_len(values->table->params); i++)
    for (int slot = SLOT_VALUE; slot <= SLOT_V; slot++)
      eval_bind_parameter(env, values->table, values->table->params[i].name, (ParamSlot)slot, values->slot[slot][i]);
}

/* A table's tensor out of the results of the function that makes the table; without one it is drawn. */
static Tensor *table_tensor(const CheckInputs *in, const Evaluation *run, const Param *p, const char *letter,
                            double width) {
  const char *label = arena_print(in->arena, "%s @%s", letter, p->name);
  const Tensor *made = eval_result(run, label);
  if (made)
    return copy_rounded(in->arena, made);
  return draw_tensor(in, p->type, label, width, letter[0] == 'v');
}

static void move(const CheckInputs *in, const Param *p, Tensor *t) {
  for (int64_t at = 0; p->segment >= 0 && at < tensor_all_elements(t); at++)
    t->f[at] = round_f32(t->f[at] + (2 * draw(in, p->name, at) - 1) * moved);
}

/* The values of a table from a run of @init or of the transition into it. */
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
  }
  vec_push(in->arena, in->tables, values);
}

/* Runs @init, then every transition in order. */
static void make_tables(CheckInputs *in) {
  const Module *m = in->module;
  for (uint32_t i = 0; i < vec_len(m->phases); i++) {
    const Phase *phase = m->phases[i];
    if (inputs_table(in, phase->table))
      continue;
    const char *name = i == 0 ? "init" : phase->enter;
    const Func *f = name ? module_find_func(m, name) : NULL;
    if (!f)
      ir_bug("check: no function makes the table @%s of phase %s", phase->table->name, phase->name);
    EvalEnvironment *env = eval_environment_new(in->arena, in->seed);
    bind_arguments(in, f, env);
    if (i > 0)
      bind_table(env, inputs_table(in, m->phases[i - 1]->table));
    Arena *scratch = arena_new();
    add_table(in, phase->table, eval_func(f, env, scratch));
    arena_free(scratch);
  }
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
