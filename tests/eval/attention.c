/* Attention: against the same thing composed of plain ops, segment by segment. */
#include "tests/eval/eval_test.h"

enum { ROWS = 7, HEADS = 2, WIDTH = 3, COLUMNS = HEADS * WIDTH };

/* Segments 0..3, an empty one, 3..5; rows 5 and 6 belong to none and are not numbers. */
static const int32_t offsets[] = {0, 3, 3, 5};

typedef struct Operands {
  double *q, *k, *v;
} Operands;

static double *rows_with_dead(Scene *s) {
  double *data = scene_data(s, DIMS(ROWS, COLUMNS), -1, 1);
  for (int64_t at = 5 * COLUMNS; at < (int64_t)ROWS * COLUMNS; at++)
    data[at] = NAN;
  return data;
}

/* The rows first..end and the columns of one head as an argument. */
static ValueId slice(Scene *s, const double *data, int64_t first, int64_t end, int64_t head) {
  double *piece = arena_alloc(s->arena, (size_t)((end - first) * WIDTH) * sizeof *piece);
  for (int64_t row = first; row < end; row++)
    memcpy(piece + (row - first) * WIDTH, data + row * COLUMNS + head * WIDTH, WIDTH * sizeof *piece);
  return scene_floats(s, DIMS(end - first, WIDTH), piece);
}

typedef struct Composed {
  ValueId o, lse; /* of one head and one segment */
} Composed;

static Composed compose(Scene *s, const Operands *in, int64_t first, int64_t end, int64_t head, bool causal) {
  int64_t rows = end - first;
  ValueId q = slice(s, in->q, first, end, head), k = slice(s, in->k, first, end, head);
  ValueId v = slice(s, in->v, first, end, head);
  ValueId scores = scene_op(s, OP_matmul, INPUTS(q, k), ATTRS(attr_int(ATTRIBUTE_tb, 1)));
  ValueId root = build_const(s->func, scene_loc, sqrt(WIDTH));
  scores = scene_op(s, OP_div, INPUTS(scores, root), NO_ATTRS);
  if (causal) {
    double *later = arena_alloc(s->arena, (size_t)(rows * rows) * sizeof *later);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < rows; j++)
        later[i * rows + j] = j > i ? -INFINITY : 0;
    scores = scene_op(s, OP_add, INPUTS(scores, scene_floats(s, DIMS(rows, rows), later)), NO_ATTRS);
  }
  ValueId p = scene_op(s, OP_softmax, INPUTS(scores), NO_ATTRS);
  ValueId e = scene_op(s, OP_exp, INPUTS(scores), NO_ATTRS);
  ValueId total = scene_op(s, OP_sum, INPUTS(e), ATTRS(attr_int(ATTRIBUTE_axis, 1)));
  return (Composed){.o = scene_op(s, OP_matmul, INPUTS(p, v), NO_ATTRS),
                    .lse = scene_op(s, OP_log, INPUTS(total), NO_ATTRS)};
}

static void test_forward(bool causal) {
  Scene s = scene_new(causal ? "causal" : "full");
  Operands in = {rows_with_dead(&s), rows_with_dead(&s), rows_with_dead(&s)};
  ValueId q = scene_floats(&s, DIMS(ROWS, COLUMNS), in.q), k = scene_floats(&s, DIMS(ROWS, COLUMNS), in.k);
  ValueId v = scene_floats(&s, DIMS(ROWS, COLUMNS), in.v), off = scene_ints(&s, DIMS(4), offsets);
  ValueId o = scene_op(&s, OP_attention, INPUTS(q, k, v, off),
                       ATTRS(attr_int(ATTRIBUTE_heads, HEADS), attr_int(ATTRIBUTE_causal, causal)));
  ValueId lse = scene_output(&s, o, 1);
  Composed parts[2][HEADS];
  for (int64_t head = 0; head < HEADS; head++) {
    parts[0][head] = compose(&s, &in, 0, 3, head, causal);
    parts[1][head] = compose(&s, &in, 3, 5, head, causal);
  }
  Evaluation *run = scene_run(&s);
  double want_o[ROWS * COLUMNS] = {0}, want_lse[ROWS * HEADS] = {0};
  for (int64_t row = 0; row < 5; row++) {
    for (int64_t head = 0; head < HEADS; head++) {
      const Composed *part = &parts[row >= 3][head];
      int64_t inside = row >= 3 ? row - 3 : row;
      memcpy(want_o + row * COLUMNS + head * WIDTH, run->tensors[part->o]->f + inside * WIDTH, WIDTH * sizeof *want_o);
      want_lse[row * HEADS + head] = run->tensors[part->lse]->f[inside];
    }
  }
  expect_floats(run, o, "attention, o", ROWS * COLUMNS, want_o);
  expect_floats(run, lse, "attention, lse", ROWS * HEADS, want_lse);
  scene_free(&s);
}

/* The gradient neither reads rows of no segment nor leaves anything there. Its values are gradient_test's matter. */
static void test_backward(void) {
  Scene s = scene_new("backward");
  ValueId operand[7];
  for (int i = 0; i < 3; i++)
    operand[i] = scene_floats(&s, DIMS(ROWS, COLUMNS), rows_with_dead(&s));
  operand[3] = scene_ints(&s, DIMS(4), offsets);
  const Attr attr[] = {attr_int(ATTRIBUTE_heads, HEADS), attr_int(ATTRIBUTE_causal, 1)};
  operand[4] = scene_op(&s, OP_attention, operand, 4, attr, 2);
  operand[5] = scene_output(&s, operand[4], 1);
  operand[6] = scene_floats(&s, DIMS(ROWS, COLUMNS), rows_with_dead(&s));
  ValueId dq = scene_op(&s, OP_attention_grad, operand, 7, attr, 2);
  Evaluation *run = scene_run(&s);
  for (int output = 0; output < 3; output++) {
    const Tensor *d = run->tensors[scene_output(&s, dq, output)];
    bool finite = true, zero = true;
    for (int64_t at = 0; at < tensor_all_elements(d); at++) {
      finite = finite && isfinite(d->f[at]);
      zero = zero && (at < 5 * COLUMNS || d->f[at] == 0);
    }
    check(finite, "attention_grad does not read rows beyond the last offset");
    check(zero, "attention_grad is 0 beyond the last offset");
  }
  scene_free(&s);
}

static void test_bad_offsets(void) {
  Scene s = scene_new("bad_offsets");
  ValueId q = scene_floats(&s, DIMS(2, 2), FLOATS(1, 2, 3, 4)), off = scene_ints(&s, DIMS(2), INTS(0, 3));
  scene_op(&s, OP_attention, INPUTS(q, q, q, off), ATTRS(attr_int(ATTRIBUTE_heads, 1), attr_int(ATTRIBUTE_causal, 0)));
  expect_failure(&s, "attention: offsets end at 3, expected at most 2 rows");
  scene_free(&s);
}

void test_attention(void) {
  test_forward(true);
  test_forward(false);
  test_backward();
  test_bad_offsets();
}
