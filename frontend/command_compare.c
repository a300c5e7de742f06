/* moec compare: reads the specification, runs the search, then every setting with every seed, and prints the table.
 *
 * Whatever the specification or a model has wrong is said before anything runs. A training that fails is reported, the
 * others go on, and the exit code is 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "codegen/package.h"
#include "frontend/commands.h"
#include "frontend/compare.h"
#include "ir/ir.h"
#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/options.h"

typedef struct CompareOptions {
  const char *spec, *out, *data, *device;
  double rate; /* FLOPs per second, for the times of --dry-run; 0: not known */
  bool dry_run;
} CompareOptions;

static void print_help(void) {
  puts("moec compare SPEC.lua --out DIR     trains what the specification says, prints a table and writes a report;\n"
       "                                    the same command goes on where it was cut\n"
       "\n"
       "  --out=DIR          where everything is written\n"
       "  --data=DIR         other data than the specification's\n"
       "  --device=cpu|cuda  where to train\n"
       "  --dry-run          only lists what would run, with its forecast FLOPs and time\n"
       "  --rate=X           FLOPs per second, for the times of --dry-run (default: that of what is finished)");
}

static CompareOptions read_options(int argc, char **argv) {
  CompareOptions o = {0};
  bool help = false;
  OptionList words = {0};
  const Option options[] = {
      {"--out", OPTION_TEXT, &o.out, 0},       {"--data", OPTION_TEXT, &o.data, 0},
      {"--device", OPTION_TEXT, &o.device, 0}, {"--dry-run", OPTION_FLAG, &o.dry_run, 0},
      {"--rate", OPTION_NUMBER, &o.rate, 0},   {"--help", OPTION_FLAG, &help, 0},
  };
  runtime_program = "moec";
  options_parse("compare", argc, argv, options, sizeof options / sizeof *options, &words);
  if (help) {
    print_help();
    exit(0);
  }
  if (words.count != 1)
    runtime_fail(FAIL_USAGE, "compare: %s (moec compare SPEC.lua --out DIR)",
                 words.count ? "one specification is expected" : "the specification is missing");
  if (!o.out)
    runtime_fail(FAIL_USAGE, "compare: --out DIR is missing");
  if (o.device && strcmp(o.device, "cpu") != 0 && strcmp(o.device, "cuda") != 0)
    runtime_fail(FAIL_USAGE, "compare: --device=%s: expected cpu or cuda", o.device);
  o.spec = words.words[0];
  return o;
}

/* Two comparisons in one directory would train the same runs twice. The children of one that was killed may hold the
 * lock for a moment. */
static void lock_directory(Compare *c) {
  enum { TRIES = 20, PAUSE_MICROSECONDS = 100000 };
  directory_create(c->out);
  const char *path = arena_print(c->arena, "%s/lock", c->out);
  int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock < 0)
    environment_fail("%s: cannot write: %s", path, strerror(errno));
  for (int i = 0; flock(lock, LOCK_EX | LOCK_NB) != 0; i++) {
    if (i == TRIES)
      ir_fail((Loc){0}, "%s: another moec compare works there", c->out);
    usleep(PAUSE_MICROSECONDS);
  }
}

/* ---------------------------------------------------------------- jobs */

static void plan_searches(Compare *c) {
  for (uint32_t i = 0; i < vec_len(c->settings); i++)
    for (uint32_t k = 0; c->settings[i].searched && k < vec_len(c->spec.search.values); k++) {
      Job job = compare_job(c, &c->settings[i], c->spec.search.values[k], c->spec.search_budget);
      vec_push(c->arena, c->searches, compare_seed(c, job, c->spec.seeds[0]));
    }
}

static void plan_jobs(Compare *c, bool all) {
  for (uint32_t i = 0; i < vec_len(c->settings); i++) {
    Setting *setting = &c->settings[i];
    Job job = compare_job(c, setting, NULL, 1);
    for (uint32_t k = 0; (all || !setting->searched || setting->chosen) && k < vec_len(c->spec.seeds); k++)
      vec_push(c->arena, c->jobs, compare_seed(c, job, c->spec.seeds[k]));
  }
}

static void report_unchosen(const Compare *c) {
  for (uint32_t i = 0; i < vec_len(c->settings); i++)
    if (c->settings[i].searched && !c->settings[i].chosen)
      fprintf(stderr, "moec compare: %s/%s: no value of %s could be trained\n", c->settings[i].run->name,
              c->settings[i].label, c->spec.search.key);
}

/* For every setting the value whose final perplexity on valid is the least. */
static void choose_values(Compare *c) {
  for (uint32_t i = 0; i < vec_len(c->settings); i++) {
    double best = INFINITY;
    for (uint32_t k = 0; k < vec_len(c->searches); k++) {
      const Job *job = &c->searches[k];
      Outcome o = job->setting == &c->settings[i] ? compare_outcome(c->arena, job) : (Outcome){0};
      if (!o.done || !(o.valid < best))
        continue;
      best = o.valid;
      c->settings[i].chosen = job->tried;
    }
  }
}

static bool any_failed(const Compare *c) {
  bool failed = false;
  for (uint32_t i = 0; i < vec_len(c->searches); i++)
    failed |= c->searches[i].code != 0;
  for (uint32_t i = 0; i < vec_len(c->jobs); i++)
    failed |= c->jobs[i].code != 0;
  return failed;
}

/* ---------------------------------------------------------------- what would run */

/* FLOPs per second of what is finished; 0: nothing is. */
static double measured_rate(Compare *c) {
  double flops = 0, seconds = 0;
  Job *groups[] = {c->searches, c->jobs};
  for (int g = 0; g < 2; g++)
    for (uint32_t i = 0; i < vec_len(groups[g]); i++) {
      Outcome o = compare_outcome(c->arena, &groups[g][i]);
      flops += o.done ? o.flops : 0;
      seconds += o.done ? o.seconds : 0;
    }
  return seconds > 0 ? flops / seconds : 0;
}

static void list_job(const Compare *c, const Job *job, double rate) {
  bool done = file_exists(arena_print(c->arena, "%s/done.json", job->directory));
  const char *value = "";
  if (job->setting->searched && !job->tried && !job->setting->chosen)
    value = arena_print(c->arena, "  %s by search", c->spec.search.key);
  printf("%-48s %8lld steps  %10.4g FLOPs", job->name, (long long)job->steps, job->forecast);
  if (rate > 0)
    printf("  %8.0f s", job->forecast / rate);
  printf("%s%s\n", value, done ? "  done" : "");
}

static void list_jobs(Compare *c, double rate) {
  double total = 0;
  for (uint32_t i = 0; i < vec_len(c->searches); i++) {
    list_job(c, &c->searches[i], rate);
    total += c->searches[i].forecast;
  }
  for (uint32_t i = 0; i < vec_len(c->jobs); i++) {
    list_job(c, &c->jobs[i], rate);
    total += c->jobs[i].forecast;
  }
  printf("%u trainings, %.4g FLOPs", vec_len(c->searches) + vec_len(c->jobs), total);
  if (rate > 0)
    printf(", %.2f hours at %.4g FLOPs/s", total / rate / 3600 / (double)c->spec.parallel, rate);
  else
    printf("; --rate=X (FLOPs per second) gives the time, and so does the first finished training");
  putchar('\n');
}

/* ---------------------------------------------------------------- the report */

/* By moec report, on the finished runs. A report that fails costs the comparison nothing but its page. */
static void write_report(Compare *c) {
  const char **words = NULL;
  vec_push(c->arena, words, "/proc/self/exe");
  vec_push(c->arena, words, "report");
  vec_push(c->arena, words, "-o");
  vec_push(c->arena, words, arena_print(c->arena, "%s/report.html", c->out));
  uint32_t options = vec_len(words);
  for (uint32_t i = 0; i < vec_len(c->jobs); i++) {
    const Job *job = &c->jobs[i];
    if (!file_exists(arena_print(c->arena, "%s/done.json", job->directory)))
      continue;
    if (job->seed == c->spec.seeds[0])
      vec_push(c->arena, words, arena_print(c->arena, "--trainer=%s", job->trainer));
    vec_push(c->arena, words, job->directory);
  }
  if (vec_len(words) == options)
    return;
  vec_push(c->arena, words, NULL);
  int code = compare_spawn(words, STDERR_FILENO);
  if (code != 0)
    fprintf(stderr, "moec compare: %s/report.html was not written: moec report failed with exit code %d\n", c->out,
            code);
}

int command_compare(int argc, char **argv) {
  CompareOptions options = read_options(argc, argv);
  Compare c = {.arena = arena_new(), .out = options.out, .device = options.device};
  c.spec = compare_read(c.arena, options.spec, options.data);
  compare_make_settings(&c);
  plan_searches(&c);
  if (options.dry_run) {
    choose_values(&c);
    plan_jobs(&c, true);
    list_jobs(&c, options.rate > 0 ? options.rate : measured_rate(&c));
    return 0;
  }
  lock_directory(&c);
  compare_run(&c, c.searches);
  choose_values(&c);
  report_unchosen(&c);
  plan_jobs(&c, false);
  compare_run(&c, c.jobs);
  compare_table(&c);
  write_report(&c);
  return any_failed(&c) ? 1 : 0;
}
