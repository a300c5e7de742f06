/* What was chosen by timing on this GPU, and the choice among the ways that a plan has for the same (docs/plan.md,
 * choice=, option=).
 *
 * In: choices of another run (the tuning file). Out: those and this run's own. A choice is known by what is chosen
 * among, so that equal ones, of all layers, are timed once. Of a choice that nothing is known of the first option runs
 * that this GPU has kernels for, until options_time; from then on the fastest. $MOEC_CUDA_OPTIONS=NAME,... takes the
 * first of these names that a choice has instead.
 */
#ifndef MOEC_RUNTIME_CUDA_CHOICES_H
#define MOEC_RUNTIME_CUDA_CHOICES_H

#include <stdbool.h>

#include "runtime/cuda/gpu.h"
#include "runtime/execute.h"

void choices_set(const ProductChoice *choices, int count); /* copied */
const ProductChoice *choices_all(int *count);
void choices_add(ProductChoice choice); /* its strings must live on */
/* NULL: nothing is known. */
const ProductChoice *choices_find(const char *kind, const char *shape, const char *gpu, const char *library);

/* One choice of a function: steps first .. end - 1. */
typedef struct OptionChoice {
  int first, end;
  char *shape;        /* what is chosen among */
  const char *option; /* the one that runs */
  bool known;         /* it was timed, or nothing is to be timed */
} OptionChoice;

typedef struct FunctionOptions {
  OptionChoice *choices; /* in the order of the steps */
  int count;
  bool *skipped; /* by step: of an option that does not run */
} FunctionOptions;

/* `kernels`: by index in plan->kernels; NULL: not for this GPU. A choice without an option for it: FAIL_BUG. */
FunctionOptions options_find(const Plan *plan, const PlanFunc *func, CUfunction const *kernels, const CudaGpu *gpu);
void options_free(FunctionOptions *options);
/* The choice that begins at the step, or NULL. */
OptionChoice *options_at(const FunctionOptions *options, int step);

/* Times every option on this memory, whose contents are then those of the last one, and chooses. `run` runs a step. */
void options_time(const Executor *executor, const PlanFunc *func, FunctionOptions *options, OptionChoice *choice,
                  CUfunction const *kernels, const CudaGpu *gpu, void (*run)(const Executor *, const PlanStep *));

#endif
