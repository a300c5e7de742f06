/* What every emitted CUDA kernel may call: the same names as prelude_cpu.h. Printed at the head of the CUDA source and
 * compiled by NVRTC behind device_cuda.h, so it includes nothing.
 *
 * A row belongs to a team of TEAM threads: a warp, or a whole block when TEAM is larger. Functions with a TEAM are
 * called by all threads of the team together; `lane` is the thread's number in it.
 */
#define MOEC_INFINITY __int_as_float(0x7f800000)
#define MOEC_NAN __int_as_float(0x7fffffff)

/* ---------------------------------------------------------------- bits and bf16 storage */

MOEC_INLINE float moec_from_bf16(uint16_t x) {
  return __uint_as_float((uint32_t)x << 16);
}

/* Round to nearest even; a NaN stays one. */
MOEC_INLINE uint16_t moec_to_bf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (uint16_t)(x == x ? rounded : (bits >> 16) | 0x40u);
}

/* Of a number that is one of bf16. */
MOEC_INLINE uint16_t moec_bf16_bits(float x) {
  return (uint16_t)(__float_as_uint(x) >> 16);
}

MOEC_INLINE float moec_round_bf16(float x) {
  return moec_from_bf16(moec_to_bf16(x));
}

/* ---------------------------------------------------------------- arithmetic */

MOEC_INLINE float moec_abs(float x) {
  return fabsf(x);
}
MOEC_INLINE float moec_sqrt(float x) {
  return sqrtf(x);
}
MOEC_INLINE float moec_rsqrt(float x) {
  return 1.0f / sqrtf(x);
}
MOEC_INLINE float moec_exp(float x) {
  return expf(x);
}
MOEC_INLINE float moec_expm1(float x) {
  return expm1f(x);
}
MOEC_INLINE float moec_log(float x) {
  return logf(x);
}
MOEC_INLINE float moec_log1p(float x) {
  return log1pf(x);
}
MOEC_INLINE float moec_tanh(float x) {
  return tanhf(x);
}
MOEC_INLINE float moec_sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}
MOEC_INLINE float moec_sin(float x) {
  return sinf(x);
}
MOEC_INLINE float moec_cos(float x) {
  return cosf(x);
}

/* a where all bits of `mask` are set, b where none is. */
MOEC_INLINE float moec_choose(int32_t mask, float a, float b) {
  return mask ? a : b;
}

/* Division of integers, rounded down. */
MOEC_INLINE int32_t moec_floor_div(int32_t a, int32_t b) {
  const int32_t quotient = a / b;
  return quotient - ((a % b != 0) & ((a < 0) != (b < 0)));
}

/* ---------------------------------------------------------------- random draws */

/* Philox 4x32-10 (Salmon et al. 2011) of counter (element low, element high, tag, step) and key seed; element is
 * base + column. The first output word x gives u = ((x >> 9) + 0.5) 2^-23, exact and never 0 or 1. */
MOEC_INLINE float moec_uniform(uint64_t seed, uint64_t base, uint32_t column, uint32_t tag, uint32_t step) {
  uint32_t c0 = (uint32_t)base + column;
  uint32_t c1 = (uint32_t)(base >> 32) + (c0 < column);
  uint32_t c2 = tag, c3 = step;
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint32_t h0 = __umulhi(0xd2511f53u, c0), l0 = 0xd2511f53u * c0;
    const uint32_t h1 = __umulhi(0xcd9e8d57u, c2), l1 = 0xcd9e8d57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return ((float)(int32_t)(c0 >> 9) + 0.5f) * 1.1920928955078125e-7f;
}

/* ---------------------------------------------------------------- teams */

template <int TEAM> MOEC_INLINE void moec_team_wait() {
  if (TEAM > 32)
    __syncthreads();
  else
    __syncwarp();
}

struct moec_sum_of {
  static __device__ __forceinline__ float join(float a, float b) {
    return a + b;
  }
};
struct moec_max_of {
  static __device__ __forceinline__ float join(float a, float b) {
    return b > a ? b : a;
  }
};
struct moec_min_of {
  static __device__ __forceinline__ int32_t join(int32_t a, int32_t b) {
    return b < a ? b : a;
  }
};

/* Every thread of the team gets all threads' x joined, in an order that depends on TEAM only. */
template <int TEAM, class OF, class T> MOEC_INLINE T moec_team_join(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1)
    x = OF::join(x, __shfl_xor_sync(0xffffffffu, x, distance));
  if (TEAM > 32) {
    __shared__ T of_warp[32];
    if ((threadIdx.x & 31) == 0)
      of_warp[threadIdx.x >> 5] = x;
    __syncthreads();
    x = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < TEAM / 32; warp++)
      x = OF::join(x, of_warp[warp]);
    __syncthreads();
  }
  return x;
}

template <int TEAM> MOEC_INLINE float moec_team_sum(float x) {
  return moec_team_join<TEAM, moec_sum_of, float>(x);
}
template <int TEAM> MOEC_INLINE float moec_team_max(float x) {
  return moec_team_join<TEAM, moec_max_of, float>(x);
}
template <int TEAM> MOEC_INLINE int32_t moec_team_min(int32_t x) {
  return moec_team_join<TEAM, moec_min_of, int32_t>(x);
}

/* ---------------------------------------------------------------- routing and whole rows */

/* The expert e with off[e] <= row < off[e+1], of off[experts + 1]. */
MOEC_INLINE int32_t moec_expert_of_row(const int32_t *off, int32_t experts, int64_t row) {
  int32_t low = 0, high = experts;
  while (high - low > 1) {
    const int32_t middle = (low + high) >> 1;
    if (off[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* mask[c] = 1 at the k largest of x, else 0; of equals the lowest column wins. */
template <int TEAM> MOEC_INLINE void moec_topk_mask(const float *x, int columns, int k, float *mask, int lane) {
  for (int c = lane; c < columns; c += TEAM) {
    const float own = x[c];
    int before = 0;
    for (int other = 0; other < columns; other++)
      before += x[other] > own || (x[other] == own && other < c);
    mask[c] = before < k ? 1.0f : 0.0f;
  }
}

MOEC_INLINE float moec_value(float x) {
  return x;
}
MOEC_INLINE float moec_value(uint16_t x) {
  return moec_from_bf16(x);
}

/* y[i] = sum over d of x[d] w[i][d]: a warp for each i. */
template <int TEAM, class W>
MOEC_INLINE void moec_matvec(const float *x, const W *w, int64_t ld, int n, int depth, float *y, int lane) {
  for (int i = lane / 32; i < n; i += TEAM / 32) {
    float sum = 0.0f;
    for (int d = lane & 31; d < depth; d += 32)
      sum += x[d] * moec_value(w[i * ld + d]);
    sum = moec_team_join<32, moec_sum_of, float>(sum);
    if ((lane & 31) == 0)
      y[i] = sum;
  }
}

/* y[i] = sum over d of x[d] w[d][i]: a thread for each i. */
template <int TEAM, class W>
MOEC_INLINE void moec_vecmat(const float *x, const W *w, int64_t ld, int n, int depth, float *y, int lane) {
  for (int i = lane; i < n; i += TEAM) {
    float sum = 0.0f;
    for (int d = 0; d < depth; d++)
      sum += x[d] * moec_value(w[d * ld + i]);
    y[i] = sum;
  }
}

template <int TEAM>
MOEC_INLINE void moec_matvec_bf16(const float *x, const uint16_t *w, int64_t ld, int n, int depth, float *y, int lane) {
  moec_matvec<TEAM, uint16_t>(x, w, ld, n, depth, y, lane);
}
template <int TEAM>
MOEC_INLINE void moec_vecmat_bf16(const float *x, const uint16_t *w, int64_t ld, int n, int depth, float *y, int lane) {
  moec_vecmat<TEAM, uint16_t>(x, w, ld, n, depth, y, lane);
}
