//@use attention_sm90_tiles
//@use attention_stream
//@use attention_statistics
/* The gradient of attention over segments with Hopper's warpgroup products, for arch=sm_90a; what it computes, its
 * operands, its two passes and their grids are those of attention_grad.cu. Macros beside attention_rows': LD_Q, LD_K,
 * LD_V, LD_O, LD_DO, LD_DQ, LD_DK, LD_DV. Launches: 256 threads; KERNEL_dq, shared bytes 1024 + 2 HEAD (256 + 4 64);
 * KERNEL_dkv, 1024 more.
 *
 * The left operands of the first two products come from shared memory, those of the sums from registers. */
/* d += the rows of this thread's warpgroup of tile a (ROWS rows) times the transpose of tile b (COLUMNS rows). */
MOEC_INLINE void multiply_transposed(float (*d)[4], const uint16_t *a, const uint16_t *b) {
#pragma unroll
  for (int step = 0; step < HEAD / 16; step++)
    moec_wgmma_rows_rows(d, along_row<ROWS>(a, threadIdx.x / 128 * GROUP_ROWS, step), along_row<COLUMNS>(b, 0, step));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL_FUNCTION(dq)(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
                        const int32_t *__restrict__ off, const uint16_t *__restrict__ o, const float *__restrict__ lse,
                        const uint16_t *__restrict__ d_o, uint16_t *__restrict__ dq, float *__restrict__ statistics) {
  extern __shared__ __align__(16) uint16_t shared[];
  /* `given`: gradients of o. Two buffers of keys and of values. */
  uint16_t *const queries = aligned_shared(shared);
  uint16_t *const given = queries + ROWS * WIDTH;
  uint16_t *const keys = given + ROWS * WIDTH;
  uint16_t *const values = keys + 2 * COLUMNS * WIDTH;
  const int32_t head = blockIdx.x, tile = CAUSAL ? gridDim.y - 1 - blockIdx.y : blockIdx.y; /* the longest first */
  const int32_t live = off[SEGMENTS], first = tile * ROWS + threadIdx.x / 32 * WARP_ROWS;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD, d_o += head * HEAD, dq += head * HEAD;

  copy_tile<ROWS>(queries, q, LD_Q, tile * ROWS, live);
  copy_tile<ROWS>(given, d_o, LD_DO, tile * ROWS, live);
  const Range mine = range_of_row<false>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const Range *const of_warps = share_range(warp.any);
  const Range block = join_ranges<WARPS>(of_warps), group = join_ranges<4>(of_warps + threadIdx.x / 128 * 4);
  Stream<COLUMNS, LD_K, LD_V> stream = {keys, values, k, v, live};
  stream.fetch(block.first, block.end);
  moec_copy_commit();
  QueryStatistics of;
  of.take(statistics, o, d_o, lse, first, live, head);
  const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD); /* exponentials are powers of 2 */
  float sum[WIDTH / 8][4] = {};

  wait_for_copies();
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    stream.turn();
    stream.fetch(column + COLUMNS, block.end);
    moec_copy_commit();
    if (column < group.end && column + COLUMNS > group.first) {
      float score[1][COLUMNS / 8][4] = {}, change[COLUMNS / 8][4];
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          change[j][c] = -of.mean[0][c / 2];
      moec_wgmma_begin(score[0]);
      moec_wgmma_begin(change);
      multiply_transposed(score[0], queries, stream.a());
      multiply_transposed(change, given, stream.b());
      moec_wgmma_end(score[0]);
      moec_wgmma_end(change);
      if (column < warp.all.first || column + COLUMNS > warp.all.end)
        mask_scores<COLUMNS>(score, mine, column);
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          change[j][c] *= moec_exp2(score[0][j][c] * scale - of.lse[0][c / 2]);
      uint32_t left[COLUMNS / 16][4];
      pack_left(left, change);
      begin_sums(sum);
      multiply_add(sum, left, stream.a());
      end_sums(sum);
    }
    wait_for_copies(); /* the next columns are there, and nobody reads these any more */
  }

  float factor[1][2];
  fill_factors(factor, moec_rsqrt((float)HEAD));
  store_sums(dq, LD_DQ, tile * ROWS, queries, sum, factor[0]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL_FUNCTION(dkv)(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
                         const int32_t *__restrict__ off, const uint16_t *__restrict__ d_o, uint16_t *__restrict__ dk,
                         uint16_t *__restrict__ dv, const float *__restrict__ statistics) {
  extern __shared__ __align__(16) uint16_t shared[];
  /* `given`: gradients of o. Two buffers of queries and of given, and of the lse and D of those queries. */
  uint16_t *const keys = aligned_shared(shared);
  uint16_t *const values = keys + ROWS * WIDTH;
  uint16_t *const queries = values + ROWS * WIDTH;
  uint16_t *const given = queries + 2 * COLUMNS * WIDTH;
  float *const of_columns = (float *)(given + 2 * COLUMNS * WIDTH);
  const int32_t head = blockIdx.x, tile = blockIdx.y; /* when causal the longest first */
  const int32_t live = off[SEGMENTS], first = tile * ROWS + threadIdx.x / 32 * WARP_ROWS;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, d_o += head * HEAD, dk += head * HEAD, dv += head * HEAD;

  copy_tile<ROWS>(keys, k, LD_K, tile * ROWS, live);
  copy_tile<ROWS>(values, v, LD_V, tile * ROWS, live);
  const Range mine = range_of_row<true>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const Range *const of_warps = share_range(warp.any);
  const Range block = join_ranges<WARPS>(of_warps), group = join_ranges<4>(of_warps + threadIdx.x / 128 * 4);
  const int32_t begin = block.first / 4 * 4; /* the statistics of 4 queries are 16 bytes */
  Stream<COLUMNS, LD_Q, LD_DO> stream = {queries, given, q, d_o, live};
  stream.fetch(begin, block.end);
  copy_statistics<COLUMNS>(of_columns, statistics, head, begin, block.end);
  moec_copy_commit();
  const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD); /* exponentials are powers of 2 */
  float sum_keys[WIDTH / 8][4] = {}, sum_values[WIDTH / 8][4] = {};

  wait_for_copies();
  for (int32_t column = begin; column < block.end; column += COLUMNS) {
    stream.turn();
    stream.fetch(column + COLUMNS, block.end);
    copy_statistics<COLUMNS>(of_columns + stream.next * 2 * COLUMNS, statistics, head, column + COLUMNS, block.end);
    moec_copy_commit();
    const float *const of_column = of_columns + stream.now * 2 * COLUMNS + (threadIdx.x & 3) * 2;
    if (column < group.end && column + COLUMNS > group.first) {
      float score[1][COLUMNS / 8][4] = {}, change[COLUMNS / 8][4];
      moec_wgmma_begin(score[0]);
      multiply_transposed(score[0], keys, stream.a());
      moec_wgmma_end(score[0]);
      if (column < warp.all.first || column + COLUMNS > warp.all.end)
        mask_scores<COLUMNS>(score, mine, column);
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; j++) {
        const float2 of_lse = *(const float2 *)(of_column + 8 * j);
        const float2 mean = *(const float2 *)(of_column + COLUMNS + 8 * j);
#pragma unroll
        for (int c = 0; c < 4; c++) {
          score[0][j][c] = moec_exp2(score[0][j][c] * scale - (c % 2 ? of_lse.y : of_lse.x));
          change[j][c] = -(c % 2 ? mean.y : mean.x);
        }
      }
      uint32_t left[COLUMNS / 16][4];
      pack_left(left, score[0]);
      begin_sums(sum_values);
      moec_wgmma_begin(change);
      multiply_add(sum_values, left, stream.b());
      multiply_transposed(change, values, stream.b());
      end_sums(sum_values);
      moec_wgmma_end(change);
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          change[j][c] *= score[0][j][c];
      pack_left(left, change);
      begin_sums(sum_keys);
      multiply_add(sum_keys, left, stream.a());
      end_sums(sum_keys);
    }
    wait_for_copies(); /* the next columns are there, and nobody reads these any more */
  }

  float factor[1][2];
  fill_factors(factor, moec_rsqrt((float)HEAD));
  store_sums(dk, LD_DK, tile * ROWS, keys, sum_keys, factor[0]);
  fill_factors(factor, 1.0f);
  store_sums(dv, LD_DV, tile * ROWS, values, sum_values, factor[0]);
}
