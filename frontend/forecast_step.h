/* What one step of training costs at least, by what its kernels are there for, at the rates of a target. */
#ifndef MOEC_FORECAST_STEP_H
#define MOEC_FORECAST_STEP_H

#include <cjson/cJSON.h>

#include "codegen/plan_work.h"

/* Every micro-batch, and the update. */
typedef struct StepForecast {
  const Func *train;
  double rows;   /* live packed rows of a layer with experts in a micro-batch; 0: it has none */
  double tokens; /* of the whole step */
  FuncWork work;
} StepForecast;

/* Of a phase: arena vector. Where training has versions, wide first, then packed at every expert for each token, and at
 * one; else at the bound of the router. NULL: the plan has no training of this phase. */
StepForecast *forecast_steps(const Plan *plan, const Phase *phase, const Rates *rates);

/* A table of the first, a line for each of the others. */
void forecast_steps_print(const StepForecast *steps, const Rates *rates, FILE *out);
cJSON *forecast_steps_json(const StepForecast *steps, const Rates *rates);

#endif
