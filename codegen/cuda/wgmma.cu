/* Hopper's warpgroup products as functions (sm_90a). With MOEC_SIMULATOR defined they are declared only, as those of
 * device_cuda.h are.
 *
 * A warpgroup is 4 consecutive warps, the first a multiple of 4; all its threads call together. Products are m64n64k16
 * of bf16 with f32 sums: warp w of the group has rows 16 w .. 16 w + 15, and its fragments of a and d are those of
 * moec_mma_bf16, d[j] for columns 8 j .. 8 j + 7.
 *
 * Operands in shared memory are rows of 128 bytes one behind the other, from an address that is a multiple of 1024;
 * the 16-byte pieces of row r are permuted: piece p stands at p ^ (r & 7) (moec_swizzled). Where an operand's place is
 * given, a multiple of 32 bytes within the first row or a multiple of 8 rows, the address is that of the unpermuted
 * start. Before others' ordinary or asynchronous copies are read by a product: moec_wgmma_publish by each thread that
 * copied, after its own wait, and then a barrier. */
#ifdef MOEC_SIMULATOR
__device__ void moec_wgmma_publish();
__device__ void moec_wgmma_begin(float (*d)[4]);
__device__ void moec_wgmma_keep(uint32_t a[4]);
__device__ void moec_wgmma_end(float (*d)[4]);
/* d += a b; a: 64 rows in shared memory, b: 64 rows, the columns of the product; both 16 deep along the row */
__device__ void moec_wgmma_rows_rows(float (*d)[4], const void *a, const void *b);
/* d += a b; a in registers, b: 64 rows, the columns of the product, 16 deep along the row */
__device__ void moec_wgmma_rows(float (*d)[4], const uint32_t a[4], const void *b);
/* d += a b; a in registers, b: 16 rows, the depth of the product, of 64 columns */
__device__ void moec_wgmma_columns(float (*d)[4], const uint32_t a[4], const void *b);
#else
/* PTX ISA, "Matrix Descriptor Format": address, distance of groups of 8 rows, 128-byte swizzle; in units of 16 bytes.
 * The leading dimension is not used where a row is one swizzled piece of 128 bytes. */
MOEC_INLINE uint64_t moec_wgmma_descriptor(const void *shared) {
  return (uint64_t)((moec_shared_address(shared) & 0x3ffffu) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

/* What threads wrote to shared memory becomes visible to the products. */
MOEC_INLINE void moec_wgmma_publish() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define MOEC_WGMMA_SUMS(d)                                                                                             \
  "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),             \
      "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),         \
      "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),         \
      "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),         \
      "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
#define MOEC_WGMMA                                                                                                     \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"       \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "

/* Between what ordinary instructions did to the sums d (and, before, to left operands) and the first product on them.
 */
MOEC_INLINE void moec_wgmma_begin(float (*d)[4]) {
  asm volatile("wgmma.fence.sync.aligned;" : MOEC_WGMMA_SUMS(d)::"memory");
}
/* A left operand is in its registers before moec_wgmma_begin. */
MOEC_INLINE void moec_wgmma_keep(uint32_t a[4]) {
  asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
}

/* Waits for the products since moec_wgmma_begin; d are their sums. */
MOEC_INLINE void moec_wgmma_end(float (*d)[4]) {
  asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;" : MOEC_WGMMA_SUMS(d)::"memory");
}

/* d += a b; a: 64 rows in shared memory, b: 64 rows, the columns of the product; both 16 deep along the row */
MOEC_INLINE void moec_wgmma_rows_rows(float (*d)[4], const void *a, const void *b) {
  asm volatile(MOEC_WGMMA "%32, %33, 1, 1, 1, 0, 0;"
               : MOEC_WGMMA_SUMS(d)
               : "l"(moec_wgmma_descriptor(a)), "l"(moec_wgmma_descriptor(b)));
}

/* d += a b; a in registers, b: 64 rows, the columns of the product, 16 deep along the row */
MOEC_INLINE void moec_wgmma_rows(float (*d)[4], const uint32_t a[4], const void *b) {
  asm volatile(MOEC_WGMMA "{%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
               : MOEC_WGMMA_SUMS(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(moec_wgmma_descriptor(b)));
}

/* d += a b; a in registers, b: 16 rows, the depth of the product, of 64 columns */
MOEC_INLINE void moec_wgmma_columns(float (*d)[4], const uint32_t a[4], const void *b) {
  asm volatile(MOEC_WGMMA "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : MOEC_WGMMA_SUMS(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(moec_wgmma_descriptor(b)));
}
#endif

/* Where 16-byte piece `piece` of row `row` stands, in a tile of rows of 128 bytes. */
MOEC_INLINE uint16_t *moec_swizzled(uint16_t *tile, int row, int piece) {
  return tile + row * 64 + (piece ^ (row & 7)) * 8;
}
