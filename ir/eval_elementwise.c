/* Elementwise ops, casts, constants and shapes.
 *
 * Broadcasting: every result element finds its operands' elements by eval_broadcast_index. Only live rows are computed.
 * i32 arithmetic wraps; what is not a number passes through every op except where `select` does not take it.
 */
#include "ir/eval_private.h"

#include <math.h>

/* ---------------------------------------------------------------- one operand */

static void map_float(Evaluation *run, const Inst *inst, double (*function)(double)) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++)
    out->f[at] = function(x->f[at]);
}

void eval_neg(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++) {
    if (out->i)
      out->i[at] = (int32_t)(0u - (uint32_t)x->i[at]);
    else
      out->f[at] = -x->f[at];
  }
}

void eval_abs(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++) {
    if (out->i)
      out->i[at] = x->i[at] < 0 ? (int32_t)(0u - (uint32_t)x->i[at]) : x->i[at];
    else
      out->f[at] = fabs(x->f[at]);
  }
}

static double reciprocal_root(double x) {
  return 1 / sqrt(x);
}

/* Never exponentiates a positive number. */
static double logistic(double x) {
  double e = exp(-fabs(x));
  return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

void eval_exp(Evaluation *run, const Inst *inst) {
  map_float(run, inst, exp);
}

void eval_log(Evaluation *run, const Inst *inst) {
  map_float(run, inst, log);
}

void eval_expm1(Evaluation *run, const Inst *inst) {
  map_float(run, inst, expm1);
}

void eval_log1p(Evaluation *run, const Inst *inst) {
  map_float(run, inst, log1p);
}

void eval_sqrt(Evaluation *run, const Inst *inst) {
  map_float(run, inst, sqrt);
}

void eval_rsqrt(Evaluation *run, const Inst *inst) {
  map_float(run, inst, reciprocal_root);
}

void eval_tanh(Evaluation *run, const Inst *inst) {
  map_float(run, inst, tanh);
}

void eval_erf(Evaluation *run, const Inst *inst) {
  map_float(run, inst, erf);
}

void eval_sigmoid(Evaluation *run, const Inst *inst) {
  map_float(run, inst, logistic);
}

void eval_cos(Evaluation *run, const Inst *inst) {
  map_float(run, inst, cos);
}

void eval_sin(Evaluation *run, const Inst *inst) {
  map_float(run, inst, sin);
}

void eval_stop(Evaluation *run, const Inst *inst) {
  tensor_copy_live(eval_output(run, inst, 0), eval_input(run, inst, 0));
}

/* What i32 cannot hold becomes INT32_MIN: dead tokens may be not a number, and no index op accepts it. */
static int32_t round_toward_zero(double x) {
  double whole = trunc(x);
  return whole >= -2147483648.0 && whole <= 2147483647.0 ? (int32_t)whole : INT32_MIN;
}

void eval_cast(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++) {
    if (out->i)
      out->i[at] = x->i ? x->i[at] : round_toward_zero(x->f[at]);
    else
      out->f[at] = x->i ? (double)x->i[at] : x->f[at];
  }
}

/* ---------------------------------------------------------------- two operands */

static void map_two(Evaluation *run, const Inst *inst, double (*of_float)(double, double),
                    int32_t (*of_int)(const Inst *, int32_t, int32_t)) {
  const Tensor *a = eval_input(run, inst, 0), *b = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++) {
    int64_t from_a = eval_broadcast_index(out, a, at), from_b = eval_broadcast_index(out, b, at);
    if (out->i)
      out->i[at] = of_int(inst, a->i[from_a], b->i[from_b]);
    else
      out->f[at] = of_float(a->f[from_a], b->f[from_b]);
  }
}

static double float_add(double a, double b) {
  return a + b;
}

static double float_sub(double a, double b) {
  return a - b;
}

static double float_mul(double a, double b) {
  return a * b;
}

static double float_div(double a, double b) {
  return a / b;
}

/* The table gives a tie to b in the gradient; in value both are the same. */
static double float_maximum(double a, double b) {
  return isnan(a) || a > b ? a : b;
}

static double float_minimum(double a, double b) {
  return isnan(a) || a < b ? a : b;
}

static int32_t int_add(const Inst *inst, int32_t a, int32_t b) {
  (void)inst;
  return (int32_t)((uint32_t)a + (uint32_t)b);
}

static int32_t int_sub(const Inst *inst, int32_t a, int32_t b) {
  (void)inst;
  return (int32_t)((uint32_t)a - (uint32_t)b);
}

static int32_t int_mul(const Inst *inst, int32_t a, int32_t b) {
  (void)inst;
  return (int32_t)((uint32_t)a * (uint32_t)b);
}

static int32_t int_div(const Inst *inst, int32_t a, int32_t b) {
  if (b == 0)
    ir_fail(inst->loc, "div: %d divided by 0, expected another divisor", a);
  int64_t quotient = (int64_t)a / b;
  if ((int64_t)a % b != 0 && (a < 0) != (b < 0))
    quotient--;
  return (int32_t)(uint32_t)quotient;
}

static int32_t int_maximum(const Inst *inst, int32_t a, int32_t b) {
  (void)inst;
  return a > b ? a : b;
}

static int32_t int_minimum(const Inst *inst, int32_t a, int32_t b) {
  (void)inst;
  return a < b ? a : b;
}

void eval_add(Evaluation *run, const Inst *inst) {
  map_two(run, inst, float_add, int_add);
}

void eval_sub(Evaluation *run, const Inst *inst) {
  map_two(run, inst, float_sub, int_sub);
}

void eval_mul(Evaluation *run, const Inst *inst) {
  map_two(run, inst, float_mul, int_mul);
}

void eval_div(Evaluation *run, const Inst *inst) {
  map_two(run, inst, float_div, int_div);
}

void eval_maximum(Evaluation *run, const Inst *inst) {
  map_two(run, inst, float_maximum, int_maximum);
}

void eval_minimum(Evaluation *run, const Inst *inst) {
  map_two(run, inst, float_minimum, int_minimum);
}

void eval_select(Evaluation *run, const Inst *inst) {
  const Tensor *mask = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++) {
    int64_t from_mask = eval_broadcast_index(out, mask, at);
    const Tensor *chosen = eval_input(run, inst, mask->f[from_mask] != 0 ? 1 : 2);
    tensor_set(out, at, chosen, eval_broadcast_index(out, chosen, at));
  }
}

/* ---------------------------------------------------------------- made from nothing */

void eval_const(Evaluation *run, const Inst *inst) {
  Tensor *out = eval_output(run, inst, 0);
  double value = inst_float(inst, ATTRIBUTE_value, 0);
  if (out->i)
    out->i[0] = round_toward_zero(value);
  else
    out->f[0] = value;
}

void eval_iota(Evaluation *run, const Inst *inst) {
  Tensor *out = eval_output(run, inst, 0);
  for (int64_t row = 0; row < out->live; row++)
    out->i[row] = (int32_t)row;
}

/* ---------------------------------------------------------------- shapes */

void eval_reshape(Evaluation *run, const Inst *inst) {
  tensor_copy_live(eval_output(run, inst, 0), eval_input(run, inst, 0));
}

void eval_broadcast(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  const int64_t count = tensor_live_elements(out);
  for (int64_t at = 0; at < count; at++)
    tensor_set(out, at, x, eval_broadcast_index(out, x, at));
}

void eval_split(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  int64_t first = 0;
  for (int part = 0; part < inst->output_count; part++) {
    Tensor *out = eval_output(run, inst, part);
    int64_t columns = tensor_columns(out);
    for (int64_t at = 0; at < tensor_live_rows(out) * columns; at++)
      tensor_set(out, at, x, at / columns * tensor_columns(x) + first + at % columns);
    first += columns;
  }
}

void eval_concat(Evaluation *run, const Inst *inst) {
  Tensor *out = eval_output(run, inst, 0);
  int64_t first = 0;
  for (int part = 0; part < inst->input_count; part++) {
    const Tensor *x = eval_input(run, inst, part);
    int64_t columns = tensor_columns(x);
    for (int64_t at = 0; at < tensor_live_rows(out) * columns; at++)
      tensor_set(out, at / columns * tensor_columns(out) + first + at % columns, x, at);
    first += columns;
  }
}
