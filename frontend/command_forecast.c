/* moec forecast: parameters, work, memory and the time of a step before any run, on the CPU, or with --target=cuda
 * alone on a GPU.
 */
#include "frontend/commands.h"
#include "frontend/forecast.h"
#include "frontend/model.h"

int command_forecast(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_FORECAST, argc, argv);
  Model model = model_load(arena, &options, false);
  const Phase *phase = model_phase(&model);
  model_optimize(&model);
  if (options.cpu)
    model_lower(&model);
  else
    model_lower_cuda(&model);
  const Plan *plan = options.cpu ? model.plan : model.cuda;
  const Rates *rates = model_rates(&options, plan->target);
  FILE *out = output_open(&options);
  if (options.json)
    fprintf(out, "%s\n", forecast_json(plan, phase, rates));
  else
    forecast_print(plan, phase, rates, out);
  output_close(&options, out);
  return 0;
}
