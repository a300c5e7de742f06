//@use attention_plain
/* The gradient of attention over segments without tensor cores; what it computes, its operands and its two launches are
 * those of attention_grad.cu. Macros beside attention_plain's: LD_Q, LD_K, LD_V, LD_O, LD_DO, LD_DQ, LD_DK, LD_DV,
 * ROUNDED.
 * Shared bytes: dq 4 (PITCH (2 ROWS + 2 COLUMNS) + SCORE_PITCH ROWS), dkv 4 (PITCH (2 ROWS + 2 COLUMNS) + 2 SCORE_PITCH
 * ROWS + 2 COLUMNS). */
extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(dq)(const Element *__restrict__ q, const Element *__restrict__ k, const Element *__restrict__ v,
                        const int32_t *__restrict__ off, const Element *__restrict__ o, const float *__restrict__ lse,
                        const Element *__restrict__ d_o, Element *__restrict__ dq, float *__restrict__ statistics) {
  extern __shared__ __align__(16) float shared[];
  float *const queries = shared, *const given = queries + ROWS * PITCH;
  float *const keys = given + ROWS * PITCH, *const values = keys + COLUMNS * PITCH;
  const int32_t head = blockIdx.x, lane = threadIdx.x & 31, own = threadIdx.x / 4, row = blockIdx.y * ROWS + own;
  const int32_t live = off[SEGMENTS];
  float *const weights = values + COLUMNS * PITCH + own * SCORE_PITCH;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, o += head * HEAD, d_o += head * HEAD, dq += head * HEAD;

  read_tile<ROWS>(queries, q, LD_Q, blockIdx.y * ROWS, live);
  read_tile<ROWS>(given, d_o, LD_DO, blockIdx.y * ROWS, live);
  const Range of_lane = range_of_row<false>(off, row - lane / 4, live);
  const Range mine = range_of_own_row(of_lane),
              block = join_ranges<WARPS>(share_ranges(of_lane, warp_range(of_lane).any).of_warps);
  float mean = 0.0f;
  for (int column = lane % 4; row < live && column < HEAD; column += 4)
    mean += moec_value(o[row * (int64_t)LD_O + column]) * given[own * PITCH + column];
  mean += __shfl_xor_sync(0xffffffffu, mean, 1);
  mean += __shfl_xor_sync(0xffffffffu, mean, 2);
  const float own_lse = row < live ? lse[(int64_t)row * HEADS + head] : 0.0f;
  if (lane % 4 == 0) {
    statistics[(int64_t)head * ROUNDED + row] = own_lse;
    statistics[(int64_t)(HEADS + head) * ROUNDED + row] = mean;
  }
  float sum[WIDTH_SHARE] = {};
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    __syncthreads(); /* nobody reads the last columns any more */
    read_tile<COLUMNS>(keys, k, LD_K, column, live);
    read_tile<COLUMNS>(values, v, LD_V, column, live);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < SHARE; i++) {
      const int32_t at = 4 * i + lane % 4;
      float change = 0.0f;
      if (column + at >= mine.first && column + at < mine.end) {
        const float score = dot(queries + own * PITCH, keys + at * PITCH) * moec_rsqrt((float)HEAD);
        change = moec_exp(score - own_lse) * (dot(given + own * PITCH, values + at * PITCH) - mean);
      }
      weights[at] = change;
    }
    __syncwarp();
    add_rows(sum, weights, keys);
    __syncwarp();
  }
  write_row(dq, LD_DQ, row, sum, moec_rsqrt((float)HEAD));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(dkv)(const Element *__restrict__ q, const Element *__restrict__ k, const Element *__restrict__ v,
                         const int32_t *__restrict__ off, const Element *__restrict__ d_o, Element *__restrict__ dk,
                         Element *__restrict__ dv, const float *__restrict__ statistics) {
  extern __shared__ __align__(16) float shared[];
  float *const keys = shared, *const values = keys + ROWS * PITCH;
  float *const queries = values + ROWS * PITCH, *const given = queries + COLUMNS * PITCH;
  float *const of_columns = given + COLUMNS * PITCH; /* lse, then D, of the queries */
  const int32_t head = blockIdx.x, lane = threadIdx.x & 31, own = threadIdx.x / 4, row = blockIdx.y * ROWS + own;
  const int32_t live = off[SEGMENTS];
  float *const weights = of_columns + 2 * COLUMNS + 2 * own * SCORE_PITCH, *const changes = weights + SCORE_PITCH;
  q += head * HEAD, k += head * HEAD, v += head * HEAD, d_o += head * HEAD, dk += head * HEAD, dv += head * HEAD;

  read_tile<ROWS>(keys, k, LD_K, blockIdx.y * ROWS, live);
  read_tile<ROWS>(values, v, LD_V, blockIdx.y * ROWS, live);
  const Range of_lane = range_of_row<true>(off, row - lane / 4, live);
  const Range mine = range_of_own_row(of_lane),
              block = join_ranges<WARPS>(share_ranges(of_lane, warp_range(of_lane).any).of_warps);
  float sum_keys[WIDTH_SHARE] = {}, sum_values[WIDTH_SHARE] = {};
  for (int32_t column = block.first; column < block.end; column += COLUMNS) {
    __syncthreads(); /* nobody reads the last columns any more */
    read_tile<COLUMNS>(queries, q, LD_Q, column, live);
    read_tile<COLUMNS>(given, d_o, LD_DO, column, live);
    if (threadIdx.x < 2 * COLUMNS) {
      const int32_t at = column + threadIdx.x % COLUMNS;
      const int64_t list = (int64_t)(threadIdx.x / COLUMNS) * HEADS + head;
      of_columns[threadIdx.x] = at < ROUNDED ? statistics[list * ROUNDED + at] : 0.0f;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < SHARE; i++) {
      const int32_t at = 4 * i + lane % 4;
      float weight = 0.0f, change = 0.0f;
      if (column + at >= mine.first && column + at < mine.end) {
        const float score = dot(keys + own * PITCH, queries + at * PITCH) * moec_rsqrt((float)HEAD);
        weight = moec_exp(score - of_columns[at]);
        change = weight * (dot(values + own * PITCH, given + at * PITCH) - of_columns[COLUMNS + at]);
      }
      weights[at] = weight;
      changes[at] = change;
    }
    __syncwarp();
    add_rows(sum_values, weights, given);
    add_rows(sum_keys, changes, queries);
    __syncwarp();
  }
  write_row(dk, LD_DK, row, sum_keys, moec_rsqrt((float)HEAD));
  write_row(dv, LD_DV, row, sum_values, 1.0f);
}
