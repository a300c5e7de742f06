/* What the steps of a plan cost at least: FLOPs, bytes and, at a target's rates, seconds.
 *
 * Bytes are those that a step's operands have, every operand once, as this step reads and writes it: in its dtype, of
 * ragged rows the live ones, of gathered rows as many as are gathered, scratch as it is written and read. A kernel that
 * reads an operand again finds it in a cache or is slower than this. FLOPs are those of the FLOP rules.
 */
#ifndef MOEC_PLAN_WORK_H
#define MOEC_PLAN_WORK_H

#include "codegen/plan.h"
#include "passes/rates.h"

/* What a step is there for. A row kernel that does several of these counts under the first of the list that it does. */
typedef enum WorkKind {
  WORK_PRODUCT,
  WORK_GROUPED,   /* with the row kernels that are their epilogues */
  WORK_ATTENTION, /* both ways */
  WORK_ADAM,
  WORK_GRADIENT_NORM,
  WORK_GATE,      /* its product, choice and routing, both ways */
  WORK_LOSS,      /* of the scores: softmax, cross-entropy and its gradient */
  WORK_EMBEDDING, /* and its gradient */
  WORK_NORM,      /* layer norms with the residuals that they stand with */
  WORK_MOVE,      /* rows to the experts and back, sums by expert */
  WORK_COLUMNS,   /* GELU, biases and other elementwise work on rows */
  WORK_OTHER,     /* scalars, copies */
  WORK_KIND_COUNT
} WorkKind;
extern const char *const work_kind_name[WORK_KIND_COUNT]; /* "products", ... */

typedef struct WorkSum {
  double launches, flops, bytes;
  double seconds; /* of every step the longer of its FLOPs and its bytes at their rates */
  double bound;   /* the same at the rates of Rates.bound; 0: there are none */
} WorkSum;

typedef struct FuncWork {
  WorkSum kind[WORK_KIND_COUNT], all;
} FuncWork;

/* Of one run of the function with `live_rows` rows of every ragged value. Of a choice the option that takes the least
 * time at the rates. */
FuncWork plan_func_work(const FuncPlan *plan, const Rates *rates, double live_rows);
void work_add(FuncWork *sum, const FuncWork *work, double times);

#endif
