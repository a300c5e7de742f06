/* The plan (docs/plan.md) as structs.
 *
 * In: the text the code generator made. Out: a Plan, which lives as long as the process; names point into its copy of
 * the text. Holds afterwards: every place lies in its arena, every table and function named exists, every key of a step
 * was given and known. A text that breaks this is damage or a bug of the compiler: FAIL_BUG with the line.
 */
#ifndef MOEC_RUNTIME_PLAN_H
#define MOEC_RUNTIME_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum PlanType { PLAN_F32, PLAN_BF16, PLAN_I32 } PlanType;
size_t plan_type_size(PlanType type);
const char *plan_type_name(PlanType type);

typedef enum PlanSpace {
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
  SPACE_STATUS,     /* CUDA: the i64[4] in which a kernel reports the user's mistake */
  SPACE_PARAM_BF16, /* CUDA: the parameters in bf16, each at half its offset in SPACE_PARAM */
  SPACE_NULL,       /* no memory: the operand is a null pointer, written `null` */
  SPACE_COUNT
} PlanSpace;

typedef struct PlanPlace {
  PlanSpace space;
  int64_t offset; /* bytes; -1: not given (optional operands) */
} PlanPlace;

/* A number known at build (dynamic false), or the i32 at `place` when the step runs. */
typedef struct PlanCount {
  bool dynamic;
  int64_t number;
  PlanPlace place;
} PlanCount;

enum { PLAN_MAX_RANK = 4 };

typedef struct PlanShape {
  int rank; /* 0: a scalar */
  int64_t dim[PLAN_MAX_RANK];
  int64_t elements;
} PlanShape;

typedef struct PlanArgument {
  const char *name;
  PlanType type;
  PlanShape shape;
  PlanPlace at;
} PlanArgument;

typedef struct PlanResult {
  const char *label;     /* "loss", "grad", "param", "m", "v", ... */
  const char *parameter; /* without '@'; NULL for plain results */
  PlanType type;
  PlanShape shape;
  PlanPlace at;
  PlanCount live; /* live entries of dim 0; all of them when the plan does not say; 1 for a scalar */
} PlanResult;

/* Every value of a function built with --keep-values. */
typedef struct PlanValue {
  const char *name;
  PlanType type;
  PlanShape shape;
  int64_t ld; /* elements between rows */
  PlanPlace at;
  PlanCount live;
} PlanValue;

typedef enum PlanStepKind {
  STEP_LAUNCH,
  STEP_GEMM,
  STEP_GROUPED_GEMM,
  STEP_GROUPED_OUTER,
  STEP_ATTENTION,
  STEP_ATTENTION_GRAD,
  STEP_ROUTE,
  STEP_RANK_ROWS,
  STEP_BALANCED_ASSIGNMENT,
  STEP_SCATTER_ROWS,
  STEP_SEGMENT_SUM,
  STEP_COPY,
  STEP_FILL,
  STEP_MEMSET,
  STEP_KIND_COUNT
} PlanStepKind;
const char *plan_step_name(PlanStepKind kind);

/* What the status cell of a launch that checks the user's input may report (docs/plan.md). */
typedef enum PlanCheck { CHECK_NONE, CHECK_ROUTE, CHECK_SCATTER_ROWS } PlanCheck;

typedef struct StepLaunch {
  int kernel;     /* index into Plan.kernels; of a CUDA plan: an entry point */
  PlanCount rows; /* CPU */
  int operand_count;
  PlanPlace *operands; /* CUDA: 8 bytes each: an address, the offset of a SPACE_TAG, or 0 for SPACE_NULL */
  /* CUDA: */
  int64_t blocks[3], threads, shared; /* shared: bytes of dynamic shared memory */
  PlanCheck check;
  int64_t n, k, bound, check_rows; /* numbers for the check's message; check_rows: `rows` in the text */
} StepLaunch;

typedef enum PlanEpilogue {
  EPILOGUE_NONE,
  EPILOGUE_BIAS,
  EPILOGUE_GELU_BIAS,
  EPILOGUE_GELU_AUX_BIAS,
  EPILOGUE_DGELU,
  EPILOGUE_DGELU_BGRAD,
  EPILOGUE_BGRADB,
  EPILOGUE_COUNT
} PlanEpilogue;

typedef struct StepGemm {
  PlanCount m, n, k; /* any may be dynamic */
  int64_t ta, tb, lda, ldb, ldc, beta;
  PlanPlace a, b, c;
  PlanType type, ctype;
  /* CUDA: what the product does besides (cuBLASLt's epilogues of the same names); the places it has no use for are
   * SPACE_NULL. `bias` is [n], added or, of dgelu_bgrad, the column sums of c; of bgradb it is [m], the sums of the
   * rows of op(a); `aux` [m,ldaux] is what gelu_aux_bias saves and dgelu reads; `add` [m,ldadd]: with beta=1 what is
   * added in the place of c. All are of type `ctype`. */
  PlanEpilogue epilogue;
  PlanPlace bias, aux, add;
  int64_t ldaux, ldadd;
} StepGemm;

typedef struct StepMemset {
  PlanPlace to;
  int64_t bytes;
} StepMemset;

typedef struct StepGrouped { /* grouped_gemm and grouped_outer */
  int64_t groups, rows, m, n, k, tb, lda, ldb, ldc;
  PlanPlace off, a, b, c;
  PlanType type, ctype;
} StepGrouped;

typedef struct StepAttention { /* attention and attention_grad */
  int64_t n, segments, heads, head, causal;
  int64_t ldq, ldk, ldv, ldo, lddo, lddq, lddk, lddv;
  PlanPlace q, k, v, off, o, lse, dout, dq, dk, dv, scratch; /* dout: the gradient of o, `do` in the text */
  PlanType type;
} StepAttention;

typedef struct StepRoute {
  int64_t n, experts, k, bound, ldm;
  PlanPlace mask, pair, off, slot, scratch;
} StepRoute;

typedef struct StepGroups { /* rank_rows and balanced_assignment */
  int64_t n, columns, groups, ldx;
  PlanPlace x, c, scratch;
} StepGroups;

typedef struct StepScatter {
  int64_t n, d, rows, ldx;
  PlanPlace ids, x, c, scratch;
  PlanType type, ctype;
} StepScatter;

typedef struct StepSegmentSum {
  int64_t groups, n, ldx, ldc;
  PlanPlace off, x, c;
  PlanType type, ctype;
} StepSegmentSum;

typedef struct StepCopy { /* copy and fill */
  PlanCount rows;
  int64_t columns, ldf, ldt;
  PlanPlace from, to;
  double value;
  PlanType type;
} StepCopy;

typedef struct PlanStep {
  PlanStepKind kind;
  int line;            /* of the plan's text */
  const char *comment; /* the line's comment: IR value names and the Lua line; "" when there is none */
  int choice;          /* CUDA: of which choice of the function it is an option's part, from 1 on; 0: of none */
  const char *option;  /* its name; NULL: of none */
  union {
    StepLaunch launch;
    StepGemm gemm;
    StepGrouped grouped;
    StepAttention attention;
    StepRoute route;
    StepGroups groups;
    StepScatter scatter;
    StepSegmentSum segment_sum;
    StepCopy copy;
    StepMemset memset;
  };
} PlanStep;

typedef struct PlanSegment {
  int64_t offset, size; /* elements */
  double decay;
  int birth;
} PlanSegment;

typedef struct PlanParam {
  const char *name;
  int64_t offset; /* elements */
  PlanShape shape;
  int segment; /* -1: frozen */
  const char *init;
} PlanParam;

typedef struct PlanTable {
  const char *name;
  int64_t size;           /* elements of one arena */
  int64_t gradient_bytes; /* of the arena of gradients: f32, or bf16 where the plan's results are */
  PlanSegment *segments;
  int segment_count;
  PlanParam *params;
  int param_count;
} PlanTable;

typedef struct PlanFunc {
  const char *name;
  const PlanTable *table; /* NULL: none */
  int64_t act;            /* bytes of the act arena it needs */
  double flops;           /* of one run, without expert pairs */
  double flops_per_pair;  /* of one selected expert-token pair */
  unsigned spaces;        /* bit set of the PlanSpaces its steps and results use */
  PlanArgument *arguments;
  int argument_count;
  PlanResult *results;
  int result_count;
  PlanValue *values;
  int value_count;
  PlanStep *steps;
  int step_count;
} PlanFunc;

typedef struct PlanPhase {
  const char *name;
  int64_t steps; /* 0: to the end of the run */
  const PlanTable *table;
  const PlanFunc *enter; /* NULL: no transition */
  double crossover;      /* experts per token above which .train.wide is faster than .train.packed; 0: one version */
  const char *line;      /* "file.lua:12" */
} PlanPhase;

typedef struct PlanSchedule {
  const char *name; /* "lr", "dense.tau" */
  int64_t count;
  float *values; /* beyond the end the last one holds: plan_schedule_value */
} PlanSchedule;

typedef struct PlanSymbol {
  const char *name;
  int64_t value;
} PlanSymbol;

typedef struct PlanRun {
  int64_t steps, batch, accumulate, sequence, vocabulary, tokens, segments;
} PlanRun;

typedef struct Plan {
  const char *target, *module, *task;
  int64_t act; /* bytes */
  PlanRun run;
  PlanSymbol *symbols;
  int symbol_count;
  PlanSchedule *schedules;
  int schedule_count;
  PlanTable *tables;
  int table_count;
  PlanPhase *phases;
  int phase_count;
  PlanFunc *funcs;
  int func_count;
  const char **kernels; /* distinct names of launches */
  int kernel_count;
} Plan;

/* `name` stands in messages. The text needs no terminator and is copied. */
Plan *plan_read(const char *name, const char *text, size_t size);

/* NULL when absent. */
const PlanFunc *plan_func(const Plan *plan, const char *name);
const PlanTable *plan_table(const Plan *plan, const char *name);
const PlanPhase *plan_phase(const Plan *plan, const char *name);
const PlanSchedule *plan_schedule(const Plan *plan, const char *name);
const PlanParam *plan_param(const PlanTable *table, const char *name);
const PlanArgument *plan_argument(const PlanFunc *func, const char *name);
/* The function TABLE.copies, which makes all of SPACE_PARAM_BF16; NULL: the table has no such copies. */
const PlanFunc *plan_copies(const Plan *plan, const PlanTable *table);
/* `parameter` NULL: the plain result of that label. */
const PlanResult *plan_result(const PlanFunc *func, const char *label, const char *parameter);

/* Value at a step, the last one beyond the end. */
float plan_schedule_value(const PlanSchedule *schedule, int64_t step);

/* The Lua line a step's comment names ("model.lua:41"), or "plan line N" in memory that lives on. */
const char *plan_step_location(const PlanStep *step);

#endif
