/* Packed routing: route and the ops that move rows between tokens and packed rows.
 *
 * A pair is token*E + expert; packed rows stand in expert, then token order; off[e]..off[e+1] are those of expert e;
 * slot[t, j] is the packed row of the j-th expert of token t, -1 behind the last.
 */
#include "ir/eval_private.h"

#include <math.h>

/* Selected experts of one token. */
static int64_t count_selected(const Inst *inst, const Tensor *mask, int64_t token) {
  int64_t experts = mask->dim[1], selected = 0;
  for (int64_t e = 0; e < experts; e++) {
    double m = mask->f[token * experts + e];
    if (isnan(m))
      ir_fail(inst->loc, "route: the mask of token %lld and expert %lld is not a number", (long long)token,
              (long long)e);
    selected += m != 0;
  }
  return selected;
}

static void check_bounds(const Inst *inst, const Tensor *mask, int64_t k, int64_t bound) {
  int64_t pairs = 0;
  for (int64_t t = 0; t < mask->live; t++) {
    int64_t selected = count_selected(inst, mask, t);
    if (selected > k)
      ir_fail(inst->loc, "route: token %lld selects %lld experts, more than the bound k=%lld", (long long)t,
              (long long)selected, (long long)k);
    pairs += selected;
  }
  if (pairs > bound)
    ir_fail(inst->loc, "route: %lld expert-token pairs are selected, more than the bound rows=%lld", (long long)pairs,
            (long long)bound);
}

void eval_route(Evaluation *run, const Inst *inst) {
  const Tensor *mask = eval_input(run, inst, 0);
  Tensor *pair = eval_output(run, inst, 0), *off = eval_output(run, inst, 1), *slot = eval_output(run, inst, 2);
  int64_t experts = mask->dim[1], k = slot->dim[1];
  check_bounds(inst, mask, k, pair->dim[0]);
  for (int64_t at = 0; at < tensor_all_elements(slot); at++)
    slot->i[at] = -1;
  int32_t row = 0;
  off->i[0] = 0;
  for (int64_t e = 0; e < experts; e++) {
    for (int64_t t = 0; t < mask->live; t++) {
      if (mask->f[t * experts + e] == 0)
        continue;
      int64_t place = 0;
      while (slot->i[t * k + place] >= 0)
        place++;
      slot->i[t * k + place] = row;
      pair->i[row++] = (int32_t)(t * experts + e);
    }
    off->i[e + 1] = row;
  }
  pair->live = row;
}

/* ---------------------------------------------------------------- between tokens and packed rows */

/* Experts of a routing: the offsets that make `pair` ragged have one entry more. */
static int64_t experts_of(const Evaluation *run, const Inst *inst, int pair_input) {
  const Value *pair = &run->func->values[inst->input[pair_input]];
  if (pair->type.extent == NO_VALUE)
    ir_bug("interpreter: %s: %%%s is not ragged", op_info[inst->op].name, pair->name);
  return tensor_all_elements(run->tensors[pair->type.extent]) - 1;
}

void eval_dispatch(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0), *pair = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = out->dim[1], experts = experts_of(run, inst, 1);
  for (int64_t r = 0; r < out->live; r++) {
    int64_t token = eval_check_index(inst, "dispatch: token", pair->i[r] / experts, x->dim[0]);
    for (int64_t c = 0; c < columns; c++)
      tensor_set(out, r * columns + c, x, token * columns + c);
  }
}

void eval_combine(Evaluation *run, const Inst *inst) {
  const Tensor *o = eval_input(run, inst, 0), *slot = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = out->dim[1], k = slot->dim[1];
  for (int64_t t = 0; t < out->live; t++) {
    for (int64_t c = 0; c < columns; c++) {
      double total = 0;
      for (int64_t j = 0; j < k && slot->i[t * k + j] >= 0; j++)
        total += o->f[eval_check_index(inst, "combine: row", slot->i[t * k + j], o->live) * columns + c];
      out->f[t * columns + c] = total;
    }
  }
}

void eval_pack(Evaluation *run, const Inst *inst) {
  const Tensor *w = eval_input(run, inst, 0), *pair = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  for (int64_t r = 0; r < out->live; r++)
    tensor_set(out, r, w, eval_check_index(inst, "pack: pair", pair->i[r], tensor_all_elements(w)));
}

void eval_unpack(Evaluation *run, const Inst *inst) {
  const Tensor *w = eval_input(run, inst, 0), *slot = eval_input(run, inst, 1), *pair = eval_input(run, inst, 2);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = out->dim[1], k = slot->dim[1];
  for (int64_t at = 0; at < tensor_all_elements(out); at++)
    out->f[at] = 0;
  for (int64_t t = 0; t < out->live; t++) {
    for (int64_t j = 0; j < k && slot->i[t * k + j] >= 0; j++) {
      int64_t row = eval_check_index(inst, "unpack: row", slot->i[t * k + j], w->live);
      out->f[t * columns + pair->i[row] % columns] = w->f[row];
    }
  }
}

/* ---------------------------------------------------------------- per expert */

void eval_expand(Evaluation *run, const Inst *inst) {
  const Tensor *b = eval_input(run, inst, 0), *off = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = out->dim[1], experts = eval_check_offsets(inst, off, out->dim[0]);
  for (int64_t e = 0; e < experts; e++)
    for (int64_t r = off->i[e]; r < off->i[e + 1]; r++)
      for (int64_t c = 0; c < columns; c++)
        tensor_set(out, r * columns + c, b, e * columns + c);
}

void eval_segment_sum(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0), *off = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = out->dim[1], experts = eval_check_offsets(inst, off, x->dim[0]);
  for (int64_t e = 0; e < experts; e++) {
    for (int64_t c = 0; c < columns; c++) {
      double total = 0;
      for (int64_t r = off->i[e]; r < off->i[e + 1]; r++)
        total += x->f[r * columns + c];
      out->f[e * columns + c] = total;
    }
  }
}
