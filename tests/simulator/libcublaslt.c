/* libcublasLt.so.13 of the simulated device: products in plain C with f32 sums, column-major as the library has them.
 *
 * d = epilogue(alpha op(a) op(b) + beta c); m x n, depth k. The heuristic knows two algorithms, which sum in different
 * orders. Everything is checked to lie in device memory, and to be aligned as the preference promised.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"
#include "tests/simulator/stream.h"

#define FUNCTION(library, returns, name, parameters) returns name parameters;
#include "runtime/cuda/functions.def"
#undef FUNCTION

enum { STATUS_INVALID_VALUE = 7, STATUS_EXECUTION_FAILED = 13, ALGORITHMS = 2, AUX_LD_MULTIPLE = 8 };

struct cublasLtContext {
  int unused;
};
struct cublasLtMatmulDescOpaque_t {
  int32_t transpose_a, transpose_b, epilogue, bias_type; /* bias_type < 0: that of d */
  void *bias, *aux;
  int64_t aux_ld;
};
struct cublasLtMatrixLayoutOpaque_t {
  int type;
  int64_t rows, columns, ld;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace;
};

/* ---------------------------------------------------------------- descriptions */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  *handle = calloc(1, sizeof **handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  free(handle);
  return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) {
  return 130000;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  *description = calloc(1, sizeof **description);
  (*description)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  (*description)->bias_type = -1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  free(description);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes) {
  const struct {
    int attribute;
    void *to;
    size_t bytes;
  } known[] = {{CUBLASLT_MATMUL_DESC_TRANSA, &description->transpose_a, 4},
               {CUBLASLT_MATMUL_DESC_TRANSB, &description->transpose_b, 4},
               {CUBLASLT_MATMUL_DESC_EPILOGUE, &description->epilogue, 4},
               {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &description->bias_type, 4},
               {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &description->bias, 8},
               {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &description->aux, 8},
               {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &description->aux_ld, 8}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (known[i].attribute == (int)attribute && known[i].bytes == bytes) {
      memcpy(known[i].to, value, bytes);
      return CUBLAS_STATUS_SUCCESS;
    }
  stream_complain("cublasLtMatmulDescSetAttribute: attribute %d of %zu bytes is not simulated", (int)attribute, bytes);
  return STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  if ((type != CUDA_R_32F && type != CUDA_R_16BF) || !rows || !columns || ld < (int64_t)rows) {
    stream_complain("cublasLtMatrixLayoutCreate: type %d, %llu x %llu, %lld between columns", (int)type,
                    (unsigned long long)rows, (unsigned long long)columns, (long long)ld);
    return STATUS_INVALID_VALUE;
  }
  *layout = malloc(sizeof **layout);
  **layout = (struct cublasLtMatrixLayoutOpaque_t){(int)type, (int64_t)rows, (int64_t)columns, ld};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  free(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  *preference = calloc(1, sizeof **preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  free(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && bytes == 8) {
    memcpy(&preference->workspace, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  }
  bool known = attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK ||
               (attribute >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
                attribute <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
  return known && bytes == 4 ? CUBLAS_STATUS_SUCCESS : STATUS_INVALID_VALUE;
}

/* ---------------------------------------------------------------- algorithms */

static int64_t rows_of(cublasLtMatrixLayout_t layout, bool transposed) {
  return transposed ? layout->columns : layout->rows;
}

static bool fits(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                 cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  int64_t m = rows_of(a, description->transpose_a), k = rows_of(a, !description->transpose_a);
  int64_t n = rows_of(b, !description->transpose_b);
  bool same = rows_of(b, description->transpose_b) == k && d->rows == m && d->columns == n && c->rows == m &&
              c->columns == n && c->type == d->type;
  bool types = a->type == b->type && (a->type == CUDA_R_16BF || d->type == CUDA_R_32F);
  if (!same || !types)
    stream_complain("cublasLt: %lld x %lld x %lld, b has depth %lld, d is %lld x %lld; types %d %d %d %d", (long long)m,
                    (long long)n, (long long)k, (long long)rows_of(b, description->transpose_b), (long long)d->rows,
                    (long long)d->columns, a->type, b->type, c->type, d->type);
  return same && types;
}

static bool has_aux(int epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_DGELU || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
}

/* The library has no kernel for rows of aux that 16-byte accesses of bf16 do not fit. */
static bool has_kernel(cublasLtMatmulDesc_t description) {
  return !has_aux(description->epilogue) || description->aux_ld % AUX_LD_MULTIPLE == 0;
}

static cublasLtMatmulHeuristicResult_t result_of(int algorithm) {
  cublasLtMatmulHeuristicResult_t result = {.state = CUBLAS_STATUS_SUCCESS, .wavesCount = 1};
  result.algo.data[0] = (uint64_t)algorithm;
  return result;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found) {
  (void)handle, (void)preference;
  if (!fits(description, a, b, c, d))
    return STATUS_INVALID_VALUE;
  if (!has_kernel(description))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  *found = wanted < ALGORITHMS ? wanted : ALGORITHMS;
  for (int i = 0; i < *found; i++)
    results[i] = result_of(i + 1);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result) {
  (void)handle;
  if (algorithm->data[0] < 1 || algorithm->data[0] > ALGORITHMS || !has_kernel(description))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  *result = result_of((int)algorithm->data[0]);
  return fits(description, a, b, c, d) ? CUBLAS_STATUS_SUCCESS : STATUS_INVALID_VALUE;
}

/* ---------------------------------------------------------------- the product */

typedef struct Matrix {
  char *at;
  struct cublasLtMatrixLayoutOpaque_t layout;
} Matrix;

typedef struct Product {
  struct cublasLtMatmulDescOpaque_t description;
  Matrix a, b, c, d;
  float alpha, beta;
  int algorithm;
} Product;

static size_t size_of(int type) {
  return type == CUDA_R_16BF ? 2 : 4;
}

static float load(const void *from, int type, int64_t i) {
  if (type == CUDA_R_32F)
    return ((const float *)from)[i];
  const uint32_t bits = (uint32_t)((const uint16_t *)from)[i] << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static void store(void *to, int type, int64_t i, float x) {
  if (type == CUDA_R_32F) {
    ((float *)to)[i] = x;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  ((uint16_t *)to)[i] = (uint16_t)(x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static size_t matrix_bytes(const struct cublasLtMatrixLayoutOpaque_t *layout) {
  return (size_t)((layout->columns - 1) * layout->ld + layout->rows) * size_of(layout->type);
}

/* op(matrix) as f32, column by column. */
static float *unpack(const Matrix *matrix, bool transposed) {
  const struct cublasLtMatrixLayoutOpaque_t *l = &matrix->layout;
  float *x = malloc((size_t)(l->rows * l->columns) * sizeof *x);
  for (int64_t j = 0; j < l->columns; j++)
    for (int64_t i = 0; i < l->rows; i++)
      x[transposed ? i * l->columns + j : j * l->rows + i] = load(matrix->at, l->type, j * l->ld + i);
  return x;
}

/* sum[i] += over depths from..to of a[depth][i] b[depth]. */
static void add_depths(float *sum, const float *a, const float *b, int64_t m, int64_t from, int64_t to) {
  for (int64_t depth = from; depth < to; depth++) {
    const float *row = a + depth * m;
    const float factor = b[depth];
    for (int64_t i = 0; i < m; i++)
      sum[i] += row[i] * factor;
  }
}

static double gelu_tangent(double x) {
  return tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
}

static float gelu(float x) {
  return (float)(0.5 * x * (1 + gelu_tangent(x)));
}

static float gelu_slope(float x) {
  const double t = gelu_tangent(x);
  return (float)(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * (double)x * x));
}

static int bias_type(const Product *p) {
  return p->description.bias_type < 0 ? p->d.layout.type : p->description.bias_type;
}

static bool adds_bias(int epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

static bool makes_bias(int epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD || epilogue == CUBLASLT_EPILOGUE_BGRADA ||
         epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

/* One element of the result before it is stored. */
static float finish(const Product *p, float x, int64_t i, int64_t j) {
  const struct cublasLtMatmulDescOpaque_t *e = &p->description;
  const int64_t at = j * e->aux_ld + i;
  if (adds_bias(e->epilogue))
    x += load(e->bias, bias_type(p), i);
  switch (e->epilogue) {
  case CUBLASLT_EPILOGUE_GELU_BIAS:
    return gelu(x);
  case CUBLASLT_EPILOGUE_GELU_AUX:
  case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    store(e->aux, p->d.layout.type, at, x);
    return gelu(x);
  case CUBLASLT_EPILOGUE_DGELU:
  case CUBLASLT_EPILOGUE_DGELU_BGRAD:
    return x * gelu_slope(load(e->aux, p->d.layout.type, at));
  default:
    return x;
  }
}

/* Gradients of biases: sums over the depth of a or b, or over the columns of the result. */
static void finish_bias(const Product *p, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
  const int epilogue = p->description.epilogue;
  bool of_a = epilogue == CUBLASLT_EPILOGUE_BGRADA, of_b = epilogue == CUBLASLT_EPILOGUE_BGRADB;
  if (!makes_bias(epilogue))
    return;
  for (int64_t i = 0; i < (of_b ? n : m); i++) {
    float sum = 0;
    for (int64_t other = 0; other < (of_a || of_b ? k : n); other++)
      sum += of_a   ? a[other * m + i]
             : of_b ? b[i * k + other]
                    : load(p->d.at, p->d.layout.type, other * p->d.layout.ld + i);
    store(p->description.bias, bias_type(p), i, sum);
  }
}

static bool check_operands(const Product *p) {
  const struct cublasLtMatmulDescOpaque_t *e = &p->description;
  int64_t m = p->d.layout.rows, n = p->d.layout.columns;
  bool makes_aux = e->epilogue == CUBLASLT_EPILOGUE_GELU_AUX || e->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  size_t bias = (size_t)(e->epilogue == CUBLASLT_EPILOGUE_BGRADB ? n : m) * size_of(bias_type(p));
  size_t aux = (size_t)((n - 1) * e->aux_ld + m) * size_of(p->d.layout.type);
  if (has_aux(e->epilogue) && e->aux_ld < m) {
    report("cublasLtMatmul: aux has %lld between columns of %lld", (long long)e->aux_ld, (long long)m);
    return false;
  }
  return stream_reads("cublasLtMatmul, a", p->a.at, matrix_bytes(&p->a.layout)) &&
         stream_reads("cublasLtMatmul, b", p->b.at, matrix_bytes(&p->b.layout)) &&
         stream_writes("cublasLtMatmul, d", p->d.at, matrix_bytes(&p->d.layout)) &&
         (p->beta == 0 || stream_reads("cublasLtMatmul, c", p->c.at, matrix_bytes(&p->c.layout))) &&
         (!adds_bias(e->epilogue) || stream_reads("cublasLtMatmul, bias", e->bias, bias)) &&
         (!makes_bias(e->epilogue) || stream_writes("cublasLtMatmul, bias", e->bias, bias)) &&
         (!makes_aux || stream_writes("cublasLtMatmul, aux", e->aux, aux)) &&
         (!has_aux(e->epilogue) || stream_reads("cublasLtMatmul, aux", e->aux, aux));
}

static bool run_product(const void *data) {
  const Product *p = data;
  if (!check_operands(p))
    return false;
  const int64_t m = p->d.layout.rows, n = p->d.layout.columns;
  const int64_t k = rows_of((cublasLtMatrixLayout_t)(uintptr_t)&p->a.layout, !p->description.transpose_a);
  float *a = unpack(&p->a, p->description.transpose_a), *b = unpack(&p->b, p->description.transpose_b);
  const int64_t half = p->algorithm == 1 ? k : k / 2;
#pragma omp parallel for
  for (int64_t j = 0; j < n; j++) {
    float *sum = calloc((size_t)m * 2, sizeof *sum), *rest = sum + m;
    add_depths(sum, a, b + j * k, m, 0, half);
    add_depths(rest, a, b + j * k, m, half, k);
    for (int64_t i = 0; i < m; i++) {
      float x = p->alpha * (sum[i] + rest[i]);
      if (p->beta != 0)
        x += p->beta * load(p->c.at, p->c.layout.type, j * p->c.layout.ld + i);
      store(p->d.at, p->d.layout.type, j * p->d.layout.ld + i, finish(p, x, i, j));
    }
    free(sum);
  }
  finish_bias(p, a, b, m, n, k);
  free(a);
  free(b);
  return true;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                              CUstream stream) {
  (void)handle, (void)workspace, (void)workspace_bytes;
  if (!fits(description, a_layout, b_layout, c_layout, d_layout) || algorithm->data[0] < 1 ||
      algorithm->data[0] > ALGORITHMS)
    return STATUS_INVALID_VALUE;
  Product product = {.description = *description,
                     .a = {(char *)(uintptr_t)a, *a_layout},
                     .b = {(char *)(uintptr_t)b, *b_layout},
                     .c = {(char *)(uintptr_t)c, *c_layout},
                     .d = {d, *d_layout},
                     .alpha = *(const float *)alpha,
                     .beta = *(const float *)beta,
                     .algorithm = (int)algorithm->data[0]};
  CUresult result = stream_submit(stream, run_product, &product, sizeof product);
  return result == CUDA_SUCCESS ? CUBLAS_STATUS_SUCCESS : STATUS_EXECUTION_FAILED;
}
