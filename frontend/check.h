/* moec check: proves on one set of inputs that a compilation means what the script says.
 *
 *   passes     each pass leaves the results of every function as they were (law 2 of the design)
 *   gradients  the gradients of autodiff are the directional derivatives of the loss
 *   ops        every value the trainer computes is its op of the trainer's own operands, to the rounding of its dtype
 *   results    what the trainer returns is what the interpreter computes from the inputs, under the trainer's decisions
 *
 * The judge is the f64 interpreter (ir/eval.h). All inputs are numbers that f32 holds exactly, made from the seed.
 */
#ifndef MOEC_CHECK_H
#define MOEC_CHECK_H

#include "frontend/model.h"
#include "ir/eval.h"

/* ---------------------------------------------------------------- findings (check_compare.c) */

/* The worst element of a compared tensor. */
typedef struct Deviation {
  const char *what;   /* "%softmax_3", "grad @h1.ffn.w1"; NULL: nothing was compared */
  const char *detail; /* "behind cse", "softmax f32[N,E] gpt.lua:17"; may be NULL */
  int64_t element;    /* linear index */
  double found, expected;
  double error, allowed; /* relative to what the comparison measures by; a mistake where error > allowed */
} Deviation;

/* One line of the table: everything one check compared in one function. */
typedef struct CheckRow {
  const char *check, *func;
  int64_t compared, deviating;
  int64_t decisions; /* choices of the trainer that the interpreter alone would have made otherwise */
  Deviation first, worst;
} CheckRow;

void check_note(CheckRow *row, Deviation d);
bool deviation_is_mistake(const Deviation *d);

/* Compares the live elements of `found` with those of `expected`. The error of an element is its difference over
 * `scale` at that element, or, where `scale` is NULL, over the largest magnitude in `expected`. Tensors of different
 * shape or live rows differ infinitely. */
Deviation compare_tensors(const char *what, const Tensor *found, const Tensor *expected, const Tensor *scale,
                          double allowed);

/* ---------------------------------------------------------------- inputs (check_inputs.c) */

/* Numbers for everything a table holds, by index of the parameter. */
typedef struct TableValues {
  const Table *table;
  Tensor **slot[SLOT_NEXT]; /* by ParamSlot; the next value of a state stands among the gradients */
  Tensor **gradient;
} TableValues;

typedef struct CheckInputs CheckInputs;

/* Makes the values of all tables by @init and the transitions, and arguments for every function, from the module at
 * stage GRAPH. */
CheckInputs *inputs_new(const Module *m, uint64_t seed);
/* Everything `f` reads is bound: for a function of the module that inputs_new saw, or a version of one that passes made
 * of it ("dense.train.wide" of "dense.train"). */
EvalEnvironment *inputs_environment(const CheckInputs *inputs, const Func *f);
const TableValues *inputs_table(const CheckInputs *inputs, const Table *table);

/* The function of the script that `func` is, or is a version of; one pointer for all versions. */
const char *inputs_origin(const CheckInputs *inputs, const char *func);
/* "p0", "g3", ...: an argument of an update that is a stretch of a table's arena. */
bool is_segment_argument(const char *name);
const Tensor *environment_argument(const EvalEnvironment *env, const char *name);

/* ---------------------------------------------------------------- the checks */

typedef struct Check {
  Arena *arena;
  const Options *options; /* with keep_values */
  const Phase *phase;     /* NULL: all */
  const CheckInputs *inputs;
  CheckRow *rows; /* arena vector */
} Check;

/* The row of that check and function, made where it is missing. Valid until the next one is made. */
CheckRow *check_row(Check *check, const char *name, const char *func);

/* Runs the passes over the model, comparing as they go; behind autodiff the gradients (check_passes.c). */
void check_passes(Check *check, Model *model);
/* `run` is a run of a function with the result `loss` behind autodiff (check_gradients.c). */
void check_gradients(Check *check, const Evaluation *run);
/* Choices that a run contradicts (check_compare.c). */
void note_conflicts(Check *check, CheckRow *row, const EvalReplay *replay);
/* Interprets `f` on `given`, by ValueId what the trainer computed, replaying its choices (check_op.c). False when an
 * integer is wrong: rows then stand elsewhere, and nothing behind it can be compared. */
bool check_ops(Check *check, CheckRow *row, const Func *f, Tensor **given, const EvalDecisions *decisions);
/* Builds a trainer of the options and compares it with `m`, the module behind all passes
 * (check_target.c). */
void check_target(Check *check, const Module *m);

#endif
