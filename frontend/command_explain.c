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

static void print_with_run(Model *model, const Measured *measured, FILE *out) {
  Forecast forecast = forecast_make(plan_of_run(model, measured));
  if (model->options->json) {
    char *ledger = ledger_json(model->ledger), *all = measured_json(measured, &forecast, ledger);
    fprintf(out, "%s\n", all);
    free(ledger);
    free(all);
    return;
  }
  ledger_print(model->ledger, model->options->all, out);
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
    fprintf(out, "%s\n", ledger_json(model.ledger));
  else
    ledger_print(model.ledger, options.all, out);
  output_close(&options, out);
  return 0;
}
