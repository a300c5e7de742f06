/* The attention kernels for bf16 data on CPUs with AVX512_BF16: flash attention over one head of one segment, forward
 * and backward, with products of bf16 pairs summed in f32 (vdpbf16ps). Probabilities and the gradients of scores are
 * rounded to bf16 before they are multiplied; sums, maxima, exponentials and accumulators are f32.
 *
 * Blocks of 64 queries by 64 keys as in attention_kernels.h. All products have the form
 * C[r][:] += sum over pairs k of A(r,k) . B[k][:]: A is a broadcast pair of bf16, a vector of B holds the same pair of
 * rows for 16 columns. So a matrix is stored in up to three ways, each 4 bytes (a Pair) per two elements:
 *   rows    [row][column pair]      as in memory; A where columns are summed over
 *   paired  [row pair][column]      B, or A transposed, where rows are summed over
 *   turned  [column pair][row]      B where columns are summed over: the transpose of `rows`, Pair by Pair
 * Strides of heads are `padded` elements; what is behind the head or the segment is zero, so that odd counts need no
 * care. The order of every sum is fixed by the segment alone, so results do not depend on threads. */
#pragma GCC target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")
#include "runtime/cpu/attention_avx512.h"
#include "runtime/cpu/attention_vector.h"

typedef uint32_t Pair __attribute__((may_alias)); /* the same memory is read as bf16, too */

/* ---------------------------------------------------------------- products */

/* rows x lanes of C in registers, both constants at every call; `depth` counts pairs. */
INLINE void product_tile(const int rows, const int lanes, int64_t depth, const Pair *a, int64_t row_stride,
                         int64_t depth_stride, const Pair *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  __m512 sum[16][4];
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int l = 0; l < lanes; l++)
      sum[r][l] = add ? _mm512_load_ps(c + r * ldc + l * VECTOR) : _mm512_setzero_ps();
  for (int64_t k = 0; k < depth; k++) {
    __m512bh row[4];
#pragma GCC unroll 4
    for (int l = 0; l < lanes; l++)
      row[l] = (__m512bh)_mm512_load_si512(b + k * ldb + l * VECTOR);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      __m512bh factor = (__m512bh)_mm512_set1_epi32((int)a[r * row_stride + k * depth_stride]);
#pragma GCC unroll 4
      for (int l = 0; l < lanes; l++)
        sum[r][l] = _mm512_dpbf16_ps(sum[r][l], factor, row[l]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int l = 0; l < lanes; l++)
      _mm512_store_ps(c + r * ldc + l * VECTOR, sum[r][l]);
}

/* Some lanes of C, all its rows; the fewer lanes, the more rows at once: enough sums to hide the latency of one. */
INLINE void product_lanes(const int lanes, int64_t rows, int64_t depth, const Pair *a, int64_t row_stride,
                          int64_t depth_stride, const Pair *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  const int tile = lanes >= 3 ? 4 : lanes == 2 ? 8 : 16;
  for (int64_t r = 0; r < rows; r += tile)
    product_tile(tile, lanes, depth, a + r * row_stride, row_stride, depth_stride, b, ldb, c + r * ldc, ldc, add);
}

/* C[rows, columns] (+)= A B, A(r,k) = a[r*row_stride + k*depth_stride]. rows, columns: multiples of VECTOR. */
static void product(int64_t rows, int64_t columns, int64_t depth, const Pair *a, int64_t row_stride,
                    int64_t depth_stride, const Pair *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  for (; columns >= 4 * VECTOR; columns -= 4 * VECTOR, b += 4 * VECTOR, c += 4 * VECTOR)
    product_lanes(4, rows, depth, a, row_stride, depth_stride, b, ldb, c, ldc, add);
  if (columns == 3 * VECTOR)
    product_lanes(3, rows, depth, a, row_stride, depth_stride, b, ldb, c, ldc, add);
  else if (columns == 2 * VECTOR)
    product_lanes(2, rows, depth, a, row_stride, depth_stride, b, ldb, c, ldc, add);
  else if (columns == VECTOR)
    product_lanes(1, rows, depth, a, row_stride, depth_stride, b, ldb, c, ldc, add);
}

/* ---------------------------------------------------------------- workspace and packing */

/* The head's sizes. padded: the stride of rows, a multiple of 32 so that Pairs turn in tiles of 16; columns: of C. */
typedef struct Head {
  int64_t index, size, padded, columns;
} Head;

static Head head_of(int64_t index, int64_t size) {
  return (Head){.index = index, .size = size, .padded = round_up(size, 32), .columns = round_up(size, VECTOR)};
}

typedef struct Work {
  Pair *key_rows, *key_paired, *value_rows, *value_paired; /* the segment */
  float *dkey, *dvalue;
  Pair *query_rows, *query_paired, *query_turned, *dout_rows, *dout_paired, *dout_turned, *out_rows; /* a block */
  float *out, *dquery;                           /* a block, f32 [query][padded] */
  float *score, *dscore;                         /* forward: a block of scores; backward: GROUP keys of it */
  Pair *p_paired, *p_rows, *ds_paired, *ds_rows; /* a block, by key */
  _Alignas(64) float lse[BLOCK];                 /* base 2 */
  _Alignas(64) float delta[BLOCK];               /* sum of o * do */
} Work;

/* Cuts the memory at `base` (none: only counts) and returns how many floats it took. */
static int64_t cut_workspace(Work *w, float *base, int64_t length, int64_t padded) {
  int64_t rows = round_up(length, BLOCK) * padded, block = BLOCK * padded;
  struct {
    Pair **start;
    int64_t elements;
  } const packed[] = {
      {&w->key_rows, rows},          {&w->key_paired, rows},       {&w->value_rows, rows},
      {&w->value_paired, rows},      {&w->query_rows, block},      {&w->query_paired, block},
      {&w->query_turned, block},     {&w->dout_rows, block},       {&w->dout_paired, block},
      {&w->dout_turned, block},      {&w->out_rows, block},        {&w->p_rows, BLOCK * BLOCK},
      {&w->p_paired, BLOCK * BLOCK}, {&w->ds_rows, BLOCK * BLOCK}, {&w->ds_paired, BLOCK * BLOCK},
  };
  struct {
    float **start;
    int64_t elements;
  } const sums[] = {
      {&w->dkey, rows},    {&w->dvalue, rows},         {&w->out, block},
      {&w->dquery, block}, {&w->score, BLOCK * BLOCK}, {&w->dscore, GROUP * BLOCK},
  };
  int64_t at = 0;
  for (size_t i = 0; i < sizeof packed / sizeof *packed; at += packed[i++].elements / 2)
    *packed[i].start = base ? (Pair *)(base + at) : NULL;
  for (size_t i = 0; i < sizeof sums / sizeof *sums; at += sums[i++].elements)
    *sums[i].start = base ? base + at : NULL;
  return at;
}

static int64_t workspace(int64_t length, int64_t head) {
  Work work;
  return cut_workspace(&work, NULL, length, head_of(0, head).padded);
}

/* The head's part of rows begin .. begin+count, zero behind it and up to `rows` rows. */
static void pack_rows(const CpuMatrix *from, int64_t begin, int64_t count, int64_t rows, Head head, Pair *to) {
  uint16_t *row = (uint16_t *)to;
  for (int64_t r = 0; r < count; r++, row += head.padded) {
    memcpy(row, (const uint16_t *)from->data + (begin + r) * from->ld + head.index * head.size,
           (size_t)head.size * sizeof *row);
    if (head.padded > head.size)
      memset(row + head.size, 0, (size_t)(head.padded - head.size) * sizeof *row);
  }
  memset(row, 0, (size_t)((rows - count) * head.padded) * sizeof *row);
}

static void pair_rows(const Pair *from, int64_t rows, Head head, Pair *to) {
  const uint16_t *first = (const uint16_t *)from;
  for (int64_t r = 0; r < rows; r += 2, first += 2 * head.padded, to += head.padded)
    for (int64_t c = 0; c < head.padded; c++)
      to[c] = first[c] | (Pair)first[head.padded + c] << 16;
}

static void turn_block(const Pair *from, Head head, Pair *to) {
  for (int64_t c = 0; c < head.padded / 2; c += VECTOR)
    for (int64_t r = 0; r < BLOCK; r += VECTOR) {
      Vector tile[VECTOR];
#pragma GCC unroll 16
      for (int i = 0; i < VECTOR; i++)
        tile[i] = *(const Vector *)(from + (r + i) * (head.padded / 2) + c);
      transpose_vectors(tile);
#pragma GCC unroll 16
      for (int i = 0; i < VECTOR; i++)
        *(Vector *)(to + (c + i) * BLOCK + r) = tile[i];
    }
}

/* Two rows of a block, 16 columns from `column`, to `rows` (where wanted) and to `paired`. */
INLINE void store_rounded(Vector even, Vector odd, int64_t row, int64_t column, Pair *rows, Pair *paired) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  if (rows) {
    uint16_t *at = (uint16_t *)rows + row * BLOCK + column;
    _mm256_store_si256((__m256i *)at, _mm512_castsi512_si256(both));
    _mm256_store_si256((__m256i *)(at + BLOCK), _mm512_extracti64x4_epi64(both, 1));
  }
  if (paired)
    _mm512_store_si512(paired + row / 2 * BLOCK + column, _mm512_permutexvar_epi16(interleave, both));
}

/* C[query][:] += sum over keys of A[key][query] * B[key], A and B paired; in the diagonal block keys up to the query's
 * group. */
static void query_product(int64_t queries, int64_t keys, Head head, const Pair *a, const Pair *b, bool diagonal,
                          float *c, bool add) {
  if (!diagonal) {
    product(round_up(queries, GROUP), head.columns, (keys + 1) / 2, a, 1, BLOCK, b, head.padded, c, head.padded, add);
    return;
  }
  for (int64_t g = 0; g < queries; g += GROUP)
    product(GROUP, head.columns, ((keys < g + GROUP ? keys : g + GROUP) + 1) / 2, a + g, 1, BLOCK, b, head.padded,
            c + g * head.padded, head.padded, add);
}

/* C[key][:] += sum over queries of A[key][query] * B[query], A rows, B paired; in the diagonal block queries from the
 * group on. */
static void key_product(int64_t queries, int64_t keys, Head head, const Pair *a, const Pair *b, bool diagonal,
                        float *c) {
  if (!diagonal) {
    product(round_up(keys, GROUP), head.columns, (queries + 1) / 2, a, BLOCK / 2, 1, b, head.padded, c, head.padded,
            true);
    return;
  }
  for (int64_t g = 0; g < keys; g += GROUP)
    product(GROUP, head.columns, (queries - g + 1) / 2, a + g * BLOCK / 2 + g / 2, BLOCK / 2, 1,
            b + g / 2 * head.padded, head.padded, c + g * head.padded, head.padded, true);
}

/* ---------------------------------------------------------------- forward */

/* C[key][query] of a block; in the diagonal block only queries from the key's group on. */
static void score_block(int64_t keys, Head head, const Pair *key, const Pair *query_turned, bool diagonal,
                        float *score) {
  int64_t depth = (head.size + 1) / 2;
  if (!diagonal) {
    product(round_up(keys, GROUP), BLOCK, depth, key, head.padded / 2, 1, query_turned, BLOCK, score, BLOCK, false);
    return;
  }
  for (int64_t g = 0; g < keys; g += GROUP)
    product(GROUP, BLOCK - g, depth, key + g * head.padded / 2, head.padded / 2, 1, query_turned + g, BLOCK,
            score + g * BLOCK + g, BLOCK, false);
  mask_diagonal(keys, score);
}

/* Scores to exponentials of `scale` times them; running.rescale is the factor of what was summed before. */
static void softmax_block(int64_t keys, bool diagonal, float scale, const Work *w, Running *running) {
  for (int lane = 0; lane < LANES; lane++) {
    const float *column = w->score + lane * VECTOR;
    int64_t count = keys_of_lane(keys, lane, diagonal);
    Vector maximum = running->maximum[lane], sum = splat(0);
    for (int64_t j = 0; j < count; j++)
      maximum = VECTOR_MAX(maximum, *(const Vector *)(column + j * BLOCK));
    for (int64_t j = 0; j < count; j += 2, column += 2 * BLOCK) {
      Vector even = exp2_vector(scale * (*(const Vector *)column - maximum)), odd = splat(0);
      if (j + 1 < count)
        odd = exp2_vector(scale * (*(const Vector *)(column + BLOCK) - maximum));
      sum += even + odd;
      store_rounded(even, odd, j, lane * VECTOR, NULL, w->p_paired);
    }
    running->rescale[lane] = exp2_vector(scale * (running->maximum[lane] - maximum));
    running->sum[lane] = running->sum[lane] * running->rescale[lane] + sum;
    running->maximum[lane] = maximum;
  }
}

/* Divides by the sums; writes o and the logarithms. */
static void finish_block(const CpuAttention *a, Head head, int64_t first, int64_t queries, float scale,
                         const Running *running, float *out) {
  _Alignas(64) float inverse[BLOCK];
  const float *maximum = (const float *)running->maximum, *sum = (const float *)running->sum;
  for (int64_t i = 0; i < queries; i++) {
    inverse[i] = 1 / sum[i];
    a->lse[(first + i) * a->heads + head.index] = (scale * maximum[i] + log2f(sum[i])) * LN_2;
  }
  rescale_rows(queries, head.padded, inverse, out);
  unpack_rows(out, head.padded, 1, queries, &a->o, PLAN_BF16, first, head.index * head.size, head.size);
}

static void forward(const CpuAttention *a, const AttentionTask *task, float *memory) {
  Head head = head_of(task->head, a->head);
  int64_t last = a->causal && task->block_end * BLOCK < task->length ? task->block_end * BLOCK : task->length;
  int64_t rows = round_up(last, BLOCK);
  float scale = LOG2_E / sqrtf((float)a->head);
  Work w;
  cut_workspace(&w, memory, task->length, head.padded);
  pack_rows(&a->k, task->begin, last, rows, head, w.key_rows);
  pack_rows(&a->v, task->begin, last, rows, head, w.value_rows);
  pair_rows(w.value_rows, rows, head, w.value_paired);
  for (int64_t block = task->block_begin; block < task->block_end; block++) {
    int64_t first = task->begin + block * BLOCK;
    int64_t queries = task->length - block * BLOCK < BLOCK ? task->length - block * BLOCK : BLOCK;
    Running running = start_running();
    pack_rows(&a->q, first, queries, BLOCK, head, w.query_rows);
    turn_block(w.query_rows, head, w.query_turned);
    int64_t key_end = a->causal ? block * BLOCK + queries : task->length;
    for (int64_t k = 0; k < key_end; k += BLOCK) {
      int64_t keys = key_end - k < BLOCK ? key_end - k : BLOCK;
      bool diagonal = a->causal && k == block * BLOCK;
      score_block(keys, head, w.key_rows + k * head.padded / 2, w.query_turned, diagonal, w.score);
      softmax_block(keys, diagonal, scale, &w, &running);
      if (k)
        rescale_rows(queries, head.padded, (const float *)running.rescale, w.out);
      query_product(queries, keys, head, w.p_paired, w.value_paired + k * head.padded / 2, diagonal, w.out, k > 0);
    }
    finish_block(a, head, first, queries, scale, &running, w.out);
  }
}

/* ---------------------------------------------------------------- backward */

static void load_queries(const CpuAttention *a, Head head, int64_t first, int64_t queries, Work *w) {
  pack_rows(&a->q, first, queries, BLOCK, head, w->query_rows);
  pack_rows(&a->dout, first, queries, BLOCK, head, w->dout_rows);
  pack_rows(&a->o, first, queries, BLOCK, head, w->out_rows);
  pair_rows(w->query_rows, BLOCK, head, w->query_paired);
  pair_rows(w->dout_rows, BLOCK, head, w->dout_paired);
  turn_block(w->query_rows, head, w->query_turned);
  turn_block(w->dout_rows, head, w->dout_turned);
  for (int64_t i = 0; i < BLOCK; i++) {
    __m512 delta = _mm512_setzero_ps();
    for (int64_t c = i * head.padded / 2; c < (i + 1) * head.padded / 2; c += VECTOR)
      delta = _mm512_dpbf16_ps(delta, (__m512bh)_mm512_load_si512(w->dout_rows + c),
                               (__m512bh)_mm512_load_si512(w->out_rows + c));
    w->delta[i] = _mm512_reduce_add_ps(delta);
    w->lse[i] = i < queries ? a->lse[(first + i) * a->heads + head.index] * LOG2_E : 0;
  }
}

/* One group of keys of a block, from key g on: probabilities, and p * (dp - delta), the gradient of the scaled scores,
 * rounded into the block's matrices. */
static void gradient_group(int64_t g, int64_t keys, bool diagonal, float scale, const Work *w) {
  for (int lane = diagonal ? (int)(g / GROUP) : 0; lane < LANES; lane++) {
    int64_t column = lane * VECTOR;
    Vector lse = *(const Vector *)(w->lse + column), delta = *(const Vector *)(w->delta + column);
    for (int64_t j = 0; j < GROUP && g + j < keys; j += 2) {
      const float *score = w->score + j * BLOCK + column, *dscore = w->dscore + j * BLOCK + column;
      Vector p[2] = {exp2_vector(scale * *(const Vector *)score - lse), splat(0)};
      Vector ds[2] = {p[0] * (*(const Vector *)dscore - delta), splat(0)};
      if (g + j + 1 < keys) {
        p[1] = exp2_vector(scale * *(const Vector *)(score + BLOCK) - lse);
        ds[1] = p[1] * (*(const Vector *)(dscore + BLOCK) - delta);
      }
      store_rounded(p[0], p[1], g + j, column, w->p_rows, NULL);
      store_rounded(ds[0], ds[1], g + j, column, w->ds_rows, w->ds_paired);
    }
  }
}

/* p and ds of a block, group by group, so that their scores in f32 stay in the nearest cache. */
static void gradient_block(int64_t keys, Head head, const Pair *key, const Pair *value, bool diagonal, float scale,
                           const Work *w) {
  int64_t depth = (head.size + 1) / 2, stride = head.padded / 2;
  for (int64_t g = 0; g < keys; g += GROUP) {
    int64_t from = diagonal ? g : 0;
    product(GROUP, BLOCK - from, depth, key + g * stride, stride, 1, w->query_turned + from, BLOCK, w->score + from,
            BLOCK, false);
    product(GROUP, BLOCK - from, depth, value + g * stride, stride, 1, w->dout_turned + from, BLOCK, w->dscore + from,
            BLOCK, false);
    if (diagonal)
      mask_diagonal(GROUP, w->score + from);
    gradient_group(g, keys, diagonal, scale, w);
  }
}

static void gradient(const CpuAttention *a, const AttentionTask *task, float *memory) {
  Head head = head_of(task->head, a->head);
  int64_t rows = round_up(task->length, BLOCK), column = task->head * a->head;
  float scale = 1 / sqrtf((float)a->head);
  Work w;
  cut_workspace(&w, memory, task->length, head.padded);
  pack_rows(&a->k, task->begin, task->length, rows, head, w.key_rows);
  pack_rows(&a->v, task->begin, task->length, rows, head, w.value_rows);
  pair_rows(w.key_rows, rows, head, w.key_paired);
  memset(w.dkey, 0, (size_t)(rows * head.padded) * sizeof *w.dkey);
  memset(w.dvalue, 0, (size_t)(rows * head.padded) * sizeof *w.dvalue);
  for (int64_t i = 0; i < task->length; i += BLOCK) {
    int64_t queries = task->length - i < BLOCK ? task->length - i : BLOCK;
    int64_t key_end = a->causal ? i + queries : task->length;
    load_queries(a, head, task->begin + i, queries, &w);
    for (int64_t k = 0; k < key_end; k += BLOCK) {
      int64_t keys = key_end - k < BLOCK ? key_end - k : BLOCK, at = k * head.padded;
      bool diagonal = a->causal && k == i;
      gradient_block(keys, head, w.key_rows + at / 2, w.value_rows + at / 2, diagonal, scale * LOG2_E, &w);
      key_product(queries, keys, head, w.p_rows, w.dout_paired, diagonal, w.dvalue + at);
      key_product(queries, keys, head, w.ds_rows, w.query_paired, diagonal, w.dkey + at);
      query_product(queries, keys, head, w.ds_paired, w.key_paired + at / 2, diagonal, w.dquery, k > 0);
    }
    unpack_rows(w.dquery, head.padded, scale, queries, &a->dq, PLAN_BF16, task->begin + i, column, a->head);
  }
  unpack_rows(w.dkey, head.padded, scale, task->length, &a->dk, PLAN_BF16, task->begin, column, a->head);
  unpack_rows(w.dvalue, head.padded, 1, task->length, &a->dv, PLAN_BF16, task->begin, column, a->head);
}

const AttentionKernels attention_kernels_bf16 = {.workspace = workspace, .forward = forward, .gradient = gradient};
