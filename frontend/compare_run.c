/* The trainings of a comparison as child processes.
 *
 * A job is: build its trainer where there is none yet, train (with --resume where the run directory holds a run),
 * evaluate the final checkpoint, write done.json. Every child dies with its parent, so that after a kill of moec
 * nothing writes on; what was half written is a file that is renamed when whole, or a run that resumes bit for bit.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/package.h"
#include "frontend/compare.h"
#include "ir/ir.h"
#include "runtime/files.h"
#include "runtime/json.h"

enum { EXIT_SIGNAL = 128, EXIT_CANNOT_RUN = 127 };

/* ---------------------------------------------------------------- processes */

/* In a child: the death of `parent` is its own, also when it came before this call. */
static void die_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(EXIT_SIGNAL + SIGKILL);
}

static pid_t fork_child(void) {
  fflush(NULL);
  pid_t parent = getpid(), child = fork();
  if (child < 0)
    environment_fail("cannot start a process: %s", strerror(errno));
  if (child == 0)
    die_with(parent);
  return child;
}

static int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_SIGNAL + WTERMSIG(status);
}

static int wait_for(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      environment_fail("cannot wait for a process: %s", strerror(errno));
  return exit_code(status);
}

/* `errors`: the descriptor of standard error. */
static int spawn(const char *const *words, int output, int errors) {
  pid_t child = fork_child();
  if (child == 0) {
    if (dup2(output, STDOUT_FILENO) < 0 || dup2(errors, STDERR_FILENO) < 0)
      _exit(EXIT_CANNOT_RUN);
    execv(words[0], (char *const *)(uintptr_t)words);
    dprintf(STDERR_FILENO, "moec: %s: cannot run it: %s\n", words[0], strerror(errno));
    _exit(EXIT_CANNOT_RUN);
  }
  return wait_for(child);
}

int compare_spawn(const char *const *words, int output) {
  return spawn(words, output, output);
}

/* ---------------------------------------------------------------- one job */

static char *in_run(Arena *arena, const Job *job, const char *name) {
  return arena_print(arena, "%s/%s", job->directory, name);
}

static void make_parent(Arena *arena, const char *path) {
  directory_create(arena_print(arena, "%.*s", (int)(strrchr(path, '/') - path), path));
}

/* The last line of what the children of a failed job said: its message. */
static const char *last_line(Arena *arena, const char *path) {
  Bytes text = file_read("what the trainer said", path);
  while (text.size && strchr("\r\n", text.data[text.size - 1]))
    text.data[--text.size] = 0;
  const char *begin = text.data + text.size;
  while (begin > text.data && !strchr("\r\n", begin[-1]))
    begin--;
  const char *line = arena_copy(arena, begin, strlen(begin));
  free(text.data);
  return line;
}

static int open_output(Arena *arena, const Job *job) {
  const char *path = arena_print(arena, "%s.out", job->directory);
  make_parent(arena, path);
  int output = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (output < 0)
    environment_fail("%s: cannot write: %s", path, strerror(errno));
  return output;
}

/* Builds the trainer of a job where it is missing. */
static int build_missing(Compare *c, const Job *job) {
  if (file_exists(job->trainer))
    return 0;
  make_parent(c->arena, job->trainer);
  char *partial = arena_print(c->arena, "%s.partial", job->trainer);
  const char **words = NULL;
  vec_push(c->arena, words, "/proc/self/exe");
  vec_push(c->arena, words, "build");
  vec_push(c->arena, words, job->setting->run->model);
  vec_push(c->arena, words, "-o");
  vec_push(c->arena, words, partial);
  if (c->device)
    vec_push(c->arena, words, arena_print(c->arena, "--target=%s", c->device));
  for (uint32_t i = 0; i < vec_len(job->defines); i++) {
    vec_push(c->arena, words, "-D");
    vec_push(c->arena, words, job->defines[i]);
  }
  vec_push(c->arena, words, NULL);
  int output = open_output(c->arena, job), code = compare_spawn(words, output);
  close(output);
  if (code == 0 && rename(partial, job->trainer) != 0)
    environment_fail("%s: cannot write: %s", job->trainer, strerror(errno));
  return code;
}

static int train(Compare *c, const Job *job, int output) {
  const CompareSpec *spec = &c->spec;
  const char **words = NULL;
  vec_push(c->arena, words, job->trainer);
  vec_push(c->arena, words, "train");
  vec_push(c->arena, words, arena_print(c->arena, "--data=%s", spec->data));
  vec_push(c->arena, words, arena_print(c->arena, "--out=%s", job->directory));
  vec_push(c->arena, words, arena_print(c->arena, "--seed=%lld", (long long)job->seed));
  vec_push(c->arena, words, arena_print(c->arena, "--eval-every=%lld", (long long)spec->eval_every));
  vec_push(c->arena, words, arena_print(c->arena, "--checkpoint-every=%lld", (long long)spec->checkpoint_every));
  if (spec->probe_every > 0 && !job->tried)
    vec_push(c->arena, words, arena_print(c->arena, "--probe-every=%lld", (long long)spec->probe_every));
  if (job->flops > 0)
    vec_push(c->arena, words, arena_print(c->arena, "--flops=%.17g", job->flops));
  else
    vec_push(c->arena, words, arena_print(c->arena, "--steps=%lld", (long long)job->steps));
  if (c->device)
    vec_push(c->arena, words, arena_print(c->arena, "--device=%s", c->device));
  if (file_exists(in_run(c->arena, job, "config.json")))
    vec_push(c->arena, words, "--resume");
  vec_push(c->arena, words, NULL);
  return compare_spawn(words, output);
}

static int evaluate(Compare *c, const Job *job, int output) {
  char *path = in_run(c->arena, job, "evaluation.jsonl"), *partial = arena_print(c->arena, "%s.partial", path);
  const char **words = NULL;
  vec_push(c->arena, words, job->trainer);
  vec_push(c->arena, words, "eval");
  vec_push(c->arena, words, arena_print(c->arena, "--data=%s", c->spec.data));
  vec_push(c->arena, words, arena_print(c->arena, "--checkpoint=%s", job->directory));
  if (c->device)
    vec_push(c->arena, words, arena_print(c->arena, "--device=%s", c->device));
  vec_push(c->arena, words, NULL);
  int lines = file_create(partial), code = spawn(words, lines, output);
  file_close_durable(lines, partial);
  if (code == 0 && rename(partial, path) != 0)
    environment_fail("%s: cannot write: %s", path, strerror(errno));
  return code;
}

static void write_done(Compare *c, const Job *job) {
  Text text = {0};
  text_format(&text, "{\"format\":1,\"trainer\":");
  text_json_string(&text, strrchr(job->trainer, '/') + 1);
  text_format(&text, ",\"seed\":%lld,\"steps\":%lld,\"flops_budget\":", (long long)job->seed, (long long)job->steps);
  text_json_double(&text, job->flops);
  text_format(&text, ",\"forecast_flops\":");
  text_json_double(&text, job->forecast);
  text_format(&text, "}\n");
  file_replace(in_run(c->arena, job, "done.json"), text.data, text.size);
  text_free(&text);
}

/* In a process of its own; its exit code. */
static int run_job(Compare *c, const Job *job) {
  int output = open_output(c->arena, job), code = train(c, job, output);
  if (code == 0)
    code = evaluate(c, job, output);
  if (code == 0)
    write_done(c, job);
  close(output);
  return code;
}

/* ---------------------------------------------------------------- all jobs */

static cJSON *read_json(const char *path) {
  Bytes text = file_read("a finished run's file", path);
  cJSON *json = cJSON_ParseWithLength(text.data, text.size);
  free(text.data);
  if (!json)
    ir_fail((Loc){path, 0}, "damaged: no JSON; without it the run is evaluated again");
  return json;
}

/* A finished job of another trainer is the user's mistake: the specification or a model has changed since. */
static bool is_done(Compare *c, const Job *job) {
  char *path = in_run(c->arena, job, "done.json");
  if (!file_exists(path))
    return false;
  cJSON *json = read_json(path);
  const cJSON *trainer = cJSON_GetObjectItemCaseSensitive(json, "trainer");
  if (!cJSON_IsString(trainer) || strcmp(trainer->valuestring, strrchr(job->trainer, '/') + 1) != 0)
    ir_fail((Loc){0},
            "%s was trained for another specification or model; remove it, or begin a new comparison with another "
            "--out",
            job->directory);
  cJSON_Delete(json);
  return true;
}

static void report_failure(Compare *c, Job *job, const char *what, int code) {
  job->code = code;
  const char *path = arena_print(c->arena, "%s.out", job->directory);
  fprintf(stderr, "moec compare: %s: %s failed with exit code %d: %s (%s)\n", job->name, what, code,
          last_line(c->arena, path), path);
}

static void finish_one(Compare *c, Job *jobs, pid_t *children) {
  int status;
  pid_t child = wait(&status);
  if (child < 0 && errno != EINTR)
    environment_fail("cannot wait for a process: %s", strerror(errno));
  for (uint32_t i = 0; child > 0 && i < vec_len(jobs); i++) {
    if (children[i] != child)
      continue;
    children[i] = 0;
    int code = exit_code(status);
    if (code != 0)
      report_failure(c, &jobs[i], "training", code);
    else
      fprintf(stderr, "moec compare: %s: done\n", jobs[i].name);
  }
}

static uint32_t count_running(const Job *jobs, const pid_t *children) {
  uint32_t running = 0;
  for (uint32_t i = 0; i < vec_len(jobs); i++)
    running += children[i] > 0;
  return running;
}

void compare_run(Compare *c, Job *jobs) {
  pid_t *children = arena_alloc(c->arena, sizeof *children * (vec_len(jobs) + 1));
  for (uint32_t i = 0; i < vec_len(jobs); i++) {
    Job *job = &jobs[i];
    if (is_done(c, job))
      continue;
    int code = build_missing(c, job);
    if (code != 0) {
      report_failure(c, job, "building", code);
      continue;
    }
    while (count_running(jobs, children) >= (uint32_t)c->spec.parallel)
      finish_one(c, jobs, children);
    fprintf(stderr, "moec compare: %s: training, %u of %u\n", job->name, i + 1, vec_len(jobs));
    children[i] = fork_child();
    if (children[i] == 0)
      _exit(run_job(c, job));
  }
  while (count_running(jobs, children) > 0)
    finish_one(c, jobs, children);
}

/* ---------------------------------------------------------------- what came out */

static double member(const cJSON *object, const char *name) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static bool is_split(const cJSON *line, const char *name) {
  const cJSON *split = cJSON_GetObjectItemCaseSensitive(line, "split");
  return cJSON_IsString(split) && strcmp(split->valuestring, name) == 0;
}

static void take_metrics(Arena *arena, Outcome *o, const cJSON *line) {
  if (!cJSON_HasObjectItem(line, "split")) {
    double tokens = member(line, "tokens");
    o->seconds += (tokens - o->tokens) / member(line, "tokens_per_s");
    o->tokens = tokens;
    o->steps = member(line, "step");
    o->flops = member(line, "flops");
    return;
  }
  double ppl = member(line, "ppl");
  if (!is_split(line, "valid") || isnan(ppl))
    return;
  vec_push(arena, o->curve, (CurvePoint){o->flops, ppl});
  o->best = isnan(o->best) || ppl < o->best ? ppl : o->best;
}

static void take_evaluation(Arena *arena, Outcome *o, const cJSON *line) {
  (void)arena;
  if (is_split(line, "valid"))
    o->valid = member(line, "ppl");
  else if (is_split(line, "test"))
    o->test = member(line, "ppl");
}

static void read_lines(Arena *arena, const char *path, Outcome *o,
                       void (*take)(Arena *arena, Outcome *o, const cJSON *line)) {
  Bytes text = file_read("a finished run's file", path);
  int number = 0;
  for (char *rest = NULL, *line = strtok_r(text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    cJSON *json = cJSON_Parse(line);
    number++;
    if (!json)
      ir_fail((Loc){path, number}, "damaged: no JSON");
    take(arena, o, json);
    cJSON_Delete(json);
  }
  free(text.data);
}

Outcome compare_outcome(Arena *arena, const Job *job) {
  Outcome o = {.valid = NAN, .test = NAN, .best = NAN};
  o.done = file_exists(in_run(arena, job, "done.json"));
  if (!o.done)
    return o;
  read_lines(arena, in_run(arena, job, "metrics.jsonl"), &o, take_metrics);
  read_lines(arena, in_run(arena, job, "evaluation.jsonl"), &o, take_evaluation);
  return o;
}
