/* moec explain: the decision ledger of a compilation. */
#include "frontend/commands.h"
#include "frontend/model.h"

int command_explain(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_EXPLAIN, argc, argv);
  Model model = model_load(arena, &options, false);
  model_optimize(&model);
  FILE *out = output_open(&options);
  if (options.json)
    fprintf(out, "%s\n", ledger_json(model.ledger));
  else
    ledger_print(model.ledger, options.all, out);
  output_close(&options, out);
  return 0;
}
