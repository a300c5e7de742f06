/* moec train: builds the trainer into the run directory and becomes it. A run keeps the trainer that fits it: neither a
 * second run nor a changed model may replace it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/package.h"
#include "frontend/command_build.h"
#include "frontend/commands.h"
#include "runtime/files.h"

static bool resumes(const Options *options) {
  for (uint32_t i = 0; i < vec_len(options->trainer); i++)
    if (strcmp(options->trainer[i], "--resume") == 0)
      return true;
  return false;
}

static const char *made; /* the run directory, when this process made it */

/* A failed build leaves no empty run directory. */
static void remove_empty(void) {
  rmdir(made);
}

int command_train(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_TRAIN, argc, argv);
  if (!options.data || !options.out)
    usage_fail(COMMAND_TRAIN, "%s DIR is missing", options.data ? "--out" : "--data");
  if (mkdir(options.out, 0777) == 0) {
    made = options.out;
    atexit(remove_empty);
  } else if (errno != EEXIST) {
    environment_fail("%s: cannot make the run directory: %s", options.out, strerror(errno));
  }
  char *trainer = arena_print(arena, "%s/trainer", options.out);
  if (!resumes(&options) && file_exists(arena_print(arena, "%s/config.json", options.out)))
    ir_fail((Loc){0}, "%s holds a run already: --resume continues it, another --out begins a new one", options.out);
  build_trainer(arena, &options, trainer, arena_print(arena, "%s/model.ir", options.out));
  char **words = NULL;
  vec_push(arena, words, trainer);
  vec_push(arena, words, "train");
  vec_push(arena, words, arena_print(arena, "--data=%s", options.data));
  vec_push(arena, words, arena_print(arena, "--out=%s", options.out));
  if (options.native)
    vec_push(arena, words, arena_print(arena, "--cpu=native"));
  for (uint32_t i = 0; i < vec_len(options.trainer); i++)
    vec_push(arena, words, arena_print(arena, "%s", options.trainer[i]));
  vec_push(arena, words, NULL);
  execv(trainer, words);
  environment_fail("%s: cannot run it: %s", trainer, strerror(errno));
}
