/* Recording and replaying decisions: what agrees, what differs within the tolerance, what contradicts. */
#include "tests/eval/eval_test.h"

/* Three decisions over one row of numbers, and something that follows from one of them. */
typedef struct Gate {
  Scene scene;
  ValueId above, largest, two, kept;
} Gate;

static Gate gate_new(const double *x) {
  Gate g = {.scene = scene_new("gate")};
  Scene *s = &g.scene;
  ValueId in = scene_floats(s, DIMS(1, 4), x), bound = build_const(s->func, scene_loc, 0.5);
  g.above = scene_op(s, OP_greater, INPUTS(in, bound), NO_ATTRS);
  g.largest = scene_op(s, OP_argmax, INPUTS(in), NO_ATTRS);
  g.two = scene_op(s, OP_topk_mask, INPUTS(in), ATTRS(attr_int(ATTRIBUTE_k, 2)));
  g.kept = scene_op(s, OP_mul, INPUTS(in, g.two), NO_ATTRS);
  return g;
}

static EvalDecisions record_of(const double *x, Gate *g) {
  EvalDecisions list = {NULL};
  *g = gate_new(x);
  g->scene.env->record = &list;
  scene_run(&g->scene);
  g->scene.env->record = NULL;
  return list;
}

static bool near(double a, double b) {
  return fabs(a - b) < 1e-12;
}

static void test_record(void) {
  Gate g;
  EvalDecisions list = record_of(FLOATS(0.1, 0.6, 0.55, 0.9), &g);
  if (!check(vec_len(list.items) == 3, "three decisions are recorded"))
    return;
  const EvalDecision *above = &list.items[0], *largest = &list.items[1], *two = &list.items[2];
  check(strcmp(above->func, "gate") == 0 && strcmp(above->value, g.scene.func->values[g.above].name) == 0,
        "a decision has the names of its function and value");
  check(near(above->margin[0], 0.4) && near(above->margin[2], 0.05), "the margin of greater is the distance");
  check(largest->tensor->i[0] == 3 && near(largest->margin[0], 0.3), "the margin of argmax is to the second");
  check(two->tensor->f[1] == 1 && near(two->margin[0], 0.05), "the margin of topk_mask is to the first left");
  scene_free(&g.scene);
}

/* Replays the decisions over `theirs` in a run over `ours`. */
static EvalReplay replay_of(const double *theirs, const double *ours, double tolerance, double kept[4]) {
  Gate other, g = gate_new(ours);
  EvalDecisions list = record_of(theirs, &other);
  EvalReplay replay = {.from = &list, .tolerance = tolerance};
  g.scene.env->replay = &replay;
  Evaluation *run = scene_run(&g.scene);
  memcpy(kept, run->tensors[g.kept]->f, 4 * sizeof *kept);
  check(run->tensors[g.largest]->i[0] == list.items[1].tensor->i[0], "the replayed arg-max is taken");
  return replay;
}

static void test_replay(void) {
  double kept[4];
  EvalReplay same = replay_of(FLOATS(0.1, 0.6, 0.4, 0.9), FLOATS(0.1, 0.6, 0.4, 0.9), 0, kept);
  check(same.differing == 0 && vec_len(same.conflicts) == 0, "equal runs do not differ");

  EvalReplay near_ties = replay_of(FLOATS(0.50001, 0.7, 0.89999, 0.9), FLOATS(0.49999, 0.7, 0.9, 0.89999), 1e-4, kept);
  check(near_ties.differing == 2 && vec_len(near_ties.conflicts) == 0, "near ties may fall otherwise");

  EvalReplay far = replay_of(FLOATS(0.1, 0.6, 0.4, 0.9), FLOATS(0.9, 0.6, 0.4, 0.1), 1e-4, kept);
  check(far.differing == 4 && vec_len(far.conflicts) == 4, "contradictions are reported");
  check(far.conflicts && strcmp(far.conflicts[0].func, "gate") == 0 && far.conflicts[0].element == 0 &&
            near(far.conflicts[0].margin, 0.4) && far.conflicts[0].loc.line == 7,
        "a conflict says where and how far");
  check(far.conflicts && near(far.conflicts[2].margin, 0.8) && near(far.conflicts[3].margin, 0.8),
        "the distance of an arg-max and of a top-k");
  check(kept[0] == 0 && kept[1] == 0.6 && kept[3] == 0.1, "what follows uses the replayed choice");
}

static void test_missing(void) {
  EvalDecisions nothing = {NULL};
  EvalReplay replay = {.from = &nothing};
  Gate g = gate_new(FLOATS(1, 2, 3, 4));
  g.scene.env->replay = &replay;
  expect_failure(&g.scene, "the other run has no decision %greater");
  scene_free(&g.scene);
}

/* Rounding does not excuse a comparison of integers. */
static void test_integers(void) {
  EvalDecisions list = {NULL};
  Scene s = scene_new("integers");
  ValueId a = scene_ints(&s, DIMS(1), INTS(1)), b = scene_ints(&s, DIMS(1), INTS(2));
  scene_op(&s, OP_greater, INPUTS(a, b), NO_ATTRS);
  s.env->record = &list;
  scene_run(&s);
  s.env->record = NULL;
  list.items[0].tensor->f[0] = 1;
  EvalReplay replay = {.from = &list, .tolerance = 10};
  s.env->replay = &replay;
  scene_run(&s);
  check(vec_len(replay.conflicts) == 1, "a comparison of integers is exact");
  scene_free(&s);
}

void test_decisions(void) {
  test_record();
  test_replay();
  test_missing();
  test_integers();
}
