/* Parsing of the options that moec's commands share.
 *
 * In: argv. Out: Options, with every name of a pass checked. Long options take their value behind `=` or as the next
 * word. Nothing that was given is ignored: what has no effect on this target or number of ranks is said.
 */
#include "frontend/options.h"

#include "frontend/rates_file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2 };

typedef enum OptionId {
  OPTION_DEFINE,
  OPTION_OUTPUT,
  OPTION_TARGET,
  OPTION_PRECOMPILE,
  OPTION_GROUPED,
  OPTION_ATTENTION,
  OPTION_RANKS,
  OPTION_TOPOLOGY,
  OPTION_RATES,
  OPTION_MEMORY,
  OPTION_VERIFY,
  OPTION_TIME_PASSES,
  OPTION_SEED,
  OPTION_JSON,
  OPTION_ALL,
  OPTION_PHASE,
  OPTION_AFTER,
  OPTION_WHAT,
  OPTION_KEEP_VALUES,
  OPTION_CPU,
  OPTION_DATA,
  OPTION_OUT,
  OPTION_RUN,
  OPTION_TRAINER,
  OPTION_TRAINER_FLAG,
  OPTION_HELP
} OptionId;

typedef struct OptionRow {
  const char *name, *value; /* value NULL: a flag */
  OptionId id;
  unsigned commands;
  const char *doc;
} OptionRow;

static const OptionRow rows[] = {
    {"-o", "FILE", OPTION_OUTPUT, COMMAND_BUILD | COMMAND_IR | COMMAND_EMIT | COMMAND_EXPLAIN | COMMAND_FORECAST,
     "where to write"},
    {"-D", "KEY=VALUE", OPTION_DEFINE, COMMAND_ALL, "overrides a key of the model's configuration"},
    {"--data", "DIR", OPTION_DATA, COMMAND_TRAIN, "the tokenised data"},
    {"--out", "DIR", OPTION_OUT, COMMAND_TRAIN, "the run directory; the trainer is built into it"},
    {"--run", "DIR", OPTION_RUN, COMMAND_EXPLAIN, "adds what this run measured, beside what was predicted"},
    {"--steps", "N", OPTION_TRAINER, COMMAND_TRAIN, "the absolute last step"},
    {"--flops", "X", OPTION_TRAINER, COMMAND_TRAIN, "end at the first step that brings the FLOPs that really ran to X"},
    {"--device", "cpu", OPTION_TRAINER, COMMAND_TRAIN, "where to run"},
    {"--eval-every", "N", OPTION_TRAINER, COMMAND_TRAIN, "steps between evaluations"},
    {"--checkpoint-every", "N", OPTION_TRAINER, COMMAND_TRAIN, "steps between checkpoints"},
    {"--routing-every", "N", OPTION_TRAINER, COMMAND_TRAIN, "steps between lines of routing.jsonl"},
    {"--probe-every", "N", OPTION_TRAINER, COMMAND_TRAIN, "steps between lines of probe.jsonl (never)"},
    {"--tune", NULL, OPTION_TRAINER_FLAG, COMMAND_TRAIN, "time both versions of a phase's training when it begins"},
    {"--tuning", "FILE", OPTION_TRAINER, COMMAND_TRAIN, "take over what another run's tuning.json says"},
    {"--resume", NULL, OPTION_TRAINER_FLAG, COMMAND_TRAIN, "continue from the newest checkpoint"},
    {"--profile", NULL, OPTION_TRAINER_FLAG, COMMAND_TRAIN, "print the time of every kind of step at the end"},
    {"--phase", "NAME", OPTION_PHASE, COMMAND_IR | COMMAND_EMIT | COMMAND_FORECAST | COMMAND_CHECK, "only this phase"},
    {"--after", "PASS", OPTION_AFTER, COMMAND_IR,
     "the IR behind this pass instead of before all; `all`: behind the last, or one file per pass with -o DIR"},
    {"--what", "kernels|c|cuda|plan", OPTION_WHAT, COMMAND_EMIT, "what to show"},
    {"--all", NULL, OPTION_ALL, COMMAND_EXPLAIN, "every decision by itself, also where layers decide alike"},
    {"--json", NULL, OPTION_JSON, COMMAND_EXPLAIN | COMMAND_FORECAST | COMMAND_CHECK, "for tools"},
    {"--target", "cpu,cuda", OPTION_TARGET, COMMAND_ALL, "what the trainer can run on (both); emit shows the first"},
    {"--precompile", "sm_80,sm_90a", OPTION_PRECOMPILE, COMMAND_BUILD,
     "compile the CUDA kernels for these GPUs now, with NVRTC, instead of at the first run"},
    {"--grouped", "both|mma|wgmma", OPTION_GROUPED, COMMAND_ALL, "kernels for grouped products on a GPU (both)"},
    {"--attention", "both|mma|wgmma", OPTION_ATTENTION, COMMAND_ALL, "kernels for attention on a GPU (both)"},
    {"--ranks", "dp:N,ep:N", OPTION_RANKS, COMMAND_ALL, "layout of ranks; one rank is what this version compiles for"},
    {"--topology", "FILE|NAME", OPTION_TOPOLOGY, COMMAND_ALL, "the network between ranks"},
    {"--rates", "FILE", OPTION_RATES, COMMAND_ALL,
     "JSON: how fast the target is, in the form of `moec forecast --json`, where it is not the machine of the "
     "defaults"},
    {"--memory", "16G", OPTION_MEMORY, COMMAND_ALL,
     "what a trainer may use: values run again until it fits; an error if they cannot"},
    {"--cpu", "native", OPTION_CPU, COMMAND_BUILD | COMMAND_TRAIN, "also carry kernels for exactly this machine"},
    {"--keep-values", NULL, OPTION_KEEP_VALUES, COMMAND_BUILD | COMMAND_EMIT,
     "every value keeps its memory, so that a checker can read it"},
    {"--verify", "each|end|off", OPTION_VERIFY, COMMAND_ALL, "how often the IR is verified (each)"},
    {"--time-passes", NULL, OPTION_TIME_PASSES, COMMAND_ALL, "one line per pass on standard error"},
    {"--seed", "N", OPTION_SEED, COMMAND_ALL, "seed of what a script draws at build, and of a run"},
    {"--help", NULL, OPTION_HELP, COMMAND_ALL, "this text"},
};

static const char *command_word(unsigned command) {
  static const char *const words[] = {"build", "train", "ir", "emit", "explain", "forecast", "check"};
  int bit = 0;
  while (!(command >> bit & 1))
    bit++;
  return words[bit];
}

static const char *usage_line(unsigned command) {
  static const char *const lines[] = {"moec build MODEL.lua -o TRAINER [options]",
                                      "moec train MODEL.lua --data DIR --out DIR [options]",
                                      "moec ir MODEL.lua [--phase=NAME] [--after=PASS|all] [-o DIR] [options]",
                                      "moec emit MODEL.lua --what=kernels|c|cuda|plan [--phase=NAME] [options]",
                                      "moec explain MODEL.lua [--json] [options]",
                                      "moec forecast MODEL.lua [--json] [options]",
                                      "moec check MODEL.lua [--phase=NAME] [--json] [options]"};
  int bit = 0;
  while (!(command >> bit & 1))
    bit++;
  return lines[bit];
}

_Noreturn void usage_fail(unsigned command, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "moec %s: ", command_word(command));
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\nusage: %s\n", usage_line(command));
  va_end(arguments);
  exit(EXIT_USAGE);
}

void usage_print(unsigned command, FILE *out) {
  fprintf(out, "usage: %s\n", usage_line(command));
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    if (!(rows[i].commands & command))
      continue;
    bool is_short = rows[i].name[1] != '-';
    int width = fprintf(out, "  %s%s%s", rows[i].name, rows[i].value ? (is_short ? " " : "=") : "",
                        rows[i].value ? rows[i].value : "");
    fprintf(out, "%*s%s\n", width < 30 ? 30 - width : 1, "", rows[i].doc);
  }
  fprintf(
      out,
      "  --no-PASS                   without this pass\n  --PASS:OPTION=VALUE         an option of a pass\npasses:");
  for (const Pass *p = pipeline_passes; p->name; p++)
    fprintf(out, " %s", p->name);
  fputc('\n', out);
}

/* ---------------------------------------------------------------- values */

static int64_t read_integer(unsigned command, const char *name, const char *text) {
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if (end == text || *end || errno || number < 0)
    usage_fail(command, "%s=%s: expected a whole number, not negative", name, text);
  return number;
}

/* "16G", "512M", "1.5T"; powers of 1024. */
static int64_t read_bytes(unsigned command, const char *name, const char *text) {
  static const char units[] = "KMGT";
  char *end;
  double number = strtod(text, &end);
  const char *unit = *end ? strchr(units, *end) : NULL;
  if (end == text || !(number > 0) || (*end && (!unit || end[1])))
    usage_fail(command, "%s=%s: expected a size such as 16G", name, text);
  for (const char *u = units; unit && u <= unit; u++)
    number *= 1024;
  if (number > 1e18)
    usage_fail(command, "%s=%s: too large", name, text);
  return (int64_t)number;
}

static void read_targets(unsigned command, Options *o, const char *text) {
  o->cpu = o->cuda = false;
  for (const char *at = text; *at;) {
    size_t length = strcspn(at, ",");
    bool cpu = length == 3 && strncmp(at, "cpu", length) == 0, cuda = length == 4 && strncmp(at, "cuda", length) == 0;
    if (!cpu && !cuda)
      usage_fail(command, "--target=%s: expected cpu, cuda or cpu,cuda", text);
    o->cpu |= cpu;
    o->cuda |= cuda;
    at += length;
    at += *at == ',';
  }
}

/* "sm_80,sm_90a". */
static void read_architectures(Arena *arena, Options *o, unsigned command, const char *text) {
  for (const char *at = text; *at;) {
    size_t length = strcspn(at, ",");
    const char *name = arena_copy(arena, at, length);
    size_t digits = strncmp(name, "sm_", 3) == 0 ? strspn(name + 3, "0123456789") : 0;
    if (digits < 2 || strcmp(name + 3 + digits, name[3 + digits] == 'a' ? "a" : "") != 0)
      usage_fail(command, "--precompile=%s: expected architectures such as sm_80,sm_90a", text);
    vec_push(arena, o->precompile, name);
    at += length;
    at += *at == ',';
  }
}

/* One rank, however it is written: "1", "dp:1", "dp:1,ep:1". */
static void check_ranks(unsigned command, const char *text) {
  for (const char *at = text; *at;) {
    size_t length = strcspn(at, ",");
    const char *colon = memchr(at, ':', length);
    const char *number = colon ? colon + 1 : at;
    size_t digits = strspn(number, "0123456789");
    bool named = !colon || (colon - at == 2 && (!strncmp(at, "dp", 2) || !strncmp(at, "ep", 2)));
    if (!digits || number + digits != at + length || !named)
      usage_fail(command, "--ranks=%s: expected a layout such as dp:2,ep:4", text);
    if (strtol(number, NULL, 10) != 1)
      usage_fail(command, "--ranks=%s: this version builds trainers for one rank only", text);
    at += length;
    at += *at == ',';
  }
}

static VerifyMode read_verify(unsigned command, const char *text) {
  static const char *const names[] = {[VERIFY_EACH] = "each", [VERIFY_END] = "end", [VERIFY_OFF] = "off"};
  for (VerifyMode mode = VERIFY_EACH; mode <= VERIFY_OFF; mode++)
    if (strcmp(text, names[mode]) == 0)
      return mode;
  usage_fail(command, "--verify=%s: expected each, end or off", text);
}

static const char *read_word(unsigned command, const char *name, const char *text, const char *allowed) {
  size_t length = strlen(text);
  for (const char *at = allowed; *at; at += strcspn(at, "|"), at += *at == '|')
    if (strcspn(at, "|") == length && strncmp(at, text, length) == 0)
      return text;
  usage_fail(command, "%s=%s: expected %s", name, text, allowed);
}

/* ---------------------------------------------------------------- the command line */

static CudaKinds read_kinds(unsigned command, const OptionRow *row, const char *value) {
  static const char *const names[] = {
      [CUDA_KINDS_BOTH] = "both", [CUDA_KINDS_MMA] = "mma", [CUDA_KINDS_WGMMA] = "wgmma"};
  for (int i = 0; i < 3; i++)
    if (strcmp(names[i], value) == 0)
      return (CudaKinds)i;
  usage_fail(command, "%s=%s: expected both, mma or wgmma", row->name, value);
}

static void set_option(Arena *arena, Options *o, unsigned command, const OptionRow *row, const char *value) {
  switch (row->id) {
  case OPTION_DEFINE:
    if (!strchr(value, '=') || value[0] == '=')
      usage_fail(command, "-D %s: expected KEY=VALUE", value);
    vec_push(arena, o->defines, value);
    break;
  case OPTION_OUTPUT:
    o->output = value;
    break;
  case OPTION_TARGET:
    read_targets(command, o, value);
    break;
  case OPTION_PRECOMPILE:
    read_architectures(arena, o, command, value);
    break;
  case OPTION_ATTENTION:
    o->attention = read_kinds(command, row, value);
    break;
  case OPTION_GROUPED:
    o->grouped = read_kinds(command, row, value);
    break;
  case OPTION_RANKS:
    check_ranks(command, value);
    break;
  case OPTION_TOPOLOGY:
    fprintf(stderr, "moec: --topology=%s has no effect on one rank\n", value);
    break;
  case OPTION_RATES:
    o->rates_file = value;
    break;
  case OPTION_MEMORY:
    o->memory = read_bytes(command, row->name, value);
    break;
  case OPTION_VERIFY:
    o->pipeline.verify = read_verify(command, value);
    break;
  case OPTION_TIME_PASSES:
    o->pipeline.time_passes = true;
    break;
  case OPTION_SEED:
    o->seed = read_integer(command, row->name, value);
    if (command == COMMAND_TRAIN)
      vec_push(arena, o->trainer, arena_print(arena, "--seed=%s", value));
    break;
  case OPTION_JSON:
    o->json = true;
    break;
  case OPTION_ALL:
    o->all = true;
    break;
  case OPTION_PHASE:
    o->phase = value;
    break;
  case OPTION_AFTER:
    o->after_all = strcmp(value, "all") == 0;
    o->pipeline.after = o->after_all ? NULL : value;
    break;
  case OPTION_WHAT:
    o->what = read_word(command, row->name, value, row->value);
    break;
  case OPTION_KEEP_VALUES:
    o->keep_values = true;
    break;
  case OPTION_CPU:
    read_word(command, row->name, value, row->value);
    o->native = true;
    break;
  case OPTION_DATA:
    o->data = value;
    break;
  case OPTION_OUT:
    o->out = value;
    break;
  case OPTION_RUN:
    o->run = value;
    break;
  case OPTION_TRAINER:
    vec_push(arena, o->trainer, arena_print(arena, "%s=%s", row->name, value));
    break;
  case OPTION_TRAINER_FLAG:
    vec_push(arena, o->trainer, row->name);
    break;
  case OPTION_HELP:
    usage_print(command, stdout);
    exit(0);
  }
}

static const OptionRow *find_row(unsigned command, const char *name, size_t length) {
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    if ((rows[i].commands & command) && strlen(rows[i].name) == length && strncmp(rows[i].name, name, length) == 0)
      return &rows[i];
  return NULL;
}

/* --no-PASS and --PASS:option=value; false: neither. */
static bool read_pass_option(Arena *arena, Options *o, const char *word) {
  const char *colon = strchr(word, ':'), *equals = strchr(word, '=');
  if (colon && equals && colon < equals) {
    PassSetting setting = {.pass = arena_copy(arena, word + 2, (size_t)(colon - word - 2)),
                           .option = arena_copy(arena, colon + 1, (size_t)(equals - colon - 1)),
                           .value = equals + 1};
    vec_push(arena, o->pipeline.settings, setting);
    return true;
  }
  if (strncmp(word, "--no-", 5) == 0 && word[5]) {
    vec_push(arena, o->pipeline.disabled, word + 5);
    return true;
  }
  return false;
}

/* Reads the option at argv[at]; returns the index behind it. */
static int read_option(Arena *arena, Options *o, unsigned command, int argc, char **argv, int at) {
  const char *word = argv[at];
  bool is_long = word[1] == '-';
  const char *equals = is_long ? strchr(word, '=') : NULL;
  size_t length = is_long ? strcspn(word, "=") : 2;
  const OptionRow *row = find_row(command, word, length);
  if (!row && is_long && read_pass_option(arena, o, word))
    return at + 1;
  if (!row)
    usage_fail(command, "unknown option %s", word);
  const char *attached = equals ? equals + 1 : (!is_long && word[2] ? word + 2 : NULL);
  if (!row->value) {
    if (attached)
      usage_fail(command, "%s takes no value", row->name);
    set_option(arena, o, command, row, NULL);
    return at + 1;
  }
  if (!attached && at + 1 == argc)
    usage_fail(command, "%s lacks its value (%s)", row->name, row->value);
  const char *value = attached ? attached : argv[at + 1];
  if (!*value)
    usage_fail(command, "%s lacks its value (%s)", row->name, row->value);
  set_option(arena, o, command, row, value);
  return attached ? at + 1 : at + 2;
}

Options options_read(Arena *arena, unsigned command, int argc, char **argv) {
  Options o = {.command = command_word(command), .cpu = true, .cuda = true};
  for (int i = 0; i < argc;) {
    if (argv[i][0] == '-' && argv[i][1]) {
      i = read_option(arena, &o, command, argc, argv, i);
    } else if (o.model) {
      usage_fail(command, "one model script is expected, `%s` is a second", argv[i]);
    } else {
      o.model = argv[i++];
    }
  }
  if (!o.model)
    usage_fail(command, "the model script is missing");
  if (vec_len(o.precompile) && !o.cuda)
    usage_fail(command, "--precompile: --target=cpu leaves CUDA out");
  if (o.rates_file && o.cpu && o.cuda)
    usage_fail(command, "--rates=%s: of which target? --target=cpu or --target=cuda says so", o.rates_file);
  if (o.rates_file)
    o.pipeline.rates = rates_read(arena, o.rates_file, o.cpu ? &rates_cpu : &rates_cuda);
  const char *wrong = pipeline_check(arena, &o.pipeline);
  if (wrong)
    usage_fail(command, "%s", wrong);
  return o;
}
