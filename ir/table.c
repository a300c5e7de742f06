/* Parameter tables and the layout of the flat arenas. */
#include <string.h>

#include "ir/internal.h"

/* Where parameters stand in the vector, by name: open addressing, 0 is empty, else 1 + the position. */
typedef struct ParamIndex {
  uint32_t slots; /* a power of two, more than twice the parameters */
  uint32_t position[];
} ParamIndex;

enum { FIRST_SLOTS = 64 };

/* The slot that holds the name, or the empty one where it belongs. */
static uint32_t *find_slot(const Table *t, const char *name) {
  ParamIndex *index = t->by_name;
  uint32_t i = text_hash(name) & (index->slots - 1);
  while (index->position[i] && strcmp(t->params[index->position[i] - 1].name, name) != 0)
    i = (i + 1) & (index->slots - 1);
  return &index->position[i];
}

static void index_params(Arena *arena, Table *t) {
  uint32_t count = vec_len(t->params), slots = t->by_name ? t->by_name->slots : FIRST_SLOTS / 2;
  if (t->by_name && 2 * count < slots) {
    *find_slot(t, t->params[count - 1].name) = count;
    return;
  }
  t->by_name = arena_alloc(arena, sizeof *t->by_name + 2 * slots * sizeof *t->by_name->position);
  t->by_name->slots = 2 * slots;
  for (uint32_t i = 0; i < count; i++)
    *find_slot(t, t->params[i].name) = i + 1;
}

Param *table_add_param(Table *t, Module *m, Param p) {
  if (table_find_param(t, p.name))
    ir_fail(no_loc, "table @%s: parameter @%s exists already", t->name, p.name);
  const char *problem = type_problem(m, p.type);
  if (problem)
    ir_fail(no_loc, "parameter @%s: %s: %s", p.name, type_text_in(m, NULL, t, p.type), problem);
  p.name = arena_intern(m->arena, p.name);
  vec_push(m->arena, t->params, p);
  index_params(m->arena, t);
  return &vec_last(t->params);
}

Param *table_find_param(const Table *t, const char *name) {
  uint32_t position = t->by_name ? *find_slot(t, name) : 0;
  return position ? &t->params[position - 1] : NULL;
}

static int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/* Places the parameters of one segment (-1: the frozen ones) behind `end`; returns the new end. */
static int64_t place_params(const Module *m, Table *t, int segment, int64_t end) {
  for (uint32_t i = 0; i < vec_len(t->params); i++) {
    Param *p = &t->params[i];
    if (p->segment != segment)
      continue;
    p->offset = end;
    end = round_up(end + type_elements(m, p->type), PARAM_ALIGN);
    if (end > MAX_ELEMENTS)
      ir_fail(no_loc, "table @%s: more than 2^48 elements of parameters", t->name);
  }
  return end;
}

void table_place(const Module *m, Table *t) {
  int segments = (int)vec_len(t->segments);
  for (uint32_t i = 0; i < vec_len(t->params); i++)
    if (t->params[i].segment < -1 || t->params[i].segment >= segments)
      ir_bug("table @%s: parameter @%s has no segment %d", t->name, t->params[i].name, t->params[i].segment);
  int64_t end = 0;
  for (int s = 0; s < segments; s++) {
    Segment *segment = &t->segments[s];
    segment->offset = end;
    end = round_up(place_params(m, t, s, end), SEGMENT_ROW);
    segment->size = end - segment->offset;
  }
  t->size = place_params(m, t, -1, end);
}

void table_layout(Module *m, Table *t) {
  table_place(m, t);
}

/* ---------------------------------------------------------------- gradients */

bool result_is_gradient(const Result *result) {
  return strncmp(result->label, "grad @", 6) == 0;
}

bool func_is_update(const Func *f) {
  const size_t length = f->table ? strlen(f->table->name) : 0;
  return length && strncmp(f->name, f->table->name, length) == 0 && strcmp(f->name + length, ".update") == 0;
}

bool func_is_gradient_argument(const Func *f, const Value *value) {
  const char *digits = value->name + 1;
  return value->kind == VALUE_ARGUMENT && value->name[0] == 'g' && *digits &&
         digits[strspn(digits, "0123456789")] == '\0' && func_is_update(f);
}

DType table_gradient_dtype(const Module *m, const Table *t) {
  for (uint32_t i = 0; i < vec_len(m->funcs); i++) {
    const Func *f = m->funcs[i];
    if (f->table != t)
      continue;
    for (uint32_t k = 0; k < vec_len(f->results); k++)
      if (result_is_gradient(&f->results[k]))
        return f->values[f->results[k].value].type.dtype;
    for (uint32_t v = 0; func_is_update(f) && v < vec_len(f->values); v++)
      if (func_is_gradient_argument(f, &f->values[v]))
        return f->values[v].type.dtype;
  }
  return DTYPE_F32;
}

int64_t table_gradient_bytes(const Module *m, const Table *t, int64_t offset) {
  const Segment *last = vec_len(t->segments) ? &vec_last(t->segments) : NULL;
  const int64_t end = last ? last->offset + last->size : 0, own = offset < end ? offset : end;
  return own * (int64_t)dtype_size(table_gradient_dtype(m, t)) + (offset - own) * (int64_t)dtype_size(DTYPE_F32);
}
