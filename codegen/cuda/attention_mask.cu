/* Attention on tensor cores: scores of pairs outside the range of their row become -infinity.
 *
 * `mine`: the range of this lane's row of the warp. Fragments are those of moec_mma_bf16. Macro: ROW_TILES. */
template <int RUN> MOEC_INLINE void mask_scores(float (*score)[RUN / 8][4], Range mine, int32_t first_column) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int32_t first = __shfl_sync(0xffffffffu, mine.first, 16 * i + 8 * h + lane / 4) - first_column;
      const int32_t end = __shfl_sync(0xffffffffu, mine.end, 16 * i + 8 * h + lane / 4) - first_column;
#pragma unroll
      for (int j = 0; j < RUN / 8; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const int32_t column = 8 * j + lane % 4 * 2 + c;
          if (column < first || column >= end)
            score[i][j][2 * h + c] = -MOEC_INFINITY;
        }
    }
}
