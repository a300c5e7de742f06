/* moec explain: the decision ledger of a compilation, and with --run what a run measured beside what was predicted. */
#include <stdlib.h>
#include <string.h>

#include "frontend/commands.h"
#include "frontend/measured.h"
#include "frontend/model.h"

/* The plan for the device that ran. */
static const Plan *plan_of_run(Model *model, const Measured *measured) {
  if (strncmp(measured->machine, "cpu,", 4) == 0) {
    model_lower(model);
    return model->plan;
  }
  if (!model->cuda)
    model_lower_cuda(model);
  return model->cuda;
}

/* The decisions for the first target; those for a GPU behind them, where its passes had rates of their own. */
static void print_ledgers(const Model *model, FILE *out) {
  ledger_print(model->ledger, model->options->all, out);
  if (!model->cuda_ledger || model->cuda_ledger == model->ledger)
    return;
  fprintf(out, "\non a GPU, at the rates of %s:\n\n", model_rates(model->options, PLAN_CUDA)->name);
  ledger_print(model->cuda_ledger, model->options->all, out);
}

static void print_with_run(Model *model, const Measured *measured, FILE *out) {
  Forecast forecast = forecast_make(plan_of_run(model, measured));
  if (model->options->json) {
    char *ledger = model_ledger_json(model), *all = measured_json(measured, &forecast, ledger);
    fprintf(out, "%s\n", all);
    free(ledger);
    free(all);
    return;
  }
  print_ledgers(model, out);
  measured_print(measured, &forecast, out);
}

int command_explain(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_EXPLAIN, argc, argv);
  Model model = model_load(arena, &options, options.run != NULL);
  model_optimize(&model);
  if (options.cuda)
    model_lower_cuda(&model);
  Measured measured = {0};
  if (options.run)
    measured = measured_read(model.module, model.graph_text, options.run);
  FILE *out = output_open(&options);
  if (options.run)
    print_with_run(&model, &measured, out);
  else if (options.json)
    fprintf(out, "%s\n", model_ledger_json(&model));
  else
    print_ledgers(&model, out);
  output_close(&options, out);
  return 0;
}
