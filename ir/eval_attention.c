/* Attention over segments and its gradient, row by row, with the whole row of scores in hand.
 *
 * Per head of width H = D/heads, for row i of a segment: s_ij = q_i k_j / sqrt(H) over the segment's rows j (causal:
 * j <= i), p_ij = exp(s_ij - lse_i), o_i = sum_j p_ij v_j. Rows beyond the last offset belong to no segment: they are
 * neither read nor counted, and every result is 0 there.
 */
#include "ir/eval_private.h"

#include <math.h>

/* One head of one row: where its numbers start and which rows it sees. */
typedef struct Sight {
  int64_t row, head;
  int64_t first, end; /* rows it attends to */
} Sight;

typedef struct Heads {
  int64_t count, width, columns;
  double scale;
} Heads;

static Heads heads_of(const Inst *inst, const Tensor *q) {
  Heads h = {.count = inst_int(inst, ATTRIBUTE_heads, 1), .columns = q->dim[1]};
  h.width = h.columns / h.count;
  h.scale = 1 / sqrt((double)h.width);
  return h;
}

static double dot(const Heads *h, const double *a, int64_t row_a, const double *b, int64_t row_b, int64_t head) {
  double total = 0;
  for (int64_t c = head * h->width; c < (head + 1) * h->width; c++)
    total += a[row_a * h->columns + c] * b[row_b * h->columns + c];
  return total;
}

static void add_scaled(const Heads *h, double *to, int64_t row_to, double factor, const double *from, int64_t row_from,
                       int64_t head) {
  for (int64_t c = head * h->width; c < (head + 1) * h->width; c++)
    to[row_to * h->columns + c] += factor * from[row_from * h->columns + c];
}

/* Calls `visit` for every head of every row of every segment. */
static void for_each_sight(Evaluation *run, const Inst *inst, const Heads *h,
                           void (*visit)(Evaluation *, const Inst *, const Heads *, Sight)) {
  const Tensor *off = eval_input(run, inst, 3);
  bool causal = inst_int(inst, ATTRIBUTE_causal, 0) != 0;
  int64_t segments = eval_check_offsets(inst, off, eval_input(run, inst, 0)->dim[0]);
  for (int64_t s = 0; s < segments; s++)
    for (int64_t row = off->i[s]; row < off->i[s + 1]; row++)
      for (int64_t head = 0; head < h->count; head++)
        visit(run, inst, h, (Sight){row, head, off->i[s], causal ? row + 1 : off->i[s + 1]});
}

static void fill_zero(Tensor *t) {
  for (int64_t at = 0; at < tensor_all_elements(t); at++)
    t->f[at] = 0;
}

static void attend(Evaluation *run, const Inst *inst, const Heads *h, Sight at) {
  const double *q = eval_input(run, inst, 0)->f, *k = eval_input(run, inst, 1)->f, *v = eval_input(run, inst, 2)->f;
  double *o = eval_output(run, inst, 0)->f, *lse = eval_output(run, inst, 1)->f;
  double largest = -INFINITY, total = 0;
  for (int64_t j = at.first; j < at.end; j++)
    largest = fmax(largest, h->scale * dot(h, q, at.row, k, j, at.head));
  for (int64_t j = at.first; j < at.end; j++)
    total += exp(h->scale * dot(h, q, at.row, k, j, at.head) - largest);
  for (int64_t j = at.first; j < at.end; j++) {
    double p = exp(h->scale * dot(h, q, at.row, k, j, at.head) - largest) / total;
    add_scaled(h, o, at.row, p, v, j, at.head);
  }
  lse[at.row * h->count + at.head] = largest + log(total);
}

void eval_attention(Evaluation *run, const Inst *inst) {
  Heads h = heads_of(inst, eval_input(run, inst, 0));
  fill_zero(eval_output(run, inst, 0));
  fill_zero(eval_output(run, inst, 1));
  for_each_sight(run, inst, &h, attend);
}

/* dp_ij = do_i v_j; ds_ij = p_ij (dp_ij - do_i o_i); dq_i, dk_j, dv_j collect ds k, ds q, p do. */
static void attend_back(Evaluation *run, const Inst *inst, const Heads *h, Sight at) {
  const double *q = eval_input(run, inst, 0)->f, *k = eval_input(run, inst, 1)->f, *v = eval_input(run, inst, 2)->f;
  const double *o = eval_input(run, inst, 4)->f, *lse = eval_input(run, inst, 5)->f, *d_o = eval_input(run, inst, 6)->f;
  double *dq = eval_output(run, inst, 0)->f, *dk = eval_output(run, inst, 1)->f, *dv = eval_output(run, inst, 2)->f;
  double mean = dot(h, d_o, at.row, o, at.row, at.head);
  for (int64_t j = at.first; j < at.end; j++) {
    double p = exp(h->scale * dot(h, q, at.row, k, j, at.head) - lse[at.row * h->count + at.head]);
    double ds = p * (dot(h, d_o, at.row, v, j, at.head) - mean);
    add_scaled(h, dv, j, p, d_o, at.row, at.head);
    add_scaled(h, dq, at.row, ds * h->scale, k, j, at.head);
    add_scaled(h, dk, j, ds * h->scale, q, at.row, at.head);
  }
}

void eval_attention_grad(Evaluation *run, const Inst *inst) {
  Heads h = heads_of(inst, eval_input(run, inst, 0));
  for (int o = 0; o < 3; o++)
    fill_zero(eval_output(run, inst, o));
  for_each_sight(run, inst, &h, attend_back);
}
