/* Where values stand: storages, views, and the pinning of results into the flat arenas.
 *
 * In: a function. Out: plan->values and plan->storages, offsets within the act arena still open. Holds: a view shares
 * its operand's storage where the operand's gaps between rows allow it; an operand that only a concatenation reads is
 * made in its place there; a product that is added to a sum is added in the sum's storage. A result "grad @p", "param
 * @p", "m @p", "v @p" (update functions: "p0", "m0", ...; the next value of a state among the gradients) stands in its
 * arena as soon as it is made when nobody reads afterwards what it overwrites; else it is copied there behind the last
 * step.
 */
#include "codegen/cuda_lower.h"

#include <stdlib.h>
#include <string.h>

#include "ir/rows.h"

uint32_t lower_storage(Lower *l, Storage s) {
  s.fill = NO_INST;
  s.shares = NO_STORAGE;
  s.first = s.last = NO_STEP;
  vec_push(l->arena, l->plan->storages, s);
  return vec_len(l->plan->storages) - 1;
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

/* Element `offset` of an arena of the function's table. */
static Target arena_target(const Func *f, Space space, int64_t offset) {
  return (Target){space, space == SPACE_GRAD ? table_gradient_bytes(f->module, f->table, offset)
                                             : offset * (int64_t)dtype_size(DTYPE_F32)};
}

/* "p" and "p.bf16" of TABLE.copies: the whole arenas. */
static bool table_target(const Func *f, const char *name, Target *target) {
  size_t length = f->table ? strlen(f->table->name) : 0;
  if (!length || strncmp(f->name, f->table->name, length) != 0 || strcmp(f->name + length, ".copies") != 0)
    return false;
  *target = (Target){strcmp(name, "p") == 0 ? SPACE_PARAM : SPACE_PARAM_BF16, 0};
  return true;
}

/* "p3", "g3", "m3", "v3" of an update function: segment 3 in one of the arenas; "p3.bf16": its copy. */
static bool segment_target(const Func *f, const char *name, Target *target) {
  static const char letters[] = "pgmv", copy[] = ".bf16";
  static const Space spaces[] = {SPACE_PARAM, SPACE_GRAD, SPACE_M, SPACE_V};
  const char *letter = name[0] ? strchr(letters, name[0]) : NULL;
  const char *rest = letter ? name + 1 + strspn(name + 1, "0123456789") : name;
  bool copies = *letters == name[0] && strcmp(rest, copy) == 0;
  if (!func_is_update(f) || !letter || rest == name + 1 || (*rest && !copies))
    return false;
  unsigned long index = strtoul(name + 1, NULL, 10);
  if (index >= vec_len(f->table->segments))
    ir_bug("%s: %s names a segment that table @%s does not have", f->name, name, f->table->name);
  const Segment *segment = &f->table->segments[index];
  *target = copies ? (Target){SPACE_PARAM_BF16, segment->offset * (int64_t)dtype_size(DTYPE_BF16)}
                   : arena_target(f, spaces[letter - letters], segment->offset);
  return true;
}

/* Where a result must stand when the function ends; false: anywhere. */
static bool result_target(const Func *f, const char *label, Target *target) {
  static const struct {
    const char *prefix;
    Space space;
  } prefixes[] = {
      {"grad @", SPACE_GRAD}, {"param @", SPACE_PARAM}, {"m @", SPACE_M}, {"v @", SPACE_V}, {"next @", SPACE_GRAD}};
  for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
    size_t length = strlen(prefixes[i].prefix);
    if (strncmp(label, prefixes[i].prefix, length) == 0) {
      *target = arena_target(f, prefixes[i].space, find_param(f, f->table, label + length)->offset);
      return true;
    }
  }
  return segment_target(f, label, target) || table_target(f, label, target);
}

static Space parameter_space(const Func *f, const Value *value) {
  static const Space own[SLOT_COUNT] = {SPACE_PARAM, SPACE_M, SPACE_V, SPACE_GRAD};
  static const Space source[SLOT_COUNT] = {SPACE_SOURCE_PARAM, SPACE_SOURCE_M, SPACE_SOURCE_V};
  if (value->slot == SLOT_NEXT && value->table != f->table)
    ir_bug("%s: the next value of @%s belongs to updates of its own table", f->name, value->parameter);
  return value->table == f->table ? own[value->slot] : source[value->slot];
}

/* ---------------------------------------------------------------- values */

static void place_value(Lower *l, ValueId v, Storage s) {
  s.bytes = type_bytes(l->module, lower_type(l, v));
  s.value = v;
  l->plan->values[v] = (ValuePlace){{lower_storage(l, s), 0}, type_columns(l->module, lower_type(l, v))};
}

static void place_input(Lower *l, ValueId v) {
  const Value *value = &l->func->values[v];
  Target target = {SPACE_ACT, 0};
  if (value->kind == VALUE_PARAMETER) {
    const int64_t offset = find_param(l->func, value->table, value->parameter)->offset;
    target = arena_target(l->func, parameter_space(l->func, value), offset);
  } else if (!segment_target(l->func, value->name, &target)) {
    table_target(l->func, value->name, &target);
  }
  place_value(l, v,
              (Storage){.space = target.space, .offset = target.offset, .argument = value->kind == VALUE_ARGUMENT});
}

/* A parameter in bf16 that the runtime keeps. */
static void place_copy(Lower *l, const Inst *inst) {
  const Value *from = &l->func->values[inst->input[0]];
  int64_t offset = find_param(l->func, from->table, from->parameter)->offset * (int64_t)dtype_size(DTYPE_BF16);
  place_value(l, inst->output[0], (Storage){.space = SPACE_PARAM_BF16, .offset = offset});
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

/* Whether the step of an instruction writes this output with gaps between its rows. */
static bool writes_strided(const Inst *inst, uint8_t output) {
  switch (inst->op) {
  case OP_route:
  case OP_rank_rows:
  case OP_balanced_assignment:
  case OP_scatter_rows:
  case OP_grouped_outer:
    return false;
  case OP_attention:
    return output == 0;
  default:
    return true;
  }
}

/* Where the concatenation is one row, an operand is any matrix without gaps, perhaps behind reshapes: they are moved
 * with it. */
static ValueId behind_reshapes(const Lower *l, ValueId v, const uint32_t *uses) {
  const Value *value = &l->func->values[v];
  while (value->kind == VALUE_RESULT && l->func->insts[value->inst].op == OP_reshape && uses[v] == 1) {
    v = l->func->insts[value->inst].input[0];
    value = &l->func->values[v];
  }
  return v;
}

static bool is_own_storage(const Lower *l, ValueId v) {
  const Storage *s = &l->plan->storages[l->plan->values[v].place.storage];
  return l->func->values[v].kind == VALUE_RESULT && s->value == v && s->fill == NO_INST;
}

static void place_part(Lower *l, ValueId in, ValuePlace part, bool one_row, const uint32_t *uses) {
  const ValueId made = one_row ? behind_reshapes(l, in, uses) : in;
  const Value *value = &l->func->values[made];
  ValuePlace *place = &l->plan->values[made];
  const bool dense = place->ld == type_columns(l->module, lower_type(l, made));
  if (uses[made] != 1 || !is_own_storage(l, made))
    return;
  if (one_row ? !dense : !writes_strided(&l->func->insts[value->inst], value->output))
    return;
  if (!one_row)
    *place = part;
  for (ValueId v = in; one_row; v = l->func->insts[l->func->values[v].inst].input[0]) {
    l->plan->values[v].place = part.place;
    if (v == made)
      break;
  }
}

/* Operands that nobody else reads are made where the concatenation needs them. */
static void place_concat(Lower *l, const Inst *inst, const uint32_t *uses) {
  ValueId out = inst->output[0];
  ValuePlace part = l->plan->values[out];
  bool one_row = type_rows(l->module, lower_type(l, out)) == 1;
  for (int i = 0; i < inst->input_count; i++) {
    Type type = lower_type(l, inst->input[i]);
    place_part(l, inst->input[i], part, one_row, uses);
    part.place.offset += type_columns(l->module, type) * (int64_t)dtype_size(type.dtype);
  }
}

/* The product is added where the sum so far stands. */
static void place_sum(Lower *l, uint32_t index) {
  const ValueId made = l->func->insts[index].output[0], *operands = l->func->insts[index + 1].input;
  l->plan->values[made] = l->plan->values[operands[operands[0] == made]];
}

/* Whether a plain product makes or reads the value. */
static bool is_in_product(const Lower *l, ValueId v, uint32_t maker) {
  const Func *f = l->func;
  bool found = f->insts[maker].op == OP_matmul && f->insts[maker].group == NO_GROUP;
  for (uint32_t i = maker + 1; !found && i < vec_len(f->insts) && i <= l->last_use[v]; i++)
    if (f->insts[i].op == OP_matmul && f->insts[i].group == NO_GROUP)
      found = f->insts[i].input[0] == v || f->insts[i].input[1] == v;
  return found;
}

/* Tensor cores take 16 bytes at a time, which a row of, say, 50257 columns does not divide into: on a GPU, wide rows
 * that a product makes or reads begin at multiples of a cache line. */
static void pad_rows(Lower *l, uint32_t index, uint8_t output) {
  enum { WIDE = 1024, LINE = 128, VECTOR = 16 };
  const Inst *inst = &l->func->insts[index];
  const ValueId v = inst->output[output];
  const Type type = lower_type(l, v);
  const int64_t size = (int64_t)dtype_size(type.dtype), rows = type_rows(l->module, type);
  const int64_t bytes = type_columns(l->module, type) * size, padded = (bytes + LINE - 1) / LINE * LINE;
  if (l->target != PLAN_CUDA || type.rank != 2 || type.extent != NO_VALUE || rows == 1 || bytes < WIDE ||
      bytes % VECTOR == 0 || l->last_use[v] == UINT32_MAX || !writes_strided(inst, output) ||
      !is_in_product(l, v, index))
    return;
  l->plan->values[v].ld = padded / size;
  l->plan->storages[l->plan->values[v].place.storage].bytes = rows * padded;
}

static void place_outputs(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  if (inst->op == OP_reshape) {
    place_reshape(l, inst);
  } else if (inst->op == OP_split) {
    place_split(l, inst);
  } else if (index > 0 && l->adds[index - 1]) {
    l->plan->values[inst->output[0]] = l->plan->values[l->func->insts[index - 1].output[0]];
  } else if (l->adds[index]) {
    place_sum(l, index);
  } else if (l->target == PLAN_CUDA && cuda_is_copy(l->func, inst)) {
    place_copy(l, inst);
  } else {
    for (int i = 0; i < inst->output_count; i++) {
      place_value(l, inst->output[i], (Storage){0});
      pad_rows(l, index, (uint8_t)i);
    }
    if (inst->op == OP_const)
      l->plan->storages[l->plan->values[inst->output[0]].place.storage].fill = index;
  }
}

void lower_places(Lower *l) {
  const Func *f = l->func;
  l->plan->values = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *l->plan->values);
  l->ld = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *l->ld);
  l->offset = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *l->offset);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind != VALUE_RESULT)
      place_input(l, v);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    place_outputs(l, i);
  const uint32_t *uses = row_count_uses(f, l->arena);
  for (uint32_t i = vec_len(f->insts); i-- > 0;)
    if (f->insts[i].op == OP_concat && f->insts[i].group == NO_GROUP)
      place_concat(l, &f->insts[i], uses);
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    l->ld[v] = l->plan->values[v].ld;
    l->offset[v] = l->plan->values[v].place.offset;
  }
}

/* ---------------------------------------------------------------- pinning */

/* A step that reads an arena, from before any result stands in it. */
typedef struct ArenaRead {
  uint32_t step;
  const Field *field;
} ArenaRead;

static ArenaRead *find_arena_reads(const Lower *l) {
  ArenaRead *reads = NULL;
  for (uint32_t i = 0; i < vec_len(l->plan->steps); i++)
    for (uint32_t k = 0; k < vec_len(l->plan->steps[i].fields); k++) {
      const Field *field = &l->plan->steps[i].fields[k];
      if ((field->kind == FIELD_READ || field->kind == FIELD_COUNT) &&
          l->plan->storages[field->place.storage].space != SPACE_ACT)
        vec_push(l->arena, reads, (ArenaRead){i, field});
    }
  return reads;
}

static bool overlaps(const Storage *s, Target target, int64_t bytes) {
  return s->space == target.space && s->offset < target.offset + bytes && target.offset < s->offset + s->bytes;
}

/* The operand through which the step writes the storage, or NULL. */
static const Field *find_write(const Step *step, uint32_t storage) {
  for (uint32_t k = 0; k < vec_len(step->fields); k++)
    if (step->fields[k].kind == FIELD_WRITE && step->fields[k].place.storage == storage)
      return &step->fields[k];
  return NULL;
}

/* Whether the storage may stand at the target from its first write on: nobody reads what was there later than that
 * step, the step itself only element by element, and no result is what was there. */
static bool may_pin(const Lower *l, uint32_t storage, Target target, const ArenaRead *reads) {
  int64_t bytes = l->plan->storages[storage].bytes;
  uint32_t made = 0;
  while (made < vec_len(l->plan->steps) && !find_write(&l->plan->steps[made], storage))
    made++;
  if (made == vec_len(l->plan->steps))
    return false;
  for (uint32_t i = 0; i < vec_len(reads); i++) {
    const Storage *s = &l->plan->storages[reads[i].field->place.storage];
    if (reads[i].step < made || !overlaps(s, target, bytes))
      continue;
    if (reads[i].step > made || s->offset + reads[i].field->place.offset != target.offset ||
        !plan_may_overwrite(l->plan, reads[i].field, find_write(&l->plan->steps[made], storage)))
      return false;
  }
  for (uint32_t i = 0; i < vec_len(l->func->results); i++)
    if (overlaps(&l->plan->storages[lower_place(l, l->func->results[i].value).storage], target, bytes))
      return false;
  return true;
}

/* Puts the storage of a result into its arena, if that is safe. */
static void pin(Lower *l, ValueId v, Target target, const ArenaRead *reads) {
  const ValuePlace *place = &l->plan->values[v];
  Storage *s = &l->plan->storages[place->place.storage];
  Type type = lower_type(l, v);
  bool whole = place->place.offset == 0 && s->bytes == type_bytes(l->module, type) &&
               (place->ld == type_columns(l->module, type) || type_rows(l->module, type) == 1);
  if (s->space != SPACE_ACT || s->argument || s->fill != NO_INST || !whole ||
      !may_pin(l, place->place.storage, target, reads))
    return;
  s->space = target.space;
  s->offset = target.offset;
}

static void pin_results(Lower *l) {
  const ArenaRead *reads = find_arena_reads(l);
  for (uint32_t i = 0; i < vec_len(l->func->results); i++) {
    const Result *result = &l->func->results[i];
    Target target;
    if (result_target(l->func, result->label, &target))
      pin(l, result->value, target, reads);
    else
      l->plan->storages[lower_place(l, result->value).storage].result = true;
    ValueId extent = lower_type(l, result->value).extent;
    if (extent != NO_VALUE)
      l->plan->storages[lower_place(l, extent).storage].result = true;
  }
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
      Storage temporary = {.bytes = type_bytes(l->module, lower_type(l, v)), .value = NO_VALUE, .scratch = true};
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
  pin_results(l);
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
                       .bytes = type_bytes(l->module, lower_type(l, result->value)),
                       .value = result->value};
      place = (Place){.storage = lower_storage(l, arena)};
      vec_push(l->arena, copies, (PendingCopy){result->value, place.storage});
    }
    vec_push(l->arena, l->plan->results, (ResultPlace){result, place});
  }
  copy_results(l, copies);
}
