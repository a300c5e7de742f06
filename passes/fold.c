/* Constant folding and identities.
 *
 * In: any module. Out: the same with scalar constants evaluated, and without instructions that only repeat an operand:
 * x*1, x+0, x/1, reshapes and broadcasts of one another or to the same shape, casts to the same type, sums over a dim
 * of size 1, a concat of all parts of a split. A broadcast in front of an elementwise op goes away where the op
 * stretches its operand anyway. Dead operands are left for dce.
 *
 * Holds: in f64 the results are equal within 1e-11; in f32 exact but for the sign of zero. A division by a constant
 * becomes a product only where the reciprocal is exact. What multiplies by 0 stays: a NaN must not vanish. Random ops
 * and decisions on data are never folded. */
#include "passes/pass.h"
#include "passes/rewrite.h"

#include <math.h>

/* One instruction being folded: operands and type are those of the new function. */
typedef struct Fold {
  Func *f;
  Inst inst;
  Type type; /* of the first output */
} Fold;

/* The instruction that defines `v`, or NULL. */
static const Inst *definition(const Fold *fold, ValueId v) {
  const Value *value = &fold->f->values[v];
  return value->kind == VALUE_RESULT ? &fold->f->insts[value->inst] : NULL;
}

static const Inst *definition_by(const Fold *fold, ValueId v, Op op) {
  const Inst *inst = definition(fold, v);
  return inst != NULL && inst->op == op ? inst : NULL;
}

static bool is_constant(const Fold *fold, ValueId v, double *value) {
  const Inst *inst = definition_by(fold, v, OP_const);
  if (inst == NULL || fold->f->values[v].type.dtype != DTYPE_F32)
    return false;
  *value = inst_float(inst, ATTRIBUTE_value, 0);
  return true;
}

static bool is_number(const Fold *fold, ValueId v, double number) {
  double value;
  return is_constant(fold, v, &value) && value == number;
}

static bool has_result_type(const Fold *fold, ValueId v) {
  return type_equal(fold->f->module, fold->f->values[v].type, fold->type);
}

/* `v` when it can stand for the result as it is, else NO_VALUE. */
static ValueId stand_in(const Fold *fold, ValueId v) {
  return has_result_type(fold, v) ? v : NO_VALUE;
}

/* ---------------------------------------------------------------- constants */

/* The value of an elementwise op on scalars; false where it is not folded. */
static bool evaluate(Op op, const double *x, double *y) {
  switch (op) {
  case OP_add:
    return *y = x[0] + x[1], true;
  case OP_sub:
    return *y = x[0] - x[1], true;
  case OP_mul:
    return *y = x[0] * x[1], true;
  case OP_div:
    return *y = x[0] / x[1], true;
  case OP_maximum:
    return *y = x[0] > x[1] ? x[0] : x[1], true;
  case OP_minimum:
    return *y = x[0] < x[1] ? x[0] : x[1], true;
  case OP_neg:
    return *y = -x[0], true;
  case OP_abs:
    return *y = fabs(x[0]), true;
  case OP_exp:
    return *y = exp(x[0]), true;
  case OP_log:
    return *y = log(x[0]), true;
  case OP_expm1:
    return *y = expm1(x[0]), true;
  case OP_log1p:
    return *y = log1p(x[0]), true;
  case OP_sqrt:
    return *y = sqrt(x[0]), true;
  case OP_rsqrt:
    return *y = 1 / sqrt(x[0]), true;
  case OP_tanh:
    return *y = tanh(x[0]), true;
  case OP_erf:
    return *y = erf(x[0]), true;
  case OP_sigmoid:
    return *y = 1 / (1 + exp(-x[0])), true;
  case OP_cos:
    return *y = cos(x[0]), true;
  case OP_sin:
    return *y = sin(x[0]), true;
  default:
    return false;
  }
}

/* A constant that is not finite stays an instruction with a line, which is easier to find than a literal inf. */
static ValueId fold_constants(Fold *fold) {
  double x[2], y;
  const Inst *inst = &fold->inst;
  if (inst->input_count < 1 || inst->input_count > 2 || fold->type.dtype != DTYPE_F32)
    return NO_VALUE;
  for (int k = 0; k < inst->input_count; k++)
    if (!is_constant(fold, inst->input[k], &x[k]))
      return NO_VALUE;
  if (!evaluate(inst->op, x, &y) || !isfinite(y) || fabs(y) > 3.4e38)
    return NO_VALUE;
  return build_const(fold->f, inst->loc, y);
}

/* ---------------------------------------------------------------- arithmetic */

static ValueId build_like(Fold *fold, Op op, ValueId a, ValueId b) {
  return build2(fold->f, op, fold->inst.loc, a, b);
}

/* The operand of a neg, or NO_VALUE. */
static ValueId negated(const Fold *fold, ValueId v) {
  const Inst *inst = definition_by(fold, v, OP_neg);
  return inst != NULL ? inst->input[0] : NO_VALUE;
}

static ValueId fold_add(Fold *fold, ValueId a, ValueId b) {
  if (is_number(fold, b, 0) && has_result_type(fold, a))
    return a;
  if (is_number(fold, a, 0) && has_result_type(fold, b))
    return b;
  if (negated(fold, b) != NO_VALUE)
    return build_like(fold, OP_sub, a, negated(fold, b));
  if (negated(fold, a) != NO_VALUE)
    return build_like(fold, OP_sub, b, negated(fold, a));
  return NO_VALUE;
}

static ValueId fold_sub(Fold *fold, ValueId a, ValueId b) {
  if (is_number(fold, b, 0))
    return stand_in(fold, a);
  if (negated(fold, b) != NO_VALUE)
    return build_like(fold, OP_add, a, negated(fold, b));
  return NO_VALUE;
}

static ValueId fold_mul(Fold *fold, ValueId a, ValueId b) {
  if (is_number(fold, b, 1))
    return stand_in(fold, a);
  return is_number(fold, a, 1) ? stand_in(fold, b) : NO_VALUE;
}

static ValueId fold_div(Fold *fold, ValueId a, ValueId b) {
  double divisor;
  int exponent;
  if (!is_constant(fold, b, &divisor))
    return NO_VALUE;
  if (divisor == 1)
    return stand_in(fold, a);
  const bool power_of_two = fabs(frexp(divisor, &exponent)) == 0.5;
  if (!power_of_two || exponent < -100 || exponent > 100) /* within f32's normal numbers, also as a reciprocal */
    return NO_VALUE;
  return build_like(fold, OP_mul, a, build_const(fold->f, fold->inst.loc, 1 / divisor));
}

static ValueId fold_neg(Fold *fold, ValueId a) {
  if (negated(fold, a) != NO_VALUE)
    return negated(fold, a);
  const Inst *sub = definition_by(fold, a, OP_sub);
  return sub != NULL ? build_like(fold, OP_sub, sub->input[1], sub->input[0]) : NO_VALUE;
}

static ValueId fold_select(Fold *fold, const ValueId *operand) {
  double mask;
  if (operand[1] == operand[2])
    return stand_in(fold, operand[1]);
  if (!is_constant(fold, operand[0], &mask))
    return NO_VALUE;
  return stand_in(fold, mask != 0 ? operand[1] : operand[2]);
}

/* ---------------------------------------------------------------- shape */

static ValueId fold_reshape(Fold *fold, ValueId x) {
  if (has_result_type(fold, x))
    return x;
  const Inst *inner = definition_by(fold, x, OP_reshape);
  if (inner == NULL)
    return NO_VALUE;
  if (has_result_type(fold, inner->input[0]))
    return inner->input[0];
  return build(fold->f, OP_reshape, fold->inst.loc, inner->input, 1, fold->inst.attr, fold->inst.attr_count);
}

/* What `v` stretches: the operand of a broadcast, or of a reshape of one element. NO_VALUE: it is neither. */
static ValueId unstretched(const Fold *fold, ValueId v) {
  const Inst *inst = definition(fold, v);
  if (inst == NULL)
    return NO_VALUE;
  const Type type = fold->f->values[inst->output[0]].type;
  const bool one = inst->op == OP_reshape && type.extent == NO_VALUE && type_elements(fold->f->module, type) == 1;
  return inst->op == OP_broadcast || one ? inst->input[0] : NO_VALUE;
}

static ValueId fold_broadcast(Fold *fold) {
  const Inst *inst = &fold->inst;
  if (has_result_type(fold, inst->input[0]))
    return inst->input[0];
  const ValueId source = unstretched(fold, inst->input[0]);
  if (source == NO_VALUE || fold->f->values[source].type.rank > fold->type.rank ||
      fold->f->values[inst->input[0]].type.extent != NO_VALUE)
    return NO_VALUE;
  ValueId operand[] = {source, inst->input_count == 2 ? inst->input[1] : NO_VALUE};
  return build(fold->f, OP_broadcast, inst->loc, operand, inst->input_count, inst->attr, inst->attr_count);
}

/* A reduction over one element. */
static ValueId fold_reduction(Fold *fold, ValueId x) {
  const Type t = fold->f->values[x].type;
  int64_t axis = inst_int(&fold->inst, ATTRIBUTE_axis, -1);
  axis = axis < 0 ? axis + t.rank : axis;
  return dim_value(fold->f->module, t.dim[axis]) == 1 ? stand_in(fold, x) : NO_VALUE;
}

static ValueId fold_concat(Fold *fold) {
  const Inst *inst = &fold->inst;
  if (inst->input_count == 1)
    return stand_in(fold, inst->input[0]);
  const Inst *split = definition_by(fold, inst->input[0], OP_split);
  if (split == NULL || split->output_count != inst->input_count)
    return NO_VALUE;
  for (int k = 0; k < inst->input_count; k++)
    if (inst->input[k] != split->output[k])
      return NO_VALUE;
  return split->input[0];
}

/* ---------------------------------------------------------------- one instruction */

/* What the first output can be replaced by, or NO_VALUE. */
static ValueId simplify(Fold *fold) {
  const ValueId *x = fold->inst.input;
  const ValueId constant = fold_constants(fold);
  if (constant != NO_VALUE)
    return constant;
  switch (fold->inst.op) {
  case OP_add:
    return fold_add(fold, x[0], x[1]);
  case OP_sub:
    return fold_sub(fold, x[0], x[1]);
  case OP_mul:
    return fold_mul(fold, x[0], x[1]);
  case OP_div:
    return fold_div(fold, x[0], x[1]);
  case OP_neg:
    return fold_neg(fold, x[0]);
  case OP_select:
    return fold_select(fold, x);
  case OP_cast:
    return stand_in(fold, x[0]);
  case OP_stop: /* means something to autodiff only */
    return fold->f->module->stage == STAGE_GRAPH ? NO_VALUE : x[0];
  case OP_reshape:
    return fold_reshape(fold, x[0]);
  case OP_broadcast:
    return fold_broadcast(fold);
  case OP_sum:
  case OP_max:
    return fold_reduction(fold, x[0]);
  case OP_concat:
    return fold_concat(fold);
  case OP_split:
    return fold->inst.output_count == 1 ? stand_in(fold, x[0]) : NO_VALUE;
  default:
    return NO_VALUE;
  }
}

/* Reads what was stretched instead of the stretched value where the op stretches it to the same result. */
static bool skip_broadcasts(Fold *fold) {
  Inst *inst = &fold->inst;
  bool skipped = false;
  if (!(op_info[inst->op].flags & FLAG_ELEMENTWISE) || inst->input_count < 2 || inst->op == OP_broadcast)
    return false;
  for (int k = 0; k < inst->input_count; k++) {
    const ValueId stretched = inst->input[k], source = unstretched(fold, stretched);
    if (source == NO_VALUE)
      continue;
    Type type;
    inst->input[k] = source;
    if (shape_rule[inst->op](fold->f, inst, &type) == NULL && type_equal(fold->f->module, type, fold->type))
      skipped = true;
    else
      inst->input[k] = stretched;
  }
  return skipped;
}

/* Instructions made in place of `old` belong to its group; a value made for its output gets that output's name. */
static void adopt(Rewrite *r, const Inst *old, uint32_t first_inst, ValueId result) {
  Func *f = r->f;
  for (uint32_t i = first_inst; i < vec_len(f->insts); i++)
    f->insts[i].group = old->group;
  const Value *value = &f->values[result];
  if (value->kind == VALUE_RESULT && value->inst >= first_inst) {
    f->insts[value->inst].note = old->note;
    value_rename(f, result, r->old.values[old->output[0]].name);
  }
}

static bool fold_inst(Rewrite *r, uint32_t index) {
  Func *f = r->f;
  const Inst *old = &r->old.insts[index];
  Fold fold = {.f = f, .inst = *old, .type = r->old.values[old->output[0]].type};
  fold.inst.input = arena_alloc(f->module->arena, (old->input_count + 1u) * sizeof *fold.inst.input);
  for (int k = 0; k < old->input_count; k++)
    fold.inst.input[k] = rewrite_value(r, old->input[k]);
  if (fold.type.extent != NO_VALUE && r->map[fold.type.extent] != NO_VALUE)
    fold.type.extent = r->map[fold.type.extent];
  const uint32_t first_inst = vec_len(f->insts);
  const bool skipped = skip_broadcasts(&fold);
  ValueId result = simplify(&fold);
  if (result == NO_VALUE && skipped)
    result = build(f, old->op, old->loc, fold.inst.input, old->input_count, old->attr, old->attr_count);
  if (result == NO_VALUE) {
    rewrite_copy(r, index);
    return false;
  }
  adopt(r, old, first_inst, result);
  rewrite_map(r, old->output[0], result);
  return true;
}

static bool fold_func(Func *f) {
  bool changed = false;
  Rewrite r = rewrite_begin(f);
  for (uint32_t i = 0; i < vec_len(r.old.insts); i++)
    changed |= fold_inst(&r, i);
  rewrite_end(&r);
  return changed;
}

bool pass_fold(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(context->module->funcs); i++)
    changed |= fold_func(context->module->funcs[i]);
  return changed;
}
