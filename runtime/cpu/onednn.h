/* oneDNN, opened at run time: the part of its C API that the products need, the same for its majors 2 and 3.
 *
 * The library's own header is not used, since the two majors differ and a trainer runs with whichever it finds.
 */
#ifndef MOEC_RUNTIME_ONEDNN_H
#define MOEC_RUNTIME_ONEDNN_H

#include <stdbool.h>
#include <stdint.h>

/* A run-time dim of a shape: given with each execution. */
#define ONEDNN_RUNTIME INT64_MIN

typedef enum OnednnType { ONEDNN_BF16 = 2, ONEDNN_F32 = 3 } OnednnType; /* values of dnnl_data_type_t */

/* Shape of a product c[m,n] = a[m,k] b[k,n] with strides in elements. m or k may be ONEDNN_RUNTIME. */
typedef struct OnednnShape {
  int64_t m, n, k;
  int64_t a_stride[2], b_stride[2], c_stride[2];
  int64_t type, ctype; /* OnednnType */
  int64_t beta;        /* 1: adds to c */
} OnednnShape;

typedef struct OnednnProduct OnednnProduct;

/* Opens the library; a missing or unusable one: FAIL_ENVIRONMENT with what to install. Idempotent. */
void onednn_open(void);
const char *onednn_name(void); /* "oneDNN 2.6.3", or "none" before it is open */

/* Row-major: c[m,n] = op(a) op(b) + beta c. */
void onednn_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                  int64_t ldb, float beta, float *c, int64_t ldc);

/* The product of a shape, made at its first use and kept. */
OnednnProduct *onednn_product(const OnednnShape *shape);
/* m and k replace the run-time dims. */
void onednn_execute(OnednnProduct *product, int64_t m, int64_t k, const void *a, const void *b, void *c);

#endif
