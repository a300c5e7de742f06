/* Attention: the softmax of rows whose scores come some columns at a time (Dao, "FlashAttention-2", arXiv
 * 2307.08691).
 *
 * Macros: HEAD, HEADS, N, ROW_TILES, WIDTH columns of the sums. Fragments are those of moec_mma_bf16: a lane has
 * numbers of rows 16 i + 8 h + lane / 4 of its warp, h = 0 and 1, and shares them with the 4 lanes of the same lane
 * / 4. Exponentials are powers of 2: scores are scaled by log2(e) / sqrt(HEAD) on the way.
 *
 * A row's reference is the largest score so far or up to RISE powers of 2 below it, so that it moves, and the sums are
 * rescaled, once or twice in a row and not with every columns: exponentials up to 2^RISE are as exact in bf16 as those
 * up to 1, and f32 holds their sums. */
constexpr float RISE = 8.0f;

struct Softmax {
  float reference[ROW_TILES][2], total[ROW_TILES][2]; /* a score before scaling; of this lane's columns */

  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        reference[i][h] = -MOEC_INFINITY, total[i][h] = 0.0f;
  }

  /* Scores become exponentials against the row's reference; sums made with an older one are rescaled. */
  template <int RUN>
  __device__ __forceinline__ void exponentials(float (*score)[RUN / 8][4], float (*sum)[WIDTH / 8][4]) {
    const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD);
    float keep[ROW_TILES][2];
    bool moves = false;
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float now = reference[i][h];
#pragma unroll
        for (int j = 0; j < RUN / 8; j++)
          now = fmaxf(now, fmaxf(score[i][j][2 * h], score[i][j][2 * h + 1]));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
        const float rise = (now - reference[i][h]) * scale;
        const bool moved = rise > RISE; /* not where both are -infinity */
        keep[i][h] = moved ? moec_exp2(-rise) : 1.0f;
        moves |= moved;
        reference[i][h] = moved ? now : reference[i][h];
        const float shift = reference[i][h] == -MOEC_INFINITY ? 0.0f : reference[i][h] * scale;
        float added = 0.0f;
#pragma unroll
        for (int j = 0; j < RUN / 8; j++)
#pragma unroll
          for (int c = 0; c < 2; c++) {
            score[i][j][2 * h + c] = moec_exp2(score[i][j][2 * h + c] * scale - shift);
            added += score[i][j][2 * h + c];
          }
        total[i][h] = total[i][h] * keep[i][h] + added;
      }
    if (__any_sync(0xffffffffu, moves))
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            sum[i][j][c] *= keep[i][c / 2];
  }

  /* 1 / total of each row, and the natural logarithm of its sum to lse[N, HEADS]; 0 for dead rows. */
  __device__ __forceinline__ void finish(float (*inverse)[2], float *lse, int32_t first, int32_t head) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float all = total[i][h];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const int32_t row = first + 16 * i + 8 * h + lane / 4;
        inverse[i][h] = all == 0.0f ? 0.0f : 1.0f / all;
        if (lane % 4 == 0 && row < N)
          lse[(int64_t)row * HEADS + head] =
              all == 0.0f ? 0.0f : reference[i][h] * moec_rsqrt((float)HEAD) + moec_log(all);
      }
  }
};
