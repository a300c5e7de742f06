/* What a run measured, read from its directory, for moec explain to set beside what was predicted. */
#ifndef MOEC_MEASURED_H
#define MOEC_MEASURED_H

#include "frontend/forecast.h"

/* The updates of a phase that one version of its training ran: "single", "packed" or "wide". */
typedef struct VersionMeasured {
  const char *name;
  double *rates; /* arena vector: tokens/s of every update, ascending */
} VersionMeasured;

typedef struct PhaseMeasured {
  const Phase *phase;
  int64_t first, last; /* updates, counted from 1; first 0: the run has not come here */
  double tokens, flops;
  double experts_low, experts_high, experts_sum; /* per token, of the updates */
  double *rates;                                 /* of all versions */
  VersionMeasured *versions;                     /* arena vector, in the order of first use */
  int64_t memory;                                /* most bytes in arenas, at its end; 0: it has not ended */
  double crossover;                              /* experts per token, of tuning.json; 0: the phase has one version */
  const char *crossover_by;                      /* "cost model" or "timing" */
} PhaseMeasured;

/* Of several ways to compute the same, or algorithms of a product, the one that was the fastest on the run's GPU. */
typedef struct ChoiceMeasured {
  bool product;       /* else among the ways of a plan */
  const char *chosen; /* the way's name; of products NULL */
  const char *among;  /* "mma: moec_attention_1f 64; wgmma: ..."; the product's shape */
  double seconds;     /* of the chosen one */
  double candidates;  /* how many were timed */
} ChoiceMeasured;

typedef struct Measured {
  const char *run;
  const char *machine;     /* "cpu, x86-64-v4, 2 threads, oneDNN 2.6.3" */
  PhaseMeasured *phases;   /* arena vector, those of the module in their order */
  ChoiceMeasured *choices; /* arena vector, in the order of tuning.json */
} Measured;

/* `ir`: the model's IR before passes, which must be that of the run. What is missing, damaged or of another model is
 * the user's mistake. */
Measured measured_read(const Module *module, const char *ir, const char *run);
/* `forecast`: of the device that ran. */
void measured_print(const Measured *measured, const Forecast *forecast, FILE *out);
/* The object `ledger` (what ledger_json gives) with a member "run"; malloc'ed. */
char *measured_json(const Measured *measured, const Forecast *forecast, const char *ledger);

#endif
