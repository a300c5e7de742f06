/* What the executor does whatever the device: it binds the spaces of a plan to memory, checks that a function's are
 * bound, and passes the rest on. */
#include "runtime/execute.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files.h"

/* ---------------------------------------------------------------- arenas */

static int64_t arena_bytes(const PlanTable *table, ArenaKind kind) {
  return kind == ARENA_GRAD ? table->gradient_bytes : table->size * (int64_t)sizeof(float);
}

int64_t arenas_copy_bytes(const Plan *plan, const PlanTable *table) {
  return plan_copies(plan, table) ? table->size * (int64_t)plan_type_size(PLAN_BF16) : 0;
}

int64_t arenas_bytes(const Plan *plan, const PlanTable *table) {
  int64_t bytes = arenas_copy_bytes(plan, table);
  for (ArenaKind kind = 0; kind < ARENA_COUNT; kind++)
    bytes += arena_bytes(table, kind);
  return bytes;
}

Arenas *arenas_new(Executor *executor, const PlanTable *table) {
  static const char *const names[ARENA_COUNT] = {"parameters", "gradients", "first moments", "second moments"};
  Arenas *arenas = runtime_allocate(1, sizeof *arenas);
  arenas->executor = executor;
  arenas->table = table;
  int64_t copies = arenas_copy_bytes(executor->plan, table), bytes = arenas_bytes(executor->plan, table);
  if (bytes > executor->device->available(executor))
    executor->device->refuse(executor,
                             string_format("table %s needs %.3f GB (parameters, gradients, two moments%s)", table->name,
                                           (double)bytes / 1e9, copies ? ", parameters in bf16" : ""));
  for (ArenaKind kind = 0; kind < ARENA_COUNT; kind++)
    arenas->memory[kind] = executor->device->allocate(executor, names[kind], arena_bytes(table, kind));
  arenas->outdated = true;
  if (copies)
    arenas->copies = executor->device->allocate(executor, "parameters in bf16", copies);
  return arenas;
}

void arenas_free(Arenas *arenas) {
  if (!arenas)
    return;
  arenas_settle(arenas);
  for (ArenaKind kind = 0; kind < ARENA_COUNT; kind++)
    arenas->executor->device->release(arenas->executor, arenas->memory[kind], arena_bytes(arenas->table, kind));
  if (arenas->copies)
    arenas->executor->device->release(arenas->executor, arenas->copies,
                                      arenas_copy_bytes(arenas->executor->plan, arenas->table));
  free(arenas);
}

static char *host_copy(Arenas *arenas, ArenaKind kind) {
  const Device *device = arenas->executor->device;
  if (device->host_memory)
    return arenas->memory[kind];
  if (!arenas->host[kind]) {
    int64_t bytes = arena_bytes(arenas->table, kind);
    arenas->host[kind] = runtime_allocate((size_t)bytes, 1);
    device->read(arenas->executor, arenas->host[kind], arenas->memory[kind], bytes);
  }
  return arenas->host[kind];
}

static float *host_elements(Arenas *arenas, ArenaKind kind) {
  if (arena_bytes(arenas->table, kind) != arenas->table->size * (int64_t)sizeof(float))
    runtime_fail(FAIL_BUG, "gradients of table %s, which are bf16, are read as f32", arenas->table->name);
  return (float *)host_copy(arenas, kind);
}

const float *arenas_read(Arenas *arenas, ArenaKind kind) {
  return host_elements(arenas, kind);
}

float *arenas_write(Arenas *arenas, ArenaKind kind) {
  float *elements = host_elements(arenas, kind);
  arenas->written[kind] = true;
  arenas->outdated |= kind == ARENA_PARAM;
  return elements;
}

char *arenas_write_gradients(Arenas *arenas) {
  arenas->written[ARENA_GRAD] = true;
  return host_copy(arenas, ARENA_GRAD);
}

void arenas_settle(Arenas *arenas) {
  for (ArenaKind kind = 0; kind < ARENA_COUNT; kind++) {
    if (arenas->host[kind] && arenas->written[kind])
      arenas->executor->device->write(arenas->executor, arenas->memory[kind], arenas->host[kind],
                                      arena_bytes(arenas->table, kind));
    free(arenas->host[kind]);
    arenas->host[kind] = NULL;
    arenas->written[kind] = false;
  }
}

void executor_expect(Executor *executor, const char *what, int64_t bytes) {
  const Device *device = executor->device;
  if (!device->host_memory && bytes > device->available(executor))
    device->refuse(executor, string_format("%s needs %.3f GB beside the activations", what, (double)bytes / 1e9));
}

void executor_set_table(Executor *executor, Arenas *arenas) {
  executor->arenas = arenas;
  executor->table = arenas ? arenas->table : NULL;
  executor->base[SPACE_PARAM_BF16] = arenas ? arenas->copies : NULL;
  executor->base[SPACE_PARAM] = arenas ? arenas->memory[ARENA_PARAM] : NULL;
  executor->base[SPACE_GRAD] = arenas ? arenas->memory[ARENA_GRAD] : NULL;
  executor->base[SPACE_M] = arenas ? arenas->memory[ARENA_M] : NULL;
  executor->base[SPACE_V] = arenas ? arenas->memory[ARENA_V] : NULL;
}

void executor_set_source(Executor *executor, const Arenas *arenas) {
  executor->base[SPACE_SOURCE_PARAM] = arenas ? arenas->memory[ARENA_PARAM] : NULL;
  executor->base[SPACE_SOURCE_M] = arenas ? arenas->memory[ARENA_M] : NULL;
  executor->base[SPACE_SOURCE_V] = arenas ? arenas->memory[ARENA_V] : NULL;
}

static void release_sum(Executor *executor) {
  if (executor->gradient_sum)
    executor->device->release(executor, executor->gradient_sum, executor->gradient_bytes);
  executor->gradient_sum = NULL;
}

void executor_sum_gradients(Executor *executor, int64_t micro, int64_t count) {
  const Device *device = executor->device;
  int64_t size = executor->table->size, bytes = size * (int64_t)sizeof(float);
  if (count == 1)
    return;
  if (!executor->gradient_sum || executor->gradient_bytes != bytes) {
    release_sum(executor);
    executor->gradient_sum = device->allocate(executor, "sums of gradients", bytes);
    executor->gradient_bytes = bytes;
  }
  char *sum = executor->gradient_sum, *grad = executor->base[SPACE_GRAD];
  if (micro == 0)
    device->add(executor, sum, grad, NULL, size);
  else
    device->add(executor, micro + 1 == count ? grad : sum, sum, grad, size);
}

/* ---------------------------------------------------------------- life */

Executor *executor_new(const Plan *plan, const Payload *payload) {
  static const Device *const devices[] = {&device_cpu, &device_cuda};
  Executor *executor = runtime_allocate(1, sizeof *executor);
  executor->plan = plan;
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
    if (strcmp(plan->target, devices[i]->name) == 0)
      executor->device = devices[i];
  if (!executor->device)
    runtime_fail(FAIL_BUG, "the plan is for target %s, which is no device", plan->target);
  executor->started = runtime_allocate((size_t)plan->func_count, sizeof *executor->started);
  executor->device->open(executor, payload);
  return executor;
}

void executor_free(Executor *executor) {
  if (!executor)
    return;
  release_sum(executor);
  executor->device->close(executor);
  profile_free(executor->profile);
  free(executor->started);
  free(executor);
}

const char *executor_device(const Executor *executor) {
  return executor->device->name;
}

const char *executor_level(const Executor *executor) {
  return executor->device->level(executor);
}

const char *executor_library(const Executor *executor) {
  return executor->device->library(executor);
}

const char *executor_start_note(const Executor *executor) {
  return executor->device->start_note ? executor->device->start_note(executor) : NULL;
}

int executor_threads(const Executor *executor) {
  return executor->device->threads(executor);
}

void executor_set_seed(Executor *executor, uint64_t seed) {
  executor->seed = seed;
  executor->device->write(executor, executor->base[SPACE_SEED], &executor->seed, sizeof executor->seed);
}

void executor_set_choices(Executor *executor, const ProductChoice *choices, int count) {
  if (executor->device->set_choices)
    executor->device->set_choices(executor, choices, count);
}

const ProductChoice *executor_choices(const Executor *executor, int *count) {
  *count = 0;
  return executor->device->choices ? executor->device->choices(executor, count) : NULL;
}

/* ---------------------------------------------------------------- arguments and results */

static bool *started(const Executor *executor, const PlanFunc *func) {
  return &executor->started[func - executor->plan->funcs];
}

static void check_finished(const Executor *executor, const PlanFunc *func) {
  if (*started(executor, func))
    runtime_fail(FAIL_BUG, "%s is touched while it runs", func->name);
}

void *executor_argument(Executor *executor, const PlanFunc *func, const char *name) {
  const PlanArgument *argument = plan_argument(func, name);
  check_finished(executor, func);
  return argument && argument->at.space == SPACE_ACT ? executor->device->argument(executor, func, argument) : NULL;
}

const void *executor_result(const Executor *executor, const PlanFunc *func, const char *label) {
  const PlanResult *result = plan_result(func, label, NULL);
  check_finished(executor, func);
  return result && result->at.space == SPACE_ACT ? executor->device->result(executor, func, result) : NULL;
}

float executor_scalar(const Executor *executor, const PlanFunc *func, const char *label) {
  const PlanResult *result = plan_result(func, label, NULL);
  if (!result || result->type != PLAN_F32 || result->shape.elements != 1 || result->at.space != SPACE_ACT)
    runtime_fail(FAIL_BUG, "%s has no scalar result '%s'", func->name, label);
  check_finished(executor, func);
  return *(const float *)executor->device->result(executor, func, result);
}

void executor_read(const Executor *executor, PlanPlace place, void *to, int64_t bytes) {
  executor->device->read(executor, to, device_address(executor, place), bytes);
}

int64_t executor_count(const Executor *executor, PlanCount count) {
  int32_t live;
  if (!count.dynamic)
    return count.number;
  executor_read(executor, count.place, &live, sizeof live);
  return live;
}

/* ---------------------------------------------------------------- running */

static void check_bound(const Executor *executor, const PlanFunc *func) {
  const unsigned of_table =
      1u << SPACE_PARAM | 1u << SPACE_PARAM_BF16 | 1u << SPACE_GRAD | 1u << SPACE_M | 1u << SPACE_V;
  for (int space = 0; space < SPACE_COUNT; space++)
    if (func->spaces >> space & 1 && !executor->base[space])
      runtime_fail(FAIL_BUG, "%s runs without the arena of space %d", func->name, space);
  if (func->spaces & of_table && func->table != executor->table)
    runtime_fail(FAIL_BUG, "%s runs on table %s, but table %s is bound", func->name,
                 func->table ? func->table->name : "-", executor->table ? executor->table->name : "-");
}

/* Whether the function gives results of that space. */
static bool writes(const PlanFunc *func, PlanSpace space) {
  for (int i = 0; i < func->result_count; i++)
    if (func->results[i].at.space == space)
      return true;
  return false;
}

static void start(Executor *executor, const PlanFunc *func) {
  check_finished(executor, func);
  executor->device->start(executor, func);
  *started(executor, func) = true;
}

void executor_start(Executor *executor, const PlanFunc *func) {
  Arenas *arenas = executor->arenas;
  check_bound(executor, func);
  if (func->spaces >> SPACE_PARAM_BF16 & 1 && arenas->outdated) {
    const PlanFunc *copies = plan_copies(executor->plan, arenas->table);
    start(executor, copies);
    executor_finish(executor, copies);
    arenas->outdated = false;
  }
  start(executor, func);
  if (writes(func, SPACE_PARAM) && !writes(func, SPACE_PARAM_BF16))
    arenas->outdated = true;
}

void executor_finish(Executor *executor, const PlanFunc *func) {
  if (!*started(executor, func))
    runtime_fail(FAIL_BUG, "%s is waited for, but was not started", func->name);
  if (executor->device->finish)
    executor->device->finish(executor, func);
  *started(executor, func) = false;
}

void executor_run(Executor *executor, const PlanFunc *func) {
  executor_start(executor, func);
  executor_finish(executor, func);
}

bool executor_runs_ahead(const Executor *executor) {
  return executor->device->finish && !executor->profile;
}

void executor_set_profile(Executor *executor, bool on) {
  profile_free(executor->profile);
  executor->profile = on ? profile_new(executor->plan) : NULL;
}

void executor_print_profile(const Executor *executor, FILE *out) {
  if (executor->profile)
    profile_print(executor->profile, out);
}

void device_fail_mistake(const PlanStep *step, Mistake mistake, int64_t first, int64_t second, MistakeBounds bounds) {
  const char *line = plan_step_location(step);
  switch (mistake) {
  case MISTAKE_EXPERTS:
    runtime_fail(FAIL_USER,
                 "%s: the gate selects %lld experts for token %lld of the micro-batch, its bound is k = %lld", line,
                 (long long)second, (long long)first, (long long)bounds.k);
  case MISTAKE_PAIRS:
    runtime_fail(FAIL_USER,
                 "%s: the gate selects %lld expert-token pairs in a micro-batch of %lld tokens, its bound is "
                 "rows = %lld",
                 line, (long long)second, (long long)bounds.n, (long long)bounds.bound);
  case MISTAKE_ID:
    runtime_fail(FAIL_USER, "%s: id %lld at row %lld is outside a table of %lld rows", line, (long long)second,
                 (long long)first, (long long)bounds.rows);
  }
  runtime_fail(FAIL_BUG, "%s: a step reports mistake number %d", line, (int)mistake);
}
