//@use attention_sm90_tiles
//@use attention_statistics
/* The gradient of attention over segments with Hopper's warpgroup products, for arch=sm_90a: the pass over queries,
 * which makes dq and the statistics. What it computes, its operands and its grid are those of attention_grad.cu's
 * KERNEL_dq. Macros beside attention_rows': LD_Q, LD_K, LD_V, LD_O, LD_DO, LD_DQ, ROUNDED. Launch: 256 threads; shared
 * bytes 1024 + 2 HEAD (256 + 8 64).
 *
 * The left operands of the first two products come from shared memory, those of the sums from registers. Exponentials
 * are computed while the second product runs. At HEAD 64 two blocks stand on a multiprocessor; 64 x 64 pairs take 384
 * cycles of the tensor cores and 256 of the exponentials' unit. */
extern "C" __global__ void __launch_bounds__(THREADS, HEAD == 64 ? 2 : 1)
    KERNEL(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
           const int32_t *__restrict__ off, const uint16_t *__restrict__ o, const float *__restrict__ lse,
           const uint16_t *__restrict__ d_o, uint16_t *__restrict__ dq, float *__restrict__ statistics) {
  extern __shared__ __align__(16) uint16_t shared[];
  /* `given`: gradients of o. Buffers of keys and of values. */
  uint16_t *const queries = aligned_shared(shared);
  uint16_t *const given = queries + ROWS * WIDTH;
  uint16_t *const keys = given + ROWS * WIDTH;
  const int32_t head = blockIdx.x, tile = CAUSAL ? gridDim.y - 1 - blockIdx.y : blockIdx.y; /* the longest first */
  const int32_t live = off[SEGMENTS], first = tile * ROWS + threadIdx.x / 32 * WARP_ROWS;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD, d_o += head * HEAD, dq += head * HEAD;

  copy_tile<ROWS>(queries, q, LD_Q, tile * ROWS, live);
  copy_tile<ROWS>(given, d_o, LD_DO, tile * ROWS, live);
  const Range mine = range_of_row<false>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const BlockRanges ranges = share_ranges(mine, warp.any);
  const Range block = join_ranges<WARPS>(ranges.of_warps);
  const Range group = join_ranges<4>(ranges.of_warps + threadIdx.x / 128 * 4);
  const Range *const of_rows = ranges.of_rows + threadIdx.x / 32 * WARP_ROWS;
  Ring<LD_K, LD_V> ring;
  ring.open(keys, k, v, block.first, block.end, live);
#pragma unroll
  for (int buffer = 0; buffer < BUFFERS - 1; buffer++) {
    ring.fetch();
    moec_copy_commit();
  }
  QueryStatistics of;
  of.take(statistics, o, d_o, lse, first, live, head);
  const float scale = 1.4426950408889634f * moec_rsqrt((float)HEAD); /* exponentials are powers of 2 */
  float sum[WIDTH / 8][4] = {};

  const moec_operand own_queries = rows_of_group(queries), own_given = rows_of_group(given);
  const int group_index = uniform(threadIdx.x / 128);
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    wait_for_copies();
    ring.turn();
    ring.fetch();
    moec_copy_commit();
    if (column >= group.end || column + COLUMNS <= group.first) {
      skip_turns<WARPGROUPS>(group_index);
      continue;
    }
    float score[1][COLUMNS / 8][4], change[COLUMNS / 8][4];
    moec_turn_take<0, WARPGROUPS>(group_index);
    moec_wgmma_begin();
    multiply_transposed(score[0], own_queries, ring.a());
    moec_wgmma_commit();
    multiply_transposed(change, own_given, ring.b());
    moec_wgmma_commit();
    moec_turn_pass<0, WARPGROUPS, WARPGROUPS>(group_index);
    moec_wgmma_wait<1>(score[0]);
    if (column < warp.all.first || column + COLUMNS > warp.all.end)
      mask_scores<COLUMNS>(score, of_rows, column);
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
      for (int c = 0; c < 4; c++)
        score[0][j][c] = moec_exp2(score[0][j][c] * scale - of.lse[0][c / 2]);
    moec_wgmma_wait<0>(change);
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
      for (int c = 0; c < 4; c++)
        change[j][c] = (change[j][c] - of.mean[0][c / 2]) * score[0][j][c];
    uint32_t left[COLUMNS / 16][4];
    pack_left(left, change);
    begin_sums(sum);
    multiply_add(sum, left, ring.a());
    moec_wgmma_commit();
    end_sums(sum);
  }

  wait_for_copies(); /* nobody reads the queries any more */
  float factor[1][2];
  fill_factors(factor, moec_rsqrt((float)HEAD));
  store_sums(dq, LD_DQ, tile * ROWS, queries, sum, factor[0]);
}
