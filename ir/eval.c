/* The interpreter's frame: tensors, bindings, and the loop over instructions.
 *
 * In: a verified function and an environment. Out: an Evaluation with a tensor for every value.
 * Holds: a tensor's shape is the static bound of its value's type; its dead rows are NaN or INT32_MIN.
 */
#include "ir/eval_private.h"

#include <math.h>
#include <string.h>

const EvalRule eval_rule[OP_COUNT] = {
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flop, eval, lower, doc) eval_##eval,
#include "ir/ops.def"
};

/* ---------------------------------------------------------------- tensors */

static int64_t tensor_rows(const Tensor *t) {
  return t->rank == 0 ? 1 : t->dim[0];
}

int64_t tensor_row_elements(const Tensor *t) {
  int64_t elements = 1;
  for (int d = 1; d < t->rank; d++)
    elements *= t->dim[d];
  return elements;
}

int64_t tensor_all_elements(const Tensor *t) {
  return tensor_rows(t) * tensor_row_elements(t);
}

int64_t tensor_live_elements(const Tensor *t) {
  return t->live * tensor_row_elements(t);
}

static void tensor_poison(Tensor *t, int64_t first_row) {
  int64_t end = tensor_all_elements(t);
  for (int64_t at = first_row * tensor_row_elements(t); at < end; at++) {
    if (t->i)
      t->i[at] = INT32_MIN;
    else
      t->f[at] = NAN;
  }
}

Tensor *tensor_new(Arena *arena, DType dtype, int rank, const int64_t *dims) {
  Tensor *t = arena_alloc(arena, sizeof *t);
  t->dtype = dtype;
  t->rank = (uint8_t)rank;
  for (int d = 0; d < rank; d++)
    t->dim[d] = dims[d];
  t->live = tensor_rows(t);
  size_t elements = (size_t)tensor_all_elements(t);
  if (dtype == DTYPE_I32)
    t->i = arena_alloc(arena, elements * sizeof *t->i);
  else
    t->f = arena_alloc(arena, elements * sizeof *t->f);
  tensor_poison(t, 0);
  return t;
}

Tensor *tensor_of_type(Arena *arena, const Module *m, Type type) {
  int64_t dims[MAX_RANK];
  for (int d = 0; d < type.rank; d++)
    dims[d] = dim_value(m, type.dim[d]);
  return tensor_new(arena, type.dtype, type.rank, dims);
}

Tensor *tensor_scalar_f32(Arena *arena, double value) {
  Tensor *t = tensor_new(arena, DTYPE_F32, 0, NULL);
  t->f[0] = value;
  return t;
}

Tensor *tensor_scalar_i32(Arena *arena, int32_t value) {
  Tensor *t = tensor_new(arena, DTYPE_I32, 0, NULL);
  t->i[0] = value;
  return t;
}

void tensor_copy_live(Tensor *to, const Tensor *from) {
  size_t count = (size_t)tensor_live_elements(to);
  if (to->i)
    memcpy(to->i, from->i, count * sizeof *to->i);
  else
    memcpy(to->f, from->f, count * sizeof *to->f);
}

/* ---------------------------------------------------------------- environment */

EvalEnvironment *eval_environment_new(Arena *arena, uint64_t seed) {
  EvalEnvironment *env = arena_alloc(arena, sizeof *env);
  env->arena = arena;
  env->seed = seed;
  return env;
}

static EvalBinding *find_binding(const EvalEnvironment *env, const Table *table, const char *name, ParamSlot slot) {
  for (uint32_t i = 0; i < vec_len(env->bindings); i++) {
    EvalBinding *b = &env->bindings[i];
    if (b->table == table && b->slot == slot && strcmp(b->name, name) == 0)
      return b;
  }
  return NULL;
}

static void bind(EvalEnvironment *env, const Table *table, const char *name, ParamSlot slot, const Tensor *tensor) {
  EvalBinding *b = find_binding(env, table, name, slot);
  if (b)
    b->tensor = tensor;
  else
    vec_push(env->arena, env->bindings,
             (EvalBinding){.table = table, .name = arena_intern(env->arena, name), .slot = slot, .tensor = tensor});
}

void eval_bind_argument(EvalEnvironment *env, const char *name, const Tensor *tensor) {
  bind(env, NULL, name, SLOT_VALUE, tensor);
}

void eval_bind_parameter(EvalEnvironment *env, const Table *table, const char *name, ParamSlot slot,
                         const Tensor *tensor) {
  bind(env, table, name, slot, tensor);
}

/* ---------------------------------------------------------------- data errors */

int64_t eval_check_index(const Inst *inst, const char *what, int64_t index, int64_t bound) {
  if (index < 0 || index >= bound)
    ir_fail(inst->loc, "%s %lld is out of range, expected 0 to %lld", what, (long long)index, (long long)bound - 1);
  return index;
}

int64_t eval_check_offsets(const Inst *inst, const Tensor *offsets, int64_t rows) {
  const char *op = op_info[inst->op].name;
  int64_t groups = tensor_all_elements(offsets) - 1;
  if (offsets->i[0] != 0)
    ir_fail(inst->loc, "%s: offsets start with %d, expected 0", op, offsets->i[0]);
  for (int64_t g = 0; g < groups; g++)
    if (offsets->i[g + 1] < offsets->i[g])
      ir_fail(inst->loc, "%s: offsets fall from %d to %d at %lld, expected them to rise", op, offsets->i[g],
              offsets->i[g + 1], (long long)g + 1);
  if (offsets->i[groups] > rows)
    ir_fail(inst->loc, "%s: offsets end at %d, expected at most %lld rows", op, offsets->i[groups], (long long)rows);
  return groups;
}

int64_t eval_broadcast_index(const Tensor *out, const Tensor *in, int64_t at) {
  int64_t index = 0, stride = 1;
  int missing = out->rank - in->rank;
  bool same = missing == 0;
  for (int d = 0; same && d < out->rank; d++)
    same = in->dim[d] == out->dim[d];
  if (same)
    return at;
  for (int d = out->rank - 1; d >= missing; d--) {
    int64_t coordinate = at % out->dim[d];
    at /= out->dim[d];
    if (in->dim[d - missing] != 1)
      index += coordinate * stride;
    stride *= in->dim[d - missing];
  }
  return index;
}

/* ---------------------------------------------------------------- running */

/* Live rows by the last entry of the type's offsets; -1 while those are not computed. */
static int64_t live_rows(const Evaluation *run, Loc loc, Type type, const char *name, int64_t bound) {
  if (type.extent == NO_VALUE)
    return bound;
  const Tensor *offsets = run->tensors[type.extent];
  if (!offsets)
    return -1;
  int32_t live = offsets->i[tensor_all_elements(offsets) - 1];
  if (live < 0 || live > bound)
    ir_fail(loc, "%%%s: its offsets end at %d, expected 0 to %lld rows", name, live, (long long)bound);
  return live;
}

/* The tensor of an argument or parameter: a copy of the bound one, with poisoned dead rows. */
static Tensor *bound_tensor(Evaluation *run, const Value *value) {
  const Func *f = run->func;
  bool is_argument = value->kind == VALUE_ARGUMENT;
  const char *name = is_argument ? value->name : value->parameter;
  EvalBinding *b = find_binding(run->env, is_argument ? NULL : value->table, name, value->slot);
  if (!b)
    ir_bug("interpreter: @%s: no tensor is bound to %s %s", f->name, is_argument ? "argument" : "parameter", name);
  Tensor *t = tensor_of_type(run->arena, f->module, value->type);
  const Tensor *given = b->tensor;
  bool same = (given->i == NULL) == (t->i == NULL) && given->rank == t->rank; /* a version may take bf16 for f32 */
  for (int d = 0; same && d < t->rank; d++)
    same = given->dim[d] == t->dim[d];
  if (!same)
    ir_bug("interpreter: @%s: the tensor bound to %s is not %s", f->name, name, type_text(f, value->type));
  t->live = live_rows(run, (Loc){NULL, 0}, value->type, value->name, t->live);
  tensor_copy_live(t, given);
  return t;
}

static void eval_inst(Evaluation *run, const Inst *inst) {
  const Func *f = run->func;
  for (int o = 0; o < inst->output_count; o++) {
    const Value *value = &f->values[inst->output[o]];
    Tensor *t = tensor_of_type(run->arena, f->module, value->type);
    t->live = live_rows(run, inst->loc, value->type, value->name, t->live);
    run->tensors[inst->output[o]] = t;
  }
  eval_rule[inst->op](run, inst);
  for (int o = 0; o < inst->output_count; o++) {
    const Value *value = &f->values[inst->output[o]];
    Tensor *t = run->tensors[inst->output[o]];
    if (t->live != live_rows(run, inst->loc, value->type, value->name, t->rank == 0 ? 1 : t->dim[0]))
      ir_bug("interpreter: %s left %%%s with %lld live rows", op_info[inst->op].name, value->name, (long long)t->live);
    tensor_poison(t, t->live); /* whatever the rule left there */
  }
  if (run->env->observe)
    run->env->observe(run->env->observe_context, run, (uint32_t)(inst - f->insts));
}

Evaluation *eval_func(const Func *f, EvalEnvironment *env, Arena *arena) {
  Evaluation *run = arena_alloc(arena, sizeof *run);
  *run = (Evaluation){.func = f, .env = env, .arena = arena};
  run->tensors = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *run->tensors);
  for (int ragged = 0; ragged < 2; ragged++) /* offsets before what they make ragged */
    for (uint32_t v = 0; v < vec_len(f->values); v++)
      if (f->values[v].kind != VALUE_RESULT && (f->values[v].type.extent != NO_VALUE) == ragged)
        run->tensors[v] = bound_tensor(run, &f->values[v]);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    eval_inst(run, &f->insts[i]);
  return run;
}

Evaluation *eval_again(const Evaluation *base, const bool *anew, Arena *arena) {
  const Func *f = base->func;
  Evaluation *run = arena_alloc(arena, sizeof *run);
  *run = (Evaluation){.func = f, .env = base->env, .arena = arena};
  run->tensors = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *run->tensors);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (!anew[v])
      run->tensors[v] = base->tensors[v];
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (anew[v] && f->values[v].kind != VALUE_RESULT)
      run->tensors[v] = bound_tensor(run, &f->values[v]);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    if (anew[f->insts[i].output[0]])
      eval_inst(run, &f->insts[i]);
  return run;
}

const Tensor *eval_result(const Evaluation *run, const char *label) {
  ValueId v = func_find_result(run->func, label);
  return v == NO_VALUE ? NULL : run->tensors[v];
}

const Tensor *eval_value(const Evaluation *run, const char *name) {
  ValueId v = func_find_value(run->func, name);
  return v == NO_VALUE ? NULL : run->tensors[v];
}
