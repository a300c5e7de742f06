/* Lowering for CUDA (codegen/cuda_*.c only): steps that are launches of kernels with fixed geometry.
 *
 * A kernel that is not a row kernel is an instance of a template: a CUDA text under codegen/cuda/, embedded in moec, in
 * front of which `#define`s state the numbers of this use; KERNEL is the name of its entry point (KERNEL_FUNCTION(x)
 * that of a second one, KERNEL_x). Equal instances are one kernel. The template's head comment says which macros it
 * takes, what its parameters are and how it is launched; the C file of the same name computes both.
 */
#ifndef MOEC_CUDA_LOWER_H
#define MOEC_CUDA_LOWER_H

#include "codegen/lower.h"

/* Sizes of a launch: static bounds, never live counts. */
typedef struct CudaGeometry {
  int64_t blocks[3]; /* 0 counts as 1 */
  int threads;
  int64_t shared_bytes; /* dynamic shared memory */
} CudaGeometry;

typedef struct CudaDefine {
  const char *name; /* without "KERNEL_": any macro of the template */
  int64_t number;
} CudaDefine;

/* An instance of template `name` ("attention" for codegen/cuda/attention.cu); `defines` ends with a NULL name. `arch`:
 * NULL, or the only architecture that can compile it ("sm_90a"). */
Kernel *cuda_template(Lower *l, const char *name, const CudaDefine *defines, const char *arch);

/* A launch step of `kernel` (`suffix`: "" or "_finish", "_dkv": the entry point NAME<suffix>). Add operands in the
 * order of the signature, then step_end. */
Step cuda_launch(Lower *l, uint32_t inst, Kernel *kernel, const char *suffix, CudaGeometry geometry);
void cuda_read(Lower *l, Step *s, Place place); /* a pointer that the kernel reads */
void cuda_write(Lower *l, Step *s, Place place);
void cuda_scratch(Lower *l, Step *s, int64_t bytes);
void cuda_number(Lower *l, Step *s, int64_t number); /* the 8-byte number itself */
/* The live count of `extent` (its last entry), or null when it is NO_VALUE. */
void cuda_live(Lower *l, Step *s, ValueId extent);
/* `check=<name>`, the status cell, and the step's own index as two operands. */
void cuda_check(Lower *l, Step *s, const char *name);

/* By op: its rule for CUDA, or NULL where the rule of lower.h serves both targets. */
extern const LowerRule cuda_lower_rule[OP_COUNT];

#endif
