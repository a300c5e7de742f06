/* What sm_90a adds, as functions: barriers in shared memory that count bytes, tensor maps, copies of boxes by them, and
 * the fences between the ways to memory. Units that use it are for arch=sm_90a only.
 *
 * A barrier of shared memory (mbarrier) has a phase, 0 at first, that turns over when all arrivals it waits for and all
 * bytes it expects have come. hopper_wait(barrier, p) returns when the phase p is over: with p = 1 at once on a fresh
 * barrier.
 *
 * With MOEC_SIMULATOR the functions come from tests/simulator/hopper_threads.h, as those of device_cuda.h do from
 * simulator.h. */
constexpr int HOPPER_MAP_BYTES = 128, HOPPER_BOX_COLUMNS = 64; /* 64 columns of bf16 are the 128 bytes of the swizzle */

#ifndef MOEC_SIMULATOR
MOEC_INLINE void hopper_barrier_make(uint64_t *barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(moec_shared_address(barrier)), "r"(arrivals) : "memory");
}

/* Behind all hopper_barrier_make, before the block's barrier that lets others use them. */
MOEC_INLINE void hopper_barriers_made() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

MOEC_INLINE void hopper_arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(moec_shared_address(barrier)) : "memory");
}

/* Arrives, and the phase waits for `bytes` from copies too. */
MOEC_INLINE void hopper_arrive_expecting(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(moec_shared_address(barrier)), "r"(bytes)
               : "memory");
}

MOEC_INLINE void hopper_wait(uint64_t *barrier, uint32_t phase) {
  const uint32_t address = moec_shared_address(barrier);
  uint32_t over = 0;
  while (!over)
    asm volatile(
        "{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2; selp.u32 %0, 1, 0, over; }"
        : "=r"(over)
        : "r"(address), "r"(phase)
        : "memory");
}

/* What this thread wrote to shared memory is there for copies and products that begin behind the next barrier. */
MOEC_INLINE void hopper_fence_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A barrier of `threads` threads, all that name it. Barrier 0 is __syncthreads. */
template <int BARRIER> MOEC_INLINE void hopper_meet(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(BARRIER), "r"(threads) : "memory");
}

template <int REGISTERS> MOEC_INLINE void hopper_registers_fewer() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> MOEC_INLINE void hopper_registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* ---------------------------------------------------------------- tensor maps */

/* Writes to `global` (a multiple of 128) the map of bf16[layers][rows][columns] at `base`, with distances in bytes that
 * are multiples of 16, cut in boxes of box_rows x 64. A box lies in shared memory as rows of 128 bytes whose 16-byte
 * pieces are swizzled by the row modulo 8; outside of the map it is zero. All 32 lanes of one warp call it; `shared` is
 * 128 bytes at a multiple of 128. The thread that copies calls hopper_map_acquire first.
 *
 * The map is made here and not by the host: it is then a part of the kernel like its strides, and neither the plan nor
 * the runtime has to know of it. It costs a microsecond or two of a block that runs for hundreds. */
MOEC_INLINE void hopper_map_make(void *global, uint64_t *shared, const void *base, uint32_t columns, uint32_t rows,
                                 uint32_t layers, uint64_t row_bytes, uint64_t layer_bytes, uint32_t box_rows) {
  const int lane = threadIdx.x & 31;
  const uint32_t map = moec_shared_address(shared);
  if (lane < HOPPER_MAP_BYTES / 8)
    shared[lane] = 0;
  __syncwarp();
  if (lane == 0) {
    asm volatile("tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(map), "l"(base)
                 : "memory");
    asm volatile("tensormap.replace.tile.rank.shared::cta.b1024.b32 [%0], 2;" ::"r"(map) : "memory"); /* 3 dims */
    asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 0, %1;" ::"r"(map), "r"(columns)
                 : "memory");
    asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 1, %1;" ::"r"(map), "r"(rows)
                 : "memory");
    asm volatile("tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], 2, %1;" ::"r"(map), "r"(layers)
                 : "memory");
    asm volatile("tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%0], 0, %1;" ::"r"(map), "l"(row_bytes)
                 : "memory");
    asm volatile("tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%0], 1, %1;" ::"r"(map), "l"(layer_bytes)
                 : "memory");
    asm volatile("tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%0], 0, %1;" ::"r"(map), "r"(HOPPER_BOX_COLUMNS)
                 : "memory");
    asm volatile("tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%0], 1, %1;" ::"r"(map), "r"(box_rows)
                 : "memory");
    asm volatile("tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [%0], 2, %1;" ::"r"(map), "r"(1) : "memory");
    asm volatile("tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%0], 0, %1;" ::"r"(map), "r"(1)
                 : "memory");
    asm volatile("tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%0], 1, %1;" ::"r"(map), "r"(1)
                 : "memory");
    asm volatile("tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [%0], 2, %1;" ::"r"(map), "r"(1)
                 : "memory");
    asm volatile("tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [%0], 1;" ::"r"(map) : "memory"); /* 16 bits */
    asm volatile("tensormap.replace.tile.interleave_layout.shared::cta.b1024.b32 [%0], 0;" ::"r"(map) : "memory");
    asm volatile("tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%0], 3;" ::"r"(map) : "memory"); /* 128 */
    asm volatile("tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [%0], 0;" ::"r"(map) : "memory"); /* zeros */
  }
  __syncwarp();
  asm volatile(
      "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%0], [%1], 128;" ::"l"(
          global),
      "r"(map)
      : "memory");
}

/* From the fence alone the assembler (13.0) makes an invalidation for which no copy behind it waits; with a wait for
 * bulk copies behind it, of which there are none, it does. */
MOEC_INLINE void hopper_map_acquire(const void *map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
  asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* The box that begins at (column, row, layer) to shared memory at a multiple of 1024; its bytes, all of them even where
 * it leaves the map, arrive at `barrier`. Called by one thread. */
MOEC_INLINE void hopper_copy_box(void *shared, const void *map, int32_t column, int32_t row, int32_t layer,
                                 uint64_t *barrier) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
               "[%5];" ::"r"(moec_shared_address(shared)),
               "l"(map), "r"(column), "r"(row), "r"(layer), "r"(moec_shared_address(barrier))
               : "memory");
}

/* ---------------------------------------------------------------- products of a warpgroup */

/* Between accesses to the sums by other instructions and products into them. */
MOEC_INLINE void hopper_products_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
MOEC_INLINE void hopper_products_commit() { /* the products so far are a group */
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING> MOEC_INLINE void hopper_products_wait() { /* until at most PENDING groups are open */
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Begins sum = a b, or with `add` sum += a b, 64 x 256 x 16, by a warpgroup: a and b are operands whose rows follow the
 * depth, or cross it. A thread has of 8 columns what it has in moec_mma_bf16, of the 16 rows of its warp. */
template <bool A_CROSSES, bool B_CROSSES>
MOEC_INLINE void hopper_multiply_n256(float (&sum)[32][4], uint64_t a, uint64_t b, bool add) {
#define HOPPER_SUM_4(j) "+f"(sum[j][0]), "+f"(sum[j][1]), "+f"(sum[j][2]), "+f"(sum[j][3])
#define HOPPER_SUM_16(j) HOPPER_SUM_4(j), HOPPER_SUM_4(j + 1), HOPPER_SUM_4(j + 2), HOPPER_SUM_4(j + 3)
  asm volatile("{ .reg .pred add; setp.ne.b32 add, %132, 0; "
               "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
               " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
               " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
               " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
               " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
               " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
               " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
               " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
               "%128, %129, add, 1, 1, %130, %131; }"
               : HOPPER_SUM_16(0), HOPPER_SUM_16(4), HOPPER_SUM_16(8), HOPPER_SUM_16(12), HOPPER_SUM_16(16),
                 HOPPER_SUM_16(20), HOPPER_SUM_16(24), HOPPER_SUM_16(28)
               : "l"(a), "l"(b), "n"(A_CROSSES), "n"(B_CROSSES), "r"((int)add));
#undef HOPPER_SUM_16
#undef HOPPER_SUM_4
}

/* The sums are whatever their registers hold; a product sets them. */
template <int COUNT> MOEC_INLINE void hopper_sums_any(float (&sum)[COUNT][4]) {
#pragma unroll
  for (int j = 0; j < COUNT; j++)
    asm volatile("" : "=f"(sum[j][0]), "=f"(sum[j][1]), "=f"(sum[j][2]), "=f"(sum[j][3]));
}

/* What ordinary instructions do to the sums, they have done before this, or do behind it: between setting them and
 * hopper_products_begin, and between hopper_products_wait and reading them. */
template <int COUNT> MOEC_INLINE void hopper_sums_settle(float (&sum)[COUNT][4]) {
#pragma unroll
  for (int j = 0; j < COUNT; j++)
    asm volatile("" : "+f"(sum[j][0]), "+f"(sum[j][1]), "+f"(sum[j][2]), "+f"(sum[j][3])::"memory");
}
#endif

/* An operand of wgmma in boxes of rows of 128 bytes, as hopper_copy_box leaves them. Eight rows are 1024 bytes. Where
 * the depth crosses the rows, the next 64 along the product's extent are in the next box, box_bytes away; where it
 * follows them, that distance has no meaning and is 16. */
template <bool CROSSES> MOEC_INLINE uint64_t hopper_operand(const void *shared, uint32_t box_bytes) {
  const uint64_t swizzle_128 = 1;
  return (uint64_t)((moec_shared_address(shared) & 0x3ffffu) >> 4) | (uint64_t)(CROSSES ? box_bytes >> 4 : 1) << 16 |
         (uint64_t)(1024 >> 4) << 32 | swizzle_128 << 62;
}
