/* The CUDA units that the models of models/ need, in all phases and both precisions, compile under NVRTC without a
 * warning, each alone as a trainer compiles it: at size tiny for sm_80, at paper size for sm_90a, instances of
 * templates there for both. What they use is held against what their launches leave them: no thread spills registers, a
 * block's registers and shared memory are there. At paper size the models but EvoMoE in bf16, which is whole, have four
 * layers: more are copies of them, and their kernels the same. `--table` prints what each kernel uses and what its unit
 * costs NVRTC. No GPU is needed; where there is no NVRTC the test is skipped. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/script.h"
#include "passes/pipeline.h"
#include "tests/cuda/step_field.h"
#include "tests/kernels/nvrtc.h"

static const struct {
  const char *name;
  int64_t shared; /* bytes that a block may have */
} architectures[] = {{"sm_80", 163 << 10}, {"sm_90a", 227 << 10}};
enum { SM_80 = 1, SM_90A = 2, ARCHITECTURES = 2, STATIC_SHARED = 48 << 10, REGISTERS = 64 << 10 };

/* An entry point, and the most that any launch of it asks for. */
typedef struct Entry {
  const char *name;
  int64_t threads, shared; /* of a block; dynamic shared memory */
} Entry;

typedef struct Unit {
  const char *name, *source;
  unsigned architectures; /* to compile it for */
} Unit;

typedef struct Units {
  Arena *arena;
  Unit *units; /* arena vectors; equal ones of several models are one */
  Entry *entries;
} Units;

/* ---------------------------------------------------------------- what the models need */

static Unit *find_unit(const Units *all, const char *name) {
  for (uint32_t i = 0; i < vec_len(all->units); i++)
    if (strcmp(all->units[i].name, name) == 0)
      return &all->units[i];
  return NULL;
}

static Entry *find_entry(const Units *all, const char *name) {
  for (uint32_t i = 0; i < vec_len(all->entries); i++)
    if (strcmp(all->entries[i].name, name) == 0)
      return &all->entries[i];
  return NULL;
}

static const char *keep_text(const Units *all, const char *text) {
  return arena_copy(all->arena, text, strlen(text));
}

/* Else it is a row kernel, whose text is the same for all architectures. */
static bool is_template(const Kernel *kernel) {
  return strstr(kernel_cuda(kernel), "#define KERNEL ") != NULL;
}

static void add_unit(Units *all, const KernelSet *set, uint32_t index, unsigned wanted) {
  const char *name = kernel_name(set->kernels[index]), *only = kernel_arch(set->kernels[index]);
  Unit *unit = find_unit(all, name);
  for (int a = 0; a < ARCHITECTURES; a++)
    if (only && strcmp(only, architectures[a].name) != 0)
      wanted &= ~(1u << a);
  if (wanted == (SM_80 | SM_90A) && !is_template(set->kernels[index]))
    wanted = SM_90A;
  if (!wanted)
    return;
  if (unit)
    unit->architectures |= wanted;
  else
    vec_push(all->arena, all->units,
             (Unit){keep_text(all, name), keep_text(all, nvrtc_source(set->arena, set, index, index + 1)), wanted});
}

static void add_launch(Units *all, const Step *step) {
  const char *name = step->fields[0].word;
  Entry *entry = find_entry(all, name);
  int64_t threads = step_field(step, "threads"), shared = step_field(step, "shared");
  if (!entry) {
    vec_push(all->arena, all->entries, (Entry){.name = keep_text(all, name)});
    entry = &vec_last(all->entries);
  }
  entry->threads = threads > entry->threads ? threads : entry->threads;
  entry->shared = shared > entry->shared ? shared : entry->shared;
}

/* The settings end with NULL. */
static void add_model(Units *all, const char *path, const char *const *settings, unsigned wanted) {
  Arena *arena = arena_new();
  ScriptOptions options = {.path = path};
  for (int i = 0; settings[i]; i++)
    vec_push(arena, options.defines, settings[i]);
  Module *m = script_compile(arena, &options).module;
  pipeline_run(m, &(PipelineOptions){.rates = &rates_cuda, .verify = VERIFY_OFF}, ledger_new(arena));
  const Plan *plan = plan_lower(m, PLAN_CUDA, false);
  for (uint32_t i = 0; i < vec_len(plan->kernels.kernels); i++)
    add_unit(all, &plan->kernels, i, wanted);
  for (uint32_t f = 0; f < vec_len(plan->funcs); f++)
    for (uint32_t s = 0; s < vec_len(plan->funcs[f].steps); s++)
      if (plan->funcs[f].steps[s].kernel)
        add_launch(all, &plan->funcs[f].steps[s]);
  arena_free(arena);
}

static void add_sizes(Units *all, const char *path, const char *precision) {
  bool whole = strstr(path, "gpt_evomoe") && strcmp(precision, "precision=bf16") == 0;
  add_model(all, path, (const char *[]){"size=tiny", precision, NULL}, SM_80);
  add_model(all, path, (const char *[]){precision, whole ? NULL : "layers=4", NULL}, SM_80 | SM_90A);
}

static int is_script(const struct dirent *entry) {
  const char *end = strrchr(entry->d_name, '.');
  return end && strcmp(end, ".lua") == 0 && strncmp(entry->d_name, "compare_", 8) != 0; /* no specifications */
}

/* The number of models. */
static int add_models(Units *all, const char *folder) {
  struct dirent **scripts;
  int count = scandir(folder, &scripts, is_script, alphasort);
  for (int i = 0; i < count; i++) {
    const char *path = arena_print(all->arena, "%s/%s", folder, scripts[i]->d_name);
    add_sizes(all, path, "precision=f32");
    add_sizes(all, path, "precision=bf16");
    free(scripts[i]);
  }
  if (count >= 0)
    free(scripts);
  return count;
}

/* ---------------------------------------------------------------- what they use */

/* A warp's registers are given out in pieces of 256. */
static int64_t block_registers(const NvrtcUse *use, int64_t threads) {
  return (use->registers + 7) / 8 * 8 * ((threads + 31) / 32 * 32);
}

/* An entry that no plan launches has no launch to be held against: so the entries of a template that serves several. */
static bool within_limits(const Units *all, const NvrtcUse *use, int architecture, bool table) {
  const Entry *entry = find_entry(all, use->entry);
  int64_t threads = entry ? entry->threads : 0, dynamic = entry ? entry->shared : 0;
  bool good = use->registers > 0 && use->spill_out == 0 && use->spill_in == 0 && use->shared <= STATIC_SHARED &&
              use->shared + dynamic <= architectures[architecture].shared && block_registers(use, threads) <= REGISTERS;
  if (table || !good)
#pragma omp critical
    printf("%s%-70s %-6s %3d registers %4lld threads %6lld bytes shared %4d stack %4d stored %4d loaded\n",
           good ? "" : "FAILED: ", use->entry, architectures[architecture].name, use->registers, (long long)threads,
           (long long)(use->shared + dynamic), use->stack, use->spill_out, use->spill_in);
  return good;
}

static double thread_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool accept_unit(const Units *all, const Unit *unit, int architecture, bool table) {
  NvrtcUse uses[NVRTC_ENTRIES];
  int count = 0;
  double start = thread_seconds();
  bool good = nvrtc_accepts(unit->source, architectures[architecture].name, uses, &count) && count > 0;
  if (table)
#pragma omp critical
    printf("%-70s %-6s %.3f s\n", unit->name, architectures[architecture].name, thread_seconds() - start);
  for (int i = 0; i < count; i++)
    good = within_limits(all, &uses[i], architecture, table) && good;
  return good;
}

/* The number of compilations; *good: all were accepted. */
static int accept_all(const Units *all, bool table, bool *good) {
  bool each = true;
  int compiled = 0;
#pragma omp parallel for schedule(dynamic) collapse(2) reduction(&& : each) reduction(+ : compiled)
  for (uint32_t i = 0; i < vec_len(all->units); i++)
    for (int a = 0; a < ARCHITECTURES; a++)
      if (all->units[i].architectures >> a & 1) {
        each = accept_unit(all, &all->units[i], a, table) && each;
        compiled++;
      }
  *good = each;
  return compiled;
}

int main(int count, char **arguments) {
  bool table = count == 3 && strcmp(arguments[2], "--table") == 0, good = false;
  if (count != 2 && !table) {
    fprintf(stderr, "usage: models_test MODELS [--table]\n");
    return 2;
  }
  if (!nvrtc_open()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return NVRTC_SKIPPED;
  }
  Units all = {.arena = arena_new()};
  int models = add_models(&all, arguments[1]);
  double lowered = (double)clock() / CLOCKS_PER_SEC;
  int compiled = accept_all(&all, table, &good);
  printf("%d models, %u units, %d compilations: %s (%.0f s of processors for the units' texts, %.0f s in NVRTC)\n",
         models, vec_len(all.units), compiled, good ? "no errors, no warnings" : "failed", lowered,
         (double)clock() / CLOCKS_PER_SEC - lowered);
  return !good || models < 1;
}
