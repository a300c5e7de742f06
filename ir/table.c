/* Parameter tables and the layout of the flat arenas. */
#include <string.h>

#include "ir/internal.h"

Param *table_add_param(Table *t, Module *m, Param p) {
  if (table_find_param(t, p.name))
    ir_fail(no_loc, "table @%s: parameter @%s exists already", t->name, p.name);
  const char *problem = type_problem(m, p.type);
  if (problem)
    ir_fail(no_loc, "parameter @%s: %s: %s", p.name, type_text_in(m, NULL, t, p.type), problem);
  p.name = arena_intern(m->arena, p.name);
  vec_push(m->arena, t->params, p);
  return &vec_last(t->params);
}

Param *table_find_param(const Table *t, const char *name) {
  for (uint32_t i = 0; i < vec_len(t->params); i++)
    if (strcmp(t->params[i].name, name) == 0)
      return &t->params[i];
  return NULL;
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
