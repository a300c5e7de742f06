//@use attention_plain
/* Attention over segments, forward, without tensor cores; what it computes, its operands and launch are those of
 * attention.cu. Macros beside attention_plain's: LD_Q, LD_K, LD_V, LD_O.
 * Shared bytes: 4 (PITCH (ROWS + 2 COLUMNS) + SCORE_PITCH ROWS). */
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const Element *__restrict__ q, const Element *__restrict__ k, const Element *__restrict__ v,
           const int32_t *__restrict__ off, Element *__restrict__ o, float *__restrict__ lse) {
  extern __shared__ __align__(16) float shared[];
  float *const queries = shared, *const keys = queries + ROWS * PITCH, *const values = keys + COLUMNS * PITCH;
  const int32_t head = blockIdx.x, lane = threadIdx.x & 31, own = threadIdx.x / 4, row = blockIdx.y * ROWS + own;
  const int32_t live = off[SEGMENTS];
  float *const weights = values + COLUMNS * PITCH + own * SCORE_PITCH;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD;

  read_tile<ROWS>(queries, q, LD_Q, blockIdx.y * ROWS, live);
  const Range of_lane = range_of_row<false>(off, row - lane / 4, live);
  const Range mine = range_of_own_row(of_lane),
              block = join_ranges<WARPS>(share_ranges(of_lane, warp_range(of_lane).any).of_warps);
  float largest = -MOEC_INFINITY, total = 0.0f, sum[WIDTH_SHARE] = {};
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    __syncthreads(); /* nobody reads the last columns any more */
    read_tile<COLUMNS>(keys, k, LD_K, column, live);
    read_tile<COLUMNS>(values, v, LD_V, column, live);
    __syncthreads();
    float score[SHARE], before = largest;
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
      const int32_t at = 4 * i + lane % 4;
      const bool pairs = column + at >= mine.first && column + at < mine.end;
      score[i] = pairs ? dot(queries + own * PITCH, keys + at * PITCH) * moec_rsqrt((float)HEAD) : -MOEC_INFINITY;
      largest = fmaxf(largest, score[i]);
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const float shift = largest == -MOEC_INFINITY ? 0.0f : largest, keep = moec_exp(before - shift);
    total *= keep;
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
      weights[4 * i + lane % 4] = moec_exp(score[i] - shift);
      total += weights[4 * i + lane % 4];
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < WIDTH_SHARE; i++)
      sum[i] *= keep;
    add_rows(sum, weights, values);
    __syncwarp();
  }
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  write_row(o, LD_O, row, sum, total == 0.0f ? 0.0f : 1.0f / total);
  if (lane % 4 == 0 && row < N)
    lse[(int64_t)row * HEADS + head] = total == 0.0f ? 0.0f : largest + moec_log(total);
}
