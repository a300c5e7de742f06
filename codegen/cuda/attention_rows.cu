/* Attention over segments: which rows a row pairs with.
 *
 * Macros: N rows (bound), SEGMENTS, HEADS, HEAD columns of a head, CAUSAL 0 or 1, THREADS of a block, WARP_ROWS of a
 * warp, up to 32.
 *
 * A block owns a tile of ROWS rows of one head, warp by warp. Segments follow each other, so what a tile's
 * rows pair with is one run of rows (columns, here), whose ends grow with the row: the block walks that run some
 * columns at a time. Masks are needed only at its edges. */
enum { WARPS = THREADS / 32, ROWS = WARPS * WARP_ROWS };

/* The segment of `row` < off[SEGMENTS]: all lanes probe together, so that a few hundred segments cost two loads. */
MOEC_INLINE int32_t segment_of_row(const int32_t *off, int32_t row) {
  const int32_t lane = threadIdx.x & 31;
  int32_t low = 0, high = SEGMENTS; /* off[low] <= row < off[high] */
  while (high - low > 1) {
    const int32_t step = (high - low + 31) / 32, probe = low + lane * step;
    const uint32_t begun = __ballot_sync(0xffffffffu, probe < high && off[probe] <= row);
    low += (__popc(begun) - 1) * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

/* Row `row` pairs with first <= column < end; a dead row with none (first is then the largest number). */
struct Range {
  int32_t first, end;
};

/* Of the rows of a warp from `base` on, a lane each; for queries, or for keys. */
template <bool OF_KEYS> MOEC_INLINE Range range_of_row(const int32_t *off, int32_t base, int32_t live) {
  const int32_t row = base + (threadIdx.x & 31) % WARP_ROWS;
  Range range = {0x7fffffff, 0};
  int32_t segment = base < live ? segment_of_row(off, base) : 0;
  if (row < live) {
    while (off[segment + 1] <= row)
      segment++;
    range.first = CAUSAL && OF_KEYS ? row : off[segment];
    range.end = CAUSAL && !OF_KEYS ? row + 1 : off[segment + 1];
  }
  return range;
}

/* `x`, which is the same in all lanes of the warp, as the compiler then knows too: only so do products of warpgroups
 * run on behind a branch that depends on it. */
MOEC_INLINE int32_t uniform(int32_t x) {
  return __shfl_sync(0xffffffffu, x, 0);
}

/* Of a warp: `any` holds every pair of its rows, `all` the columns that pair with each of them. */
struct WarpRange {
  Range any, all;
};

MOEC_INLINE WarpRange warp_range(Range mine) {
  WarpRange range;
  range.any.first = moec_team_min<32>(mine.first);
  range.any.end = -moec_team_min<32>(-mine.end);
  range.all.first = uniform(-moec_team_min<32>(-mine.first));
  range.all.end = uniform(moec_team_min<32>(mine.end));
  return range;
}

/* The ranges of all rows of the block, and of all its warps. */
struct BlockRanges {
  const Range *of_rows, *of_warps;
};

/* Ends with a barrier. */
MOEC_INLINE BlockRanges share_ranges(Range mine, Range of_warp) {
  __shared__ Range of_rows[ROWS], of_warps[WARPS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  if (lane < WARP_ROWS)
    of_rows[warp * WARP_ROWS + lane] = mine;
  if (lane == 0)
    of_warps[warp] = of_warp;
  __syncthreads();
  return {of_rows, of_warps};
}

/* What any row of the next COUNT warps pairs with. */
template <int COUNT> MOEC_INLINE Range join_ranges(const Range *of_warps) {
  Range range = of_warps[0];
#pragma unroll
  for (int warp = 1; warp < COUNT; warp++) {
    range.first = of_warps[warp].first < range.first ? of_warps[warp].first : range.first;
    range.end = of_warps[warp].end > range.end ? of_warps[warp].end : range.end;
  }
  return {uniform(range.first), uniform(range.end)};
}
