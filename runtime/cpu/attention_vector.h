/* What the attention kernels of every level share: vectors, powers of 2, the square of scores. Included by
 * attention_kernels.h (f32 products) and attention_bf16.c; the translation unit defines VECTOR (floats of a vector),
 * VECTOR_MAX, INTERLEAVE_LOW and INTERLEAVE_HIGH.
 *
 * Scores are held transposed, S[key][query]: the vectors ("lanes") run over queries, which makes the softmax's maxima
 * and sums vertical. Causal: blocks above the diagonal are not visited; in the diagonal block work is cut to groups of
 * GROUP rows, and only the scores of one group against itself need a mask. */

#include <math.h>
#include <string.h>

#include "runtime/cpu/attention.h"

typedef float Vector __attribute__((vector_size(VECTOR * 4), may_alias));
typedef int32_t IntVector __attribute__((vector_size(VECTOR * 4), may_alias));

enum {
  BLOCK = ATTENTION_BLOCK,
  LANES = BLOCK / VECTOR, /* vectors of a row of scores */
  GROUP = VECTOR          /* rows of a step along the diagonal: scores of one vector there are masked, no others */
};

#define LOG2_E 1.44269504088896341f
#define LN_2 0.69314718055994531f

#define INLINE static inline __attribute__((always_inline))

INLINE Vector splat(float value) {
  return value - (Vector){0};
}

/* 2^x for x <= 0: relative error below 2e-7; 0 for x <= -127; NaN stays NaN. */
INLINE Vector exp2_vector(Vector x) {
  const Vector magic = splat(0x1.8p23f);
  x = VECTOR_MAX(splat(-127.0f), x); /* the second operand wins when it is NaN */
  Vector shifted = x + magic, f = x - (shifted - magic);
  Vector p = splat(1.535336188319500e-4f);
  p = p * f + splat(1.339887440266574e-3f);
  p = p * f + splat(9.618437357674640e-3f);
  p = p * f + splat(5.550332471162809e-2f);
  p = p * f + splat(2.402264791363012e-1f);
  p = p * f + splat(6.931472028550421e-1f);
  p = p * f + splat(1.0f);
  return (Vector)((IntVector)p + ((IntVector)shifted << 23));
}

INLINE int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/* vector[c][r] = vector[r][c]: log2(VECTOR) rounds of interleaving the two halves. */
INLINE void transpose_vectors(Vector vector[VECTOR]) {
  const IntVector low = INTERLEAVE_LOW, high = INTERLEAVE_HIGH;
  Vector next[VECTOR];
#pragma GCC unroll 4
  for (int round = 1; round < VECTOR; round *= 2) {
#pragma GCC unroll 8
    for (int r = 0; r < VECTOR / 2; r++) {
      next[2 * r] = __builtin_shuffle(vector[r], vector[r + VECTOR / 2], low);
      next[2 * r + 1] = __builtin_shuffle(vector[r], vector[r + VECTOR / 2], high);
    }
#pragma GCC unroll 16
    for (int r = 0; r < VECTOR; r++)
      vector[r] = next[r];
  }
}

/* `scale` times rows of f32 [count][padded], back to their place and type. */
static void unpack_rows(const float *from, int64_t padded, float scale, int64_t count, const CpuMatrix *to,
                        PlanType type, int64_t begin, int64_t column, int64_t columns) {
  for (int64_t r = 0; r < count; r++, from += padded) {
    int64_t at = (begin + r) * to->ld + column;
    if (type == PLAN_BF16)
      for (int64_t c = 0; c < columns; c++)
        ((uint16_t *)to->data)[at + c] = cpu_to_bf16(scale * from[c]);
    else
      for (int64_t c = 0; c < columns; c++)
        ((float *)to->data)[at + c] = scale * from[c];
  }
}

/* In the diagonal block: queries before the key, as far as the softmax reads them. */
static void mask_diagonal(int64_t keys, float *score) {
  for (int64_t j = 0; j < keys; j++)
    for (int64_t i = j / VECTOR * VECTOR; i < j; i++)
      score[j * BLOCK + i] = -1e30f;
}

/* Keys that vector `lane` of the queries sees. */
INLINE int64_t keys_of_lane(int64_t keys, int lane, bool diagonal) {
  int64_t limit = (lane + 1) * VECTOR;
  return diagonal && limit < keys ? limit : keys;
}

static void rescale_rows(int64_t rows, int64_t padded, const float *factor, float *c) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t l = 0; l < padded; l += VECTOR)
      *(Vector *)(c + r * padded + l) *= splat(factor[r]);
}

/* What is known of each query of the block so far: maximum of its scores (f32: base 2; bf16: the products with keys)
 * and sum of exponentials; `rescale`: the factor of what was summed before the last block of keys. */
typedef struct Running {
  Vector maximum[LANES], sum[LANES], rescale[LANES];
} Running;

static Running start_running(void) {
  Running running;
  for (int lane = 0; lane < LANES; lane++) {
    running.maximum[lane] = splat(-1e30f);
    running.sum[lane] = splat(0);
  }
  return running;
}
