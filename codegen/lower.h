/* What the lowering rules share (lower*.c only). A rule appends the steps of one instruction to the function's plan. */
#ifndef MOEC_LOWER_H
#define MOEC_LOWER_H

#include "codegen/plan.h"

typedef struct Lower {
  Arena *arena;
  const Module *module;
  const Func *func;
  FuncPlan *plan;
  PlanTarget target;
  const CudaOptions *cuda; /* where the target is CUDA */
  KernelSet *kernels;
  uint32_t *last_use;      /* by ValueId: index of the last instruction that reads it; UINT32_MAX: a result */
  int64_t *ld;             /* by ValueId, as in plan->values, for the kernels */
  int64_t *offset;         /* by ValueId: bytes from the beginning of its storage, likewise */
  struct CudaPair **pairs; /* CUDA: by instruction, see cuda_epilogue.h */
  uint32_t seed;           /* the storage of the seed cell, or NO_STORAGE */
  bool *adds;              /* by instruction: a product that is added to a sum in place, with the add behind it */
  int choices;             /* of the function, so far */
  const char *option;      /* of the last of them, whose part the next steps are; NULL: of none */
  bool keep_values;        /* as in the plan */
} Lower;

typedef void (*LowerRule)(Lower *l, uint32_t inst);
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flops, eval, lower, doc)               \
  void lower_##lower(Lower *l, uint32_t inst);
#include "ir/ops.def"
extern const LowerRule lower_rule[OP_COUNT]; /* lower.c, from ops.def */

/* As in ir/rows.h: rows are all dims but the last, columns the last. */
int64_t type_rows(const Module *m, Type t);
int64_t type_columns(const Module *m, Type t);

/* lower_product.c: finds the products that are added in place; such a one, with the add behind it, as one step. */
void lower_find_sums(Lower *l, bool keep_values);
void lower_added_matmul(Lower *l, uint32_t inst);
/* lower_place.c: storages of all values, views resolved. */
void lower_places(Lower *l);
uint32_t lower_storage(Lower *l, Storage s);
/* Behind the last instruction: results go into the flat arenas, where they are made when that is safe, else by a copy.
 */
void lower_results(Lower *l);

/* Building a step: begin, add fields in the order of the text, end. Reading a constant that only kernels used so far
 * puts its `fill` step in front. */
Step step_begin(const char *keyword, uint32_t first_inst, uint32_t last_inst);
void step_number(Lower *l, Step *s, const char *key, int64_t number);
void step_real(Lower *l, Step *s, const char *key, double real);
void step_word(Lower *l, Step *s, const char *key, const char *word);
void step_read(Lower *l, Step *s, const char *key, Place place);
void step_write(Lower *l, Step *s, const char *key, Place place);
/* `type`'s rows: live ones of a ragged matrix or vector, else all (dead rows of a ragged tensor of higher rank are
 * copied with the rest, which nobody sees). */
void step_rows(Lower *l, Step *s, const char *key, Type type);
/* A count that is `number`, or the last entry of `extent` when there is one. */
void step_count(Lower *l, Step *s, const char *key, int64_t number, ValueId extent);
void step_scratch(Lower *l, Step *s, const char *key, int64_t bytes);
void step_end(Lower *l, const Step *s);

/* The value's place and leading dimension; ir_bug when it has none. */
Place lower_place(const Lower *l, ValueId v);
Type lower_type(const Lower *l, ValueId v);
/* A gemm step with the sizes and operands of a matmul (lower_product.c). */
Step lower_operands(Lower *l, uint32_t inst);
/* A `copy` step between two places of `type`'s rows and columns (lower_view.c). */
void lower_copy(Lower *l, uint32_t inst, Type type, Place from, int64_t ldf, Place to, int64_t ldt);
/* A constant's memory, written. */
void lower_fill(Lower *l, uint32_t inst, DType dtype, Place to, double value);
/* The value without gaps between its rows: its own place, or that of a copy made here. */
Place lower_contiguous(Lower *l, uint32_t inst, ValueId v);
/* Instructions first..last as one kernel (lower_row.c). */
void lower_kernel(Lower *l, uint32_t first, uint32_t last);
/* Operands of row kernels that are no values: the run's seed cell, and the tag itself. */
Place lower_seed(Lower *l);
Place lower_tag(Lower *l, int64_t tag);

#endif
