/* Copying a function forward through a value map. See rewrite.h. */
#include "passes/rewrite.h"

static void map_extent(Rewrite *r, ValueId v) {
  Type *t = &r->f->values[v].type;
  if (t->extent != NO_VALUE)
    t->extent = rewrite_value(r, t->extent);
}

Rewrite rewrite_begin(Func *f) {
  Arena *arena = f->module->arena;
  Rewrite r = {.f = f, .old = *f};
  const uint32_t count = vec_len(f->values);
  r.map = arena_alloc(arena, (count + 1) * sizeof *r.map);
  f->values = NULL;
  f->insts = NULL;
  f->results = NULL;
  for (ValueId v = 0; v < count; v++) {
    r.map[v] = NO_VALUE;
    if (r.old.values[v].kind != VALUE_RESULT) {
      r.map[v] = vec_len(f->values);
      vec_push(arena, f->values, r.old.values[v]);
    }
  }
  for (ValueId v = 0; v < vec_len(f->values); v++)
    map_extent(&r, v); /* an argument may be ragged by a later one */
  return r;
}

ValueId rewrite_value(const Rewrite *r, ValueId old) {
  if (r->map[old] == NO_VALUE)
    ir_bug("@%s: %%%s is used before it is defined", r->old.name, r->old.values[old].name);
  return r->map[old];
}

void rewrite_map(Rewrite *r, ValueId old, ValueId new_value) {
  r->map[old] = new_value;
}

/* A value that the pass has built may have taken, from the builder, the name of an old value that comes later. */
static void free_name(Func *f, const char *name) {
  const ValueId taken = func_find_value(f, name);
  if (taken != NO_VALUE && f->values[taken].kind == VALUE_RESULT)
    value_rename(f, taken,
                 arena_print(f->module->arena, "%s.%u", op_info[f->insts[f->values[taken].inst].op].name, taken));
}

uint32_t rewrite_copy(Rewrite *r, uint32_t index) {
  Func *f = r->f;
  Arena *arena = f->module->arena;
  Inst inst = r->old.insts[index];
  const ValueId *old_input = inst.input;
  inst.input = arena_alloc(arena, (inst.input_count + 1u) * sizeof *inst.input);
  for (int i = 0; i < inst.input_count; i++)
    inst.input[i] = rewrite_value(r, old_input[i]);
  const uint32_t copy = vec_len(f->insts);
  for (int i = 0; i < inst.output_count; i++) {
    const ValueId old = inst.output[i];
    Value value = r->old.values[old];
    value.inst = copy;
    free_name(f, value.name);
    r->map[old] = inst.output[i] = vec_len(f->values);
    vec_push(arena, f->values, value);
  }
  for (int i = 0; i < inst.output_count; i++)
    map_extent(r, inst.output[i]); /* route's pair is ragged by its own second output */
  vec_push(arena, f->insts, inst);
  return copy;
}

void rewrite_end(Rewrite *r) {
  for (uint32_t i = 0; i < vec_len(r->old.results); i++)
    func_add_result(r->f, r->old.results[i].label, rewrite_value(r, r->old.results[i].value));
}
