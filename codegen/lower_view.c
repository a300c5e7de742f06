/* Lowering of views and copies. A view is its operand's memory; only a reshape that the operand's gaps between rows
 * forbid is copied. Concatenation copies the operands that were not made in their place. */
#include "codegen/cuda_lower.h"

void lower_copy(Lower *l, uint32_t inst, Type type, Place from, int64_t ldf, Place to, int64_t ldt) {
  if (l->target == PLAN_CUDA) {
    cuda_copy(l, inst, type, from, ldf, to, ldt);
    return;
  }
  Step s = step_begin("copy", inst, inst);
  step_rows(l, &s, "rows", type);
  step_number(l, &s, "columns", type_columns(l->module, type));
  step_word(l, &s, "type", dtype_name(type.dtype));
  step_read(l, &s, "from", from);
  step_number(l, &s, "ldf", ldf);
  step_write(l, &s, "to", to);
  step_number(l, &s, "ldt", ldt);
  step_end(l, &s);
}

void lower_fill(Lower *l, uint32_t inst, DType dtype, Place to, double value) {
  if (l->target == PLAN_CUDA) {
    cuda_fill(l, inst, dtype, to, value);
    return;
  }
  Step s = step_begin("fill", inst, inst);
  step_number(l, &s, "rows", 1);
  step_number(l, &s, "columns", 1);
  step_word(l, &s, "type", dtype_name(dtype));
  step_write(l, &s, "to", to);
  step_number(l, &s, "ldt", 1);
  step_real(l, &s, "value", value);
  step_end(l, &s);
}

Place lower_contiguous(Lower *l, uint32_t inst, ValueId v) {
  Type type = lower_type(l, v);
  int64_t columns = type_columns(l->module, type);
  if (l->ld[v] == columns || type_rows(l->module, type) == 1)
    return lower_place(l, v);
  int64_t bytes = type_bytes(l->module, type);
  Place copy = {.storage = lower_storage(l, (Storage){.bytes = bytes, .value = NO_VALUE, .scratch = true})};
  lower_copy(l, inst, type, lower_place(l, v), l->ld[v], copy, columns);
  return copy;
}

void lower_view(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId in = inst->input[0], out = inst->output[0];
  if (lower_place(l, in).storage == lower_place(l, out).storage)
    return;
  lower_copy(l, index, lower_type(l, in), lower_place(l, in), l->ld[in], lower_place(l, out),
             type_columns(l->module, lower_type(l, in)));
}

void lower_concat(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId out = inst->output[0];
  Place to = lower_place(l, out);
  for (int i = 0; i < inst->input_count; i++) {
    Type type = lower_type(l, inst->input[i]);
    if (lower_place(l, inst->input[i]).storage != to.storage)
      lower_copy(l, index, type, lower_place(l, inst->input[i]), l->ld[inst->input[i]], to, l->ld[out]);
    to.offset += type_columns(l->module, type) * (int64_t)dtype_size(type.dtype);
  }
}
