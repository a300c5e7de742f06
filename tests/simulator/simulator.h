/* CUDA C++ for the host's compiler: stands in front of emitted kernel source, which it leaves as it is (C++17).
 *
 * Every thread of a block is a coroutine of tests/simulator/block.c; what a thread asks of the machine is a call into
 * it. Memory accesses need no word here: the compiler's thread-sanitizer instrumentation announces each one to
 * access.c. Nothing is included, because the source defines the fixed-width types in its own way. Variables in shared
 * memory are thread-local ones: a worker thread runs one block at a time.
 */
#define __global__
#define __device__
#define __host__
#define __shared__ thread_local
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

/* ---------------------------------------------------------------- vectors */

#define SIMULATOR_VECTOR2(type, of)                                                                                    \
  struct alignas(2 * sizeof(of)) type {                                                                                \
    of x, y;                                                                                                           \
  };                                                                                                                   \
  inline type make_##type(of x, of y) {                                                                                \
    return {x, y};                                                                                                     \
  }
#define SIMULATOR_VECTOR4(type, of)                                                                                    \
  struct alignas(4 * sizeof(of) > 16 ? 16 : 4 * sizeof(of)) type {                                                     \
    of x, y, z, w;                                                                                                     \
  };                                                                                                                   \
  inline type make_##type(of x, of y, of z, of w) {                                                                    \
    return {x, y, z, w};                                                                                               \
  }
SIMULATOR_VECTOR2(float2, float)
SIMULATOR_VECTOR2(int2, int)
SIMULATOR_VECTOR2(uint2, unsigned)
SIMULATOR_VECTOR2(ushort2, unsigned short)
SIMULATOR_VECTOR2(longlong2, long long)
SIMULATOR_VECTOR4(float4, float)
SIMULATOR_VECTOR4(int4, int)
SIMULATOR_VECTOR4(uint4, unsigned)
SIMULATOR_VECTOR4(ushort4, unsigned short)

/* ---------------------------------------------------------------- where a thread stands */

struct uint3 {
  unsigned x, y, z;
};
typedef uint3 dim3;

/* Constant for the life of a coroutine. */
extern "C" {
__attribute__((const)) uint3 simulator_thread_index();
__attribute__((const)) uint3 simulator_block_index();
__attribute__((const)) uint3 simulator_block_size();
__attribute__((const)) uint3 simulator_grid_size();
}
#define threadIdx (simulator_thread_index())
#define blockIdx (simulator_block_index())
#define blockDim (simulator_block_size())
#define gridDim (simulator_grid_size())
static const int warpSize = 32;

/* ---------------------------------------------------------------- meetings of threads */

extern "C" {
void simulator_block_wait(int line);
void simulator_barrier(int barrier, int threads, int waits);
/* Kinds: 0 wait, 1 shuffle (lane `choice` of `value`), 2 ballot. */
unsigned long long simulator_warp_meet(int kind, unsigned mask, unsigned long long value, unsigned choice, int line);
void simulator_mma_bf16(float *d, const unsigned *a, const unsigned *b);
void simulator_load_matrix(unsigned *r, const void *row, int transposed);
void simulator_copy_async(void *shared, const void *global, int valid);
void simulator_copy_commit();
void simulator_copy_wait(int pending);
}
#define __syncthreads() simulator_block_wait(__LINE__)

inline unsigned simulator_lane() {
  const uint3 i = simulator_thread_index(), n = simulator_block_size();
  return (i.x + n.x * (i.y + n.y * i.z)) & 31;
}

template <class T> inline T simulator_shuffle(unsigned mask, T x, unsigned lane, int line) {
  static_assert(sizeof(T) <= 8, "one word or two");
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &x, sizeof x);
  bits = simulator_warp_meet(1, mask, bits, lane, line);
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

/* The lane that a shuffle of `width` lanes reads: its own where the other lies outside. */
inline unsigned simulator_source(unsigned lane, int other, bool inside) {
  return inside ? (unsigned)other : lane;
}
template <class T> inline T simulator_shuffle_index(int line, unsigned mask, T x, int from, int width = 32) {
  const unsigned lane = simulator_lane();
  return simulator_shuffle(mask, x, (lane & ~(width - 1u)) | (from & (width - 1u)), line);
}
template <class T> inline T simulator_shuffle_up(int line, unsigned mask, T x, unsigned distance, int width = 32) {
  const unsigned lane = simulator_lane();
  const int from = (int)lane - (int)distance;
  return simulator_shuffle(mask, x, simulator_source(lane, from, from >= (int)(lane & ~(width - 1u))), line);
}
template <class T> inline T simulator_shuffle_down(int line, unsigned mask, T x, unsigned distance, int width = 32) {
  const unsigned lane = simulator_lane();
  const int from = (int)(lane + distance);
  return simulator_shuffle(mask, x, simulator_source(lane, from, from <= (int)(lane | (width - 1u))), line);
}
template <class T> inline T simulator_shuffle_xor(int line, unsigned mask, T x, int bits, int width = 32) {
  const unsigned lane = simulator_lane();
  const int from = (int)(lane ^ (unsigned)bits);
  return simulator_shuffle(mask, x, simulator_source(lane, from, from <= (int)(lane | (width - 1u))), line);
}
#define __shfl_sync(...) simulator_shuffle_index(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) simulator_shuffle_up(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) simulator_shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) simulator_shuffle_xor(__LINE__, __VA_ARGS__)

inline void simulator_warp_wait(int line, unsigned mask = 0xffffffffu) {
  simulator_warp_meet(0, mask, 0, 0, line);
}
#define __syncwarp(...) simulator_warp_wait(__LINE__, ##__VA_ARGS__)
#define __ballot_sync(mask, x) ((unsigned)simulator_warp_meet(2, mask, (x) ? 1 : 0, 0, __LINE__))
#define __any_sync(mask, x) (__ballot_sync(mask, x) != 0)
#define __all_sync(mask, x) (__ballot_sync(mask, x) == (unsigned)(mask))

/* ---------------------------------------------------------------- bits */

template <class TO, class FROM> inline TO simulator_bits(FROM x) {
  static_assert(sizeof(TO) == sizeof(FROM), "the same bits");
  TO y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
inline long long __double_as_longlong(double x) {
  return simulator_bits<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return simulator_bits<double>(x);
}
inline float __int_as_float(int x) {
  return simulator_bits<float>(x);
}
inline float __uint_as_float(unsigned x) {
  return simulator_bits<float>(x);
}
inline int __float_as_int(float x) {
  return simulator_bits<int>(x);
}
inline unsigned __float_as_uint(float x) {
  return simulator_bits<unsigned>(x);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
  return __builtin_popcountll(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
  return __builtin_ffsll(x);
}
inline int __clz(int x) {
  return x ? __builtin_clz((unsigned)x) : 32;
}
inline int __clzll(long long x) {
  return x ? __builtin_clzll((unsigned long long)x) : 64;
}
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; i++)
    y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)((unsigned long long)a * b >> 32);
}
inline int __mulhi(int a, int b) {
  return (int)((long long)a * b >> 32);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
  const unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned y = 0;
  for (int i = 0; i < 4; i++)
    y |= (unsigned)(both >> (8 * (select >> (4 * i) & 7)) & 0xff) << (8 * i);
  return y;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

/* ---------------------------------------------------------------- arithmetic */

extern "C" {
float expf(float) noexcept, exp2f(float) noexcept, expm1f(float) noexcept, logf(float) noexcept, log2f(float) noexcept,
    log1pf(float) noexcept, tanhf(float) noexcept, sinf(float) noexcept, cosf(float) noexcept, sqrtf(float) noexcept,
    fabsf(float) noexcept, floorf(float) noexcept, ceilf(float) noexcept, rintf(float) noexcept, truncf(float) noexcept,
    erff(float) noexcept, fminf(float, float) noexcept, fmaxf(float, float) noexcept, powf(float, float) noexcept,
    fmaf(float, float, float) noexcept, copysignf(float, float) noexcept;
}

inline bool isnan(float x) {
  return x != x;
}
inline bool isinf(float x) {
  return __builtin_isinf(x);
}
inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
  return sqrtf(x);
}
inline float __expf(float x) {
  return expf(x);
}
inline float __logf(float x) {
  return logf(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return fmaf(a, b, c);
}
inline float __uint2float_rn(unsigned x) {
  return (float)x;
}
inline float __int2float_rn(int x) {
  return (float)x;
}

#define SIMULATOR_EXTREMES(type)                                                                                       \
  inline type min(type a, type b) {                                                                                    \
    return b < a ? b : a;                                                                                              \
  }                                                                                                                    \
  inline type max(type a, type b) {                                                                                    \
    return a < b ? b : a;                                                                                              \
  }
SIMULATOR_EXTREMES(int)
SIMULATOR_EXTREMES(unsigned)
SIMULATOR_EXTREMES(long long)
SIMULATOR_EXTREMES(unsigned long long)
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline int abs(int x) {
  return x < 0 ? -x : x;
}

/* ---------------------------------------------------------------- the functions of codegen/device_cuda.h */

inline void moec_mma_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  simulator_mma_bf16(d, a, b);
}
inline void moec_load_matrix_x4(unsigned r[4], const void *row) {
  simulator_load_matrix(r, row, 0);
}
inline void moec_load_matrix_x4_transposed(unsigned r[4], const void *row) {
  simulator_load_matrix(r, row, 1);
}
inline void moec_copy_async_16(void *shared, const void *global, bool valid) {
  simulator_copy_async(shared, global, valid);
}
inline void moec_copy_commit() {
  simulator_copy_commit();
}
template <int PENDING> inline void moec_copy_wait() {
  simulator_copy_wait(PENDING);
}

/* 2^x with the subnormal results that the machine's instruction flushes. */
inline float moec_exp2(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}
inline unsigned simulator_bf16(float x) { /* nearest even; every NaN is the same */
  const unsigned bits = __float_as_uint(x);
  return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
inline unsigned moec_pack_bf16(float low, float high) {
  return simulator_bf16(low) | simulator_bf16(high) << 16;
}

/* ---------------------------------------------------------------- the functions of codegen/cuda/wgmma.cu */

/* Element (row, column) of an operand of rows of 128 bytes that starts at `start`, where the hardware's swizzle, which
 * acts on address bits, has put it. */
inline unsigned simulator_swizzled(const void *start, int row, int column) {
  const unsigned long long at = (unsigned long long)start + 128 * row + 2 * column;
  return *(const unsigned short *)(at ^ (at >> 7 & 7) << 4);
}
/* Each warp does its 16 rows by itself; operands are read at once, where the hardware reads them up to the wait. */
template <bool ALONG_ROWS> inline void simulator_wgmma(float (*d)[4], const unsigned a[4], const void *b) {
  const int g = simulator_lane() / 4, t = simulator_lane() % 4;
  for (int j = 0; j < 8; j++) {
    unsigned of_b[2];
    for (int half = 0; half < 2; half++) {
      const int n = 8 * j + g, k = 2 * t + 8 * half;
      of_b[half] = ALONG_ROWS ? simulator_swizzled(b, n, k) | simulator_swizzled(b, n, k + 1) << 16
                              : simulator_swizzled(b, k, n) | simulator_swizzled(b, k + 1, n) << 16;
    }
    simulator_mma_bf16(d[j], a, of_b);
  }
}
inline const unsigned short *moec_wgmma_operand(const unsigned short *shared) {
  return shared;
}
inline void moec_wgmma_publish() {}
inline void moec_wgmma_begin() {}
inline void moec_wgmma_begin(float (*)[4]) {}
inline void moec_wgmma_keep(unsigned *) {}
inline void moec_wgmma_commit() {}
template <int PENDING> inline void moec_wgmma_wait(float (*)[4]) {}
template <int FIRST, int GROUPS> inline void moec_turn_take(int group) {
  if (FIRST + group > 0)
    simulator_barrier(FIRST + group, 256, 1);
}
template <int FIRST, int GROUPS, int TURNS> inline void moec_turn_pass(int group) {
  if (FIRST + group + 1 < TURNS)
    simulator_barrier(FIRST + group + 1, 256, 0);
}
inline void simulator_sums_set(float (*d)[4], bool add) {
  for (int j = 0; !add && j < 8; j++)
    for (int i = 0; i < 4; i++)
      d[j][i] = 0.0f;
}
template <bool ADD> inline void moec_wgmma_rows(float (*d)[4], const unsigned a[4], const unsigned short *b) {
  simulator_sums_set(d, ADD);
  simulator_wgmma<true>(d, a, b);
}
inline void moec_wgmma_columns(float (*d)[4], const unsigned a[4], const unsigned short *b) {
  simulator_wgmma<false>(d, a, b);
}
template <bool ADD> inline void moec_wgmma_rows_rows(float (*d)[4], const unsigned short *a, const unsigned short *b) {
  const int t = simulator_lane() % 4, row = simulator_thread_index().x / 32 % 4 * 16 + simulator_lane() / 4;
  unsigned of_a[4];
  for (int i = 0; i < 4; i++) {
    const int r = row + i % 2 * 8, k = 2 * t + i / 2 * 8;
    of_a[i] = simulator_swizzled(a, r, k) | simulator_swizzled(a, r, k + 1) << 16;
  }
  simulator_sums_set(d, ADD);
  simulator_wgmma<true>(d, of_a, b);
}

/* ---------------------------------------------------------------- loads and stores with a hint */

template <class T> inline T __ldg(const T *from) {
  return *from;
}
template <class T> inline T __ldcs(const T *from) {
  return *from;
}
template <class T> inline T __ldcg(const T *from) {
  return *from;
}
template <class T> inline void __stcs(T *to, T x) {
  *to = x;
}
template <class T> inline void __stcg(T *to, T x) {
  *to = x;
}

/* ---------------------------------------------------------------- how the simulator finds and starts a kernel */

/* Its distance from the unit's shared variables is known from the symbol table. */
extern "C" __attribute__((visibility("default"))) thread_local char simulator_anchor = 1;
extern "C" __attribute__((visibility("default"))) char *simulator_unit_anchor() {
  return &simulator_anchor;
}

#define SIMULATOR_SOURCE(path)                                                                                         \
  extern "C" __attribute__((visibility("default"))) const char simulator_source_file[] = path;

/* A kernel behind `extern "C" void simulator_enter_NAME(void **)`: every parameter is one 8-byte cell. */
template <unsigned long... I> struct simulator_indices {};
template <unsigned long N, unsigned long... I> struct simulator_count : simulator_count<N - 1, N - 1, I...> {};
template <unsigned long... I> struct simulator_count<0, I...> { typedef simulator_indices<I...> list; };
template <class... A, unsigned long... I>
inline __attribute__((no_sanitize("thread"))) void simulator_call(void (*kernel)(A...), void **parameters,
                                                                  simulator_indices<I...>) {
  static_assert(((sizeof(A) == 8) && ...), "a parameter of a kernel has 8 bytes");
  kernel(*(A *)parameters[I]...);
}
template <class... A> constexpr int simulator_parameters(void (*)(A...)) {
  return (int)sizeof...(A);
}
template <class... A>
inline __attribute__((no_sanitize("thread"))) void simulator_start(void (*kernel)(A...), void **parameters) {
  simulator_call(kernel, parameters, typename simulator_count<sizeof...(A)>::list());
}
#define SIMULATOR_ENTRY(name)                                                                                          \
  extern "C" __attribute__((visibility("default"))) const int simulator_parameters_##name =                            \
      simulator_parameters(name);                                                                                      \
  extern "C"                                                                                                           \
      __attribute__((visibility("default"), no_sanitize("thread"))) void simulator_enter_##name(void **parameters) {   \
    simulator_start(name, parameters);                                                                                 \
  }
