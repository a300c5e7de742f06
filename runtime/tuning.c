/* See tuning.h. */
#include "runtime/tuning.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/evaluate.h"
#include "runtime/files.h"
#include "runtime/log.h"

enum { ROUNDS = 6 }; /* the first warms up */

Tuning tuning_new(const Plan *plan) {
  Tuning tuning = {.choices = runtime_allocate((size_t)plan->phase_count, sizeof(TuningChoice))};
  for (int i = 0; i < plan->phase_count; i++)
    if (plan->phases[i].crossover > 0)
      tuning.choices[tuning.count++] =
          (TuningChoice){.phase = plan->phases[i].name, .crossover = plan->phases[i].crossover};
  return tuning;
}

TuningChoice *tuning_find(Tuning *tuning, const char *phase) {
  for (int i = 0; i < tuning->count; i++)
    if (strcmp(tuning->choices[i].phase, phase) == 0)
      return &tuning->choices[i];
  return NULL;
}

/* ---------------------------------------------------------------- the file */

static const char *const sample_name[] = {"packed", "thin", "wide"};
enum { SAMPLES = 3 };

static TuningSample *choice_sample(TuningChoice *choice, int i) {
  TuningSample *samples[SAMPLES] = {&choice->packed, &choice->thin, &choice->wide};
  return samples[i];
}

static _Noreturn void file_damaged(const char *path, const char *what) {
  runtime_fail(FAIL_USER, "%s: damaged: %s", path, what);
}

static const char *member_string(const char *path, const Json *object, const char *key) {
  const Json *value = json_member(object, key);
  if (!value || value->kind != JSON_STRING)
    file_damaged(path, string_format("no text '%s' in a choice", key));
  return value->string;
}

static double member_double(const char *path, const Json *object, const char *key) {
  double number;
  if (!json_double(json_member(object, key), &number) || !(number > 0))
    file_damaged(path, string_format("no number '%s' above 0 in a choice", key));
  return number;
}

static void read_crossover(Tuning *tuning, const char *path, const Json *object) {
  TuningChoice *choice = tuning_find(tuning, member_string(path, object, "phase"));
  if (!choice)
    return; /* a trainer built without the second version */
  choice->crossover = member_double(path, object, "experts_per_token");
  choice->measured = strcmp(member_string(path, object, "by"), "timing") == 0;
  for (int i = 0; choice->measured && i < SAMPLES; i++) {
    const Json *sample = json_member(object, sample_name[i]);
    choice_sample(choice, i)->experts = member_double(path, sample, "experts_per_token");
    choice_sample(choice, i)->seconds = member_double(path, sample, "seconds");
  }
}

static void read_choice(Tuning *tuning, const char *path, const Json *object) {
  const char *kind = member_string(path, object, "kind");
  if (strcmp(kind, "crossover") == 0)
    read_crossover(tuning, path, object);
  else if (strcmp(kind, "product") == 0 || strcmp(kind, "kernel") == 0)
    tuning->products[tuning->product_count++] =
        (ProductChoice){.kind = kind,
                        .shape = member_string(path, object, "shape"),
                        .gpu = member_string(path, object, "gpu"),
                        .library = member_string(path, object, "library"),
                        .algorithm = member_string(path, object, "algorithm"),
                        .seconds = member_double(path, object, "seconds"),
                        .candidates = (int64_t)member_double(path, object, "candidates")};
  else
    file_damaged(path, "a choice of a kind that this trainer does not know");
}

void tuning_read(Tuning *tuning, const char *path) {
  char error[128];
  Bytes text = file_read("tuning file", path);
  const Json *root = json_parse(text.data, text.size, error, sizeof error), *choices = json_member(root, "choices");
  int64_t format;
  if (!root)
    file_damaged(path, error);
  if (!json_integer(json_member(root, "format"), &format) || format != 1)
    runtime_fail(FAIL_USER, "%s: a tuning file of another format than 1", path);
  if (!choices || choices->kind != JSON_ARRAY)
    file_damaged(path, "no list 'choices'");
  size_t most = 0;
  for (const Json *choice = choices->first; choice; choice = choice->next)
    most++;
  tuning->products = runtime_allocate(most, sizeof *tuning->products);
  tuning->product_count = 0;
  for (const Json *choice = choices->first; choice; choice = choice->next)
    read_choice(tuning, path, choice);
  free(text.data);
}

static void write_product(Text *text, const ProductChoice *choice) {
  text_format(text, "{\"kind\":\"%s\",\"shape\":", choice->kind);
  text_json_string(text, choice->shape);
  text_format(text, ",\"gpu\":");
  text_json_string(text, choice->gpu);
  text_format(text, ",\"library\":");
  text_json_string(text, choice->library);
  text_format(text, ",\"algorithm\":");
  text_json_string(text, choice->algorithm);
  text_format(text, ",\"seconds\":");
  text_json_double(text, choice->seconds);
  text_format(text, ",\"candidates\":%lld}", (long long)choice->candidates);
}

void tuning_write(const Tuning *tuning, const char *run) {
  Text text = {0};
  text_format(&text, "{\"format\":1,\"choices\":[");
  for (int i = 0; i < tuning->count; i++) {
    TuningChoice *choice = &tuning->choices[i];
    text_format(&text, "%s\n{\"kind\":\"crossover\",\"phase\":", i ? "," : "");
    text_json_string(&text, choice->phase);
    text_format(&text, ",\"experts_per_token\":");
    text_json_double(&text, choice->crossover);
    text_format(&text, ",\"by\":\"%s\"", choice->measured ? "timing" : "cost model");
    for (int k = 0; choice->measured && k < SAMPLES; k++) {
      text_format(&text, ",\"%s\":{\"experts_per_token\":", sample_name[k]);
      text_json_double(&text, choice_sample(choice, k)->experts);
      text_format(&text, ",\"seconds\":");
      text_json_double(&text, choice_sample(choice, k)->seconds);
      text_format(&text, "}");
    }
    text_format(&text, "}");
  }
  for (int i = 0; i < tuning->product_count; i++) {
    text_format(&text, "%s\n", tuning->count || i ? "," : "");
    write_product(&text, &tuning->products[i]);
  }
  text_format(&text, "]}\n");
  char *path = string_format("%s/tuning.json", run);
  file_replace(path, text.data, text.size);
  free(path);
  text_free(&text);
}

void tuning_start(const Tuning *tuning, Executor *executor) {
  executor_set_choices(executor, tuning->products, tuning->product_count);
}

/* "NVIDIA H200 (sm_90a)", "NVRTC 13.0, cuBLASLt 13.1.0": of the executor. */
static bool is_of_this(const ProductChoice *choice, const char *level, const char *libraries) {
  size_t gpu = strlen(choice->gpu), library = strlen(choice->library);
  const char *found = strstr(libraries, choice->library);
  bool same_library = strcmp(choice->kind, "kernel") == 0 || (found && (found[library] == 0 || found[library] == ','));
  return same_library && strncmp(level, choice->gpu, gpu) == 0 && strncmp(level + gpu, " (", 2) == 0;
}

static void look_at_choices(Tuning *tuning, const Executor *executor, Log *log) {
  const ProductChoice *other = NULL;
  int others = 0;
  for (int i = 0; i < tuning->product_count && !tuning->looked_at; i++)
    if (!is_of_this(&tuning->products[i], executor_level(executor), executor_library(executor))) {
      other = other ? other : &tuning->products[i];
      others++;
    }
  tuning->looked_at = true;
  if (other)
    log_note(log, "tuning: %d of %d choices are of another GPU or library (%s, %s) and count for nothing here", others,
             tuning->product_count, other->gpu, other->library);
}

void tuning_keep(Tuning *tuning, const Executor *executor, const char *run, Log *log) {
  int count;
  const ProductChoice *choices = executor_choices(executor, &count);
  if (choices)
    look_at_choices(tuning, executor, log);
  if (count == tuning->product_count || !choices)
    return;
  for (int i = tuning->product_count; i < count; i++)
    if (strcmp(choices[i].kind, "kernel") == 0)
      log_note(log, "kernels: %s is the fastest of %lld ways, %.3f ms: %s", choices[i].algorithm,
               (long long)choices[i].candidates, 1e3 * choices[i].seconds, choices[i].shape);
  free(tuning->products);
  tuning->products = runtime_allocate((size_t)count, sizeof *choices);
  memcpy(tuning->products, choices, (size_t)count * sizeof *choices);
  tuning->product_count = count;
  tuning_write(tuning, run);
}

void tuning_take_choices(Program *program, const char *run) {
  char *path = string_format("%s/tuning.json", run);
  if (file_exists(path)) {
    Tuning tuning = tuning_new(program->plan);
    tuning_read(&tuning, path);
    tuning_start(&tuning, program->executor);
  }
  free(path);
}

/* ---------------------------------------------------------------- timing */

typedef struct Bench {
  Program *program;
  const TokenFile *file;
  const DataOrder *order;
  int64_t step;
} Bench;

/* One run of `func`; with `half`, the second half of the tokens is dead, so that gates select no experts for it. */
static void time_run(const Bench *bench, const PlanFunc *func, bool half, TuningSample *sample) {
  Program *p = bench->program;
  const PlanRun *run = &p->plan->run;
  Batch batch = program_batch(p, func);
  batch_fill_training(&batch, bench->file, bench->order, bench->step, run->batch, 0, run->accumulate);
  for (int64_t row = batch.rows / 2; half && row < batch.rows; row++)
    batch.live[row] = 0;
  program_fill(p, func, bench->step);
  program_set_float(p, func, "inverse_targets", (float)(1.0 / (double)(run->batch * run->sequence)));
  double start = log_seconds();
  executor_run(p->executor, func);
  double seconds = log_seconds() - start;
  if (sample->seconds == 0 || seconds < sample->seconds)
    sample->seconds = seconds;
  sample->experts = (double)executor_scalar(p->executor, func, "pairs") / ((double)batch.rows * routed_layers(func));
}

bool tuning_measure(TuningChoice *choice, Program *program, const TokenFile *file, const DataOrder *order,
                    int64_t step) {
  Bench bench = {program, file, order, step};
  const PlanFunc *packed = program_func(program, program->phase, "train.packed");
  const PlanFunc *wide = program_func(program, program->phase, "train.wide");
  choice->measured = true;
  for (int round = 0; round < ROUNDS; round++) {
    if (round == 1)
      choice->packed = choice->thin = choice->wide = (TuningSample){0, 0};
    time_run(&bench, packed, false, &choice->packed);
    time_run(&bench, packed, true, &choice->thin);
    time_run(&bench, wide, false, &choice->wide);
  }
  double experts = choice->packed.experts - choice->thin.experts;
  double seconds = choice->packed.seconds - choice->thin.seconds;
  double saved = choice->packed.seconds - choice->wide.seconds;
  bool found = experts > 0 && seconds > 0 && choice->packed.experts > saved * experts / seconds;
  if (found)
    choice->crossover = choice->packed.experts - saved * experts / seconds;
  return found;
}
