/* Copies of the parameters in bf16, kept beside the f32 masters in an arena of their own.
 *
 * In: functions that cast parameters to bf16, at every call and, where the backward part makes them again, twice. Out:
 * such a cast is a place in the arena `param.bf16`, where parameter p stands at half its offset in `param`; the update
 * function gets a result "p<i>.bf16" for every segment, made by the kernel that makes "p<i>"; a function TABLE.copies
 * makes them all. Holds: whatever else writes parameters (@init, transitions, a checkpoint that is read) is followed by
 * the latter before a function uses copies; so a parameter that the update writes on its own (the next value of a
 * state) has none.
 */
#include "codegen/cuda_lower.h"

#include <string.h>

#include "passes/rewrite.h"

static bool has_result(const Func *f, const char *prefix) {
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    if (strncmp(f->results[i].label, prefix, strlen(prefix)) == 0)
      return true;
  return false;
}

static const Func *find_update(const Module *m, const Table *table) {
  return module_find_func(m, arena_print(m->arena, "%s.update", table->name));
}

/* Whether the runtime keeps a copy of this value, were one asked for by a function of the table. */
static bool is_kept(const Func *f, ValueId v) {
  const Value *from = &f->values[v];
  if (from->kind != VALUE_PARAMETER || from->slot != SLOT_VALUE || from->table != f->table || has_result(f, "param @"))
    return false;
  const Func *update = find_update(f->module, f->table);
  const char *next = arena_print(f->module->arena, "param @%s", from->parameter);
  return !update || (strcmp(update->name, f->name) != 0 && func_find_result(update, next) == NO_VALUE);
}

bool cuda_is_copy(const Func *f, const Inst *inst) {
  return inst->op == OP_cast && inst->group == NO_GROUP && f->values[inst->output[0]].type.dtype == DTYPE_BF16 &&
         is_kept(f, inst->input[0]);
}

ValueId cuda_copied_parameter(const Func *f, ValueId v) {
  while (f->values[v].kind == VALUE_RESULT && f->insts[f->values[v].inst].op == OP_reshape)
    v = f->insts[f->values[v].inst].input[0];
  return is_kept(f, v) ? v : NO_VALUE;
}

bool cuda_has_copies(const Module *m, const Table *table) {
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    for (uint32_t k = 0; m->funcs[i]->table == table && k < vec_len(m->funcs[i]->insts); k++)
      if (cuda_is_copy(m->funcs[i], &m->funcs[i]->insts[k]))
        return true;
  return false;
}

int64_t plan_copy_bytes(const Plan *plan, const Table *table) {
  bool copies = plan->target == PLAN_CUDA && cuda_has_copies(plan->module, table);
  return copies ? table->size * (int64_t)dtype_size(DTYPE_BF16) : 0;
}

/* ---------------------------------------------------------------- all at once */

static Func *copy_func(const Func *f) {
  Func *copy = arena_alloc(f->module->arena, sizeof *copy);
  *copy = *f; /* the index of names repairs itself */
  return copy;
}

const Func *cuda_copies_func(const Module *m, const Table *table) {
  const Func *like = NULL;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    like = m->funcs[i]->table == table ? m->funcs[i] : like;
  Func *f = copy_func(like);
  f->name = arena_print(m->arena, "%s.copies", table->name);
  f->values = NULL;
  f->insts = NULL;
  f->results = NULL;
  f->group_notes = NULL;
  const Dim size = dim_number(table->size);
  const ValueId all = func_add_argument(f, "p", type_make(DTYPE_F32, 1, &size));
  const Attr attr = attr_dtype(DTYPE_BF16);
  func_add_result(f, "p.bf16", build(f, OP_cast, (Loc){0}, &all, 1, &attr, 1));
  return f;
}

/* ---------------------------------------------------------------- updates */

static uint32_t behind_views(const Func *f, ValueId v) {
  while (f->values[v].kind == VALUE_RESULT && op_info[f->insts[f->values[v].inst].op].flags & FLAG_VIEW)
    v = f->insts[f->values[v].inst].input[0];
  return v;
}

/* Behind the copy of the last instruction of its kernel, the old value in bf16. */
static ValueId write_copy(Rewrite *r, ValueId old) {
  const Inst *maker = &r->old.insts[r->old.values[old].inst];
  const Attr attr = attr_dtype(DTYPE_BF16);
  const ValueId from = rewrite_value(r, old);
  Inst *cast = build_inst(r->f, OP_cast, maker->loc, &from, 1, &attr, 1);
  cast->group = maker->group;
  return cast->output[0];
}

/* Whether a segment's new parameters are this result, "p3"; its number. */
static bool is_segment(const Result *result, int *number) {
  int end = 0;
  return sscanf(result->label, "p%d%n", number, &end) == 1 && result->label[end] == '\0';
}

static Func *write_update(const Func *f) {
  const Module *m = f->module;
  Func *copy = copy_func(f);
  Rewrite r = rewrite_begin(copy);
  const size_t bytes = (vec_len(f->results) + 1) * sizeof(ValueId);
  ValueId *made = memset(arena_alloc(m->arena, bytes), 0xff, bytes); /* by result: its value in bf16 */
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const uint32_t group = f->insts[i].group;
    rewrite_copy(&r, i);
    if (group != NO_GROUP && i + 1 < vec_len(f->insts) && f->insts[i + 1].group == group)
      continue;
    for (uint32_t k = 0; k < vec_len(f->results); k++) {
      const ValueId v = behind_views(f, f->results[k].value);
      int number;
      if (!is_segment(&f->results[k], &number) || f->values[v].kind != VALUE_RESULT)
        continue;
      const uint32_t maker = f->values[v].inst;
      if (group != NO_GROUP ? f->insts[maker].group == group : maker == i)
        made[k] = write_copy(&r, v);
    }
  }
  rewrite_end(&r);
  for (uint32_t k = 0; k < vec_len(f->results); k++) {
    int number;
    if (is_segment(&f->results[k], &number) && made[k] != NO_VALUE)
      func_add_result(copy, arena_print(m->arena, "p%d.bf16", number), made[k]);
  }
  return copy;
}

const Func *cuda_with_copies(const Func *f) {
  const bool update = f->table && find_update(f->module, f->table) == f;
  return update && cuda_has_copies(f->module, f->table) ? write_update(f) : f;
}
