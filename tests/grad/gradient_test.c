/* Gradients against central finite differences of the interpreter, for every differentiable op of the table.
 *
 * Each case builds a function over parameters; loss = sum over its outputs of sum(output * fixed random weights), made
 * of ops. pass_autodiff adds `grad @p`; every element of every parameter is moved by a four-point stencil, whose error
 * is of the order of 1e-12 in f64. Where an output is ragged, the weights of dead rows are not a number: a gradient
 * that reads a dead row is none. */
#include "tests/grad/gradient_test.h"

#include "passes/pass.h"

int checks_failed, checks_made;

static const double tolerance = 1e-8, step = 1e-3;

/* ---------------------------------------------------------------- functions and their loss */

static Graph graph_new(void) {
  return (Graph){.scene = scene_new("case")};
}

/* Random weights in the shape of `v`, NaN in the rows from `live` on. */
static ValueId weights_like(Graph *g, ValueId v, int64_t live) {
  Scene *s = &g->scene;
  Type type = s->func->values[v].type;
  int64_t dims[MAX_RANK];
  for (int d = 0; d < type.rank; d++)
    dims[d] = dim_value(s->module, type.dim[d]);
  double *data = scene_data(s, type.rank, dims, -1, 1);
  int64_t count = type_elements(s->module, type);
  for (int64_t at = type.rank ? live * (count / dims[0]) : count; at < count; at++)
    data[at] = NAN;
  return scene_floats(s, type.rank, dims, data);
}

/* Live rows of every output, found by running the function as it stands. */
static void live_rows(const Graph *g, int64_t *live) {
  Arena *arena = arena_new();
  Evaluation *run = eval_func(g->scene.func, g->scene.env, arena);
  for (int i = 0; i < g->output_count; i++)
    live[i] = run->tensors[g->outputs[i]]->live;
  arena_free(arena);
}

static void add_loss(Graph *g) {
  Func *f = g->scene.func;
  int64_t live[MAX_GRAPH_OUTPUTS];
  live_rows(g, live);
  ValueId loss = NO_VALUE;
  for (int i = 0; i < g->output_count; i++) {
    ValueId v = g->outputs[i];
    ValueId total = build2(f, OP_mul, scene_loc, v, weights_like(g, v, live[i]));
    for (int axis = f->values[v].type.rank - 1; axis >= 0; axis--)
      total = build_sum(f, scene_loc, total, axis);
    if (f->values[total].type.rank > 0)
      total = build_reshape(f, scene_loc, total, 0, NULL);
    loss = loss == NO_VALUE ? total : build2(f, OP_add, scene_loc, loss, total);
  }
  func_add_result(f, "loss", loss);
}

static void differentiate(Graph *g) {
  PassContext context = {.module = g->scene.module, .ledger = ledger_new(g->scene.arena), .pass = "autodiff"};
  vec_push(g->scene.arena, g->scene.table->segments, (Segment){0});
  table_layout(g->scene.module, g->scene.table);
  pass_autodiff(&context);
  g->scene.module->stage = STAGE_GRADIENT;
  module_verify(g->scene.module, "autodiff");
}

static double loss_of(const Graph *g) {
  Arena *arena = arena_new();
  double loss = eval_result(eval_func(g->scene.func, g->scene.env, arena), "loss")->f[0];
  arena_free(arena);
  return loss;
}

/* ---------------------------------------------------------------- finite differences */

static double difference(const Graph *g, double *x) {
  const double at = *x;
  *x = at + step;
  double right = loss_of(g);
  *x = at - step;
  double left = loss_of(g);
  *x = at + 2 * step;
  double far_right = loss_of(g);
  *x = at - 2 * step;
  double far_left = loss_of(g);
  *x = at;
  return (8 * (right - left) - (far_right - far_left)) / (12 * step);
}

static const Tensor *gradient_of(const Evaluation *run, const char *parameter) {
  return eval_result(run, arena_print(run->arena, "grad @%s", parameter));
}

static void check_parameter(const Graph *g, const Evaluation *run, const EvalBinding *parameter, const char *name) {
  const Tensor *gradient = gradient_of(run, parameter->name);
  char text[256];
  snprintf(text, sizeof text, "%s: there is a gradient of @%s", name, parameter->name);
  if (!check(gradient != NULL, text))
    return;
  for (int64_t at = 0; at < tensor_all_elements(gradient); at++) {
    double found = gradient->f[at], expected = difference(g, &parameter->tensor->f[at]);
    snprintf(text, sizeof text, "%s: grad @%s[%lld] is %.12g, by differences %.12g", name, parameter->name,
             (long long)at, found, expected);
    check(fabs(found - expected) <= tolerance * fmax(1, fabs(expected)), text);
  }
}

static void run_case(const GradientCase *c) {
  char name[128];
  snprintf(name, sizeof name, "%s, %s", op_info[c->op].name, c->variant);
  Graph g = graph_new();
  c->build(&g, c);
  add_loss(&g);
  double loss = loss_of(&g);
  differentiate(&g);
  check(isfinite(loss), name);
  check(loss == loss_of(&g), name); /* differentiation does not touch the forward part */
  Evaluation *run = eval_func(g.scene.func, g.scene.env, g.scene.arena);
  for (uint32_t i = 0; i < vec_len(g.scene.env->bindings); i++)
    if (g.scene.env->bindings[i].table)
      check_parameter(&g, run, &g.scene.env->bindings[i], name);
  scene_free(&g.scene);
}

/* ---------------------------------------------------------------- what differences cannot show */

/* Every op that has a gradient has a case, and has a rule. */
static void check_coverage(void) {
  for (int op = 0; op < OP_COUNT; op++) {
    bool differentiable = !(op_info[op].flags & (FLAG_NO_GRADIENT | FLAG_GRADIENT_ONLY)), covered = false;
    for (int i = 0; i < gradient_case_count; i++)
      covered = covered || gradient_cases[i].op == (Op)op;
    char text[128];
    snprintf(text, sizeof text, "op %s has a gradient case", op_info[op].name);
    check(covered || !differentiable, text);
    snprintf(text, sizeof text, "op %s has a gradient rule exactly when its row says so", op_info[op].name);
    check((gradient_rule[op] != NULL) == differentiable, text);
  }
}

static void expect_gradient(Graph *g, const char *parameter, int64_t count, const double *expected, const char *what) {
  differentiate(g);
  Evaluation *run = eval_func(g->scene.func, g->scene.env, g->scene.arena);
  const Tensor *gradient = gradient_of(run, parameter);
  if (!check(gradient && tensor_all_elements(gradient) == count, what))
    return;
  for (int64_t at = 0; at < count; at++)
    check(fabs(gradient->f[at] - expected[at]) < 1e-12, what);
}

static void sum_to_loss(Graph *g, ValueId v) {
  Func *f = g->scene.func;
  for (int axis = f->values[v].type.rank - 1; axis >= 0; axis--)
    v = build_sum(f, scene_loc, v, axis);
  func_add_result(f, "loss", build_reshape(f, scene_loc, v, 0, NULL));
}

/* loss = sum p * stop(p): the gradient is p, not 2p. */
static void test_stop(void) {
  Graph g = graph_new();
  ValueId p = scene_parameter(&g.scene, DIMS(3), FLOATS(1, -2, 3));
  sum_to_loss(&g, build2(g.scene.func, OP_mul, scene_loc, p, build1(g.scene.func, OP_stop, scene_loc, p)));
  expect_gradient(&g, "p0", 3, FLOATS(1, -2, 3), "stop is constant for differentiation");
  scene_free(&g.scene);
}

/* What the table promises of ties: maximum and minimum give to b, max to the first. */
static void test_ties(void) {
  const Op ops[] = {OP_maximum, OP_minimum};
  for (int i = 0; i < 2; i++) {
    Graph g = graph_new();
    ValueId a = scene_parameter(&g.scene, DIMS(2), FLOATS(1, 2)), b = scene_parameter(&g.scene, DIMS(2), FLOATS(1, 2));
    sum_to_loss(&g, build2(g.scene.func, ops[i], scene_loc, a, b));
    expect_gradient(&g, "p0", 2, FLOATS(0, 0), "the gradient of a tie does not go to a");
    scene_free(&g.scene);
    g = graph_new();
    a = scene_parameter(&g.scene, DIMS(2), FLOATS(1, 2));
    b = scene_parameter(&g.scene, DIMS(2), FLOATS(1, 2));
    sum_to_loss(&g, build2(g.scene.func, ops[i], scene_loc, a, b));
    expect_gradient(&g, "p1", 2, FLOATS(1, 1), "the gradient of a tie goes to b");
    scene_free(&g.scene);
  }
  Graph g = graph_new();
  ValueId x = scene_parameter(&g.scene, DIMS(1, 4), FLOATS(1, 3, 3, 2));
  sum_to_loss(&g, scene_op(&g.scene, OP_max, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_axis, -1))));
  expect_gradient(&g, "p0", 4, FLOATS(0, 1, 0, 0), "the gradient of max goes to the first of equals");
  scene_free(&g.scene);
}

/* A parameter that no path leads from has gradient 0; a frozen one has none. */
static void test_unreached(void) {
  Graph g = graph_new();
  ValueId used = scene_parameter(&g.scene, DIMS(2), FLOATS(1, 2));
  scene_parameter(&g.scene, DIMS(2), FLOATS(3, 4));
  ValueId frozen = scene_parameter(&g.scene, DIMS(2), FLOATS(5, 6));
  g.scene.table->params[2].segment = -1;
  sum_to_loss(&g, build2(g.scene.func, OP_mul, scene_loc, used, frozen));
  expect_gradient(&g, "p1", 2, FLOATS(0, 0), "an unreached parameter has gradient 0");
  check(func_find_result(g.scene.func, "grad @p2") == NO_VALUE, "a frozen parameter has no gradient");
  check(func_find_result(g.scene.func, "grad @p0") != NO_VALUE, "a learning parameter has a gradient");
  scene_free(&g.scene);
}

int main(void) {
  check_coverage();
  for (int i = 0; i < gradient_case_count; i++)
    run_case(&gradient_cases[i]);
  test_stop();
  test_ties();
  test_unreached();
  return check_summary("gradient_test");
}
