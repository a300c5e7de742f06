/* The plan of a module (docs/plan.md) as a data structure, before it becomes text.
 *
 * In: a module behind all passes. Out: per function, steps in order and the storage of every value. plan_lower makes
 * the steps, plan_memory gives every storage of the act arena its offset, plan_print writes the text; forecast, explain
 * and emit read the structure.
 *
 * A value stands in a storage: a stretch of one arena. Views share the storage of what they view, at an offset and with
 * a leading dimension (elements between rows). Results named "grad @p", "param @p", ... stand in the flat arenas.
 */
#ifndef MOEC_PLAN_H
#define MOEC_PLAN_H

#include "codegen/kernel.h"

typedef enum Space {
  SPACE_ACT,
  SPACE_PARAM,
  SPACE_GRAD,
  SPACE_M,
  SPACE_V,
  SPACE_SEED,
  SPACE_SOURCE_PARAM,
  SPACE_SOURCE_M,
  SPACE_SOURCE_V,
  SPACE_TAG,        /* no memory: the offset is the operand itself */
  SPACE_STATUS,     /* CUDA: the cell in which a kernel reports the user's mistake */
  SPACE_PARAM_BF16, /* CUDA: the parameters in bf16, each at half its offset in SPACE_PARAM (cuda_weights.c) */
  SPACE_COUNT
} Space;
extern const char *const space_name[SPACE_COUNT]; /* as in the text: "act", "src.param" */

/* Why a stretch of the act arena is needed. */
typedef enum StorageKind {
  STORAGE_ARGUMENT, /* lives through the function */
  STORAGE_RESULT,   /* lives to its end */
  STORAGE_SAVED,    /* made in the forward part, last read in the backward part */
  STORAGE_FORWARD,  /* made and last read in the forward part; in functions without gradients, every temporary */
  STORAGE_BACKWARD, /* made in the backward part */
  STORAGE_SCRATCH,  /* within one step */
  STORAGE_KIND_COUNT
} StorageKind;
extern const char *const storage_kind_name[STORAGE_KIND_COUNT]; /* "arguments", "saved for backward", ... */

#define NO_STEP UINT32_MAX
#define NO_STORAGE UINT32_MAX
#define NO_INST UINT32_MAX

typedef struct Storage {
  Space space;
  StorageKind kind;     /* of SPACE_ACT; set by plan_memory */
  int64_t bytes;        /* useful bytes */
  int64_t offset;       /* bytes from the start of the arena; of SPACE_ACT: set by plan_memory, a multiple of 64 */
  uint32_t first, last; /* steps between which it is live, both included; NO_STEP: no step touches it */
  uint32_t shares; /* NO_STORAGE, or the storage whose bytes it takes over, element by element, in its first step */
  uint32_t fill;   /* NO_INST, or the const that a `fill` step still has to write before the first use */
  ValueId value;   /* whose storage it is, for the reader; NO_VALUE: scratch */
  bool argument, result, scratch;
} Storage;

typedef struct Place {
  uint32_t storage; /* index into FuncPlan.storages */
  int64_t offset;   /* bytes within it */
} Place;

/* Where a value stands. storage is NO_STORAGE for values that never leave a kernel. */
typedef struct ValuePlace {
  Place place;
  int64_t ld; /* elements between rows */
} ValuePlace;

typedef enum FieldKind { FIELD_NUMBER, FIELD_REAL, FIELD_WORD, FIELD_READ, FIELD_WRITE, FIELD_COUNT } FieldKind;

/* One word of a step's line: `key=text`, or `text` alone when key is NULL. */
typedef struct Field {
  FieldKind kind;
  const char *key;
  int64_t number;
  double real;
  const char *word;
  Place place;   /* READ, WRITE, and COUNT: the i32 whose content is the number */
  bool in_place; /* operand of a kernel that may share memory with another such operand (KernelOperand.in_place) */
  ValueId value; /* operand of a kernel; NO_VALUE: scratch, or the seed */
} Field;

typedef struct Step {
  const char *keyword;            /* "launch", "gemm", ... */
  Kernel *kernel;                 /* of a launch */
  Field *fields;                  /* arena vector, in the order of the text */
  int choice;                     /* CUDA: of which choice it is an option's part (docs/plan.md); 0: of none */
  const char *option;             /* that option's name, or NULL */
  uint32_t first_inst, last_inst; /* the instructions it executes; NO_INST: none (a copy to a result's place) */
} Step;

typedef struct ResultPlace {
  const Result *result;
  Place place;
} ResultPlace;

/* Peak of the act arena: the step at which most bytes are live, and what they are. */
typedef struct MemoryPeak {
  uint32_t step; /* NO_STEP: nothing is ever live */
  int64_t live;  /* bytes live there */
  int64_t by_kind[STORAGE_KIND_COUNT];
} MemoryPeak;

typedef struct FuncPlan {
  const Func *func;
  Storage *storages;  /* arena vector */
  ValuePlace *values; /* by ValueId */
  Step *steps;        /* arena vector */
  ResultPlace *results;
  uint32_t loss_inst; /* the instruction that makes the loss of a function with gradients; else NO_INST */
  int64_t act;        /* bytes of the act arena */
  MemoryPeak peak;
  double work, work_of_pair; /* FLOPs of one run without expert pairs; of one selected pair, mean of the layers */
} FuncPlan;

typedef enum PlanTarget { PLAN_CPU, PLAN_CUDA } PlanTarget;

/* Where a CUDA kernel has two kinds, which of them a plan has: both, as a choice of the trainer's first step on a GPU
 * that has wgmma; mma.sync's alone; or Hopper's alone where it can be used. */
typedef enum CudaKinds { CUDA_KINDS_BOTH, CUDA_KINDS_MMA, CUDA_KINDS_WGMMA } CudaKinds;

/* `ledger` hears of the kinds when there is one. */
typedef struct CudaOptions {
  CudaKinds grouped, attention;
  struct Ledger *ledger;
} CudaOptions;

typedef struct Plan {
  Arena *arena;
  const Module *module;
  PlanTarget target;
  CudaOptions cuda;
  FuncPlan *funcs; /* arena vector, in the order of the module */
  KernelSet kernels;
  bool keep_values;
} Plan;

/* Lowers every function for the target and plans its memory. keep_values: every value keeps a place of its own to the
 * end of the function, and the text names it, so that a checker can compare value by value. */
Plan *plan_lower(const Module *m, PlanTarget target, bool keep_values);
/* For CUDA, with choices; plan_lower takes the zeros. */
Plan *plan_lower_cuda(const Module *m, bool keep_values, CudaOptions options);

/* Offsets of the storages in the act arena (plan_memory.c): greedy, the largest first, best fit. Checks afterwards that
 * no two live storages share a byte and that nothing is read before it is written (ir_bug). */
void plan_memory(Arena *arena, FuncPlan *plan);
/* The peak with `live_rows` rows of every ragged value in use; -1: all rows of its bound, which is FuncPlan.peak. */
MemoryPeak plan_peak(Arena *arena, const FuncPlan *plan, int64_t live_rows);
bool plan_is_live(const Storage *s, uint32_t step); /* whether its bytes count at that step of the peak */
/* Whether a kernel may write its operand `made` over its operand `old`, which is then dead. */
bool plan_may_overwrite(const FuncPlan *plan, const Field *old, const Field *made);

int64_t plan_act_bytes(const Plan *plan); /* the largest any function needs */
/* Bytes of the table's arena of parameters in bf16 (cuda_weights.c); 0: nobody reads them so. */
int64_t plan_copy_bytes(const Plan *plan, const Table *table);
const FuncPlan *plan_find(const Plan *plan, const char *func);
int64_t place_offset(const FuncPlan *plan, Place place); /* bytes from the start of its arena */

void plan_print(const Plan *plan, FILE *out);
/* The part of the text that belongs to one function. */
void plan_print_func(const Plan *plan, const FuncPlan *func, FILE *out);

#endif
