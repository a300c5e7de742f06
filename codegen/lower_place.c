/* Where values stand: storages, views, and the pinning of results into the flat arenas.
 *
 * In: a function. Out: plan->values and plan->storages, offsets within the act arena still open. Holds: a view shares
 * its operand's storage where the operand's gaps between rows allow it. A result "grad @p", "param @p", "m @p", "v @p"
 * (update functions: "p0", "m0", ...) stands in its arena as soon as it is made when nobody reads afterwards what it
 * overwrites; else it is copied there behind the last step.
 */
#include "codegen/lower.h"

#include <stdlib.h>
#include <string.h>

uint32_t lower_storage(Lower *l, Storage s) {
  s.fill = NO_INST;
  s.first = s.last = NO_STEP;
  vec_push(l->arena, l->plan->storages, s);
  return vec_len(l->plan->storages) - 1;
}

static int64_t type_bytes(const Lower *l, Type t) {
  return type_elements(l->module, t) * (int64_t)dtype_size(t.dtype);
}

/* ---------------------------------------------------------------- arenas */

typedef struct Target {
  Space space;
  int64_t offset; /* bytes */
} Target;

static const Param *find_param(const Func *f, const Table *table, const char *name) {
  const Param *p = table ? table_find_param(table, name) : NULL;
  if (!p)
    ir_bug("%s: no parameter @%s in table @%s", f->name, name, table ? table->name : "(none)");
  return p;
}

static bool is_update(const Func *f) {
  if (!f->table)
    return false;
  size_t length = strlen(f->table->name);
  return strncmp(f->name, f->table->name, length) == 0 && strcmp(f->name + length, ".update") == 0;
}

/* "p3", "g3", "m3", "v3" of an update function: segment 3 in one of the arenas. */
static bool segment_target(const Func *f, const char *name, Target *target) {
  static const char letters[] = "pgmv";
  static const Space spaces[] = {SPACE_PARAM, SPACE_GRAD, SPACE_M, SPACE_V};
  const char *letter = name[0] ? strchr(letters, name[0]) : NULL;
  if (!is_update(f) || !letter || !name[1] || strspn(name + 1, "0123456789") != strlen(name + 1))
    return false;
  unsigned long index = strtoul(name + 1, NULL, 10);
  if (index >= vec_len(f->table->segments))
    ir_bug("%s: %s names a segment that table @%s does not have", f->name, name, f->table->name);
  *target = (Target){spaces[letter - letters], f->table->segments[index].offset * (int64_t)sizeof(float)};
  return true;
}

/* Where a result must stand when the function ends; false: anywhere. */
static bool result_target(const Func *f, const char *label, Target *target) {
  static const struct {
    const char *prefix;
    Space space;
  } prefixes[] = {{"grad @", SPACE_GRAD}, {"param @", SPACE_PARAM}, {"m @", SPACE_M}, {"v @", SPACE_V}};
  for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
    size_t length = strlen(prefixes[i].prefix);
    if (strncmp(label, prefixes[i].prefix, length) == 0) {
      int64_t offset = find_param(f, f->table, label + length)->offset;
      *target = (Target){prefixes[i].space, offset * (int64_t)sizeof(float)};
      return true;
    }
  }
  return segment_target(f, label, target);
}

static Space parameter_space(const Func *f, const Value *value) {
  static const Space own[] = {SPACE_PARAM, SPACE_M, SPACE_V};
  static const Space source[] = {SPACE_SOURCE_PARAM, SPACE_SOURCE_M, SPACE_SOURCE_V};
  return value->table == f->table ? own[value->slot] : source[value->slot];
}

/* ---------------------------------------------------------------- values */

static void place_value(Lower *l, ValueId v, Storage s) {
  s.bytes = type_bytes(l, lower_type(l, v));
  s.value = v;
  l->plan->values[v] = (ValuePlace){{lower_storage(l, s), 0}, type_columns(l->module, lower_type(l, v))};
}

static void place_input(Lower *l, ValueId v) {
  const Value *value = &l->func->values[v];
  Target target = {SPACE_ACT, 0};
  if (value->kind == VALUE_PARAMETER) {
    target.space = parameter_space(l->func, value);
    target.offset = find_param(l->func, value->table, value->parameter)->offset * (int64_t)sizeof(float);
  } else {
    segment_target(l->func, value->name, &target);
  }
  place_value(l, v,
              (Storage){.space = target.space, .offset = target.offset, .argument = value->kind == VALUE_ARGUMENT});
}

static void place_reshape(Lower *l, const Inst *inst) {
  ValueId in = inst->input[0], out = inst->output[0];
  Type type = lower_type(l, in);
  int64_t columns = type_columns(l->module, type), new_columns = type_columns(l->module, lower_type(l, out));
  const ValuePlace *from = &l->plan->values[in];
  bool dense = from->ld == columns || type_rows(l->module, type) == 1;
  if (dense || columns == new_columns)
    l->plan->values[out] = (ValuePlace){from->place, dense ? new_columns : from->ld};
  else
    place_value(l, out, (Storage){0});
}

static void place_split(Lower *l, const Inst *inst) {
  ValuePlace part = l->plan->values[inst->input[0]];
  for (int i = 0; i < inst->output_count; i++) {
    Type type = lower_type(l, inst->output[i]);
    l->plan->values[inst->output[i]] = part;
    part.place.offset += type_columns(l->module, type) * (int64_t)dtype_size(type.dtype);
  }
}

static void place_outputs(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  if (inst->op == OP_reshape) {
    place_reshape(l, inst);
  } else if (inst->op == OP_split) {
    place_split(l, inst);
  } else {
    for (int i = 0; i < inst->output_count; i++)
      place_value(l, inst->output[i], (Storage){0});
    if (inst->op == OP_const)
      l->plan->storages[l->plan->values[inst->output[0]].place.storage].fill = index;
  }
}

/* ---------------------------------------------------------------- pinning */

/* Instructions first..last are one step. */
static void step_range(const Func *f, uint32_t inst, uint32_t *first, uint32_t *last) {
  uint32_t group = f->insts[inst].group;
  *first = *last = inst;
  while (group != NO_GROUP && *first > 0 && f->insts[*first - 1].group == group)
    --*first;
  while (group != NO_GROUP && *last + 1 < vec_len(f->insts) && f->insts[*last + 1].group == group)
    ++*last;
}

/* Whether the step first..last, which reads `old` and makes `made` in its place, is a loop over elements that reads an
 * element only before it writes it. */
static bool overwrites_elementwise(const Lower *l, ValueId old, ValueId made, uint32_t first, uint32_t last) {
  const Func *f = l->func;
  Type type = lower_type(l, made);
  int64_t rows = type_rows(l->module, type), columns = type_columns(l->module, type);
  for (uint32_t i = first; i <= last; i++) {
    const Inst *inst = &f->insts[i];
    if (op_info[inst->op].flags & FLAG_VIEW)
      continue;
    if (!(op_info[inst->op].flags & FLAG_ELEMENTWISE))
      return false;
    Type out = lower_type(l, inst->output[0]);
    for (int k = 0; k < inst->input_count; k++)
      if (inst->input[k] == old &&
          (i > f->values[made].inst || type_rows(l->module, out) != rows || type_columns(l->module, out) != columns))
        return false;
  }
  return type_rows(l->module, lower_type(l, old)) == rows && l->ld[old] == columns;
}

/* Whether `made` may be written to the target as soon as it is computed. */
static bool may_pin(const Lower *l, ValueId made, Target target, int64_t bytes) {
  uint32_t first, last;
  step_range(l->func, l->func->values[made].inst, &first, &last);
  for (uint32_t v = 0; v < vec_len(l->func->values); v++) {
    const ValuePlace *place = &l->plan->values[v];
    const Storage *s = &l->plan->storages[place->place.storage];
    if (s->space != target.space || s->offset >= target.offset + bytes || target.offset >= s->offset + s->bytes)
      continue;
    if (l->last_use[v] < first)
      continue;
    bool same = s->offset + place->place.offset == target.offset;
    if (l->last_use[v] > last || !same || !overwrites_elementwise(l, v, made, first, last))
      return false;
  }
  return true;
}

/* Puts the storage of a result into its arena, if that is safe. */
static bool pin(Lower *l, ValueId v, Target target) {
  const ValuePlace *place = &l->plan->values[v];
  Storage *s = &l->plan->storages[place->place.storage];
  Type type = lower_type(l, v);
  int64_t bytes = type_bytes(l, type);
  bool whole = place->place.offset == 0 && s->bytes == bytes &&
               (place->ld == type_columns(l->module, type) || type_rows(l->module, type) == 1);
  if (s->space != SPACE_ACT || s->argument || s->fill != NO_INST || !whole || !may_pin(l, s->value, target, bytes))
    return false;
  s->space = target.space;
  s->offset = target.offset;
  return true;
}

static void pin_results(Lower *l) {
  for (uint32_t i = 0; i < vec_len(l->func->results); i++) {
    const Result *result = &l->func->results[i];
    const ValuePlace *place = &l->plan->values[result->value];
    Storage *s = &l->plan->storages[place->place.storage];
    Target target;
    if (!result_target(l->func, result->label, &target))
      s->result = true;
    else if (s->space != target.space || s->offset + place->place.offset != target.offset)
      pin(l, result->value, target);
    ValueId extent = lower_type(l, result->value).extent;
    if (extent != NO_VALUE)
      l->plan->storages[l->plan->values[extent].place.storage].result = true;
  }
}

void lower_places(Lower *l) {
  const Func *f = l->func;
  l->plan->values = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *l->plan->values);
  l->ld = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *l->ld);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind != VALUE_RESULT)
      place_input(l, v);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    place_outputs(l, i);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    l->ld[v] = l->plan->values[v].ld;
  pin_results(l);
}

/* ---------------------------------------------------------------- results */

typedef struct PendingCopy {
  ValueId value;
  uint32_t to; /* storage in the arena */
} PendingCopy;

/* Copies of results: a source that another copy overwrites goes through the act arena. */
static void copy_results(Lower *l, const PendingCopy *copies) {
  Place *from = NULL;
  for (uint32_t i = 0; i < vec_len(copies); i++) {
    ValueId v = copies[i].value;
    Place place = lower_place(l, v);
    const Storage *s = &l->plan->storages[place.storage];
    bool overwritten = false;
    for (uint32_t k = 0; k < vec_len(copies); k++) {
      const Storage *to = &l->plan->storages[copies[k].to];
      overwritten |= s->space == to->space && s->offset < to->offset + to->bytes && to->offset < s->offset + s->bytes;
    }
    if (overwritten) {
      int64_t columns = type_columns(l->module, lower_type(l, v));
      Storage temporary = {.bytes = type_bytes(l, lower_type(l, v)), .value = NO_VALUE, .scratch = true};
      Place copy = {.storage = lower_storage(l, temporary)};
      lower_copy(l, NO_INST, lower_type(l, v), place, l->ld[v], copy, columns);
      place = copy;
    }
    vec_push(l->arena, from, place);
  }
  for (uint32_t i = 0; i < vec_len(copies); i++) {
    ValueId v = copies[i].value;
    int64_t columns = type_columns(l->module, lower_type(l, v));
    bool direct = from[i].storage == lower_place(l, v).storage;
    lower_copy(l, NO_INST, lower_type(l, v), from[i], direct ? l->ld[v] : columns, (Place){.storage = copies[i].to},
               columns);
  }
}

/* A result that is a constant still needs its memory written. */
static void touch_constant(Lower *l, Place place) {
  if (l->plan->storages[place.storage].fill != NO_INST) {
    Step unused = {0};
    step_read(l, &unused, NULL, place);
  }
}

void lower_results(Lower *l) {
  PendingCopy *copies = NULL;
  for (uint32_t i = 0; i < vec_len(l->func->results); i++) {
    const Result *result = &l->func->results[i];
    Place place = lower_place(l, result->value);
    touch_constant(l, place);
    const Storage *s = &l->plan->storages[place.storage];
    Target target;
    if (result_target(l->func, result->label, &target) &&
        (s->space != target.space || s->offset + place.offset != target.offset)) {
      Storage arena = {.space = target.space,
                       .offset = target.offset,
                       .bytes = type_bytes(l, lower_type(l, result->value)),
                       .value = result->value};
      place = (Place){.storage = lower_storage(l, arena)};
      vec_push(l->arena, copies, (PendingCopy){result->value, place.storage});
    }
    vec_push(l->arena, l->plan->results, (ResultPlace){result, place});
  }
  copy_results(l, copies);
}
