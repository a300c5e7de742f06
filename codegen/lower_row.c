/* Lowering to row kernels: one instruction or one group becomes one `launch`. */
#include "codegen/cuda_lower.h"

/* A kernel that draws random numbers reads the run's seed: an input without a value. */
Place lower_seed(Lower *l) {
  if (l->seed == NO_STORAGE)
    l->seed = lower_storage(l, (Storage){.space = SPACE_SEED, .bytes = 8, .value = NO_VALUE});
  return (Place){.storage = l->seed};
}

/* The number itself, written as a place. */
Place lower_tag(Lower *l, int64_t tag) {
  return (Place){.storage = lower_storage(l, (Storage){.space = SPACE_TAG, .offset = tag, .value = NO_VALUE})};
}

void lower_kernel(Lower *l, uint32_t first, uint32_t last) {
  if (l->target == PLAN_CUDA && lower_cuda_epilogue(l, first, last))
    return;
  ValueLayout layout = {.ld = l->ld, .offset = l->offset, .last_use = l->last_use};
  KernelCall *call = kernel_lower(l->kernels, l->func, first, last, &layout);
  if (l->target == PLAN_CUDA) {
    cuda_row_kernel(l, call, first, last);
    return;
  }
  Step s = step_begin("launch", first, last);
  s.kernel = call->kernel;
  step_word(l, &s, NULL, kernel_name(call->kernel));
  step_count(l, &s, "rows", call->rows, call->extent);
  for (uint32_t i = 0; i < vec_len(call->operands); i++) {
    const KernelOperand *operand = &call->operands[i];
    if (operand->role == OPERAND_SCRATCH)
      step_scratch(l, &s, NULL, operand->scratch_bytes);
    else if (operand->role == OPERAND_TAG)
      step_read(l, &s, NULL, lower_tag(l, operand->tag));
    else if (operand->value == NO_VALUE)
      step_read(l, &s, NULL, lower_seed(l));
    else if (operand->role == OPERAND_INPUT)
      step_read(l, &s, NULL, lower_place(l, operand->value));
    else
      step_write(l, &s, NULL, lower_place(l, operand->value));
    vec_last(s.fields).in_place = operand->in_place;
    vec_last(s.fields).value = operand->value;
  }
  step_end(l, &s);
}

void lower_row(Lower *l, uint32_t inst) {
  lower_kernel(l, inst, inst);
}

/* Over the last dim within a row, over dim 0 a reduction over rows: the kernel knows both. */
void lower_sum(Lower *l, uint32_t inst) {
  lower_kernel(l, inst, inst);
}
