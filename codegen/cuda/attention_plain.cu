//@use attention_rows
/* What the plain attention kernels share: any head size up to 256, f32 or bf16 operands, all arithmetic in f32 without
 * tensor cores. They are for checking and for heads that the tiles of attention_tiles.cu do not fit: right, not fast.
 *
 * Macros beside attention_rows': BF16 0 or 1, the type of the operands. WARP_ROWS is 8.
 *
 * A row belongs to 4 neighbouring lanes, which share its columns: lane c of them has columns c, c + 4, ... Tiles in
 * shared memory are f32, PITCH apart, an odd number, so that rows lie in different banks. */
#if BF16
typedef uint16_t Element;
#else
typedef float Element;
#endif
enum { COLUMNS = 32, PITCH = HEAD | 1, SCORE_PITCH = COLUMNS | 1, SHARE = COLUMNS / 4, WIDTH_SHARE = (HEAD + 3) / 4 };

MOEC_INLINE void put(float *to, float x) {
  *to = x;
}
MOEC_INLINE void put(uint16_t *to, float x) {
  *to = moec_to_bf16(x);
}

/* COUNT rows of one head from row `first` on; zeros from row `live` on. */
template <int COUNT>
MOEC_INLINE void read_tile(float *tile, const Element *from, int64_t ld, int32_t first, int32_t live) {
  for (int at = threadIdx.x; at < COUNT * HEAD; at += THREADS) {
    const int32_t row = at / HEAD, column = at % HEAD;
    tile[row * PITCH + column] = first + row < live ? moec_value(from[(first + row) * ld + column]) : 0.0f;
  }
}

MOEC_INLINE float dot(const float *a, const float *b) {
  float sum = 0.0f;
#pragma unroll 4 /* the text is compiled at the first run: it stays short */
  for (int column = 0; column < HEAD; column++)
    sum = fmaf(a[column], b[column], sum);
  return sum;
}

/* sum += this lane's columns of weights (one for each of COLUMNS rows) times a tile. */
MOEC_INLINE void add_rows(float *sum, const float *weights, const float *tile) {
#pragma unroll 1
  for (int row = 0; row < COLUMNS; row++) {
    const float weight = weights[row];
#pragma unroll
    for (int i = 0; i < WIDTH_SHARE; i++)
      if (4 * i + (threadIdx.x & 3) < HEAD)
        sum[i] = fmaf(weight, tile[row * PITCH + 4 * i + (threadIdx.x & 3)], sum[i]);
  }
}

MOEC_INLINE void write_row(Element *to, int64_t ld, int32_t row, const float *sum, float factor) {
#pragma unroll
  for (int i = 0; i < WIDTH_SHARE; i++) {
    const int32_t column = 4 * i + (threadIdx.x & 3);
    if (row < N && column < HEAD)
      put(to + row * ld + column, sum[i] * factor);
  }
}

/* The range of this lane's own row. */
MOEC_INLINE Range range_of_own_row(Range of_lane) {
  const int row = (threadIdx.x & 31) / 4;
  return {__shfl_sync(0xffffffffu, of_lane.first, row), __shfl_sync(0xffffffffu, of_lane.end, row)};
}
