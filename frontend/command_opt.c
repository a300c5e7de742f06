/* moec opt: IR text in, passes, IR text out on standard output. What the tests of ir/ and passes/ use.
 *
 * The text is parsed and verified as a user's; without --passes it is printed again, which shows its canonical form.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/commands.h"
#include "passes/pipeline.h"

enum { EXIT_USER = 1, EXIT_USAGE = 2, EXIT_ENVIRONMENT = 3, READ_BYTES = 1 << 16 };

static const char usage[] =
    "usage: moec opt FILE.ir [--passes=a,b] [--PASS:option=value] [--target=cpu|cuda] [--verify=each|end|off] "
    "[--time-passes]\n"
    "       FILE.ir may be `-`, standard input\n";

static _Noreturn void usage_stop(const char *format, ...) __attribute__((format(printf, 1, 2)));

static _Noreturn void usage_stop(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("moec opt: ", stderr);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n%s", usage);
  va_end(arguments);
  exit(EXIT_USAGE);
}

typedef struct OptOptions {
  const char *file;
  PipelineOptions pipeline;
} OptOptions;

/* The part of `word` behind `prefix`, or NULL. */
static const char *behind(const char *word, const char *prefix) {
  size_t length = strlen(prefix);
  return strncmp(word, prefix, length) == 0 ? word + length : NULL;
}

static void read_passes(Arena *arena, OptOptions *o, const char *list) {
  for (;;) {
    size_t length = strcspn(list, ",");
    if (length == 0)
      usage_stop("--passes: a name is missing");
    const char *name = arena_copy(arena, list, length);
    vec_push(arena, o->pipeline.only, name);
    if (!list[length])
      return;
    list += length + 1;
  }
}

static VerifyMode read_verify(const char *text) {
  static const char *const names[] = {[VERIFY_EACH] = "each", [VERIFY_END] = "end", [VERIFY_OFF] = "off"};
  for (VerifyMode mode = VERIFY_EACH; mode <= VERIFY_OFF; mode++)
    if (strcmp(text, names[mode]) == 0)
      return mode;
  usage_stop("--verify=%s: expected each, end or off", text);
}

/* "--PASS:option=value" */
static bool read_setting(Arena *arena, OptOptions *o, const char *word) {
  const char *colon = strchr(word, ':'), *equals = strchr(word, '=');
  if (strncmp(word, "--", 2) != 0 || !colon || !equals || colon > equals)
    return false;
  PassSetting setting = {.pass = arena_copy(arena, word + 2, (size_t)(colon - word - 2)),
                         .option = arena_copy(arena, colon + 1, (size_t)(equals - colon - 1)),
                         .value = equals + 1};
  vec_push(arena, o->pipeline.settings, setting);
  return true;
}

/* What the passes price with. */
static const Rates *read_target(const char *text) {
  if (strcmp(text, "cpu") == 0)
    return &rates_cpu;
  if (strcmp(text, "cuda") == 0)
    return &rates_cuda;
  usage_stop("--target=%s: expected cpu or cuda", text);
}

static OptOptions read_options(Arena *arena, int argc, char **argv) {
  OptOptions o = {0};
  for (int i = 0; i < argc; i++) {
    const char *word = argv[i], *value;
    if (word[0] != '-' || !word[1]) {
      if (o.file)
        usage_stop("one file is expected, `%s` is a second", word);
      o.file = word;
    } else if ((value = behind(word, "--passes="))) {
      read_passes(arena, &o, value);
    } else if ((value = behind(word, "--verify="))) {
      o.pipeline.verify = read_verify(value);
    } else if ((value = behind(word, "--target="))) {
      o.pipeline.rates = read_target(value);
    } else if (strcmp(word, "--time-passes") == 0) {
      o.pipeline.time_passes = true;
    } else if (strcmp(word, "--help") == 0) {
      fputs(usage, stdout);
      exit(0);
    } else if (!read_setting(arena, &o, word)) {
      usage_stop("unknown option %s", word);
    }
  }
  if (!o.file)
    usage_stop("the file is missing");
  const char *wrong = pipeline_check(arena, &o.pipeline);
  if (wrong)
    usage_stop("%s", wrong);
  return o;
}

/* The whole file as a text. A byte 0 would hide what stands behind it, so it is an error. */
static char *read_text(Arena *arena, const char *file, const char *name) {
  bool is_input = strcmp(file, "-") == 0;
  FILE *in = is_input ? stdin : fopen(file, "rb");
  if (!in) {
    fprintf(stderr, "%s: %s\n", file, strerror(errno));
    exit(EXIT_USER);
  }
  char *text = NULL, buffer[READ_BYTES];
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  for (size_t n; out && (n = fread(buffer, 1, sizeof buffer, in)) > 0;)
    fwrite(buffer, 1, n, out);
  if (ferror(in)) {
    fprintf(stderr, "%s: %s\n", file, strerror(errno));
    exit(EXIT_USER);
  }
  if (!out || fclose(out) != 0) {
    fprintf(stderr, "moec opt: no memory for the text of %s\n", file);
    exit(EXIT_ENVIRONMENT);
  }
  if (!is_input)
    fclose(in);
  if (memchr(text, 0, size))
    ir_fail((Loc){name, 0}, "a byte 0 in the text");
  char *copy = arena_copy(arena, text, size);
  free(text);
  return copy;
}

int command_opt(int argc, char **argv) {
  Arena *arena = arena_new();
  OptOptions o = read_options(arena, argc, argv);
  const char *name = strcmp(o.file, "-") == 0 ? "<stdin>" : o.file;
  Module *m = module_parse(arena, name, read_text(arena, o.file, name));
  ir_set_place((Loc){name, 0});
  module_verify(m, NULL);
  ir_set_place((Loc){NULL, 0});
  if (o.pipeline.only)
    pipeline_run(m, &o.pipeline, ledger_new(arena));
  module_print(m, stdout);
  if (fflush(stdout) != 0 || ferror(stdout)) {
    fprintf(stderr, "moec opt: standard output: %s\n", strerror(errno));
    return EXIT_ENVIRONMENT;
  }
  return 0;
}
