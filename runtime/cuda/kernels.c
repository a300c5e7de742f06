/* See kernels.h. */
#include "runtime/cuda/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/compile.h"
#include "runtime/cuda/libraries.h"
#include "runtime/error.h"
#include "runtime/log.h"

/* The entry point, with `shared` bytes of dynamic shared memory; its unit is loaded where `module` is not yet. */
static CUresult load(Bytes image, CUmodule *module, const char *name, int64_t shared, CUfunction *function) {
  CUmodule loaded = *module;
  CUresult result = loaded ? CUDA_SUCCESS : cuda.cuModuleLoadData(&loaded, image.data);
  if (result == CUDA_SUCCESS)
    *module = loaded;
  if (result == CUDA_SUCCESS)
    result = cuda.cuModuleGetFunction(function, *module, name);
  if (result == CUDA_SUCCESS && shared > 0) /* without asking there are 48 KB for this and what is static together */
    result = cuda.cuFuncSetAttribute(*function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared);
  return result;
}

/* NULL when the driver refuses a kernel that need not run. */
static CUfunction load_function(Bytes image, CUmodule *module, const char *name, int64_t shared, bool must_run) {
  CUfunction function = NULL;
  CUresult result = load(image, module, name, shared, &function);
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    cuda_check(result, string_format("the loading of kernel %s", name));
  if (result != CUDA_SUCCESS && must_run)
    runtime_fail(FAIL_BUG, "the GPU does not take kernel %s: %s", name, cuda_error_text(result));
  if (result == CUDA_SUCCESS)
    return function;
  fprintf(stderr, "%s: note: the GPU does not take kernel %s (%s): the plan's other ways are left\n", runtime_program,
          name, cuda_error_text(result));
  return NULL;
}

/* By kernel: the most dynamic shared memory that a launch of it asks for. */
static int64_t *most_shared(const Plan *plan) {
  int64_t *most = runtime_allocate((size_t)plan->kernel_count, sizeof *most);
  for (int f = 0; f < plan->func_count; f++)
    for (int s = 0; s < plan->funcs[f].step_count; s++) {
      const PlanStep *step = &plan->funcs[f].steps[s];
      if (step->kind == STEP_LAUNCH && step->launch.shared > most[step->launch.kernel])
        most[step->launch.kernel] = step->launch.shared;
    }
  return most;
}

/* By kernel: whether it runs whatever is chosen. */
static bool *always_run(const Plan *plan) {
  bool *always = runtime_allocate((size_t)plan->kernel_count, sizeof *always);
  for (int f = 0; f < plan->func_count; f++)
    for (int s = 0; s < plan->funcs[f].step_count; s++) {
      const PlanStep *step = &plan->funcs[f].steps[s];
      if (step->kind == STEP_LAUNCH && !step->choice)
        always[step->launch.kernel] = true;
    }
  return always;
}

static int find_unit(const CudaSource *source, const char *kernel) {
  int unit = cuda_source_find(source, kernel);
  if (unit < 0)
    runtime_fail(FAIL_BUG, "section kernels.cu has no kernel %s, which the plan launches", kernel);
  return unit;
}

/* By kernel: its unit, or -1 for one that this GPU cannot run and need not. */
static int *find_units(const Plan *plan, const CudaSource *source, const bool *always, const char *arch) {
  int *units = runtime_allocate((size_t)plan->kernel_count, sizeof *units);
  for (int i = 0; i < plan->kernel_count; i++) {
    units[i] = find_unit(source, plan->kernels[i]);
    const char *only = source->units[units[i]].arch;
    if (!only || strcmp(only, arch) == 0)
      continue;
    if (always[i])
      runtime_fail(FAIL_ENVIRONMENT, "this trainer is made for %s, the GPU is an %s: kernel %s cannot run on it", only,
                   arch, plan->kernels[i]);
    units[i] = -1;
  }
  return units;
}

static Mapping precompiled(const Payload *payload, const char *arch) {
  char *name = string_format("cubin.%s", arch);
  const PayloadSection *section = payload_find(payload, name);
  free(name);
  return section ? (Mapping){section->data, section->size} : (Mapping){NULL, 0};
}

static char *describe(double loading) {
  const char *units = cuda_load_summary();
  return string_format("%s, loaded in %.0f ms", units, 1e3 * loading);
}

CudaKernels cuda_kernels_load(const Plan *plan, const Payload *payload, const CudaGpu *gpu) {
  CudaKernels kernels = {.functions = runtime_allocate((size_t)plan->kernel_count, sizeof *kernels.functions)};
  if (!plan->kernel_count)
    return kernels;
  if (!payload)
    runtime_fail(FAIL_BUG, "the plan launches kernels, but there is no payload that holds them");
  const PayloadSection *text = payload_section(payload, "kernels.cu");
  CudaSource source = cuda_source_read((const char *)text->data, text->size);
  bool *always = always_run(plan);
  int *units = find_units(plan, &source, always, gpu->arch),
      sum = plan->run.accumulate > 1 ? find_unit(&source, CUDA_SUM_ARENAS) : -1;
  bool *wanted = runtime_allocate((size_t)source.count, sizeof *wanted);
  for (int i = 0; i < plan->kernel_count; i++)
    if (units[i] >= 0)
      wanted[units[i]] = true;
  if (sum >= 0)
    wanted[sum] = true;
  Bytes *images = cuda_load_units(&source, wanted, gpu->arch, precompiled(payload, gpu->arch));
  CUmodule *modules = runtime_allocate((size_t)source.count, sizeof *modules);
  int64_t *shared = most_shared(plan);
  double start = log_seconds();
  for (int i = 0; i < plan->kernel_count; i++) {
    if (units[i] >= 0)
      kernels.functions[i] =
          load_function(images[units[i]], &modules[units[i]], plan->kernels[i], shared[i], always[i]);
  }
  if (sum >= 0)
    kernels.sum_arenas = load_function(images[sum], &modules[sum], CUDA_SUM_ARENAS, 0, true);
  kernels.note = describe(log_seconds() - start);
  for (int i = 0; i < source.count; i++)
    free(images[i].data);
  free(images);
  free(always);
  free(modules);
  free(shared);
  free(wanted);
  free(units);
  return kernels;
}
