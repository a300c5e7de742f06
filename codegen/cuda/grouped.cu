//@use grouped_tiles
/* The portable kernels of grouped products (grouped_tiles): KERNEL(off, a, b, c, operands of the epilogue...).
 *
 * Macros beside grouped_tiles': KERNEL; OPERANDS_BF16 (else f32).
 *   bf16: VECTOR_A, VECTOR_B: as VECTOR_C for rows of a and b, in pieces of 16 bytes; DEPTH (32, 64), STAGES, WARPS_M,
 *         WARPS_N, BLOCKS of a multiprocessor. A block is WARPS_M * WARPS_N warps and has STAGES * (TILE_M + TILE_N) *
 *         DEPTH * 2 bytes of dynamic shared memory.
 *   f32:  256 threads, TILE_M = TILE_N = 64, no dynamic shared memory; every sum runs over the depth in order.
 *
 * bf16: tensor cores (mma.sync m16n8k16, f32 sums). A warp makes 64 x 64 of a 128 x 256 tile: 128 sums a thread, 4 KB
 * from shared memory for 131 kFLOP. Tiles of a and b come by cp.async through a ring of STAGES buffers; the ring runs on
 * across the end of a tile, so the next tile's first data load while this one is stored. Swizzled, so that neither
 * cp.async nor ldmatrix meets a bank twice. */
#if OPERANDS_BF16
/* ---------------------------------------------------------------- bf16: from global to shared memory */

constexpr int THREADS = 32 * WARPS_M * WARPS_N;
constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int SUMS_M = WARP_M / 16, SUMS_N = WARP_N / 8; /* products m16n8 of a warp */
constexpr int STAGE_A = TILE_M * DEPTH / 8, STAGE = (TILE_M + TILE_N) * DEPTH / 8; /* in pieces of 16 bytes */
static_assert(SUMS_M * 16 * WARPS_M == TILE_M && SUMS_N % 4 == 0 && SUMS_N * 8 * WARPS_N == TILE_N,
              "a tile is its warps' parts, a part is at least 16 x 32");

/* In shared memory a row of PIECES pieces of 16 bytes: the eight rows that a matrix of ldmatrix reads, or that a quarter
 * warp of cp.async writes, lie in different banks. */
template <int PIECES> MOEC_INLINE int swizzled(int row, int piece) {
  return row * PIECES + (PIECES >= 8 ? piece ^ (row & 7) : piece ^ ((row >> 1) & 3));
}

/* A thread's share of the copies of one operand: EXTENT rows of DEPTH elements where they follow the depth (ALONG), else
 * DEPTH rows of EXTENT. `from` is the thread's first piece at the current depth, `limit` what the tile has of EXTENT. */
template <bool ALONG, int EXTENT, int LD, bool VECTOR> struct Source {
  static constexpr int PIECES = (ALONG ? DEPTH : EXTENT) / 8, ROWS = ALONG ? EXTENT : DEPTH;
  static constexpr int STEP = THREADS / PIECES;
  static_assert(THREADS % PIECES == 0 && ROWS % STEP == 0, "all threads copy the same number of pieces");
  const uint16_t *from;
  int32_t limit;

  __device__ __forceinline__ void open(const uint16_t *tile, int32_t of_extent) {
    from = tile + (int64_t)(threadIdx.x / PIECES) * LD + threadIdx.x % PIECES * 8;
    limit = of_extent;
  }

  /* Copies the next DEPTH of the depth, of which `left` are in range; zeros stand for the others. */
  __device__ __forceinline__ void copy(uint4 *shared, int32_t left) {
    const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    const int32_t rows = ALONG ? limit : left, columns = (ALONG ? left : limit) - piece * 8;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
      uint4 *to = shared + swizzled<PIECES>(row + i * STEP, piece);
      const uint16_t *piece_from = from + (int64_t)(i * STEP) * LD;
      const bool in_row = row + i * STEP < rows;
      if (VECTOR)
        moec_copy_async_16(to, piece_from, in_row && columns > 0);
      else
        *to = gather(piece_from, in_row ? columns : 0);
    }
    from += ALONG ? (int64_t)DEPTH : (int64_t)DEPTH * LD;
  }

  /* The first `columns` of eight elements, zeros behind them. */
  static __device__ __forceinline__ uint4 gather(const uint16_t *from, int32_t columns) {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t low = 2 * i < columns ? from[2 * i] : 0, high = 2 * i + 1 < columns ? from[2 * i + 1] : 0;
      word[i] = low | high << 16;
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
  }
};

/* The block's tiles as one stream of pieces of depth, ahead of the sums by STAGES - 1 pieces. */
struct Stream {
  Source<A_ALONG, TILE_M, LDA, VECTOR_A> a;
  Source<B_ALONG, TILE_N, LDB, VECTOR_B> b;
  int32_t next, left; /* the tile to open next, the depth left of the one that is open */
};

/* Copies the stream's next piece to `stage` and closes it as a group, an empty one behind the last. */
MOEC_INLINE void stream_copy(Stream &stream, uint4 *stage, const int32_t *off, const int32_t *first, int32_t tiles,
                             const uint16_t *a, const uint16_t *b) {
  while (stream.left <= 0 && stream.next < tiles) {
    const Tile tile = tile_find(off, first, stream.next);
    stream.a.open(tile_a(a, tile), tile_rows(tile));
    stream.b.open(tile_b(b, tile), N - tile.n);
    stream.left = tile_depth(tile);
    stream.next += gridDim.x;
  }
  if (stream.left > 0) {
    stream.a.copy(stage, stream.left);
    stream.b.copy(stage + STAGE_A, stream.left);
    stream.left -= DEPTH;
  }
  moec_copy_commit();
}

/* ---------------------------------------------------------------- bf16: sums */

/* 16 x 16 of a tile at (x, depth), x along the tile's extent, as ldmatrix gives it: words 0, 1 the halves of x and 2, 3
 * those of depth behind them (HALVES_OF_X: the operand a), or the other way round (the operand b). */
template <bool ALONG, int EXTENT, bool HALVES_OF_X>
MOEC_INLINE void fragment_load(uint32_t word[4], const uint4 *tile, int x, int depth) {
  constexpr int PIECES = (ALONG ? DEPTH : EXTENT) / 8;
  const int lane = threadIdx.x & 31, inner = lane & 7, second = (lane >> 3) & 1, third = lane >> 4;
  const int of_x = HALVES_OF_X ? second : third, of_depth = HALVES_OF_X ? third : second;
  if (ALONG)
    moec_load_matrix_x4(word, tile + swizzled<PIECES>(x + of_x * 8 + inner, depth / 8 + of_depth));
  else
    moec_load_matrix_x4_transposed(word, tile + swizzled<PIECES>(depth + of_depth * 8 + inner, x / 8 + of_x));
}

struct Fragments {
  uint32_t a[SUMS_M][4], b[SUMS_N / 2][4];
};

MOEC_INLINE void fragments_load(Fragments &part, const uint4 *stage, int m, int n, int depth) {
#pragma unroll
  for (int i = 0; i < SUMS_M; i++)
    fragment_load<A_ALONG, TILE_M, true>(part.a[i], stage, m + i * 16, depth);
#pragma unroll
  for (int j = 0; j < SUMS_N / 2; j++)
    fragment_load<B_ALONG, TILE_N, false>(part.b[j], stage + STAGE_A, n + j * 16, depth);
}

/* sum += the stage's part of the depth; the next 16 of it load while 16 are multiplied. (m, n): the warp's corner. */
MOEC_INLINE void stage_multiply(float sum[SUMS_M][SUMS_N][4], const uint4 *stage, int m, int n) {
  Fragments part[2];
  fragments_load(part[0], stage, m, n, 0);
#pragma unroll
  for (int step = 0; step < DEPTH / 16; step++) {
    if (step + 1 < DEPTH / 16)
      fragments_load(part[(step + 1) & 1], stage, m, n, (step + 1) * 16);
    const Fragments &now = part[step & 1];
#pragma unroll
    for (int i = 0; i < SUMS_M; i++)
#pragma unroll
      for (int j = 0; j < SUMS_N; j++)
        moec_mma_bf16(sum[i][j], now.a[i], now.b[j / 2] + j % 2 * 2);
  }
}

/* ---------------------------------------------------------------- bf16: from sums to c */

MOEC_INLINE void tile_store(Result *c, const Epilogue &epilogue, const Tile &tile, const float sum[SUMS_M][SUMS_N][4],
                            int m, int n) {
#pragma unroll
  for (int i = 0; i < SUMS_M; i++)
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const int row = m + i * 16 + half * 4 + ((threadIdx.x & 31) >> 2);
#pragma unroll
      for (int j = 0; j < SUMS_N; j += 4)
        row_store(c, epilogue, tile, row, n + j * 8, sum[i] + j, half);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    KERNEL(const int32_t *__restrict__ off, const uint16_t *__restrict__ a, const uint16_t *__restrict__ b,
           Result *__restrict__ c EPILOGUE_PARAMETERS) {
  extern __shared__ uint4 stages[]; /* STAGES x (a tile of a, a tile of b) */
  const Epilogue epilogue = {EPILOGUE_OPERANDS};
  __shared__ int32_t first[GROUPS + 1];
  tiles_count(off, first);
  const int32_t tiles = first[GROUPS] * COLUMN_TILES;
  const int warp = threadIdx.x / 32, m = warp / WARPS_N * WARP_M, n = warp % WARPS_N * WARP_N;

  Stream stream;
  stream.next = blockIdx.x;
  stream.left = 0;
  for (int stage = 0; stage < STAGES - 1; stage++)
    stream_copy(stream, stages + stage * STAGE, off, first, tiles, a, b);
  int reading = 0, writing = STAGES - 1;
  for (int32_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = tile_find(off, first, index);
    float sum[SUMS_M][SUMS_N][4] = {};
    for (int32_t left = tile_depth(tile); left > 0; left -= DEPTH) {
      moec_copy_wait<STAGES - 2>();
      __syncthreads(); /* the stage to read is whole, the stage to write has been read */
      stream_copy(stream, stages + writing * STAGE, off, first, tiles, a, b);
      stage_multiply(sum, stages + reading * STAGE, m, n);
      writing = reading;
      reading = reading + 1 == STAGES ? 0 : reading + 1;
    }
    tile_store(c, epilogue, tile, sum, m, n);
  }
}

#else
/* ---------------------------------------------------------------- f32 */

constexpr int THREADS = 256, DEPTH = 16, SIDE = TILE_M / 16; /* a thread makes SIDE x SIDE sums, 16 apart */
static_assert(TILE_M == TILE_N && TILE_M % 16 == 0, "the tile is a square of 16 x 16 threads' sums");

/* DEPTH x TILE_M of an operand into shared memory, depth by depth, zeros outside. */
template <bool ALONG, int LD>
MOEC_INLINE void part_copy(float (*to)[TILE_M + 1], const float *tile, int32_t extent, int32_t depth, int32_t left) {
  for (int i = threadIdx.x; i < DEPTH * TILE_M; i += THREADS) {
    const int x = ALONG ? i / DEPTH : i % TILE_M, d = ALONG ? i % DEPTH : i / TILE_M;
    const int64_t at = ALONG ? (int64_t)x * LD + depth + d : (int64_t)(depth + d) * LD + x;
    to[d][x] = x < extent && d < left ? tile[at] : 0.0f;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(const int32_t *__restrict__ off, const float *__restrict__ a, const float *__restrict__ b,
           Result *__restrict__ c) {
  __shared__ float part_a[DEPTH][TILE_M + 1], part_b[DEPTH][TILE_M + 1];
  __shared__ int32_t first[GROUPS + 1];
  tiles_count(off, first);
  const int32_t tiles = first[GROUPS] * COLUMN_TILES;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  for (int32_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = tile_find(off, first, index);
    const int32_t depth = tile_depth(tile), rows = tile_rows(tile), columns = N - tile.n;
    float sum[SIDE][SIDE] = {};
    for (int32_t at = 0; at < depth; at += DEPTH) {
      __syncthreads(); /* the parts before have been read */
      part_copy<A_ALONG, LDA>(part_a, tile_a(a, tile), rows, at, depth - at);
      part_copy<B_ALONG, LDB>(part_b, tile_b(b, tile), columns, at, depth - at);
      __syncthreads();
      for (int d = 0; d < DEPTH; d++)
#pragma unroll
        for (int i = 0; i < SIDE; i++)
#pragma unroll
          for (int j = 0; j < SIDE; j++)
            sum[i][j] = fmaf(part_a[d][y + 16 * i], part_b[d][x + 16 * j], sum[i][j]);
    }
    Result *corner = tile_c(c, tile);
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
      for (int j = 0; j < SIDE; j++)
        if (y + 16 * i < rows && x + 16 * j < columns)
          corner[(int64_t)(y + 16 * i) * LDC + x + 16 * j] = result_of(sum[i][j]);
  }
}
#endif
