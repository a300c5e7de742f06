//@use attention_sm90_tiles
//@use attention_statistics
/* The gradient of attention over segments with Hopper's warpgroup products, for arch=sm_90a: the pass over keys, which
 * makes dk and dv, behind the one over queries. What it computes, its operands and its grid are those of
 * attention_grad.cu's KERNEL_dkv. Macros beside attention_rows': LD_Q, LD_K, LD_V, LD_DO, LD_DK, LD_DV, ROUNDED.
 * Launch: 384 threads at HEAD 64, else 256; shared bytes 1024 + 2 HEAD (2 ROWS + 8 64) + 32 64.
 *
 * The left operands of the first two products come from shared memory, those of the sums from registers. Of the four
 * products of 64 x 64 pairs, 512 cycles of the tensor cores, the second runs during the exponentials, the third while
 * the fourth's left operand is made. One block stands on a multiprocessor, whose warpgroups take turns, so that the
 * products of one run while others compute. */
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
           const int32_t *__restrict__ off, const uint16_t *__restrict__ d_o, uint16_t *__restrict__ dk,
           uint16_t *__restrict__ dv, const float *__restrict__ statistics) {
  extern __shared__ __align__(16) uint16_t shared[];
  /* `given`: gradients of o. Buffers of queries and of given, and of the lse and D of those queries. */
  uint16_t *const keys = aligned_shared(shared);
  uint16_t *const values = keys + ROWS * WIDTH;
  uint16_t *const queries = values + ROWS * WIDTH;
  float *const of_columns = (float *)(queries + 2 * BUFFERS * COLUMNS * WIDTH);
  const int32_t head = blockIdx.x, tile = blockIdx.y; /* when causal the longest first */
  const int32_t live = off[SEGMENTS], first = tile * ROWS + threadIdx.x / 32 * WARP_ROWS;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, d_o += head * HEAD, dk += head * HEAD, dv += head * HEAD;

  copy_tile<ROWS>(keys, k, LD_K, tile * ROWS, live);
  copy_tile<ROWS>(values, v, LD_V, tile * ROWS, live);
  const Range mine = range_of_row<true>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const BlockRanges ranges = share_ranges(mine, warp.any);
  const Range block = join_ranges<WARPS>(ranges.of_warps);
  const Range group = join_ranges<4>(ranges.of_warps + threadIdx.x / 128 * 4);
  const Range *const of_rows = ranges.of_rows + threadIdx.x / 32 * WARP_ROWS;
  const int32_t begin = block.first / 4 * 4; /* the statistics of 4 queries are 16 bytes */
  Ring<LD_Q, LD_DO> ring;
  ring.open(queries, q, d_o, begin, block.end, live);
#pragma unroll
  for (int buffer = 0; buffer < BUFFERS - 1; buffer++) {
    copy_statistics<COLUMNS>(of_columns + buffer * 2 * COLUMNS, statistics, head, ring.next, block.end);
    ring.fetch();
    moec_copy_commit();
  }
  const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD); /* exponentials are powers of 2 */
  float sum_keys[WIDTH / 8][4] = {}, sum_values[WIDTH / 8][4] = {};

  const moec_operand own_keys = rows_of_group(keys), own_values = rows_of_group(values);
  const int group_index = uniform(threadIdx.x / 128);
  for (int32_t column = begin; column < block.end; column += COLUMNS) {
    wait_for_copies();
    ring.turn();
    copy_statistics<COLUMNS>(of_columns + ring.filled * 2 * COLUMNS, statistics, head, ring.next, block.end);
    ring.fetch();
    moec_copy_commit();
    const float *const of_column = of_columns + ring.used * 2 * COLUMNS + (threadIdx.x & 3) * 2;
    if (column >= group.end || column + COLUMNS <= group.first) {
      skip_turns<WARPGROUPS>(group_index);
      continue;
    }
    float score[1][COLUMNS / 8][4], change[COLUMNS / 8][4];
    moec_turn_take<0, WARPGROUPS>(group_index);
    moec_wgmma_begin();
    multiply_transposed(score[0], own_keys, ring.a());
    moec_wgmma_commit();
    multiply_transposed(change, own_values, ring.b());
    moec_wgmma_commit();
    moec_turn_pass<0, WARPGROUPS, WARPGROUPS>(group_index);
    moec_wgmma_wait<1>(score[0]);
    if (column < warp.all.first || column + COLUMNS > warp.all.end)
      mask_scores<COLUMNS>(score, of_rows, column);
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++) {
      const float2 of_lse = *(const float2 *)(of_column + 8 * j);
#pragma unroll
      for (int c = 0; c < 4; c++)
        score[0][j][c] = moec_exp2(score[0][j][c] * scale - (c % 2 ? of_lse.y : of_lse.x));
    }
    uint32_t weights[COLUMNS / 16][4];
    pack_left(weights, score[0]);
    begin_sums(sum_values);
    multiply_add(sum_values, weights, ring.b());
    moec_wgmma_commit();
    moec_wgmma_wait<1>(change);
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++) {
      const float2 mean = *(const float2 *)(of_column + COLUMNS + 8 * j);
#pragma unroll
      for (int c = 0; c < 4; c++)
        change[j][c] = (change[j][c] - (c % 2 ? mean.y : mean.x)) * score[0][j][c];
    }
    uint32_t left[COLUMNS / 16][4];
    pack_left(left, change);
    begin_sums(sum_keys);
    multiply_add(sum_keys, left, ring.a());
    moec_wgmma_commit();
    end_sums(sum_values);
    end_sums(sum_keys);
  }

  wait_for_copies(); /* nobody reads keys and values any more */
  float factor[1][2];
  fill_factors(factor, moec_rsqrt((float)HEAD));
  store_sums(dk, LD_DK, tile * ROWS, keys, sum_keys, factor[0]);
  fill_factors(factor, 1.0f);
  store_sums(dv, LD_DV, tile * ROWS, values, sum_values, factor[0]);
}
