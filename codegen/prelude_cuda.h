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
  return (uint16_t)moec_pack_bf16(x, 0.0f);
}

/* Of a number that is one of bf16. */
MOEC_INLINE uint16_t moec_bf16_bits(float x) {
  return (uint16_t)(__float_as_uint(x) >> 16);
}

MOEC_INLINE float moec_round_bf16(float x) {
  return moec_from_bf16(moec_to_bf16(x));
}

/* ---------------------------------------------------------------- several columns at a time */

/* WIDTH elements as they stand in memory. Side by side they are read and written by accesses of up to 16 bytes, to
 * which their address is aligned. */
template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH < 16 ? sizeof(T) * WIDTH : 16) moec_vector {
  T at[WIDTH];
};

template <int WIDTH, class T> MOEC_INLINE moec_vector<T, WIDTH> moec_load(const T *from) {
  return *reinterpret_cast<const moec_vector<T, WIDTH> *>(from);
}
template <int WIDTH, class T> MOEC_INLINE void moec_store(T *to, const moec_vector<T, WIDTH> &x) {
  *reinterpret_cast<moec_vector<T, WIDTH> *>(to) = x;
}

/* Elements STRIDE apart, of which those in front of `end` are there. */
template <int WIDTH, int STRIDE, class T> MOEC_INLINE moec_vector<T, WIDTH> moec_load_strided(const T *from, int end) {
  moec_vector<T, WIDTH> x;
#pragma unroll
  for (int i = 0; i < WIDTH; i++)
    x.at[i] = i * STRIDE < end ? from[i * STRIDE] : T(0);
  return x;
}
template <int STRIDE, int WIDTH, class T>
MOEC_INLINE void moec_store_strided(T *to, const moec_vector<T, WIDTH> &x, int end) {
#pragma unroll
  for (int i = 0; i < WIDTH; i++)
    if (i * STRIDE < end)
      to[i * STRIDE] = x.at[i];
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
/* Without branches: an odd polynomial near 0, where 1 - 2 / (e^2x + 1) cancels. Relative error below 5e-7. */
MOEC_INLINE float moec_tanh(float x) {
  const float y = x * x;
  float series = fmaf(-5.91984199e-3f, y, 2.08182379e-2f);
  series = fmaf(series, y, -5.37908205e-2f);
  series = fmaf(series, y, 1.33320120e-1f);
  series = fmaf(series, y, -3.33333015e-1f);
  const float power = moec_exp2(fabsf(x) * 2.88539008f); /* e^2|x| */
  const float far = 1.0f - __fdividef(2.0f, power + 1.0f);
  return y < 0.36f ? fmaf(series * y, x, x) : copysignf(far, x);
}
/* For what is added to 1: absolute error below 5e-7, in half the instructions. */
MOEC_INLINE float moec_tanh_near_one(float x) {
  return 1.0f - __fdividef(2.0f, moec_exp2(x * 2.88539008f) + 1.0f);
}
MOEC_INLINE float moec_erf(float x) {
  return erff(x);
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

/* y[i] = sum over d of x[d] w[i][d]: a warp for PRODUCTS i at a time, which share what it reads of x. WIDTH divides
 * depth, and rows of x and w allow vectors of so many elements. */
template <int TEAM, int WIDTH, class W>
MOEC_INLINE void moec_matvec(const float *x, const W *w, int64_t ld, int n, int depth, float *y, int lane) {
  const int PRODUCTS = 4;
  for (int first = lane / 32 * PRODUCTS; first < n; first += TEAM / 32 * PRODUCTS) {
    float sum[PRODUCTS] = {};
    for (int d = (lane & 31) * WIDTH; d < depth; d += 32 * WIDTH) {
      const auto x_v = moec_load<WIDTH>(x + d);
#pragma unroll
      for (int p = 0; p < PRODUCTS; p++) {
        if (first + p < n) {
          const auto w_v = moec_load<WIDTH>(w + (first + p) * ld + d);
#pragma unroll
          for (int i = 0; i < WIDTH; i++)
            sum[p] += x_v.at[i] * moec_value(w_v.at[i]);
        }
      }
    }
#pragma unroll
    for (int p = 0; p < PRODUCTS; p++) {
      sum[p] = moec_team_join<32, moec_sum_of, float>(sum[p]);
      if ((lane & 31) == 0 && first + p < n)
        y[first + p] = sum[p];
    }
  }
}

/* y[i] = sum over d of x[d] w[d][i]: a thread for each i. */
template <int TEAM, int WIDTH, class W>
MOEC_INLINE void moec_vecmat(const float *x, const W *w, int64_t ld, int n, int depth, float *y, int lane) {
  for (int i = lane; i < n; i += TEAM) {
    float sum = 0.0f;
    for (int d = 0; d < depth; d++)
      sum += x[d] * moec_value(w[d * ld + i]);
    y[i] = sum;
  }
}

template <int TEAM, int WIDTH>
MOEC_INLINE void moec_matvec_bf16(const float *x, const uint16_t *w, int64_t ld, int n, int depth, float *y, int lane) {
  moec_matvec<TEAM, WIDTH, uint16_t>(x, w, ld, n, depth, y, lane);
}
template <int TEAM, int WIDTH>
MOEC_INLINE void moec_vecmat_bf16(const float *x, const uint16_t *w, int64_t ld, int n, int depth, float *y, int lane) {
  moec_vecmat<TEAM, WIDTH, uint16_t>(x, w, ld, n, depth, y, lane);
}

/* ---------------------------------------------------------------- sums over rows */

MOEC_INLINE void moec_put(float *to, float x) {
  *to = x;
}
MOEC_INLINE void moec_put(uint16_t *to, float x) {
  *to = moec_to_bf16(x);
}

/* out[c] = the sum of partial[block][c] over the blocks, by the 256 threads of a block, COLUMNS columns at a time: each
 * thread adds every (256 / COLUMNS)th block, in order, and their sums are joined in a tree. */
template <int COLUMNS, class OUT>
MOEC_INLINE void moec_finish_sum(const float *partial, int64_t blocks, int columns, OUT *out) {
  __shared__ float of_thread[256];
  const int stretches = 256 / COLUMNS, column = threadIdx.x % COLUMNS;
  for (int from = blockIdx.x * COLUMNS; from < columns; from += gridDim.x * COLUMNS) {
    const int c = from + column;
    float sum = 0.0f;
    if (c < columns) {
#pragma unroll 8
      for (int64_t block = threadIdx.x / COLUMNS; block < blocks; block += stretches)
        sum += partial[block * columns + c];
    }
    of_thread[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half >= COLUMNS; half /= 2) {
      if (threadIdx.x < half)
        of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x < COLUMNS && c < columns)
      moec_put(out + c, of_thread[threadIdx.x]);
    __syncthreads();
  }
}
