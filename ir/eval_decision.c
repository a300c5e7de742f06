/* Decisions: the discontinuous choices of a run (comparisons, arg-max, top-k), recorded and replayed.
 *
 * Two runs that agree to rounding may choose differently where two numbers nearly tie, and then differ grossly in what
 * follows. Replay takes the choices of the other run and proves, choice by choice, that this run's own numbers allow
 * them within a tolerance. Decisions over i32 operands are exact: there no distance is small.
 */
#include "ir/eval_private.h"

#include <math.h>
#include <string.h>

static const EvalDecision *find_decision(const EvalDecisions *list, const char *func, const char *value) {
  for (uint32_t i = 0; i < vec_len(list->items); i++)
    if (strcmp(list->items[i].func, func) == 0 && strcmp(list->items[i].value, value) == 0)
      return &list->items[i];
  return NULL;
}

static bool same_shape(const Tensor *a, const Tensor *b) {
  bool same = a->rank == b->rank && a->live == b->live && (a->i != NULL) == (b->i != NULL);
  for (int d = 0; same && d < a->rank; d++)
    same = a->dim[d] == b->dim[d];
  return same;
}

static bool choice_differs(const Tensor *a, const Tensor *b, int64_t first, int64_t count) {
  for (int64_t at = first; at < first + count; at++)
    if (a->i ? a->i[at] != b->i[at] : a->f[at] != b->f[at])
      return true;
  return false;
}

static void replay(Evaluation *run, const Inst *inst, Tensor *computed, int64_t choices, DecisionDistance distance) {
  EvalReplay *from = run->env->replay;
  const char *func = run->func->name, *value = run->func->values[inst->output[0]].name;
  const EvalDecision *other = find_decision(from->from, func, value);
  if (!other)
    ir_fail(inst->loc, "replay: @%s: the other run has no decision %%%s", func, value);
  if (!same_shape(other->tensor, computed))
    ir_fail(inst->loc, "replay: @%s: decision %%%s has another shape in the other run", func, value);
  int64_t per_choice = choices ? tensor_live_elements(computed) / choices : 0;
  for (int64_t choice = 0; choice < choices; choice++) {
    if (!choice_differs(computed, other->tensor, choice * per_choice, per_choice))
      continue;
    from->differing++;
    double margin = distance(run, inst, other->tensor, choice);
    if (!(margin <= from->tolerance))
      vec_push(run->env->arena, from->conflicts,
               (EvalConflict){.func = func, .value = value, .loc = inst->loc, .element = choice, .margin = margin});
  }
  tensor_copy_live(computed, other->tensor);
}

void eval_decide(Evaluation *run, const Inst *inst, const double *margin, int64_t choices, DecisionDistance distance) {
  EvalEnvironment *env = run->env;
  Tensor *result = eval_output(run, inst, 0);
  if (env->replay)
    replay(run, inst, result, choices, distance);
  if (!env->record)
    return;
  Tensor *kept = tensor_new(env->arena, result->dtype, result->rank, result->dim);
  kept->live = result->live;
  tensor_copy_live(kept, result);
  double *margins = arena_alloc(env->arena, (size_t)choices * sizeof *margins + sizeof *margins);
  memcpy(margins, margin, (size_t)choices * sizeof *margins);
  vec_push(env->arena, env->record->items,
           (EvalDecision){.func = run->func->name,
                          .value = run->func->values[inst->output[0]].name,
                          .tensor = kept,
                          .margin = margins});
}

/* ---------------------------------------------------------------- comparisons */

static double operand_at(const Tensor *t, int64_t index) {
  return t->i ? (double)t->i[index] : t->f[index];
}

/* A comparison that fell otherwise: the distance of its two operands. Integers have no rounding to excuse it. */
static double compare_distance(const Evaluation *run, const Inst *inst, const Tensor *replayed, int64_t index) {
  const Tensor *a = eval_input(run, inst, 0), *b = eval_input(run, inst, 1);
  if (a->i)
    return INFINITY;
  double x = operand_at(a, eval_broadcast_index(replayed, a, index));
  double y = operand_at(b, eval_broadcast_index(replayed, b, index));
  return x == y ? 0 : fabs(x - y);
}

static void compare(Evaluation *run, const Inst *inst, bool (*holds)(double, double)) {
  const Tensor *a = eval_input(run, inst, 0), *b = eval_input(run, inst, 1);
  Tensor *out = eval_output(run, inst, 0);
  int64_t count = tensor_live_elements(out);
  double *margin = arena_alloc(run->arena, (size_t)count * sizeof *margin + sizeof *margin);
  for (int64_t at = 0; at < count; at++) {
    double x = operand_at(a, eval_broadcast_index(out, a, at));
    double y = operand_at(b, eval_broadcast_index(out, b, at));
    out->f[at] = holds(x, y) ? 1 : 0;
    margin[at] = x == y ? 0 : fabs(x - y);
  }
  if (op_info[inst->op].flags & FLAG_DECISION)
    eval_decide(run, inst, margin, count, compare_distance);
}

static bool holds_greater(double a, double b) {
  return a > b;
}

static bool holds_greater_equal(double a, double b) {
  return a >= b;
}

static bool holds_equal(double a, double b) {
  return a == b;
}

void eval_greater(Evaluation *run, const Inst *inst) {
  compare(run, inst, holds_greater);
}

void eval_greater_equal(Evaluation *run, const Inst *inst) {
  compare(run, inst, holds_greater_equal);
}

void eval_equal(Evaluation *run, const Inst *inst) {
  compare(run, inst, holds_equal);
}

/* ---------------------------------------------------------------- arg-max and top-k */

/* The order of both: larger first, of equals the lower column, a number before what is none. Total, so that there are
 * always exactly k chosen. */
static bool comes_before(const double *row, int64_t a, int64_t b) {
  if (isnan(row[a]) || isnan(row[b]))
    return isnan(row[a]) == isnan(row[b]) ? a < b : isnan(row[b]);
  return row[a] > row[b] || (row[a] == row[b] && a < b);
}

/* The column that follows `previous` in that order, or the first when `previous` is -1; -1 behind the last. */
static int64_t next_column(const double *row, int64_t columns, int64_t previous) {
  int64_t next = -1;
  for (int64_t c = 0; c < columns; c++)
    if (c != previous && (previous < 0 || comes_before(row, previous, c)) && (next < 0 || comes_before(row, c, next)))
      next = c;
  return next;
}

static double gap(double larger, double smaller) {
  return larger == smaller ? 0 : larger - smaller;
}

/* Distance of the last taken from the first left; infinite when all are taken. */
static double row_margin(const double *row, int64_t columns, int64_t last_taken) {
  int64_t left = next_column(row, columns, last_taken);
  return left < 0 ? INFINITY : gap(row[last_taken], row[left]);
}

static double argmax_distance(const Evaluation *run, const Inst *inst, const Tensor *replayed, int64_t index) {
  const Tensor *x = eval_input(run, inst, 0);
  int64_t columns = tensor_columns(x);
  const double *row = x->f + index * columns;
  int64_t chosen = eval_check_index(inst, "replay: argmax", replayed->i[index], columns);
  return gap(row[next_column(row, columns, -1)], row[chosen]);
}

void eval_argmax(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_columns(x), rows = tensor_live_rows(x);
  double *margin = arena_alloc(run->arena, (size_t)rows * sizeof *margin + sizeof *margin);
  for (int64_t r = 0; r < rows; r++) {
    const double *row = x->f + r * columns;
    int64_t largest = next_column(row, columns, -1);
    out->i[r] = (int32_t)largest;
    margin[r] = row_margin(row, columns, largest);
  }
  eval_decide(run, inst, margin, rows, argmax_distance);
}

/* The largest number that the replayed mask leaves over the smallest that it takes; infinite for another count. */
static double topk_distance(const Evaluation *run, const Inst *inst, const Tensor *replayed, int64_t index) {
  const Tensor *x = eval_input(run, inst, 0);
  int64_t columns = tensor_columns(x), taken = 0;
  const double *row = x->f + index * columns, *mask = replayed->f + index * columns;
  double smallest_taken = INFINITY, largest_left = -INFINITY;
  for (int64_t c = 0; c < columns; c++) {
    if (isnan(row[c]))
      return NAN;
    if (mask[c] != 0) {
      taken++;
      smallest_taken = fmin(smallest_taken, row[c]);
    } else {
      largest_left = fmax(largest_left, row[c]);
    }
  }
  return taken == inst_int(inst, ATTRIBUTE_k, 0) ? gap(largest_left, smallest_taken) : INFINITY;
}

void eval_topk_mask(Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  Tensor *out = eval_output(run, inst, 0);
  int64_t columns = tensor_columns(x), rows = tensor_live_rows(x), k = inst_int(inst, ATTRIBUTE_k, 0);
  double *margin = arena_alloc(run->arena, (size_t)rows * sizeof *margin + sizeof *margin);
  for (int64_t r = 0; r < rows; r++) {
    const double *row = x->f + r * columns;
    for (int64_t c = 0; c < columns; c++)
      out->f[r * columns + c] = 0;
    int64_t last = -1;
    for (int64_t taken = 0; taken < k; taken++) {
      last = next_column(row, columns, last);
      out->f[r * columns + last] = 1;
    }
    margin[r] = row_margin(row, columns, last);
  }
  eval_decide(run, inst, margin, rows, topk_distance);
}
