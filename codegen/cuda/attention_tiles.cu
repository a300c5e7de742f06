//@use attention_rows
//@use attention_mask
/* Attention in bf16: tiles in shared memory and their products, on tensor cores.
 *
 * Macros beside attention_rows': ROW_TILES, 16-row tiles of a warp, whose rows are WARP_ROWS = 16 ROW_TILES: 32 where
 * registers allow it, since with 16 reading the other operand from shared memory takes longer than the products. HEAD
 * is a multiple of 8 up to 128.
 *
 * Tiles are WIDTH columns wide (HEAD, up to the next multiple of 16, filled with zeros), PITCH elements apart: an odd
 * number of 16-byte units, so that the 8 rows of an 8x8 matrix lie in different banks. */
enum { WIDTH = (HEAD + 15) / 16 * 16, STEPS = WIDTH / 16, CHUNKS = WIDTH / 8 /* of 16 bytes */, PITCH = WIDTH + 8 };

/* Starts copying COUNT rows of one head from row `first` on; zeros from row `live` on. Each thread has a fixed piece of
 * the rows AT_ONCE apart, so that but for the first its addresses are constants away. */
template <int COUNT>
MOEC_INLINE void copy_tile(uint16_t *tile, const uint16_t *from, int64_t ld, int32_t first, int32_t live) {
  constexpr int AT_ONCE = THREADS / CHUNKS;
  const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  tile += row * PITCH + chunk * 8;
  from += (first + row) * ld + chunk * 8;
  if (THREADS % CHUNKS == 0 || row < AT_ONCE)
#pragma unroll
    for (int i = 0; i < COUNT; i += AT_ONCE)
      if (COUNT % AT_ONCE == 0 || i + row < COUNT)
        moec_copy_async_16(tile + i * PITCH, from + i * ld, first + row + i < live && chunk * 8 < HEAD);
}

/* Writes a warp's own rows of a tile, which it has just filled, to global memory. */
MOEC_INLINE void store_rows(uint16_t *to, int64_t ld, const uint16_t *rows, int32_t first) {
  __syncwarp();
#pragma unroll
  for (int i = 0; i < WARP_ROWS * CHUNKS / 32; i++) {
    const int32_t at = 32 * i + (threadIdx.x & 31), row = at / CHUNKS, chunk = at % CHUNKS;
    if (first + row < N && chunk * 8 < HEAD)
      *(uint4 *)(to + (first + row) * ld + chunk * 8) = *(const uint4 *)(rows + row * PITCH + chunk * 8);
  }
  __syncwarp();
}

/* Sums of a warp's rows, each times its factor, into its own rows of a tile. factor[i][h]: of row 16 i + 8 h + lane/4.
 */
MOEC_INLINE void put_rows(uint16_t *rows, const float (*sum)[WIDTH / 8][4], const float (*factor)[2]) {
  const int lane = threadIdx.x & 31;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        *(uint32_t *)(rows + (16 * i + 8 * h + lane / 4) * PITCH + 8 * j + lane % 4 * 2) =
            moec_pack_bf16(sum[i][j][2 * h] * factor[i][h], sum[i][j][2 * h + 1] * factor[i][h]);
}

/* The left operand of a product, WIDTH deep: a warp's rows of a tile, kept in registers or read when needed. */
template <bool KEPT> struct LeftRows {
  const uint16_t *place;
  uint32_t fragment[KEPT ? STEPS : 1][ROW_TILES][4];

  __device__ __forceinline__ void read(int step, uint32_t (*to)[4]) const {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
      moec_load_matrix_x4(to[i], place + 16 * i * PITCH + 16 * step);
  }
  /* `rows`: the first of the warp; what it holds is there. */
  __device__ __forceinline__ void take(const uint16_t *rows) {
    const int lane = threadIdx.x & 31;
    place = rows + lane % 16 * PITCH + lane / 16 * 8;
    if (KEPT)
#pragma unroll
      for (int step = 0; step < STEPS; step++)
        read(step, fragment[KEPT ? step : 0]);
  }
};

/* d += left times the transpose of RUN rows of a tile. */
template <int RUN, bool KEPT>
MOEC_INLINE void multiply_transposed(float (*d)[RUN / 8][4], const LeftRows<KEPT> &left, const uint16_t *tile) {
  const int lane = threadIdx.x & 31;
  const uint16_t *place = tile + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    uint32_t read[ROW_TILES][4];
    if (!KEPT)
      left.read(step, read);
    const uint32_t(*a)[4] = KEPT ? left.fragment[KEPT ? step : 0] : read;
#pragma unroll
    for (int j = 0; j < RUN / 16; j++) {
      uint32_t b[4];
      moec_load_matrix_x4(b, place + 16 * j * PITCH + 16 * step);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        moec_mma_bf16(d[i][2 * j], a[i], b);
        moec_mma_bf16(d[i][2 * j + 1], a[i], b + 2);
      }
    }
  }
}

/* sum += p times RUN rows of a tile; p is rounded to bf16 on the way. */
template <int RUN>
MOEC_INLINE void multiply_add(float (*sum)[WIDTH / 8][4], const float (*p)[RUN / 8][4], const uint16_t *tile) {
  const int lane = threadIdx.x & 31;
  const uint16_t *place = tile + lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < RUN / 16; step++) {
    uint32_t a[ROW_TILES][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const float *pair = p[i][2 * step + part / 2] + part % 2 * 2;
        a[i][part] = moec_pack_bf16(pair[0], pair[1]);
      }
#pragma unroll
    for (int j = 0; j < STEPS; j++) {
      uint32_t b[4];
      moec_load_matrix_x4_transposed(b, place + 16 * step * PITCH + 16 * j);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        moec_mma_bf16(sum[i][2 * j], a[i], b);
        moec_mma_bf16(sum[i][2 * j + 1], a[i], b + 2);
      }
    }
  }
}
