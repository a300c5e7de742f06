//@use attention_rows
//@use attention_mask
//@use wgmma
/* Attention in bf16 for sm_90a: tiles in shared memory as wgmma reads them.
 *
 * A block has THREADS / 128 warpgroups of 64 rows: WARP_ROWS is 16, ROW_TILES 1. HEAD is 64 or 128. A tile of COUNT
 * rows is HEAD / 64 parts one behind the other, each COUNT rows of 64 columns, swizzled (wgmma.cu). The copies are
 * cp.async of 16 bytes and not boxes of a tensor map, because they begin at any row and end at the last live one,
 * without a map for each operand. */
enum { WIDTH = HEAD, PARTS = HEAD / 64, CHUNKS = HEAD / 8, COLUMNS = 64, GROUP_ROWS = 64, PART_ROW = 64 };
enum { WARPGROUPS = THREADS / 128, BUFFERS = 4 /* of columns */ };

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

/* The copies of all threads but those of the last groups, BUFFERS - 2, are there, for products too, and nobody reads
 * any more what was read before. */
MOEC_INLINE void wait_for_copies() {
  moec_copy_wait<BUFFERS - 2>();
  moec_wgmma_publish();
  __syncthreads();
}

/* Rows of two matrices of one head, COLUMNS at a time, through BUFFERS buffers of each, those of a and then those of b.
 * While one is worked on the next ones fill. Like copy_tile each thread has a fixed piece of the rows. */
template <int LD_A, int LD_B> struct Ring {
  enum { BUFFER = COLUMNS * WIDTH, AT_ONCE = THREADS / CHUNKS };
  const uint16_t *buffers;
  uint16_t *place;                 /* of this thread in the first buffer */
  const uint16_t *from_a, *from_b; /* its first piece of the next rows */
  int32_t left;                    /* rows that are there from this thread's first one on */
  int32_t next, end;               /* the next rows' first one, where they end */
  uint32_t filled, used;           /* numbers of buffers */

  /* Starts with the rows first .. last - 1, none where first >= last. */
  __device__ __forceinline__ void open(uint16_t *shared, const uint16_t *a, const uint16_t *b, int32_t first,
                                       int32_t last, int32_t live_rows) {
    first = first < last ? first : last;
    const int own = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    buffers = shared;
    place = moec_swizzled(shared + chunk / 8 * COLUMNS * PART_ROW, own, chunk % 8);
    from_a = a + (first + own) * (int64_t)LD_A + chunk * 8;
    from_b = b + (first + own) * (int64_t)LD_B + chunk * 8;
    left = live_rows - first - own;
    next = first;
    end = last;
    filled = 0;
    used = BUFFERS - 1;
  }
  /* Starts copying the next rows, if any, to the next buffer. The caller commits. */
  __device__ __forceinline__ void fetch() {
    if (next < end) {
      uint16_t *to = place + filled * BUFFER;
#pragma unroll
      for (int i = 0; i < COLUMNS; i += AT_ONCE)
        if (COLUMNS % AT_ONCE == 0 || i + (int)(threadIdx.x / CHUNKS) < COLUMNS) {
          moec_copy_async_16(to + i * PART_ROW, from_a + i * LD_A, i < left);
          moec_copy_async_16(to + BUFFERS * BUFFER + i * PART_ROW, from_b + i * LD_B, i < left);
        }
    }
    from_a += COLUMNS * LD_A;
    from_b += COLUMNS * LD_B;
    left -= COLUMNS;
    next += COLUMNS;
    filled = (filled + 1) % BUFFERS;
  }
  __device__ __forceinline__ void turn() {
    used = (used + 1) % BUFFERS;
  }
  __device__ __forceinline__ moec_operand a() const {
    return moec_wgmma_operand(buffers + used * BUFFER);
  }
  __device__ __forceinline__ moec_operand b() const {
    return moec_wgmma_operand(buffers + (BUFFERS + used) * BUFFER);
  }
};

/* Where 16 columns from 16 `step` on stand in a tile of COUNT rows: an operand whose depth runs along the row. */
template <int COUNT> MOEC_INLINE constexpr int along_row(int step) {
  return step / 4 * COUNT * PART_ROW + step % 4 * 16;
}

/* The rows of this thread's warpgroup, of a tile of ROWS rows. */
MOEC_INLINE moec_operand rows_of_group(const uint16_t *tile) {
  return moec_wgmma_operand(tile + uniform(threadIdx.x / 128) * GROUP_ROWS * PART_ROW);
}

/* Of a warpgroup that has no pairs with these columns: its turns, one of each WARPGROUPS. */
template <int TURNS> MOEC_INLINE void skip_turns(int group) {
  moec_turn_take<0, WARPGROUPS>(group);
  moec_turn_pass<0, WARPGROUPS, TURNS>(group);
  if (TURNS > WARPGROUPS) {
    moec_turn_take<WARPGROUPS, WARPGROUPS>(group);
    moec_turn_pass<WARPGROUPS, WARPGROUPS, TURNS>(group);
  }
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

/* d = a warpgroup's rows of a tile times the transpose of a tile of COLUMNS rows. */
MOEC_INLINE void multiply_transposed(float (*d)[4], moec_operand a, moec_operand b) {
  moec_wgmma_rows_rows<false>(d, a, b);
#pragma unroll
  for (int step = 1; step < HEAD / 16; step++)
    moec_wgmma_rows_rows<true>(d, a + along_row<ROWS>(step), b + along_row<COLUMNS>(step));
}

/* sum += a times the 64 rows of a tile. Behind begin_sums. */
MOEC_INLINE void multiply_add(float (*sum)[4], const uint32_t (*a)[4], moec_operand tile) {
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
/* Waits for all products. */
MOEC_INLINE void end_sums(float (*sum)[4]) {
#pragma unroll
  for (int part = 0; part < PARTS; part++)
    moec_wgmma_wait<0>(sum + 8 * part);
}

/* A warp's sums, each row times its factor, through its own rows of a tile of ROWS rows to global memory. */
MOEC_INLINE void store_sums(uint16_t *to, int64_t ld, int32_t tile_first, uint16_t *tile, const float (*sum)[4],
                            const float *factor) {
  const int lane = threadIdx.x & 31, own = threadIdx.x / 32 * WARP_ROWS;
  __syncwarp(); /* its lanes have read their rows */
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
