/* What a trainer will cost, known before any run: parameters, work, memory. Reads the plan and the FLOP rules. */
#ifndef MOEC_FORECAST_H
#define MOEC_FORECAST_H

#include "codegen/plan.h"
#include "passes/rates.h"

/* Numbers of elements. Expert parameters are those a grouped product or a per-expert bias reads. */
typedef struct ParameterCount {
  int64_t total, shared, expert, frozen;
  int64_t expert_weights; /* of `expert`, matrices only: without biases */
  double active;          /* used by one token of Top-1 inference: shared, and one of E of each expert tensor */
} ParameterCount;

/* Per token. One multiply-add of a product is 1 MAC and 2 FLOPs. */
typedef struct WorkForecast {
  double macs;        /* forward, attention over all pairs of a segment, one expert per token */
  double inference;   /* FLOPs of an evaluation, one expert per token, causal attention at half */
  double train;       /* FLOPs of a training step, one expert per token */
  double train_bound; /* the same with every pair the router may select */
  bool routed;        /* the two differ */
} WorkForecast;

/* Bytes of the activation arena that one function needs. All of it is allocated, at the bound of the router: as many
 * pairs as it may select. Of that, balanced routing of one expert per token (N packed rows, as many for each expert)
 * touches `one_expert` at most at once. */
typedef struct FuncForecast {
  const FuncPlan *plan;
  int64_t one_expert;
} FuncForecast;

/* Bytes. The arenas of a table, and what the functions of the phase need of the activation arena. */
typedef struct PhaseForecast {
  const Phase *phase;
  ParameterCount parameters;
  WorkForecast work;
  int64_t param, grad, moments; /* arenas; moments: m and v */
  int64_t copies;               /* on a GPU: the parameters in bf16, beside the f32 masters */
  int64_t accumulators;         /* the sum of gradients over micro-batches, where there are several */
  FuncForecast *funcs;          /* arena vector, the one that needs the most first */
  int64_t total;                /* while the phase runs; the activation arena is that of the whole plan */
  int64_t entry;                /* while the transition into it runs: two tables; 0: none */
} PhaseForecast;

typedef struct Forecast {
  const Plan *plan;
  PhaseForecast *phases; /* arena vector */
  int64_t act;           /* bytes of the activation arena: the most any function needs */
  int64_t peak;          /* the most of all phases and transitions */
} Forecast;

Forecast forecast_make(const Plan *plan);
/* The storages that hold the most at the peak of a function, the largest first; at most `most` of them. */
const Storage **forecast_largest(Arena *arena, const FuncPlan *plan, uint32_t most);
int64_t forecast_peak(const Plan *plan);
/* only: one phase, or NULL for all; the rates of the plan's target. */
void forecast_print(const Plan *plan, const Phase *only, const Rates *rates, FILE *out);
char *forecast_json(const Plan *plan, const Phase *only, const Rates *rates); /* malloc'ed */

#endif
