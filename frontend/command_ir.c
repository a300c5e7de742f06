/* moec ir: prints the IR as the script makes it, or as it is behind a pass, or one file per pass. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "codegen/package.h"
#include "frontend/commands.h"
#include "frontend/model.h"

typedef struct Dump {
  const Model *model;
  const Phase *phase;
  int number;
} Dump;

static void print_module(const Module *m, const Phase *phase, FILE *out) {
  if (!phase) {
    module_print(m, out);
    return;
  }
  const char *separator = "";
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    if (phase_has(phase, m->funcs[i])) {
      fputs(separator, out);
      func_print(m->funcs[i], out);
      separator = "\n";
    }
}

/* DIR/03-cse.ir; a pass that changed nothing leaves a line that says so. */
static void write_dump(Dump *dump, const Module *m, const char *pass, bool changed) {
  Options file = *dump->model->options;
  file.output = arena_print(m->arena, "%s/%02d-%s.ir", dump->model->options->output, dump->number++, pass);
  FILE *out = output_open(&file);
  if (changed)
    print_module(m, dump->phase, out);
  else
    fprintf(out, "# %s: (unchanged)\n", pass);
  output_close(&file, out);
}

static void dump_pass(void *context, const Module *m, const Pass *pass, bool changed) {
  write_dump(context, m, pass->name, changed);
}

static void dump_all(Model *model, const Phase *phase, Options *options) {
  if (mkdir(options->output, 0777) != 0 && errno != EEXIST)
    environment_fail("%s: cannot make the directory: %s", options->output, strerror(errno));
  Dump dump = {.model = model, .phase = phase};
  options->pipeline.dump = dump_pass;
  options->pipeline.dump_context = &dump;
  write_dump(&dump, model->module, "script", true);
  model_optimize(model);
}

int command_ir(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_IR, argc, argv);
  Model model = model_load(arena, &options, false);
  const Phase *phase = model_phase(&model);
  if (options.after_all && options.output) {
    dump_all(&model, phase, &options);
    return 0;
  }
  if (options.after_all || options.pipeline.after)
    model_optimize(&model);
  FILE *out = output_open(&options);
  print_module(model.module, phase, out);
  output_close(&options, out);
  return 0;
}
