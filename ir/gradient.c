/* Gradient rules: one per op that ops.def names.
 *
 * In: an instruction of the forward part whose outputs have gradients in Gradients.of (some may be NO_VALUE).
 * Out: new instructions at the end of the function, and the sums in Gradients.of of the wanted operands.
 * Holds: only primitive ops are used; the new instructions carry the Loc of the forward one; contributions to a value
 * are added in the order in which the rules run, so the order of summation is fixed; a gradient has the type of its
 * value. */
#include "ir/ir.h"

/* ---------------------------------------------------------------- what every rule uses */

static bool wants(const Gradients *g, const Inst *inst, int operand) {
  return g->wanted[inst->input[operand]];
}

static ValueId gradient_of(const Gradients *g, const Inst *inst) {
  return g->of[inst->output[0]];
}

static Type type_of(const Gradients *g, ValueId v) {
  return g->f->values[v].type;
}

static bool same_shape(const Module *m, Type a, Type b) {
  bool same = a.rank == b.rank && a.extent == b.extent;
  for (int i = 0; same && i < a.rank; i++)
    same = dim_equal(m, a.dim[i], b.dim[i]);
  return same;
}

/* The adjoint of broadcasting `target` to the type of `d`: sums over the stretched dims, last one first, so that a row
 * is reduced before rows are. */
static ValueId reduce_to(Gradients *g, Loc loc, ValueId d, Type target) {
  const Module *m = g->f->module;
  const Type have = type_of(g, d);
  if (same_shape(m, have, target))
    return d;
  const int missing = have.rank - target.rank;
  for (int axis = have.rank - 1; axis >= 0; axis--) {
    bool rows = axis == 0 && have.extent != NO_VALUE; /* even a bound of 1 may have no live row */
    bool stretched;
    if (axis < missing)
      stretched = rows || dim_value(m, have.dim[axis]) != 1;
    else
      stretched = !dim_equal(m, have.dim[axis], target.dim[axis - missing]) || (rows && target.extent == NO_VALUE);
    if (stretched)
      d = build_sum(g->f, loc, d, axis == have.rank - 1 ? -1 : axis);
  }
  return missing == 0 ? d : build_reshape(g->f, loc, d, target.rank, target.dim);
}

/* Adds `d` to the gradient of an operand, which is wanted. */
static void give(Gradients *g, const Inst *inst, int operand, ValueId d) {
  const Module *m = g->f->module;
  const ValueId v = inst->input[operand];
  const Type type = type_of(g, v);
  d = reduce_to(g, inst->loc, d, type);
  if (type.extent != NO_VALUE && type_of(g, d).extent == NO_VALUE)
    d = build_broadcast(g->f, inst->loc, d, type); /* dead rows of a ragged value have no gradient */
  if (!same_shape(m, type_of(g, d), type))
    ir_fail(inst->loc, "%s: operand %d is %s, but its gradient is %s; expected operands that are all ragged or all not",
            op_info[inst->op].name, operand + 1, type_text(g->f, type), type_text(g->f, type_of(g, d)));
  g->of[v] = g->of[v] == NO_VALUE ? d : build2(g->f, OP_add, inst->loc, g->of[v], d);
}

static ValueId constant(Gradients *g, const Inst *inst, double value) {
  return build_const(g->f, inst->loc, value);
}

static ValueId op1(Gradients *g, const Inst *inst, Op op, ValueId a) {
  return build1(g->f, op, inst->loc, a);
}

static ValueId op2(Gradients *g, const Inst *inst, Op op, ValueId a, ValueId b) {
  return build2(g->f, op, inst->loc, a, b);
}

static ValueId op3(Gradients *g, const Inst *inst, Op op, ValueId a, ValueId b, ValueId c) {
  return build(g->f, op, inst->loc, (ValueId[]){a, b, c}, 3, NULL, 0);
}

static ValueId zeros(Gradients *g, const Inst *inst, Type type) {
  return build_broadcast(g->f, inst->loc, constant(g, inst, 0), type);
}

/* 1 at an index of each row, 0 elsewhere, in the shape of `like`: the indices are those of its rows. */
static ValueId one_hot_like(Gradients *g, const Inst *inst, ValueId index, Type like) {
  const Attr columns = attr_dim(ATTRIBUTE_columns, like.dim[like.rank - 1]);
  Type type = type_of(g, index);
  if (type.rank > 2) { /* rows of rows: one list */
    for (int i = 1; i < type.rank; i++)
      type.dim[0] = dim_product(g->f->module, type.dim[0], type.dim[i]);
    index = build_reshape(g->f, inst->loc, index, 1, type.dim);
  }
  const ValueId hot = build(g->f, OP_one_hot, inst->loc, &index, 1, &columns, 1);
  return like.rank == 2 ? hot : build_reshape(g->f, inst->loc, hot, like.rank, like.dim);
}

/* ---------------------------------------------------------------- elementwise, two operands */

static void gradient_add(Gradients *g, const Inst *inst) {
  for (int i = 0; i < 2; i++)
    if (wants(g, inst, i))
      give(g, inst, i, gradient_of(g, inst));
}

static void gradient_sub(Gradients *g, const Inst *inst) {
  if (wants(g, inst, 0))
    give(g, inst, 0, gradient_of(g, inst));
  if (wants(g, inst, 1)) /* reduced before the sign changes: fewer elements */
    give(g, inst, 1, op1(g, inst, OP_neg, reduce_to(g, inst->loc, gradient_of(g, inst), type_of(g, inst->input[1]))));
}

static void gradient_mul(Gradients *g, const Inst *inst) {
  for (int i = 0; i < 2; i++)
    if (wants(g, inst, i))
      give(g, inst, i, op2(g, inst, OP_mul, gradient_of(g, inst), inst->input[1 - i]));
}

/* y = a/b: da = dy/b, db = -da*y */
static void gradient_div(Gradients *g, const Inst *inst) {
  const ValueId da = op2(g, inst, OP_div, gradient_of(g, inst), inst->input[1]);
  if (wants(g, inst, 0))
    give(g, inst, 0, da);
  if (wants(g, inst, 1))
    give(g, inst, 1, op1(g, inst, OP_neg, op2(g, inst, OP_mul, da, inst->output[0])));
}

/* dy where `mask` is set goes to operand a, the rest to operand b. Selecting, not multiplying: the branch that was not
 * taken may hold a NaN. */
static void give_selected(Gradients *g, const Inst *inst, ValueId mask, int a, int b) {
  const ValueId dy = gradient_of(g, inst), zero = constant(g, inst, 0);
  if (wants(g, inst, a))
    give(g, inst, a, op3(g, inst, OP_select, mask, dy, zero));
  if (wants(g, inst, b))
    give(g, inst, b, op3(g, inst, OP_select, mask, zero, dy));
}

static void gradient_maximum(Gradients *g, const Inst *inst) {
  give_selected(g, inst, op2(g, inst, OP_greater, inst->input[0], inst->input[1]), 0, 1);
}

static void gradient_minimum(Gradients *g, const Inst *inst) {
  give_selected(g, inst, op2(g, inst, OP_greater, inst->input[1], inst->input[0]), 0, 1);
}

static void gradient_select(Gradients *g, const Inst *inst) {
  give_selected(g, inst, inst->input[0], 1, 2);
}

/* ---------------------------------------------------------------- elementwise, one operand */

static void gradient_neg(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op1(g, inst, OP_neg, gradient_of(g, inst)));
}

/* dy * sign(x), 0 at 0 */
static void gradient_abs(Gradients *g, const Inst *inst) {
  const ValueId x = inst->input[0], zero = constant(g, inst, 0);
  const ValueId sign = op2(g, inst, OP_sub, op2(g, inst, OP_greater, x, zero), op2(g, inst, OP_greater, zero, x));
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), sign));
}

static void gradient_exp(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), inst->output[0]));
}

static void gradient_log(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op2(g, inst, OP_div, gradient_of(g, inst), inst->input[0]));
}

/* dy * e^x = dy * (y + 1) */
static void gradient_expm1(Gradients *g, const Inst *inst) {
  const ValueId exp_x = op2(g, inst, OP_add, inst->output[0], constant(g, inst, 1));
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), exp_x));
}

static void gradient_log1p(Gradients *g, const Inst *inst) {
  const ValueId x1 = op2(g, inst, OP_add, inst->input[0], constant(g, inst, 1));
  give(g, inst, 0, op2(g, inst, OP_div, gradient_of(g, inst), x1));
}

static void gradient_sqrt(Gradients *g, const Inst *inst) {
  const ValueId half = op2(g, inst, OP_mul, gradient_of(g, inst), constant(g, inst, 0.5));
  give(g, inst, 0, op2(g, inst, OP_div, half, inst->output[0]));
}

/* dy * -y^3 / 2 */
static void gradient_rsqrt(Gradients *g, const Inst *inst) {
  const ValueId y = inst->output[0];
  const ValueId cube = op2(g, inst, OP_mul, y, op2(g, inst, OP_mul, y, y));
  const ValueId half = op2(g, inst, OP_mul, gradient_of(g, inst), constant(g, inst, -0.5));
  give(g, inst, 0, op2(g, inst, OP_mul, half, cube));
}

/* dy * (1 - y^2) */
static void gradient_tanh(Gradients *g, const Inst *inst) {
  const ValueId y = inst->output[0];
  const ValueId slope = op2(g, inst, OP_sub, constant(g, inst, 1), op2(g, inst, OP_mul, y, y));
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), slope));
}

/* dy * 2/sqrt(pi) * e^(-x^2) */
static void gradient_erf(Gradients *g, const Inst *inst) {
  const ValueId x = inst->input[0];
  const ValueId density = op1(g, inst, OP_exp, op1(g, inst, OP_neg, op2(g, inst, OP_mul, x, x)));
  const ValueId slope = op2(g, inst, OP_mul, density, constant(g, inst, 1.1283791670955126));
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), slope));
}

/* dy * y * (1 - y) */
static void gradient_sigmoid(Gradients *g, const Inst *inst) {
  const ValueId y = inst->output[0];
  const ValueId slope = op2(g, inst, OP_mul, y, op2(g, inst, OP_sub, constant(g, inst, 1), y));
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), slope));
}

static void gradient_cos(Gradients *g, const Inst *inst) {
  const ValueId slope = op1(g, inst, OP_neg, op1(g, inst, OP_sin, inst->input[0]));
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), slope));
}

static void gradient_sin(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op2(g, inst, OP_mul, gradient_of(g, inst), op1(g, inst, OP_cos, inst->input[0])));
}

static void gradient_cast(Gradients *g, const Inst *inst) {
  const Attr dtype = attr_dtype(type_of(g, inst->input[0]).dtype);
  const ValueId dy = gradient_of(g, inst);
  give(g, inst, 0, build(g->f, OP_cast, inst->loc, &dy, 1, &dtype, 1));
}

/* ---------------------------------------------------------------- shape */

static void gradient_reshape(Gradients *g, const Inst *inst) {
  const Type x = type_of(g, inst->input[0]);
  give(g, inst, 0, build_reshape(g->f, inst->loc, gradient_of(g, inst), x.rank, x.dim));
}

static void gradient_broadcast(Gradients *g, const Inst *inst) {
  give(g, inst, 0, gradient_of(g, inst)); /* `give` sums over what was stretched */
}

/* Outputs that lead nowhere have gradient 0. */
static void gradient_split(Gradients *g, const Inst *inst) {
  ValueId part[MAX_OUTPUTS];
  for (int i = 0; i < inst->output_count; i++) {
    part[i] = g->of[inst->output[i]];
    if (part[i] == NO_VALUE)
      part[i] = zeros(g, inst, type_of(g, inst->output[i]));
  }
  give(g, inst, 0, build(g->f, OP_concat, inst->loc, part, inst->output_count, NULL, 0));
}

static bool cut_columns(Gradients *g, const Inst *inst, ValueId d, const int64_t *width, int count, ValueId *piece);

/* Splits `d` into equal parts that no operand straddles, and each part further. False when some operand does. */
static bool cut_between(Gradients *g, const Inst *inst, ValueId d, const int64_t *width, int count, int64_t part_width,
                        int parts, ValueId *piece) {
  int first[MAX_OUTPUTS + 1] = {0}, operand = 0;
  for (int p = 0; p < parts; p++) {
    int64_t columns = 0;
    while (columns < part_width)
      columns += width[operand++];
    if (columns != part_width)
      return false;
    first[p + 1] = operand;
  }
  if (first[parts] != count)
    return false;
  const Attr attr = attr_int(ATTRIBUTE_parts, parts);
  const Inst split = *build_inst(g->f, OP_split, inst->loc, &d, 1, &attr, 1);
  for (int p = 0; p < parts; p++)
    if (!cut_columns(g, inst, split.output[p], width + first[p], first[p + 1] - first[p], piece + first[p]))
      return false;
  return true;
}

/* Splits `d` into parts of `part_width`, which divides every width, and joins those of each operand. */
static void cut_and_join(Gradients *g, const Inst *inst, ValueId d, const int64_t *width, int count, int64_t part_width,
                         int parts, ValueId *piece) {
  const Attr attr = attr_int(ATTRIBUTE_parts, parts);
  const Inst split = *build_inst(g->f, OP_split, inst->loc, &d, 1, &attr, 1);
  for (int i = 0, part = 0; i < count; i++) {
    const int n = (int)(width[i] / part_width);
    piece[i] = n == 1 ? split.output[part] : build(g->f, OP_concat, inst->loc, split.output + part, n, NULL, 0);
    part += n;
  }
}

static int64_t common_divisor(int64_t a, int64_t b) {
  return b == 0 ? a : common_divisor(b, a % b);
}

/* The columns of `d` cut into pieces of the given widths; false when equal splits cannot do it. */
static bool cut_columns(Gradients *g, const Inst *inst, ValueId d, const int64_t *width, int count, ValueId *piece) {
  int64_t total = 0, unit = 0;
  for (int i = 0; i < count; i++) {
    total += width[i];
    unit = common_divisor(width[i], unit);
  }
  if (count == 1)
    return piece[0] = d, true;
  for (int parts = 2; parts <= MAX_OUTPUTS; parts++)
    if (total % parts == 0 && cut_between(g, inst, d, width, count, total / parts, parts, piece))
      return true;
  if (total / unit > MAX_OUTPUTS)
    return false;
  cut_and_join(g, inst, d, width, count, unit, (int)(total / unit), piece);
  return true;
}

static void gradient_concat(Gradients *g, const Inst *inst) {
  const Func *f = g->f;
  const int count = inst->input_count;
  int64_t *width = arena_alloc(f->module->arena, (size_t)count * sizeof *width);
  ValueId *piece = arena_alloc(f->module->arena, (size_t)count * sizeof *piece);
  for (int i = 0; i < count; i++) {
    const Type t = type_of(g, inst->input[i]);
    width[i] = dim_value(f->module, t.dim[t.rank - 1]);
  }
  if (!cut_columns(g, inst, gradient_of(g, inst), width, count, piece))
    ir_fail(inst->loc,
            "concat of %d operands has no gradient: their columns cannot be cut out by equal splits into at most %d "
            "parts; expected operands of equal width",
            count, MAX_OUTPUTS);
  for (int i = 0; i < count; i++)
    if (wants(g, inst, i))
      give(g, inst, i, piece[i]);
}

/* ---------------------------------------------------------------- rows */

/* The gradient of a sum's result in the dtype of its operands, which differ when bf16 operands have an f32 result. */
static ValueId gradient_for_operands(Gradients *g, const Inst *inst) {
  const DType dtype = type_of(g, inst->input[0]).dtype;
  const ValueId d = gradient_of(g, inst);
  if (type_of(g, d).dtype == dtype)
    return d;
  const Attr attr = attr_dtype(dtype);
  return build(g->f, OP_cast, inst->loc, &d, 1, &attr, 1);
}

static void gradient_sum(Gradients *g, const Inst *inst) {
  give(g, inst, 0, build_broadcast(g->f, inst->loc, gradient_for_operands(g, inst), type_of(g, inst->input[0])));
}

static void gradient_max(Gradients *g, const Inst *inst) {
  const ValueId x = inst->input[0];
  const ValueId hot = one_hot_like(g, inst, op1(g, inst, OP_argmax, x), type_of(g, x));
  give(g, inst, 0, op2(g, inst, OP_mul, hot, gradient_of(g, inst)));
}

/* y * (dy - sum(dy*y)) */
static void gradient_softmax(Gradients *g, const Inst *inst) {
  const ValueId y = inst->output[0], dy = gradient_of(g, inst);
  const ValueId dot = build_sum(g->f, inst->loc, op2(g, inst, OP_mul, dy, y), -1);
  give(g, inst, 0, op2(g, inst, OP_mul, y, op2(g, inst, OP_sub, dy, dot)));
}

static void gradient_pick(Gradients *g, const Inst *inst) {
  const ValueId hot = one_hot_like(g, inst, inst->input[1], type_of(g, inst->input[0]));
  give(g, inst, 0, op2(g, inst, OP_mul, hot, gradient_of(g, inst)));
}

/* ---------------------------------------------------------------- indexed rows */

static void gradient_gather_rows(Gradients *g, const Inst *inst) {
  const Attr rows = attr_dim(ATTRIBUTE_rows, type_of(g, inst->input[0]).dim[0]);
  const ValueId operand[] = {gradient_of(g, inst), inst->input[1]};
  give(g, inst, 0, build(g->f, OP_scatter_rows, inst->loc, operand, 2, &rows, 1));
}

/* ---------------------------------------------------------------- products */

/* C = op(A) op(B). Both gradients are products of stored operands again, never of a transposed copy. */
static void gradient_matmul(Gradients *g, const Inst *inst) {
  Func *f = g->f;
  const Loc loc = inst->loc;
  const bool ta = inst_int(inst, ATTRIBUTE_ta, 0) != 0, tb = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  const ValueId a = inst->input[0], b = inst->input[1], dc = gradient_for_operands(g, inst);
  if (wants(g, inst, 0)) /* dA = dC op(B)^T; of a transposed A its transpose: op(B) dC^T */
    give(g, inst, 0, ta ? build_matmul(f, loc, b, dc, tb, true) : build_matmul(f, loc, dc, b, false, !tb));
  if (wants(g, inst, 1)) /* dB = op(A)^T dC; of a transposed B its transpose: dC^T op(A) */
    give(g, inst, 1, tb ? build_matmul(f, loc, dc, a, true, ta) : build_matmul(f, loc, a, dc, !ta, false));
}

static ValueId grouped_matmul(Gradients *g, const Inst *inst, ValueId x, ValueId w, bool tb) {
  const Attr attr = attr_int(ATTRIBUTE_tb, 1);
  return build(g->f, OP_grouped_matmul, inst->loc, (ValueId[]){x, w, inst->input[2]}, 3, &attr, tb ? 1 : 0);
}

static void gradient_grouped_matmul(Gradients *g, const Inst *inst) {
  const bool tb = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  const ValueId x = inst->input[0], w = inst->input[1], off = inst->input[2], dy = gradient_for_operands(g, inst);
  if (wants(g, inst, 0))
    give(g, inst, 0, grouped_matmul(g, inst, dy, w, !tb));
  if (wants(g, inst, 1))
    give(g, inst, 1, tb ? op3(g, inst, OP_grouped_outer, dy, x, off) : op3(g, inst, OP_grouped_outer, x, dy, off));
}

static void gradient_grouped_outer(Gradients *g, const Inst *inst) {
  const ValueId a = inst->input[0], b = inst->input[1], dc = gradient_for_operands(g, inst);
  if (wants(g, inst, 0))
    give(g, inst, 0, grouped_matmul(g, inst, b, dc, true));
  if (wants(g, inst, 1))
    give(g, inst, 1, grouped_matmul(g, inst, a, dc, false));
}

/* ---------------------------------------------------------------- attention over segments */

static void gradient_attention(Gradients *g, const Inst *inst) {
  const ValueId d_o = g->of[inst->output[0]];
  if (g->of[inst->output[1]] != NO_VALUE)
    ir_fail(inst->loc, "the loss depends on the lse output of an attention, which has no gradient; expected a use of "
                       "its first output, or op.stop around lse");
  const ValueId operand[] = {
      inst->input[0], inst->input[1], inst->input[2], inst->input[3], inst->output[0], inst->output[1], d_o};
  const Inst *back = build_inst(g->f, OP_attention_grad, inst->loc, operand, 7, inst->attr, inst->attr_count);
  const ValueId d[] = {back->output[0], back->output[1], back->output[2]};
  for (int i = 0; i < 3; i++)
    if (wants(g, inst, i))
      give(g, inst, i, d[i]);
}

/* ---------------------------------------------------------------- packed routing: pairs of adjoints */

static void gradient_dispatch(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op3(g, inst, OP_combine, gradient_of(g, inst), inst->input[2], inst->input[1]));
}

static void gradient_combine(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op3(g, inst, OP_dispatch, gradient_of(g, inst), inst->input[2], inst->input[1]));
}

static void gradient_pack(Gradients *g, const Inst *inst) {
  const Type w = type_of(g, inst->input[0]);
  const Attr columns = attr_dim(ATTRIBUTE_columns, w.dim[w.rank - 1]);
  const ValueId operand[] = {gradient_of(g, inst), inst->input[2], inst->input[1]};
  give(g, inst, 0, build(g->f, OP_unpack, inst->loc, operand, 3, &columns, 1));
}

static void gradient_unpack(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op3(g, inst, OP_pack, gradient_of(g, inst), inst->input[2], inst->input[1]));
}

static void gradient_expand(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op2(g, inst, OP_segment_sum, gradient_of(g, inst), inst->input[1]));
}

static void gradient_segment_sum(Gradients *g, const Inst *inst) {
  give(g, inst, 0, op2(g, inst, OP_expand, gradient_for_operands(g, inst), inst->input[1]));
}

#define gradient_none NULL
const GradientRule gradient_rule[OP_COUNT] = {
#define OP(name, min_inputs, max_inputs, outputs, attributes, flags, stages, shape, gradient, ...)                     \
  [OP_##name] = gradient_##gradient,
#include "ir/ops.def"
};
