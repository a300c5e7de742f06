/* Ops within rows: reductions, softmax, one-hot, pick; and rows chosen by indices.
 *
 * Holds: a reduction over dim 0 stops at the live rows; sums run in index order.
 */
#include "ir/eval_private.h"

#include <math.h>

/* ---------------------------------------------------------------- reductions */

void eval_sum(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  int64_t axis = inst_int(inst, ATTRIBUTE_axis, -1);
  if (axis < 0)
    axis += x->rank;
  int64_t inner = 1;
  for (int d = (int)axis + 1; d < x->rank; d++)
    inner *= x->dim[d];
  int64_t length = axis == 0 ? x->live : x->dim[axis];
  for (int64_t at = 0; at < tensor_live_elements(out); at++) {
    int64_t first = at / inner * x->dim[axis] * inner + at % inner;
    double total = 0;
    for (int64_t step = 0; step < length; step++)
      total += x->f[first + step * inner];
    out->f[at] = total;
  }
}

void eval_max(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_columns(x);
  if (x->rank == 1)
    columns = x->live;
  for (int64_t r = 0; r < tensor_live_elements(out); r++) {
    double largest = -INFINITY;
    for (int64_t at = r * columns; at < (r + 1) * columns; at++)
      if (isnan(x->f[at]) || x->f[at] > largest)
        largest = x->f[at];
    out->f[r] = largest;
  }
}

void eval_softmax(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_columns(x);
  for (int64_t r = 0; r < tensor_live_rows(x); r++) {
    const double *row = x->f + r * columns;
    double largest = row[0], total = 0;
    for (int64_t c = 1; c < columns; c++)
      largest = row[c] > largest ? row[c] : largest;
    for (int64_t c = 0; c < columns; c++)
      total += exp(row[c] - largest);
    for (int64_t c = 0; c < columns; c++)
      out->f[r * columns + c] = exp(row[c] - largest) / total;
  }
}

/* ---------------------------------------------------------------- columns chosen by an index */

void eval_one_hot(Evaluation *run, const Inst *inst) {
  const Tensor *index = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_columns(out);
  for (int64_t r = 0; r < out->live; r++)
    for (int64_t c = 0; c < columns; c++)
      out->f[r * columns + c] = index->i[r] == c ? 1 : 0;
}

void eval_pick(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0), *index = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_columns(x);
  for (int64_t r = 0; r < out->live; r++)
    out->f[r] = x->f[r * columns + eval_check_index(inst, "pick: column", index->i[r], columns)];
}

/* ---------------------------------------------------------------- rows chosen by an index */

void eval_gather_rows(Evaluation *run, const Inst *inst) {
  const Tensor *table = eval_input(run, inst, 0), *ids = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_row_elements(out);
  for (int64_t r = 0; r < out->live; r++) {
    int64_t from = eval_check_index(inst, "gather_rows: id", ids->i[r], table->live);
    for (int64_t c = 0; c < columns; c++)
      tensor_set(out, r * columns + c, table, from * columns + c);
  }
}

void eval_scatter_rows(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0), *ids = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_row_elements(out);
  for (int64_t at = 0; at < tensor_all_elements(out); at++)
    out->f[at] = 0;
  for (int64_t r = 0; r < x->live; r++) {
    int64_t to = eval_check_index(inst, "scatter_rows: id", ids->i[r], out->dim[0]);
    for (int64_t c = 0; c < columns; c++)
      out->f[to * columns + c] += x->f[r * columns + c];
  }
}
