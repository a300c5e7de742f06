//@use attention_sm90_tiles
//@use attention_softmax
/* Attention over segments, forward, with Hopper's warpgroup products, for arch=sm_90a; what it computes, its operands
 * and the grid are those of attention.cu. Macros beside attention_rows': LD_Q, LD_K, LD_V, LD_O. Launch: blocks =
 * HEADS, ceil(N / 128); 256 threads; shared bytes 1024 + 2 HEAD (128 + 8 64).
 *
 * The walk is that of attention.cu with 64 keys at a time. Queries are left operands in registers, since both operands
 * of an m64n64k16 from shared memory would take as long to read as to multiply. At HEAD 64 two blocks stand on a
 * multiprocessor, so while one warpgroup computes exponentials (256 cycles for 64 x 64 pairs at 16 a cycle) the
 * products of others run (256 cycles as well). Within a block the warpgroups take turns at scores and sums: with
 * one behind the other, the second's products fill the time of the first's exponentials. */
extern "C" __global__ void __launch_bounds__(THREADS, HEAD == 64 ? 2 : 1)
    KERNEL(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
           const int32_t *__restrict__ off, uint16_t *__restrict__ o, float *__restrict__ lse) {
  enum { TURNS = 2 * WARPGROUPS };
  extern __shared__ __align__(16) uint16_t shared[];
  /* Buffers of keys and of values. */
  uint16_t *const queries = aligned_shared(shared);
  uint16_t *const keys = queries + ROWS * WIDTH;
  const int32_t head = blockIdx.x, tile = CAUSAL ? gridDim.y - 1 - blockIdx.y : blockIdx.y; /* the longest first */
  const int32_t live = off[SEGMENTS], own = threadIdx.x / 32 * WARP_ROWS, first = tile * ROWS + own;
  const int lane = threadIdx.x & 31;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD;

  copy_tile<ROWS>(queries, q, LD_Q, tile * ROWS, live);
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
  float sum[1][WIDTH / 8][4] = {};
  Softmax softmax;
  softmax.begin();

  wait_for_copies();
  uint32_t left[HEAD / 16][4];
#pragma unroll
  for (int step = 0; step < HEAD / 16; step++)
    moec_load_matrix_x4(left[step],
                        moec_swizzled(queries + step / 4 * ROWS * PART_ROW, own + lane % 16, step % 4 * 2 + lane / 16));
  const int group_index = uniform(threadIdx.x / 128);
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    wait_for_copies();
    ring.turn();
    ring.fetch();
    moec_copy_commit();
    if (column >= group.end || column + COLUMNS <= group.first) {
      skip_turns<TURNS>(group_index);
      continue;
    }
    float score[1][COLUMNS / 8][4];
    moec_turn_take<0, WARPGROUPS>(group_index);
    moec_wgmma_begin();
    const moec_operand keys_now = ring.a();
    moec_wgmma_rows<false>(score[0], left[0], keys_now);
#pragma unroll
    for (int step = 1; step < HEAD / 16; step++)
      moec_wgmma_rows<true>(score[0], left[step], keys_now + along_row<COLUMNS>(step));
    moec_wgmma_commit();
    moec_turn_pass<0, WARPGROUPS, TURNS>(group_index);
    moec_wgmma_wait<0>(score[0]);
    if (column < warp.all.first || column + COLUMNS > warp.all.end)
      mask_scores<COLUMNS>(score, of_rows, column);
    softmax.exponentials<COLUMNS>(score, sum);
    uint32_t weights[COLUMNS / 16][4];
    pack_left(weights, score[0]);
    moec_turn_take<WARPGROUPS, WARPGROUPS>(group_index);
    begin_sums(sum[0]);
    multiply_add(sum[0], weights, ring.b());
    moec_wgmma_commit();
    moec_turn_pass<WARPGROUPS, WARPGROUPS, TURNS>(group_index);
    end_sums(sum[0]);
  }

  float inverse[1][2];
  softmax.finish(inverse, lse, first, head);
  store_sums(o, LD_O, tile * ROWS, queries, sum[0], inverse[0]);
}
