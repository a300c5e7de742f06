/* See program.h. */
#include "runtime/program.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/tokenizer.h"

/* MPI's launchers and srun tell every process how many there are. Alone, each would train into the same directory. */
static void check_ranks(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *ranks = getenv(names[i]);
    if (ranks && strcmp(ranks, "1") != 0)
      runtime_fail(FAIL_USAGE, "started on %s ranks (%s), this trainer carries plans for: dp:1,ep:1", ranks, names[i]);
  }
}

/* The section of the plan that runs. */
static const PayloadSection *choose_plan(Program *p, const char *command, const char *device) {
  const PayloadSection *cpu = payload_find(p->payload, SECTION_PLAN_CPU),
                       *gpu = payload_find(p->payload, SECTION_PLAN_CUDA);
  if (device && strcmp(device, "cpu") != 0 && strcmp(device, "cuda") != 0)
    runtime_fail(FAIL_USAGE, "%s: --device=%s: expected cpu or cuda", command, device);
  if (!cpu && !gpu)
    runtime_fail(FAIL_BUG, "this trainer carries no plan");
  bool wants_gpu = device ? strcmp(device, "cuda") == 0 : gpu != NULL;
  if (!device && gpu && cpu) {
    p->no_gpu = executor_no_gpu();
    wants_gpu = !p->no_gpu;
  }
  if (!(wants_gpu ? gpu : cpu))
    runtime_fail(FAIL_ENVIRONMENT, "%s: --device=%s: this trainer carries no plan for %s, only for %s", command,
                 wants_gpu ? "cuda" : "cpu", wants_gpu ? "cuda" : "cpu", wants_gpu ? "cpu" : "cuda");
  return wants_gpu ? gpu : cpu;
}

Program *program_open(const char *command, const char *device) {
  check_ranks();
  Program *p = runtime_allocate(1, sizeof *p);
  p->payload = payload_open(NULL);
  const PayloadSection *plan = choose_plan(p, command, device), *ir = payload_section(p->payload, SECTION_IR),
                       *shim = payload_find(p->payload, TOKENIZER_SHIM_SECTION);
  p->plan = plan_read(plan->name, (const char *)plan->data, plan->size);
  p->ir_hash = payload_ir_hash(ir->data, ir->size);
  if (shim)
    tokenizer_set_shim(shim->data, shim->size);
  p->phase = -1;
  p->phase_start = runtime_allocate((size_t)p->plan->phase_count + 1, sizeof *p->phase_start);
  for (int i = 0; i < p->plan->phase_count; i++) {
    const PlanPhase *phase = &p->plan->phases[i];
    if (phase->steps == 0 && i + 1 < p->plan->phase_count)
      runtime_fail(FAIL_BUG, "phase %s has no end, but phase %s follows", phase->name, p->plan->phases[i + 1].name);
    p->phase_start[i + 1] = p->phase_start[i] + phase->steps;
  }
  return p;
}

void program_start(Program *p, uint64_t seed) {
  p->executor = executor_new(p->plan, p->payload);
  p->seed = seed;
  executor_set_seed(p->executor, seed);
}

const char *program_device(const Program *p) {
  return p->plan->target;
}

const char *program_no_gpu(const Program *p) {
  return p->no_gpu;
}

char *program_text(const Program *p, const char *name) {
  const PayloadSection *section = payload_find(p->payload, name);
  return section ? string_format("%.*s", (int)section->size, (const char *)section->data) : NULL;
}

const char *program_passes_section(const Program *p) {
  const bool own = strcmp(program_device(p), "cuda") == 0 && payload_find(p->payload, SECTION_PASSES_CUDA);
  return own ? SECTION_PASSES_CUDA : SECTION_PASSES;
}

const char *program_passes(const Program *p) {
  const PayloadSection *section = payload_find(p->payload, program_passes_section(p));
  return section ? string_format("%016" PRIx64, payload_ir_hash(section->data, section->size)) : NULL;
}

const PlanFunc *program_func(const Program *p, int phase, const char *kind) {
  char *name = string_format("%s.%s", p->plan->phases[phase].name, kind);
  const PlanFunc *func = plan_func(p->plan, name);
  free(name);
  return func;
}

int program_phase_at(const Program *p, int64_t step) {
  int phase = 0;
  while (phase + 1 < p->plan->phase_count && p->phase_start[phase + 1] <= step)
    phase++;
  return phase;
}

int program_phase_named(const Program *p, const char *name) {
  for (int i = 0; i < p->plan->phase_count; i++)
    if (strcmp(p->plan->phases[i].name, name) == 0)
      return i;
  return -1;
}

const PlanSchedule *program_schedule(const Program *p, int phase, const char *name) {
  char *full = string_format("%s.%s", p->plan->phases[phase].name, name);
  const PlanSchedule *schedule = plan_schedule(p->plan, full);
  free(full);
  return schedule;
}

/* Its arenas, and the sum of gradients over micro-batches. */
static int64_t table_bytes(const Program *p, int phase) {
  const PlanTable *table = p->plan->phases[phase].table;
  int64_t sums = p->plan->run.accumulate > 1 ? table->size * (int64_t)sizeof(float) : 0;
  return arenas_bytes(p->plan, table) + sums;
}

void program_expect_memory(Program *p, int first, int last) {
  for (int i = first; i <= last; i++) {
    bool enters = i > first && p->plan->phases[i].enter;
    char *what = string_format("%s %s", enters ? "the transition into phase" : "phase", p->plan->phases[i].name);
    executor_expect(p->executor, what, table_bytes(p, i) + (enters ? table_bytes(p, i - 1) : 0));
    free(what);
  }
}

void program_enter(Program *p, int phase) {
  if (p->arenas)
    arenas_free(p->arenas);
  p->phase = phase;
  p->arenas = arenas_new(p->executor, p->plan->phases[phase].table);
  executor_set_table(p->executor, p->arenas);
}

void program_initialize(Program *p) {
  const PlanFunc *init = plan_func(p->plan, "init");
  if (!init)
    runtime_fail(FAIL_BUG, "the plan has no function init");
  program_enter(p, 0);
  program_fill(p, init, 0);
  executor_run(p->executor, init);
}

void program_transition(Program *p, int64_t step) {
  const PlanPhase *from = &p->plan->phases[p->phase], *to = from + 1;
  if (!to->enter) {
    if (to->table != from->table)
      runtime_fail(FAIL_BUG, "phase %s has another table than %s, but no transition leads there", to->name, from->name);
    p->phase++;
    return;
  }
  Arenas *old = p->arenas;
  p->arenas = NULL;
  program_enter(p, p->phase + 1);
  executor_set_source(p->executor, old);
  program_fill(p, to->enter, step);
  executor_run(p->executor, to->enter);
  executor_set_source(p->executor, NULL);
  arenas_free(old);
}

/* "t3" with letters "t": 3; -1 when the name is not a letter of `letters` and digits. */
static int numbered(const char *name, const char *letters) {
  if (!name[0] || !strchr(letters, name[0]) || !name[1] || strspn(name + 1, "0123456789") != strlen(name + 1))
    return -1;
  return atoi(name + 1);
}

static bool is_data(const char *name) {
  static const char *const names[] = {"tokens", "targets", "weight",          "position", "off",
                                      "live",   "token",   "inverse_targets", "last"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0)
      return true;
  return false;
}

void program_set_float(Program *p, const PlanFunc *func, const char *name, float value) {
  float *at = executor_argument(p->executor, func, name);
  if (at)
    *at = value;
}

void program_fill(Program *p, const PlanFunc *func, int64_t step) {
  const PlanTable *table = p->plan->phases[p->phase].table;
  for (int i = 0; i < func->argument_count; i++) {
    const char *name = func->arguments[i].name;
    int segment = numbered(name, "t");
    if (is_data(name) || numbered(name, "pgmv") >= 0)
      continue;
    void *at = executor_argument(p->executor, func, name);
    if (strcmp(name, "step") == 0) {
      *(int32_t *)at = (int32_t)step;
    } else if (segment >= 0 && segment < table->segment_count) {
      *(float *)at = (float)(step - p->phase_start[table->segments[segment].birth] + 1);
    } else {
      bool rate = strcmp(name, "lr") == 0;
      const PlanSchedule *schedule = rate ? plan_schedule(p->plan, "lr") : program_schedule(p, p->phase, name);
      if (!schedule)
        runtime_fail(FAIL_BUG, "function %s wants '%s', which is neither data nor a schedule of phase %s", func->name,
                     name, p->plan->phases[p->phase].name);
      *(float *)at = plan_schedule_value(schedule, rate ? step : step - p->phase_start[p->phase]);
    }
  }
}

Batch program_batch(Program *p, const PlanFunc *func) {
  const PlanArgument *tokens = plan_argument(func, "tokens"), *off = plan_argument(func, "off");
  if (!tokens)
    runtime_fail(FAIL_BUG, "function %s takes no tokens", func->name);
  Executor *ex = p->executor;
  return (Batch){.rows = tokens->shape.elements,
                 .segments = off ? off->shape.elements - 1 : p->plan->run.segments,
                 .tokens = executor_argument(ex, func, "tokens"),
                 .targets = executor_argument(ex, func, "targets"),
                 .position = executor_argument(ex, func, "position"),
                 .off = executor_argument(ex, func, "off"),
                 .token = executor_argument(ex, func, "token"),
                 .weight = executor_argument(ex, func, "weight"),
                 .live = executor_argument(ex, func, "live")};
}
