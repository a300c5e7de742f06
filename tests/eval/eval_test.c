/* The semantics of the interpreter: results worked out by hand, published vectors, data errors, and dead rows. */
#include "tests/eval/eval_test.h"

#include <inttypes.h>
#include <setjmp.h>

int checks_failed, checks_made;

/* ---------------------------------------------------------------- checks */

Evaluation *scene_run(Scene *s) {
  return eval_func(s->func, s->env, s->arena);
}

static void report(const Evaluation *run, ValueId value, const char *what, int64_t at, double found, double expected) {
  char text[256];
  snprintf(text, sizeof text, "%s: %%%s[%" PRId64 "] is %.17g, expected %.17g", what, run->func->values[value].name, at,
           found, expected);
  check(false, text);
}

static double element_of(const Tensor *t, int64_t at) {
  return t->i ? (double)t->i[at] : t->f[at];
}

static bool is_poison(const Tensor *t, int64_t at) {
  return t->i ? t->i[at] == INT32_MIN : isnan(t->f[at]);
}

/* Whether the live elements are `count` many and the dead ones poisoned. */
static bool check_extent(const Evaluation *run, ValueId value, const char *what, int64_t count) {
  const Tensor *t = run->tensors[value];
  check(true, what);
  if (tensor_live_elements(t) != count) {
    report(run, value, what, -1, (double)tensor_live_elements(t), (double)count);
    return false;
  }
  for (int64_t at = count; at < tensor_all_elements(t); at++)
    if (!is_poison(t, at))
      report(run, value, what, at, element_of(t, at), NAN);
  return true;
}

void expect_floats(const Evaluation *run, ValueId value, const char *what, int64_t count, const double *expected) {
  const Tensor *t = run->tensors[value];
  if (!check(t->f != NULL, what) || !check_extent(run, value, what, count))
    return;
  for (int64_t at = 0; at < count; at++) {
    double found = t->f[at], want = expected[at];
    bool same = isnan(want) ? isnan(found) : found == want || fabs(found - want) <= 1e-12 * fmax(1, fabs(want));
    if (!same)
      report(run, value, what, at, found, want);
  }
}

void expect_ints(const Evaluation *run, ValueId value, const char *what, int64_t count, const int32_t *expected) {
  const Tensor *t = run->tensors[value];
  if (!check(t->i != NULL, what) || !check_extent(run, value, what, count))
    return;
  for (int64_t at = 0; at < count; at++)
    if (t->i[at] != expected[at])
      report(run, value, what, at, t->i[at], expected[at]);
}

static jmp_buf failure;
static char failure_text[512];

static void on_failure(const char *message) {
  snprintf(failure_text, sizeof failure_text, "%s", message);
  longjmp(failure, 1);
}

void expect_failure(Scene *s, const char *text) {
  failure_text[0] = 0;
  ir_set_error_handler(on_failure);
  if (setjmp(failure) == 0)
    scene_run(s);
  ir_set_error_handler(NULL);
  char what[1024];
  snprintf(what, sizeof what, "the message '%s' has '%s' and the line", failure_text, text);
  check(strstr(failure_text, text) && strncmp(failure_text, "test.lua:7: ", 12) == 0, what);
}

/* ---------------------------------------------------------------- random */

static void check_philox(const uint32_t counter[4], const uint32_t key[2], const uint32_t expected[4]) {
  uint32_t out[4];
  eval_philox(counter, key, out);
  check(memcmp(out, expected, sizeof out) == 0, "Philox 4x32-10 gives its published vector");
}

static void test_philox(void) {
  check_philox((uint32_t[]){0, 0, 0, 0}, (uint32_t[]){0, 0},
               (uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  check_philox((uint32_t[]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, (uint32_t[]){0xffffffff, 0xffffffff},
               (uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  check_philox((uint32_t[]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, (uint32_t[]){0xa4093822, 0x299f31d0},
               (uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

/* Rows are placed by their index, not by where they stand; the element number needs more than 32 bits. */
static void test_uniform(void) {
  Scene s = scene_new("uniform");
  const int64_t columns = 1500;
  ValueId index = scene_ints(&s, DIMS(3, 1), INTS(2, 2147483646, 0));
  ValueId step = scene_ints(&s, 0, NULL, INTS(9));
  const Attr attr[] = {attr_dim(ATTRIBUTE_columns, dim_number(columns)), attr_int(ATTRIBUTE_tag, 0xfedcba98)};
  ValueId u = scene_op(&s, OP_uniform, INPUTS(index, step), attr, 2);
  const Tensor *drawn = scene_run(&s)->tensors[u];
  bool exact = true, inside = true, placed = true;
  for (int64_t row = 0; row < 3; row++) {
    for (int64_t column = 0; column < columns; column++) {
      uint64_t element = (uint64_t)INTS(2, 2147483646, 0)[row] * (uint64_t)columns + (uint64_t)column;
      uint32_t counter[4] = {(uint32_t)element, (uint32_t)(element >> 32), 0xfedcba98, 9};
      uint32_t key[2] = {0x9abcdef0, 0x12345678}, out[4];
      eval_philox(counter, key, out);
      double value = drawn->f[row * columns + column];
      exact = exact && (double)(float)value == value;
      inside = inside && value > 0 && value < 1;
      placed = placed && value == ((out[0] >> 9) + 0.5) * 0x1p-23;
    }
  }
  check(exact, "uniform draws are exact in f32");
  check(inside, "uniform draws are inside (0,1)");
  check(placed, "uniform draws are those of index*columns+column, tag, step and seed");
  scene_free(&s);

  s = scene_new("negative");
  index = scene_ints(&s, DIMS(1), INTS(-3));
  step = scene_ints(&s, 0, NULL, INTS(0));
  scene_op(&s, OP_uniform, INPUTS(index, step), attr, 2);
  expect_failure(&s, "index -3 of row 0 is negative");
  scene_free(&s);
}

void test_random(void) {
  test_philox();
  test_uniform();
}

/* ---------------------------------------------------------------- elementwise */

static void test_arithmetic(void) {
  Scene s = scene_new("arithmetic");
  ValueId a = scene_ints(&s, DIMS(4), INTS(7, -7, 7, INT32_MAX)), b = scene_ints(&s, DIMS(4), INTS(2, 2, -2, 1));
  ValueId quotient = scene_op(&s, OP_div, INPUTS(a, b), NO_ATTRS);
  ValueId total = scene_op(&s, OP_add, INPUTS(a, b), NO_ATTRS);
  ValueId x = scene_floats(&s, DIMS(2, 1), FLOATS(1, -2)), y = scene_floats(&s, DIMS(3), FLOATS(10, 0, NAN));
  ValueId product = scene_op(&s, OP_mul, INPUTS(x, y), NO_ATTRS);
  ValueId larger = scene_op(&s, OP_maximum, INPUTS(x, y), NO_ATTRS);
  ValueId real = scene_floats(&s, DIMS(6), FLOATS(2.9, -2.9, 0.4, 3e9, -2147483648.0, NAN));
  ValueId whole = scene_op(&s, OP_cast, INPUTS(real), ATTRS(attr_dtype(DTYPE_I32)));
  Evaluation *run = scene_run(&s);
  EXPECT_INTS(run, quotient, "i32 division rounds down", 3, -4, -4, INT32_MAX);
  EXPECT_INTS(run, total, "i32 addition wraps", 9, -5, 5, INT32_MIN);
  EXPECT_FLOATS(run, product, "mul broadcasts both ways", 10, 0, NAN, -20, 0, NAN);
  EXPECT_FLOATS(run, larger, "maximum keeps what is not a number", 10, 1, NAN, 10, 0, NAN);
  EXPECT_INTS(run, whole, "a cast to i32 rounds toward 0", 2, -2, 0, INT32_MIN, INT32_MIN, INT32_MIN);
  scene_free(&s);

  s = scene_new("division");
  a = scene_ints(&s, DIMS(1), INTS(7));
  b = scene_ints(&s, DIMS(1), INTS(0));
  scene_op(&s, OP_div, INPUTS(a, b), NO_ATTRS);
  expect_failure(&s, "div: 7 divided by 0");
  scene_free(&s);
}

static void test_functions(void) {
  const double x = 0.7;
  const struct {
    Op op;
    double expected;
  } functions[] = {{OP_neg, -0.7},
                   {OP_abs, 0.7},
                   {OP_exp, exp(x)},
                   {OP_log, log(x)},
                   {OP_expm1, exp(x) - 1},
                   {OP_log1p, log(1.7)},
                   {OP_sqrt, sqrt(x)},
                   {OP_rsqrt, 1 / sqrt(x)},
                   {OP_tanh, 1 - 2 / (exp(2 * x) + 1)},
                   {OP_cos, cos(x)},
                   {OP_sin, sin(x)},
                   {OP_erf, 0.6778011938374185},
                   {OP_sigmoid, 1 / (1 + exp(-x))},
                   {OP_stop, x}};
  Scene s = scene_new("functions");
  ValueId in = scene_floats(&s, 0, NULL, &x), out[sizeof functions / sizeof *functions];
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    out[i] = scene_op(&s, functions[i].op, INPUTS(in), NO_ATTRS);
  ValueId far = scene_floats(&s, DIMS(3), FLOATS(-800, 0, 800));
  ValueId logistic = scene_op(&s, OP_sigmoid, INPUTS(far), NO_ATTRS);
  Evaluation *run = scene_run(&s);
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    EXPECT_FLOATS(run, out[i], op_info[functions[i].op].name, functions[i].expected);
  EXPECT_FLOATS(run, logistic, "sigmoid far out", 0, 0.5, 1);
  scene_free(&s);
}

static void test_select(void) {
  Scene s = scene_new("select");
  ValueId mask = scene_floats(&s, DIMS(2, 1), FLOATS(1, 0));
  ValueId a = scene_floats(&s, DIMS(2, 2), FLOATS(1, 2, NAN, NAN)), b = scene_floats(&s, DIMS(2), FLOATS(NAN, 5));
  ValueId chosen = scene_op(&s, OP_select, INPUTS(mask, a, b), NO_ATTRS);
  ValueId x = scene_floats(&s, DIMS(3), FLOATS(1, 2, NAN)), y = scene_floats(&s, DIMS(3), FLOATS(2, 2, 0));
  ValueId above = scene_op(&s, OP_greater, INPUTS(x, y), NO_ATTRS);
  ValueId at_least = scene_op(&s, OP_greater_equal, INPUTS(x, y), NO_ATTRS);
  ValueId same = scene_op(&s, OP_equal, INPUTS(x, y), NO_ATTRS);
  Evaluation *run = scene_run(&s);
  EXPECT_FLOATS(run, chosen, "select takes one side", 1, 2, NAN, 5);
  EXPECT_FLOATS(run, above, "greater", 0, 0, 0);
  EXPECT_FLOATS(run, at_least, "greater_equal", 0, 1, 0);
  EXPECT_FLOATS(run, same, "equal", 0, 1, 0);
  scene_free(&s);
}

static void test_shapes(void) {
  Scene s = scene_new("shapes");
  ValueId x = scene_floats(&s, DIMS(2, 4), FLOATS(0, 1, 2, 3, 4, 5, 6, 7));
  ValueId part = scene_op(&s, OP_split, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_parts, 2)));
  ValueId swapped = scene_op(&s, OP_concat, INPUTS(scene_output(&s, part, 1), part), NO_ATTRS);
  ValueId tall = scene_op(&s, OP_reshape, INPUTS(x), ATTRS(scene_shape(DIMS(4, 2))));
  ValueId row = scene_floats(&s, DIMS(2), FLOATS(8, 9));
  ValueId wide = scene_op(&s, OP_broadcast, INPUTS(row), ATTRS(scene_shape(DIMS(2, 2))));
  ValueId numbers = scene_op(&s, OP_iota, NULL, 0, ATTRS(attr_dim(ATTRIBUTE_size, dim_number(3))));
  ValueId constant = scene_op(&s, OP_const, NULL, 0, ATTRS(attr_float(ATTRIBUTE_value, -4), attr_dtype(DTYPE_I32)));
  Evaluation *run = scene_run(&s);
  EXPECT_FLOATS(run, part, "split, first", 0, 1, 4, 5);
  EXPECT_FLOATS(run, scene_output(&s, part, 1), "split, second", 2, 3, 6, 7);
  EXPECT_FLOATS(run, swapped, "concat", 2, 3, 0, 1, 6, 7, 4, 5);
  EXPECT_FLOATS(run, tall, "reshape", 0, 1, 2, 3, 4, 5, 6, 7);
  EXPECT_FLOATS(run, wide, "broadcast", 8, 9, 8, 9);
  EXPECT_INTS(run, numbers, "iota", 0, 1, 2);
  EXPECT_INTS(run, constant, "const", -4);
  scene_free(&s);
}

void test_elementwise(void) {
  test_arithmetic();
  test_functions();
  test_select();
  test_shapes();
}

/* ---------------------------------------------------------------- rows */

static void test_reductions(void) {
  Scene s = scene_new("reductions");
  ValueId x = scene_floats(&s, DIMS(2, 3, 2), FLOATS(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
  ValueId sum[3];
  for (int axis = 0; axis < 3; axis++)
    sum[axis] = scene_op(&s, OP_sum, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_axis, axis)));
  ValueId y = scene_floats(&s, DIMS(2, 3), FLOATS(1, 3, 3, NAN, 0, 1));
  ValueId largest = scene_op(&s, OP_max, INPUTS(y), ATTRS(attr_int(ATTRIBUTE_axis, -1)));
  ValueId where = scene_op(&s, OP_argmax, INPUTS(y), NO_ATTRS);
  ValueId two = scene_op(&s, OP_topk_mask, INPUTS(y), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  ValueId z = scene_floats(&s, DIMS(2, 2), FLOATS(1000, 1000 + log(3), -1000, -1000));
  ValueId p = scene_op(&s, OP_softmax, INPUTS(z), NO_ATTRS);
  ValueId index = scene_ints(&s, DIMS(2), INTS(2, 1));
  ValueId picked = scene_op(&s, OP_pick, INPUTS(y, index), NO_ATTRS);
  ValueId hot = scene_op(&s, OP_one_hot, INPUTS(index), ATTRS(attr_dim(ATTRIBUTE_columns, dim_number(3))));
  Evaluation *run = scene_run(&s);
  EXPECT_FLOATS(run, sum[0], "sum over dim 0", 8, 10, 12, 14, 16, 18);
  EXPECT_FLOATS(run, sum[1], "sum over dim 1", 9, 12, 27, 30);
  EXPECT_FLOATS(run, sum[2], "sum over dim 2", 3, 7, 11, 15, 19, 23);
  EXPECT_FLOATS(run, largest, "max keeps what is not a number", 3, NAN);
  EXPECT_INTS(run, where, "argmax takes the first of equals, and numbers only", 1, 2);
  EXPECT_FLOATS(run, two, "topk_mask", 0, 1, 1, 0, 1, 1);
  EXPECT_FLOATS(run, p, "softmax of large numbers", 0.25, 0.75, 0.5, 0.5);
  EXPECT_FLOATS(run, picked, "pick", 3, 0);
  EXPECT_FLOATS(run, hot, "one_hot", 0, 0, 1, 0, 1, 0);
  scene_free(&s);

  s = scene_new("ties");
  x = scene_floats(&s, DIMS(1, 4), FLOATS(1, 2, 2, 2));
  two = scene_op(&s, OP_topk_mask, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  ValueId all = scene_op(&s, OP_topk_mask, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_k, 4)));
  run = scene_run(&s);
  EXPECT_FLOATS(run, two, "topk_mask: of equals the lowest column wins", 0, 1, 1, 0);
  EXPECT_FLOATS(run, all, "topk_mask of everything", 1, 1, 1, 1);
  scene_free(&s);
}

static void test_indices(void) {
  Scene s = scene_new("indices");
  ValueId table = scene_floats(&s, DIMS(3, 2), FLOATS(1, 2, 3, 4, 5, 6));
  ValueId ids = scene_ints(&s, DIMS(4), INTS(2, 0, 2, 2));
  ValueId rows = scene_op(&s, OP_gather_rows, INPUTS(table, ids), NO_ATTRS);
  ValueId back = scene_op(&s, OP_scatter_rows, INPUTS(rows, ids), ATTRS(attr_dim(ATTRIBUTE_rows, dim_number(3))));
  Evaluation *run = scene_run(&s);
  EXPECT_FLOATS(run, rows, "gather_rows", 5, 6, 1, 2, 5, 6, 5, 6);
  EXPECT_FLOATS(run, back, "scatter_rows", 1, 2, 0, 0, 15, 18);
  scene_free(&s);

  s = scene_new("gather_out_of_range");
  table = scene_floats(&s, DIMS(3, 1), FLOATS(1, 2, 3));
  scene_op(&s, OP_gather_rows, INPUTS(table, scene_ints(&s, DIMS(1), INTS(3))), NO_ATTRS);
  expect_failure(&s, "gather_rows: id 3 is out of range, expected 0 to 2");
  scene_free(&s);

  s = scene_new("scatter_out_of_range");
  table = scene_floats(&s, DIMS(1, 1), FLOATS(1));
  scene_op(&s, OP_scatter_rows, INPUTS(table, scene_ints(&s, DIMS(1), INTS(-1))),
           ATTRS(attr_dim(ATTRIBUTE_rows, dim_number(2))));
  expect_failure(&s, "scatter_rows: id -1 is out of range, expected 0 to 1");
  scene_free(&s);

  s = scene_new("pick_out_of_range");
  table = scene_floats(&s, DIMS(1, 2), FLOATS(1, 2));
  scene_op(&s, OP_pick, INPUTS(table, scene_ints(&s, DIMS(1), INTS(2))), NO_ATTRS);
  expect_failure(&s, "pick: column 2 is out of range");
  scene_free(&s);
}

void test_rows(void) {
  test_reductions();
  test_indices();
}

int main(void) {
  test_random();
  test_elementwise();
  test_rows();
  test_products();
  test_routing();
  test_groups();
  test_attention();
  test_decisions();
  return check_summary("eval_test");
}
