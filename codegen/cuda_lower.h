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

/* kernel_from_template (codegen/kernel.h) into the function's kernels. */
Kernel *cuda_template(Lower *l, const char *name, const CudaDefine *defines, const char *arch);

/* A launch step of `kernel` (`suffix`: "" or "_finish", "_dkv": the entry point NAME<suffix>). Add operands in the
 * order of the signature, then step_end. */
Step cuda_launch(Lower *l, uint32_t inst, Kernel *kernel, const char *suffix, CudaGeometry geometry);
void cuda_read(Lower *l, Step *s, Place place); /* a pointer that the kernel reads */
void cuda_write(Lower *l, Step *s, Place place);
void cuda_scratch(Lower *l, Step *s, int64_t bytes);
void cuda_number(Lower *l, Step *s, int64_t number); /* the 8-byte number itself */
void cuda_null(Lower *l, Step *s);
/* The live count of `extent` (its last entry), or null when it is NO_VALUE. */
void cuda_live(Lower *l, Step *s, ValueId extent);
/* The status cell and the step's own index as the step's last two operands, and `check=<name>`; the fields of the
 * message (step_number "n", "k", "bound", "rows") follow. */
void cuda_reports(Lower *l, Step *s, const char *name);

/* Several ways to compute the same (docs/plan.md, "choice"): between begin and end the steps behind cuda_option are one
 * way, which is called `name`. Each way writes everything that later steps read. */
void cuda_choice_begin(Lower *l);
void cuda_option(Lower *l, const char *name);
void cuda_choice_end(Lower *l);

/* What lower*.c call where the target is CUDA. */
void cuda_row_kernel(Lower *l, const KernelCall *call, uint32_t first, uint32_t last);
void cuda_copy(Lower *l, uint32_t inst, Type type, Place from, int64_t ldf, Place to, int64_t ldt);
void cuda_fill(Lower *l, uint32_t inst, DType dtype, Place to, double value);

/* cuda_weights.c: whether the instruction makes a copy in bf16 of a parameter of the function's table that is kept in
 * the arena of copies; whether any function of the table has one; and the function to lower, which is `f` itself or,
 * for an update of such a table, one that makes the copies as well; and the function TABLE.copies. */
bool cuda_is_copy(const Func *f, const Inst *inst);
bool cuda_has_copies(const Module *m, const Table *table);
/* The parameter that the value is, views passed, if its copy is kept where its table has any; else NO_VALUE. */
ValueId cuda_copied_parameter(const Func *f, ValueId v);
const Func *cuda_with_copies(const Func *f);
const Func *cuda_copies_func(const Module *m, const Table *table);

/* cuda_gelu.c: the function to lower: GELU's kernel keeps what its gradient is computed from. */
const Func *cuda_with_gelu_kept(const Func *f);
/* cuda_epilogue*.c: the products that are lowered together with a kernel, once the places are known; then, for every
 * instruction (of a group the first): whether it belongs to such a pair, whose steps stand where the last of them is.
 */
void cuda_find_pairs(Lower *l);
bool cuda_lower_paired(Lower *l, uint32_t inst);

void lower_cuda_matmul(Lower *l, uint32_t inst);
void lower_cuda_cast(Lower *l, uint32_t inst);
void lower_cuda_route(Lower *l, uint32_t inst); /* cuda_route.c */
void lower_cuda_rank_rows(Lower *l, uint32_t inst);
void lower_cuda_balanced_assignment(Lower *l, uint32_t inst);
void lower_cuda_scatter_rows(Lower *l, uint32_t inst);
void lower_cuda_segment_sum(Lower *l, uint32_t inst);
void lower_cuda_attention(Lower *l, uint32_t inst); /* cuda_attention.c */
void lower_cuda_attention_grad(Lower *l, uint32_t inst);
void lower_cuda_missing(Lower *l, uint32_t inst);        /* of an op that only the CPU has */
void lower_cuda_grouped_matmul(Lower *l, uint32_t inst); /* cuda_grouped.c */
void lower_cuda_grouped_outer(Lower *l, uint32_t inst);
/* The row kernel of insts first..last, and the grouped product whose epilogue it can be; false: there is no such
 * product, and nothing was lowered. */
bool lower_cuda_epilogue(Lower *l, uint32_t first, uint32_t last);
/* A matmul with ragged rows, or with ta a ragged sum, as a grouped product with one group. */
void lower_cuda_ragged_matmul(Lower *l, uint32_t inst);

/* By op: its rule for CUDA; NULL: that of lower.h, if it serves both targets (lower.c, find_rule). */
extern const LowerRule cuda_lower_rule[OP_COUNT];

#endif
