/* The gradient of attention on tensor cores: what both passes know of a query, and how results are scaled.
 *
 * Macros beside attention_rows': ROW_TILES, LD_O, LD_DO, ROUNDED (N up to whole blocks of the pass over queries).
 * `statistics`, in global memory, is f32[2][HEADS][ROUNDED]: lse as a power of 2, then D, written by that pass.
 * Fragments are those of moec_mma_bf16. */

/* The sum of products of two rows of HEAD numbers, by the 4 lanes that share the row; 0 when dead. */
MOEC_INLINE float row_dot(const uint16_t *a, const uint16_t *b, bool live) {
  float sum = 0.0f;
  for (int chunk = threadIdx.x & 3; live && chunk < HEAD / 8; chunk += 4) {
    const uint4 x = *(const uint4 *)(a + chunk * 8), y = *(const uint4 *)(b + chunk * 8);
    const uint32_t of_a[4] = {x.x, x.y, x.z, x.w}, of_b[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int word = 0; word < 4; word++) {
      sum += __uint_as_float(of_a[word] << 16) * __uint_as_float(of_b[word] << 16);
      sum += __uint_as_float(of_a[word] & 0xffff0000u) * __uint_as_float(of_b[word] & 0xffff0000u);
    }
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  return sum;
}

/* Per query: lse as a power of 2, and D. Read and made by the lanes that own the row, and written for the second pass.
 */
struct QueryStatistics {
  float lse[ROW_TILES][2], mean[ROW_TILES][2];

  __device__ __forceinline__ void take(float *statistics, const uint16_t *o, const uint16_t *d_o, const float *natural,
                                       int32_t first, int32_t live, int32_t head) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int32_t row = first + 16 * i + 8 * h + lane / 4;
        mean[i][h] = row_dot(o + row * (int64_t)LD_O, d_o + row * (int64_t)LD_DO, row < live);
        lse[i][h] = row < live ? 1.4426950408889634f * natural[(int64_t)row * HEADS + head] : 0.0f;
        if (lane % 4 == 0) {
          statistics[(int64_t)head * ROUNDED + row] = lse[i][h];
          statistics[(int64_t)(HEADS + head) * ROUNDED + row] = mean[i][h];
        }
      }
  }
};

/* Starts copying a head's statistics of queries from `first` on, a multiple of 4 before `end`: `of` gets lse, then D.
 */
template <int RUN>
MOEC_INLINE void copy_statistics(float *of, const float *statistics, int32_t head, int32_t first, int32_t end) {
  const int32_t which = threadIdx.x / (RUN / 4), at = threadIdx.x % (RUN / 4) * 4;
  if (which < 2 && first < end) {
    const bool valid = first + at < ROUNDED;
    const float *from = statistics + (int64_t)(which * HEADS + head) * ROUNDED + first + at;
    moec_copy_async_16(of + which * RUN + at, valid ? from : statistics, valid);
  }
}

MOEC_INLINE void fill_factors(float (*factor)[2], float value) {
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
    factor[i][0] = factor[i][1] = value;
}
