/* The pipeline: which passes run, in which order, and what is done between them. */
#ifndef MOEC_PIPELINE_H
#define MOEC_PIPELINE_H

#include "passes/pass.h"

/* How often module_verify runs. */
typedef enum VerifyMode { VERIFY_EACH, VERIFY_END, VERIFY_OFF } VerifyMode;

typedef struct Pass {
  const char *name;
  unsigned stages;     /* bit set of Stage: where it may run */
  Stage stage_out;     /* STAGE_COUNT: the stage stays what it was */
  const char *options; /* "operands columns": what --NAME:option=value may set, or "" */
  PassFunction function;
  const char *doc; /* what it does, one sentence */
} Pass;

extern const Pass pipeline_passes[];         /* in order; ends with a NULL name */
const Pass *pipeline_find(const char *name); /* NULL when there is none */

/* Zero is the default of every field: the whole pipeline, for the CPU, verified after each pass. */
typedef struct PipelineOptions {
  const char **only;     /* arena vector: run just these, in this order (moec opt --passes=a,b) */
  const char **disabled; /* arena vector: --no-PASS */
  PassSetting *settings; /* arena vector: --PASS:option=value */
  const char *after;     /* stop behind this pass; NULL: run all */
  const Rates *rates;    /* of the target; NULL: rates_cpu */
  VerifyMode verify;
  bool time_passes; /* one line per pass on standard error */
  /* After each pass; `changed` is false for a pass that did nothing, which a dump reports as "(unchanged)". */
  void (*dump)(void *context, const Module *m, const Pass *pass, bool changed);
  void *dump_context;
} PipelineOptions;

/* NULL when every pass and option named in `options` exists, else a message for the command line (exit code 2). */
const char *pipeline_check(Arena *arena, const PipelineOptions *options);

/* Runs the passes over `m`, in place. `options` must have passed pipeline_check (ir_bug otherwise). ir_fail when the
 * module is at a stage that a pass cannot take. */
void pipeline_run(Module *m, const PipelineOptions *options, Ledger *ledger);

#endif
