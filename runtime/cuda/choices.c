/* See choices.h. */
#include "runtime/cuda/choices.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/libraries.h"
#include "runtime/cuda/product.h"
#include "runtime/error.h"
#include "runtime/files.h"

static const char kind[] = "kernel", no_library[] = "none"; /* of choices among options */

static struct {
  ProductChoice *choices;
  int count;
} all;

/* ---------------------------------------------------------------- what is known */

void choices_add(ProductChoice choice) {
  all.choices = runtime_grow(all.choices, all.count, sizeof *all.choices);
  all.choices[all.count++] = choice;
}

void choices_set(const ProductChoice *choices, int count) {
  for (int i = 0; i < count; i++)
    choices_add(choices[i]);
}

const ProductChoice *choices_all(int *count) {
  *count = all.count;
  return all.choices;
}

const ProductChoice *choices_find(const char *of_kind, const char *shape, const char *gpu, const char *library) {
  for (int i = 0; i < all.count; i++) {
    const ProductChoice *choice = &all.choices[i];
    if (strcmp(choice->kind, of_kind) == 0 && strcmp(choice->shape, shape) == 0 && strcmp(choice->gpu, gpu) == 0 &&
        strcmp(choice->library, library) == 0)
      return choice;
  }
  return NULL;
}

/* ---------------------------------------------------------------- options of a choice */

static int option_end(const PlanFunc *func, const OptionChoice *choice, int first) {
  int end = first;
  while (end < choice->end && strcmp(func->steps[end].option, func->steps[first].option) == 0)
    end++;
  return end;
}

static bool can_run(const PlanFunc *func, int first, int end, CUfunction const *kernels) {
  for (int i = first; i < end; i++) {
    const PlanStep *step = &func->steps[i];
    if ((step->kind == STEP_LAUNCH && !kernels[step->launch.kernel]) ||
        (step->kind == STEP_GEMM && !product_available(&step->gemm)))
      return false;
  }
  return true;
}

/* Everything that the time of an option depends on, but what stands in memory. */
static char *step_text(const Plan *plan, const PlanStep *step) {
  if (step->kind == STEP_LAUNCH)
    return string_format("%s %" PRId64, plan->kernels[step->launch.kernel],
                         step->launch.blocks[0] * step->launch.blocks[1] * step->launch.blocks[2]);
  if (step->kind == STEP_GEMM)
    return string_format("gemm m=%" PRId64 " n=%" PRId64 " k=%" PRId64 " ta=%" PRId64 " tb=%" PRId64 " beta=%" PRId64
                         " %s %s epilogue=%d",
                         step->gemm.m.number, step->gemm.n.number, step->gemm.k.number, step->gemm.ta, step->gemm.tb,
                         step->gemm.beta, plan_type_name(step->gemm.type), plan_type_name(step->gemm.ctype),
                         (int)step->gemm.epilogue);
  return string_format("%s", plan_step_name(step->kind));
}

/* "mma: moec_attention_1f 64; wgmma: moec_attention_sm90_2e 64" */
static char *choice_text(const Plan *plan, const PlanFunc *func, const OptionChoice *choice) {
  char *text = string_format("%s", "");
  for (int i = choice->first; i < choice->end; i++) {
    bool first = i == choice->first || strcmp(func->steps[i].option, func->steps[i - 1].option) != 0;
    char *step = step_text(plan, &func->steps[i]);
    char *longer = first ? string_format("%s%s%s: %s", text, text[0] ? "; " : "", func->steps[i].option, step)
                         : string_format("%s, %s", text, step);
    free(step);
    free(text);
    text = longer;
  }
  return text;
}

/* The first name of the list that is one of an option that can run, or NULL. */
static const char *asked_for(const PlanFunc *func, const OptionChoice *choice, CUfunction const *kernels) {
  const char *names = getenv("MOEC_CUDA_OPTIONS");
  for (size_t length; names && *names; names += length + (names[length] == ',')) {
    length = strcspn(names, ",");
    for (int i = choice->first; i < choice->end; i = option_end(func, choice, i)) {
      const char *option = func->steps[i].option;
      if (strlen(option) == length && strncmp(option, names, length) == 0 &&
          can_run(func, i, option_end(func, choice, i), kernels))
        return option;
    }
  }
  return NULL;
}

static void take(const PlanFunc *func, FunctionOptions *options, OptionChoice *choice, const char *option) {
  choice->option = option;
  for (int i = choice->first; i < choice->end; i++)
    options->skipped[i] = strcmp(func->steps[i].option, option) != 0;
}

/* The option of that name that can run; NULL: there is none. */
static const char *runnable(const PlanFunc *func, const OptionChoice *choice, CUfunction const *kernels,
                            const char *name) {
  for (int i = choice->first; i < choice->end; i = option_end(func, choice, i))
    if ((!name || strcmp(func->steps[i].option, name) == 0) && can_run(func, i, option_end(func, choice, i), kernels))
      return func->steps[i].option;
  return NULL;
}

/* What runs at first. */
static void begin_choice(const PlanFunc *func, FunctionOptions *options, OptionChoice *choice,
                         CUfunction const *kernels, const CudaGpu *gpu) {
  const char *asked = asked_for(func, choice, kernels), *first = runnable(func, choice, kernels, NULL);
  const ProductChoice *tuned = choices_find(kind, choice->shape, gpu->name, no_library);
  int count = 0;
  if (!first)
    runtime_fail(FAIL_BUG, "%s: of %s nothing runs on an %s", func->name, choice->shape, gpu->arch);
  for (int i = choice->first; i < choice->end; i = option_end(func, choice, i))
    count += can_run(func, i, option_end(func, choice, i), kernels);
  choice->known = asked || tuned || count == 1;
  if (!asked && tuned)
    asked = runnable(func, choice, kernels, tuned->algorithm);
  if (!asked && tuned)
    runtime_fail(FAIL_USER, "tuning file: no way that is called %s can run here among %s", tuned->algorithm,
                 choice->shape);
  take(func, options, choice, asked ? asked : first);
}

FunctionOptions options_find(const Plan *plan, const PlanFunc *func, CUfunction const *kernels, const CudaGpu *gpu) {
  FunctionOptions options = {.choices = runtime_allocate((size_t)func->step_count, sizeof *options.choices),
                             .skipped = runtime_allocate((size_t)func->step_count, sizeof *options.skipped)};
  for (int i = 0; i < func->step_count;) {
    int number = func->steps[i].choice, end = i + 1;
    while (number && end < func->step_count && func->steps[end].choice == number)
      end++;
    if (number) {
      OptionChoice *choice = &options.choices[options.count++];
      *choice = (OptionChoice){.first = i, .end = end};
      choice->shape = choice_text(plan, func, choice);
      begin_choice(func, &options, choice, kernels, gpu);
    }
    i = end;
  }
  return options;
}

void options_free(FunctionOptions *options) {
  for (int i = 0; i < options->count; i++)
    free(options->choices[i].shape);
  free(options->choices);
  free(options->skipped);
}

OptionChoice *options_at(const FunctionOptions *options, int step) {
  for (int i = 0; i < options->count; i++)
    if (options->choices[i].first == step)
      return &options->choices[i];
  return NULL;
}

/* ---------------------------------------------------------------- timing */

/* Steps first .. end - 1. */
typedef struct Option {
  const Executor *executor;
  const PlanFunc *func;
  int first, end;
  void (*run)(const Executor *, const PlanStep *);
} Option;

static bool run_option(void *context) {
  const Option *o = context;
  for (int i = o->first; i < o->end; i++)
    o->run(o->executor, &o->func->steps[i]);
  return true;
}

void options_time(const Executor *executor, const PlanFunc *func, FunctionOptions *options, OptionChoice *choice,
                  CUfunction const *kernels, const CudaGpu *gpu, void (*run)(const Executor *, const PlanStep *)) {
  const ProductChoice *tuned = choices_find(kind, choice->shape, gpu->name, no_library); /* since this one was found */
  const char *best = tuned ? runnable(func, choice, kernels, tuned->algorithm) : NULL;
  double fastest = 0;
  int count = 0;
  for (int i = choice->first, end; !tuned && i < choice->end; i = end) {
    end = option_end(func, choice, i);
    if (!can_run(func, i, end, kernels))
      continue;
    Option option = {executor, func, i, end, run};
    double seconds = cuda_gpu_time(gpu, func->steps[i].option, run_option, &option, -1);
    if (count++ == 0 || seconds < fastest) {
      fastest = seconds;
      best = func->steps[i].option;
    }
  }
  if (!tuned)
    choices_add((ProductChoice){.kind = kind,
                                .shape = string_format("%s", choice->shape),
                                .gpu = gpu->name,
                                .library = no_library,
                                .algorithm = best,
                                .seconds = fastest,
                                .candidates = count});
  take(func, options, choice, best);
  choice->known = true;
}
