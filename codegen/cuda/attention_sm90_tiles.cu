//@use attention_rows
//@use attention_mask
//@use wgmma
/* Attention in bf16 for sm_90a: tiles in shared memory as wgmma reads them.
 *
 * A block has 2 warpgroups of 64 rows: THREADS is 256, WARP_ROWS 16, ROW_TILES 1. HEAD is 64 or 128. A tile of COUNT
 * rows is HEAD / 64 parts one behind the other, each COUNT rows of 64 columns, swizzled (wgmma.cu). The copies are
 * cp.async of 16 bytes and not boxes of a tensor map, because they begin at any row and end at the last live one,
 * without a map for each operand. */
enum { WIDTH = HEAD, PARTS = HEAD / 64, PITCH = HEAD, CHUNKS = HEAD / 8, COLUMNS = 64, GROUP_ROWS = 64, PART_ROW = 64 };

/* A multiple of 1024 at or behind the start of dynamic shared memory, of which a launch has 1024 bytes more than it
 * needs. */
MOEC_INLINE uint16_t *aligned_shared(uint16_t *shared) {
  return shared + (1024 - (uint32_t)(uint64_t)shared % 1024) % 1024 / 2; /* a sum, to stay known as shared memory */
}

/* Starts copying COUNT rows of one head from row `first` on; zeros from row `live` on. Each thread has a fixed piece of
 * the rows AT_ONCE apart, so that but for the first its addresses are constants away. */
template <int COUNT>
MOEC_INLINE void copy_tile(uint16_t *tile, const uint16_t *from, int64_t ld, int32_t first, int32_t live) {
  constexpr int AT_ONCE = THREADS / CHUNKS;
  static_assert(AT_ONCE % 8 == 0, "rows of a thread are swizzled alike");
  const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  tile = moec_swizzled(tile + chunk / 8 * COUNT * PART_ROW, row, chunk % 8);
  from += (first + row) * ld + chunk * 8;
#pragma unroll
  for (int i = 0; i < COUNT; i += AT_ONCE)
    if (COUNT % AT_ONCE == 0 || i + row < COUNT)
      moec_copy_async_16(tile + i * PART_ROW, from + i * ld, first + row + i < live);
}

/* All copies of all threads are there, for products too. */
MOEC_INLINE void wait_for_copies() {
  moec_copy_wait<0>();
  moec_wgmma_publish();
  __syncthreads();
}

/* 16 columns from 16 `step` on of row `row` of a tile of COUNT rows: an operand whose depth runs along the row. */
template <int COUNT> MOEC_INLINE const uint16_t *along_row(const uint16_t *tile, int row, int step) {
  return tile + (step / 4 * COUNT + row) * PART_ROW + step % 4 * 16;
}

/* Fragments of p, rounded to bf16, as left operands. */
MOEC_INLINE void pack_left(uint32_t (*a)[4], const float (*p)[4]) {
#pragma unroll
  for (int step = 0; step < COLUMNS / 16; step++) {
#pragma unroll
    for (int part = 0; part < 4; part++)
      a[step][part] = moec_pack_bf16(p[2 * step + part / 2][part % 2 * 2], p[2 * step + part / 2][part % 2 * 2 + 1]);
    moec_wgmma_keep(a[step]);
  }
}

/* sum += a times the 64 rows of a tile. Between begin_sums and end_sums. */
MOEC_INLINE void multiply_add(float (*sum)[4], const uint32_t (*a)[4], const uint16_t *tile) {
#pragma unroll
  for (int step = 0; step < COLUMNS / 16; step++)
#pragma unroll
    for (int part = 0; part < PARTS; part++)
      moec_wgmma_columns(sum + 8 * part, a[step], tile + (part * COLUMNS + 16 * step) * PART_ROW);
}

MOEC_INLINE void begin_sums(float (*sum)[4]) {
#pragma unroll
  for (int part = 0; part < PARTS; part++)
    moec_wgmma_begin(sum + 8 * part);
}
MOEC_INLINE void end_sums(float (*sum)[4]) {
#pragma unroll
  for (int part = 0; part < PARTS; part++)
    moec_wgmma_end(sum + 8 * part);
}

/* A warp's sums, each row times its factor, through its own rows of a tile of ROWS rows to global memory. */
MOEC_INLINE void store_sums(uint16_t *to, int64_t ld, int32_t tile_first, uint16_t *tile, const float (*sum)[4],
                            const float *factor) {
  const int lane = threadIdx.x & 31, own = threadIdx.x / 32 * WARP_ROWS;
#pragma unroll
  for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      *(uint32_t *)(moec_swizzled(tile + j / 8 * ROWS * PART_ROW, own + 8 * h + lane / 4, j % 8) + lane % 4 * 2) =
          moec_pack_bf16(sum[j][2 * h] * factor[h], sum[j][2 * h + 1] * factor[h]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < WARP_ROWS * CHUNKS / 32; i++) {
    const int32_t at = 32 * i + lane, row = own + at / CHUNKS, chunk = at % CHUNKS;
    if (tile_first + row < N)
      *(uint4 *)(to + (tile_first + row) * ld + chunk * 8) =
          *(const uint4 *)moec_swizzled(tile + chunk / 8 * ROWS * PART_ROW, row, chunk % 8);
  }
}
