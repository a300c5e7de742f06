/* What CUDA C++ lacks a word for: tensor-core products and asynchronous copies, as functions. It stands in front of
 * prelude_cuda.h at the head of every unit. With MOEC_SIMULATOR defined the functions are declared only: the simulator
 * of tests/simulator, which compiles the same text with the host's compiler, supplies them; nothing else in emitted
 * source but codegen/cuda/wgmma.cu asks which of the two it is compiled by.
 *
 * Fragments are those of the PTX instructions (PTX ISA, "mma.m16n8k16"). In lane l of a warp, g = l / 4 and t = l % 4;
 * a word holds two bf16, the lower column in its low half; B is k x n.
 *
 *   a[0] = A[g][2t..]    a[1] = A[g+8][2t..]    a[2] = A[g][2t+8..]    a[3] = A[g+8][2t+8..]
 *   b[0] = B[2t..][g]    b[1] = B[2t+8..][g]
 *   d[0] = D[g][2t]      d[1] = D[g][2t+1]      d[2] = D[g+8][2t]      d[3] = D[g+8][2t+1]
 *
 * All functions but moec_copy_async_* are called by all 32 lanes of a warp together.
 */
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define MOEC_INLINE static __device__ __forceinline__

#ifdef MOEC_SIMULATOR
/* d += a b, m16n8k16, bf16 operands, f32 sums */
__device__ void moec_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
/* Four 8x8 matrices of bf16 from shared memory: lanes 8i .. 8i+7 give the rows of matrix i, 16 bytes each. */
__device__ void moec_load_matrix_x4(uint32_t r[4], const void *row);
__device__ void moec_load_matrix_x4_transposed(uint32_t r[4], const void *row);
/* 16 bytes from global to shared memory, zeros when !valid (then `global` is not read). Both are 16-byte aligned. */
__device__ void moec_copy_async_16(void *shared, const void *global, bool valid);
__device__ void moec_copy_commit(); /* the copies so far are a group */
/* Until at most PENDING groups of this thread are open; a barrier must follow before other threads' copies are read. */
template <int PENDING> __device__ void moec_copy_wait();
/* 2^x by the special function unit: relative error 2^-22, results below 2^-126 are 0. Called by any thread alone. */
__device__ float moec_exp2(float x);
/* Two floats rounded to bf16, nearest even, in one word. Called by any thread alone. */
__device__ uint32_t moec_pack_bf16(float low, float high);
#else
MOEC_INLINE uint32_t moec_shared_address(const void *shared) {
  return (uint32_t)__cvta_generic_to_shared(shared);
}

/* d += a b, m16n8k16, bf16 operands, f32 sums */
MOEC_INLINE void moec_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8x8 matrices of bf16 from shared memory: lanes 8i .. 8i+7 give the rows of matrix i, 16 bytes each. */
MOEC_INLINE void moec_load_matrix_x4(uint32_t r[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(moec_shared_address(row))
               : "memory");
}
MOEC_INLINE void moec_load_matrix_x4_transposed(uint32_t r[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(moec_shared_address(row))
               : "memory");
}

/* 16 bytes from global to shared memory, zeros when !valid (then `global` is not read). Both are 16-byte aligned. */
MOEC_INLINE void moec_copy_async_16(void *shared, const void *global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(moec_shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
MOEC_INLINE void moec_copy_commit() { /* the copies so far are a group */
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until at most PENDING groups of this thread are open; a barrier must follow before other threads' copies are read. */
template <int PENDING> MOEC_INLINE void moec_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* 2^x by the special function unit: relative error 2^-22, results below 2^-126 are 0. Called by any thread alone. */
MOEC_INLINE float moec_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* Two floats rounded to bf16, nearest even, in one word. Called by any thread alone. */
MOEC_INLINE uint32_t moec_pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
#endif
