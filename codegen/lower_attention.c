/* Lowering of attention over segments and of its gradient. */
#include "codegen/lower.h"

/* n, segments, heads, head, causal: what both steps begin with. `q` is [N,D], `off` i32[S+1]. */
static void step_sizes(Lower *l, Step *s, const Inst *inst) {
  Type q = lower_type(l, inst->input[0]);
  int64_t heads = inst_int(inst, ATTRIBUTE_heads, 1);
  step_number(l, s, "n", type_rows(l->module, q));
  step_number(l, s, "segments", type_elements(l->module, lower_type(l, inst->input[3])) - 1);
  step_number(l, s, "heads", heads);
  step_number(l, s, "head", type_columns(l->module, q) / heads);
  step_number(l, s, "causal", inst_int(inst, ATTRIBUTE_causal, 0));
}

static void step_matrix(Lower *l, Step *s, bool write, const char *key, const char *ld_key, ValueId v) {
  if (write)
    step_write(l, s, key, lower_place(l, v));
  else
    step_read(l, s, key, lower_place(l, v));
  step_number(l, s, ld_key, l->ld[v]);
}

static void step_operands(Lower *l, Step *s, const Inst *inst) {
  step_matrix(l, s, false, "q", "ldq", inst->input[0]);
  step_matrix(l, s, false, "k", "ldk", inst->input[1]);
  step_matrix(l, s, false, "v", "ldv", inst->input[2]);
  step_read(l, s, "off", lower_place(l, inst->input[3]));
}

static void step_type(Lower *l, Step *s, const Inst *inst) {
  DType type = lower_type(l, inst->input[0]).dtype;
  if (type != DTYPE_F32)
    step_word(l, s, "type", dtype_name(type));
}

void lower_attention(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  Step s = step_begin("attention", index, index);
  step_sizes(l, &s, inst);
  step_operands(l, &s, inst);
  step_matrix(l, &s, true, "o", "ldo", inst->output[0]);
  step_write(l, &s, "lse", lower_place(l, inst->output[1]));
  step_type(l, &s, inst);
  step_end(l, &s);
}

void lower_attention_grad(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  Place lse = lower_contiguous(l, index, inst->input[5]);
  Step s = step_begin("attention_grad", index, index);
  step_sizes(l, &s, inst);
  step_operands(l, &s, inst);
  step_matrix(l, &s, false, "o", "ldo", inst->input[4]);
  step_read(l, &s, "lse", lse);
  step_matrix(l, &s, false, "do", "lddo", inst->input[6]);
  step_matrix(l, &s, true, "dq", "lddq", inst->output[0]);
  step_matrix(l, &s, true, "dk", "lddk", inst->output[1]);
  step_matrix(l, &s, true, "dv", "lddv", inst->output[2]);
  step_scratch(l, &s, "scratch",
               type_rows(l->module, lower_type(l, inst->input[0])) * inst_int(inst, ATTRIBUTE_heads, 1) * 4);
  step_type(l, &s, inst);
  step_end(l, &s);
}
