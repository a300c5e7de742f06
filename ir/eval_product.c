/* Matrix products, plain and grouped by offsets.
 *
 * Holds: a ragged summed dim ends at its live rows; rows of no group are dead and stay so.
 */
#include "ir/eval_private.h"

/* Element (row, column) of a stored matrix with `stride` columns, or of its transpose. */
static double element(const double *matrix, int64_t stride, bool transposed, int64_t row, int64_t column) {
  return transposed ? matrix[column * stride + row] : matrix[row * stride + column];
}

void eval_matmul(Evaluation *run, const Inst *inst) {
  const Tensor *a = eval_input(run, inst, 0), *b = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  bool ta = inst_int(inst, ATTRIBUTE_ta, 0) != 0, tb = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  int64_t columns = out->dim[1];
  int64_t summed = ta ? a->live : a->dim[1];
  if (!tb && b->live < summed)
    summed = b->live;
  for (int64_t row = 0; row < out->live; row++) {
    for (int64_t column = 0; column < columns; column++) {
      double total = 0;
      for (int64_t k = 0; k < summed; k++)
        total += element(a->f, a->dim[1], ta, row, k) * element(b->f, b->dim[1], tb, k, column);
      out->f[row * columns + column] = total;
    }
  }
}

void eval_grouped_matmul(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0), *w = eval_input(run, inst, 1), *off = eval_input(run, inst, 2);
  Tensor *out = eval_output(run, inst, 0);
  bool tb = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  int64_t groups = eval_check_offsets(inst, off, x->dim[0]);
  int64_t summed = x->dim[1], columns = out->dim[1];
  for (int64_t g = 0; g < groups; g++) {
    const double *matrix = w->f + g * w->dim[1] * w->dim[2];
    for (int64_t row = off->i[g]; row < off->i[g + 1]; row++) {
      for (int64_t column = 0; column < columns; column++) {
        double total = 0;
        for (int64_t k = 0; k < summed; k++)
          total += x->f[row * summed + k] * element(matrix, w->dim[2], tb, k, column);
        out->f[row * columns + column] = total;
      }
    }
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
