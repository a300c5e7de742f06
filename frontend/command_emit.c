/* moec emit: what the code generator makes: the plan, the kernels as C or CUDA, or a list of the kernels. Plan and list
 * are those of the CPU unless --target=cuda asks for the other. */
#include <inttypes.h>

#include "codegen/compile.h"
#include "frontend/commands.h"
#include "frontend/model.h"
#include "runtime/cuda/compile.h"

#include <string.h>

/* How often each kernel of the plan is launched by the phase's functions, and by which instruction first. */
typedef struct KernelUse {
  uint32_t count;
  const FuncPlan *func;
  const Step *step;
} KernelUse;

static KernelUse *find_uses(const Plan *plan, const Phase *phase) {
  const KernelSet *set = &plan->kernels;
  KernelUse *uses = arena_alloc(plan->arena, (vec_len(set->kernels) + 1) * sizeof *uses);
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++) {
    const FuncPlan *func = &plan->funcs[i];
    if (!phase_has(phase, func->func))
      continue;
    for (uint32_t s = 0; s < vec_len(func->steps); s++)
      for (uint32_t k = 0; func->steps[s].kernel && k < vec_len(set->kernels); k++)
        if (set->kernels[k] == func->steps[s].kernel && uses[k].count++ == 0)
          uses[k] = (KernelUse){1, func, &func->steps[s]};
  }
  return uses;
}

/* The kernels of the phase, in order of first use. */
static KernelSet used_kernels(const Plan *plan, const KernelUse *uses) {
  KernelSet used = {.arena = plan->arena};
  for (uint32_t k = 0; k < vec_len(plan->kernels.kernels); k++)
    if (uses[k].count)
      vec_push(plan->arena, used.kernels, plan->kernels.kernels[k]);
  return used;
}

static void print_kernels(const Plan *plan, const KernelUse *uses, FILE *out) {
  for (uint32_t k = 0; k < vec_len(plan->kernels.kernels); k++) {
    const KernelUse *use = &uses[k];
    if (!use->count)
      continue;
    const Func *f = use->func->func;
    fprintf(out, "kernel %s: %u launch%s, first in %s:", kernel_name(plan->kernels.kernels[k]), use->count,
            use->count == 1 ? "" : "es", f->name);
    for (uint32_t i = use->step->first_inst; i <= use->step->last_inst; i++)
      fprintf(out, " %s", op_info[f->insts[i].op].name);
    Loc loc = f->insts[use->step->last_inst].loc;
    if (loc.file)
      fprintf(out, "  # %s:%d", loc.file, loc.line);
    fputc('\n', out);
  }
}

static void print_plan(const Plan *plan, const Phase *phase, FILE *out) {
  if (!phase) {
    plan_print(plan, out);
    return;
  }
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++)
    if (phase_has(phase, plan->funcs[i].func))
      plan_print_func(plan, &plan->funcs[i], out);
}

int command_emit(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_EMIT, argc, argv);
  if (!options.what)
    usage_fail(COMMAND_EMIT, "--what=kernels|c|cuda|plan is missing");
  Model model = model_load(arena, &options, false);
  const Phase *phase = model_phase(&model);
  model_optimize(&model);
  model_lower(&model);
  bool cuda = strcmp(options.what, "cuda") == 0 || (!options.cpu && strcmp(options.what, "c") != 0);
  if (cuda)
    model_lower_cuda(&model);
  const Plan *plan = cuda ? model.cuda : model.plan;
  KernelUse *uses = find_uses(plan, phase);
  KernelSet used = used_kernels(plan, uses);
  FILE *out = output_open(&options);
  if (strcmp(options.what, "plan") == 0)
    print_plan(plan, phase, out);
  else if (strcmp(options.what, "kernels") == 0)
    print_kernels(plan, uses, out);
  else if (cuda)
    fprintf(out, "%s%s", kernels_source_cuda(arena, &used), cuda_runtime_unit);
  else
    fputs(kernels_source_c(arena, &used), out);
  output_close(&options, out);
  return 0;
}
