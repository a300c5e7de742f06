/* moec train: builds the trainer into the run directory and becomes it. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/package.h"
#include "frontend/command_build.h"
#include "frontend/commands.h"

int command_train(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_TRAIN, argc, argv);
  if (!options.data || !options.out)
    usage_fail(COMMAND_TRAIN, "%s DIR is missing", options.data ? "--out" : "--data");
  if (mkdir(options.out, 0777) != 0 && errno != EEXIST)
    environment_fail("%s: cannot make the run directory: %s", options.out, strerror(errno));
  char *trainer = arena_print(arena, "%s/trainer", options.out);
  build_trainer(arena, &options, trainer);
  char **words = NULL;
  vec_push(arena, words, trainer);
  vec_push(arena, words, "train");
  vec_push(arena, words, arena_print(arena, "--data=%s", options.data));
  vec_push(arena, words, arena_print(arena, "--out=%s", options.out));
  for (uint32_t i = 0; i < vec_len(options.trainer); i++)
    vec_push(arena, words, arena_print(arena, "%s", options.trainer[i]));
  vec_push(arena, words, NULL);
  execv(trainer, words);
  environment_fail("%s: cannot run it: %s", trainer, strerror(errno));
}
