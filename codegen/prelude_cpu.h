/* What every emitted CPU kernel may call. Printed, behind runtime/kernel_abi.h, at the head of each emitted C file.
 *
 * All functions are branch-free or have loops of constant length, so that a `#pragma omp simd` loop around them becomes
 * vector code (gcc -O3 -march=x86-64-v3 or -v4). Elementary functions are within 2 ulp; they keep NaN, infinities and
 * signed zeros as IEEE asks. Fused multiply-adds are written out: the compiler itself may not contract.
 */
#ifndef MOEC_PRELUDE_CPU_H
#define MOEC_PRELUDE_CPU_H

#include <stdint.h>

#define MOEC_INLINE static inline __attribute__((always_inline, unused))
#define MOEC_INFINITY __builtin_inff()
#define MOEC_NAN __builtin_nanf("")

/* ---------------------------------------------------------------- bits and bf16 storage */

MOEC_INLINE uint32_t moec_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

MOEC_INLINE float moec_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

MOEC_INLINE float moec_from_bf16(uint16_t x) {
  return moec_float((uint32_t)x << 16);
}

/* Round to nearest even; a NaN stays one. */
MOEC_INLINE uint16_t moec_to_bf16(float x) {
  const uint32_t bits = moec_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (uint16_t)(x == x ? rounded : (bits >> 16) | 0x40u);
}

/* Of a number that is one of bf16. */
MOEC_INLINE uint16_t moec_bf16_bits(float x) {
  return (uint16_t)(moec_bits(x) >> 16);
}

MOEC_INLINE float moec_round_bf16(float x) {
  return moec_from_bf16(moec_to_bf16(x));
}

/* ---------------------------------------------------------------- arithmetic */

MOEC_INLINE float moec_fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}

MOEC_INLINE float moec_abs(float x) {
  return __builtin_fabsf(x);
}

MOEC_INLINE float moec_sqrt(float x) {
  return __builtin_sqrtf(x);
}

MOEC_INLINE float moec_rsqrt(float x) {
  return 1.0f / __builtin_sqrtf(x);
}

/* a where all bits of `mask` are set, b where none is: a row's choice, made once, serves every lane. */
MOEC_INLINE float moec_choose(int32_t mask, float a, float b) {
  return moec_float((moec_bits(a) & (uint32_t)mask) | (moec_bits(b) & ~(uint32_t)mask));
}

/* Division of integers, rounded down. */
MOEC_INLINE int32_t moec_floor_div(int32_t a, int32_t b) {
  const int32_t quotient = a / b;
  return quotient - ((a % b != 0) & ((a < 0) != (b < 0)));
}

/* 2^n for n in [-126, 127]. */
MOEC_INLINE float moec_power_of_two(int32_t n) {
  return moec_float(((uint32_t)n + 127u) << 23);
}

/* ---------------------------------------------------------------- elementary functions */

/* x = n ln 2 + f, |f| <= ln 2 / 2 */
MOEC_INLINE float moec_exp_reduce(float x, int32_t *n) {
  const float j = moec_fma(1.442695f, x, 12582912.0f) - 12582912.0f;
  const float f = moec_fma(j, -6.93145752e-1f, x);
  *n = (int32_t)j;
  return moec_fma(j, -1.42860677e-6f, f);
}

MOEC_INLINE float moec_exp(float x) {
  float clamped = x > 89.0f ? 89.0f : x;
  clamped = clamped < -104.0f ? -104.0f : clamped;
  int32_t n;
  const float f = moec_exp_reduce(clamped, &n);
  float p = 1.37805939e-3f;
  p = moec_fma(p, f, 8.37312452e-3f);
  p = moec_fma(p, f, 4.16695364e-2f);
  p = moec_fma(p, f, 1.66664720e-1f);
  p = moec_fma(p, f, 4.99999851e-1f);
  p = moec_fma(p, f, 1.0f);
  p = moec_fma(p, f, 1.0f);
  /* two steps: the result may be subnormal, or 2^n itself too large */
  const int32_t half = n >> 1;
  return p * moec_power_of_two(half) * moec_power_of_two(n - half);
}

/* e^f - 1 for |f| <= ln 2 / 2 */
MOEC_INLINE float moec_expm1_reduced(float f) {
  float p = 1.98423862e-4f;
  p = moec_fma(p, f, 1.39304171e-3f);
  p = moec_fma(p, f, 8.33333358e-3f);
  p = moec_fma(p, f, 4.16664295e-2f);
  p = moec_fma(p, f, 1.66666660e-1f);
  p = moec_fma(p, f, 5.0e-1f);
  return moec_fma(p * f, f, f);
}

MOEC_INLINE float moec_expm1(float x) {
  float clamped = x > 89.0f ? 89.0f : x;
  clamped = clamped < -18.0f ? -18.0f : clamped;
  int32_t n;
  const float f = moec_exp_reduce(clamped, &n);
  const float p = moec_expm1_reduced(f);
  /* 2^n (p + 1) - 1 with the scale halved, so that n = 128 does not overflow before its time */
  const float scale = moec_power_of_two((int32_t)((uint32_t)n - 1u));
  const float result = 2.0f * moec_fma(scale, p, scale - 0.5f);
  return n == 0 ? (x == 0.0f ? x : p) : result;
}

MOEC_INLINE float moec_log(float x) {
  const int subnormal = x < 1.17549435e-38f;
  const float scaled = subnormal ? x * 8388608.0f : x;
  const uint32_t bits = moec_bits(scaled);
  /* x = 2^e (1 + m), 1 + m in [2/3, 4/3] */
  const int32_t exponent = (int32_t)(bits - 0x3f2aaaabu) >> 23;
  const float e = (float)(exponent - (subnormal ? 23 : 0));
  const float m = moec_float(bits - ((uint32_t)exponent << 23)) - 1.0f;
  const float s = m * m;
  float p = -0.130310059f, q = 0.140869141f;
  p = moec_fma(p, s, -0.121484190f);
  q = moec_fma(q, s, 0.139814854f);
  p = moec_fma(p, s, -0.166846052f);
  q = moec_fma(q, s, 0.200120345f);
  p = moec_fma(p, s, -0.249996200f);
  p = moec_fma(q, m, p);
  p = moec_fma(p, m, 0.333331972f);
  p = moec_fma(p, m, -0.5f);
  p = moec_fma(p, s, m);
  float result = moec_fma(e, 0.693147182f, p);
  result = x > 3.40282347e+38f ? x : result;
  result = x == 0.0f ? -MOEC_INFINITY : result;
  return x >= 0.0f ? result : MOEC_NAN;
}

MOEC_INLINE float moec_log1p(float x) {
  const float u = 1.0f + x;
  const float lost = x - (u - 1.0f); /* exact: what rounding took from 1 + x */
  const float correction = (u > 0.0f && u <= 3.40282347e+38f) ? lost / u : 0.0f;
  const float result = moec_log(u) + correction;
  return x == 0.0f ? x : result;
}

MOEC_INLINE float moec_tanh(float x) {
  const float magnitude = __builtin_fabsf(x);
  const float bounded = magnitude > 10.0f ? 10.0f : magnitude;
  int32_t n; /* in [0, 29]: no scale overflows, and at 0 the next line gives the reduced value itself */
  const float p = moec_expm1_reduced(moec_exp_reduce(2.0f * bounded, &n));
  const float scale = moec_power_of_two(n);
  const float e = moec_fma(scale, p, scale - 1.0f); /* e^2|x| - 1 */
  return __builtin_copysignf(e / (e + 2.0f), x);
}

/* Both polynomials are least-maximum fits: of erf(x)/x - 1 in x^2 up to 0.92, of -log(1 - erf(x))/x - 1 beyond. */
MOEC_INLINE float moec_erf(float x) {
  const float magnitude = __builtin_fabsf(x);
  const float square = magnitude * magnitude;
  float near = -5.99940424e-4f;
  near = moec_fma(near, square, 4.99483012e-3f);
  near = moec_fma(near, square, -2.67677195e-2f);
  near = moec_fma(near, square, 1.12818457e-1f);
  near = moec_fma(near, square, -3.76124978e-1f);
  near = moec_fma(near, square, 1.28379151e-1f);
  near = moec_fma(near, magnitude, magnitude);
  const float bounded = magnitude > 4.0f ? 4.0f : magnitude; /* erf(4) rounds to 1 */
  float far = 1.12314656e-5f;
  far = moec_fma(far, bounded, -3.22805397e-4f);
  far = moec_fma(far, bounded, 3.64246499e-3f);
  far = moec_fma(far, bounded, -2.37620752e-2f);
  far = moec_fma(far, bounded, 1.0623689e-1f);
  far = moec_fma(far, bounded, 6.35151327e-1f);
  far = moec_fma(far, bounded, 1.2864849e-1f);
  far = 1.0f - moec_exp(-moec_fma(far, bounded, bounded));
  const float result = magnitude <= 0.92f ? near : far;
  return x != x ? x : __builtin_copysignf(result, x);
}

MOEC_INLINE float moec_sigmoid(float x) {
  return 1.0f / (1.0f + moec_exp(-x));
}

/* x = n pi/2 + f, |f| <= pi/4, in double; good to |x| = 2^30. */
MOEC_INLINE float moec_trig_reduce(float x, int32_t *n) {
  const double wide = (double)x;
  const double j = (wide * 0.63661977236758134308 + 6755399441055744.0) - 6755399441055744.0;
  double f = __builtin_fma(j, -1.5707963267948965580, wide);
  f = __builtin_fma(j, -6.1232339957367660359e-17, f);
  *n = (int32_t)j;
  return (float)f;
}

/* sin(f + n pi/2) */
MOEC_INLINE float moec_trig(float f, int32_t n) {
  const float s = f * f;
  float sine = 2.86567956e-6f;
  sine = moec_fma(sine, s, -1.98559923e-4f);
  sine = moec_fma(sine, s, 8.33338592e-3f);
  sine = moec_fma(sine, s, -1.66666672e-1f);
  sine = moec_fma(sine, f * s, f);
  float cosine = 2.44677067e-5f;
  cosine = moec_fma(cosine, s, -1.38877297e-3f);
  cosine = moec_fma(cosine, s, 4.16666567e-2f);
  cosine = moec_fma(cosine, s, -5.0e-1f);
  cosine = moec_fma(cosine, s, 1.0f);
  const float result = (n & 1) ? cosine : sine;
  return (n & 2) ? -result : result;
}

MOEC_INLINE float moec_sin(float x) {
  int32_t n;
  const float f = moec_trig_reduce(x, &n);
  return moec_trig(f, n);
}

MOEC_INLINE float moec_cos(float x) {
  int32_t n;
  const float f = moec_trig_reduce(x, &n);
  return moec_trig(f, (int32_t)((uint32_t)n + 1u));
}

/* ---------------------------------------------------------------- random draws */

/* Philox 4x32-10 (Salmon et al. 2011) of counter (element low, element high, tag, step) and key seed; element is
 * base + column. The first output word x gives u = ((x >> 9) + 0.5) 2^-23, exact and never 0 or 1. */
MOEC_INLINE float moec_uniform(uint64_t seed, uint64_t base, uint32_t column, uint32_t tag, uint32_t step) {
  uint32_t c0 = (uint32_t)base + column;
  uint32_t c1 = (uint32_t)(base >> 32) + (c0 < column);
  uint32_t c2 = tag, c3 = step;
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return ((float)(int32_t)(c0 >> 9) + 0.5f) * 1.1920928955078125e-7f;
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
MOEC_INLINE void moec_topk_mask(const float *x, int columns, int k, float *mask) {
  for (int c = 0; c < columns; c++)
    mask[c] = 0.0f;
  for (int taken = 0; taken < k; taken++) {
    int best = -1;
    for (int c = 0; c < columns; c++)
      if (mask[c] == 0.0f && (best < 0 || x[c] > x[best]))
        best = c;
    mask[best] = 1.0f;
  }
}

/* Adds the partial sums of all blocks, in order, to those of block 0, for columns from .. to. */
MOEC_INLINE void moec_add_blocks(float *partial, int64_t blocks, int64_t columns, int64_t from, int64_t to) {
  for (int64_t block = 1; block < blocks; block++) {
    const float *other = partial + block * columns;
#pragma omp simd
    for (int64_t c = from; c < to; c++)
      partial[c] += other[c];
  }
}

/* y[i] = sum over d of x[d] w[i][d]: n products of one row, four at a time. */
#define MOEC_MATVEC(name, type, value)                                                                                 \
  MOEC_INLINE void name(const float *x, const type *w, int64_t ld, int n, int depth, float *y) {                       \
    int i = 0;                                                                                                         \
    for (; i + 4 <= n; i += 4) {                                                                                       \
      const type *w0 = w + i * ld, *w1 = w0 + ld, *w2 = w1 + ld, *w3 = w2 + ld;                                        \
      float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;                                                                \
      _Pragma("omp simd reduction(+ : s0, s1, s2, s3)") for (int d = 0; d < depth; d++) {                              \
        s0 += x[d] * value(w0[d]);                                                                                     \
        s1 += x[d] * value(w1[d]);                                                                                     \
        s2 += x[d] * value(w2[d]);                                                                                     \
        s3 += x[d] * value(w3[d]);                                                                                     \
      }                                                                                                                \
      y[i] = s0, y[i + 1] = s1, y[i + 2] = s2, y[i + 3] = s3;                                                          \
    }                                                                                                                  \
    for (; i < n; i++) {                                                                                               \
      float s = 0.0f;                                                                                                  \
      _Pragma("omp simd reduction(+ : s)") for (int d = 0; d < depth; d++) s += x[d] * value(w[i * ld + d]);           \
      y[i] = s;                                                                                                        \
    }                                                                                                                  \
  }

/* y[i] = sum over d of x[d] w[d][i] */
#define MOEC_VECMAT(name, type, value)                                                                                 \
  MOEC_INLINE void name(const float *x, const type *w, int64_t ld, int n, int depth, float *y) {                       \
    for (int i = 0; i < n; i++)                                                                                        \
      y[i] = 0.0f;                                                                                                     \
    for (int d = 0; d < depth; d++) {                                                                                  \
      const float scale = x[d];                                                                                        \
      _Pragma("omp simd") for (int i = 0; i < n; i++) y[i] += scale * value(w[d * ld + i]);                            \
    }                                                                                                                  \
  }

MOEC_MATVEC(moec_matvec, float, )
MOEC_MATVEC(moec_matvec_bf16, uint16_t, moec_from_bf16)
MOEC_VECMAT(moec_vecmat, float, )
MOEC_VECMAT(moec_vecmat_bf16, uint16_t, moec_from_bf16)

#endif
