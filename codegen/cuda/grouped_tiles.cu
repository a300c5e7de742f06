/* Products of packed rows with the weights of their group, sizes on the device: which tile of c is whose, and how it is
 * stored. Group e owns the rows off[e] .. off[e+1] of a (R x K) and of c:
 *
 *   FORM 0   c[rows of e] = a[rows of e] b[e]           b[e] is K x N
 *   FORM 1   c[rows of e] = a[rows of e] b[e]^T         b[e] is N x K
 *   FORM 2   c[e] = a[rows of e]^T b[rows of e]         a is R x M, b is R x N, c[e] is M x N; 0 for an empty group
 *
 * In: off i32[GROUPS+1], which never falls and ends within the rows that a, b and c have room for; with SINGLE there
 * is one group and `off` points to the number of its rows. Rows behind the last offset reach no element of c, and no row
 * of c behind it is written.
 *
 * Macros: FORM; GROUPS, SINGLE; M (FORM 2), N, K (FORMs 0, 1); LDA, LDB, LDC elements between rows; GROUP_B (FORMs 0, 1)
 * or GROUP_C (FORM 2) elements between groups; RESULT_BF16 (else f32); VECTOR_C: rows of c may be written in pieces of 16
 * bytes (f32: 8), because base, row length and distances allow it. TILE_M, TILE_N: the tile of c that a block makes at a
 * time.
 *
 * Any number of blocks may be launched; block i makes the tiles i, i + blocks, ... The tiles of a group follow each
 * other, in bands of BAND row tiles, so that the blocks that run at one time share rows of a and columns of b in the L2
 * cache. Each element of c is made by one block in an order that depends on the sizes alone.
 *
 * Epilogue. The text of a row kernel behind the product (codegen/kernel_epilogue.c) may stand in front of this one: its
 * operands then are the kernel's parameters behind c, and epilogue_apply gets the elements of a row, rounded to bf16, 8
 * columns at a time, in place of a launch of its own. With STORE_C 0 nobody else reads c: it is null and not written.
 * Only with RESULT_BF16 and VECTOR_C.
 *
 * FLOPs of a use: 2 * off[GROUPS] * K * N, or 2 * off[GROUPS] * M * N in FORM 2, whatever the tiles waste. */
#ifdef EPILOGUE_OPERANDS
static_assert(RESULT_BF16 && VECTOR_C && FORM != 2, "an epilogue takes whole pieces of bf16");
#else
#define EPILOGUE_PARAMETERS
#define EPILOGUE_OPERANDS
#define STORE_C 1
struct Epilogue {};
MOEC_INLINE void epilogue_apply(const Epilogue &, const moec_vector<uint16_t, 8> &, int32_t, int32_t, int32_t, bool) {
}
#endif

constexpr bool OUTER = FORM == 2;
constexpr bool A_ALONG = !OUTER;    /* rows of a follow the depth in memory, else they cross it */
constexpr bool B_ALONG = FORM == 1; /* the same of b */
#if FORM == 2
constexpr int ROW_TILES = (M + TILE_M - 1) / TILE_M;
#endif
constexpr int COLUMN_TILES = (N + TILE_N - 1) / TILE_N;
constexpr int BAND = 8;

/* ---------------------------------------------------------------- which tile */

MOEC_INLINE int32_t group_begin(const int32_t *off, int group) {
  return SINGLE ? 0 : off[group];
}

MOEC_INLINE int32_t group_end(const int32_t *off, int group) {
  return SINGLE ? off[0] : off[group + 1];
}

/* first[e] = tiles of rows in the groups before e. All threads call it. */
MOEC_INLINE void tiles_count(const int32_t *off, int32_t *first) {
#if FORM != 2
  const int lane = threadIdx.x;
  if (lane < 32) {
    int32_t before = 0;
    for (int base = 0; base < GROUPS; base += 32) {
      const int group = base + lane;
      int32_t tiles = 0;
      if (group < GROUPS)
        tiles = (group_end(off, group) - group_begin(off, group) + TILE_M - 1) / TILE_M;
      for (int distance = 1; distance < 32; distance <<= 1) {
        const int32_t other = __shfl_up_sync(0xffffffffu, tiles, distance);
        tiles += lane >= distance ? other : 0;
      }
      if (group < GROUPS)
        first[group + 1] = before + tiles;
      before += __shfl_sync(0xffffffffu, tiles, 31);
    }
    if (lane == 0)
      first[0] = 0;
  }
#else
  (void)off;
  if (threadIdx.x == 0)
    first[GROUPS] = GROUPS * ROW_TILES;
#endif
  __syncthreads();
}

struct Tile {
  int32_t group, begin, end; /* the group's rows */
  int32_t m, n;              /* first row (FORMs 0, 1: within the group) and column of c */
};

MOEC_INLINE Tile tile_find(const int32_t *off, const int32_t *first, int32_t index) {
  Tile tile;
#if FORM == 2
  const int32_t row_tiles = ROW_TILES;
  tile.group = index / (ROW_TILES * COLUMN_TILES);
  const int32_t within = index - tile.group * (ROW_TILES * COLUMN_TILES);
#else
  tile.group = moec_expert_of_row(first, GROUPS, index / COLUMN_TILES);
  const int32_t row_tiles = first[tile.group + 1] - first[tile.group];
  const int32_t within = index - first[tile.group] * COLUMN_TILES;
#endif
  tile.begin = group_begin(off, tile.group);
  tile.end = group_end(off, tile.group);
  const int32_t band = within / (BAND * COLUMN_TILES) * BAND;
  const int32_t height = min(BAND, row_tiles - band);
  const int32_t within_band = within - band * COLUMN_TILES;
  tile.m = (band + within_band % height) * TILE_M;
  tile.n = within_band / height * TILE_N;
  return tile;
}

MOEC_INLINE int32_t tile_depth(const Tile &tile) {
#if FORM == 2
  return tile.end - tile.begin;
#else
  return K;
#endif
}

/* Rows of c from the tile's first to the end of its group or of c. */
MOEC_INLINE int32_t tile_rows(const Tile &tile) {
#if FORM == 2
  return M - tile.m;
#else
  return tile.end - tile.begin - tile.m;
#endif
}

/* Where the tile begins. */
template <class T> MOEC_INLINE const T *tile_a(const T *a, const Tile &tile) {
  return OUTER ? a + (int64_t)tile.begin * LDA + tile.m : a + (int64_t)(tile.begin + tile.m) * LDA;
}

template <class T> MOEC_INLINE const T *tile_b(const T *b, const Tile &tile) {
#if FORM == 2
  return b + (int64_t)tile.begin * LDB + tile.n;
#else
  b += (int64_t)tile.group * GROUP_B;
  return B_ALONG ? b + (int64_t)tile.n * LDB : b + tile.n;
#endif
}

template <class T> MOEC_INLINE T *tile_c(T *c, const Tile &tile) {
#if FORM == 2
  c += (int64_t)tile.group * GROUP_C;
  return c + (int64_t)tile.m * LDC + tile.n;
#else
  return c + (int64_t)(tile.begin + tile.m) * LDC + tile.n;
#endif
}

#if RESULT_BF16
typedef uint16_t Result;
MOEC_INLINE Result result_of(float x) {
  return moec_to_bf16(x);
}
#else
typedef float Result;
MOEC_INLINE Result result_of(float x) {
  return x;
}
#endif

/* ---------------------------------------------------------------- from sums to c */

/* The words of four lanes' rows turned: lane t of a quad gets word t of lanes 0 .. 3. */
MOEC_INLINE void quad_transpose(uint32_t word[4]) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance <<= 1) {
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (!(i & distance)) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? word[i] : word[i | distance], distance);
        word[i] = upper ? other : word[i];
        word[i | distance] = upper ? word[i | distance] : other;
      }
  }
}

/* The sums of row m of the tile in four neighbouring products of 8 columns, from column n of the tile: 2 of each in this
 * lane of the quad. */
MOEC_INLINE void row_store(Result *c, const Epilogue &epilogue, const Tile &tile, int m, int n, const float (*sum)[4],
                           int half) {
  const int quad = threadIdx.x & 3;
  const bool in_rows = m < tile_rows(tile);
  const int32_t columns = N - tile.n - n;
#if RESULT_BF16 && VECTOR_C
  uint32_t word[4];
#pragma unroll
  for (int j = 0; j < 4; j++)
    word[j] = moec_pack_bf16(sum[j][half], sum[j][half + 1]);
  quad_transpose(word);
  if (in_rows && quad * 8 < columns) {
    moec_vector<uint16_t, 8> elements;
#pragma unroll
    for (int i = 0; i < 8; i++)
      elements.at[i] = (uint16_t)(word[i / 2] >> i % 2 * 16);
    if (STORE_C)
      *(uint4 *)(tile_c(c, tile) + (int64_t)m * LDC + n + quad * 8) = make_uint4(word[0], word[1], word[2], word[3]);
    epilogue_apply(epilogue, elements, tile.begin + tile.m + m, tile.group, tile.n + n + quad * 8,
                   tile.n + n + quad == 0);
  }
#else
  Result *row = tile_c(c, tile) + (int64_t)m * LDC + n;
  (void)epilogue;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int column = j * 8 + quad * 2;
#if VECTOR_C
    if (in_rows && column < columns)
      *(float2 *)(row + column) = make_float2(sum[j][half], sum[j][half + 1]);
#else
    if (in_rows && column < columns)
      row[column] = result_of(sum[j][half]);
    if (in_rows && column + 1 < columns)
      row[column + 1] = result_of(sum[j][half + 1]);
#endif
  }
#endif
}
