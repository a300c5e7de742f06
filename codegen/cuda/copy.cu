/* Rows from one place to another.
 *
 * Macros: WORD, the bytes of one access: 2, 4, 8 or 16, which divide every address and stride. Launched with any number
 * of blocks and threads. `words`: accesses per row; the strides between rows are in words too. */
#if WORD == 16
typedef uint4 moec_word;
#elif WORD == 8
typedef uint2 moec_word;
#elif WORD == 4
typedef uint32_t moec_word;
#else
typedef uint16_t moec_word;
#endif

extern "C" __global__ void KERNEL(const moec_word *from, moec_word *to, const int32_t *live, int64_t bound,
                                  int64_t words, int64_t from_stride, int64_t to_stride) {
  const int64_t count = (live ? *live : bound) * words, threads = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += threads) {
    const int64_t row = i / words, word = i - row * words;
    to[row * to_stride + word] = from[row * from_stride + word];
  }
}
