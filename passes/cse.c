/* Common subexpression elimination.
 *
 * In: any module. Out: an instruction with the op, operands and attributes of an earlier one is replaced by it. Holds:
 * bit-equal results. Random ops are pure functions of operands and tag, so they merge too.
 *
 * Left alone: route, whose outputs name each other (a merged one would give two names to one ragged extent for nothing:
 * a gate's mask is routed once), and broadcast, which costs nothing where it is read but, shared over a long distance,
 * would have to be kept in memory. */
#include "passes/pass.h"
#include "passes/rewrite.h"

#include <string.h>

static uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

static bool commutes(Op op) {
  return op == OP_add || op == OP_mul || op == OP_equal;
}

/* Equal instructions have equal hashes: the order of commuting operands and of attributes does not enter. */
static uint64_t hash_inst(const Inst *inst) {
  uint64_t hash = mix(inst->op, inst->input_count), attributes = 0;
  if (commutes(inst->op))
    hash = mix(hash, mix(0, inst->input[0]) + mix(0, inst->input[1]));
  else
    for (int i = 0; i < inst->input_count; i++)
      hash = mix(hash, inst->input[i]);
  for (int i = 0; i < inst->attr_count; i++) {
    const Attr *a = &inst->attr[i]; /* dims and shapes are equal by value, so only their names enter */
    const bool number = attr_kind[a->name] == ATTR_INT || attr_kind[a->name] == ATTR_FLOAT;
    attributes += mix(a->name, number ? (uint64_t)a->i : 0);
  }
  return mix(hash, attributes);
}

static bool attr_equal(const Module *m, const Attr *a, const Attr *b) {
  switch (attr_kind[a->name]) {
  case ATTR_INT:
    return a->i == b->i;
  case ATTR_FLOAT: /* bits: 0 and -0 differ, a NaN is itself */
    return memcmp(&a->f, &b->f, sizeof a->f) == 0;
  case ATTR_DTYPE:
    return a->dtype == b->dtype;
  case ATTR_DIM:
    return dim_equal(m, a->dim, b->dim);
  case ATTR_SHAPE:
    for (int i = 0; i < a->shape.rank; i++)
      if (a->shape.rank != b->shape.rank || !dim_equal(m, a->shape.dim[i], b->shape.dim[i]))
        return false;
    return a->shape.rank == b->shape.rank;
  }
  return false;
}

static bool operands_equal(const Inst *a, const Inst *b) {
  if (commutes(a->op) && a->input[0] == b->input[1] && a->input[1] == b->input[0])
    return true;
  for (int i = 0; i < a->input_count; i++)
    if (a->input[i] != b->input[i])
      return false;
  return true;
}

static bool inst_equal(const Module *m, const Inst *a, const Inst *b) {
  if (a->op != b->op || a->input_count != b->input_count || a->attr_count != b->attr_count)
    return false;
  if (!operands_equal(a, b))
    return false;
  for (int i = 0; i < a->attr_count; i++) {
    const Attr *other = inst_attr(b, a->attr[i].name);
    if (other == NULL || !attr_equal(m, &a->attr[i], other))
      return false;
  }
  return true;
}

/* Open hash table of instructions of the new function; NO_VALUE marks a free entry. */
typedef struct InstTable {
  uint32_t *entry;
  uint32_t mask;
} InstTable;

static InstTable table_for(Arena *arena, uint32_t count) {
  uint32_t capacity = 16;
  while (capacity < 2 * count)
    capacity *= 2;
  InstTable t = {arena_alloc(arena, capacity * sizeof *t.entry), capacity - 1};
  memset(t.entry, 0xff, capacity * sizeof *t.entry);
  return t;
}

/* The earlier instruction equal to `inst`, or the free place where it belongs. */
static uint32_t *table_find(InstTable *t, const Func *f, const Inst *inst) {
  uint32_t at = (uint32_t)hash_inst(inst) & t->mask;
  while (t->entry[at] != NO_VALUE && !inst_equal(f->module, &f->insts[t->entry[at]], inst))
    at = (at + 1) & t->mask;
  return &t->entry[at];
}

static bool may_merge(Op op) {
  return op != OP_route && op != OP_broadcast && !(op_info[op].flags & FLAG_COMMUNICATES);
}

static bool cse_func(Func *f) {
  bool changed = false;
  Rewrite r = rewrite_begin(f);
  InstTable table = table_for(f->module->arena, vec_len(r.old.insts));
  for (uint32_t i = 0; i < vec_len(r.old.insts); i++) {
    const Inst *old = &r.old.insts[i];
    if (!may_merge(old->op)) {
      rewrite_copy(&r, i);
      continue;
    }
    Inst key = *old;
    ValueId pair[2];
    key.input = old->input_count <= 2 ? pair : arena_alloc(f->module->arena, old->input_count * sizeof *key.input);
    for (int k = 0; k < old->input_count; k++)
      key.input[k] = rewrite_value(&r, old->input[k]);
    uint32_t *place = table_find(&table, f, &key);
    if (*place == NO_VALUE) {
      *place = rewrite_copy(&r, i);
      continue;
    }
    changed = true;
    for (int k = 0; k < old->output_count; k++)
      rewrite_map(&r, old->output[k], f->insts[*place].output[k]);
  }
  rewrite_end(&r);
  return changed;
}

bool pass_cse(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(context->module->funcs); i++)
    changed |= cse_func(context->module->funcs[i]);
  return changed;
}
