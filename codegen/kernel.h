/* Row kernels: loops over rows whose body is a short SSA program over columns.
 *
 * In: a run of adjacent instructions of one function (one instruction, or one group made by a fusion pass), all of one
 * row space (ir/rows.h). Out: a kernel, printed as C and as CUDA from the same structure, and the list of values its
 * operands are bound to. Equal kernels are one: the name is a hash of the printed body.
 */
#ifndef MOEC_KERNEL_H
#define MOEC_KERNEL_H

#include "ir/ir.h"

typedef struct Kernel Kernel; /* private to codegen/kernel_*.c */

typedef struct KernelSet {
  Arena *arena;
  bool cuda;        /* whose loops decide what may be in place */
  Kernel **kernels; /* arena vector, distinct, in order of first use */
} KernelSet;

typedef enum OperandRole { OPERAND_INPUT, OPERAND_OUTPUT, OPERAND_SCRATCH, OPERAND_TAG } OperandRole;

/* Inputs, outputs, scratch, and last, in kernels that draw random numbers, the tags of the draws and the run's seed (an
 * input without a value). A tag is no memory: the number itself stands in the place of the pointer, so that layers that
 * differ in nothing but their tags share a kernel. */
typedef struct KernelOperand {
  OperandRole role;
  ValueId value;         /* NO_VALUE for scratch and for the seed */
  int64_t scratch_bytes; /* OPERAND_SCRATCH */
  int64_t tag;           /* OPERAND_TAG */
  bool finish;           /* a column sum or its scratch: on CUDA the operands that NAME_finish uses */
  bool in_place; /* an output and an input that both say so may share memory, if dtype, rows, columns and ld agree */
} KernelOperand;

typedef struct KernelCall {
  Kernel *kernel;
  KernelOperand *operands; /* arena vector, in the order of the kernel's pointers */
  int64_t rows;            /* static bound */
  ValueId extent;          /* offsets value whose last entry is the number of live rows, or NO_VALUE */
} KernelCall;

/* What the memory plan knows about values before kernels are made. */
enum { VALUE_ALIGNMENT = 16 }; /* bytes: memory of values, arenas and parameters begins at least so aligned */
typedef struct ValueLayout {
  const int64_t *ld;        /* by ValueId: elements between rows (the columns, or more for a column slice) */
  const int64_t *offset;    /* by ValueId: bytes from the beginning of its memory (a column slice); NULL: all 0 */
  const uint32_t *last_use; /* by ValueId: index of the last instruction that reads it; UINT32_MAX: a result */
} ValueLayout;

/* Lowers insts[first..last] of `f`. Values used behind `last` become outputs; the others stay in registers. */
KernelCall *kernel_lower(KernelSet *set, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout);

/* A macro of a CUDA template. */
typedef struct CudaDefine {
  const char *name;
  int64_t number;
} CudaDefine;

/* The row kernel of insts[first..last] as the epilogue of a product of packed rows, which is the bf16 value `product`
 * with groups `off` (kernel_epilogue.c). */
typedef struct KernelEpilogue {
  const char *refusal;     /* why it cannot be one; the rest is NULL then */
  const char *text;        /* CUDA, to stand in front of a template's text */
  const char *key;         /* the same without the first user's names */
  KernelOperand *operands; /* arena vector: inputs and outputs, in the order of EPILOGUE_PARAMETERS */
} KernelEpilogue;
KernelEpilogue kernel_epilogue(KernelSet *set, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout,
                               ValueId product, ValueId off);

/* An instance of the template codegen/cuda/<name>.cu, for CUDA sets only; `defines` ends with a NULL name, `epilogue`
 * may be NULL. Equal instances are one kernel. Lines `//@use OTHER` at the head of a template put that text in front.
 * `arch`: NULL, or the only architecture that can compile it ("sm_90a"). */
Kernel *kernel_from_template(KernelSet *set, const char *name, const CudaDefine *defines, const char *arch,
                             const KernelEpilogue *epilogue);
/* The instructions of a launch of such an instance; the first ones stand at the head of its text. */
void kernel_used_for(Kernel *k, const Func *f, uint32_t first, uint32_t last);

/* How to compile the emitted C, besides -march and the output: gcc vectorises the loops, IEEE semantics of NaN and
 * infinities stay, and products are fused with sums only where the text says so. */
#define KERNEL_C_FLAGS                                                                                                 \
  "-std=gnu11 -O3 -fopenmp -fPIC -fno-math-errno -fno-trapping-math -ffp-contract=off -fno-semantic-interposition"

/* CUDA launch of a kernel with `bound` rows: blocks = ceil(bound * rows_per_entry / rows_per_block), at least 1; its
 * parameters are the operands' pointers but those of outputs to finish, `const int *live` (the last entry of the
 * offsets, or NULL) and `long long bound` (rows of dim 0). A kernel with finish_threads > 0 is followed by NAME_finish,
 * whose operands are those to finish alone, with about so many threads, 256 per block. Any number of blocks gives the
 * same results: these are the fast ones. */
typedef struct KernelGeometry {
  int threads;
  int64_t rows_per_block, rows_per_entry;
  int64_t columns_per_block; /* > 0: a single row, spread over blocks: blocks = ceil(columns / columns_per_block) */
  int64_t columns;
  int64_t shared_bytes; /* dynamic shared memory; 0: what the kernel declares is enough */
  int64_t finish_threads;
} KernelGeometry;
KernelGeometry kernel_geometry(const Kernel *k); /* of row kernels only */

const char *kernel_name(const Kernel *k);
const char *kernel_c(const Kernel *k);        /* one C function, without the prelude; of row kernels only */
const char *kernel_cuda(const Kernel *k);     /* one CUDA translation unit body, without the prelude */
const char *kernel_template(const Kernel *k); /* the name of the template; NULL: a row kernel */
const char *kernel_arch(const Kernel *k);     /* the only architecture that compiles it; NULL: any */
const char *kernel_prelude_c(void);           /* vectorisable exp, log, tanh, Philox, ... and runtime/kernel_abi.h */
const char *kernel_prelude_cuda(void);

#endif
