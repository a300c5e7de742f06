//@use grouped_tiles
//@use hopper
/* Grouped products (grouped_tiles) by Hopper's own means, for arch=sm_90a: KERNEL(off, a, b, c, operands of the
 * epilogue..., maps).
 *
 * A block of three warpgroups runs on a multiprocessor. One thread of the first fetches tiles of a and b by the bulk
 * copy engine through a ring of STAGES stages; the other two each make 64 x 256 of the tile of c with wgmma, both
 * operands from shared memory, 128 sums a thread. The ring runs on across the end of a tile, so the next tile's first
 * data arrive while this one is stored. A stage has DEPTH 64 of the depth: 16 KB of a, 32 KB of b, 4.2 MFLOP, 1024
 * cycles of the tensor cores at their peak.
 *
 * Ragged edges. Rows of a behind the group's last belong to the next group (or are zero behind ROWS): they make rows of
 * the tile that are not stored. Depth behind K is zero by the maps. In FORM 2 the depth is the group's rows, and what
 * the last stage holds behind them is overwritten with zeros by the warpgroups, for both operands: a dead row may be
 * NaN.
 *
 * Macros beside grouped_tiles': KERNEL; ROWS, the rows that a has room for (FORM 2: a and b); STAGES. TILE_M = 128,
 * TILE_N = 256. Operands are bf16; LDA, LDB, GROUP_B are multiples of 8 elements, their bases of 16 bytes. `maps`:
 * scratch of 256 bytes for each block and 128 more. Launch: 384 threads, STAGES * 49152 + 1024 bytes of dynamic shared
 * memory, one block for each multiprocessor. */
static_assert(TILE_M == 128 && TILE_N == 256, "two warpgroups make 64 x 256 each");

constexpr int DEPTH = 64, WARPGROUP = 128, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int BOX_BYTES = 64 * DEPTH * 2; /* 64 x 64 */
constexpr int STAGE_A = TILE_M * DEPTH * 2, STAGE_B = TILE_N * DEPTH * 2, STAGE = STAGE_A + STAGE_B;
constexpr int SUMS = TILE_N / 8; /* groups of 8 columns */

/* Where the ring stands: a stage, and the phase its barriers are in. */
struct Ring {
  int stage;
  uint32_t phase;

  __device__ __forceinline__ void advance() {
    stage++;
    if (stage == STAGES) {
      stage = 0;
      phase ^= 1;
    }
  }
};

struct Barriers {
  uint64_t full[STAGES], empty[STAGES];
};

/* ---------------------------------------------------------------- the thread that fetches */

MOEC_INLINE void stage_fetch(char *stage, uint64_t *full, const char *maps, const Tile &tile, int32_t depth) {
  const char *map_a = maps, *map_b = maps + HOPPER_MAP_BYTES;
  char *stage_b = stage + STAGE_A;
  hopper_arrive_expecting(full, STAGE);
#if FORM == 2
  for (int i = 0; i < TILE_M / 64; i++)
    hopper_copy_box(stage + i * BOX_BYTES, map_a, tile.m + i * 64, tile.begin + depth, 0, full);
  for (int i = 0; i < TILE_N / 64; i++)
    hopper_copy_box(stage_b + i * BOX_BYTES, map_b, tile.n + i * 64, tile.begin + depth, 0, full);
#else
  hopper_copy_box(stage, map_a, depth, tile.begin + tile.m, 0, full);
  if (B_ALONG)
    hopper_copy_box(stage_b, map_b, depth, tile.n, tile.group, full);
  else
    for (int i = 0; i < TILE_N / 64; i++)
      hopper_copy_box(stage_b + i * BOX_BYTES, map_b, tile.n + i * 64, depth, tile.group, full);
#endif
}

MOEC_INLINE void tiles_fetch(char *stages, Barriers *barriers, const char *maps, const int32_t *off,
                             const int32_t *first, int32_t tiles) {
  hopper_map_acquire(maps);
  hopper_map_acquire(maps + HOPPER_MAP_BYTES);
  Ring ring = {0, 0};
  for (int32_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile = tile_find(off, first, index);
    const int32_t whole = tile_depth(tile);
    for (int32_t depth = 0; depth < whole; depth += DEPTH) {
      hopper_wait(&barriers->empty[ring.stage], ring.phase ^ 1);
      stage_fetch(stages + ring.stage * STAGE, &barriers->full[ring.stage], maps, tile, depth);
      ring.advance();
    }
  }
}

/* ---------------------------------------------------------------- the warpgroups that multiply */

/* The products of a stage, begun; `consumer`: which 64 rows of the tile; `first`: they set the sums. 16 of the depth
 * are 32 bytes of a row where rows follow it, else 16 rows. */
MOEC_INLINE void stage_multiply(float (&sum)[SUMS][4], const char *stage, int consumer, bool first) {
  constexpr uint64_t STEP_A = (A_ALONG ? 32 : 16 * 128) >> 4, STEP_B = (B_ALONG ? 32 : 16 * 128) >> 4;
  const uint64_t a = hopper_operand<!A_ALONG>(stage + consumer * BOX_BYTES, BOX_BYTES);
  const uint64_t b = hopper_operand<!B_ALONG>(stage + STAGE_A, BOX_BYTES);
#pragma unroll
  for (int i = 0; i < DEPTH / 16; i++)
    hopper_multiply_n256<!A_ALONG, !B_ALONG>(sum, a + i * STEP_A, b + i * STEP_B, i > 0 || !first);
}

/* FORM 2: zeros in the rows of the stage behind the `left` that are the group's. All consumers call it. */
MOEC_INLINE void stage_clear(char *stage, int32_t left) {
  for (int box = 0; box < STAGE / BOX_BYTES; box++)
    for (int at = left * 128 + (threadIdx.x - WARPGROUP) * 16; at < BOX_BYTES; at += CONSUMERS * WARPGROUP * 16)
      *(uint4 *)(stage + box * BOX_BYTES + at) = make_uint4(0, 0, 0, 0);
  hopper_fence_shared();
  hopper_meet<1>(CONSUMERS * WARPGROUP);
}

/* FORM 2, of a group without rows. To settle them keeps the compiler from selecting each number in every tile. */
MOEC_INLINE void sums_clear(float (&sum)[SUMS][4]) {
#pragma unroll
  for (int j = 0; j < SUMS; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      sum[j][i] = 0.0f;
  hopper_sums_settle(sum);
}

MOEC_INLINE void part_store(Result *c, const Epilogue &epilogue, const Tile &tile, const float (&sum)[SUMS][4],
                            int consumer) {
  const int warp = (threadIdx.x % WARPGROUP) / 32, lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 4; half += 2) {
    const int row = consumer * 64 + warp * 16 + half * 4 + (lane >> 2);
#pragma unroll
    for (int j = 0; j < SUMS; j += 4)
      row_store(c, epilogue, tile, row, j * 8, sum + j, half);
  }
}

MOEC_INLINE void tiles_multiply(char *stages, Barriers *barriers, const int32_t *off, const int32_t *first,
                                int32_t tiles, Result *c, const Epilogue &epilogue) {
  const int consumer = threadIdx.x / WARPGROUP - 1;
  const bool arrives = (threadIdx.x & 31) == 0; /* for its warp */
  Ring ring = {0, 0};
  Tile tile;
  if ((int32_t)blockIdx.x < tiles)
    tile = tile_find(off, first, (int32_t)blockIdx.x);
  for (int32_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const int32_t depth = tile_depth(tile);
    float sum[SUMS][4];
    hopper_sums_any(sum);
    uint64_t *in_use = nullptr; /* the stage whose products may still run */
    for (int32_t left = depth; left > 0; left -= DEPTH) {
      hopper_wait(&barriers->full[ring.stage], ring.phase);
      if (OUTER && left < DEPTH)
        stage_clear(stages + ring.stage * STAGE, left);
      hopper_products_begin();
      stage_multiply(sum, stages + ring.stage * STAGE, consumer, left == depth);
      hopper_products_commit();
      hopper_products_wait<1>();
      if (in_use && arrives)
        hopper_arrive(in_use);
      in_use = &barriers->empty[ring.stage];
      ring.advance();
    }
    const Tile done = tile;
    if (index + (int32_t)gridDim.x < tiles) /* while the last products run */
      tile = tile_find(off, first, index + (int32_t)gridDim.x);
    hopper_products_wait<0>();
    if (in_use && arrives)
      hopper_arrive(in_use);
    hopper_sums_settle(sum);
    if (OUTER && depth <= 0)
      sums_clear(sum);
    part_store(c, epilogue, done, sum, consumer);
  }
}

/* ---------------------------------------------------------------- the kernel */

/* All 32 lanes of the first warp. */
MOEC_INLINE void maps_make(char *maps, uint64_t *shared, const uint16_t *a, const uint16_t *b) {
  char *map_b = maps + HOPPER_MAP_BYTES;
#if FORM == 2
  hopper_map_make(maps, shared, a, M, ROWS, 1, LDA * 2ull, LDA * 2ull * ROWS, DEPTH);
  hopper_map_make(map_b, shared + 16, b, N, ROWS, 1, LDB * 2ull, LDB * 2ull * ROWS, DEPTH);
#else
  hopper_map_make(maps, shared, a, K, ROWS, 1, LDA * 2ull, LDA * 2ull * ROWS, TILE_M);
  hopper_map_make(map_b, shared + 16, b, B_ALONG ? K : N, B_ALONG ? N : K, GROUPS, LDB * 2ull, GROUP_B * 2ull,
                  B_ALONG ? TILE_N : DEPTH);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    KERNEL(const int32_t *__restrict__ off, const uint16_t *__restrict__ a, const uint16_t *__restrict__ b,
           Result *__restrict__ c EPILOGUE_PARAMETERS, char *maps) {
  extern __shared__ char dynamic[];
  const Epilogue epilogue = {EPILOGUE_OPERANDS};
  __shared__ __align__(128) uint64_t map_shared[2 * HOPPER_MAP_BYTES / 8];
  __shared__ Barriers barriers;
  __shared__ int32_t first[GROUPS + 1];
  char *stages = dynamic + (1024 - moec_shared_address(dynamic) % 1024) % 1024;
  maps += (128 - (uint64_t)maps % 128) % 128 + blockIdx.x * (2 * HOPPER_MAP_BYTES);
  if (threadIdx.x < 32)
    maps_make(maps, map_shared, a, b);
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      hopper_barrier_make(&barriers.full[i], 1);
      hopper_barrier_make(&barriers.empty[i], CONSUMERS * WARPGROUP / 32);
    }
    hopper_barriers_made();
  }
  tiles_count(off, first);
  const int32_t tiles = first[GROUPS] * COLUMN_TILES;
  if (threadIdx.x < WARPGROUP) {
    hopper_registers_fewer<40>();
    if (threadIdx.x == 0)
      tiles_fetch(stages, &barriers, maps, off, first, tiles);
  } else {
    hopper_registers_more<232>();
    tiles_multiply(stages, &barriers, off, first, tiles, c, epilogue);
  }
}
