/* Packed routing: every selected (token, expert) pair gets a row, in expert order, then token order.
 *
 * Macros: N tokens, EXPERTS (at most 1024), K the most experts of a token, BOUND rows in all, LD elements between rows
 * of the mask; TOKENS of a part, a multiple of 256; PARTS of them cover N.
 * Launches: KERNEL_count, scan_counts over (EXPERTS, PARTS), KERNEL_place; the outer two with PARTS blocks of 256
 * threads. count[EXPERTS][PARTS] holds the pairs of a part, then its first rows; wrong[PARTS][2] the first token of a
 * part that selects more than K and how many, or -1. After a mistake what is written is of no use, but stays within its
 * memory.
 *
 * A thread per token; a warp's ballot is the choice of one expert by 32 tokens, so a row follows from counting bits, and
 * no order depends on timing. Bytes: the mask twice, 4 K N of slots, 4 per pair: with 65,536 tokens and 16 experts
 * 9 MB, 2 microseconds of an H200's memory, so the three launches are the cost. */
enum { THREADS = 256, WARPS = THREADS / 32, NONE = 0x7fffffff };

MOEC_INLINE bool is_selected(const float *mask, int token, int expert) {
  return token < N && mask[(int64_t)token * LD + expert] != 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(count)(const float *mask, int32_t *count, int32_t *wrong) {
  __shared__ int32_t pairs[WARPS][EXPERTS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int wrong_token = NONE, wrong_count = -1;
  for (int e = lane; e < EXPERTS; e += 32) /* the lane that counts e */
    pairs[warp][e] = 0;
  for (int tile = 0; tile < TOKENS; tile += THREADS) {
    const int token = blockIdx.x * TOKENS + tile + threadIdx.x;
    int selected = 0;
    for (int e = 0; e < EXPERTS; e++) {
      const bool own = is_selected(mask, token, e);
      const uint32_t all = __ballot_sync(0xffffffffu, own);
      selected += own;
      if (lane == e % 32)
        pairs[warp][e] += __popc(all);
    }
    if (selected > K && wrong_token == NONE) {
      wrong_token = token;
      wrong_count = selected;
    }
  }
  const int first_wrong = moec_team_min<THREADS>(wrong_token); /* all threads meet here: `pairs` stands */
  if (wrong_token == first_wrong && (first_wrong != NONE || threadIdx.x == 0)) {
    wrong[2 * blockIdx.x] = first_wrong != NONE ? first_wrong : -1;
    wrong[2 * blockIdx.x + 1] = wrong_count;
  }
  for (int e = threadIdx.x; e < EXPERTS; e += THREADS) {
    int32_t sum = 0;
    for (int w = 0; w < WARPS; w++)
      sum += pairs[w][e];
    count[e * PARTS + blockIdx.x] = sum;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(place)(const float *mask, const int32_t *first, int32_t *pair, int32_t *slot) {
  __shared__ int32_t pairs[WARPS][EXPERTS]; /* of the tile; then the first row of every warp */
  __shared__ int32_t next[EXPERTS];         /* the first row of the tile */
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int e = threadIdx.x; e < EXPERTS; e += THREADS)
    next[e] = first[e * PARTS + blockIdx.x];
  for (int tile = 0; tile < TOKENS; tile += THREADS) {
    const int token = blockIdx.x * TOKENS + tile + threadIdx.x;
    for (int e = 0; e < EXPERTS; e++) {
      const uint32_t all = __ballot_sync(0xffffffffu, is_selected(mask, token, e));
      if (lane == 0)
        pairs[warp][e] = __popc(all);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < EXPERTS; e += THREADS) {
      int32_t row = next[e];
      for (int w = 0; w < WARPS; w++) {
        const int32_t own = pairs[w][e];
        pairs[w][e] = row;
        row += own;
      }
      next[e] = row;
    }
    __syncthreads();
    int used = 0;
    for (int e = 0; e < EXPERTS; e++) {
      const bool own = is_selected(mask, token, e);
      const uint32_t all = __ballot_sync(0xffffffffu, own);
      const int32_t row = pairs[warp][e] + __popc(all & ((1u << lane) - 1u));
      if (own && row < BOUND) {
        pair[row] = token * EXPERTS + e;
        if (used < K)
          slot[(int64_t)token * K + used++] = row;
      }
    }
    for (; token < N && used < K; used++)
      slot[(int64_t)token * K + used] = -1;
    __syncthreads(); /* the next tile counts in `pairs` */
  }
}
