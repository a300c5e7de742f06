/* Products, packed routing and ragged values: worked out by hand, with proof that dead rows are never read. */
#include "tests/eval/eval_test.h"

/* ---------------------------------------------------------------- products */

void test_products(void) {
  Scene s = scene_new("products");
  ValueId a = scene_floats(&s, DIMS(2, 3), FLOATS(1, 2, 3, 4, 5, 6));
  ValueId b = scene_floats(&s, DIMS(3, 2), FLOATS(1, 0, 2, 1, 0, 3));
  ValueId at = scene_floats(&s, DIMS(3, 2), FLOATS(1, 4, 2, 5, 3, 6));
  ValueId bt = scene_floats(&s, DIMS(2, 3), FLOATS(1, 2, 0, 0, 1, 3));
  const Attr ta = attr_int(ATTRIBUTE_ta, 1), tb = attr_int(ATTRIBUTE_tb, 1);
  ValueId product[] = {
      scene_op(&s, OP_matmul, INPUTS(a, b), NO_ATTRS), scene_op(&s, OP_matmul, INPUTS(at, b), ATTRS(ta)),
      scene_op(&s, OP_matmul, INPUTS(a, bt), ATTRS(tb)), scene_op(&s, OP_matmul, INPUTS(at, bt), ATTRS(ta, tb))};
  Evaluation *run = scene_run(&s);
  for (int i = 0; i < 4; i++)
    EXPECT_FLOATS(run, product[i], "matmul", 5, 11, 14, 23);
  scene_free(&s);
}

/* ---------------------------------------------------------------- routing */

/* Three tokens, three experts, nobody selects expert 1; two of the six bound rows are dead. */
typedef struct Routing {
  Scene scene;
  ValueId mask, pair, off, slot;
} Routing;

static Routing routing_new(const char *name) {
  Routing r = {.scene = scene_new(name)};
  Scene *s = &r.scene;
  r.mask = scene_floats(s, DIMS(3, 3), FLOATS(1, 0, 1, 0, 0, 0.5, 1, 0, 0));
  r.pair = scene_op(s, OP_route, INPUTS(r.mask), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  r.off = scene_output(s, r.pair, 1);
  r.slot = scene_output(s, r.pair, 2);
  return r;
}

static void test_route(void) {
  Routing r = routing_new("route");
  Evaluation *run = scene_run(&r.scene);
  EXPECT_INTS(run, r.pair, "pairs in expert, then token order", 0, 6, 2, 5);
  EXPECT_INTS(run, r.off, "offsets", 0, 2, 2, 4);
  EXPECT_INTS(run, r.slot, "slots by expert, -1 behind the last", 0, 2, 3, -1, 1, -1);
  scene_free(&r.scene);

  Scene s = scene_new("too_many_per_token");
  ValueId mask = scene_floats(&s, DIMS(2, 3), FLOATS(0, 0, 1, 1, 1, 1));
  scene_op(&s, OP_route, INPUTS(mask), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  expect_failure(&s, "token 1 selects 3 experts, more than the bound k=2");
  scene_free(&s);

  s = scene_new("too_many_rows");
  mask = scene_floats(&s, DIMS(2, 3), FLOATS(0, 1, 1, 1, 1, 0));
  scene_op(&s, OP_route, INPUTS(mask), ATTRS(attr_int(ATTRIBUTE_k, 2), attr_dim(ATTRIBUTE_rows, dim_number(3))));
  expect_failure(&s, "4 expert-token pairs are selected, more than the bound rows=3");
  scene_free(&s);

  s = scene_new("mask_not_a_number");
  mask = scene_floats(&s, DIMS(2, 2), FLOATS(0, 1, NAN, 0));
  scene_op(&s, OP_route, INPUTS(mask), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  expect_failure(&s, "the mask of token 1 and expert 0 is not a number");
  scene_free(&s);
}

static void test_packing(void) {
  Routing r = routing_new("packing");
  Scene *s = &r.scene;
  ValueId x = scene_floats(s, DIMS(3, 2), FLOATS(1, 2, 3, 4, 5, 6));
  ValueId w = scene_floats(s, DIMS(3, 3), FLOATS(.1, .2, .3, .4, .5, .6, .7, .8, .9));
  ValueId b = scene_floats(s, DIMS(3, 2), FLOATS(10, 20, 30, 40, 50, 60));
  ValueId rows = scene_op(s, OP_dispatch, INPUTS(x, r.pair, r.slot), NO_ATTRS);
  ValueId back = scene_op(s, OP_combine, INPUTS(rows, r.slot, r.pair), NO_ATTRS);
  ValueId packed = scene_op(s, OP_pack, INPUTS(w, r.pair, r.slot), NO_ATTRS);
  ValueId spread =
      scene_op(s, OP_unpack, INPUTS(packed, r.slot, r.pair), ATTRS(attr_dim(ATTRIBUTE_columns, dim_number(3))));
  ValueId bias = scene_op(s, OP_expand, INPUTS(b, r.off), NO_ATTRS);
  ValueId sums = scene_op(s, OP_segment_sum, INPUTS(rows, r.off), NO_ATTRS);
  Evaluation *run = scene_run(s);
  EXPECT_FLOATS(run, rows, "dispatch", 1, 2, 5, 6, 1, 2, 3, 4);
  EXPECT_FLOATS(run, back, "combine", 2, 4, 3, 4, 5, 6);
  EXPECT_FLOATS(run, packed, "pack", .1, .7, .3, .6);
  EXPECT_FLOATS(run, spread, "unpack", .1, 0, .3, 0, 0, .6, .7, 0, 0);
  EXPECT_FLOATS(run, bias, "expand", 10, 20, 10, 20, 50, 60, 50, 60);
  EXPECT_FLOATS(run, sums, "segment_sum", 6, 8, 0, 0, 4, 6);
  scene_free(s);
}

/* Every op that takes ragged rows: what it makes of the live ones has no NaN, and dead results are dead. */
static void test_ragged(void) {
  Routing r = routing_new("ragged");
  Scene *s = &r.scene;
  ValueId x = scene_floats(s, DIMS(3, 2), FLOATS(1, 2, 3, 4, 5, 6));
  ValueId w = scene_floats(s, DIMS(3, 2, 2), FLOATS(1, 0, 0, 1, NAN, NAN, NAN, NAN, 0, 1, 1, 0));
  ValueId two = scene_floats(s, DIMS(2, 2), FLOATS(1, 1, 0, 1));
  ValueId rows = scene_op(s, OP_dispatch, INPUTS(x, r.pair, r.slot), NO_ATTRS);
  ValueId out = scene_op(s, OP_grouped_matmul, INPUTS(rows, w, r.off), NO_ATTRS);
  ValueId turned = scene_op(s, OP_grouped_matmul, INPUTS(rows, w, r.off), ATTRS(attr_int(ATTRIBUTE_tb, 1)));
  ValueId outer = scene_op(s, OP_grouped_outer, INPUTS(rows, out, r.off), NO_ATTRS);
  ValueId plain = scene_op(s, OP_matmul, INPUTS(rows, two), NO_ATTRS);
  ValueId gram = scene_op(s, OP_matmul, INPUTS(rows, plain), ATTRS(attr_int(ATTRIBUTE_ta, 1)));
  ValueId six = scene_floats(s, DIMS(6, 1), FLOATS(1, 1, 1, 1, NAN, NAN));
  ValueId mixed[] = {scene_op(s, OP_matmul, INPUTS(rows, six), ATTRS(attr_int(ATTRIBUTE_ta, 1))),
                     scene_op(s, OP_matmul, INPUTS(six, rows), ATTRS(attr_int(ATTRIBUTE_ta, 1)))};
  ValueId total = scene_op(s, OP_sum, INPUTS(rows), ATTRS(attr_int(ATTRIBUTE_axis, 0)));
  ValueId across = scene_op(s, OP_sum, INPUTS(rows), ATTRS(attr_int(ATTRIBUTE_axis, 1)));
  ValueId scaled = scene_op(s, OP_mul, INPUTS(rows, across), NO_ATTRS);
  ValueId one = build_const(s->func, scene_loc, 1);
  ValueId ones = scene_op(s, OP_broadcast, INPUTS(one, r.off), ATTRS(scene_shape(DIMS(6, 2))));
  ValueId count = scene_op(s, OP_sum, INPUTS(ones), ATTRS(attr_int(ATTRIBUTE_axis, 0)));
  ValueId ids = scene_op(s, OP_div, INPUTS(r.pair, scene_ints(s, DIMS(1), INTS(3))), NO_ATTRS);
  ValueId same = scene_op(s, OP_gather_rows, INPUTS(x, ids), NO_ATTRS);
  ValueId back = scene_op(s, OP_scatter_rows, INPUTS(same, ids), ATTRS(attr_dim(ATTRIBUTE_rows, dim_number(3))));
  Evaluation *run = scene_run(s);
  EXPECT_FLOATS(run, out, "grouped_matmul skips an empty group", 1, 2, 5, 6, 2, 1, 4, 3);
  EXPECT_FLOATS(run, turned, "grouped_matmul, tb", 1, 2, 5, 6, 2, 1, 4, 3);
  EXPECT_FLOATS(run, outer, "grouped_outer: an empty group gives 0", 26, 32, 32, 40, 0, 0, 0, 0, 14, 10, 20, 14);
  EXPECT_FLOATS(run, plain, "matmul of ragged rows", 1, 3, 5, 11, 1, 3, 3, 7);
  EXPECT_FLOATS(run, gram, "matmul over ragged rows stops at the live ones", 36, 82, 46, 106);
  for (int i = 0; i < 2; i++)
    EXPECT_FLOATS(run, mixed[i], "matmul of ragged and even rows stops at the live ones", 10, 14);
  EXPECT_FLOATS(run, total, "sum over ragged rows stops at the live ones", 10, 14);
  EXPECT_FLOATS(run, scaled, "an elementwise op with a ragged operand is ragged", 3, 6, 55, 66, 3, 6, 21, 28);
  EXPECT_FLOATS(run, count, "a ragged broadcast ends at the offsets", 4, 4);
  EXPECT_INTS(run, ids, "ragged i32", 0, 2, 0, 1);
  EXPECT_FLOATS(run, same, "gather_rows by ragged ids", 1, 2, 5, 6, 1, 2, 3, 4);
  EXPECT_FLOATS(run, back, "scatter_rows of ragged rows", 2, 4, 3, 4, 5, 6);
  scene_free(s);
}

/* A ragged argument: its dead rows are poisoned whatever was bound, and bad offsets are reported. */
static void test_ragged_argument(void) {
  Scene s = scene_new("ragged_argument");
  ValueId off = scene_ints(&s, DIMS(3), INTS(0, 1, 2));
  Type type = scene_type(DTYPE_F32, DIMS(3, 1));
  type.extent = off;
  ValueId x = scene_argument(&s, type, FLOATS(1, 2, 3));
  ValueId y = scene_op(&s, OP_exp, INPUTS(x), NO_ATTRS);
  Evaluation *run = scene_run(&s);
  EXPECT_FLOATS(run, x, "a ragged argument", 1, 2);
  EXPECT_FLOATS(run, y, "exp of a ragged argument", exp(1), exp(2));
  scene_free(&s);

  s = scene_new("falling_offsets");
  off = scene_ints(&s, DIMS(3), INTS(0, 2, 1));
  type.extent = off;
  x = scene_argument(&s, type, FLOATS(1, 2, 3));
  scene_op(&s, OP_segment_sum, INPUTS(x, off), NO_ATTRS);
  expect_failure(&s, "segment_sum: offsets fall from 2 to 1 at 2");
  scene_free(&s);
}

void test_routing(void) {
  test_route();
  test_packing();
  test_ragged();
  test_ragged_argument();
}
