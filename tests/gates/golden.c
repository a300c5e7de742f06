/* Goldens are files of this tree, so one that is missing or damaged ends the program. */
#include "tests/gates/golden.h"

#include <stdio.h>
#include <stdlib.h>

#include "passes/pipeline.h"

/* Parts of the compiler's executable that packaging refers to; no trainer is packaged here. */
const unsigned char moec_runtime_start[1], moec_runtime_end[1], moec_shim_start[1], moec_shim_end[1];

char *golden_read_file(Arena *arena, const char *path) {
  FILE *in = fopen(path, "rb");
  char *text = NULL; /* an arena vector */
  if (!in) {
    perror(path);
    exit(1);
  }
  for (int c; (c = getc(in)) != EOF;)
    vec_push(arena, text, (char)c);
  fclose(in);
  vec_push(arena, text, '\0');
  return text;
}

cJSON *golden_read(Arena *arena, const char *path) {
  cJSON *golden = cJSON_Parse(golden_read_file(arena, path));
  if (!golden) {
    fprintf(stderr, "%s: not JSON\n", path);
    exit(1);
  }
  return golden;
}

const cJSON *golden_item(const cJSON *object, const char *name) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
  if (!item) {
    fprintf(stderr, "the golden has no %s\n", name);
    exit(1);
  }
  return item;
}

void golden_differentiate(Module *m) {
  const char **only = NULL;
  vec_push(m->arena, only, "autodiff");
  PipelineOptions options = {.only = only};
  pipeline_run(m, &options, ledger_new(m->arena));
}
