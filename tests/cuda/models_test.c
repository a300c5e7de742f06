/* The CUDA kernels that the models of models/ need, in all phases and both precisions, compile under NVRTC for sm_80
 * without a warning: at size tiny all of them, at paper size the first of every chain of ops. No GPU is needed; where
 * there is no NVRTC the test is skipped. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/plan.h"
#include "frontend/script.h"
#include "passes/pipeline.h"
#include "tests/kernels/nvrtc.h"

enum { AT_ONCE = 16 }; /* kernels in one source: few, so that a failure is easy to find */

/* The length of "moec_add_softmax" in "moec_add_softmax_32139b9f14494e53". */
static size_t chain_length(const char *name) {
  return (size_t)(strrchr(name, '_') - name);
}

static bool is_new(const KernelSet *set, const Kernel *kernel, bool by_chain) {
  const char *name = kernel_name(kernel);
  size_t length = by_chain ? chain_length(name) : strlen(name);
  for (uint32_t i = 0; i < vec_len(set->kernels); i++) {
    const char *other = kernel_name(set->kernels[i]);
    if ((by_chain ? chain_length(other) : strlen(other)) == length && strncmp(name, other, length) == 0)
      return false;
  }
  return true;
}

static void add_kernels(KernelSet *set, const char *path, const char *size, const char *precision) {
  Arena *arena = set->arena;
  ScriptOptions options = {.path = path};
  if (size)
    vec_push(arena, options.defines, size);
  vec_push(arena, options.defines, precision);
  Module *m = script_compile(arena, &options).module;
  pipeline_run(m, &(PipelineOptions){.verify = VERIFY_OFF}, ledger_new(arena));
  const KernelSet *made = &plan_lower(m, false)->kernels;
  for (uint32_t i = 0; i < vec_len(made->kernels); i++)
    if (is_new(set, made->kernels[i], !size))
      vec_push(arena, set->kernels, made->kernels[i]);
}

static int is_script(const struct dirent *entry) {
  const char *end = strrchr(entry->d_name, '.');
  return end && strcmp(end, ".lua") == 0;
}

/* The number of models. */
static int add_models(KernelSet *set, const char *folder, const char *size) {
  struct dirent **entries;
  int count = scandir(folder, &entries, is_script, alphasort);
  for (int i = 0; i < count; i++) {
    const char *path = arena_print(set->arena, "%s/%s", folder, entries[i]->d_name);
    add_kernels(set, path, size, "precision=f32");
    add_kernels(set, path, size, "precision=bf16");
    free(entries[i]);
  }
  if (count >= 0)
    free(entries);
  return count;
}

static bool accept_all(Arena *arena, const KernelSet *set) {
  bool good = true;
  for (uint32_t first = 0; first < vec_len(set->kernels); first += AT_ONCE) {
    uint32_t last = first + AT_ONCE < vec_len(set->kernels) ? first + AT_ONCE : vec_len(set->kernels);
    good = nvrtc_accepts(nvrtc_source(arena, set, first, last)) && good;
  }
  return good;
}

int main(int count, char **arguments) {
  if (count != 2) {
    fprintf(stderr, "usage: models_test MODELS\n");
    return 2;
  }
  if (!nvrtc_open()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return NVRTC_SKIPPED;
  }
  Arena *arena = arena_new();
  KernelSet tiny = {.arena = arena}, paper = {.arena = arena};
  int models = add_models(&tiny, arguments[1], "size=tiny");
  bool good = add_models(&paper, arguments[1], NULL) == models && models > 0;
  good = accept_all(arena, &tiny) && accept_all(arena, &paper) && good;
  printf("%d models, %u kernels at size tiny, %u at paper size, compiled for sm_80: %s\n", models,
         vec_len(tiny.kernels), vec_len(paper.kernels), good ? "no errors, no warnings" : "failed");
  return !good;
}
