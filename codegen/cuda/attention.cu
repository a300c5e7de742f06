//@use attention_tiles
//@use attention_stream
//@use attention_softmax
/* Attention over segments, forward, bf16 with f32 sums: o = softmax(q k^T / sqrt(HEAD)) v per head, lse = the natural
 * logarithm of each row's sum of exponentials. The oracle is ir/eval_attention.c.
 *
 * Macros beside attention_tiles': LD_Q, LD_K, LD_V, LD_O elements between rows; COLUMNS keys at a time; KEEP 1: queries
 * stay in registers.
 * Launch: blocks = HEADS, ceil(N / ROWS); 128 threads; shared bytes 2 PITCH (ROWS + 4 COLUMNS).
 * q, k, v, o are rows of N x LD with head h in columns h HEAD ..; they and LD are aligned to 16 bytes. off is
 * i32[SEGMENTS + 1]. Rows beyond its last entry are not read, and 0 in o and lse, f32 [N, HEADS]. No order of blocks or
 * threads changes a bit.
 *
 * A tile's queries are read once; keys and values of its run stream through two buffers, the next copied while one is
 * worked on. Scores, exponentials and sums stay in registers. Work: 4 HEAD FLOPs per pair of tokens and head, half of
 * the T^2 pairs when causal, which is how FLOPs are counted: at HEAD 64 and T 1024, 2.1 MFLOP a token of 16 heads
 * against 8 KB, far above the 206 FLOPs per byte of an H200. Bound by tensor cores and, at HEAD 64 as much, by one
 * exponential per pair: 128 x 64 pairs take 512 cycles of a multiprocessor, 16 a cycle; their products 491 at the peak
 * rate, 800 at what mma.sync reaches of it. 240 registers at HEAD 64, 55 KB shared: 2 blocks on a
 * multiprocessor. */
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const uint16_t *__restrict__ q, const uint16_t *__restrict__ k, const uint16_t *__restrict__ v,
           const int32_t *__restrict__ off, uint16_t *__restrict__ o, float *__restrict__ lse) {
  extern __shared__ __align__(16) uint16_t shared[];
  /* Two buffers of keys and of values. */
  uint16_t *const queries = shared;
  uint16_t *const keys = shared + ROWS * PITCH;
  uint16_t *const values = keys + 2 * COLUMNS * PITCH;
  const int32_t head = blockIdx.x, tile = CAUSAL ? gridDim.y - 1 - blockIdx.y : blockIdx.y; /* the longest first */
  const int32_t live = off[SEGMENTS], own = threadIdx.x / 32 * WARP_ROWS, first = tile * ROWS + own;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD;

  copy_tile<ROWS>(queries, q, LD_Q, tile * ROWS, live);
  const Range mine = range_of_row<false>(off, first, live);
  const WarpRange warp = warp_range(mine);
  const BlockRanges ranges = share_ranges(mine, warp.any);
  const Range block = join_ranges<WARPS>(ranges.of_warps);
  const Range *const of_rows = ranges.of_rows + own;
  Stream<COLUMNS, LD_K, LD_V> stream = {keys, values, k, v, live};
  stream.fetch(block.first, block.end);
  moec_copy_commit();

  LeftRows<KEEP> left;
  float sum[ROW_TILES][WIDTH / 8][4] = {};
  Softmax softmax;
  softmax.begin();

  moec_copy_wait<0>();
  __syncthreads(); /* the queries and the first columns are there */
  left.take(queries + own * PITCH);
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    stream.turn();
    stream.fetch(column + COLUMNS, block.end);
    moec_copy_commit();
    if (column < warp.any.end && column + COLUMNS > warp.any.first) {
      float score[ROW_TILES][COLUMNS / 8][4] = {};
      multiply_transposed<COLUMNS, KEEP>(score, left, stream.a());
      if (column < warp.all.first || column + COLUMNS > warp.all.end)
        mask_scores<COLUMNS>(score, of_rows, column);
      softmax.exponentials<COLUMNS>(score, sum);
      multiply_add<COLUMNS>(sum, score, stream.b());
    }
    moec_copy_wait<0>();
    __syncthreads(); /* the next columns are there, and nobody reads these any more */
  }

  float inverse[ROW_TILES][2];
  softmax.finish(inverse, lse, first, head);
  put_rows(queries + own * PITCH, sum, inverse);
  store_rows(o, LD_O, queries + own * PITCH, first);
}
