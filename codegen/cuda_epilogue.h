/* Products together with the elementwise kernel or the column sum that cuBLASLt can do in their stead
 * (codegen/cuda_epilogue*.c only).
 *
 * A `pair` is a product and the kernel beside it. It becomes a choice of the plan (docs/plan.md): option `separate` is
 * the product and the kernel, option `epilogue` the product that does the kernel's work. What a kernel computes is read
 * off its body: its values are analytic functions of its operands, and equal the epilogue's formula where they are
 * evaluated.
 */
#ifndef MOEC_CUDA_EPILOGUE_H
#define MOEC_CUDA_EPILOGUE_H

#include "codegen/cuda_lower.h"

/* The words of a plan's gemm step. */
typedef enum Epilogue {
  EPILOGUE_SUM,           /* product + residual: beta=1 */
  EPILOGUE_BIAS,          /* product + bias (+ residual) */
  EPILOGUE_GELU_BIAS,     /* gelu(product + bias) */
  EPILOGUE_GELU_AUX_BIAS, /* the same, and product + bias is kept */
  EPILOGUE_DGELU,         /* product * gelu'(kept) */
  EPILOGUE_DGELU_BGRAD,   /* the same, and its column sums */
  EPILOGUE_BGRADB         /* beside the product, column sums of its transposed first operand */
} Epilogue;

typedef struct CudaPair {
  Epilogue epilogue;
  uint32_t product;     /* instructions: the matmul, */
  uint32_t first, last; /* and the kernel's, a group or one alone */
  ValueId result;       /* what the product gives with its epilogue */
  ValueId bias;         /* the vector it adds, or the column sums; NO_VALUE: none */
  ValueId aux, residual;
  ValueId *rest; /* arena vector: what else the kernel gives, of the product only by way of `result` */
} CudaPair;

/* The body of a kernel at a few points. Operands from outside are random numbers of their own; what is not analytic, or
 * follows from it, is NaN, which equals nothing. */
enum { EPILOGUE_SAMPLES = 12 };
typedef struct Samples {
  const Func *f;
  uint32_t first, last;
  double (*number)[EPILOGUE_SAMPLES]; /* by ValueId; those of values that the body reads or makes are set */
} Samples;
/* `room`: for every value of the function. */
Samples samples_take(const Func *f, uint32_t first, uint32_t last, double (*room)[EPILOGUE_SAMPLES]);
bool samples_equal(const double a[EPILOGUE_SAMPLES], const double b[EPILOGUE_SAMPLES]);
/* x = product + bias + residual, each NO_VALUE where it has none. */
void samples_sum(const Samples *s, ValueId product, ValueId bias, ValueId residual, double x[EPILOGUE_SAMPLES]);
void samples_gelu(const double x[EPILOGUE_SAMPLES], double y[EPILOGUE_SAMPLES]);
/* y = dy gelu'(x) */
void samples_gelu_gradient(const double dy[EPILOGUE_SAMPLES], const double x[EPILOGUE_SAMPLES],
                           double y[EPILOGUE_SAMPLES]);
/* Values from outside that the body reads, without constants: vectors of the columns of `like`, or matrices like it. */
ValueId *samples_operands(const Samples *s, ValueId like, bool vectors);

/* The last instruction of the kernel that begins with `first`. */
uint32_t kernel_end(const Func *f, uint32_t first);
bool is_plain_product(const Func *f, uint32_t inst); /* a matmul of its own, without ragged dims */

/* cuda_epilogue.c: the pairs of a function, by instruction; NULL where there is none. Both the product and every
 * instruction of the kernel point to the pair. */
CudaPair **epilogue_pairs(const Lower *l);

#endif
