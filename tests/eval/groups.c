/* Choices among the rows of a group: ranks by hand, the auction against all assignments there are. */
#include "tests/eval/eval_test.h"

static void test_ranks(void) {
  Scene s = scene_new("ranks");
  ValueId x = scene_floats(&s, DIMS(6, 2), FLOATS(0.5, 3, 2, NAN, 0.5, 4, /* second slice */ 1, 0, -1, 0, 2, 7));
  ValueId rank = scene_op(&s, OP_rank_rows, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_groups, 2)));
  ValueId whole = scene_op(&s, OP_rank_rows, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_groups, 1)));
  Evaluation *run = scene_run(&s);
  EXPECT_INTS(run, rank, "equal values in the order of rows; what is not positive stands behind all", 1, 1, 0, 3, 2, 0,
              1, 3, 3, 3, 0, 0);
  EXPECT_INTS(run, whole, "ranks over all rows", 3, 2, 0, 6, 4, 1, 2, 6, 6, 6, 1, 0);
  scene_free(&s);
}

enum { ROWS = 6, EXPERTS = 3, SHARE = ROWS / EXPERTS };

/* The largest sum of scores over all balanced assignments of the rows from `row` on. */
static double best_sum(const double *score, int row, int *room) {
  if (row == ROWS)
    return 0;
  double best = -INFINITY;
  for (int e = 0; e < EXPERTS; e++) {
    if (room[e] == 0)
      continue;
    room[e]--;
    best = fmax(best, score[row * EXPERTS + e] + best_sum(score, row + 1, room));
    room[e]++;
  }
  return best;
}

/* `kind` 0: independent scores; 1: all experts nearly agree; 2: some are no numbers. */
static void test_auction(uint64_t seed, int kind) {
  Scene s = scene_new("auction");
  double score[ROWS * EXPERTS], least = INFINITY, most = -INFINITY;
  s.random = seed;
  for (int i = 0; i < ROWS * EXPERTS; i++) {
    score[i] = scene_random(&s, -1, 1) + (kind == 1 ? 10 * (i % EXPERTS == 0) : 0);
    least = fmin(least, score[i]);
    most = fmax(most, score[i]);
  }
  if (kind == 2)
    score[4] = NAN;
  ValueId x = scene_floats(&s, DIMS(ROWS, EXPERTS), score);
  ValueId mask = scene_op(&s, OP_balanced_assignment, INPUTS(x), ATTRS(attr_int(ATTRIBUTE_groups, 1)));
  const double *given = scene_run(&s)->tensors[mask]->f;
  double total = 0;
  for (int r = 0; r < ROWS; r++) {
    double sum = 0;
    for (int e = 0; e < EXPERTS; e++) {
      sum += given[r * EXPERTS + e];
      total += given[r * EXPERTS + e] != 0 ? score[r * EXPERTS + e] : 0;
    }
    check(sum == 1, "a row has one expert");
  }
  for (int e = 0; e < EXPERTS; e++) {
    double load = 0;
    for (int r = 0; r < ROWS; r++)
      load += given[r * EXPERTS + e];
    check(load == SHARE, "experts have as many rows");
  }
  double epsilon = fmax((most - least) / 50, 1e-4);
  check(kind == 2 || total >= best_sum(score, 0, (int[]){SHARE, SHARE, SHARE}) - 1.5 * ROWS * epsilon,
        "the assignment is nearly the best");
  scene_free(&s);
}

void test_groups(void) {
  test_ranks();
  for (uint64_t seed = 1; seed <= 20; seed++)
    for (int kind = 0; kind < 3; kind++)
      test_auction(seed, kind);
}
