/* The CUDA units that the models of models/ need, in all phases and both precisions, compile under NVRTC without a
 * warning, each alone as a trainer compiles them: at size tiny all of them for sm_80, at paper size the row kernel of
 * every chain of ops and every instance of a template for sm_80 and sm_90a. What they use is held against limits: no
 * thread spills registers, no block declares more than 48 KB of shared memory. `--table` compiles every unit of the
 * paper size and prints what each uses. No GPU is needed; where there is no NVRTC the test is skipped. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/plan.h"
#include "frontend/script.h"
#include "passes/pipeline.h"
#include "tests/kernels/nvrtc.h"

/* The length of "moec_add_softmax" in "moec_add_softmax_32139b9f14494e53". */
static size_t chain_length(const char *name) {
  return (size_t)(strrchr(name, '_') - name);
}

static bool is_template(const Kernel *kernel) {
  return strncmp(kernel_cuda(kernel), "#define KERNEL", 14) == 0;
}

static bool is_new(const KernelSet *set, const Kernel *kernel, bool by_chain) {
  const char *name = kernel_name(kernel);
  by_chain = by_chain && !is_template(kernel);
  size_t length = by_chain ? chain_length(name) : strlen(name);
  for (uint32_t i = 0; i < vec_len(set->kernels); i++) {
    const char *other = kernel_name(set->kernels[i]);
    if ((by_chain ? chain_length(other) : strlen(other)) == length && strncmp(name, other, length) == 0)
      return false;
  }
  return true;
}

static void add_kernels(KernelSet *set, const char *path, const char *size, const char *precision, bool by_chain) {
  Arena *arena = set->arena;
  ScriptOptions options = {.path = path};
  if (size)
    vec_push(arena, options.defines, size);
  vec_push(arena, options.defines, precision);
  Module *m = script_compile(arena, &options).module;
  pipeline_run(m, &(PipelineOptions){.verify = VERIFY_OFF}, ledger_new(arena));
  const KernelSet *made = &plan_lower(m, PLAN_CUDA, false)->kernels;
  for (uint32_t i = 0; i < vec_len(made->kernels); i++)
    if (is_new(set, made->kernels[i], by_chain))
      vec_push(arena, set->kernels, made->kernels[i]);
}

static int is_script(const struct dirent *entry) {
  const char *end = strrchr(entry->d_name, '.');
  return end && strcmp(end, ".lua") == 0 && strncmp(entry->d_name, "compare_", 8) != 0; /* no specifications */
}

/* The number of models. */
static int add_models(KernelSet *set, const char *folder, const char *size, bool by_chain) {
  struct dirent **entries;
  int count = scandir(folder, &entries, is_script, alphasort);
  for (int i = 0; i < count; i++) {
    const char *path = arena_print(set->arena, "%s/%s", folder, entries[i]->d_name);
    add_kernels(set, path, size, "precision=f32", by_chain);
    add_kernels(set, path, size, "precision=bf16", by_chain);
    free(entries[i]);
  }
  if (count >= 0)
    free(entries);
  return count;
}

static const char *const architectures[] = {"sm_80", "sm_90a"};
enum { ARCHITECTURES = 2, STATIC_SHARED = 48 << 10 };

static bool within_limits(const NvrtcUse *use, const char *arch, bool table) {
  bool good = use->registers > 0 && use->spill_out == 0 && use->spill_in == 0 && use->shared <= STATIC_SHARED;
  if (table || !good)
#pragma omp critical
    printf("%s%-70s %-6s %3d registers %6d bytes shared %4d stack %4d stored %4d loaded\n",
           good ? "" : "FAILED: ", use->entry, arch, use->registers, use->shared, use->stack, use->spill_out,
           use->spill_in);
  return good;
}

static bool accept_unit(const char *source, const char *arch, bool table) {
  NvrtcUse uses[NVRTC_ENTRIES];
  int count = 0;
  bool good = nvrtc_accepts(source, arch, uses, &count) && count > 0;
  for (int i = 0; i < count; i++)
    good = within_limits(&uses[i], arch, table) && good;
  return good;
}

static bool accept_all(Arena *arena, const KernelSet *set, int architecture_count, bool table) {
  bool good = true;
  const char **sources = NULL;
  for (uint32_t i = 0; i < vec_len(set->kernels); i++)
    vec_push(arena, sources, nvrtc_source(arena, set, i, i + 1));
#pragma omp parallel for schedule(dynamic) collapse(2) reduction(&& : good)
  for (uint32_t i = 0; i < vec_len(sources); i++)
    for (int a = 0; a < architecture_count; a++) {
      const char *only = kernel_arch(set->kernels[i]);
      if (!only || strcmp(only, architectures[a]) == 0)
        good = accept_unit(sources[i], architectures[a], table) && good;
    }
  return good;
}

int main(int count, char **arguments) {
  bool table = count == 3 && strcmp(arguments[2], "--table") == 0;
  if (count != 2 && !table) {
    fprintf(stderr, "usage: models_test MODELS [--table]\n");
    return 2;
  }
  if (!nvrtc_open()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return NVRTC_SKIPPED;
  }
  Arena *arena = arena_new();
  KernelSet tiny = {.arena = arena}, paper = {.arena = arena};
  int models = add_models(&tiny, arguments[1], "size=tiny", false);
  bool good = add_models(&paper, arguments[1], NULL, !table) == models && models > 0;
  good = accept_all(arena, &tiny, 1, table) && accept_all(arena, &paper, ARCHITECTURES, table) && good;
  printf("%d models, %u kernels at size tiny, %u at paper size, compiled: %s\n", models, vec_len(tiny.kernels),
         vec_len(paper.kernels), good ? "no errors, no warnings" : "failed");
  return !good;
}
