/* Attention on tensor cores: scores of pairs outside the range of their row become -infinity.
 *
 * `of_rows`: the ranges of the warp's rows, in shared memory. Fragments are those of moec_mma_bf16. Macro: ROW_TILES.
 */
template <int RUN>
MOEC_INLINE void mask_scores(float (*score)[RUN / 8][4], const Range *of_rows, int32_t first_column) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const Range range = of_rows[16 * i + 8 * h + lane / 4];
      const int32_t first = range.first - first_column - lane % 4 * 2, end = range.end - first_column - lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < RUN / 8; j++)
#pragma unroll
        for (int c = 0; c < 2; c++)
          if (8 * j + c < first || 8 * j + c >= end)
            score[i][j][2 * h + c] = -MOEC_INFINITY;
    }
}
