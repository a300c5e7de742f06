/* Rows assigned to experts, as many to each, by auction (Lewis et al. 2021, "BASE Layers"): experts bid for rows until
 * every row has a bidder. ir/eval_groups.c is the oracle; values are f64 as there, so that choices are the same.
 *
 * Macros: ROWS of a slice, a multiple of EXPERTS; LD elements between rows of x; THREADS, 64 to 1024. Launch: a block
 * per slice. x f32[slices * ROWS][LD], mask f32[slices * ROWS][EXPERTS]; scratch per slice: value and bid f64[EXPERTS][ROWS],
 * cost f64[ROWS], winner i32[ROWS], and 4 ROWS bytes more, so that the next slice begins at a multiple of 8.
 *
 * Rounds follow each other on the device. In a round every expert needs its ROWS / EXPERTS best rows and the next one:
 * the value of that one is found bit by bit from counts. A round reads EXPERTS ROWS values 67 times from the L2 cache by
 * one multiprocessor: 16 experts and 8,192 rows take some 150 microseconds, and there are tens to hundreds. */
enum { WARPS = THREADS / 32, SHARE = ROWS / EXPERTS };
enum { KEEPING_ROUNDS = 100, MOST_ROUNDS = 10000 };

/* Larger values have larger keys; -0 and 0 are the same. */
MOEC_INLINE uint64_t key_of(double value) {
  const uint64_t bits = (uint64_t)__double_as_longlong(value + 0.0), sign = 1ull << 63;
  return bits & sign ? ~bits : bits | sign;
}

/* How many threads before this one say `flag`; *total: all of them. All threads call it together. */
MOEC_INLINE int32_t flags_before(bool flag, int32_t *of_warp, int32_t *total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const uint32_t all = __ballot_sync(0xffffffffu, flag);
  if (lane == 0)
    of_warp[warp] = __popc(all);
  __syncthreads();
  int32_t before = __popc(all & ((1u << lane) - 1u)), sum = 0;
  for (int w = 0; w < WARPS; w++) {
    before += w < warp ? of_warp[w] : 0;
    sum += of_warp[w];
  }
  __syncthreads();
  *total = sum;
  return before;
}

/* How many rows have a key of at least `least`. */
MOEC_INLINE int32_t count_keys(const double *value, uint64_t least) {
  int32_t count = 0;
  for (int row = threadIdx.x; row < ROWS; row += THREADS)
    count += key_of(value[row]) >= least;
  return (int32_t)moec_team_sum<THREADS>((float)count); /* exact: at most 2^24 rows */
}

struct Bound {
  uint64_t key;  /* of the row at place SHARE in the order of the values */
  int32_t equal; /* how many rows with this key are among the best SHARE */
};

/* The largest key that more than SHARE rows reach, bit by bit. */
MOEC_INLINE Bound find_bound(const double *value) {
  uint64_t key = 0;
  for (int bit = 63; bit >= 0; bit--)
    if (count_keys(value, key | 1ull << bit) > SHARE)
      key |= 1ull << bit;
  return Bound{key, SHARE - count_keys(value, key + 1)};
}

MOEC_INLINE double value_of_key(uint64_t key) {
  const uint64_t sign = 1ull << 63;
  return __longlong_as_double((int64_t)(key & sign ? key & ~sign : ~key));
}

/* What the expert offers for each row: for its best SHARE what it would lose by taking the one beyond. */
MOEC_INLINE void make_bids(const double *value, double *bid, const int32_t *winner, int expert, int round, double epsilon,
                           int32_t *of_warp) {
  const Bound bound = SHARE < ROWS ? find_bound(value) : Bound{0, 0};
  const double beyond = SHARE < ROWS ? value_of_key(bound.key) : 0.0;
  const bool keeps = round > 0 && round < KEEPING_ROUNDS;
  int32_t equal_before = 0;
  for (int base = 0; base < ROWS; base += THREADS) {
    const int row = base + threadIdx.x;
    const double own = row < ROWS ? value[row] : 0.0;
    const uint64_t key = key_of(own);
    int32_t equals;
    const int32_t before = equal_before + flags_before(row < ROWS && key == bound.key, of_warp, &equals);
    equal_before += equals;
    const bool best = key > bound.key || (key == bound.key && before < bound.equal);
    if (row < ROWS)
      bid[row] = keeps && winner[row] == expert ? epsilon : best ? own - beyond + epsilon : 0.0;
  }
}

MOEC_INLINE double score_of(const float *x, int row, int expert, float least) {
  const float score = x[(int64_t)row * LD + expert];
  return score - score == 0.0f ? (double)score : (double)least;
}

/* Sells the rows to the highest bidders; true when a row had none. */
MOEC_INLINE bool sell_rows(const float *x, double *value, const double *bid, double *cost, int32_t *winner, int round,
                           float least, float most) {
  float unsold = 0.0f;
  for (int row = threadIdx.x; row < ROWS; row += THREADS) {
    double high = 0.0;
    int best = -1;
    for (int e = 0; e < EXPERTS; e++)
      if (bid[(int64_t)e * ROWS + row] > high) {
        high = bid[(int64_t)e * ROWS + row];
        best = e;
      }
    unsold = best < 0 ? 1.0f : unsold;
    winner[row] = best;
    cost[row] += high;
    for (int e = 0; e < EXPERTS; e++) {
      const double score = score_of(x, row, e, least);
      value[(int64_t)e * ROWS + row] = e != best                ? score - cost[row]
                                       : round < KEEPING_ROUNDS ? (double)most
                                                                : score;
    }
  }
  return moec_team_max<THREADS>(unsold) > 0.0f;
}

/* Winners keep their rows, in order, while they have room; the other rows, in order, go to the first with room. */
MOEC_INLINE void write_mask(float *mask, int32_t *winner, int32_t *room, int32_t *of_warp) {
  for (int e = 0; e < EXPERTS; e++) {
    int32_t taken = 0, total;
    for (int base = 0; base < ROWS; base += THREADS) {
      const int row = base + threadIdx.x;
      const bool wins = row < ROWS && winner[row] == e;
      const int32_t before = taken + flags_before(wins, of_warp, &total);
      taken += total;
      const bool given = wins && before < SHARE;
      if (row < ROWS)
        mask[(int64_t)row * EXPERTS + e] = given ? 1.0f : 0.0f;
      if (wins && !given)
        winner[row] = -1;
    }
    if (threadIdx.x == 0)
      room[e] = SHARE - (taken < SHARE ? taken : SHARE);
  }
  __syncthreads();
  int32_t rest = 0, total;
  for (int base = 0; base < ROWS; base += THREADS) {
    const int row = base + threadIdx.x;
    const bool left = row < ROWS && winner[row] < 0;
    int32_t place = rest + flags_before(left, of_warp, &total);
    rest += total;
    int e = 0;
    for (; left && place >= room[e]; e++)
      place -= room[e];
    if (left)
      mask[(int64_t)row * EXPERTS + e] = 1.0f;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) KERNEL(const float *all_x, float *all_mask, double *all_scratch) {
  __shared__ int32_t of_warp[WARPS];
  __shared__ int32_t room[EXPERTS];
  const int64_t all = (int64_t)EXPERTS * ROWS;
  const float *x = all_x + (int64_t)blockIdx.x * ROWS * LD;
  double *value = all_scratch + blockIdx.x * (2 * all + 2 * ROWS), *bid = value + all, *cost = bid + all;
  int32_t *winner = (int32_t *)(cost + ROWS);

  float least = MOEC_INFINITY, most = -MOEC_INFINITY;
  for (int row = threadIdx.x; row < ROWS; row += THREADS)
    for (int e = 0; e < EXPERTS; e++) {
      const float score = x[(int64_t)row * LD + e];
      const bool finite = score - score == 0.0f;
      least = finite && score < least ? score : least;
      most = finite && score > most ? score : most;
    }
  least = -moec_team_max<THREADS>(-least);
  most = moec_team_max<THREADS>(most);
  if (least > most)
    least = most = 0.0f;
  const double step = ((double)most - (double)least) / 50.0, epsilon = step > 1e-4 ? step : 1e-4;

  for (int row = threadIdx.x; row < ROWS; row += THREADS) {
    cost[row] = 0.0;
    winner[row] = -1;
    for (int e = 0; e < EXPERTS; e++)
      value[(int64_t)e * ROWS + row] = score_of(x, row, e, least);
  }
  __syncthreads();
  bool open = true;
  for (int round = 0; open && round < MOST_ROUNDS; round++) {
    for (int e = 0; e < EXPERTS; e++)
      make_bids(value + (int64_t)e * ROWS, bid + (int64_t)e * ROWS, winner, e, round, epsilon, of_warp);
    __syncthreads();
    open = sell_rows(x, value, bid, cost, winner, round, least, most);
  }
  write_mask(all_mask + (int64_t)blockIdx.x * ROWS * EXPERTS, winner, room, of_warp);
}
