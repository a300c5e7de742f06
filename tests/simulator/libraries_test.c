/* The stand-ins for the driver, NVRTC and cuBLASLt do what the runtime relies on: compiling, launching, capturing,
 * products with every epilogue against f64, and refusing what a device refuses.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/cuda/types.h"

#define FUNCTION(library, returns, name, parameters) returns name parameters;
#include "runtime/cuda/functions.def"
#undef FUNCTION

enum { LAUNCH_FAILED = 719, INVALID_VALUE = 1, COUNT = 256 };

static int failures;

static void expect(bool good, const char *what) {
  if (good)
    return;
  failures++;
  printf("FAILED: %s\n", what);
}

static CUdeviceptr allocate(size_t bytes) {
  CUdeviceptr memory = 0;
  expect(cuMemAlloc_v2(&memory, bytes) == CUDA_SUCCESS, "an allocation");
  return memory;
}

/* ---------------------------------------------------------------- kernels */

static const char scale_source[] =
    "extern \"C\" __global__ void scale(const float *x, float *y, long long by, long long n) {\n"
    "  long long i = blockIdx.x * 128LL + threadIdx.x;\n"
    "  if (i < n)\n"
    "    y[i] = x[i] * by;\n"
    "}\n";

static nvrtcResult compile(const char *source, CUmodule *module, char *log, size_t size) {
  static const char *const options[] = {"--gpu-architecture=sm_80", "--std=c++17"};
  nvrtcProgram program;
  expect(nvrtcCreateProgram(&program, source, "test.cu", 0, NULL, NULL) == NVRTC_SUCCESS, "a program");
  nvrtcResult result = nvrtcCompileProgram(program, 2, options);
  size_t log_size = 0, cubin_size = 0;
  nvrtcGetProgramLogSize(program, &log_size);
  if (log_size <= size)
    nvrtcGetProgramLog(program, log);
  if (result == NVRTC_SUCCESS) {
    nvrtcGetCUBINSize(program, &cubin_size);
    char *cubin = malloc(cubin_size);
    nvrtcGetCUBIN(program, cubin);
    expect(cuModuleLoadData(module, cubin) == CUDA_SUCCESS, "a module");
    free(cubin);
  }
  nvrtcDestroyProgram(&program);
  return result;
}

static CUresult launch(CUfunction function, CUstream stream, CUdeviceptr x, CUdeviceptr y, int64_t by, int64_t n,
                       unsigned shared) {
  void *parameters[] = {&x, &y, &by, &n};
  return cuLaunchKernel(function, COUNT / 128, 1, 1, 128, 1, 1, shared, stream, parameters, NULL);
}

static float read_float(CUdeviceptr from, CUstream stream) {
  float x = 0;
  expect(cuMemcpyDtoHAsync_v2(&x, from, sizeof x, stream) == CUDA_SUCCESS, "a copy to the host");
  return x;
}

static void check_kernels(CUstream stream) {
  CUmodule module;
  CUfunction scale, none;
  char log[4000] = "";
  float data[COUNT];
  for (int i = 0; i < COUNT; i++)
    data[i] = (float)i;
  expect(compile(scale_source, &module, log, sizeof log) == NVRTC_SUCCESS, "a kernel compiles");
  expect(cuModuleGetFunction(&none, module, "none") == CUDA_ERROR_NOT_FOUND, "a kernel that is not there");
  expect(cuModuleGetFunction(&scale, module, "scale") == CUDA_SUCCESS, "a kernel is there");
  CUdeviceptr x = allocate(sizeof data), y = allocate(sizeof data), last = y + sizeof data - sizeof(float);
  expect(isnan(read_float(y, stream)), "new memory is NaN");
  cuMemcpyHtoDAsync_v2(x, data, sizeof data, stream);
  expect(launch(scale, stream, x, y, 3, COUNT, 0) == CUDA_SUCCESS && read_float(last, stream) == 765, "a launch");

  CUgraph graph;
  CUgraphExec executable;
  expect(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) == CUDA_SUCCESS, "a capture begins");
  cuMemsetD8Async(x, 0, sizeof(float), stream);
  launch(scale, stream, x, y, 2, COUNT, 0);
  expect(cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS, "a capture ends");
  expect(read_float(last, stream) == 765, "what is captured does not run");
  cuGraphInstantiateWithFlags(&executable, graph, 0);
  cuGraphDestroy(graph);
  for (int i = 0; i < 2; i++) {
    cuMemsetD8Async(y, 0xff, sizeof data, stream);
    expect(cuGraphLaunch(executable, stream) == CUDA_SUCCESS && read_float(last, stream) == 510 &&
               read_float(y, stream) == 0,
           "a graph runs with the parameters of its capture");
  }
  cuGraphExecDestroy(executable);

  expect(launch(scale, stream, x, y, 1, COUNT, 50 << 10) == INVALID_VALUE, "50 KB of shared memory without asking");
  expect(cuFuncSetAttribute(scale, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 50 << 10) == CUDA_SUCCESS &&
             launch(scale, stream, x, y, 1, COUNT, 50 << 10) == CUDA_SUCCESS,
         "50 KB of shared memory");
  expect(compile("extern \"C\" __global__ void k(float *x) { x = 1; }\n", &module, log, sizeof log) ==
                 NVRTC_ERROR_COMPILATION &&
             strstr(log, "error"),
         "a text that does not compile");

  CUstream failing;
  const char *text = "";
  cuStreamCreate(&failing, CU_STREAM_NON_BLOCKING);
  expect(launch(scale, failing, x, y + 4, 1, COUNT, 0) == LAUNCH_FAILED, "a kernel that writes behind its memory");
  expect(cuStreamSynchronize(failing) == LAUNCH_FAILED, "a stream stays failed");
  cuGetErrorString(LAUNCH_FAILED, &text);
  expect(strstr(text, "kernel scale, block (1,0,0), thread 127: it writes 4 bytes at byte 1024") != NULL, text);
  expect(cuMemFree_v2(y + 4) == INVALID_VALUE, "the middle of an allocation is not freed");
  expect(cuMemFree_v2(x) == CUDA_SUCCESS && cuMemFree_v2(y) == CUDA_SUCCESS, "memory is freed");
}

static void check_memory(void) {
  CUdeviceptr big, more;
  size_t available, total;
  expect(cuMemAlloc_v2(&big, 5 << 20) == CUDA_SUCCESS, "5 of 8 MB");
  expect(cuMemAlloc_v2(&more, 5 << 20) == CUDA_ERROR_OUT_OF_MEMORY, "5 of 3 MB");
  cuMemGetInfo_v2(&available, &total);
  expect(total == 8 << 20 && available == 3 << 20, "the memory that is left");
  cuMemFree_v2(big);
}

static void check_report(const char *path) {
  char text[4000] = "";
  FILE *file = fopen(path, "r");
  expect(file && fread(text, 1, sizeof text - 1, file) > 0 && strstr(text, "kernel scale, block"), "the report's file");
  if (file)
    fclose(file);
  unlink(path);
}

/* ---------------------------------------------------------------- products */

/* A column-major matrix of the device with its values in f64. */
typedef struct Matrix {
  int64_t rows, columns, ld;
  int type;
  double *value; /* [columns][rows] */
  CUdeviceptr at;
} Matrix;

static uint64_t random_state = 1;

static float random_number(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (float)((double)(random_state >> 40) / (1 << 23) - 1);
}

static uint16_t bf16_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float of_bf16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static Matrix matrix_with_ld(int64_t rows, int64_t columns, int64_t ld, int type, CUstream stream) {
  Matrix m = {rows, columns, ld, type, calloc((size_t)(rows * columns), sizeof(double)), 0};
  int64_t count = (columns - 1) * m.ld + rows;
  size_t bytes = (size_t)count * (type == CUDA_R_16BF ? 2 : 4);
  char *data = calloc(1, bytes);
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++) {
      float x = random_number();
      if (type == CUDA_R_16BF) {
        ((uint16_t *)(void *)data)[j * m.ld + i] = bf16_of(x);
        x = of_bf16(bf16_of(x));
      } else {
        ((float *)(void *)data)[j * m.ld + i] = x;
      }
      m.value[j * rows + i] = (double)x;
    }
  m.at = allocate(bytes);
  cuMemcpyHtoDAsync_v2(m.at, data, bytes, stream);
  free(data);
  return m;
}

static Matrix matrix_new(int64_t rows, int64_t columns, int type, CUstream stream) {
  return matrix_with_ld(rows, columns, rows + 3, type, stream);
}

static void matrix_free(Matrix *m) {
  free(m->value);
  cuMemFree_v2(m->at);
}

static double matrix_read(const Matrix *m, int64_t i, int64_t j) { /* what the device has */
  const int64_t at = j * m->ld + i;
  const void *data = (const void *)(uintptr_t)m->at;
  return m->type == CUDA_R_16BF ? (double)of_bf16(((const uint16_t *)data)[at]) : (double)((const float *)data)[at];
}

static double operand(const Matrix *m, bool transposed, int64_t i, int64_t j) {
  return transposed ? m->value[i * m->rows + j] : m->value[j * m->rows + i];
}

static double gelu(double x) {
  return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static cublasLtMatrixLayout_t layout_of(const Matrix *m) {
  cublasLtMatrixLayout_t layout;
  expect(cublasLtMatrixLayoutCreate(&layout, m->type, (uint64_t)m->rows, (uint64_t)m->columns, m->ld) ==
             CUBLAS_STATUS_SUCCESS,
         "a layout");
  return layout;
}

typedef struct Case {
  bool transpose_a, transpose_b;
  int type, result_type;
  float beta;
  int epilogue, algorithm;
  bool elsewhere; /* what is added does not stand where the result goes */
} Case;

enum { M = 7, N = 5, K = 11, AUX_LD = 16 };

static bool near(double found, double expected, const Case *c) {
  return fabs(found - expected) <= (c->result_type == CUDA_R_16BF ? 8e-3 : 2e-5) * (1 + fabs(expected));
}

/* d as the case wants it, before it is stored; *before: what a forward GELU keeps. */
static double expected_element(const Case *c, const Matrix *a, const Matrix *b, const Matrix *added, const Matrix *bias,
                               const Matrix *aux, int64_t i, int64_t j, double *before) {
  double sum = (double)c->beta * added->value[j * M + i];
  for (int64_t k = 0; k < K; k++)
    sum += operand(a, c->transpose_a, i, k) * operand(b, c->transpose_b, k, j);
  if (c->epilogue == CUBLASLT_EPILOGUE_BIAS || c->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
      c->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
    sum += bias->value[i];
  *before = sum;
  if (c->epilogue == CUBLASLT_EPILOGUE_GELU_AUX || c->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
      c->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
    return gelu(sum);
  const double x = aux->value[j * M + i], step = 1e-5;
  bool backward = c->epilogue == CUBLASLT_EPILOGUE_DGELU || c->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
  return backward ? sum * (gelu(x + step) - gelu(x - step)) / (2 * step) : sum;
}

static double expected_bias(const Case *c, const Matrix *a, const Matrix *b, const double *d, int64_t i) {
  double sum = 0;
  if (c->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD)
    for (int64_t j = 0; j < N; j++)
      sum += d[j * M + i];
  else
    for (int64_t k = 0; k < K; k++)
      sum +=
          c->epilogue == CUBLASLT_EPILOGUE_BGRADA ? operand(a, c->transpose_a, i, k) : operand(b, c->transpose_b, k, i);
  return sum;
}

static bool makes_bias(int epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD || epilogue == CUBLASLT_EPILOGUE_BGRADA ||
         epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

/* d = epilogue(op(a) op(b) + beta added); what the search for algorithms says where it finds none. */
static cublasStatus_t multiply(const Case *c, const Matrix *a, const Matrix *b, const Matrix *added, const Matrix *d,
                               const Matrix *bias, const Matrix *aux, CUstream stream) {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t description;
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t results[4];
  const int32_t transpose_a = c->transpose_a, transpose_b = c->transpose_b, epilogue = c->epilogue;
  const float alpha = 1;
  int found = 0;
  cublasLtCreate(&handle);
  cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transpose_a, 4);
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &transpose_b, 4);
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, 4);
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias->at, 8);
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux->at, 8);
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &aux->ld, 8);
  cublasLtMatrixLayout_t la = layout_of(a), lb = layout_of(b), lc = layout_of(added), ld = layout_of(d);
  cublasLtMatmulPreferenceCreate(&preference);
  cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, description, la, lb, lc, ld, preference, 4, results, &found);
  expect(status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 2), "two algorithms");
  if (status == CUBLAS_STATUS_SUCCESS)
    status = cublasLtMatmul(handle, description, &alpha, (void *)(uintptr_t)a->at, la, (void *)(uintptr_t)b->at, lb,
                            &c->beta, (void *)(uintptr_t)added->at, lc, (void *)(uintptr_t)d->at, ld,
                            &results[c->algorithm].algo, NULL, 0, stream);
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(la);
  cublasLtMatrixLayoutDestroy(lb);
  cublasLtMatrixLayoutDestroy(lc);
  cublasLtMatrixLayoutDestroy(ld);
  cublasLtMatmulDescDestroy(description);
  cublasLtDestroy(handle);
  return status;
}

static void check_case(const Case *c, CUstream stream) {
  Matrix a = c->transpose_a ? matrix_new(K, M, c->type, stream) : matrix_new(M, K, c->type, stream);
  Matrix b = c->transpose_b ? matrix_new(N, K, c->type, stream) : matrix_new(K, N, c->type, stream);
  Matrix d = matrix_new(M, N, c->result_type, stream), aux = matrix_with_ld(M, N, AUX_LD, c->result_type, stream);
  Matrix other = matrix_with_ld(M, N, M, c->result_type, stream), added = c->elsewhere ? other : d;
  Matrix bias = matrix_new(M, 1, c->result_type, stream);
  double expected[M * N];
  bool good = multiply(c, &a, &b, &added, &d, &bias, &aux, stream) == CUBLAS_STATUS_SUCCESS;
  for (int64_t j = 0; j < N; j++)
    for (int64_t i = 0; i < M; i++) {
      double before;
      expected[j * M + i] = expected_element(c, &a, &b, &added, &bias, &aux, i, j, &before);
      good = good && near(matrix_read(&d, i, j), expected[j * M + i], c);
      bool keeps = c->epilogue == CUBLASLT_EPILOGUE_GELU_AUX || c->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
      good = good && near(matrix_read(&aux, i, j), keeps ? before : aux.value[j * M + i], c);
    }
  for (int64_t i = 0; makes_bias(c->epilogue) && i < (c->epilogue == CUBLASLT_EPILOGUE_BGRADB ? N : M); i++)
    good = good && near(matrix_read(&bias, i, 0), expected_bias(c, &a, &b, expected, i), c);
  char what[200];
  snprintf(what, sizeof what, "a product: transposed %d %d, types %d %d, beta %g, epilogue %d, algorithm %d",
           c->transpose_a, c->transpose_b, c->type, c->result_type, (double)c->beta, c->epilogue, c->algorithm);
  expect(good, what);
  Matrix *all[] = {&a, &b, &d, &other, &aux, &bias};
  for (int i = 0; i < 6; i++)
    matrix_free(all[i]);
}

static void check_products(CUstream stream) {
  static const int epilogues[] = {
      CUBLASLT_EPILOGUE_DEFAULT,     CUBLASLT_EPILOGUE_BIAS,          CUBLASLT_EPILOGUE_GELU_BIAS,
      CUBLASLT_EPILOGUE_GELU_AUX,    CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU,
      CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,        CUBLASLT_EPILOGUE_BGRADB};
  static const int types[][2] = {{CUDA_R_32F, CUDA_R_32F}, {CUDA_R_16BF, CUDA_R_16BF}, {CUDA_R_16BF, CUDA_R_32F}};
  for (int bits = 0; bits < 32; bits++)
    for (int t = 0; t < 3; t++)
      for (size_t e = 0; e < sizeof epilogues / sizeof epilogues[0]; e++)
        check_case(&(Case){bits & 1, bits >> 1 & 1, types[t][0], types[t][1], (float)(bits >> 2 & 1), epilogues[e],
                           bits >> 3 & 1, bits >> 4},
                   stream);
  Case c = {.type = CUDA_R_32F, .result_type = CUDA_R_32F, .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
  Matrix a = matrix_new(M, K, CUDA_R_32F, stream), b = matrix_new(K, N, CUDA_R_32F, stream);
  Matrix d = matrix_new(M, N, CUDA_R_32F, stream), cut = a;
  CUstream failing;
  cuStreamCreate(&failing, CU_STREAM_NON_BLOCKING);
  cut.at += sizeof(float);
  expect(multiply(&c, &cut, &b, &d, &d, &d, &d, failing) != CUBLAS_STATUS_SUCCESS,
         "a product that reads behind its memory");
}

/* An epilogue that leaves its vector or its matrix is caught; what the library has no kernel for is refused. */
static void check_epilogue_faults(CUstream stream) {
  static const struct {
    int epilogue;
    int64_t bias, aux, ld; /* elements that there are; between columns of aux */
    const char *what;
  } faults[] = {
      {CUBLASLT_EPILOGUE_BIAS, M - 1, 0, AUX_LD, "a bias that ends too early"},
      {CUBLASLT_EPILOGUE_BGRADB, N - 1, 0, AUX_LD, "a gradient of a bias that has no room"},
      {CUBLASLT_EPILOGUE_DGELU_BGRAD, M - 1, N * AUX_LD, AUX_LD, "a gradient of a bias that has no room, with GELU's"},
      {CUBLASLT_EPILOGUE_GELU_AUX_BIAS, M, (N - 1) * AUX_LD, AUX_LD, "an aux that has no room"},
      {CUBLASLT_EPILOGUE_DGELU, M, (N - 1) * AUX_LD, AUX_LD, "an aux that ends too early"},
      {CUBLASLT_EPILOGUE_GELU_AUX_BIAS, M, N * AUX_LD, M, "an aux without room for 16-byte accesses"}};
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    Case c = {.type = CUDA_R_32F, .result_type = CUDA_R_32F, .epilogue = faults[i].epilogue};
    Matrix a = matrix_new(M, K, CUDA_R_32F, stream), b = matrix_new(K, N, CUDA_R_32F, stream);
    Matrix d = matrix_new(M, N, CUDA_R_32F, stream), bias = d, aux = d;
    bias.at = allocate((size_t)faults[i].bias * sizeof(float));
    aux.at = allocate((size_t)(faults[i].aux ? faults[i].aux : 1) * sizeof(float));
    aux.ld = faults[i].ld;
    CUstream failing;
    cuStreamCreate(&failing, CU_STREAM_NON_BLOCKING);
    cublasStatus_t status = multiply(&c, &a, &b, &d, &d, &bias, &aux, failing);
    expect(faults[i].ld == AUX_LD ? status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED
                                  : status == CUBLAS_STATUS_NOT_SUPPORTED,
           faults[i].what);
    cuMemFree_v2(bias.at);
    cuMemFree_v2(aux.at);
    matrix_free(&a);
    matrix_free(&b);
    matrix_free(&d);
  }
}

int main(void) {
  char path[] = "libraries_test.report-XXXXXX";
  int file = mkstemp(path), count = 0;
  if (file < 0)
    return 1;
  close(file);
  setenv("MOEC_SIMULATOR_REPORT", path, 1);
  setenv("MOEC_SIMULATOR_MEMORY", "8", 1);
  CUstream stream;
  expect(cuInit(0) == CUDA_SUCCESS && cuDeviceGetCount(&count) == CUDA_SUCCESS && count == 1, "one device");
  cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
  check_memory();
  check_kernels(stream);
  check_report(path);
  check_products(stream);
  check_epilogue_faults(stream);
  unlink(path);
  printf("%d failures\n", failures);
  return failures > 0;
}
