/* See product.h. The library is column-major: the row-major c = op(a) op(b) is its c' = op(b)' op(a)', so its first
 * operand is b, its second a, and its m and n are our n and m. */
#include "runtime/cuda/product.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/choices.h"
#include "runtime/cuda/libraries.h"
#include "runtime/error.h"
#include "runtime/files.h"

static const char kind[] = "product"; /* of a choice */
enum { CANDIDATES = 8, WIDEST_ALIGNMENT = 256, EPILOGUE_ALIGNMENT = 16 };
static const double hopeless = 1.5; /* times the fastest: not timed again */

typedef struct Product {
  char *shape;  /* what distinguishes it; part of the tuning file */
  char *choice; /* the algorithm in hexadecimal, once chosen */
  cublasLtMatmulDesc_t description;
  cublasLtMatrixLayout_t first, second, added, result; /* the library's operands: b, a, what beta multiplies, c */
  cublasLtMatmulHeuristicResult_t candidates[CANDIDATES];
  int candidate_count;
  bool missed; /* it was said that there is no algorithm */
  cublasLtMatmulAlgo_t algorithm;
} Product;

static struct {
  cublasLtHandle_t handle;
  const CudaGpu *gpu;
  char *workspace;
  const char *library;
  Product *products;
  int product_count;
} all;

/* Its kernels are loaded as they are used, for which the GPU may have no memory left: then these two. */
static bool lacks_memory(cublasStatus_t status) {
  return status == CUBLAS_STATUS_ALLOC_FAILED || status == CUBLAS_STATUS_NOT_INITIALIZED;
}

static void check(cublasStatus_t status, const char *what, const Product *product) {
  if (lacks_memory(status))
    runtime_fail(FAIL_ENVIRONMENT, "cuBLASLt cannot load its kernels at %s (status %d): too little memory is left: %s",
                 what, status, product ? product->shape : "");
  if (status != CUBLAS_STATUS_SUCCESS)
    runtime_fail(FAIL_BUG, "cuBLASLt fails at %s (status %d): %s", what, status, product ? product->shape : "");
}

void product_open(const CudaGpu *gpu, char *workspace) {
  const char *problem = cuda_open(CUDA_CUBLAS);
  if (problem)
    runtime_fail(FAIL_ENVIRONMENT, "--device=cuda: %s", problem);
  if (cuda.cublasLtCreate(&all.handle) != CUBLAS_STATUS_SUCCESS)
    runtime_fail(FAIL_ENVIRONMENT, "--device=cuda: cuBLASLt does not start on this GPU");
  size_t version = cuda.cublasLtGetVersion();
  all.library = string_format("cuBLASLt %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
  all.gpu = gpu;
  all.workspace = workspace;
}

void product_close(void) {
  for (int i = 0; i < all.product_count; i++) {
    Product *product = &all.products[i];
    const cublasLtMatrixLayout_t layouts[] = {product->first, product->second, product->added, product->result};
    for (int k = 0; k < 4; k++)
      check(cuda.cublasLtMatrixLayoutDestroy(layouts[k]), "the end", product);
    check(cuda.cublasLtMatmulDescDestroy(product->description), "the end", product);
  }
  check(cuda.cublasLtDestroy(all.handle), "the end", NULL);
  all.product_count = 0;
}

const char *product_library(void) {
  return all.library;
}

/* ---------------------------------------------------------------- choices */

static char *algorithm_text(const cublasLtMatmulAlgo_t *algorithm) {
  char *text = runtime_allocate(1, 16 * 8 + 1);
  for (int i = 0; i < 8; i++)
    snprintf(text + 16 * i, 17, "%016" PRIx64, algorithm->data[i]);
  return text;
}

/* The algorithm that another run chose for this product on such a GPU with this library. */
static void take_choice(Product *product) {
  const ProductChoice *choice = choices_find(kind, product->shape, all.gpu->name, all.library);
  if (!choice)
    return;
  bool good = strlen(choice->algorithm) == 16 * 8;
  for (int k = 0; good && k < 8; k++)
    good = sscanf(choice->algorithm + 16 * k, "%16" SCNx64, &product->algorithm.data[k]) == 1;
  cublasLtMatmulHeuristicResult_t result;
  good = good &&
         cuda.cublasLtMatmulAlgoCheck(all.handle, product->description, product->first, product->second, product->added,
                                      product->result, &product->algorithm, &result) == CUBLAS_STATUS_SUCCESS;
  if (!good || result.workspaceSize > PRODUCT_WORKSPACE)
    runtime_fail(FAIL_USER, "tuning file: %s has no such algorithm for the product %s", all.library, product->shape);
  product->choice = string_format("%s", choice->algorithm);
}

/* ---------------------------------------------------------------- descriptions */

static int alignment(const void *address) {
  uintptr_t bits = (uintptr_t)address | WIDEST_ALIGNMENT;
  return (int)(bits & -bits);
}

/* What beta multiplies. */
static char *added(const ProductAddresses *at) {
  return at->add ? at->add : at->c;
}

static int64_t data_type(PlanType type) {
  return type == PLAN_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* Everything that an algorithm depends on. */
static char *shape_text(const StepGemm *s, const ProductAddresses *at) {
  return string_format(
      "m=%" PRId64 " n=%" PRId64 " k=%" PRId64 " ta=%" PRId64 " tb=%" PRId64 " lda=%" PRId64 " ldb=%" PRId64
      " ldc=%" PRId64 " ldaux=%" PRId64 " ldadd=%" PRId64 " beta=%" PRId64 " %s %s epilogue=%d align=%d,%d,%d,%d,%d,%d",
      s->m.number, s->n.number, s->k.number, s->ta, s->tb, s->lda, s->ldb, s->ldc, s->ldaux, s->ldadd, s->beta,
      plan_type_name(s->type), plan_type_name(s->ctype), (int)s->epilogue, alignment(at->a), alignment(at->b),
      alignment(at->c), alignment(added(at)), alignment(at->bias), alignment(at->aux));
}

static void set(const Product *product, int attribute, const void *value, size_t bytes) {
  check(cuda.cublasLtMatmulDescSetAttribute(product->description, attribute, value, bytes), "a description", product);
}

static void describe(Product *product, const StepGemm *s) {
  static const int32_t epilogues[EPILOGUE_COUNT] = {
      [EPILOGUE_NONE] = CUBLASLT_EPILOGUE_DEFAULT,        [EPILOGUE_BIAS] = CUBLASLT_EPILOGUE_BIAS,
      [EPILOGUE_GELU_BIAS] = CUBLASLT_EPILOGUE_GELU_BIAS, [EPILOGUE_GELU_AUX_BIAS] = CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
      [EPILOGUE_DGELU] = CUBLASLT_EPILOGUE_DGELU,         [EPILOGUE_DGELU_BGRAD] = CUBLASLT_EPILOGUE_DGELU_BGRAD,
      [EPILOGUE_BGRADB] = CUBLASLT_EPILOGUE_BGRADB};
  int32_t first = s->tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = s->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
  int64_t m = s->m.number, n = s->n.number, k = s->k.number;
  check(cuda.cublasLtMatmulDescCreate(&product->description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description", product);
  set(product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
  set(product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
  set(product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogues[s->epilogue], sizeof epilogues[0]);
  if (s->aux.space != SPACE_NULL)
    set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &s->ldaux, sizeof s->ldaux);
  check(cuda.cublasLtMatrixLayoutCreate(&product->first, (int)data_type(s->type), (uint64_t)(s->tb ? k : n),
                                        (uint64_t)(s->tb ? n : k), s->ldb),
        "a layout", product);
  check(cuda.cublasLtMatrixLayoutCreate(&product->second, (int)data_type(s->type), (uint64_t)(s->ta ? m : k),
                                        (uint64_t)(s->ta ? k : m), s->lda),
        "a layout", product);
  check(cuda.cublasLtMatrixLayoutCreate(&product->added, (int)data_type(s->ctype), (uint64_t)n, (uint64_t)m,
                                        s->add.space == SPACE_NULL ? s->ldc : s->ldadd),
        "a layout", product);
  check(cuda.cublasLtMatrixLayoutCreate(&product->result, (int)data_type(s->ctype), (uint64_t)n, (uint64_t)m, s->ldc),
        "a layout", product);
}

static void set_pointers(const Product *product, const ProductAddresses *at) {
  if (at->bias)
    set(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at->bias, sizeof at->bias);
  if (at->aux)
    set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &at->aux, sizeof at->aux);
}

/* An epilogue's vector and matrix are read and written 16 bytes at a time, which no preference can promise. */
static bool is_aligned(const ProductAddresses *at) {
  return (!at->bias || alignment(at->bias) >= EPILOGUE_ALIGNMENT) &&
         (!at->aux || alignment(at->aux) >= EPILOGUE_ALIGNMENT);
}

/* Of an epilogue the library may refuse what it has no kernel for; without one it has no reason to. */
static void suggest(Product *product, const StepGemm *step, const ProductAddresses *at) {
  cublasLtMatmulPreference_t preference;
  size_t workspace = PRODUCT_WORKSPACE;
  /* Sums that are cut along their depth are put together in f32, also where the result is bf16. */
  const uint32_t schemes =
      step->ctype == PLAN_BF16 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_MASK;
  const struct {
    int attribute;
    uint32_t value;
  } settings[] = {{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)alignment(at->b)},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)alignment(at->a)},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)alignment(added(at))},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)alignment(at->c)}};
  check(cuda.cublasLtMatmulPreferenceCreate(&preference), "a preference", product);
  check(cuda.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                  sizeof workspace),
        "a preference", product);
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
    check(cuda.cublasLtMatmulPreferenceSetAttribute(preference, settings[i].attribute, &settings[i].value,
                                                    sizeof settings[i].value),
          "a preference", product);
  cublasStatus_t status = cuda.cublasLtMatmulAlgoGetHeuristic(
      all.handle, product->description, product->first, product->second, product->added, product->result, preference,
      CANDIDATES, product->candidates, &product->candidate_count);
  if (!is_aligned(at) || status == CUBLAS_STATUS_NOT_SUPPORTED ||
      (status != CUBLAS_STATUS_SUCCESS && step->epilogue != EPILOGUE_NONE))
    product->candidate_count = 0;
  else
    check(status, "the search for an algorithm", product);
  check(cuda.cublasLtMatmulPreferenceDestroy(preference), "a preference", product);
  int usable = 0;
  for (int i = 0; i < product->candidate_count; i++)
    if (product->candidates[i].state == CUBLAS_STATUS_SUCCESS)
      product->candidates[usable++] = product->candidates[i];
  product->candidate_count = usable;
  if (usable)
    product->algorithm = product->candidates[0].algo;
}

static Product *find(const StepGemm *step, const ProductAddresses *addresses) {
  char *shape = shape_text(step, addresses);
  for (int i = 0; i < all.product_count; i++)
    if (strcmp(all.products[i].shape, shape) == 0) {
      free(shape);
      return &all.products[i];
    }
  all.products = runtime_grow(all.products, all.product_count, sizeof *all.products);
  Product *product = &all.products[all.product_count++];
  *product = (Product){.shape = shape};
  describe(product, step);
  set_pointers(product, addresses);
  take_choice(product);
  if (!product->choice)
    suggest(product, step, addresses);
  return product;
}

/* ---------------------------------------------------------------- running */

static cublasStatus_t multiply(const Product *product, const StepGemm *step, const ProductAddresses *at,
                               const cublasLtMatmulAlgo_t *algorithm) {
  const float one = 1, beta = (float)step->beta;
  return cuda.cublasLtMatmul(all.handle, product->description, &one, at->b, product->first, at->a, product->second,
                             &beta, added(at), product->added, at->c, product->result, algorithm, all.workspace,
                             PRODUCT_WORKSPACE, all.gpu->stream);
}

static bool is_available(const Product *product) {
  return product->choice || product->candidate_count > 0;
}

/* The spaces begin at multiples of the widest alignment; nothing is read there. */
static char *anywhere(PlanPlace place) {
  return place.space == SPACE_NULL ? NULL : (char *)(uintptr_t)(WIDEST_ALIGNMENT + place.offset);
}

bool product_available(const StepGemm *step) {
  Product *product = find(step, &(ProductAddresses){.a = anywhere(step->a),
                                                    .b = anywhere(step->b),
                                                    .c = anywhere(step->c),
                                                    .bias = anywhere(step->bias),
                                                    .aux = anywhere(step->aux),
                                                    .add = anywhere(step->add)});
  if (!is_available(product) && !product->missed)
    fprintf(stderr, "%s has no algorithm for the product %s; it runs without what it does besides\n", all.library,
            product->shape);
  product->missed = !is_available(product);
  return is_available(product);
}

void product_run(const StepGemm *step, const ProductAddresses *addresses) {
  const Product *product = find(step, addresses);
  if (!is_available(product))
    runtime_fail(FAIL_BUG, "%s has no algorithm for the product %s", all.library, product->shape);
  set_pointers(product, addresses);
  check(multiply(product, step, addresses, &product->algorithm), "a product", product);
}

bool product_chosen(const StepGemm *step, const ProductAddresses *addresses) {
  return find(step, addresses)->choice != NULL;
}

typedef struct Candidate {
  const Product *product;
  const StepGemm *step;
  const ProductAddresses *addresses;
  const cublasLtMatmulAlgo_t *algorithm;
} Candidate;

static bool run_candidate(void *context) {
  const Candidate *c = context;
  return multiply(c->product, c->step, c->addresses, c->algorithm) == CUBLAS_STATUS_SUCCESS;
}

void product_tune(const StepGemm *step, const ProductAddresses *addresses) {
  Product *product = find(step, addresses);
  double fastest = -1;
  if (product->choice || !is_available(product))
    return;
  set_pointers(product, addresses);
  for (int i = 0; i < product->candidate_count; i++) {
    Candidate candidate = {product, step, addresses, &product->candidates[i].algo};
    double seconds = cuda_gpu_time(all.gpu, "a product being timed", run_candidate, &candidate,
                                   fastest >= 0 ? hopeless * fastest : -1);
    if (seconds < 0 || (fastest >= 0 && seconds >= fastest))
      continue;
    fastest = seconds;
    product->algorithm = product->candidates[i].algo;
  }
  if (fastest < 0) { /* it is not available, which product_run says where it must be */
    product->candidate_count = 0;
    return;
  }
  product->choice = algorithm_text(&product->algorithm);
  choices_add((ProductChoice){.kind = kind,
                              .shape = product->shape,
                              .gpu = all.gpu->name,
                              .library = all.library,
                              .algorithm = product->choice,
                              .seconds = fastest,
                              .candidates = product->candidate_count});
}
