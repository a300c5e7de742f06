/* Shape rules: what operands and attributes an op takes, and the types of its outputs. One function per rule name of
 * ops.def; `inst` has the right number of operands and all required attributes (build.c sees to that).
 *
 * Messages have one form: "matmul: f32[N,64] by f32[32,128]: inner dims 64 and 32 differ" - the op, the operands'
 * types, what was found and expected. They are found with the macros below: `require` returns the message of a rule
 * that does not hold, `attempt` passes on the message of a helper.
 *
 * Raggedness: an output is ragged by the offsets of its ragged operands, which must agree. A sum over dim 0 and the
 * products that contract dim 0 stop at the live rows, so their outputs are not.
 *
 * Longer than 700 lines: one short rule per op, all over the same private helpers.
 */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ir/internal.h"

static const char *problem(const Func *f, const Inst *inst, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "op: type by type: message" */
static const char *problem(const Func *f, const Inst *inst, const char *format, ...) {
  Arena *arena = f->module->arena;
  va_list arguments;
  char message[512];
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  char *types = "";
  int shown = inst->input_count < 8 ? inst->input_count : 8; /* concat takes any number */
  for (int i = 0; i < shown; i++)
    types = arena_print(arena, "%s%s%s", types,
                        i == 0   ? " "
                        : i == 1 ? " by "
                                 : ", ",
                        type_text(f, f->values[inst->input[i]].type));
  return arena_print(arena, "%s:%s%s %s", op_info[inst->op].name, types, inst->input_count ? ":" : "", message);
}

#define require(condition, ...)                                                                                        \
  do {                                                                                                                 \
    if (!(condition))                                                                                                  \
      return problem(f, inst, __VA_ARGS__);                                                                            \
  } while (0)

#define attempt(call)                                                                                                  \
  do {                                                                                                                 \
    const char *message = (call);                                                                                      \
    if (message)                                                                                                       \
      return message;                                                                                                  \
  } while (0)

/* ---------------------------------------------------------------- what the rules ask */

static Type input_type(const Func *f, const Inst *inst, int i) {
  return f->values[inst->input[i]].type;
}

static bool is_float(Type t) {
  return t.dtype != DTYPE_I32;
}

static bool same_dim(const Func *f, Dim a, Dim b) {
  return dim_equal(f->module, a, b);
}

static bool is_one(const Func *f, Dim d) {
  return dim_value(f->module, d) == 1;
}

/* "64", or "D=64" where the dim has a name. */
static const char *dim_name(const Func *f, Dim d) {
  const char *text = dim_text_in(f->module, f, NULL, d);
  int64_t value;
  if (d.symbol_count == 0 || !dim_evaluate(f->module, d, &value))
    return text;
  return arena_print(f->module->arena, "%s=%lld", text, (long long)value);
}

static Dim last_dim(Type t) {
  return t.dim[t.rank - 1];
}

static const char *need_rank(const Func *f, const Inst *inst, int i, int rank) {
  require(input_type(f, inst, i).rank == rank, "operand %d has rank %d, expected %d", i + 1,
          input_type(f, inst, i).rank, rank);
  return NULL;
}

static const char *need_float(const Func *f, const Inst *inst, int i) {
  require(is_float(input_type(f, inst, i)), "operand %d is i32, expected f32 or bf16", i + 1);
  return NULL;
}

/* Operand i is a matrix of floats. */
static const char *need_matrix(const Func *f, const Inst *inst, int i) {
  attempt(need_rank(f, inst, i, 2));
  return need_float(f, inst, i);
}

static const char *need_same_dtype(const Func *f, const Inst *inst, int i, int j) {
  Type a = input_type(f, inst, i), b = input_type(f, inst, j);
  require(a.dtype == b.dtype, "dtypes %s and %s differ", dtype_name(a.dtype), dtype_name(b.dtype));
  return NULL;
}

static const char *need_even(const Func *f, const Inst *inst, int i) {
  require(input_type(f, inst, i).extent == NO_VALUE, "operand %d is ragged, expected all rows live", i + 1);
  return NULL;
}

/* An attribute that is 0 or 1 where it is given. */
static const char *need_flag(const Func *f, const Inst *inst, AttrName name) {
  int64_t value = inst_int(inst, name, 0);
  require(value == 0 || value == 1, "attribute %s is %lld, expected 0 or 1", attr_name[name], (long long)value);
  return NULL;
}

static const char *need_dim_attr(const Func *f, const Inst *inst, AttrName name) {
  int64_t value;
  Dim d = inst_attr(inst, name)->dim;
  require(dim_evaluate(f->module, d, &value) && value >= 1 && value <= MAX_ELEMENTS,
          "attribute %s is %s, expected a dim from 1 to 2^48", attr_name[name], dim_name(f, d));
  return NULL;
}

static const char *need_shape_attr(const Func *f, const Inst *inst) {
  const Attr *attr = inst_attr(inst, ATTRIBUTE_shape);
  Type t = type_make(DTYPE_F32, attr->shape.rank, attr->shape.dim);
  const char *reason = type_problem(f->module, t);
  require(!reason, "shape %s: %s", type_text(f, t) + strlen("f32"), reason);
  return NULL;
}

bool is_offsets(const Func *f, ValueId v) {
  Type t = f->values[v].type;
  return t.dtype == DTYPE_I32 && t.rank == 1 && t.extent == NO_VALUE && dim_value(f->module, t.dim[0]) >= 2;
}

static const char *need_offsets(const Func *f, const Inst *inst, int i) {
  require(is_offsets(f, inst->input[i]), "operand %d must be offsets i32[groups+1]", i + 1);
  return NULL;
}

/* Operand i is a list of indices, i32[n] or i32[n,1]. */
static const char *need_indices(const Func *f, const Inst *inst, int i) {
  Type t = input_type(f, inst, i);
  bool list = t.rank == 1 || (t.rank == 2 && is_one(f, t.dim[1]));
  require(t.dtype == DTYPE_I32 && list, "operand %d must be indices i32[n] or i32[n,1]", i + 1);
  return NULL;
}

/* Takes over the extent of `from`, which must agree with what *extent has already. */
static const char *join_extent(const Func *f, const Inst *inst, Type from, ValueId *extent) {
  if (from.extent == NO_VALUE)
    return NULL;
  require(*extent == NO_VALUE || *extent == from.extent, "ragged by %%%s and by %%%s", f->values[*extent].name,
          f->values[from.extent].name);
  *extent = from.extent;
  return NULL;
}

/* Operand i is ragged, by offsets of any number of groups. */
static const char *need_ragged(const Func *f, const Inst *inst, int i) {
  require(input_type(f, inst, i).extent != NO_VALUE, "operand %d must be ragged, as in f32[R<%%off>,D]", i + 1);
  return NULL;
}

/* Operand i is ragged by the offsets that are operand `off`. */
static const char *need_ragged_by(const Func *f, const Inst *inst, int i, int off) {
  attempt(need_offsets(f, inst, off));
  attempt(need_ragged(f, inst, i));
  ValueId extent = input_type(f, inst, i).extent;
  require(extent == inst->input[off], "operand %d is ragged by %%%s, expected by %%%s", i + 1, f->values[extent].name,
          f->values[inst->input[off]].name);
  return NULL;
}

static Dim group_count(const Func *f, ValueId offsets) {
  return dim_add(f->module, f->values[offsets].type.dim[0], -1);
}

/* ---------------------------------------------------------------- elementwise */

/* The shape to which all operands broadcast, with their common extent; the dtype is left alone. */
static const char *broadcast_operands(const Func *f, const Inst *inst, Type *result) {
  int rank = 0;
  for (int i = 0; i < inst->input_count; i++)
    if (input_type(f, inst, i).rank > rank)
      rank = input_type(f, inst, i).rank;
  result->rank = (uint8_t)rank;
  result->extent = NO_VALUE;
  for (int axis = 0; axis < rank; axis++)
    result->dim[axis] = dim_number(1);
  for (int i = 0; i < inst->input_count; i++) {
    Type t = input_type(f, inst, i);
    for (int axis = 0; axis < t.rank; axis++) {
      Dim *to = &result->dim[rank - t.rank + axis];
      if (is_one(f, t.dim[axis]))
        continue;
      require(is_one(f, *to) || same_dim(f, *to, t.dim[axis]), "dims %s and %s differ", dim_name(f, *to),
              dim_name(f, t.dim[axis]));
      if (is_one(f, *to))
        *to = t.dim[axis];
    }
    attempt(join_extent(f, inst, t, &result->extent));
  }
  for (int i = 0; i < inst->input_count; i++) {
    Type t = input_type(f, inst, i);
    for (int axis = 0; axis < t.rank; axis++) { /* a dim that is 1 keeps the name an operand has for it, as E */
      Dim *to = &result->dim[rank - t.rank + axis];
      if (is_one(f, *to) && to->symbol_count == 0)
        *to = t.dim[axis];
    }
    require(t.extent == NO_VALUE || (t.rank == rank && same_dim(f, t.dim[0], result->dim[0])),
            "ragged rows cannot be stretched or moved from dim 0");
  }
  return NULL;
}

static const char *shape_broadcast(const Func *f, const Inst *inst, Type *out) {
  attempt(need_same_dtype(f, inst, 0, 1));
  out[0].dtype = input_type(f, inst, 0).dtype;
  return broadcast_operands(f, inst, &out[0]);
}

static const char *shape_compare(const Func *f, const Inst *inst, Type *out) {
  attempt(shape_broadcast(f, inst, out));
  out[0].dtype = DTYPE_F32;
  return NULL;
}

static const char *shape_select(const Func *f, const Inst *inst, Type *out) {
  require(input_type(f, inst, 0).dtype == DTYPE_F32, "the mask is %s, expected f32",
          dtype_name(input_type(f, inst, 0).dtype));
  attempt(need_same_dtype(f, inst, 1, 2));
  out[0].dtype = input_type(f, inst, 1).dtype;
  return broadcast_operands(f, inst, &out[0]);
}

static const char *shape_same(const Func *f, const Inst *inst, Type *out) {
  if (inst->op != OP_neg && inst->op != OP_abs && inst->op != OP_stop)
    attempt(need_float(f, inst, 0));
  out[0] = input_type(f, inst, 0);
  return NULL;
}

static const char *shape_cast(const Func *f, const Inst *inst, Type *out) {
  out[0] = input_type(f, inst, 0);
  out[0].dtype = inst_attr(inst, ATTRIBUTE_dtype)->dtype;
  return NULL;
}

static const char *shape_const(const Func *f, const Inst *inst, Type *out) {
  const Attr *dtype = inst_attr(inst, ATTRIBUTE_dtype);
  double value = inst_float(inst, ATTRIBUTE_value, 0);
  out[0] = type_scalar(dtype ? dtype->dtype : DTYPE_F32);
  require(is_float(out[0]) || (value >= INT32_MIN && value <= INT32_MAX && value == floor(value)),
          "value %g is no i32 number", value);
  return NULL;
}

static const char *shape_iota(const Func *f, const Inst *inst, Type *out) {
  attempt(need_dim_attr(f, inst, ATTRIBUTE_size));
  Dim size = inst_attr(inst, ATTRIBUTE_size)->dim;
  require(dim_value(f->module, size) <= INT32_MAX, "size %s is beyond i32", dim_name(f, size));
  out[0] = type_make(DTYPE_I32, 2, (Dim[]){size, dim_number(1)});
  return NULL;
}

static const char *shape_uniform(const Func *f, const Inst *inst, Type *out) {
  Type index = input_type(f, inst, 0), step = input_type(f, inst, 1);
  int64_t tag = inst_int(inst, ATTRIBUTE_tag, 0);
  attempt(need_indices(f, inst, 0));
  attempt(need_dim_attr(f, inst, ATTRIBUTE_columns));
  require(step.dtype == DTYPE_I32 && step.rank == 0, "operand 2, the step, must be i32[]");
  require(tag >= 0 && tag <= UINT32_MAX, "attribute tag is %lld, expected 32 bits", (long long)tag);
  out[0] = type_make(DTYPE_F32, 2, (Dim[]){index.dim[0], inst_attr(inst, ATTRIBUTE_columns)->dim});
  out[0].extent = index.extent;
  return NULL;
}

/* ---------------------------------------------------------------- shape */

static const char *shape_reshape(const Func *f, const Inst *inst, Type *out) {
  Type from = input_type(f, inst, 0);
  const Attr *shape = inst_attr(inst, ATTRIBUTE_shape);
  attempt(need_shape_attr(f, inst));
  out[0] = type_make(from.dtype, shape->shape.rank, shape->shape.dim);
  int64_t found = type_elements(f->module, from), wanted = type_elements(f->module, out[0]);
  require(found == wanted, "%lld elements do not fill %s of %lld", (long long)found, type_text(f, out[0]),
          (long long)wanted);
  require(from.extent == NO_VALUE || (out[0].rank > 0 && same_dim(f, from.dim[0], out[0].dim[0])),
          "ragged rows must stay dim 0, found %s", type_text(f, out[0]));
  out[0].extent = from.extent;
  return NULL;
}

static const char *shape_broadcast_to(const Func *f, const Inst *inst, Type *out) {
  Type from = input_type(f, inst, 0);
  const Attr *shape = inst_attr(inst, ATTRIBUTE_shape);
  attempt(need_shape_attr(f, inst));
  out[0] = type_make(from.dtype, shape->shape.rank, shape->shape.dim);
  int shift = out[0].rank - from.rank;
  require(shift >= 0, "rank %d does not stretch to %s", from.rank, type_text(f, out[0]));
  for (int axis = 0; axis < from.rank; axis++)
    require(is_one(f, from.dim[axis]) || same_dim(f, from.dim[axis], out[0].dim[axis + shift]),
            "dim %s does not stretch to %s of %s", dim_name(f, from.dim[axis]), dim_name(f, out[0].dim[axis + shift]),
            type_text(f, out[0]));
  require(from.extent == NO_VALUE || (shift == 0 && same_dim(f, from.dim[0], out[0].dim[0])),
          "ragged rows cannot be stretched or moved from dim 0");
  out[0].extent = from.extent;
  if (inst->input_count == 1)
    return NULL;
  attempt(need_offsets(f, inst, 1));
  require(out[0].rank > 0, "a scalar cannot be ragged");
  return join_extent(f, inst, (Type){.extent = inst->input[1]}, &out[0].extent);
}

static const char *shape_split(const Func *f, const Inst *inst, Type *out) {
  Type from = input_type(f, inst, 0);
  int64_t parts = inst_int(inst, ATTRIBUTE_parts, 0);
  Dim part;
  require(from.rank > 0 && !(from.rank == 1 && from.extent != NO_VALUE), "there is no dim of columns to split");
  require(parts >= 1 && parts <= MAX_OUTPUTS, "attribute parts is %lld, expected 1 to %d", (long long)parts,
          MAX_OUTPUTS);
  require(dim_divide(f->module, last_dim(from), dim_number(parts), &part), "%s columns do not divide into %lld parts",
          dim_name(f, last_dim(from)), (long long)parts);
  for (int i = 0; i < parts; i++) {
    out[i] = from;
    out[i].dim[from.rank - 1] = part;
  }
  return NULL;
}

/* a + b, symbolic where both are multiples of one monomial or one is a number. */
static Dim add_dims(const Module *m, Dim a, Dim b) {
  bool alike = a.symbol_count == b.symbol_count;
  for (int i = 0; alike && i < a.symbol_count; i++)
    alike = a.symbol[i] == b.symbol[i] && a.power[i] == b.power[i];
  if (b.symbol_count == 0)
    return dim_add(m, a, b.coefficient);
  if (a.symbol_count == 0)
    return dim_add(m, b, a.coefficient);
  if (!alike || llabs(a.coefficient) > MAX_ELEMENTS || llabs(b.coefficient) > MAX_ELEMENTS)
    return dim_number(dim_value(m, a) + dim_value(m, b));
  a.coefficient += b.coefficient;
  return dim_add(m, a, b.plus);
}

static const char *shape_concat(const Func *f, const Inst *inst, Type *out) {
  out[0] = input_type(f, inst, 0);
  require(out[0].rank > 0, "a scalar has no dim of columns");
  for (int i = 1; i < inst->input_count; i++) {
    Type t = input_type(f, inst, i);
    attempt(need_same_dtype(f, inst, 0, i));
    require(t.rank == out[0].rank, "ranks %d and %d differ", out[0].rank, t.rank);
    for (int axis = 0; axis + 1 < t.rank; axis++)
      require(same_dim(f, t.dim[axis], out[0].dim[axis]), "dims %s and %s differ", dim_name(f, out[0].dim[axis]),
              dim_name(f, t.dim[axis]));
    attempt(join_extent(f, inst, t, &out[0].extent));
    out[0].dim[t.rank - 1] = add_dims(f->module, last_dim(out[0]), last_dim(t));
    require(dim_value(f->module, last_dim(out[0])) <= MAX_ELEMENTS, "more than 2^48 columns");
  }
  require(out[0].extent == NO_VALUE || out[0].rank > 1, "ragged rows cannot stand side by side in dim 0");
  return NULL;
}

/* ---------------------------------------------------------------- rows */

static const char *shape_reduce(const Func *f, const Inst *inst, Type *out) {
  Type from = input_type(f, inst, 0);
  int64_t axis = inst_int(inst, ATTRIBUTE_axis, 0);
  attempt(need_float(f, inst, 0));
  require(axis >= -from.rank && axis < from.rank, "axis %lld is outside rank %d", (long long)axis, from.rank);
  out[0] = from;
  out[0].dim[axis < 0 ? axis + from.rank : axis] = dim_number(1);
  if (axis == 0 || axis == -from.rank)
    out[0].extent = NO_VALUE;
  return NULL;
}

static const char *shape_sum(const Func *f, const Inst *inst, Type *out) {
  const Attr *dtype = inst_attr(inst, ATTRIBUTE_dtype);
  const int64_t axis = inst_int(inst, ATTRIBUTE_axis, 0);
  attempt(shape_reduce(f, inst, out));
  if (!dtype)
    return NULL;
  require(axis == 0 || axis == -out[0].rank, "attribute dtype with axis %lld, expected axis 0", (long long)axis);
  require(dtype->dtype == DTYPE_BF16 && out[0].dtype == DTYPE_F32, "attribute dtype is %s, expected bf16 of f32",
          dtype_name(dtype->dtype));
  out[0].dtype = dtype->dtype;
  return NULL;
}

static const char *shape_reduce_last(const Func *f, const Inst *inst, Type *out) {
  Type from = input_type(f, inst, 0);
  int64_t axis = inst_int(inst, ATTRIBUTE_axis, 0);
  attempt(shape_reduce(f, inst, out));
  require(axis == -1 || axis == from.rank - 1, "axis %lld, expected the last dim (-1)", (long long)axis);
  return NULL;
}

/* The operand has columns: a last dim that is not the ragged one. */
static const char *need_columns(const Func *f, const Inst *inst) {
  Type from = input_type(f, inst, 0);
  attempt(need_float(f, inst, 0));
  require(from.rank > (from.extent == NO_VALUE ? 0 : 1), "operand 1 has no dim of columns");
  return NULL;
}

static const char *shape_same_float(const Func *f, const Inst *inst, Type *out) {
  attempt(need_columns(f, inst));
  out[0] = input_type(f, inst, 0);
  return NULL;
}

static const char *shape_argmax(const Func *f, const Inst *inst, Type *out) {
  attempt(shape_same_float(f, inst, out));
  out[0].dtype = DTYPE_I32;
  out[0].dim[out[0].rank - 1] = dim_number(1);
  return NULL;
}

static const char *shape_topk_mask(const Func *f, const Inst *inst, Type *out) {
  int64_t k = inst_int(inst, ATTRIBUTE_k, 0);
  attempt(shape_same_float(f, inst, out));
  out[0].dtype = DTYPE_F32;
  require(k >= 1 && k <= dim_value(f->module, last_dim(out[0])), "attribute k is %lld, expected 1 to %s", (long long)k,
          dim_name(f, last_dim(out[0])));
  return NULL;
}

/* Operand 0 is an f32 matrix, all rows live, which `groups` cuts into equal slices of rows. */
static const char *need_groups(const Func *f, const Inst *inst, int64_t *slice) {
  Type x = input_type(f, inst, 0);
  attempt(need_rank(f, inst, 0, 2));
  attempt(need_even(f, inst, 0));
  require(x.dtype == DTYPE_F32, "operand 1 is %s, expected f32", dtype_name(x.dtype));
  int64_t rows = dim_value(f->module, x.dim[0]), groups = inst_int(inst, ATTRIBUTE_groups, 0);
  require(groups >= 1 && rows % groups == 0, "attribute groups is %lld, expected a divisor of %s rows",
          (long long)groups, dim_name(f, x.dim[0]));
  *slice = rows / groups;
  require(*slice <= INT32_MAX, "slices of %lld rows, beyond i32", (long long)*slice);
  return NULL;
}

static const char *shape_rank_rows(const Func *f, const Inst *inst, Type *out) {
  int64_t slice = 0;
  attempt(need_groups(f, inst, &slice));
  out[0] = input_type(f, inst, 0);
  out[0].dtype = DTYPE_I32;
  return NULL;
}

static const char *shape_balanced_assignment(const Func *f, const Inst *inst, Type *out) {
  int64_t slice = 0;
  attempt(need_groups(f, inst, &slice));
  out[0] = input_type(f, inst, 0);
  require(slice % dim_value(f->module, out[0].dim[1]) == 0, "slices of %lld rows do not divide by %s experts",
          (long long)slice, dim_name(f, out[0].dim[1]));
  return NULL;
}

static const char *shape_one_hot(const Func *f, const Inst *inst, Type *out) {
  Type index = input_type(f, inst, 0);
  attempt(need_indices(f, inst, 0));
  attempt(need_dim_attr(f, inst, ATTRIBUTE_columns));
  out[0] = type_make(DTYPE_F32, 2, (Dim[]){index.dim[0], inst_attr(inst, ATTRIBUTE_columns)->dim});
  out[0].extent = index.extent;
  return NULL;
}

static const char *shape_pick(const Func *f, const Inst *inst, Type *out) {
  Type x = input_type(f, inst, 0), index = input_type(f, inst, 1);
  attempt(need_matrix(f, inst, 0));
  attempt(need_indices(f, inst, 1));
  require(same_dim(f, x.dim[0], index.dim[0]), "%s rows and %s indices differ", dim_name(f, x.dim[0]),
          dim_name(f, index.dim[0]));
  out[0] = x;
  out[0].dim[1] = dim_number(1);
  return join_extent(f, inst, index, &out[0].extent);
}

/* ---------------------------------------------------------------- indexed rows */

static const char *shape_gather_rows(const Func *f, const Inst *inst, Type *out) {
  Type table = input_type(f, inst, 0), ids = input_type(f, inst, 1);
  attempt(need_rank(f, inst, 0, 2));
  attempt(need_even(f, inst, 0));
  attempt(need_indices(f, inst, 1));
  out[0] = type_make(table.dtype, 2, (Dim[]){ids.dim[0], table.dim[1]});
  out[0].extent = ids.extent;
  return NULL;
}

static const char *shape_scatter_rows(const Func *f, const Inst *inst, Type *out) {
  Type x = input_type(f, inst, 0), ids = input_type(f, inst, 1);
  ValueId extent = x.extent;
  attempt(need_matrix(f, inst, 0));
  attempt(need_indices(f, inst, 1));
  attempt(need_dim_attr(f, inst, ATTRIBUTE_rows));
  attempt(join_extent(f, inst, ids, &extent));
  require(same_dim(f, x.dim[0], ids.dim[0]), "%s rows and %s ids differ", dim_name(f, x.dim[0]),
          dim_name(f, ids.dim[0]));
  out[0] = type_make(x.dtype, 2, (Dim[]){inst_attr(inst, ATTRIBUTE_rows)->dim, x.dim[1]});
  return NULL;
}

/* ---------------------------------------------------------------- products */

/* The dtype of what sums in f32: that of the operands, or f32 of bf16 operands where the attribute says so. */
static const char *sum_dtype(const Func *f, const Inst *inst, DType operands, DType *out) {
  const Attr *attr = inst_attr(inst, ATTRIBUTE_dtype);
  *out = attr ? attr->dtype : operands;
  require(*out == operands || (*out == DTYPE_F32 && operands == DTYPE_BF16),
          "attribute dtype is %s, expected %s of %s operands", dtype_name(*out),
          operands == DTYPE_BF16 ? "f32 or bf16" : dtype_name(operands), dtype_name(operands));
  return NULL;
}

static const char *shape_matmul(const Func *f, const Inst *inst, Type *out) {
  attempt(need_flag(f, inst, ATTRIBUTE_ta));
  attempt(need_flag(f, inst, ATTRIBUTE_tb));
  attempt(need_matrix(f, inst, 0));
  attempt(need_matrix(f, inst, 1));
  attempt(need_same_dtype(f, inst, 0, 1));
  Type a = input_type(f, inst, 0), b = input_type(f, inst, 1);
  bool ta = inst_int(inst, ATTRIBUTE_ta, 0), tb = inst_int(inst, ATTRIBUTE_tb, 0);
  require(same_dim(f, a.dim[!ta], b.dim[tb]), "inner dims %s and %s differ", dim_name(f, a.dim[!ta]),
          dim_name(f, b.dim[tb]));
  out[0] = type_make(a.dtype, 2, (Dim[]){a.dim[ta], b.dim[!tb]});
  attempt(sum_dtype(f, inst, a.dtype, &out[0].dtype));
  require(b.extent == NO_VALUE || (ta && !tb),
          "operand 2 is ragged in a dim that does not run with the rows of operand 1");
  ValueId inner = a.extent;
  if (ta)
    return join_extent(f, inst, b, &inner);
  out[0].extent = a.extent;
  return NULL;
}

static const char *shape_grouped_matmul(const Func *f, const Inst *inst, Type *out) {
  attempt(need_flag(f, inst, ATTRIBUTE_tb));
  attempt(need_matrix(f, inst, 0));
  attempt(need_rank(f, inst, 1, 3));
  attempt(need_even(f, inst, 1));
  attempt(need_same_dtype(f, inst, 0, 1));
  attempt(need_ragged_by(f, inst, 0, 2));
  Type x = input_type(f, inst, 0), w = input_type(f, inst, 1);
  bool tb = inst_int(inst, ATTRIBUTE_tb, 0);
  Dim groups = group_count(f, inst->input[2]);
  require(same_dim(f, w.dim[0], groups), "%s matrices for %s groups", dim_name(f, w.dim[0]), dim_name(f, groups));
  require(same_dim(f, x.dim[1], w.dim[tb ? 2 : 1]), "inner dims %s and %s differ", dim_name(f, x.dim[1]),
          dim_name(f, w.dim[tb ? 2 : 1]));
  out[0] = x;
  out[0].dim[1] = w.dim[tb ? 1 : 2];
  return sum_dtype(f, inst, x.dtype, &out[0].dtype);
}

static const char *shape_grouped_outer(const Func *f, const Inst *inst, Type *out) {
  attempt(need_matrix(f, inst, 0));
  attempt(need_matrix(f, inst, 1));
  attempt(need_same_dtype(f, inst, 0, 1));
  attempt(need_ragged_by(f, inst, 0, 2));
  attempt(need_ragged_by(f, inst, 1, 2));
  Type a = input_type(f, inst, 0), b = input_type(f, inst, 1);
  require(same_dim(f, a.dim[0], b.dim[0]), "%s and %s rows differ", dim_name(f, a.dim[0]), dim_name(f, b.dim[0]));
  out[0] = type_make(a.dtype, 3, (Dim[]){group_count(f, inst->input[2]), a.dim[1], b.dim[1]});
  return sum_dtype(f, inst, a.dtype, &out[0].dtype);
}

/* ---------------------------------------------------------------- attention */

/* q, k, v, offsets are operands 1 to 4, with the attributes; both ops begin so. */
static const char *need_attention(const Func *f, const Inst *inst) {
  Type q = input_type(f, inst, 0);
  int64_t heads = inst_int(inst, ATTRIBUTE_heads, 0);
  attempt(need_flag(f, inst, ATTRIBUTE_causal));
  for (int i = 0; i < 3; i++) {
    attempt(need_matrix(f, inst, i));
    attempt(need_even(f, inst, i));
    require(type_equal(f->module, q, input_type(f, inst, i)), "q, k and v differ in type");
  }
  attempt(need_offsets(f, inst, 3));
  require(heads >= 1 && dim_value(f->module, q.dim[1]) % heads == 0, "%s columns do not divide into %lld heads",
          dim_name(f, q.dim[1]), (long long)heads);
  return NULL;
}

static const char *shape_attention(const Func *f, const Inst *inst, Type *out) {
  attempt(need_attention(f, inst));
  out[0] = input_type(f, inst, 0);
  out[1] = type_make(DTYPE_F32, 2, (Dim[]){out[0].dim[0], dim_number(inst_int(inst, ATTRIBUTE_heads, 0))});
  return NULL;
}

static const char *shape_attention_grad(const Func *f, const Inst *inst, Type *out) {
  attempt(need_attention(f, inst));
  Type q = input_type(f, inst, 0);
  Type lse = type_make(DTYPE_F32, 2, (Dim[]){q.dim[0], dim_number(inst_int(inst, ATTRIBUTE_heads, 0))});
  require(type_equal(f->module, q, input_type(f, inst, 4)) && type_equal(f->module, q, input_type(f, inst, 6)),
          "operands 5 and 7, o and its gradient, must have the type of q");
  require(type_equal(f->module, lse, input_type(f, inst, 5)), "operand 6, lse, must be %s", type_text(f, lse));
  out[0] = out[1] = out[2] = q;
  return NULL;
}

/* ---------------------------------------------------------------- packed routing */

static const char *shape_route(const Func *f, const Inst *inst, Type *out) {
  const Module *m = f->module;
  attempt(need_rank(f, inst, 0, 2));
  attempt(need_even(f, inst, 0));
  Type mask = input_type(f, inst, 0);
  require(mask.dtype == DTYPE_F32, "the mask is %s, expected f32", dtype_name(mask.dtype));
  require(type_elements(m, mask) <= INT32_MAX, "pairs (token*E+expert) of more than 31 bits");
  int64_t k = inst_int(inst, ATTRIBUTE_k, 0);
  require(k >= 1 && k <= dim_value(m, mask.dim[1]), "attribute k is %lld, expected 1 to %s", (long long)k,
          dim_name(f, mask.dim[1]));
  Dim width = k == dim_value(m, mask.dim[1]) ? mask.dim[1] : dim_number(k);
  Dim rows = dim_product(m, mask.dim[0], width);
  if (inst_attr(inst, ATTRIBUTE_rows)) {
    attempt(need_dim_attr(f, inst, ATTRIBUTE_rows));
    rows = inst_attr(inst, ATTRIBUTE_rows)->dim;
    require(dim_value(m, rows) <= INT32_MAX, "attribute rows is %s, beyond i32", dim_name(f, rows));
  }
  out[0] = type_make(DTYPE_I32, 1, &rows);
  out[0].extent = inst->output[1];
  out[1] = type_make(DTYPE_I32, 1, (Dim[]){dim_add(m, mask.dim[1], 1)});
  out[2] = type_make(DTYPE_I32, 2, (Dim[]){mask.dim[0], width});
  return NULL;
}

/* Operands `pair` and `slot` are what one route made. */
static const char *need_pairs(const Func *f, const Inst *inst, int pair, int slot) {
  Type p = input_type(f, inst, pair), s = input_type(f, inst, slot);
  require(p.dtype == DTYPE_I32 && p.rank == 1 && p.extent != NO_VALUE, "operand %d must be pairs i32[R<%%off>]",
          pair + 1);
  require(s.dtype == DTYPE_I32 && s.rank == 2 && s.extent == NO_VALUE, "operand %d must be slots i32[N,k]", slot + 1);
  return NULL;
}

/* Operand 1 of dispatch and pack: [N,..] by token. */
static const char *need_tokens(const Func *f, const Inst *inst) {
  attempt(need_rank(f, inst, 0, 2));
  attempt(need_even(f, inst, 0));
  attempt(need_pairs(f, inst, 1, 2));
  Dim tokens = input_type(f, inst, 2).dim[0], rows = input_type(f, inst, 0).dim[0];
  require(same_dim(f, rows, tokens), "%s rows, expected %s tokens", dim_name(f, rows), dim_name(f, tokens));
  return NULL;
}

/* Operand 1 of combine and unpack: [R<off>,..] in packed rows. */
static const char *need_packed(const Func *f, const Inst *inst) {
  attempt(need_matrix(f, inst, 0));
  attempt(need_ragged(f, inst, 0));
  attempt(need_pairs(f, inst, 2, 1));
  Type x = input_type(f, inst, 0), pair = input_type(f, inst, 2);
  require(x.extent == pair.extent && same_dim(f, x.dim[0], pair.dim[0]),
          "operand 1 is not packed by the pairs of operand 3");
  return NULL;
}

static const char *shape_dispatch(const Func *f, const Inst *inst, Type *out) {
  attempt(need_tokens(f, inst));
  Type x = input_type(f, inst, 0), pair = input_type(f, inst, 1);
  out[0] = type_make(x.dtype, 2, (Dim[]){pair.dim[0], x.dim[1]});
  out[0].extent = pair.extent;
  return NULL;
}

static const char *shape_combine(const Func *f, const Inst *inst, Type *out) {
  attempt(need_packed(f, inst));
  Type x = input_type(f, inst, 0);
  out[0] = type_make(x.dtype, 2, (Dim[]){input_type(f, inst, 1).dim[0], x.dim[1]});
  return NULL;
}

static const char *shape_pack(const Func *f, const Inst *inst, Type *out) {
  attempt(need_tokens(f, inst));
  Type w = input_type(f, inst, 0), pair = input_type(f, inst, 1);
  Dim experts = group_count(f, pair.extent);
  require(same_dim(f, w.dim[1], experts), "%s columns, expected %s experts", dim_name(f, w.dim[1]),
          dim_name(f, experts));
  out[0] = type_make(w.dtype, 2, (Dim[]){pair.dim[0], dim_number(1)});
  out[0].extent = pair.extent;
  return NULL;
}

static const char *shape_unpack(const Func *f, const Inst *inst, Type *out) {
  attempt(need_packed(f, inst));
  attempt(need_dim_attr(f, inst, ATTRIBUTE_columns));
  Type w = input_type(f, inst, 0);
  Dim columns = inst_attr(inst, ATTRIBUTE_columns)->dim, experts = group_count(f, w.extent);
  require(is_one(f, w.dim[1]), "%s columns, expected 1", dim_name(f, w.dim[1]));
  require(same_dim(f, columns, experts), "attribute columns is %s, expected %s experts", dim_name(f, columns),
          dim_name(f, experts));
  out[0] = type_make(w.dtype, 2, (Dim[]){input_type(f, inst, 1).dim[0], columns});
  return NULL;
}

/* The bound R of the rows that `offsets` counts: of the route that made them, or of the argument they are the extent
 * of. False when there is none. */
static bool packed_rows(const Func *f, ValueId offsets, Dim *rows) {
  const Value *value = &f->values[offsets];
  if (value->kind == VALUE_RESULT) {
    const Inst *inst = &f->insts[value->inst];
    *rows = f->values[inst->output[0]].type.dim[0];
    return inst->op == OP_route && value->output == 1;
  }
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT && f->values[v].type.extent == offsets) {
      *rows = f->values[v].type.dim[0];
      return true;
    }
  return false;
}

static const char *shape_expand(const Func *f, const Inst *inst, Type *out) {
  attempt(need_rank(f, inst, 0, 2));
  attempt(need_even(f, inst, 0));
  attempt(need_offsets(f, inst, 1));
  Type b = input_type(f, inst, 0);
  Dim rows, groups = group_count(f, inst->input[1]);
  require(same_dim(f, b.dim[0], groups), "%s rows for %s groups", dim_name(f, b.dim[0]), dim_name(f, groups));
  require(packed_rows(f, inst->input[1], &rows), "%%%s are not the offsets of a route or of a ragged argument",
          f->values[inst->input[1]].name);
  out[0] = type_make(b.dtype, 2, (Dim[]){rows, b.dim[1]});
  out[0].extent = inst->input[1];
  return NULL;
}

static const char *shape_segment_sum(const Func *f, const Inst *inst, Type *out) {
  attempt(need_matrix(f, inst, 0));
  attempt(need_ragged_by(f, inst, 0, 1));
  Type x = input_type(f, inst, 0);
  out[0] = type_make(x.dtype, 2, (Dim[]){group_count(f, inst->input[1]), x.dim[1]});
  return sum_dtype(f, inst, x.dtype, &out[0].dtype);
}

/* ---------------------------------------------------------------- the table */

const ShapeRule shape_rule[OP_COUNT] = {
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flop, eval, lower, doc) shape_##shape,
#include "ir/ops.def"
};

int inst_output_count(const Inst *inst) {
  int outputs = op_info[inst->op].outputs;
  if (outputs >= 0)
    return outputs;
  int64_t parts = inst_int(inst, ATTRIBUTE_parts, 0);
  return parts < 1 || parts > MAX_OUTPUTS ? 1 : (int)parts; /* the shape rule reports a wrong number */
}
