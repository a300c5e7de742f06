/* Building: modules, functions, values and instructions.
 *
 * Every append keeps the invariants that verify.c checks: operands exist before their use, names are unique in their
 * function, types come from the shape rule. A user's mistake in an operand or attribute ends in ir_fail with the line
 * of the instruction.
 *
 * The name index of a function is a hash table of keys "name" and, for parameters, "@reference". It is a cache: entries
 * are believed only when the value found still has that name, and it is rebuilt when the vector of values has moved
 * (which also covers passes that replace the vector).
 */
#include <string.h>

#include "ir/internal.h"

/* ---------------------------------------------------------------- names */

typedef struct NameEntry {
  const char *key;
  ValueId value;
  uint32_t next_suffix; /* the first suffix of this name that may be free */
} NameEntry;

typedef struct NameIndex {
  const Value *values; /* the vector that is indexed ... */
  uint32_t count;      /* ... up to here */
  NameEntry *entries;  /* open addressing; capacity a power of two */
  uint32_t capacity, used;
} NameIndex;

enum { FIRST_ENTRIES = 64 };

static NameEntry *entry_find(const NameIndex *index, const char *key) {
  uint32_t i = text_hash(key) & (index->capacity - 1);
  while (index->entries[i].key && strcmp(index->entries[i].key, key) != 0)
    i = (i + 1) & (index->capacity - 1);
  return &index->entries[i];
}

static void entry_set(Arena *arena, NameIndex *index, const char *key, ValueId value) {
  if (2 * index->used >= index->capacity) {
    NameEntry *old = index->entries;
    uint32_t old_capacity = index->capacity;
    index->capacity = old_capacity ? 2 * old_capacity : FIRST_ENTRIES;
    index->entries = arena_alloc(arena, index->capacity * sizeof *old);
    for (uint32_t i = 0; i < old_capacity; i++)
      if (old[i].key)
        *entry_find(index, old[i].key) = old[i];
  }
  NameEntry *entry = entry_find(index, key);
  if (!entry->key) {
    entry->key = key;
    index->used++;
  }
  entry->value = value;
}

char *parameter_text(const Func *f, const Table *table, const char *name, ParamSlot slot) {
  static const char *const slot_text[SLOT_COUNT] = {"", "!m", "!v", "!next"};
  if (table == f->table)
    return arena_print(f->module->arena, "@%s%s", name, slot_text[slot]);
  return arena_print(f->module->arena, "@%s::%s%s", table->name, name, slot_text[slot]);
}

static void index_value(const Func *f, ValueId v) {
  Arena *arena = f->module->arena;
  const Value *value = &f->values[v];
  if (value->name)
    entry_set(arena, f->index, value->name, v);
  if (value->kind == VALUE_PARAMETER)
    entry_set(arena, f->index, parameter_text(f, value->table, value->parameter, value->slot), v);
}

/* Brings the index up to date. */
static NameIndex *name_index(const Func *f) {
  NameIndex *index = f->index;
  if (!index)
    ir_bug("@%s was not made by module_add_func", f->name);
  uint32_t count = vec_len(f->values);
  if (index->values != f->values || index->count > count) {
    if (index->capacity)
      memset(index->entries, 0, index->capacity * sizeof *index->entries);
    index->used = index->count = 0;
    index->values = f->values;
  }
  if (!index->capacity)
    entry_set(f->module->arena, index, "", NO_VALUE); /* so that entry_find always has a table */
  for (; index->count < count; index->count++)
    index_value(f, index->count);
  return index;
}

void func_reindex(const Func *f) {
  f->index->values = NULL;
}

ValueId func_find_value(const Func *f, const char *name) {
  const NameEntry *entry = entry_find(name_index(f), name);
  if (!entry->key || entry->value >= vec_len(f->values) || strcmp(f->values[entry->value].name, name) != 0)
    return NO_VALUE;
  return entry->value;
}

bool name_is_valid(const char *name) {
  size_t length = strlen(name);
  return length > 0 && length <= MAX_NAME &&
         strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == length;
}

static const char *first_free(Func *f, const char *name) {
  Arena *arena = f->module->arena;
  NameEntry *entry = entry_find(f->index, name);
  for (uint32_t suffix = entry->next_suffix ? entry->next_suffix : 2;; suffix++) {
    const char *candidate = arena_print(arena, "%s_%u", name, suffix);
    if (func_find_value(f, candidate) == NO_VALUE) {
      entry->next_suffix = suffix + 1;
      return arena_intern(arena, candidate);
    }
  }
}

/* `name`, or name_2, name_3, ... when a value has it already. The text writes a parameter as @reference, so a parameter
 * never keeps a name from a value: it gives way. */
static const char *unique_name(Func *f, const char *name, ValueKind kind) {
  name = arena_intern(f->module->arena, name);
  ValueId holder = func_find_value(f, name);
  if (holder == NO_VALUE)
    return name;
  const char *other = first_free(f, name);
  if (kind == VALUE_PARAMETER || f->values[holder].kind != VALUE_PARAMETER)
    return other;
  f->values[holder].name = other;
  index_value(f, holder);
  return name;
}

void value_rename(Func *f, ValueId v, const char *name) {
  if (v >= vec_len(f->values))
    ir_bug("value_rename: @%s has no value %u", f->name, v);
  if (strcmp(f->values[v].name, name) == 0)
    return;
  name_index(f);
  f->values[v].name = unique_name(f, name, f->values[v].kind);
  index_value(f, v);
}

/* ---------------------------------------------------------------- modules, tables, functions */

Module *module_new(Arena *arena, const char *name) {
  Module *m = arena_alloc(arena, sizeof *m);
  m->arena = arena;
  m->name = arena_intern(arena, name);
  m->task = "lm";
  return m;
}

Table *module_add_table(Module *m, const char *name) {
  if (module_find_table(m, name))
    ir_bug("table @%s exists already", name);
  Table *t = arena_alloc(m->arena, sizeof *t);
  t->name = arena_intern(m->arena, name);
  vec_push(m->arena, m->tables, t);
  return t;
}

Func *module_add_func(Module *m, const char *name, Table *table) {
  Func *f = arena_alloc(m->arena, sizeof *f);
  f->name = arena_intern(m->arena, name);
  f->module = m;
  f->table = table;
  f->index = arena_alloc(m->arena, sizeof *f->index);
  vec_push(m->arena, f->group_notes, NULL); /* group 0 is "no group" */
  vec_push(m->arena, m->funcs, f);
  return f;
}

Func *module_find_func(const Module *m, const char *name) {
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    if (strcmp(m->funcs[i]->name, name) == 0)
      return m->funcs[i];
  return NULL;
}

Table *module_find_table(const Module *m, const char *name) {
  for (uint32_t i = 0; i < vec_len(m->tables); i++)
    if (strcmp(m->tables[i]->name, name) == 0)
      return m->tables[i];
  return NULL;
}

static bool symbol_name_is_valid(const char *name) {
  size_t length = strlen(name);
  return length > 0 && length <= MAX_SYMBOL_NAME && !(name[0] >= '0' && name[0] <= '9') &&
         strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == length;
}

SymbolId module_add_symbol(Module *m, const void *scope, const char *name, int64_t value) {
  if (!symbol_name_is_valid(name))
    ir_fail(no_loc, "'%.40s' is no name of a symbol, expected at most %d letters, digits and _", name, MAX_SYMBOL_NAME);
  if (value < 1 || value > MAX_ELEMENTS)
    ir_fail(no_loc, "symbol %s is %lld, expected 1 to 2^48", name, (long long)value);
  uint32_t count = vec_len(m->symbols);
  for (SymbolId i = 0; i < count; i++) {
    if (m->symbols[i].scope != scope || strcmp(m->symbols[i].name, name) != 0)
      continue;
    if (m->symbols[i].value != value)
      ir_fail(no_loc, "symbol %s is %lld already, found another value %lld", name, (long long)m->symbols[i].value,
              (long long)value);
    return i;
  }
  if (count == MAX_SYMBOLS)
    ir_fail(no_loc, "more than %d symbols", MAX_SYMBOLS);
  vec_push(m->arena, m->symbols, (Symbol){arena_intern(m->arena, name), value, scope});
  return count;
}

ValueId func_add_argument(Func *f, const char *name, Type type) {
  Arena *arena = f->module->arena;
  const char *problem = type_problem(f->module, type);
  if (problem)
    ir_fail(no_loc, "@%s: argument %%%s: %s: %s", f->name, name, type_text(f, type), problem);
  ValueId v = vec_len(f->values);
  const char *unique = unique_name(f, name, VALUE_ARGUMENT);
  vec_push(arena, f->values, (Value){.name = unique, .type = type, .kind = VALUE_ARGUMENT});
  return v;
}

ValueId func_parameter(Func *f, const Table *table, const char *name, ParamSlot slot) {
  Arena *arena = f->module->arena;
  if (!table)
    table = f->table;
  const Param *param = table ? table_find_param(table, name) : NULL;
  if (!param)
    ir_bug("@%s: table @%s has no parameter %s", f->name, table ? table->name : "-", name);
  const char *key = parameter_text(f, table, name, slot);
  const NameEntry *entry = entry_find(name_index(f), key);
  if (entry->key && entry->value < vec_len(f->values)) {
    const Value *value = &f->values[entry->value];
    if (value->kind == VALUE_PARAMETER && value->table == table && value->slot == slot &&
        strcmp(value->parameter, name) == 0)
      return entry->value;
  }
  ValueId v = vec_len(f->values);
  const char *unique = unique_name(f, key + 1, VALUE_PARAMETER);
  vec_push(arena, f->values,
           (Value){.name = unique,
                   .type = param->type,
                   .kind = VALUE_PARAMETER,
                   .slot = slot,
                   .table = table,
                   .parameter = param->name});
  return v;
}

void func_add_result(Func *f, const char *label, ValueId value) {
  if (value >= vec_len(f->values))
    ir_bug("@%s: result %s: no value %u", f->name, label, value);
  vec_push(f->module->arena, f->results, (Result){arena_intern(f->module->arena, label), value});
}

ValueId func_find_result(const Func *f, const char *label) {
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    if (strcmp(f->results[i].label, label) == 0)
      return f->results[i].value;
  return NO_VALUE;
}

/* ---------------------------------------------------------------- instructions */

static const char *count_text(Arena *arena, const OpInfo *info) {
  if (info->max_inputs < 0)
    return arena_print(arena, "at least %d", info->min_inputs);
  if (info->max_inputs > info->min_inputs)
    return arena_print(arena, "%d to %d", info->min_inputs, info->max_inputs);
  return arena_print(arena, "%d", info->min_inputs);
}

const char *inst_form_problem(const Module *m, Op op, int input_count, const Attr *attr, int attr_count) {
  const OpInfo *info = &op_info[op];
  int most = info->max_inputs < 0 ? MAX_INPUTS : info->max_inputs;
  if (input_count < info->min_inputs || input_count > most)
    return arena_print(m->arena, "%s: found %d operand%s, expected %s", info->name, input_count,
                       input_count == 1 ? "" : "s", count_text(m->arena, info));
  bool seen[ATTRIBUTE_COUNT] = {false};
  for (int i = 0; i < attr_count; i++) {
    AttrName name = attr[i].name;
    if (op_attr_use(op, name) == ATTR_USE_NONE)
      return arena_print(m->arena, "%s: unknown attribute '%s', expected %s", info->name, attr_name[name],
                         *info->attributes ? info->attributes : "none");
    if (seen[name])
      return arena_print(m->arena, "%s: attribute '%s' is given twice", info->name, attr_name[name]);
    seen[name] = true;
  }
  for (int name = 0; name < ATTRIBUTE_COUNT; name++)
    if (!seen[name] && op_attr_use(op, (AttrName)name) == ATTR_USE_REQUIRED)
      return arena_print(m->arena, "%s: attribute '%s' is missing", info->name, attr_name[name]);
  return NULL;
}

Inst *build_named(Func *f, Op op, Loc loc, const ValueId *input, int input_count, const Attr *attr, int attr_count,
                  const char *const *names) {
  const Module *m = f->module;
  if ((unsigned)op >= OP_COUNT)
    ir_bug("@%s: build: no op %d", f->name, (int)op);
  uint32_t value_count = vec_len(f->values);
  for (int i = 0; i < input_count; i++)
    if (input[i] >= value_count)
      ir_bug("@%s: build %s: operand %d is no value", f->name, op_info[op].name, i);
  const char *problem = inst_form_problem(m, op, input_count, attr, attr_count);
  if (problem)
    ir_fail(loc, "%s", problem);

  Inst inst = {.op = op, .loc = loc, .input_count = (uint16_t)input_count, .attr_count = (uint16_t)attr_count};
  inst.input = arena_alloc(m->arena, (size_t)input_count * sizeof *inst.input);
  inst.attr = arena_alloc(m->arena, (size_t)attr_count * sizeof *inst.attr);
  for (int i = 0; i < input_count; i++)
    inst.input[i] = input[i];
  for (int i = 0; i < attr_count; i++)
    inst.attr[i] = attr[i];
  int outputs = inst_output_count(&inst);
  inst.output_count = (uint16_t)outputs;
  for (int i = 0; i < outputs; i++)
    inst.output[i] = value_count + (uint32_t)i; /* known before the types: a ragged output may name a sibling */

  Type types[MAX_OUTPUTS];
  problem = shape_rule[op](f, &inst, types);
  for (int i = 0; !problem && i < outputs; i++) {
    const char *reason = type_problem(m, types[i]);
    if (reason)
      problem = arena_print(m->arena, "%s: result %s: %s", op_info[op].name, type_text(f, types[i]), reason);
  }
  if (problem)
    ir_fail(loc, "%s", problem);

  uint32_t number = vec_len(f->insts);
  vec_push(m->arena, f->insts, inst);
  for (int i = 0; i < outputs; i++) {
    const char *unique = unique_name(f, names ? names[i] : op_info[op].name, VALUE_RESULT);
    vec_push(m->arena, f->values,
             (Value){.name = unique, .type = types[i], .kind = VALUE_RESULT, .inst = number, .output = (uint8_t)i});
  }
  return &f->insts[number];
}

Inst *build_inst(Func *f, Op op, Loc loc, const ValueId *input, int input_count, const Attr *attr, int attr_count) {
  return build_named(f, op, loc, input, input_count, attr, attr_count, NULL);
}

ValueId build(Func *f, Op op, Loc loc, const ValueId *input, int input_count, const Attr *attr, int attr_count) {
  return build_named(f, op, loc, input, input_count, attr, attr_count, NULL)->output[0];
}

/* ---------------------------------------------------------------- short forms */

ValueId build1(Func *f, Op op, Loc loc, ValueId a) {
  return build(f, op, loc, &a, 1, NULL, 0);
}

ValueId build2(Func *f, Op op, Loc loc, ValueId a, ValueId b) {
  return build(f, op, loc, (ValueId[]){a, b}, 2, NULL, 0);
}

ValueId build_const(Func *f, Loc loc, double value) {
  Attr attr = attr_float(ATTRIBUTE_value, value);
  return build(f, OP_const, loc, NULL, 0, &attr, 1);
}

ValueId build_sum(Func *f, Loc loc, ValueId a, int axis) {
  Attr attr = attr_int(ATTRIBUTE_axis, axis);
  return build(f, OP_sum, loc, &a, 1, &attr, 1);
}

ValueId build_reshape(Func *f, Loc loc, ValueId a, int rank, const Dim *shape) {
  Attr attr = attr_shape(rank, shape);
  return build(f, OP_reshape, loc, &a, 1, &attr, 1);
}

ValueId build_broadcast(Func *f, Loc loc, ValueId a, Type like) {
  Type type = f->values[a].type;
  like.dtype = type.dtype;
  if (type_equal(f->module, type, like))
    return a;
  Attr attr = attr_shape(like.rank, like.dim);
  ValueId input[2] = {a, like.extent};
  return build(f, OP_broadcast, loc, input, like.extent == NO_VALUE ? 1 : 2, &attr, 1);
}

ValueId build_matmul(Func *f, Loc loc, ValueId a, ValueId b, bool ta, bool tb) {
  Attr attr[2];
  int count = 0;
  if (ta)
    attr[count++] = attr_int(ATTRIBUTE_ta, 1);
  if (tb)
    attr[count++] = attr_int(ATTRIBUTE_tb, 1);
  return build(f, OP_matmul, loc, (ValueId[]){a, b}, 2, attr, count);
}

/* ---------------------------------------------------------------- attributes */

Attr attr_int(AttrName name, int64_t value) {
  return (Attr){.name = name, .i = value};
}

Attr attr_float(AttrName name, double value) {
  return (Attr){.name = name, .f = value};
}

Attr attr_dtype(DType value) {
  return (Attr){.name = ATTRIBUTE_dtype, .dtype = value};
}

Attr attr_dim(AttrName name, Dim value) {
  return (Attr){.name = name, .dim = value};
}

Attr attr_shape(int rank, const Dim *shape) {
  if (rank < 0 || rank > MAX_RANK)
    ir_bug("a shape of rank %d", rank);
  Attr attr = {.name = ATTRIBUTE_shape};
  attr.shape.rank = (uint8_t)rank;
  for (int i = 0; i < rank; i++)
    attr.shape.dim[i] = shape[i];
  return attr;
}

const Attr *inst_attr(const Inst *inst, AttrName name) {
  for (int i = 0; i < inst->attr_count; i++)
    if (inst->attr[i].name == name)
      return &inst->attr[i];
  return NULL;
}

int64_t inst_int(const Inst *inst, AttrName name, int64_t otherwise) {
  const Attr *attr = inst_attr(inst, name);
  return attr ? attr->i : otherwise;
}

double inst_float(const Inst *inst, AttrName name, double otherwise) {
  const Attr *attr = inst_attr(inst, name);
  return attr ? attr->f : otherwise;
}
