/* Choices among the rows of a routing group: rank_rows and balanced_assignment.
 *
 * In: a matrix [N,E] and the number of equal slices of its rows. Out: ranks or an assignment, slice by slice. Both are
 * decisions: recorded and replayed. The auction is that of Lewis et al. (2021): experts bid for rows until each row
 * has a bidder; scores that are no finite number count as the least finite one of their slice.
 */
#include "ir/eval_private.h"

#include <math.h>
#include <string.h>

typedef struct Slices {
  const Tensor *x;
  int64_t count, rows, columns; /* slices, rows of one */
} Slices;

static Slices slices_of(const Evaluation *run, const Inst *inst) {
  const Tensor *x = eval_input(run, inst, 0);
  int64_t count = inst_int(inst, ATTRIBUTE_groups, 1);
  return (Slices){.x = x, .count = count, .rows = x->dim[0] / count, .columns = x->dim[1]};
}

static double value_at(const Slices *s, int64_t slice, int64_t row, int64_t column) {
  return s->x->f[(slice * s->rows + row) * s->columns + column];
}

/* ---------------------------------------------------------------- ranks */

static int64_t rank_of(const Slices *s, int64_t slice, int64_t row, int64_t column) {
  double own = value_at(s, slice, row, column);
  int64_t rank = 0;
  if (!(own > 0))
    return s->rows;
  for (int64_t other = 0; other < s->rows; other++) {
    double value = value_at(s, slice, other, column);
    rank += value > own || (value == own && other < row);
  }
  return rank;
}

/* How near the value of a row is to another's of its column or to 0, where its rank would change. */
static double rank_margin(const Slices *s, int64_t slice, int64_t row, int64_t column) {
  double own = value_at(s, slice, row, column), margin = fabs(own);
  for (int64_t other = 0; other < s->rows; other++) {
    double value = value_at(s, slice, other, column);
    if (other != row && value > 0)
      margin = fmin(margin, fabs(value - own));
  }
  return margin;
}

/* How far the value of the row with a replayed rank is from that of the row which has this rank here. */
static double rank_distance(const Evaluation *run, const Inst *inst, const Tensor *replayed, int64_t index) {
  Slices s = slices_of(run, inst);
  int64_t column = index % s.columns, row = index / s.columns % s.rows, slice = index / s.columns / s.rows;
  double own = value_at(&s, slice, row, column);
  int64_t rank = replayed->i[index];
  if (rank == s.rows)
    return fmax(own, 0);
  for (int64_t other = 0; other < s.rows; other++)
    if (rank_of(&s, slice, other, column) == rank)
      return fabs(value_at(&s, slice, other, column) - own);
  return INFINITY;
}

void eval_rank_rows(Evaluation *run, const Inst *inst) {
  Slices s = slices_of(run, inst);
  Tensor *out = eval_output(run, inst, 0);
  int64_t count = tensor_all_elements(out);
  double *margin = arena_alloc(run->arena, (size_t)(count + 1) * sizeof *margin);
  for (int64_t at = 0; at < count; at++) {
    int64_t column = at % s.columns, row = at / s.columns % s.rows, slice = at / s.columns / s.rows;
    out->i[at] = (int32_t)rank_of(&s, slice, row, column);
    margin[at] = run->env->record ? rank_margin(&s, slice, row, column) : 0;
  }
  eval_decide(run, inst, margin, count, rank_distance);
}

/* ---------------------------------------------------------------- the auction */

enum { KEEPING_ROUNDS = 100, MOST_ROUNDS = 10000 }; /* behind the first, rows won count as what they are worth */

typedef struct Auction {
  int64_t rows, experts, share; /* share: rows of each expert */
  double *score, *value, *bid;  /* [experts, rows]; value: score less cost, or what keeps a row */
  double *cost;                 /* [rows] */
  int64_t *winner;              /* [rows]: the expert that won the row in the last round; -1: none */
  double epsilon, largest;
} Auction;

static Auction auction_new(Arena *arena, const Slices *s, int64_t slice) {
  Auction a = {.rows = s->rows, .experts = s->columns, .share = s->rows / s->columns};
  size_t all = (size_t)(a.rows * a.experts);
  a.score = arena_alloc(arena, all * sizeof(double));
  a.value = arena_alloc(arena, all * sizeof(double));
  a.bid = arena_alloc(arena, all * sizeof(double));
  a.cost = arena_alloc(arena, (size_t)a.rows * sizeof(double));
  a.winner = arena_alloc(arena, (size_t)a.rows * sizeof(int64_t));
  double least = INFINITY, most = -INFINITY;
  for (int64_t e = 0; e < a.experts; e++)
    for (int64_t r = 0; r < a.rows; r++) {
      double score = value_at(s, slice, r, e);
      a.score[e * a.rows + r] = score;
      if (isfinite(score)) {
        least = fmin(least, score);
        most = fmax(most, score);
      }
    }
  if (least > most)
    least = most = 0;
  for (size_t i = 0; i < all; i++)
    a.score[i] = isfinite(a.score[i]) ? a.score[i] : least;
  memcpy(a.value, a.score, all * sizeof(double));
  a.epsilon = fmax((most - least) / 50, 1e-4);
  a.largest = most;
  return a;
}

/* The place of the row in the order of the expert's values: larger first, of equals the earlier row. */
static int64_t place_of(const Auction *a, int64_t expert, int64_t row) {
  const double *value = a->value + expert * a->rows;
  int64_t place = 0;
  for (int64_t other = 0; other < a->rows; other++)
    place += value[other] > value[row] || (value[other] == value[row] && other < row);
  return place;
}

/* An expert offers for each of its best rows what it would lose by taking the best one beyond its share. */
static void make_bids(Auction *a, int64_t expert, int round) {
  const double *value = a->value + expert * a->rows;
  double *bid = a->bid + expert * a->rows, beyond = 0;
  for (int64_t r = 0; r < a->rows; r++) {
    int64_t place = place_of(a, expert, r);
    bid[r] = place < a->share ? 1 : 0;
    if (place == a->share)
      beyond = value[r];
  }
  for (int64_t r = 0; r < a->rows; r++)
    if (bid[r] > 0)
      bid[r] = value[r] - beyond + a->epsilon;
  for (int64_t r = 0; r < a->rows; r++)
    if (round > 0 && round < KEEPING_ROUNDS && a->winner[r] == expert)
      bid[r] = a->epsilon;
}

/* Sells each row to the highest bidder and makes it dearer; true when every row had a bidder. */
static bool close_round(Auction *a, int round) {
  bool all = true;
  for (int64_t r = 0; r < a->rows; r++) {
    int64_t best = 0;
    for (int64_t e = 1; e < a->experts; e++)
      if (a->bid[e * a->rows + r] > a->bid[best * a->rows + r])
        best = e;
    double high = a->bid[best * a->rows + r];
    all &= high > 0;
    a->winner[r] = high > 0 ? best : -1;
    a->cost[r] += high;
  }
  for (int64_t r = 0; r < a->rows; r++) {
    for (int64_t e = 0; e < a->experts; e++)
      a->value[e * a->rows + r] = a->score[e * a->rows + r] - a->cost[r];
    if (a->winner[r] >= 0) {
      int64_t at = a->winner[r] * a->rows + r;
      a->value[at] = round < KEEPING_ROUNDS ? a->largest : a->score[at];
    }
  }
  return all;
}

/* Each row goes to its winner while that has room, in order; the others, in order, to the first expert with room. */
static void assign(const Auction *a, double *mask) {
  for (int64_t at = 0; at < a->rows * a->experts; at++)
    mask[at] = 0;
  for (int64_t e = 0; e < a->experts; e++) {
    int64_t taken = 0;
    for (int64_t r = 0; r < a->rows && taken < a->share; r++)
      if (a->winner[r] == e) {
        mask[r * a->experts + e] = 1;
        taken++;
      }
  }
  for (int64_t r = 0; r < a->rows; r++) {
    double given = 0;
    for (int64_t e = 0; e < a->experts; e++)
      given += mask[r * a->experts + e];
    for (int64_t e = 0; e < a->experts && given == 0; e++) {
      int64_t load = 0;
      for (int64_t other = 0; other < a->rows; other++)
        load += mask[other * a->experts + e] != 0;
      given = mask[r * a->experts + e] = load < a->share;
    }
  }
}

static double total_score(const Auction *a, const double *mask) {
  double total = 0;
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t e = 0; e < a->experts; e++)
      total += mask[r * a->experts + e] != 0 ? a->score[e * a->rows + r] : 0;
  return total;
}

static bool is_balanced(const Auction *a, const double *mask) {
  bool good = true;
  for (int64_t e = 0; e < a->experts; e++) {
    int64_t load = 0;
    for (int64_t r = 0; r < a->rows; r++)
      load += mask[r * a->experts + e] == 1;
    good &= load == a->share;
  }
  for (int64_t r = 0; r < a->rows; r++) {
    double given = 0;
    for (int64_t e = 0; e < a->experts; e++)
      given += mask[r * a->experts + e];
    good &= given == 1;
  }
  return good;
}

/* The score per row that a replayed assignment loses against this run's own, beyond what auctions may differ by: each
 * is within its epsilon of the best. */
static double assignment_distance(const Evaluation *run, const Inst *inst, const Tensor *replayed, int64_t slice) {
  Slices s = slices_of(run, inst);
  Auction a = auction_new(run->arena, &s, slice);
  int64_t first = slice * s.rows * s.columns;
  if (!is_balanced(&a, replayed->f + first))
    return INFINITY;
  double lost = total_score(&a, eval_output(run, inst, 0)->f + first) - total_score(&a, replayed->f + first);
  return fmax(0, lost / (double)s.rows - 2 * a.epsilon);
}

void eval_balanced_assignment(Evaluation *run, const Inst *inst) {
  Slices s = slices_of(run, inst);
  Tensor *out = eval_output(run, inst, 0);
  double *margin = arena_alloc(run->arena, (size_t)(s.count + 1) * sizeof *margin);
  for (int64_t slice = 0; slice < s.count; slice++) {
    Auction a = auction_new(run->arena, &s, slice);
    bool done = false;
    for (int round = 0; !done && round < MOST_ROUNDS; round++) {
      for (int64_t e = 0; e < a.experts; e++)
        make_bids(&a, e, round);
      done = close_round(&a, round);
    }
    assign(&a, out->f + slice * s.rows * s.columns);
    margin[slice] = a.epsilon;
  }
  eval_decide(run, inst, margin, s.count, assignment_distance);
}
