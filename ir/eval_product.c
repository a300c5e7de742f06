/* Matrix products, plain and grouped by offsets.
 *
 * Holds: a ragged summed dim ends at its live rows; rows of no group are dead and stay so.
 */
#include "ir/eval_private.h"

/* How a product reads its operands: element (row, k) of a, element (k, column) of b. */
typedef struct Product {
  const double *a, *b;
  int64_t a_row, a_k; /* elements between neighbours */
  int64_t columns, summed;
  bool b_transposed; /* b is stored [columns, b_stride] instead of [k, b_stride] */
  int64_t b_stride;
} Product;

/* One row of the result. Every element is summed in order of k; the loops follow the order of the memory. */
static void product_row(const Product *p, int64_t row, double *out) {
  const double *a = p->a + row * p->a_row;
  for (int64_t column = 0; column < p->columns; column++) {
    double total = 0;
    for (int64_t k = 0; p->b_transposed && k < p->summed; k++)
      total += a[k * p->a_k] * p->b[column * p->b_stride + k];
    out[column] = total;
  }
  for (int64_t k = 0; !p->b_transposed && k < p->summed; k++)
    for (int64_t column = 0; column < p->columns; column++)
      out[column] += a[k * p->a_k] * p->b[k * p->b_stride + column];
}

void eval_matmul(Evaluation *run, const Inst *inst) {
  const Tensor *a = eval_input(run, inst, 0), *b = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  bool ta = inst_int(inst, ATTRIBUTE_ta, 0) != 0, tb = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  Product p = {.a = a->f, .b = b->f, .columns = out->dim[1], .b_transposed = tb, .b_stride = b->dim[1]};
  p.a_row = ta ? 1 : a->dim[1];
  p.a_k = ta ? a->dim[1] : 1;
  p.summed = ta ? a->live : a->dim[1];
  if (!tb && b->live < p.summed)
    p.summed = b->live;
  for (int64_t row = 0; row < out->live; row++)
    product_row(&p, row, out->f + row * p.columns);
}

void eval_grouped_matmul(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0), *w = eval_input(run, inst, 1), *off = eval_input(run, inst, 2);
  Tensor *out = eval_output(run, inst, 0);
  bool tb = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  int64_t groups = eval_check_offsets(inst, off, x->dim[0]);
  Product p = {.a = x->f, .a_row = x->dim[1], .a_k = 1, .summed = x->dim[1], .columns = out->dim[1]};
  p.b_transposed = tb;
  p.b_stride = w->dim[2];
  for (int64_t g = 0; g < groups; g++) {
    p.b = w->f + g * w->dim[1] * w->dim[2];
    for (int64_t row = off->i[g]; row < off->i[g + 1]; row++)
      product_row(&p, row, out->f + row * p.columns);
  }
}

void eval_grouped_outer(Evaluation *run, const Inst *inst) {
  const Tensor *a = eval_input(run, inst, 0), *b = eval_input(run, inst, 1), *off = eval_input(run, inst, 2);
  Tensor *out = eval_output(run, inst, 0);
  int64_t groups = eval_check_offsets(inst, off, a->dim[0]);
  int64_t rows = a->dim[1], columns = b->dim[1];
  for (int64_t g = 0; g < groups; g++) {
    for (int64_t at = 0; at < rows * columns; at++) {
      double total = 0;
      for (int64_t r = off->i[g]; r < off->i[g + 1]; r++)
        total += a->f[r * rows + at / columns] * b->f[r * columns + at % columns];
      out->f[g * rows * columns + at] = total;
    }
  }
}
