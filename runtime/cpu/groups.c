/* Choices among the rows of a routing group: ranks, and the balanced assignment of rows to experts by auction.
 *
 * In: x[n, columns], cut into equal slices of rows. Out: rank_rows and balanced_assignment of ir/ops.def. Holds:
 * columns and slices are independent pieces of work, each done by one thread, so results do not depend on their number.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

static float element(const CpuGroups *g, int64_t row, int64_t column) {
  return ((const float *)g->x.data)[row * g->x.ld + column];
}

/* ---------------------------------------------------------------- ranks */

static int by_key(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* The bits of a positive float grow with it: larger values come first, of equals the earlier row. */
static uint64_t sort_key(float value, int64_t row) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint64_t)~bits << 32 | (uint64_t)row;
}

static void rank_column(const CpuGroups *g, int64_t slice, int64_t column, uint64_t *key, int32_t *rank) {
  int64_t rows = g->n / g->groups, first = slice * rows, positive = 0;
  for (int64_t r = 0; r < rows; r++) {
    float value = element(g, first + r, column);
    if (value > 0)
      key[positive++] = sort_key(value, r);
    rank[(first + r) * g->columns + column] = (int32_t)rows;
  }
  qsort(key, (size_t)positive, sizeof *key, by_key);
  for (int64_t i = 0; i < positive; i++)
    rank[(first + (int64_t)(uint32_t)key[i]) * g->columns + column] = (int32_t)i;
}

void cpu_rank_rows(const CpuGroups *g, int32_t *rank) {
  int64_t rows = g->n / g->groups;
  uint64_t *keys = g->scratch; /* [groups * columns, rows] */
#pragma omp parallel for schedule(dynamic)
  for (int64_t piece = 0; piece < g->groups * g->columns; piece++)
    rank_column(g, piece / g->columns, piece % g->columns, keys + piece * rows, rank);
}

/* ---------------------------------------------------------------- the auction */

enum { KEEPING_ROUNDS = 100, MOST_ROUNDS = 10000 };

/* One slice. Arrays by expert, then row. */
typedef struct Auction {
  int64_t rows, experts, share;
  double *score, *value, *bid, *cost;
  int32_t *order;  /* of an expert's rows: the best `share` stand first, the next best behind them */
  int32_t *winner; /* by row; -1: none */
  double epsilon, largest;
} Auction;

/* Whether row a stands before row b. */
static bool precedes(const double *value, int32_t a, int32_t b) {
  return value[a] > value[b] || (value[a] == value[b] && a < b);
}

/* Reorders rows[0..count) so that the first `wanted` are those that precede all others, and rows[wanted] the next. */
static void select_first(const double *value, int32_t *rows, int64_t count, int64_t wanted) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    int32_t pivot = rows[low + (high - low) / 2];
    int64_t i = low, j = high;
    while (i <= j) {
      while (precedes(value, rows[i], pivot))
        i++;
      while (precedes(value, pivot, rows[j]))
        j--;
      if (i <= j) {
        int32_t swapped = rows[i];
        rows[i++] = rows[j];
        rows[j--] = swapped;
      }
    }
    if (wanted <= j)
      high = j;
    else if (wanted >= i)
      low = i;
    else
      return;
  }
}

static void bid_for_rows(const Auction *a, int64_t expert, int round) {
  const double *value = a->value + expert * a->rows;
  double *bid = a->bid + expert * a->rows;
  int32_t *order = a->order + expert * a->rows;
  memset(bid, 0, (size_t)a->rows * sizeof *bid);
  select_first(value, order, a->rows, a->share);
  double beyond = value[order[a->share]];
  for (int64_t i = 0; i < a->share; i++)
    bid[order[i]] = value[order[i]] - beyond + a->epsilon;
  if (round == 0 || round >= KEEPING_ROUNDS)
    return;
  for (int64_t r = 0; r < a->rows; r++)
    if (a->winner[r] == expert)
      bid[r] = a->epsilon;
}

/* Returns the number of rows without a bidder. */
static int64_t sell_rows(const Auction *a, int round) {
  int64_t unsold = 0;
  for (int64_t r = 0; r < a->rows; r++) {
    double high = 0;
    a->winner[r] = -1;
    for (int64_t e = 0; e < a->experts; e++)
      if (a->bid[e * a->rows + r] > high) {
        high = a->bid[e * a->rows + r];
        a->winner[r] = (int32_t)e;
      }
    unsold += a->winner[r] < 0;
    a->cost[r] += high;
    for (int64_t e = 0; e < a->experts; e++) {
      bool kept = a->winner[r] == e;
      double score = a->score[e * a->rows + r];
      a->value[e * a->rows + r] = !kept ? score - a->cost[r] : round < KEEPING_ROUNDS ? a->largest : score;
    }
  }
  return unsold;
}

/* Winners keep their rows while they have room; what is left goes to the first expert with room. */
static void write_assignment(const Auction *a, float *mask) {
  int32_t *room = a->order;
  memset(mask, 0, (size_t)(a->rows * a->experts) * sizeof *mask);
  for (int64_t e = 0; e < a->experts; e++)
    room[e] = (int32_t)a->share;
  for (int64_t r = 0; r < a->rows; r++) {
    int32_t e = a->winner[r];
    if (e >= 0 && room[e] > 0) {
      room[e]--;
      mask[r * a->experts + e] = 1;
    } else {
      a->winner[r] = -1;
    }
  }
  int64_t next = 0;
  for (int64_t r = 0; r < a->rows; r++) {
    if (a->winner[r] >= 0)
      continue;
    while (room[next] == 0)
      next++;
    room[next]--;
    mask[r * a->experts + next] = 1;
  }
}

static void read_scores(Auction *a, const CpuGroups *g, int64_t slice) {
  double least = INFINITY, most = -INFINITY;
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t e = 0; e < a->experts; e++) {
      double score = (double)element(g, slice * a->rows + r, e);
      a->score[e * a->rows + r] = score;
      least = isfinite(score) && score < least ? score : least;
      most = isfinite(score) && score > most ? score : most;
    }
  if (least > most)
    least = most = 0;
  for (int64_t i = 0; i < a->rows * a->experts; i++) {
    a->score[i] = isfinite(a->score[i]) ? a->score[i] : least;
    a->value[i] = a->score[i];
    a->order[i] = (int32_t)(i % a->rows);
  }
  memset(a->cost, 0, (size_t)a->rows * sizeof *a->cost);
  a->epsilon = fmax((most - least) / 50, 1e-4);
  a->largest = most;
}

static void assign_slice(const CpuGroups *g, int64_t slice, float *mask) {
  Auction a = {.rows = g->n / g->groups, .experts = g->columns};
  int64_t all = a.rows * a.experts;
  a.share = a.rows / a.experts;
  a.score = g->scratch;
  a.value = a.score + all;
  a.bid = a.value + all;
  a.cost = a.bid + all;
  a.order = (int32_t *)(a.cost + a.rows);
  a.winner = a.order + all;
  read_scores(&a, g, slice);
  int64_t unsold = a.rows;
  for (int round = 0; unsold > 0 && round < MOST_ROUNDS; round++) {
#pragma omp parallel for schedule(static)
    for (int64_t e = 0; e < a.experts; e++)
      bid_for_rows(&a, e, round);
    unsold = sell_rows(&a, round);
  }
  write_assignment(&a, mask);
}

void cpu_balanced_assignment(const CpuGroups *g, float *mask) {
  int64_t rows = g->n / g->groups;
  for (int64_t slice = 0; slice < g->groups; slice++)
    assign_slice(g, slice, mask + slice * rows * g->columns);
}
