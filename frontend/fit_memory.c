/* The search for what must run again.
 *
 * In: the IR before passes, a target, and the bytes a trainer may use. Out: prices for pass recompute. Every round
 * compiles a copy of the IR as far as the forecast; the functions whose activations are too large then pay less for a
 * microsecond of running again, so that more does, value by value, the most bytes for the least time first. It ends
 * when the forecast fits, or when no function that is too large can give more.
 */
#include "frontend/fit_memory.h"

#include <string.h>

#include "frontend/forecast.h"

/* Bytes that a microsecond of running again must free: from what policy cheap asks to next to nothing. */
static const double price_range = 8000, step = 2;

/* By index of a function behind all passes, which is the same in every round; 0: what the policy asks. */
typedef struct Prices {
  Arena *arena;
  double first, last;
  double *of; /* arena vector */
} Prices;

static const char *prices_text(const Module *m, const Prices *prices) {
  const char *text = NULL;
  for (uint32_t i = 0; i < vec_len(prices->of); i++)
    if (prices->of[i] > 0)
      text = arena_print(prices->arena, "%s%s%s=%.9g", text ? text : "", text ? "," : "", m->funcs[i]->name,
                         prices->of[i]);
  return text;
}

static PipelineOptions with_prices(const Model *m, PipelineOptions pipeline, const char *prices) {
  const PassSetting *given = pipeline.settings;
  pipeline.settings = NULL;
  for (uint32_t i = 0; i < vec_len(given); i++)
    vec_push(m->arena, pipeline.settings, given[i]);
  if (prices)
    vec_push(m->arena, pipeline.settings, (PassSetting){"recompute", "prices", prices});
  return pipeline;
}

/* The plan of a copy of the module under these prices. */
static const Plan *compile(const Model *m, const char *text, PlanTarget target, PipelineOptions pipeline) {
  Module *copy = module_parse(m->arena, m->options->model, text);
  pipeline.after = NULL;
  pipeline.dump = NULL;
  pipeline.time_passes = false;
  pipeline.verify = VERIFY_OFF;
  pipeline_run(copy, &pipeline, ledger_new(m->arena));
  return plan_lower(copy, target, m->options->keep_values);
}

/* Lowers the price of the functions that need more than `act` bytes of activations. False: none can give more. */
static bool lower_prices(const Plan *plan, Prices *prices, int64_t act) {
  bool lowered = false;
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++) {
    if (i == vec_len(prices->of))
      vec_push(prices->arena, prices->of, 0);
    double *price = &prices->of[i];
    if (plan->funcs[i].act <= act || plan->funcs[i].loss_inst == NO_INST || *price == prices->last)
      continue;
    *price = *price > 0 ? *price / step : prices->first;
    if (*price < prices->last)
      *price = prices->last;
    lowered = true;
  }
  return lowered;
}

PipelineOptions fit_memory(const Model *m, const Module *module, PlanTarget target, PipelineOptions pipeline) {
  const char *text = module_text(module), *chosen = NULL;
  Prices prices = {.arena = m->arena, .first = pipeline.rates->price, .last = pipeline.rates->price / price_range};
  for (;;) {
    const Plan *plan = compile(m, text, target, with_prices(m, pipeline, chosen));
    int64_t act = plan_act_bytes(plan), excess = forecast_peak(plan) - m->options->memory;
    if (excess <= 0 || !lower_prices(plan, &prices, act - excess))
      return with_prices(m, pipeline, chosen);
    chosen = prices_text(plan->module, &prices);
  }
}
