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
 * copied, after its own wait, and then a barrier.
 *
 * Products run on while the warpgroup does something else: from moec_wgmma_begin to the wait for the group that
 * moec_wgmma_commit closed, nothing else may touch their sums, left operands and tiles. */
#ifdef MOEC_SIMULATOR
typedef const uint16_t *moec_operand;
__device__ moec_operand moec_wgmma_operand(const uint16_t *shared);
__device__ void moec_wgmma_publish();
__device__ void moec_wgmma_begin();
__device__ void moec_wgmma_begin(float (*d)[4]);
__device__ void moec_wgmma_keep(uint32_t a[4]);
__device__ void moec_wgmma_commit();
template <int PENDING> __device__ void moec_wgmma_wait(float (*d)[4]);
/* d = a b, with ADD d += a b; a: 64 rows in shared memory, b: 64 rows, the columns of the product; both 16 deep along
 * the row */
template <bool ADD> __device__ void moec_wgmma_rows_rows(float (*d)[4], moec_operand a, moec_operand b);
/* d = a b, with ADD d += a b; a in registers, b: 64 rows, the columns of the product, 16 deep along the row */
template <bool ADD> __device__ void moec_wgmma_rows(float (*d)[4], const uint32_t a[4], moec_operand b);
/* d += a b; a in registers, b: 16 rows, the depth of the product, of 64 columns */
__device__ void moec_wgmma_columns(float (*d)[4], const uint32_t a[4], moec_operand b);
/* Turns, from 0 to TURNS - 1, of which warpgroup g of GROUPS, up to 3, has FIRST + g here: a turn begins when the one
 * before it has been passed. Between two barriers of the block each is taken and passed once, and the next one by
 * another warpgroup. */
template <int FIRST, int GROUPS> __device__ void moec_turn_take(int group);
template <int FIRST, int GROUPS, int TURNS> __device__ void moec_turn_pass(int group);
#else
/* PTX ISA, "Matrix Descriptor Format": address, distance of groups of 8 rows, 128-byte swizzle; in units of 16 bytes.
 * The leading dimension is not used where a row is one swizzled piece of 128 bytes. */
struct moec_operand {
  uint64_t descriptor;
};
MOEC_INLINE moec_operand moec_wgmma_operand(const uint16_t *shared) {
  return {(uint64_t)((moec_shared_address(shared) & 0x3ffffu) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62};
}
/* `elements`, a multiple of 8, behind it: one addition, where a descriptor takes five instructions. */
MOEC_INLINE moec_operand operator+(moec_operand operand, int elements) {
  return {operand.descriptor + (uint32_t)(elements / 8)};
}

/* What threads wrote to shared memory becomes visible to the products. */
MOEC_INLINE void moec_wgmma_publish() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define MOEC_WGMMA_SUMS(how, d)                                                                                        \
  how(d[0][0]), how(d[0][1]), how(d[0][2]), how(d[0][3]), how(d[1][0]), how(d[1][1]), how(d[1][2]), how(d[1][3]),      \
      how(d[2][0]), how(d[2][1]), how(d[2][2]), how(d[2][3]), how(d[3][0]), how(d[3][1]), how(d[3][2]), how(d[3][3]),  \
      how(d[4][0]), how(d[4][1]), how(d[4][2]), how(d[4][3]), how(d[5][0]), how(d[5][1]), how(d[5][2]), how(d[5][3]),  \
      how(d[6][0]), how(d[6][1]), how(d[6][2]), how(d[6][3]), how(d[7][0]), how(d[7][1]), how(d[7][2]), how(d[7][3])
#define MOEC_WGMMA                                                                                                     \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"       \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "

/* Before the first product, where that sets its sums; behind what ordinary instructions did to left operands. */
MOEC_INLINE void moec_wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* The same, where ordinary instructions have set the sums d. */
MOEC_INLINE void moec_wgmma_begin(float (*d)[4]) {
  asm volatile("wgmma.fence.sync.aligned;" : MOEC_WGMMA_SUMS("+f", d)::"memory");
}
/* A left operand is in its registers before moec_wgmma_begin. */
MOEC_INLINE void moec_wgmma_keep(uint32_t a[4]) {
  asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
}

MOEC_INLINE void moec_wgmma_commit() { /* the products so far are a group */
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most PENDING groups are open; d are sums of those that are not. */
template <int PENDING> MOEC_INLINE void moec_wgmma_wait(float (*d)[4]) {
  asm volatile("wgmma.wait_group.sync.aligned %32;" : MOEC_WGMMA_SUMS("+f", d) : "n"(PENDING) : "memory");
}

/* d = a b, with ADD d += a b; a: 64 rows in shared memory, b: 64 rows, the columns of the product; both 16 deep along
 * the row */
template <bool ADD> MOEC_INLINE void moec_wgmma_rows_rows(float (*d)[4], moec_operand a, moec_operand b) {
  if (ADD)
    asm volatile(MOEC_WGMMA "%32, %33, 1, 1, 1, 0, 0;"
                 : MOEC_WGMMA_SUMS("+f", d)
                 : "l"(a.descriptor), "l"(b.descriptor));
  else
    asm volatile(MOEC_WGMMA "%32, %33, 0, 1, 1, 0, 0;"
                 : MOEC_WGMMA_SUMS("=f", d)
                 : "l"(a.descriptor), "l"(b.descriptor));
}

/* d = a b, with ADD d += a b; a in registers, b: 64 rows, the columns of the product, 16 deep along the row */
template <bool ADD> MOEC_INLINE void moec_wgmma_rows(float (*d)[4], const uint32_t a[4], moec_operand b) {
  if (ADD)
    asm volatile(MOEC_WGMMA "{%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
                 : MOEC_WGMMA_SUMS("+f", d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor));
  else
    asm volatile(MOEC_WGMMA "{%32,%33,%34,%35}, %36, 0, 1, 1, 0;"
                 : MOEC_WGMMA_SUMS("=f", d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor));
}

/* d += a b; a in registers, b: 16 rows, the depth of the product, of 64 columns */
MOEC_INLINE void moec_wgmma_columns(float (*d)[4], const uint32_t a[4], moec_operand b) {
  asm volatile(MOEC_WGMMA "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : MOEC_WGMMA_SUMS("+f", d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor));
}

/* Turns, from 0 to TURNS - 1, of which warpgroup g of GROUPS, up to 3, has FIRST + g here: a turn begins when the one
 * before it has been passed. Between two barriers of the block each is taken and passed once, and the next one by
 * another warpgroup. Barrier i is in front of turn i; as constants, because a block with a barrier whose number is not
 * known has all 16. */
template <int FIRST, int GROUPS> MOEC_INLINE void moec_turn_take(int group) {
  if (FIRST > 0 && group == 0)
    asm volatile("bar.sync %0, 256;" ::"n"(FIRST) : "memory");
  if (group == 1)
    asm volatile("bar.sync %0, 256;" ::"n"(FIRST + 1) : "memory");
  if (GROUPS > 2 && group == 2)
    asm volatile("bar.sync %0, 256;" ::"n"(FIRST + 2) : "memory");
}
template <int FIRST, int GROUPS, int TURNS> MOEC_INLINE void moec_turn_pass(int group) {
  if (FIRST + 1 < TURNS && group == 0)
    asm volatile("bar.arrive %0, 256;" ::"n"(FIRST + 1) : "memory");
  if (FIRST + 2 < TURNS && group == 1)
    asm volatile("bar.arrive %0, 256;" ::"n"(FIRST + 2) : "memory");
  if (GROUPS > 2 && FIRST + 3 < TURNS && group == 2)
    asm volatile("bar.arrive %0, 256;" ::"n"(FIRST + 3) : "memory");
}
#endif

/* Where 16-byte piece `piece` of row `row` stands, in a tile of rows of 128 bytes. */
MOEC_INLINE uint16_t *moec_swizzled(uint16_t *tile, int row, int piece) {
  return tile + row * 64 + (piece ^ (row & 7)) * 8;
}
