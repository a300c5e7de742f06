/* Row-space facts of instructions, shared by the fusion passes and the kernel builder (rows.h).
 *
 * A group has one row space, that of its loop. Two kinds of instructions may stand in it with another one: those of a
 * single row (scalars, computed again for every row), and elementwise ones over packed rows that only feed a combine or
 * unpack of the group, which evaluates them at the rows of a token's slots.
 */
#include "ir/rows.h"

/* ---------------------------------------------------------------- shapes and spaces */

static bool is_ragged_vector(Type t) {
  return t.rank == 1 && t.extent != NO_VALUE;
}

static int64_t leading_product(const Module *m, Type t, int from) {
  int64_t product = 1;
  for (int i = from; i + 1 < t.rank; i++)
    product *= dim_value(m, t.dim[i]);
  return product;
}

RowShape row_shape(const Module *m, Type t) {
  if (t.rank == 0)
    return (RowShape){1, 1};
  int64_t last = dim_value(m, t.dim[t.rank - 1]);
  if (is_ragged_vector(t))
    return (RowShape){last, 1};
  return (RowShape){leading_product(m, t, 0), last};
}

static RowSpace space_of_type(const Module *m, Type t) {
  int64_t per_entry = t.extent != NO_VALUE && t.rank > 2 ? leading_product(m, t, 1) : 1;
  return (RowSpace){row_shape(m, t).rows, per_entry, t.extent};
}

static Type operand_type(const Func *f, const Inst *inst, int operand) {
  return f->values[inst->input[operand]].type;
}

static int reduced_axis(const Func *f, const Inst *inst) {
  int64_t axis = inst_int(inst, ATTRIBUTE_axis, -1);
  return (int)(axis < 0 ? axis + operand_type(f, inst, 0).rank : axis);
}

bool row_is_column_sum(const Func *f, const Inst *inst) {
  if (inst->op != OP_sum || reduced_axis(f, inst) != 0)
    return false;
  Type x = operand_type(f, inst, 0);
  return x.rank > 1 || is_ragged_vector(x);
}

RowSpace row_space(const Func *f, const Inst *inst) {
  if (!row_is_column_sum(f, inst))
    return space_of_type(f->module, f->values[inst->output[0]].type);
  Type x = operand_type(f, inst, 0);
  return (RowSpace){dim_value(f->module, x.dim[0]), 1, x.extent};
}

bool row_space_equal(RowSpace a, RowSpace b) {
  return a.rows == b.rows && a.rows_per_entry == b.rows_per_entry && a.extent == b.extent;
}

/* ---------------------------------------------------------------- ops and operands */

bool row_op(const Func *f, const Inst *inst) {
  if (op_info[inst->op].flags & FLAG_VIEW)
    return false;
  if (inst->op == OP_matmul) {
    Type out = f->values[inst->output[0]].type;
    return !inst_int(inst, ATTRIBUTE_ta, 0) && row_shape(f->module, out).columns <= ROW_PRODUCT_MAX &&
           row_shape(f->module, operand_type(f, inst, 0)).columns > 1;
  }
  return op_info[inst->op].flags & (FLAG_ELEMENTWISE | FLAG_ROW | FLAG_GATHER);
}

RowRead row_read(const Func *f, const Inst *inst, int operand) {
  switch (inst->op) {
  case OP_broadcast:
    return operand == 0 ? ROW_READ_ROW : ROW_READ_NOTHING;
  case OP_sum:
    return row_is_column_sum(f, inst) || reduced_axis(f, inst) == operand_type(f, inst, 0).rank - 1 ? ROW_READ_ROW
                                                                                                    : ROW_READ_ROWS;
  case OP_uniform:
  case OP_one_hot:
    return operand == 0 ? ROW_READ_ELEMENT : ROW_READ_ROW;
  case OP_pick:
    return operand == 0 ? ROW_READ_ROW : ROW_READ_ELEMENT;
  case OP_gather_rows:
    return operand == 0 ? ROW_READ_GATHER : ROW_READ_ELEMENT;
  case OP_dispatch:
  case OP_pack:
    return operand == 0 ? ROW_READ_GATHER : operand == 1 ? ROW_READ_ELEMENT : ROW_READ_NOTHING;
  case OP_combine:
    return operand == 0 ? ROW_READ_SLOTS : operand == 1 ? ROW_READ_WHOLE : ROW_READ_NOTHING;
  case OP_unpack:
    return operand == 0 ? ROW_READ_SLOTS : ROW_READ_WHOLE;
  case OP_expand:
    return operand == 0 ? ROW_READ_GATHER : ROW_READ_WHOLE;
  case OP_matmul:
    return operand == 0 ? ROW_READ_ROW : ROW_READ_WHOLE;
  default:
    return ROW_READ_ROW;
  }
}

RowAddress row_address(const Module *m, Type row_type, Type operand) {
  RowAddress address = {0};
  if (is_ragged_vector(row_type)) { /* n rows of one column */
    bool one = operand.rank == 0 || dim_value(m, operand.dim[0]) == 1;
    if (!one)
      address = (RowAddress){1, {{1, 0, 1}}};
    return address;
  }
  int shift = row_type.rank - operand.rank;
  int64_t divide = 1, stride = 1;
  bool joins = false; /* the dim behind is present too: one term covers both */
  for (int i = row_type.rank - 2; i >= 0; i--) {
    int64_t size = dim_value(m, row_type.dim[i]);
    int64_t own = i - shift >= 0 ? dim_value(m, operand.dim[i - shift]) : 1;
    if (size == 1)
      continue;
    if (own == size && joins)
      address.term[address.term_count - 1].modulo *= size;
    else if (own == size)
      address.term[address.term_count++] = (RowTerm){divide, size, stride};
    joins = own == size;
    divide *= size;
    stride *= own;
  }
  for (int i = 0; i < address.term_count; i++) /* r / divide is below the modulo of the outermost dim anyway */
    if (address.term[i].divide * address.term[i].modulo == divide)
      address.term[i].modulo = 0;
  return address;
}

bool row_address_is_same(RowAddress a) {
  return a.term_count == 1 && a.term[0].divide == 1 && a.term[0].modulo == 0 && a.term[0].stride == 1;
}

uint32_t *row_count_uses(const Func *f, Arena *arena) {
  uint32_t *uses = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *uses);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    for (int k = 0; k < f->insts[i].input_count; k++)
      uses[f->insts[i].input[k]]++;
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    uses[f->results[i].value]++;
  return uses;
}

/* ---------------------------------------------------------------- groups */

typedef struct Group {
  const Func *f;
  const uint32_t *insts;
  uint32_t count;
  const uint32_t *uses;
  RowSpace space;
} Group;

static const Inst *group_inst(const Group *g, uint32_t i) {
  return &g->f->insts[g->insts[i]];
}

/* The position in the group of the instruction that makes v; -1 when v comes from outside. */
static int group_definition(const Group *g, ValueId v) {
  const Value *value = &g->f->values[v];
  if (value->kind != VALUE_RESULT)
    return -1;
  for (uint32_t i = 0; i < g->count; i++)
    if (g->insts[i] == value->inst)
      return (int)i;
  return -1;
}

static bool is_view(const Inst *inst) {
  return op_info[inst->op].flags & FLAG_VIEW;
}

/* Behind views of the group: the value whose memory v is. */
static ValueId group_root(const Group *g, ValueId v) {
  for (int i = group_definition(g, v); i >= 0 && is_view(group_inst(g, (uint32_t)i)); i = group_definition(g, v))
    v = group_inst(g, (uint32_t)i)->input[0];
  return v;
}

/* Whether v, or a view of it that the group holds, is read behind the group. */
static bool used_outside(const Group *g, ValueId v) {
  uint32_t inside = 0;
  for (uint32_t i = 0; i < g->count; i++) {
    const Inst *inst = group_inst(g, i);
    for (int k = 0; k < inst->input_count; k++)
      inside += inst->input[k] == v;
    if (!is_view(inst) || inst->input[0] != v)
      continue;
    for (int k = 0; k < inst->output_count; k++)
      if (used_outside(g, inst->output[k]))
        return true;
  }
  return g->uses[v] > inside;
}

static const char *value_name(const Group *g, ValueId v) {
  return g->f->values[v].name;
}

#define refuse(...) return arena_print(g->f->module->arena, __VA_ARGS__)

/* Every reader of v is a combine or unpack of the group that reads it at slots, or elementwise and feeds only such. */
static bool feeds_slots(const Group *g, ValueId v) {
  if (used_outside(g, v))
    return false;
  for (uint32_t i = 0; i < g->count; i++) {
    const Inst *inst = group_inst(g, i);
    for (int k = 0; k < inst->input_count; k++) {
      if (inst->input[k] != v || row_read(g->f, inst, k) == ROW_READ_SLOTS)
        continue;
      bool elementwise = op_info[inst->op].flags & FLAG_ELEMENTWISE;
      if (!elementwise || row_space_equal(row_space(g->f, inst), g->space) || !feeds_slots(g, inst->output[0]))
        return false;
    }
  }
  return true;
}

/* An instruction over packed rows that a combine or unpack of the group evaluates at a token's slots. */
static bool is_slot_producer(const Group *g, const Inst *inst) {
  bool pointwise = (op_info[inst->op].flags & FLAG_ELEMENTWISE) || inst->op == OP_pack || inst->op == OP_expand ||
                   inst->op == OP_dispatch || inst->op == OP_gather_rows;
  return pointwise && row_space(g->f, inst).extent != NO_VALUE && g->space.extent == NO_VALUE &&
         feeds_slots(g, inst->output[0]);
}

/* A scalar that every row computes again. */
static bool is_invariant(const Group *g, const Inst *inst) {
  RowShape shape = row_shape(g->f->module, g->f->values[inst->output[0]].type);
  return (op_info[inst->op].flags & FLAG_ELEMENTWISE) && shape.rows == 1 && shape.columns == 1;
}

RowSpace row_group_space(const Func *f, const uint32_t *insts, uint32_t count) {
  Group g = {.f = f, .insts = insts, .count = count};
  RowSpace space = {1, 1, NO_VALUE};
  for (uint32_t i = 0; i < count;
       i++) { /* the last space of more than one row; packed rows only if there is no other */
    const Inst *inst = group_inst(&g, i);
    RowSpace own = is_view(inst) ? space : row_space(f, inst);
    bool slots = inst->op == OP_combine || inst->op == OP_unpack;
    if (slots)
      return own;
    if (own.rows != 1 || own.extent != NO_VALUE)
      space = own;
  }
  return space;
}

/* An operand that the group makes itself. */
static const char *operand_refusal(const Group *g, const Inst *inst, int k, const Inst *maker) {
  const Module *m = g->f->module;
  Type out = g->f->values[inst->output[0]].type, type = operand_type(g->f, inst, k);
  ValueId v = inst->input[k];
  RowShape shape = row_shape(m, g->f->values[group_root(g, v)].type);
  switch (row_read(g->f, inst, k)) {
  case ROW_READ_NOTHING:
    return NULL;
  case ROW_READ_SLOTS:
    if (!is_slot_producer(g, maker))
      refuse("%s is read at a token's packed rows but also needed elsewhere", value_name(g, v));
    return NULL;
  case ROW_READ_ELEMENT:
    if (shape.columns != 1)
      refuse("%s would have to be in memory to be an index vector", value_name(g, v));
    return NULL;
  case ROW_READ_ROW:
    if (is_invariant(g, maker))
      return NULL;
    if (row_is_column_sum(g->f, maker))
      refuse("%s is a sum over rows, known only behind the last row", value_name(g, v));
    if (shape.rows != row_shape(m, type).rows || shape.columns != row_shape(m, type).columns)
      refuse("%s regroups the elements of a row of the kernel", value_name(g, v));
    if (row_is_column_sum(g->f, inst) && type.rank > 2)
      refuse("%s has rank %d, which a sum over its rows reads from memory", value_name(g, v), type.rank);
    if (inst->op != OP_sum && g->space.rows != 1 && !row_address_is_same(row_address(m, out, type)))
      refuse("%s is read at another row than the kernel's", value_name(g, v));
    return NULL;
  default:
    refuse("%s would have to be in memory: rows of it are chosen by data or read whole", value_name(g, v));
  }
}

static const char *rows_text(const Func *f, RowSpace space) {
  Arena *arena = f->module->arena;
  if (space.extent == NO_VALUE)
    return arena_print(arena, "%lld row%s", (long long)space.rows, space.rows == 1 ? "" : "s");
  return arena_print(arena, "the rows that %%%s counts (of %lld)", f->values[space.extent].name, (long long)space.rows);
}

static const char *inst_refusal(const Group *g, const Inst *inst) {
  const Func *f = g->f;
  const char *name = value_name(g, inst->output[0]);
  if (is_view(inst)) {
    ValueId root = group_root(g, inst->output[0]);
    bool split_inside = inst->op == OP_split && group_definition(g, root) >= 0;
    for (int i = 0; split_inside && i < inst->output_count; i++)
      for (uint32_t j = 0; j < g->count; j++)
        for (int k = 0; k < group_inst(g, j)->input_count; k++)
          if (group_inst(g, j)->input[k] == inst->output[i])
            refuse("%s is a slice of columns that the kernel computes", value_name(g, inst->output[i]));
    return NULL;
  }
  if (!row_op(f, inst))
    refuse("%s (%s) is no row operation", name, op_info[inst->op].name);
  if (is_slot_producer(g, inst))
    return NULL;
  if (is_invariant(g, inst) && g->space.rows != 1) {
    if (used_outside(g, inst->output[0]))
      refuse("%s is a scalar that is also needed outside of the loop over rows", name);
    return NULL;
  }
  if (!row_space_equal(row_space(f, inst), g->space))
    refuse("%s has %s, the kernel's loop %s", name, rows_text(f, row_space(f, inst)), rows_text(f, g->space));
  return NULL;
}

const char *row_group_refusal(const Func *f, const uint32_t *insts, uint32_t count, const uint32_t *uses) {
  Group group = {f, insts, count, uses, row_group_space(f, insts, count)}, *g = &group;
  for (uint32_t i = 0; i < count; i++) {
    const Inst *inst = group_inst(g, i);
    const char *reason = inst_refusal(g, inst);
    for (int k = 0; !reason && !is_view(inst) && k < inst->input_count; k++) {
      int maker = group_definition(g, group_root(g, inst->input[k]));
      if (maker >= 0 && group_inst(g, (uint32_t)maker)->op != OP_const)
        reason = operand_refusal(g, inst, k, group_inst(g, (uint32_t)maker));
    }
    if (reason)
      return reason;
  }
  return NULL;
}
