/* A function's plan for CUDA on the device simulator. */
#include "tests/cuda/plan_run.h"

#include <stdlib.h>
#include <string.h>

#include "tests/simulator/simulator_kernel.h"

struct PlanRun {
  const char *option; /* plan_run_option */
  Arena *arena;
  const Plan *plan;
  const FuncPlan *func;
  void **memory; /* by storage; NULL: a storage without memory */
  uint32_t planted_unit;
  const char *planted; /* the own text of that unit; NULL: none is changed */
};

float plan_run_round(DType dtype, double x) {
  float number = (float)x;
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  if (dtype == DTYPE_BF16 && number == number)
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  memcpy(&number, &bits, sizeof bits);
  return number;
}

static void put_element(void *to, DType dtype, int64_t at, const Tensor *from) {
  if (dtype == DTYPE_I32) {
    ((int32_t *)to)[at] = from->i[at];
    return;
  }
  float number = plan_run_round(dtype, from->f[at]);
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  if (dtype == DTYPE_BF16)
    ((uint16_t *)to)[at] = (uint16_t)(bits >> 16);
  else
    ((float *)to)[at] = number;
}

static void get_element(Tensor *to, DType dtype, int64_t at, const void *from) {
  if (dtype == DTYPE_I32) {
    to->i[at] = ((const int32_t *)from)[at];
    return;
  }
  uint32_t bits = dtype == DTYPE_BF16 ? (uint32_t)((const uint16_t *)from)[at] << 16 : ((const uint32_t *)from)[at];
  float number;
  memcpy(&number, &bits, sizeof bits);
  to->f[at] = number;
}

PlanRun *plan_run_new(Arena *arena, const Module *m, const char *func) {
  return plan_run_new_with(arena, m, func, (CudaOptions){0});
}

PlanRun *plan_run_new_with(Arena *arena, const Module *m, const char *func, CudaOptions options) {
  PlanRun *run = arena_alloc(arena, sizeof *run);
  *run = (PlanRun){.arena = arena, .plan = plan_lower_cuda(m, false, options)};
  run->func = plan_find(run->plan, func);
  run->memory = arena_alloc(arena, vec_len(run->func->storages) * sizeof *run->memory);
  for (uint32_t i = 0; i < vec_len(run->func->storages); i++) {
    const Storage *s = &run->func->storages[i];
    bool same = s->shares != NO_STORAGE && s->shares < i;
    run->memory[i] = same                                     ? run->memory[s->shares]
                     : s->space == SPACE_TAG || s->bytes == 0 ? NULL
                                                              : simulator_alloc((size_t)s->bytes);
    if (s->space == SPACE_STATUS && run->memory[i]) {
      memset(run->memory[i], 0, (size_t)s->bytes);
      simulator_mark_written(run->memory[i], (size_t)s->bytes);
    }
  }
  return run;
}

void plan_run_free(PlanRun *run) {
  for (uint32_t i = 0; i < vec_len(run->func->storages); i++) {
    const Storage *s = &run->func->storages[i];
    if (run->memory[i] && !(s->shares != NO_STORAGE && s->shares < i))
      simulator_free(run->memory[i]);
  }
}

void plan_run_option(PlanRun *run, const char *name) {
  run->option = name;
}

/* Whether the step is of the option that runs, or of no choice. */
static bool is_taken(const PlanRun *run, uint32_t step) {
  const Step *steps = run->func->steps;
  const char *option = NULL;
  for (uint32_t i = 0; i < vec_len(steps); i++)
    if (steps[i].choice && steps[i].choice == steps[step].choice &&
        (!option || (run->option && strcmp(steps[i].option, run->option) == 0)))
      option = steps[i].option;
  return !option || strcmp(steps[step].option, option) == 0;
}

static char *place_memory(const PlanRun *run, Place place) {
  return (char *)run->memory[place.storage] + place.offset;
}

void plan_run_bind(PlanRun *run, const char *argument, const Tensor *tensor) {
  const Func *f = run->func->func;
  ValueId v = func_find_value(f, argument);
  if (v == NO_VALUE || run->func->values[v].place.storage == NO_STORAGE)
    ir_bug("the plan of %s has no argument %s", f->name, argument);
  DType dtype = f->values[v].type.dtype;
  char *to = place_memory(run, run->func->values[v].place);
  for (int64_t at = 0; at < tensor_all_elements(tensor); at++)
    put_element(to, dtype, at, tensor);
  simulator_mark_written(to, (size_t)tensor_all_elements(tensor) * dtype_size(dtype));
}

/* The unit of a kernel; compiled texts are kept by the simulator. */
static SimulatorUnit *unit_of(const PlanRun *run, const Kernel *kernel) {
  for (uint32_t i = 0; i < vec_len(run->plan->kernels.kernels); i++)
    if (run->plan->kernels.kernels[i] == kernel)
      return simulator_compile(plan_run_unit(run, i));
  return NULL;
}

/* "132" or "512,16" */
static void read_blocks(const char *text, int64_t blocks[3]) {
  for (int i = 0; i < 3 && *text; i++) {
    char *end;
    blocks[i] = strtoll(text, &end, 10);
    text = *end == ',' ? end + 1 : end;
  }
}

static uint64_t operand_bits(const PlanRun *run, const Field *field) {
  if (field->kind == FIELD_WORD)
    return strncmp(field->word, "tag:", 4) == 0 ? strtoull(field->word + 4, NULL, 10) : 0;
  if (run->func->storages[field->place.storage].space == SPACE_TAG)
    return (uint64_t)(run->func->storages[field->place.storage].offset + field->place.offset);
  return (uint64_t)(uintptr_t)place_memory(run, field->place);
}

static bool run_launch(const PlanRun *run, const Step *step) {
  enum { MOST_OPERANDS = 64 };
  SimulatorLaunch launch = {.unit = unit_of(run, step->kernel), .entry = step->fields[0].word};
  uint64_t operands[MOST_OPERANDS];
  int count = 0;
  for (uint32_t i = 1; i < vec_len(step->fields); i++) {
    const Field *field = &step->fields[i];
    if (!field->key)
      operands[count++] = operand_bits(run, field);
    else if (strcmp(field->key, "blocks") == 0)
      read_blocks(field->word, launch.blocks);
    else if (strcmp(field->key, "threads") == 0)
      launch.threads = (int)field->number;
    else if (strcmp(field->key, "shared") == 0)
      launch.shared_bytes = field->number;
  }
  if (launch.unit && simulator_run(&launch, operands, count))
    return true;
  printf("FAILED: %s: %s\n", launch.entry, simulator_error());
  return false;
}

static bool run_memset(const PlanRun *run, const Step *step) {
  char *memory = place_memory(run, step->fields[0].place);
  memset(memory, 0, (size_t)step->fields[1].number);
  simulator_mark_written(memory, (size_t)step->fields[1].number);
  return true;
}

static bool is_written(const PlanRun *run, const ResultPlace *result) {
  const Func *f = run->func->func;
  Type type = f->values[result->result->value].type;
  int64_t bytes = type_elements(f->module, type) * (int64_t)dtype_size(type.dtype);
  int64_t at = type.extent != NO_VALUE ? -1 : simulator_unwritten(place_memory(run, result->place), 0, (size_t)bytes);
  if (at >= 0)
    printf("FAILED: %s: byte %lld of result %s is not written\n", f->name, (long long)at, result->result->label);
  return at < 0;
}

bool plan_run_partly(PlanRun *run) {
  for (uint32_t i = 0; i < vec_len(run->func->steps); i++) {
    const Step *step = &run->func->steps[i];
    bool good = false;
    if (!is_taken(run, i))
      continue;
    if (strcmp(step->keyword, "launch") == 0)
      good = run_launch(run, step);
    else if (strcmp(step->keyword, "memset") == 0)
      good = run_memset(run, step);
    else
      printf("FAILED: this test has no way to run a step %s\n", step->keyword);
    if (!good)
      return false;
  }
  return true;
}

/* Of the first launch that has reported, if any: every launch that may has a storage of its own here. */
const int64_t *plan_run_status(const PlanRun *run) {
  static const int64_t none[4];
  for (uint32_t i = 0; i < vec_len(run->func->storages); i++)
    if (run->func->storages[i].space == SPACE_STATUS && *(const int64_t *)run->memory[i] != 0)
      return run->memory[i];
  return none;
}

bool plan_run(PlanRun *run) {
  if (!plan_run_partly(run))
    return false;
  for (uint32_t i = 0; i < vec_len(run->func->results); i++)
    if (!is_written(run, &run->func->results[i]))
      return false;
  return true;
}

const Tensor *plan_run_result(const PlanRun *run, const char *label) {
  const Func *f = run->func->func;
  for (uint32_t i = 0; i < vec_len(run->func->results); i++) {
    const ResultPlace *result = &run->func->results[i];
    if (strcmp(result->result->label, label) != 0)
      continue;
    Type type = f->values[result->result->value].type;
    Tensor *t = tensor_of_type(run->arena, f->module, type);
    for (int64_t at = 0; at < tensor_all_elements(t); at++)
      get_element(t, type.dtype, at, place_memory(run, result->place));
    return t;
  }
  return NULL;
}

const char *plan_run_unit(const PlanRun *run, uint32_t index) {
  if (index >= vec_len(run->plan->kernels.kernels))
    return NULL;
  const char *text = kernel_cuda(run->plan->kernels.kernels[index]);
  return arena_print(run->arena, "%s\n%s", kernel_prelude_cuda(),
                     run->planted && index == run->planted_unit ? run->planted : text);
}

bool plan_run_plant(PlanRun *run, const char *from, const char *to, int which) {
  for (uint32_t i = 0; i < vec_len(run->plan->kernels.kernels); i++) {
    const char *text = kernel_cuda(run->plan->kernels.kernels[i]);
    for (const char *at = strstr(text, from); at; at = strstr(at + 1, from))
      if (which-- == 0) {
        run->planted_unit = i;
        run->planted = arena_print(run->arena, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
        return true;
      }
  }
  return false;
}

void plan_run_print(const PlanRun *run, FILE *out) {
  plan_print_func(run->plan, run->func, out);
}
