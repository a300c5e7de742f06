/* See checkpoint.h. */
#define _GNU_SOURCE 1 /* renameat2 */
#include "runtime/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/safetensors.h"

static const char model_file[] = "model.safetensors", optimizer_file[] = "optimizer.safetensors";

/* How state.json ends: SUM is the hash of all that stands before. */
static const char sum_begins[] = ",\n\"checksum\":\"", sum_ends[] = "\"\n}\n";
enum { SUM_DIGITS = 16 };

static int64_t updates_seen(const Program *program, const PlanParam *param, int64_t step) {
  const PlanTable *table = program->plan->phases[program->phase].table;
  return step - program->phase_start[table->segments[param->segment].birth];
}

/* ---------------------------------------------------------------- writing */

static Tensor param_tensor(const PlanParam *param, const char *prefix, const float *arena) {
  Tensor tensor = {.name = string_format("%s%s", prefix, param->name),
                   .type = TENSOR_F32,
                   .rank = param->shape.rank,
                   .data = arena + param->offset};
  memcpy(tensor.dim, param->shape.dim, sizeof param->shape.dim);
  return tensor;
}

static void free_names(Tensor *tensors, int count) {
  for (int i = 0; i < count; i++)
    free((char *)tensors[i].name);
  free(tensors);
}

static uint64_t write_model(const char *path, const Program *program) {
  const PlanTable *table = program->arenas->table;
  Tensor *tensors = runtime_allocate((size_t)table->param_count, sizeof *tensors);
  for (int i = 0; i < table->param_count; i++)
    tensors[i] = param_tensor(&table->params[i], "", arenas_read(program->arenas, ARENA_PARAM));
  uint64_t checksum = safetensors_write(path, tensors, table->param_count);
  free_names(tensors, table->param_count);
  return checksum;
}

static uint64_t write_optimizer(const char *path, const Program *program, int64_t step) {
  const PlanTable *table = program->arenas->table;
  Tensor *tensors = runtime_allocate(3 * (size_t)table->param_count, sizeof *tensors);
  int64_t *seen = runtime_allocate((size_t)table->param_count, sizeof *seen);
  int count = 0;
  for (int i = 0; i < table->param_count; i++) { /* the scalars first: their 8 bytes keep everything aligned */
    const PlanParam *param = &table->params[i];
    if (param->segment < 0)
      continue;
    seen[i] = updates_seen(program, param, step);
    tensors[count++] = (Tensor){.name = string_format("t.%s", param->name), .type = TENSOR_I64, .data = &seen[i]};
  }
  for (int i = 0; i < table->param_count; i++) {
    const PlanParam *param = &table->params[i];
    if (param->segment < 0)
      continue;
    tensors[count++] = param_tensor(param, "m.", arenas_read(program->arenas, ARENA_M));
    tensors[count++] = param_tensor(param, "v.", arenas_read(program->arenas, ARENA_V));
  }
  uint64_t checksum = safetensors_write(path, tensors, count);
  free_names(tensors, count);
  free(seen);
  return checksum;
}

static void add_string(Text *text, const char *key, const char *value) {
  text_format(text, ",\n\"%s\":", key);
  if (value)
    text_json_string(text, value);
  else
    text_append(text, "null", 4);
}

static void add_schedules(Text *text, const Program *program, int64_t step) {
  const char *separator = "";
  text_format(text, ",\n\"schedules\":{");
  for (int i = 0; i < program->plan->schedule_count; i++) {
    const PlanSchedule *schedule = &program->plan->schedules[i];
    const char *dot = strchr(schedule->name, '.');
    int phase = -1;
    for (int p = 0; dot && p < program->plan->phase_count; p++)
      if (strncmp(program->plan->phases[p].name, schedule->name, (size_t)(dot - schedule->name)) == 0 &&
          program->plan->phases[p].name[dot - schedule->name] == 0)
        phase = p;
    int64_t at = phase < 0 ? step : step - program->phase_start[phase];
    text_format(text, "%s\"%s\":", separator, schedule->name);
    text_json_float(text, plan_schedule_value(schedule, at < 0 ? 0 : at));
    separator = ",";
  }
  text_append(text, "}", 1);
}

static void write_state(const char *path, const Program *program, const CheckpointState *s, uint64_t model,
                        uint64_t optimizer) {
  Text text = {0};
  text_format(&text, "{\"format\":1,\n\"step\":%" PRId64, s->step);
  add_string(&text, "phase", s->phase);
  add_string(&text, "next_phase", s->next_phase);
  text_format(&text, ",\n\"seed\":%" PRIu64, s->seed);
  text_format(&text, ",\n\"data\":{\"sequences\":%" PRId64 ",\"train_tokens\":%" PRId64 "}", s->sequences,
              s->train_tokens);
  text_format(&text, ",\n\"flops\":");
  text_json_double(&text, s->flops);
  if (s->flops_budget > 0) {
    text_format(&text, ",\n\"flops_budget\":");
    text_json_double(&text, s->flops_budget);
  }
  add_string(&text, "version", s->version);
  text_format(&text, ",\n\"density\":");
  text_json_double(&text, s->density);
  add_schedules(&text, program, s->step);
  text_format(&text, ",\n\"logs\":{");
  for (int i = 0; i < LOG_COUNT; i++)
    text_format(&text, "%s\"%s\":%" PRId64, i ? "," : "", log_file[i], s->log_offset[i]);
  text_format(&text, "},\n\"ir_hash\":\"%016" PRIx64 "\",\n\"tokenizer_hash\":\"%016" PRIx64 "\"", s->ir_hash,
              s->tokenizer_hash);
  add_string(&text, "device", s->device);
  add_string(&text, "cpu_level", s->cpu_level);
  add_string(&text, "library", s->library);
  text_format(&text, ",\n\"threads\":%" PRId64 ",\n\"ranks\":{\"dp\":%" PRId64 ",\"ep\":%" PRId64 "}", s->threads,
              s->data_ranks, s->expert_ranks);
  add_string(&text, "passes", s->passes);
  text_format(&text, ",\n\"files\":{\"%s\":\"%016" PRIx64 "\",\"%s\":\"%016" PRIx64 "\"}", model_file, model,
              optimizer_file, optimizer);
  uint64_t sum = payload_hash(text.data, text.size);
  text_format(&text, "%s%016" PRIx64 "%s", sum_begins, sum, sum_ends);
  int descriptor = file_create(path);
  file_write(descriptor, path, text.data, text.size);
  file_close_durable(descriptor, path);
  text_free(&text);
}

void checkpoint_write(const char *run, const Program *program, const CheckpointState *state) {
  char *all = string_format("%s/checkpoints", run);
  char *final = string_format("%s/step-%08" PRId64, all, state->step);
  char *partial = string_format("%s.partial", final);
  char *model = string_format("%s/%s", partial, model_file);
  char *optimizer = string_format("%s/%s", partial, optimizer_file);
  char *state_file = string_format("%s/state.json", partial);
  directory_remove(partial);
  directory_create(partial);
  uint64_t model_checksum = write_model(model, program);
  uint64_t optimizer_checksum = write_optimizer(optimizer, program, state->step);
  arenas_settle(program->arenas);
  write_state(state_file, program, state, model_checksum, optimizer_checksum);
  directory_sync(partial);
  bool exists = directory_exists(final);
  if (renameat2(AT_FDCWD, partial, AT_FDCWD, final, exists ? RENAME_EXCHANGE : 0) != 0)
    runtime_fail(FAIL_ENVIRONMENT, "cannot rename %s: %s", partial, strerror(errno));
  directory_sync(all);
  if (exists)
    directory_remove(partial);
  char *const paths[] = {all, final, partial, model, optimizer, state_file};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    free(paths[i]);
}

/* ---------------------------------------------------------------- finding */

/* The step of "step-NNNNNNNN" (eight digits or more); -1 for any other name. */
static int64_t step_of(const char *name) {
  if (strncmp(name, "step-", 5) != 0 || strlen(name) < 13 || strspn(name + 5, "0123456789") != strlen(name + 5))
    return -1;
  return strtoll(name + 5, NULL, 10);
}

char *checkpoint_newest(const char *run) {
  char *all = string_format("%s/checkpoints", run), *newest = NULL;
  DIR *directory = opendir(all);
  int64_t best = -1;
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    int64_t step = step_of(entry->d_name);
    if (step > best) {
      best = step;
      free(newest);
      newest = string_format("%s/%s", all, entry->d_name);
    }
  }
  if (directory)
    closedir(directory);
  free(all);
  return newest;
}

char *checkpoint_find(const char *path) {
  char *state = string_format("%s/state.json", path);
  bool itself = file_exists(state);
  free(state);
  char *found = itself ? string_format("%s", path) : checkpoint_newest(path);
  if (!found)
    runtime_fail(FAIL_USER, "%s: %s", path,
                 directory_exists(path) ? "neither a checkpoint nor a run directory with one" : "no such directory");
  return found;
}

char *checkpoint_run(const char *checkpoint) {
  return string_format("%s/../..", checkpoint);
}

/* ---------------------------------------------------------------- reading */

typedef struct StateReader {
  const char *path;
  const Json *root;
} StateReader;

static _Noreturn void state_damaged(const StateReader *r, const char *key) {
  runtime_fail(FAIL_USER, "%s: damaged: no proper \"%s\"", r->path, key);
}

static const char *take_string(const StateReader *r, const char *key, bool optional) {
  const Json *value = json_member(r->root, key);
  if (optional && value && value->kind == JSON_NULL)
    return NULL;
  if (!value || value->kind != JSON_STRING)
    state_damaged(r, key);
  return value->string;
}

static int64_t take_integer(const StateReader *r, const Json *object, const char *key) {
  int64_t number;
  if (!json_integer(json_member(object, key), &number))
    state_damaged(r, key);
  return number;
}

static double take_double(const StateReader *r, const char *key) {
  double number;
  if (!json_double(json_member(r->root, key), &number))
    state_damaged(r, key);
  return number;
}

static uint64_t take_hash(const StateReader *r, const Json *object, const char *key) {
  const Json *value = json_member(object, key);
  if (!value || value->kind != JSON_STRING || strlen(value->string) != 16)
    state_damaged(r, key);
  return strtoull(value->string, NULL, 16);
}

/* Every number of the state decides what the run does next, so none may have changed unseen. */
static void check_sum(const char *path, Bytes text) {
  size_t end = strlen(sum_begins) + SUM_DIGITS + strlen(sum_ends);
  char expected[64];
  if (text.size > end)
    snprintf(expected, sizeof expected, "%s%016" PRIx64 "%s", sum_begins, payload_hash(text.data, text.size - end),
             sum_ends);
  if (text.size <= end || memcmp(text.data + text.size - end, expected, end) != 0)
    runtime_fail(FAIL_USER, "%s: damaged: its checksum is not the one at its end", path);
}

static StateReader open_state(const char *checkpoint) {
  char error[128];
  StateReader r = {string_format("%s/state.json", checkpoint), NULL};
  Bytes text = file_read("checkpoint state", r.path);
  check_sum(r.path, text);
  r.root = json_parse(text.data, text.size, error, sizeof error);
  if (!r.root)
    runtime_fail(FAIL_USER, "%s: damaged: %s", r.path, error);
  free(text.data);
  return r;
}

CheckpointState checkpoint_read_state(const char *checkpoint) {
  StateReader r = open_state(checkpoint);
  const Json *data = json_member(r.root, "data"), *logs = json_member(r.root, "logs"),
             *ranks = json_member(r.root, "ranks");
  if (take_integer(&r, r.root, "format") != 1)
    runtime_fail(FAIL_USER, "%s: a checkpoint of another format than 1", r.path);
  CheckpointState s = {
      .step = take_integer(&r, r.root, "step"),
      .phase = take_string(&r, "phase", false),
      .next_phase = take_string(&r, "next_phase", false),
      .sequences = take_integer(&r, data, "sequences"),
      .train_tokens = take_integer(&r, data, "train_tokens"),
      .flops = take_double(&r, "flops"),
      .version = take_string(&r, "version", false),
      .density = take_double(&r, "density"),
      .ir_hash = take_hash(&r, r.root, "ir_hash"),
      .tokenizer_hash = take_hash(&r, r.root, "tokenizer_hash"),
      .device = take_string(&r, "device", false),
      .cpu_level = take_string(&r, "cpu_level", false),
      .library = take_string(&r, "library", false),
      .threads = take_integer(&r, r.root, "threads"),
      .data_ranks = take_integer(&r, ranks, "dp"),
      .expert_ranks = take_integer(&r, ranks, "ep"),
      .passes = take_string(&r, "passes", true),
  };
  if (!json_unsigned(json_member(r.root, "seed"), &s.seed))
    state_damaged(&r, "seed");
  if (!logs)
    state_damaged(&r, "logs");
  for (int i = 0; i < LOG_COUNT; i++) /* 0: a log that no trainer wrote when this checkpoint was made */
    s.log_offset[i] = json_member(logs, log_file[i]) ? take_integer(&r, logs, log_file[i]) : 0;
  return s;
}

static Safetensors *open_checked(const char *checkpoint, const char *name) {
  StateReader r = open_state(checkpoint);
  char *path = string_format("%s/%s", checkpoint, name);
  Safetensors *file = safetensors_open(path);
  if (safetensors_checksum(file) != take_hash(&r, json_member(r.root, "files"), name))
    runtime_fail(FAIL_USER, "%s: damaged: its checksum is not the one in state.json", path);
  return file;
}

static const Tensor *find_tensor(const Safetensors *file, const char *name, TensorType type) {
  const Tensor *tensor = safetensors_find(file, name);
  if (!tensor)
    runtime_fail(FAIL_USER, "%s: does not match this trainer: no tensor '%s'", file->path, name);
  if (tensor->type != type)
    runtime_fail(FAIL_USER, "%s: does not match this trainer: '%s' is %s, expected %s", file->path, name,
                 tensor_type_name(tensor->type), tensor_type_name(type));
  return tensor;
}

static void shape_text(char *text, size_t size, int rank, const int64_t *dim) {
  size_t at = (size_t)snprintf(text, size, "[");
  for (int i = 0; i < rank && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, "%s%" PRId64, i ? "," : "", dim[i]);
  if (at < size)
    snprintf(text + at, size - at, "]");
}

static void load_tensor(const Safetensors *file, const char *prefix, const PlanParam *param, float *arena) {
  char *name = string_format("%s%s", prefix, param->name);
  const Tensor *tensor = find_tensor(file, name, TENSOR_F32);
  if (tensor->rank != param->shape.rank ||
      memcmp(tensor->dim, param->shape.dim, sizeof(int64_t) * (size_t)tensor->rank) != 0) {
    char found[128], expected[128];
    shape_text(found, sizeof found, tensor->rank, tensor->dim);
    shape_text(expected, sizeof expected, param->shape.rank, param->shape.dim);
    runtime_fail(FAIL_USER, "%s: does not match this trainer: '%s' is %s, expected %s", file->path, name, found,
                 expected);
  }
  memcpy(arena + param->offset, tensor->data, sizeof(float) * (size_t)param->shape.elements);
  free(name);
}

static void load_moments(const char *checkpoint, const Program *program, const CheckpointState *state) {
  const PlanTable *table = program->arenas->table;
  Safetensors *file = open_checked(checkpoint, optimizer_file);
  int expected = 0;
  for (int i = 0; i < table->param_count; i++) {
    const PlanParam *param = &table->params[i];
    if (param->segment < 0)
      continue;
    expected += 3;
    load_tensor(file, "m.", param, arenas_write(program->arenas, ARENA_M));
    load_tensor(file, "v.", param, arenas_write(program->arenas, ARENA_V));
    char *name = string_format("t.%s", param->name);
    int64_t seen, should = updates_seen(program, param, state->step);
    memcpy(&seen, find_tensor(file, name, TENSOR_I64)->data, sizeof seen);
    if (seen != should)
      runtime_fail(FAIL_USER, "%s: does not match this trainer: '%s' is %" PRId64 ", expected %" PRId64, file->path,
                   name, seen, should);
    free(name);
  }
  if (file->count != expected)
    runtime_fail(FAIL_USER, "%s: does not match this trainer: %d tensors, expected %d", file->path, file->count,
                 expected);
  safetensors_close(file);
}

void checkpoint_load(const char *checkpoint, Program *program, const CheckpointState *state, bool moments) {
  int phase = program_phase_named(program, state->phase);
  if (phase < 0 || program_phase_named(program, state->next_phase) < 0)
    runtime_fail(FAIL_USER, "%s: does not match this trainer: it has no phase '%s'", checkpoint,
                 phase < 0 ? state->phase : state->next_phase);
  program_enter(program, phase);
  Safetensors *file = open_checked(checkpoint, model_file);
  const PlanTable *table = program->arenas->table;
  for (int i = 0; i < table->param_count; i++)
    load_tensor(file, "", &table->params[i], arenas_write(program->arenas, ARENA_PARAM));
  if (file->count != table->param_count)
    runtime_fail(FAIL_USER, "%s: does not match this trainer: %d tensors, expected %d", file->path, file->count,
                 table->param_count);
  safetensors_close(file);
  if (moments)
    load_moments(checkpoint, program, state);
  arenas_settle(program->arenas);
  if (state->ir_hash != program->ir_hash)
    fprintf(stderr, "%s: note: %s was written by a trainer of another model, whose tensors have the same shapes\n",
            runtime_program, checkpoint);
}
