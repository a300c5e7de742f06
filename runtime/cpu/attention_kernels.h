/* Flash attention over one head of one segment, forward and backward; included by attention_v3.c and attention_v4.c,
 * which define VECTOR (floats of a vector), VECTOR_MAX, INTERLEAVE_LOW, INTERLEAVE_HIGH and KERNELS.
 *
 * Everything works on blocks of 64 queries by 64 keys, packed as f32 into the thread's workspace, so that no product
 * meets a stride. Scores are held transposed, S[key][query]: the vectors run over queries, which makes the softmax's
 * maxima and sums vertical, and all five products have the one form C[r][:] += A(r,k) * B[k][:] with A broadcast.
 * The scale and log2(e) are folded into the queries, exponentials are powers of 2.
 *
 * Causal: blocks above the diagonal are not visited; in the diagonal block work is cut to groups of VECTOR rows.
 * The order of every sum is fixed by the segment alone, so results do not depend on threads. */

#include "runtime/cpu/attention_vector.h"

enum {
  TILE_ROWS = 4, /* rows and vectors of C held in registers: 16 of 32, or 8 of 16 */
  TILE_LANES = VECTOR / 4,
};

/* ---------------------------------------------------------------- products */

/* TILE_ROWS x lanes of C in registers; `lanes` is a constant at every call. */
INLINE void product_tile(const int lanes, int64_t depth, const float *a, int64_t row_stride, int64_t depth_stride,
                         const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  Vector sum[TILE_ROWS][TILE_LANES];
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 8
    for (int l = 0; l < lanes; l++)
      sum[r][l] = add ? *(const Vector *)(c + r * ldc + l * VECTOR) : splat(0);
  for (int64_t k = 0; k < depth; k++) {
    Vector row[TILE_LANES];
#pragma GCC unroll 8
    for (int l = 0; l < lanes; l++)
      row[l] = *(const Vector *)(b + k * ldb + l * VECTOR);
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++) {
      Vector factor = splat(a[r * row_stride + k * depth_stride]);
#pragma GCC unroll 8
      for (int l = 0; l < lanes; l++)
        sum[r][l] += factor * row[l];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 8
    for (int l = 0; l < lanes; l++)
      *(Vector *)(c + r * ldc + l * VECTOR) = sum[r][l];
}

/* C[rows, columns] (+)= A B, A(r,k) = a[r*row_stride + k*depth_stride]. rows: a multiple of TILE_ROWS; columns: of
 * VECTOR. */
static void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t row_stride,
                    int64_t depth_stride, const float *b, int64_t ldb, float *c, int64_t ldc, bool add) {
  int64_t column = 0;
  for (; column + TILE_LANES * VECTOR <= columns; column += TILE_LANES * VECTOR)
    for (int64_t r = 0; r < rows; r += TILE_ROWS)
      product_tile(TILE_LANES, depth, a + r * row_stride, row_stride, depth_stride, b + column, ldb,
                   c + r * ldc + column, ldc, add);
  for (; column < columns; column += VECTOR)
    for (int64_t r = 0; r < rows; r += TILE_ROWS)
      product_tile(1, depth, a + r * row_stride, row_stride, depth_stride, b + column, ldb, c + r * ldc + column, ldc,
                   add);
}

/* ---------------------------------------------------------------- packing */

/* Rows begin.. of head `head` as f32 [rows][padded], zero behind `columns` and from `count` rows on. */
static void pack_rows(const CpuMatrix *from, PlanType type, int64_t begin, int64_t count, int64_t rows, int64_t column,
                      int64_t columns, int64_t padded, float *to) {
  for (int64_t r = 0; r < count; r++, to += padded) {
    int64_t at = (begin + r) * from->ld + column;
    if (type == PLAN_BF16)
      for (int64_t c = 0; c < columns; c++)
        to[c] = cpu_from_bf16(((const uint16_t *)from->data)[at + c]);
    else
      memcpy(to, (const float *)from->data + at, (size_t)columns * sizeof *to);
    memset(to + columns, 0, (size_t)(padded - columns) * sizeof *to);
  }
  memset(to, 0, (size_t)((rows - count) * padded) * sizeof *to);
}

/* to[c][r] = scale * from[r][c] of a VECTOR x VECTOR tile. */
INLINE void transpose_tile(const float *from, int64_t ldf, float scale, float *to, int64_t ldt) {
  Vector row[VECTOR];
#pragma GCC unroll 16
  for (int r = 0; r < VECTOR; r++)
    row[r] = scale * *(const Vector *)(from + r * ldf);
  transpose_vectors(row);
#pragma GCC unroll 16
  for (int r = 0; r < VECTOR; r++)
    *(Vector *)(to + r * ldt) = row[r];
}

/* [BLOCK][padded] to [padded][BLOCK], times `scale`. */
static void transpose_block(const float *from, int64_t padded, float scale, float *to) {
  for (int64_t c = 0; c < padded; c += VECTOR)
    for (int64_t r = 0; r < BLOCK; r += VECTOR)
      transpose_tile(from + r * padded + c, padded, scale, to + c * BLOCK + r, BLOCK);
}

/* ---------------------------------------------------------------- blocks of scores */

/* C[key][query] = rows of keys times transposed queries; in the diagonal block only queries from the key's group on. */
static void score_block(int64_t keys, int64_t padded, int64_t head, const float *key, const float *query, bool diagonal,
                        float *score) {
  if (!diagonal) {
    product(round_up(keys, TILE_ROWS), BLOCK, head, key, padded, 1, query, BLOCK, score, BLOCK, false);
    return;
  }
  for (int64_t g = 0; g < keys; g += GROUP)
    product(GROUP, BLOCK - g, head, key + g * padded, padded, 1, query + g, BLOCK, score + g * BLOCK + g, BLOCK, false);
}

/* C[query][:] += sum over keys of score[key][query] * row[key]; in the diagonal block keys up to the query's group. */
static void query_product(int64_t queries, int64_t keys, int64_t padded, const float *score, const float *row,
                          bool diagonal, float *c, bool add) {
  if (!diagonal) {
    product(round_up(queries, TILE_ROWS), padded, keys, score, 1, BLOCK, row, padded, c, padded, add);
    return;
  }
  for (int64_t g = 0; g < queries; g += GROUP)
    product(GROUP, padded, keys < g + GROUP ? keys : g + GROUP, score + g, 1, BLOCK, row, padded, c + g * padded,
            padded, add);
}

/* C[key][:] += sum over queries of score[key][query] * row[query]; in the diagonal block queries from the group on. */
static void key_product(int64_t queries, int64_t keys, int64_t padded, const float *score, const float *row,
                        bool diagonal, float *c) {
  if (!diagonal) {
    product(round_up(keys, TILE_ROWS), padded, queries, score, BLOCK, 1, row, padded, c, padded, true);
    return;
  }
  for (int64_t g = 0; g < keys; g += GROUP)
    product(GROUP, padded, queries - g, score + g * BLOCK + g, BLOCK, 1, row + g * padded, padded, c + g * padded,
            padded, true);
}

/* ---------------------------------------------------------------- forward */

/* Scores to exponentials; `rescale` is the factor of what was summed before. */
static void softmax_block(int64_t keys, bool diagonal, float *score, Running *running) {
  for (int lane = 0; lane < LANES; lane++) {
    float *column = score + lane * VECTOR;
    int64_t count = keys_of_lane(keys, lane, diagonal);
    Vector maximum = running->maximum[lane], sum = splat(0);
    for (int64_t j = 0; j < count; j++)
      maximum = VECTOR_MAX(maximum, *(const Vector *)(column + j * BLOCK));
    for (int64_t j = 0; j < count; j++) {
      Vector *at = (Vector *)(column + j * BLOCK);
      *at = exp2_vector(*at - maximum);
      sum += *at;
    }
    running->rescale[lane] = exp2_vector(running->maximum[lane] - maximum);
    running->sum[lane] = running->sum[lane] * running->rescale[lane] + sum;
    running->maximum[lane] = maximum;
  }
}

/* Divides by the sums; writes o and the logarithms. */
static void finish_block(const CpuAttention *a, const AttentionTask *task, int64_t first, int64_t queries,
                         const Running *running, int64_t padded, float *out) {
  _Alignas(64) float inverse[BLOCK];
  const float *maximum = (const float *)running->maximum, *sum = (const float *)running->sum;
  for (int64_t i = 0; i < queries; i++) {
    inverse[i] = 1 / sum[i];
    a->lse[(first + i) * a->heads + task->head] = (maximum[i] + log2f(sum[i])) * LN_2;
  }
  rescale_rows(queries, padded, inverse, out);
  unpack_rows(out, padded, 1, queries, &a->o, a->type, first, task->head * a->head, a->head);
}

static int64_t workspace(int64_t length, int64_t head) {
  int64_t padded = round_up(head, VECTOR), rows = round_up(length, BLOCK);
  return 4 * rows * padded + 5 * BLOCK * padded + 2 * BLOCK * BLOCK;
}

static void forward(const CpuAttention *a, const AttentionTask *task, float *work) {
  int64_t padded = round_up(a->head, VECTOR), column = task->head * a->head;
  int64_t last = a->causal && task->block_end * BLOCK < task->length ? task->block_end * BLOCK : task->length;
  int64_t rows = round_up(last, BLOCK);
  float *key = work, *value = key + rows * padded, *query = value + rows * padded;
  float *query_t = query + BLOCK * padded, *out = query_t + BLOCK * padded, *score = out + BLOCK * padded;
  float scale = LOG2_E / sqrtf((float)a->head);
  pack_rows(&a->k, a->type, task->begin, last, rows, column, a->head, padded, key);
  pack_rows(&a->v, a->type, task->begin, last, rows, column, a->head, padded, value);
  for (int64_t block = task->block_begin; block < task->block_end; block++) {
    int64_t first = task->begin + block * BLOCK;
    int64_t queries = task->length - block * BLOCK < BLOCK ? task->length - block * BLOCK : BLOCK;
    Running running = start_running();
    pack_rows(&a->q, a->type, first, queries, BLOCK, column, a->head, padded, query);
    transpose_block(query, padded, scale, query_t);
    int64_t key_end = a->causal ? block * BLOCK + queries : task->length;
    for (int64_t k = 0; k < key_end; k += BLOCK) {
      int64_t keys = key_end - k < BLOCK ? key_end - k : BLOCK;
      bool diagonal = a->causal && k == block * BLOCK;
      score_block(keys, padded, a->head, key + k * padded, query_t, diagonal, score);
      if (diagonal)
        mask_diagonal(keys, score);
      softmax_block(keys, diagonal, score, &running);
      if (k)
        rescale_rows(queries, padded, (const float *)running.rescale, out);
      query_product(queries, keys, padded, score, value + k * padded, diagonal, out, k > 0);
    }
    finish_block(a, task, first, queries, &running, padded, out);
  }
}

/* ---------------------------------------------------------------- backward */

/* A block of queries and what the backward needs of it. */
typedef struct QueryBlock {
  float *query, *query_t, *dout, *dout_t, *dquery;
  float *score, *dscore;
  _Alignas(64) float lse[BLOCK];   /* base 2 */
  _Alignas(64) float delta[BLOCK]; /* sum of o * do */
} QueryBlock;

/* Rows are zero behind the head. */
static float dot_rows(const float *a, const float *b, int64_t padded) {
  Vector sum = splat(0);
  for (int64_t c = 0; c < padded; c += VECTOR)
    sum += *(const Vector *)(a + c) * *(const Vector *)(b + c);
  float total = 0;
  for (int i = 0; i < VECTOR; i++)
    total += sum[i];
  return total;
}

static void load_queries(const CpuAttention *a, const AttentionTask *task, int64_t first, int64_t queries,
                         int64_t padded, QueryBlock *q) {
  int64_t column = task->head * a->head;
  pack_rows(&a->q, a->type, first, queries, BLOCK, column, a->head, padded, q->query);
  pack_rows(&a->dout, a->type, first, queries, BLOCK, column, a->head, padded, q->dout);
  transpose_block(q->query, padded, LOG2_E / sqrtf((float)a->head), q->query_t);
  transpose_block(q->dout, padded, 1, q->dout_t);
  float *out = q->dquery; /* free until the first block of keys */
  pack_rows(&a->o, a->type, first, queries, BLOCK, column, a->head, padded, out);
  for (int64_t i = 0; i < BLOCK; i++) {
    q->delta[i] = dot_rows(q->dout + i * padded, out + i * padded, padded);
    q->lse[i] = i < queries ? a->lse[(first + i) * a->heads + task->head] * LOG2_E : 0;
  }
}

/* score: probabilities; dscore: p * (dp - delta), the gradient of the scaled scores. */
static void gradient_block(int64_t keys, bool diagonal, QueryBlock *q) {
  for (int lane = 0; lane < LANES; lane++) {
    Vector lse = *(const Vector *)(q->lse + lane * VECTOR), delta = *(const Vector *)(q->delta + lane * VECTOR);
    int64_t count = keys_of_lane(keys, lane, diagonal);
    for (int64_t j = 0; j < count; j++) {
      Vector *score = (Vector *)(q->score + j * BLOCK + lane * VECTOR);
      Vector *dscore = (Vector *)(q->dscore + j * BLOCK + lane * VECTOR);
      *score = exp2_vector(*score - lse);
      *dscore = *score * (*dscore - delta);
    }
  }
}

static void gradient(const CpuAttention *a, const AttentionTask *task, float *work) {
  int64_t padded = round_up(a->head, VECTOR), rows = round_up(task->length, BLOCK), column = task->head * a->head;
  float scale = 1 / sqrtf((float)a->head);
  float *key = work, *value = key + rows * padded, *dkey = value + rows * padded, *dvalue = dkey + rows * padded;
  QueryBlock q = {.query = dvalue + rows * padded};
  q.query_t = q.query + BLOCK * padded;
  q.dout = q.query_t + BLOCK * padded;
  q.dout_t = q.dout + BLOCK * padded;
  q.dquery = q.dout_t + BLOCK * padded;
  q.score = q.dquery + BLOCK * padded;
  q.dscore = q.score + BLOCK * BLOCK;
  pack_rows(&a->k, a->type, task->begin, task->length, rows, column, a->head, padded, key);
  pack_rows(&a->v, a->type, task->begin, task->length, rows, column, a->head, padded, value);
  memset(dkey, 0, (size_t)(2 * rows * padded) * sizeof *dkey);
  for (int64_t i = 0; i < task->length; i += BLOCK) {
    int64_t queries = task->length - i < BLOCK ? task->length - i : BLOCK;
    int64_t key_end = a->causal ? i + queries : task->length;
    load_queries(a, task, task->begin + i, queries, padded, &q);
    for (int64_t k = 0; k < key_end; k += BLOCK) {
      int64_t keys = key_end - k < BLOCK ? key_end - k : BLOCK;
      bool diagonal = a->causal && k == i;
      score_block(keys, padded, a->head, key + k * padded, q.query_t, diagonal, q.score);
      score_block(keys, padded, a->head, value + k * padded, q.dout_t, diagonal, q.dscore);
      if (diagonal)
        mask_diagonal(keys, q.score);
      gradient_block(keys, diagonal, &q);
      key_product(queries, keys, padded, q.score, q.dout, diagonal, dvalue + k * padded);
      key_product(queries, keys, padded, q.dscore, q.query, diagonal, dkey + k * padded);
      query_product(queries, keys, padded, q.dscore, key + k * padded, diagonal, q.dquery, k > 0);
    }
    unpack_rows(q.dquery, padded, scale, queries, &a->dq, a->type, task->begin + i, column, a->head);
  }
  unpack_rows(dkey, padded, scale, task->length, &a->dk, a->type, task->begin, column, a->head);
  unpack_rows(dvalue, padded, 1, task->length, &a->dv, a->type, task->begin, column, a->head);
}

const AttentionKernels KERNELS = {.workspace = workspace, .forward = forward, .gradient = gradient};
