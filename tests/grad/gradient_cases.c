/* One row per case. Ranges and data keep away from kinks: no two numbers that are compared come near each other.
 *
 * Ragged operands come from `route` over a fixed mask: 4 tokens, 3 experts of which the second has no token, 5 pairs in
 * 8 bound rows, so that there are dead rows and an empty group in every such case. */
#include "tests/grad/gradient_test.h"

enum { TOKENS = 4, EXPERTS = 3, MOST = 2, BOUND = TOKENS * MOST };

/* ---------------------------------------------------------------- what builders use */

/* In [low, high), no two elements nearer than a quarter of an even spacing, none near 0. */
static ValueId parameter(Graph *g, const GradientCase *c, Shape shape) {
  Scene *s = &g->scene;
  double *data = scene_data(s, shape.rank, shape.dim, 0, 1);
  int64_t count = 1;
  for (int d = 0; d < shape.rank; d++)
    count *= shape.dim[d];
  double offset = scene_random(s, 0, 1);
  for (int64_t i = 0; i < count; i++) { /* 7 and 11 shuffle: one of them is no divisor of the count */
    int64_t place = i * (count % 7 ? 7 : 11) % count;
    double x = c->low + (c->high - c->low) * ((double)place + 0.3 * data[i] + 0.4 * offset) / (double)count;
    data[i] = fabs(x) < 0.05 ? x + 0.1 : x;
  }
  return scene_parameter(s, shape.rank, shape.dim, data);
}

static void output(Graph *g, ValueId v) {
  g->outputs[g->output_count++] = v;
}

static ValueId apply(Graph *g, Op op, const ValueId *input, int input_count, const Attr *attr, int attr_count) {
  return scene_op(&g->scene, op, input, input_count, attr, attr_count);
}

typedef struct Routing {
  ValueId pair, off, slot;
} Routing;

static Routing route(Graph *g) {
  Scene *s = &g->scene;
  ValueId mask = scene_floats(s, DIMS(TOKENS, EXPERTS), FLOATS(1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0));
  ValueId pair = apply(g, OP_route, INPUTS(mask), ATTRS(attr_int(ATTRIBUTE_k, MOST)));
  return (Routing){pair, scene_output(s, pair, 1), scene_output(s, pair, 2)};
}

/* f32[BOUND<off>,columns] */
static ValueId ragged(Graph *g, const GradientCase *c, Routing r, int64_t columns) {
  ValueId x = parameter(g, c, (Shape){2, {TOKENS, columns}});
  return apply(g, OP_dispatch, INPUTS(x, r.pair, r.slot), NO_ATTRS);
}

/* ---------------------------------------------------------------- elementwise */

static void unary(Graph *g, const GradientCase *c) {
  output(g, apply(g, c->op, INPUTS(parameter(g, c, c->a)), NO_ATTRS));
}

static void unary_ragged(Graph *g, const GradientCase *c) {
  output(g, apply(g, c->op, INPUTS(ragged(g, c, route(g), 3)), NO_ATTRS));
}

static void binary(Graph *g, const GradientCase *c) {
  ValueId a = parameter(g, c, c->a), b = parameter(g, c, c->b);
  output(g, apply(g, c->op, INPUTS(a, b), NO_ATTRS));
  output(g, apply(g, c->op, INPUTS(b, a), NO_ATTRS));
}

static void binary_same(Graph *g, const GradientCase *c) {
  ValueId a = parameter(g, c, c->a), b = apply(g, OP_exp, INPUTS(a), NO_ATTRS);
  output(g, apply(g, c->op, INPUTS(a, b), NO_ATTRS));
}

/* Ragged with ragged, with one row, with a scalar, on both sides. */
static void binary_ragged(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId a = ragged(g, c, r, 3), b = ragged(g, c, r, 1);
  ValueId row = parameter(g, c, (Shape){1, {3}}), scalar = parameter(g, c, (Shape){0, {0}});
  output(g, apply(g, c->op, INPUTS(a, b), NO_ATTRS));
  output(g, apply(g, c->op, INPUTS(row, a), NO_ATTRS));
  output(g, apply(g, c->op, INPUTS(b, row), NO_ATTRS));
  output(g, apply(g, c->op, INPUTS(a, scalar), NO_ATTRS));
}

static void select_case(Graph *g, const GradientCase *c) {
  ValueId mask = scene_floats(&g->scene, DIMS(2, 3), FLOATS(1, 0, 0, 1, 1, 0));
  ValueId unread = scene_floats(&g->scene, DIMS(2, 3), FLOATS(NAN, 1, 1, NAN, NAN, 1));
  ValueId a = parameter(g, c, c->a), b = parameter(g, c, c->b);
  output(g, apply(g, OP_select, INPUTS(mask, a, b), NO_ATTRS));
  output(g, apply(g, OP_select, INPUTS(mask, b, unread), NO_ATTRS));
}

static void select_ragged(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId x = ragged(g, c, r, 3), row = parameter(g, c, (Shape){1, {3}});
  ValueId mask = scene_floats(&g->scene, DIMS(3), FLOATS(1, 0, 1));
  output(g, apply(g, OP_select, INPUTS(mask, x, row), NO_ATTRS));
  output(g, apply(g, OP_select, INPUTS(mask, row, x), NO_ATTRS));
}

static void cast_case(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a);
  ValueId half = apply(g, OP_cast, INPUTS(x), ATTRS(attr_dtype(DTYPE_BF16)));
  ValueId square = apply(g, OP_mul, INPUTS(half, half), NO_ATTRS);
  output(g, apply(g, OP_cast, INPUTS(square), ATTRS(attr_dtype(DTYPE_F32))));
}

/* Masks and indices made from a parameter are constants: the gradient goes only through what they are applied to. */
static void decisions(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a), bound = build_const(g->scene.func, scene_loc, 0.4);
  ValueId above = apply(g, OP_greater, INPUTS(x, bound), NO_ATTRS);
  ValueId at_least = apply(g, OP_greater_equal, INPUTS(bound, x), NO_ATTRS);
  ValueId same = apply(g, OP_equal, INPUTS(x, x), NO_ATTRS);
  ValueId two = apply(g, OP_topk_mask, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  ValueId largest = apply(g, OP_argmax, INPUTS(x), NO_ATTRS);
  ValueId hot = apply(g, OP_one_hot, INPUTS(largest), ATTRS(attr_dim(ATTRIBUTE_columns, dim_number(4))));
  const ValueId masks[] = {above, at_least, same, two, hot};
  for (int i = 0; i < 5; i++)
    output(g, apply(g, OP_mul, INPUTS(x, masks[i]), NO_ATTRS));
  output(g, apply(g, OP_pick, INPUTS(x, largest), NO_ATTRS));
}

/* ---------------------------------------------------------------- shape */

static void reshape(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a);
  output(g, apply(g, OP_reshape, INPUTS(x), ATTRS(scene_shape(c->b.rank, c->b.dim))));
}

static void reshape_ragged(Graph *g, const GradientCase *c) {
  ValueId x = ragged(g, c, route(g), 4);
  output(g, apply(g, OP_reshape, INPUTS(x), ATTRS(scene_shape(DIMS(BOUND, 2, 2)))));
}

static void broadcast(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a);
  output(g, apply(g, OP_broadcast, INPUTS(x), ATTRS(scene_shape(c->b.rank, c->b.dim))));
}

static void broadcast_ragged(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  const Attr shape = scene_shape(DIMS(BOUND, 3));
  output(g, apply(g, OP_broadcast, INPUTS(parameter(g, c, (Shape){2, {1, 3}}), r.off), &shape, 1));
  output(g, apply(g, OP_broadcast, INPUTS(parameter(g, c, (Shape){0, {0}}), r.off), &shape, 1));
  output(g, apply(g, OP_broadcast, INPUTS(ragged(g, c, r, 1)), &shape, 1));
}

/* The second part leads nowhere. */
static void split(Graph *g, const GradientCase *c) {
  ValueId x = c->option ? ragged(g, c, route(g), 6) : parameter(g, c, c->a);
  ValueId part = apply(g, OP_split, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_parts, 3)));
  output(g, part);
  output(g, scene_output(&g->scene, part, 2));
}

static void concat(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId a = c->option ? ragged(g, c, r, 2) : parameter(g, c, c->a);
  ValueId b = c->option ? ragged(g, c, r, 2) : parameter(g, c, c->b);
  output(g, apply(g, OP_concat, INPUTS(a, b, a), NO_ATTRS));
}

/* Widths 2, 1, 1: cut by one split within another. */
static void concat_uneven(Graph *g, const GradientCase *c) {
  ValueId a = parameter(g, c, c->a), b = parameter(g, c, c->b), d = parameter(g, c, c->b);
  output(g, apply(g, OP_concat, INPUTS(a, b, d), NO_ATTRS));
}

/* ---------------------------------------------------------------- rows */

static void reduce(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a);
  output(g, apply(g, c->op, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_axis, c->option))));
}

static void reduce_ragged(Graph *g, const GradientCase *c) {
  ValueId x = ragged(g, c, route(g), 3);
  output(g, apply(g, c->op, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_axis, c->option))));
}

static void pick(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a);
  ValueId list = scene_ints(&g->scene, DIMS(3), INTS(2, 0, 2));
  ValueId column = scene_ints(&g->scene, DIMS(3, 1), INTS(1, 3, 0));
  output(g, apply(g, OP_pick, INPUTS(x, list), NO_ATTRS));
  output(g, apply(g, OP_pick, INPUTS(x, column), NO_ATTRS));
}

/* The expert of every packed row, and its token, as indices. */
static ValueId pair_part(Graph *g, Routing r, bool token) {
  ValueId experts = scene_ints(&g->scene, DIMS(1), INTS(EXPERTS));
  ValueId tokens = apply(g, OP_div, INPUTS(r.pair, experts), NO_ATTRS);
  if (token)
    return tokens;
  ValueId first = apply(g, OP_mul, INPUTS(tokens, experts), NO_ATTRS);
  return apply(g, OP_sub, INPUTS(r.pair, first), NO_ATTRS);
}

static void pick_ragged(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  output(g, apply(g, OP_pick, INPUTS(ragged(g, c, r, EXPERTS), pair_part(g, r, false)), NO_ATTRS));
}

static void gather_rows(Graph *g, const GradientCase *c) {
  ValueId table = parameter(g, c, c->a);
  ValueId list = scene_ints(&g->scene, DIMS(4), INTS(2, 0, 2, 2));
  ValueId column = scene_ints(&g->scene, DIMS(2, 1), INTS(1, 0));
  output(g, apply(g, OP_gather_rows, INPUTS(table, list), NO_ATTRS));
  output(g, apply(g, OP_gather_rows, INPUTS(table, column), NO_ATTRS));
}

static void gather_rows_ragged(Graph *g, const GradientCase *c) {
  ValueId tokens = pair_part(g, route(g), true);
  output(g, apply(g, OP_gather_rows, INPUTS(parameter(g, c, c->a), tokens), NO_ATTRS));
}

/* ---------------------------------------------------------------- products */

enum { TRANSPOSE_A = 1, TRANSPOSE_B = 2 };

static void matmul(Graph *g, const GradientCase *c) {
  bool ta = c->option & TRANSPOSE_A, tb = c->option & TRANSPOSE_B;
  ValueId a = parameter(g, c, ta ? (Shape){2, {3, 2}} : (Shape){2, {2, 3}});
  ValueId b = parameter(g, c, tb ? (Shape){2, {4, 3}} : (Shape){2, {3, 4}});
  output(g, build_matmul(g->scene.func, scene_loc, a, b, ta, tb));
}

/* Ragged rows times a matrix. */
static ValueId to_bf16(Graph *g, ValueId x) {
  return apply(g, OP_cast, INPUTS(x), ATTRS(attr_dtype(DTYPE_BF16)));
}

/* An f32 result of bf16 operands, as for the others of these. */
static void matmul_mixed(Graph *g, const GradientCase *c) {
  ValueId a = to_bf16(g, parameter(g, c, (Shape){2, {2, 3}})), b = to_bf16(g, parameter(g, c, (Shape){2, {3, 4}}));
  output(g, apply(g, OP_matmul, INPUTS(a, b), ATTRS(attr_dtype(DTYPE_F32))));
}

static void matmul_ragged(Graph *g, const GradientCase *c) {
  bool tb = c->option & TRANSPOSE_B;
  ValueId a = ragged(g, c, route(g), 3), b = parameter(g, c, tb ? (Shape){2, {2, 3}} : (Shape){2, {3, 2}});
  output(g, build_matmul(g->scene.func, scene_loc, a, b, false, tb));
}

/* A sum over ragged rows. */
static void matmul_ragged_inner(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId a = ragged(g, c, r, 3), b = ragged(g, c, r, 2);
  output(g, build_matmul(g->scene.func, scene_loc, a, b, true, false));
}

static void grouped_matmul(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId x = ragged(g, c, r, 3);
  ValueId w = parameter(g, c, c->option ? (Shape){3, {EXPERTS, 2, 3}} : (Shape){3, {EXPERTS, 3, 2}});
  output(g, apply(g, OP_grouped_matmul, INPUTS(x, w, r.off), ATTRS(attr_int(ATTRIBUTE_tb, c->option))));
}

static void grouped_mixed(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId x = to_bf16(g, ragged(g, c, r, 3)), w = to_bf16(g, parameter(g, c, (Shape){3, {EXPERTS, 3, 4}}));
  output(g, apply(g, OP_grouped_matmul, INPUTS(x, w, r.off), ATTRS(attr_dtype(DTYPE_F32))));
  output(g, apply(g, OP_grouped_outer, INPUTS(x, x, r.off), ATTRS(attr_dtype(DTYPE_F32))));
  output(g, apply(g, OP_segment_sum, INPUTS(x, r.off), ATTRS(attr_dtype(DTYPE_F32))));
}

static void grouped_outer(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId a = ragged(g, c, r, 3), b = ragged(g, c, r, 2);
  output(g, apply(g, OP_grouped_outer, INPUTS(a, b, r.off), NO_ATTRS));
}

/* Two segments with an empty one between; the last row belongs to none. */
static void attention(Graph *g, const GradientCase *c) {
  ValueId q = parameter(g, c, c->a), k = parameter(g, c, c->a), v = parameter(g, c, c->a);
  ValueId off = scene_ints(&g->scene, DIMS(4), INTS(0, 3, 3, 5));
  output(g, apply(g, OP_attention, INPUTS(q, k, v, off),
                  ATTRS(attr_int(ATTRIBUTE_heads, 2), attr_int(ATTRIBUTE_causal, c->option))));
}

/* q, k and v from one operand, as in self-attention. */
static void attention_shared(Graph *g, const GradientCase *c) {
  ValueId x = parameter(g, c, c->a), off = scene_ints(&g->scene, DIMS(4), INTS(0, 3, 3, 5));
  output(g, apply(g, OP_attention, INPUTS(x, x, x, off),
                  ATTRS(attr_int(ATTRIBUTE_heads, 1), attr_int(ATTRIBUTE_causal, c->option))));
}

/* ---------------------------------------------------------------- packed routing */

static void dispatch(Graph *g, const GradientCase *c) {
  output(g, ragged(g, c, route(g), 3));
}

static void combine(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId x = ragged(g, c, r, 3);
  ValueId square = apply(g, OP_mul, INPUTS(x, x), NO_ATTRS);
  output(g, apply(g, OP_combine, INPUTS(square, r.slot, r.pair), NO_ATTRS));
}

static void pack(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId w = parameter(g, c, (Shape){2, {TOKENS, EXPERTS}});
  output(g, apply(g, OP_pack, INPUTS(w, r.pair, r.slot), NO_ATTRS));
}

static void unpack(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId w = ragged(g, c, r, 1);
  output(g, apply(g, OP_unpack, INPUTS(w, r.slot, r.pair), ATTRS(attr_dim(ATTRIBUTE_columns, dim_number(EXPERTS)))));
}

static void expand(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  ValueId b = parameter(g, c, (Shape){2, {EXPERTS, 3}});
  output(g, apply(g, OP_expand, INPUTS(b, r.off), NO_ATTRS));
}

static void segment_sum(Graph *g, const GradientCase *c) {
  Routing r = route(g);
  output(g, apply(g, OP_segment_sum, INPUTS(ragged(g, c, r, 3), r.off), NO_ATTRS));
}

/* A whole layer: threshold gate, dispatch, two products with biases, tanh, weights of the kept experts, combine; and
 * the balance loss, which sends a gradient to the gate only through the probabilities. */
static void moe_layer(Graph *g, const GradientCase *c) {
  enum { WIDTH = 3, HIDDEN = 4 };
  Scene *s = &g->scene;
  ValueId x = parameter(g, c, (Shape){2, {TOKENS, WIDTH}}), gate = parameter(g, c, (Shape){2, {WIDTH, EXPERTS}});
  ValueId w1 = parameter(g, c, (Shape){3, {EXPERTS, HIDDEN, WIDTH}}),
          b1 = parameter(g, c, (Shape){2, {EXPERTS, HIDDEN}});
  ValueId w2 = parameter(g, c, (Shape){3, {EXPERTS, HIDDEN, WIDTH}}),
          b2 = parameter(g, c, (Shape){2, {EXPERTS, WIDTH}});
  ValueId p = apply(g, OP_softmax, INPUTS(build_matmul(s->func, scene_loc, x, gate, false, false)), NO_ATTRS);
  ValueId m = apply(g, OP_greater, INPUTS(p, build_const(s->func, scene_loc, 0.3)), NO_ATTRS);
  ValueId pair = apply(g, OP_route, INPUTS(m), ATTRS(attr_int(ATTRIBUTE_k, EXPERTS)));
  ValueId off = scene_output(s, pair, 1), slot = scene_output(s, pair, 2);
  ValueId rows = apply(g, OP_dispatch, INPUTS(x, pair, slot), NO_ATTRS);
  ValueId h = apply(g, OP_grouped_matmul, INPUTS(rows, w1, off), ATTRS(attr_int(ATTRIBUTE_tb, 1)));
  h = apply(g, OP_add, INPUTS(h, apply(g, OP_expand, INPUTS(b1, off), NO_ATTRS)), NO_ATTRS);
  h = apply(g, OP_tanh, INPUTS(h), NO_ATTRS);
  ValueId o = apply(g, OP_grouped_matmul, INPUTS(h, w2, off), NO_ATTRS);
  o = apply(g, OP_add, INPUTS(o, apply(g, OP_expand, INPUTS(b2, off), NO_ATTRS)), NO_ATTRS);
  ValueId weight = apply(g, OP_pack, INPUTS(p, pair, slot), NO_ATTRS);
  o = apply(g, OP_mul, INPUTS(o, weight), NO_ATTRS);
  output(g, apply(g, OP_combine, INPUTS(o, slot, pair), NO_ATTRS));
  ValueId share = build_sum(s->func, scene_loc, m, 0), mass = build_sum(s->func, scene_loc, p, 0);
  output(g, apply(g, OP_mul, INPUTS(share, mass), NO_ATTRS));
}

/* ---------------------------------------------------------------- the table */

#define UNARY(op, low, high)                                                                                           \
  {OP_##op, "matrix", unary, low, high, {2, {2, 3}}, {0}, 0}, {OP_##op, "scalar", unary, low, high, {0}, {0}, 0}, {    \
    OP_##op, "ragged", unary_ragged, low, high, {0}, {0}, 0                                                            \
  }

#define BINARY(op, low, high)                                                                                          \
  {OP_##op, "equal shapes", binary, low, high, {2, {2, 3}}, {2, {2, 3}}, 0},                                           \
      {OP_##op, "a row", binary, low, high, {2, {2, 3}}, {1, {3}}, 0},                                                 \
      {OP_##op, "a scalar", binary, low, high, {2, {2, 3}}, {0}, 0},                                                   \
      {OP_##op, "both stretched", binary, low, high, {2, {2, 1}}, {2, {1, 3}}, 0},                                     \
      {OP_##op, "rank 3", binary, low, high, {3, {2, 3, 2}}, {2, {3, 1}}, 0},                                          \
      {OP_##op, "one operand twice", binary_same, low, high, {2, {2, 3}}, {0}, 0}, {                                   \
    OP_##op, "ragged", binary_ragged, low, high, {0}, {0}, 0                                                           \
  }

const GradientCase gradient_cases[] = {
    BINARY(add, -2, 2),
    BINARY(sub, -2, 2),
    BINARY(mul, -2, 2),
    BINARY(div, 0.5, 2),
    BINARY(maximum, -2, 2),
    BINARY(minimum, -2, 2),
    {OP_select, "equal shapes", select_case, -2, 2, {2, {2, 3}}, {2, {2, 3}}, 0},
    {OP_select, "stretched", select_case, -2, 2, {2, {2, 1}}, {1, {3}}, 0},
    {OP_select, "ragged", select_ragged, -2, 2, {0}, {0}, 0},
    UNARY(neg, -2, 2),
    UNARY(abs, -2, 2),
    UNARY(exp, -2, 2),
    UNARY(log, 0.5, 3),
    UNARY(expm1, -2, 2),
    UNARY(log1p, -0.5, 3),
    UNARY(sqrt, 0.5, 3),
    UNARY(rsqrt, 0.5, 3),
    UNARY(tanh, -2, 2),
    UNARY(erf, -2, 2),
    UNARY(sigmoid, -2, 2),
    UNARY(cos, -2, 2),
    UNARY(sin, -2, 2),
    {OP_cast, "to bf16 and back", cast_case, -2, 2, {2, {2, 3}}, {0}, 0},
    {OP_reshape, "matrix to list", reshape, -2, 2, {2, {2, 3}}, {1, {6}}, 0},
    {OP_reshape, "cube to matrix", reshape, -2, 2, {3, {2, 3, 2}}, {2, {2, 6}}, 0},
    {OP_reshape, "list to scalar", reshape, -2, 2, {1, {1}}, {0}, 0},
    {OP_reshape, "ragged", reshape_ragged, -2, 2, {0}, {0}, 0},
    {OP_broadcast, "row to matrix", broadcast, -2, 2, {1, {3}}, {2, {2, 3}}, 0},
    {OP_broadcast, "column to cube", broadcast, -2, 2, {2, {3, 1}}, {3, {2, 3, 2}}, 0},
    {OP_broadcast, "scalar to matrix", broadcast, -2, 2, {0}, {2, {2, 3}}, 0},
    {OP_broadcast, "ragged", broadcast_ragged, -2, 2, {0}, {0}, 0},
    {OP_split, "matrix", split, -2, 2, {2, {2, 6}}, {0}, 0},
    {OP_split, "list", split, -2, 2, {1, {6}}, {0}, 0},
    {OP_split, "ragged", split, -2, 2, {0}, {0}, 1},
    {OP_concat, "equal widths", concat, -2, 2, {2, {3, 2}}, {2, {3, 2}}, 0},
    {OP_concat, "uneven widths", concat_uneven, -2, 2, {2, {3, 2}}, {2, {3, 1}}, 0},
    {OP_concat, "ragged", concat, -2, 2, {0}, {0}, 1},
    {OP_sum, "rows of a matrix", reduce, -2, 2, {2, {2, 3}}, {0}, 0},
    {OP_sum, "columns of a matrix", reduce, -2, 2, {2, {2, 3}}, {0}, -1},
    {OP_sum, "middle of a cube", reduce, -2, 2, {3, {2, 3, 2}}, {0}, 1},
    {OP_sum, "list", reduce, -2, 2, {1, {5}}, {0}, 0},
    {OP_sum, "ragged rows", reduce_ragged, -2, 2, {0}, {0}, 0},
    {OP_sum, "columns of ragged rows", reduce_ragged, -2, 2, {0}, {0}, 1},
    {OP_max, "matrix", reduce, -2, 2, {2, {3, 4}}, {0}, -1},
    {OP_max, "list", reduce, -2, 2, {1, {5}}, {0}, 0},
    {OP_max, "cube", reduce, -2, 2, {3, {2, 3, 4}}, {0}, -1},
    {OP_max, "ragged", reduce_ragged, -2, 2, {0}, {0}, 1},
    {OP_softmax, "matrix", unary, -2, 2, {2, {3, 4}}, {0}, 0},
    {OP_softmax, "list", unary, -2, 2, {1, {5}}, {0}, 0},
    {OP_softmax, "cube", unary, -2, 2, {3, {2, 3, 2}}, {0}, 0},
    {OP_softmax, "ragged", unary_ragged, -2, 2, {0}, {0}, 0},
    {OP_pick, "matrix", pick, -2, 2, {2, {3, 4}}, {0}, 0},
    {OP_pick, "ragged", pick_ragged, -2, 2, {0}, {0}, 0},
    {OP_gather_rows, "a row several times", gather_rows, -2, 2, {2, {3, 2}}, {0}, 0},
    {OP_gather_rows, "ragged ids", gather_rows_ragged, -2, 2, {2, {TOKENS, 2}}, {0}, 0},
    {OP_matmul, "plain", matmul, -2, 2, {0}, {0}, 0},
    {OP_matmul, "ta", matmul, -2, 2, {0}, {0}, TRANSPOSE_A},
    {OP_matmul, "tb", matmul, -2, 2, {0}, {0}, TRANSPOSE_B},
    {OP_matmul, "ta tb", matmul, -2, 2, {0}, {0}, TRANSPOSE_A | TRANSPOSE_B},
    {OP_matmul, "bf16 into f32", matmul_mixed, -2, 2, {0}, {0}, 0},
    {OP_grouped_matmul, "bf16 into f32", grouped_mixed, -2, 2, {0}, {0}, 0},
    {OP_matmul, "ragged rows", matmul_ragged, -2, 2, {0}, {0}, 0},
    {OP_matmul, "ragged rows, tb", matmul_ragged, -2, 2, {0}, {0}, TRANSPOSE_B},
    {OP_matmul, "ragged inner dim", matmul_ragged_inner, -2, 2, {0}, {0}, 0},
    {OP_grouped_matmul, "plain", grouped_matmul, -2, 2, {0}, {0}, 0},
    {OP_grouped_matmul, "tb", grouped_matmul, -2, 2, {0}, {0}, 1},
    {OP_grouped_outer, "ragged", grouped_outer, -2, 2, {0}, {0}, 0},
    {OP_attention, "full", attention, -1, 1, {2, {6, 4}}, {0}, 0},
    {OP_attention, "causal", attention, -1, 1, {2, {6, 4}}, {0}, 1},
    {OP_attention, "one operand", attention_shared, -1, 1, {2, {6, 3}}, {0}, 1},
    {OP_dispatch, "ragged", dispatch, -2, 2, {0}, {0}, 0},
    {OP_combine, "ragged", combine, -2, 2, {0}, {0}, 0},
    {OP_pack, "ragged", pack, -2, 2, {0}, {0}, 0},
    {OP_unpack, "ragged", unpack, -2, 2, {0}, {0}, 0},
    {OP_expand, "ragged", expand, -2, 2, {0}, {0}, 0},
    {OP_segment_sum, "ragged", segment_sum, -2, 2, {0}, {0}, 0},
    {OP_greater, "decisions are constants", decisions, 0.1, 1, {2, {3, 4}}, {0}, 0},
    {OP_route, "a whole layer", moe_layer, -1, 1, {0}, {0}, 0},
};

const int gradient_case_count = sizeof gradient_cases / sizeof *gradient_cases;
