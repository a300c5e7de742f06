/* moec forecast: parameters, work and memory of a trainer before any run. */
#include "frontend/commands.h"
#include "frontend/forecast.h"
#include "frontend/model.h"

int command_forecast(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_FORECAST, argc, argv);
  Model model = model_load(arena, &options, false);
  const Phase *phase = model_phase(&model);
  model_optimize(&model);
  model_lower(&model);
  FILE *out = output_open(&options);
  if (options.json)
    fprintf(out, "%s\n", forecast_json(model.plan, phase));
  else
    forecast_print(model.plan, phase, out);
  output_close(&options, out);
  return 0;
}
