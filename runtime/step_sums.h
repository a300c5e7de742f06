/* What the micro-batches of an update gave, added up, and how the logs show it.
 *
 * In: the results of a training function after each run. Out: the sums; parts of lines of metrics.jsonl and
 * routing.jsonl. Holds: sums are in double and in the order of the micro-batches.
 */
#ifndef MOEC_RUNTIME_STEP_SUMS_H
#define MOEC_RUNTIME_STEP_SUMS_H

#include "runtime/data.h"
#include "runtime/execute.h"
#include "runtime/json.h"

/* By result of the function; those that are no numbers of a micro-batch have 0 and NULL. */
typedef struct Sums {
  const PlanFunc *func;
  double *scalar; /* loss, ce, pairs, routing.*; aux.* and metric.*, to be divided by the number of micro-batches */
  double **load;  /* load.*: by expert */
  double live;    /* live tokens; all where the function does not ask which they are */
} Sums;

Sums sums_new(const PlanFunc *func);
void sums_free(Sums *sums);
/* After a run of the function on this batch. */
void sums_add(Sums *sums, const Executor *executor, const Batch *batch);
/* The scalar of that name; `otherwise` when the function has none. */
double sums_find(const Sums *sums, const char *label, double otherwise);

/* `,"NAME":mean` of every aux.NAME and metric.NAME. */
void sums_write_means(Text *line, const Sums *sums, int64_t micro_batches);
/* `,"load":{"LAYER":[tokens of every expert],...},"layers":{"LAYER":{...},...}`, as docs/routing_log.md describes. */
void sums_write_routing(Text *line, const Sums *sums);

#endif
