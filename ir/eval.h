/* The interpreter: the oracle that gradients, passes and kernels are compared with.
 *
 * In: a function, tensors for its arguments and for the parameters it names, a seed. Out: the tensor of every value.
 * Floats are f64 whatever their dtype (f32 and bf16 alike are never rounded), i32 is i32. It is naive on purpose and
 * shares no code with the lowering or the runtime.
 *
 * Ragged values: the rows from `live` on hold NaN (i32: INT32_MIN), so a rule that reads a dead row shows.
 * Errors in data (an index out of range, more pairs than the bound) go to ir_fail with the instruction's line.
 *
 *   EvalEnvironment *env = eval_environment_new(arena, seed);
 *   eval_bind_argument(env, "tokens", tokens);
 *   eval_bind_parameter(env, table, "h1.w", SLOT_VALUE, w);
 *   Evaluation *run = eval_func(func, env, arena);
 *   const Tensor *loss = eval_result(run, "loss");
 *
 * One environment is one rank: it holds all that differs between ranks, and an Evaluation refers to one environment.
 */
#ifndef MOEC_EVAL_H
#define MOEC_EVAL_H

#include "ir/ir.h"

/* ---------------------------------------------------------------- tensors */

/* Row-major and contiguous. Exactly one of f and i is set, by dtype. */
typedef struct Tensor {
  DType dtype;
  uint8_t rank;
  int64_t dim[MAX_RANK];
  int64_t live; /* rows of dim 0 that hold data: all of them, or fewer when ragged; 1 for a scalar */
  double *f;
  int32_t *i;
} Tensor;

/* All rows live, every element NaN or INT32_MIN. */
Tensor *tensor_new(Arena *arena, DType dtype, int rank, const int64_t *dims);
/* The static bound of `type`, all rows live. */
Tensor *tensor_of_type(Arena *arena, const Module *m, Type type);
Tensor *tensor_scalar_f32(Arena *arena, double value);
Tensor *tensor_scalar_i32(Arena *arena, int32_t value);
int64_t tensor_all_elements(const Tensor *t);  /* of all rows */
int64_t tensor_live_elements(const Tensor *t); /* of the live rows: they come first */
int64_t tensor_row_elements(const Tensor *t);  /* of one row of dim 0 */

/* ---------------------------------------------------------------- decisions */

/* One result of an op with FLAG_DECISION and how near each of its choices was to falling otherwise: the distance of
 * the two compared numbers; for arg-max and top-k, of the last one taken and the first one left. */
typedef struct EvalDecision {
  const char *func, *value; /* names */
  const Tensor *tensor;
  const double *margin; /* per element of a comparison, per row of an arg-max or top-k; NULL when made elsewhere */
} EvalDecision;

typedef struct EvalDecisions {
  EvalDecision *items; /* arena vector */
} EvalDecisions;

/* A choice of the replayed run that this run's own numbers contradict by more than the tolerance. */
typedef struct EvalConflict {
  const char *func, *value;
  Loc loc;
  int64_t element; /* linear index: of the element of a comparison, of the row of an arg-max or top-k */
  double margin;   /* how far the numbers stand on the other side; NaN when one of them is not a number */
} EvalConflict;

/* Replay takes the choices of another run in place of the computed ones, so that what follows can be compared
 * element by element. Every replayed value must be in `from` with the right shape (ir_fail otherwise). */
typedef struct EvalReplay {
  const EvalDecisions *from;
  double tolerance;
  int64_t differing;       /* out: choices that differ, within the tolerance or not */
  EvalConflict *conflicts; /* out: arena vector; empty when the runs agree */
} EvalReplay;

/* ---------------------------------------------------------------- environment */

typedef struct EvalBinding {
  const Table *table; /* NULL: an argument */
  const char *name;
  ParamSlot slot;
  const Tensor *tensor;
} EvalBinding;

typedef struct Evaluation Evaluation;

typedef struct EvalEnvironment {
  Arena *arena; /* of bindings, recorded decisions and conflicts: outlives every run */
  uint64_t seed;
  EvalBinding *bindings; /* arena vector */
  EvalDecisions *record; /* when set, every decision is appended to it */
  EvalReplay *replay;    /* when set, decisions are taken from it */
  /* When set, called behind every instruction with its index; it may put other tensors of the same shape in place of
   * the outputs, so that what follows is computed from those. */
  void (*observe)(void *context, Evaluation *run, uint32_t inst);
  void *observe_context;
} EvalEnvironment;

EvalEnvironment *eval_environment_new(Arena *arena, uint64_t seed);
/* Binding a name again replaces its tensor. The tensor is referred to, not copied. */
void eval_bind_argument(EvalEnvironment *env, const char *name, const Tensor *tensor);
void eval_bind_parameter(EvalEnvironment *env, const Table *table, const char *name, ParamSlot slot,
                         const Tensor *tensor);

/* ---------------------------------------------------------------- running */

struct Evaluation {
  const Func *func;
  EvalEnvironment *env;
  Arena *arena;     /* of this run's tensors */
  Tensor **tensors; /* by ValueId */
};

/* Runs all of `f`. Values live in `arena` (it may be another than the environment's, and shorter-lived). A missing
 * binding or one of another shape is the caller's bug (ir_bug). */
Evaluation *eval_func(const Func *f, EvalEnvironment *env, Arena *arena);
/* Computes anew, from the tensors bound now, the values that `anew` marks (by ValueId; all outputs of an instruction or
 * none). The others are those of `base`, which must outlive the result. */
Evaluation *eval_again(const Evaluation *base, const bool *anew, Arena *arena);
const Tensor *eval_result(const Evaluation *run, const char *label); /* NULL when there is none */
const Tensor *eval_value(const Evaluation *run, const char *name);   /* by value name; NULL when there is none */

/* Evaluates one instruction whose operands have been evaluated: outputs go to run->tensors. */
typedef void (*EvalRule)(Evaluation *run, const Inst *inst);
extern const EvalRule eval_rule[OP_COUNT];

/* Philox 4x32-10 (Salmon et al., 2011): ten rounds on `counter` under `key`. */
void eval_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* The f64 value of one uniform draw: ((x >> 9) + 0.5) * 2^-23, x the first word of counter (element, tag, step). */
double eval_uniform_draw(uint64_t seed, uint64_t element, uint32_t tag, uint32_t step);

#endif
