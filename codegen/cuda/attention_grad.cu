//@use attention_tiles
//@use attention_stream
//@use attention_statistics
/* The gradient of attention over segments, bf16 with f32 sums. The oracle is ir/eval_attention.c.
 *
 * Per head and pair of rows i (query), j (key): p = exp(s q_i k_j - lse_i), ds = p (do_i v_j - D_i) with D_i = do_i
 * o_i; dq_i = s sum ds k_j, dk_j = s sum ds q_i, dv_j = sum p do_i; s = 1 / sqrt(HEAD).
 *
 * Macros beside attention_tiles': LD_Q, LD_K, LD_V, LD_O, LD_DO, LD_DQ, LD_DK, LD_DV; ROUNDED, N up
 * to a multiple of ROWS; QUERY_PASS_COLUMNS keys at a time; KEY_PASS_COLUMNS queries at a time; KEEP 1: the first pass
 * keeps its rows in registers.
 * Launches, one behind the other, blocks = HEADS, ceil(N / ROWS), 128 threads: KERNEL_dq, shared bytes 4 PITCH (ROWS +
 * 2 QUERY_PASS_COLUMNS); KERNEL_dkv, 4 PITCH (ROWS + 2 KEY_PASS_COLUMNS) + 16 KEY_PASS_COLUMNS. `statistics` is
 * scratch, f32[2][HEADS][ROUNDED], written by the first. Alignment and dead rows as in attention.cu.
 *
 * Two passes, each the only writer of what it sums, so that the order of sums is fixed without atomics: the first has
 * ROWS queries a block and walks over keys, the second has ROWS keys and walks over queries. That is 7 products of
 * tiles where one pass with atomic sums has 5; FLOPs are counted as 5 (2.5 times forward). Probabilities never leave
 * registers: the second pass computes transposed scores, whose accumulators are the left operands of dv and dk. At HEAD
 * 64, T 1024, causal both passes are bound by tensor cores; per pair they take 2 exponentials and 14 HEAD FLOPs. */
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(dq)(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
                        const int32_t *__restrict__ off, const uint16_t *__restrict__ o, const float *__restrict__ lse,
                        const uint16_t *__restrict__ d_o, uint16_t *__restrict__ dq, float *__restrict__ statistics) {
  enum { RUN = QUERY_PASS_COLUMNS };
  extern __shared__ __align__(16) uint16_t shared[];
  /* `given`: gradients of o. Two buffers of keys and of values. */
  uint16_t *const queries = shared;
  uint16_t *const given = queries + ROWS * PITCH;
  uint16_t *const keys = given + ROWS * PITCH;
  uint16_t *const values = keys + 2 * RUN * PITCH;
  const int32_t head = blockIdx.x, tile = CAUSAL ? gridDim.y - 1 - blockIdx.y : blockIdx.y; /* the longest first */
  const int32_t live = off[SEGMENTS], own = threadIdx.x / 32 * WARP_ROWS, first = tile * ROWS + own;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD, d_o += head * HEAD, dq += head * HEAD;

  copy_tile<ROWS>(queries, q, LD_Q, tile * ROWS, live);
  copy_tile<ROWS>(given, d_o, LD_DO, tile * ROWS, live);
  const Range mine = range_of_row<false>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const BlockRanges ranges = share_ranges(mine, warp.any);
  const Range block = join_ranges<WARPS>(ranges.of_warps);
  const Range *const of_rows = ranges.of_rows + own;
  Stream<RUN, LD_K, LD_V> stream = {keys, values, k, v, live};
  stream.fetch(block.first, block.end);
  moec_copy_commit();
  QueryStatistics of;
  of.take(statistics, o, d_o, lse, first, live, head);
  const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD); /* exponentials are powers of 2 */

  moec_copy_wait<0>();
  __syncthreads(); /* the rows and the first columns are there */
  LeftRows<KEEP> left, left_given;
  left.take(queries + own * PITCH);
  left_given.take(given + own * PITCH);
  float sum[ROW_TILES][WIDTH / 8][4] = {};
  for (int32_t column = block.first; column < block.end; column += RUN) {
    stream.turn();
    stream.fetch(column + RUN, block.end);
    moec_copy_commit();
    if (column < warp.any.end && column + RUN > warp.any.first) {
      float score[ROW_TILES][RUN / 8][4] = {}, change[ROW_TILES][RUN / 8][4];
      multiply_transposed<RUN, KEEP>(score, left, stream.a());
      if (column < warp.all.first || column + RUN > warp.all.end)
        mask_scores<RUN>(score, of_rows, column);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < RUN / 8; j++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            change[i][j][c] = -of.mean[i][c / 2];
      multiply_transposed<RUN, KEEP>(change, left_given, stream.b());
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < RUN / 8; j++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            change[i][j][c] *= moec_exp2(score[i][j][c] * scale - of.lse[i][c / 2]);
      multiply_add<RUN>(sum, change, stream.a());
    }
    moec_copy_wait<0>();
    __syncthreads(); /* the next columns are there, and nobody reads these any more */
  }

  float factor[ROW_TILES][2];
  fill_factors(factor, moec_rsqrt((float)HEAD));
  put_rows(queries + own * PITCH, sum, factor);
  store_rows(dq, LD_DQ, queries + own * PITCH, first);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(dkv)(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
                         const int32_t *__restrict__ off, const uint16_t *__restrict__ d_o, uint16_t *__restrict__ dk,
                         uint16_t *__restrict__ dv, const float *__restrict__ statistics) {
  enum { RUN = KEY_PASS_COLUMNS };
  extern __shared__ __align__(16) uint16_t shared[];
  /* `given`: gradients of o. Two buffers of queries and of given, and of the lse and D of those queries. */
  uint16_t *const keys = shared;
  uint16_t *const values = keys + ROWS * PITCH;
  uint16_t *const queries = values + ROWS * PITCH;
  uint16_t *const given = queries + 2 * RUN * PITCH;
  float *const of_columns = (float *)(given + 2 * RUN * PITCH);
  const int32_t head = blockIdx.x, tile = blockIdx.y; /* when causal the longest first */
  const int32_t live = off[SEGMENTS], own = threadIdx.x / 32 * WARP_ROWS, first = tile * ROWS + own;
  const int lane = threadIdx.x & 31;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, d_o += head * HEAD, dk += head * HEAD, dv += head * HEAD;

  copy_tile<ROWS>(keys, k, LD_K, tile * ROWS, live);
  copy_tile<ROWS>(values, v, LD_V, tile * ROWS, live);
  const Range mine = range_of_row<true>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const BlockRanges ranges = share_ranges(mine, warp.any);
  const Range block = join_ranges<WARPS>(ranges.of_warps);
  const Range *const of_rows = ranges.of_rows + own;
  const int32_t begin = block.first / 4 * 4; /* the statistics of 4 queries are 16 bytes */
  Stream<RUN, LD_Q, LD_DO> stream = {queries, given, q, d_o, live};
  stream.fetch(begin, block.end);
  copy_statistics<RUN>(of_columns, statistics, head, begin, block.end);
  moec_copy_commit();
  const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD); /* exponentials are powers of 2 */

  moec_copy_wait<0>();
  __syncthreads(); /* the rows and the first columns are there */
  LeftRows<false> left, left_values;
  left.take(keys + own * PITCH);
  left_values.take(values + own * PITCH);
  float sum_keys[ROW_TILES][WIDTH / 8][4] = {}, sum_values[ROW_TILES][WIDTH / 8][4] = {};
  for (int32_t column = begin; column < block.end; column += RUN) {
    stream.turn();
    stream.fetch(column + RUN, block.end);
    copy_statistics<RUN>(of_columns + stream.next * 2 * RUN, statistics, head, column + RUN, block.end);
    moec_copy_commit();
    if (column < warp.any.end && column + RUN > warp.any.first) {
      const float *const of_column = of_columns + stream.now * 2 * RUN + lane % 4 * 2;
      float score[ROW_TILES][RUN / 8][4] = {}, change[ROW_TILES][RUN / 8][4];
      multiply_transposed<RUN, false>(score, left, stream.a());
      if (column < warp.all.first || column + RUN > warp.all.end)
        mask_scores<RUN>(score, of_rows, column);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < RUN / 8; j++)
#pragma unroll
          for (int c = 0; c < 4; c++) {
            score[i][j][c] = moec_exp2(score[i][j][c] * scale - of_column[8 * j + c % 2]);
            change[i][j][c] = -of_column[RUN + 8 * j + c % 2];
          }
      multiply_add<RUN>(sum_values, score, stream.b());
      multiply_transposed<RUN, false>(change, left_values, stream.b());
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < RUN / 8; j++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            change[i][j][c] *= score[i][j][c];
      multiply_add<RUN>(sum_keys, change, stream.a());
    }
    moec_copy_wait<0>();
    __syncthreads(); /* the next columns are there, and nobody reads these any more */
  }

  float factor[ROW_TILES][2];
  fill_factors(factor, moec_rsqrt((float)HEAD));
  put_rows(keys + own * PITCH, sum_keys, factor);
  store_rows(dk, LD_DK, keys + own * PITCH, first);
  fill_factors(factor, 1.0f);
  put_rows(values + own * PITCH, sum_values, factor);
  store_rows(dv, LD_DV, values + own * PITCH, first);
}
