/* What the body of a row kernel computes, found out by evaluating it: see cuda_epilogue.h.
 *
 * Sums, products, quotients, exp, tanh and sigmoid are analytic. Two analytic functions that agree on an interval agree
 * everywhere, so a body that equals a formula at random points is that formula, however it was written.
 */
#include <math.h>

#include "codegen/cuda_epilogue.h"
#include "ir/rows.h"

/* In (-2, 2), a function of the two numbers. */
static double random_number(uint32_t value, uint32_t sample) {
  uint64_t x = ((uint64_t)value << 32 | sample) + 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (double)((x ^ x >> 31) >> 11) * 0x1p-51 - 2;
}

static double apply(Op op, double a, double b) {
  switch (op) {
  case OP_add:
    return a + b;
  case OP_sub:
    return a - b;
  case OP_mul:
    return a * b;
  case OP_div:
    return a / b;
  case OP_neg:
    return -a;
  case OP_exp:
    return exp(a);
  case OP_tanh:
    return tanh(a);
  case OP_sigmoid:
    return 1 / (1 + exp(-a));
  case OP_cast:
  case OP_broadcast:
    return a;
  default:
    return NAN;
  }
}

static void set_operand(const Samples *s, ValueId v) {
  const Value *value = &s->f->values[v];
  const Inst *maker = value->kind == VALUE_RESULT ? &s->f->insts[value->inst] : NULL;
  if (maker && value->inst >= s->first && value->inst <= s->last)
    return;
  for (uint32_t i = 0; i < EPILOGUE_SAMPLES; i++)
    s->number[v][i] = maker && maker->op == OP_const ? inst_float(maker, ATTRIBUTE_value, 0) : random_number(v, i);
}

Samples samples_take(const Func *f, uint32_t first, uint32_t last, double (*room)[EPILOGUE_SAMPLES]) {
  Samples s = {.f = f, .first = first, .last = last, .number = room};
  for (uint32_t k = first; k <= last; k++) {
    const Inst *inst = &f->insts[k];
    for (int i = 0; i < inst->input_count; i++)
      set_operand(&s, inst->input[i]);
    const ValueId a = inst->input_count > 0 ? inst->input[0] : NO_VALUE;
    const ValueId b = inst->input_count > 1 ? inst->input[1] : a;
    for (int o = 0; o < inst->output_count; o++)
      for (uint32_t i = 0; i < EPILOGUE_SAMPLES; i++)
        s.number[inst->output[o]][i] = inst->op == OP_const ? inst_float(inst, ATTRIBUTE_value, 0)
                                       : a == NO_VALUE      ? NAN
                                                            : apply(inst->op, s.number[a][i], s.number[b][i]);
  }
  return s;
}

bool samples_equal(const double a[EPILOGUE_SAMPLES], const double b[EPILOGUE_SAMPLES]) {
  const double tolerance = 1e-9; /* of f64 sums in another order; constants of a formula differ by more */
  for (uint32_t i = 0; i < EPILOGUE_SAMPLES; i++)
    if (!(fabs(a[i] - b[i]) <= tolerance * (1 + fabs(b[i]))))
      return false;
  return true;
}

void samples_sum(const Samples *s, ValueId product, ValueId bias, ValueId residual, double x[EPILOGUE_SAMPLES]) {
  for (uint32_t i = 0; i < EPILOGUE_SAMPLES; i++)
    x[i] = s->number[product][i] + (bias == NO_VALUE ? 0 : s->number[bias][i]) +
           (residual == NO_VALUE ? 0 : s->number[residual][i]);
}

/* The GELU of cuBLASLt: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
static const double gelu_scale = 0.7978845608028654, gelu_cubic = 0.044715;

void samples_gelu(const double x[EPILOGUE_SAMPLES], double y[EPILOGUE_SAMPLES]) {
  for (uint32_t i = 0; i < EPILOGUE_SAMPLES; i++)
    y[i] = 0.5 * x[i] * (1 + tanh(gelu_scale * (x[i] + gelu_cubic * x[i] * x[i] * x[i])));
}

void samples_gelu_gradient(const double dy[EPILOGUE_SAMPLES], const double x[EPILOGUE_SAMPLES],
                           double y[EPILOGUE_SAMPLES]) {
  for (uint32_t i = 0; i < EPILOGUE_SAMPLES; i++) {
    const double square = x[i] * x[i], t = tanh(gelu_scale * (x[i] + gelu_cubic * x[i] * square));
    y[i] = dy[i] * (0.5 * (1 + t) + 0.5 * x[i] * (1 - t * t) * gelu_scale * (1 + 3 * gelu_cubic * square));
  }
}

ValueId *samples_operands(const Samples *s, ValueId like, bool vectors) {
  const Module *m = s->f->module;
  const RowShape shape = row_shape(m, s->f->values[like].type);
  ValueId *found = NULL;
  for (uint32_t k = s->first; k <= s->last; k++)
    for (int i = 0; i < s->f->insts[k].input_count; i++) {
      const ValueId v = s->f->insts[k].input[i];
      const Value *value = &s->f->values[v];
      const RowShape own = row_shape(m, value->type);
      bool inside = value->kind == VALUE_RESULT &&
                    (s->f->insts[value->inst].op == OP_const || (value->inst >= s->first && value->inst <= s->last));
      if (!inside && value->type.dtype != DTYPE_I32 && value->type.extent == NO_VALUE && own.columns == shape.columns &&
          own.rows == (vectors ? 1 : shape.rows))
        vec_push(m->arena, found, v);
    }
  return found;
}

uint32_t kernel_end(const Func *f, uint32_t first) {
  uint32_t last = first;
  while (f->insts[first].group != NO_GROUP && last + 1 < vec_len(f->insts) &&
         f->insts[last + 1].group == f->insts[first].group)
    last++;
  return last;
}

bool is_plain_product(const Func *f, uint32_t index) {
  const Inst *inst = &f->insts[index];
  return inst->op == OP_matmul && inst->group == NO_GROUP && f->values[inst->input[0]].type.extent == NO_VALUE &&
         f->values[inst->input[1]].type.extent == NO_VALUE;
}
