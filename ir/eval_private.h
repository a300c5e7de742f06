/* What the files of the interpreter share: the rules of ops.def and access to operands and results.
 *
 * A rule finds its outputs allocated with every element NaN or INT32_MIN and `live` set from the extent (except
 * route's, which makes the extent itself), and writes the live rows.
 */
#ifndef MOEC_EVAL_PRIVATE_H
#define MOEC_EVAL_PRIVATE_H

#include "ir/eval.h"

#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flop, eval, lower, doc)                \
  void eval_##eval(Evaluation *run, const Inst *inst);
#include "ir/ops.def"

static inline const Tensor *eval_input(const Evaluation *run, const Inst *inst, int index) {
  return run->tensors[inst->input[index]];
}

static inline Tensor *eval_output(const Evaluation *run, const Inst *inst, int index) {
  return run->tensors[inst->output[index]];
}

/* Columns of a row: the last dim. */
static inline int64_t tensor_columns(const Tensor *t) {
  return t->rank == 0 ? 1 : t->dim[t->rank - 1];
}

/* Live rows of `columns` elements; a rank-1 tensor is one row. */
static inline int64_t tensor_live_rows(const Tensor *t) {
  return t->rank < 2 ? 1 : tensor_live_elements(t) / t->dim[t->rank - 1];
}

/* out[at] = in[from], of either kind. */
static inline void tensor_set(Tensor *out, int64_t at, const Tensor *in, int64_t from) {
  if (out->i)
    out->i[at] = in->i[from];
  else
    out->f[at] = in->f[from];
}

/* Copies the live elements of `to` from the same places of `from`. */
void tensor_copy_live(Tensor *to, const Tensor *from);

/* Where the element of `out` at linear index `at` comes from in `in`, by the broadcasting rule. */
int64_t eval_broadcast_index(const Tensor *out, const Tensor *in, int64_t at);

/* Fails unless off[0] = 0 <= off[1] <= ... <= off[last] <= rows. Returns the number of groups. */
int64_t eval_check_offsets(const Inst *inst, const Tensor *offsets, int64_t rows);

/* Fails unless 0 <= index < bound. `what` names it in the message: "gather_rows: id". */
int64_t eval_check_index(const Inst *inst, const char *what, int64_t index, int64_t bound);

/* Decisions (eval_decision.c): called by each decision rule with its computed result and margins; records, or replaces
 * the result by the replayed one. `distance` says how far the numbers contradict a replayed choice at `index`. */
typedef double (*DecisionDistance)(const Evaluation *run, const Inst *inst, const Tensor *replayed, int64_t index);
void eval_decide(Evaluation *run, const Inst *inst, const double *margin, int64_t choices, DecisionDistance distance);

#endif
