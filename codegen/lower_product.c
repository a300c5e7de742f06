/* Lowering of matrix products, plain and grouped by expert. */
#include "codegen/lower.h"

#include "ir/rows.h"

/* Types of the operands and of the result, where they are not f32 or `always`. */
static void step_types(Lower *l, Step *s, bool always, ValueId operand, ValueId result) {
  DType in = lower_type(l, operand).dtype, out = lower_type(l, result).dtype;
  if (always || in != DTYPE_F32)
    step_word(l, s, "type", dtype_name(in));
  if (in != DTYPE_F32)
    step_word(l, s, "ctype", dtype_name(out));
}

Step lower_operands(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId a = inst->input[0], b = inst->input[1], c = inst->output[0];
  Type type_a = lower_type(l, a), type_b = lower_type(l, b), type_c = lower_type(l, c);
  int64_t ta = inst_int(inst, ATTRIBUTE_ta, 0), tb = inst_int(inst, ATTRIBUTE_tb, 0);
  if (type_b.extent != NO_VALUE && (tb || !ta))
    ir_bug("%s: matmul %%%s: ragged columns", l->func->name, l->func->values[c].name);
  Step s = step_begin("gemm", index, index);
  step_count(l, &s, "m", type_rows(l->module, type_c), ta ? NO_VALUE : type_a.extent);
  step_number(l, &s, "n", type_columns(l->module, type_c));
  step_count(l, &s, "k", ta ? type_rows(l->module, type_a) : type_columns(l->module, type_a),
             ta ? (type_a.extent != NO_VALUE ? type_a.extent : type_b.extent) : NO_VALUE);
  step_number(l, &s, "ta", ta);
  step_number(l, &s, "tb", tb);
  step_read(l, &s, "a", lower_place(l, a));
  step_number(l, &s, "lda", l->ld[a]);
  step_read(l, &s, "b", lower_place(l, b));
  step_number(l, &s, "ldb", l->ld[b]);
  return s;
}

/* A product, and up to `last` an add of it to what stands where it is made. */
static void write_matmul(Lower *l, uint32_t index, uint32_t last) {
  ValueId a = l->func->insts[index].input[0], c = l->func->insts[index].output[0];
  Step s = lower_operands(l, index);
  s.last_inst = last;
  step_write(l, &s, "c", lower_place(l, c));
  vec_last(s.fields).value = l->func->insts[last].output[0];
  step_number(l, &s, "ldc", l->ld[c]);
  step_number(l, &s, "beta", last > index);
  step_types(l, &s, true, a, c);
  step_end(l, &s);
}

void lower_matmul(Lower *l, uint32_t index) {
  write_matmul(l, index, index);
}

void lower_added_matmul(Lower *l, uint32_t index) {
  write_matmul(l, index, index + 1);
}

static bool is_plain_product(const Lower *l, const Inst *inst) {
  return inst->op == OP_matmul && inst->group == NO_GROUP && lower_type(l, inst->input[0]).extent == NO_VALUE &&
         lower_type(l, inst->input[1]).extent == NO_VALUE;
}

/* Whether a product or such an add makes the value, so that it has a storage of its own, and it is read once. */
static bool is_sum_so_far(const Lower *l, ValueId v, const uint32_t *uses) {
  const Value *value = &l->func->values[v];
  if (value->kind != VALUE_RESULT || uses[v] != 1)
    return false;
  return is_plain_product(l, &l->func->insts[value->inst]) || (value->inst > 0 && l->adds[value->inst - 1]);
}

/* f32 sums over parts of the rows, as pass chunk_head writes them: a product, and right behind it an add that alone
 * reads it. Where every value is kept, none is written over. */
void lower_find_sums(Lower *l, bool keep_values) {
  const Func *f = l->func;
  const uint32_t *uses = row_count_uses(f, l->arena);
  l->adds = arena_alloc(l->arena, vec_len(f->insts) + 1);
  for (uint32_t i = 0; !keep_values && i + 1 < vec_len(f->insts); i++) {
    const Inst *product = &f->insts[i], *add = &f->insts[i + 1];
    const ValueId made = product->output[0];
    if (!is_plain_product(l, product) || add->op != OP_add || add->group != NO_GROUP || uses[made] != 1 ||
        lower_type(l, made).dtype != DTYPE_F32 || (add->input[0] == made) == (add->input[1] == made))
      continue;
    const ValueId sum = add->input[add->input[0] == made];
    l->adds[i] = is_sum_so_far(l, sum, uses) && type_equal(l->module, lower_type(l, sum), lower_type(l, made));
  }
}

void lower_grouped_matmul(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0], w = inst->input[1], off = inst->input[2], y = inst->output[0];
  Place weights = lower_contiguous(l, index, w);
  Step s = step_begin("grouped_gemm", index, index);
  step_number(l, &s, "groups", dim_value(l->module, lower_type(l, w).dim[0]));
  step_read(l, &s, "off", lower_place(l, off));
  step_number(l, &s, "rows", type_rows(l->module, lower_type(l, x)));
  step_number(l, &s, "n", type_columns(l->module, lower_type(l, y)));
  step_number(l, &s, "k", type_columns(l->module, lower_type(l, x)));
  step_number(l, &s, "tb", inst_int(inst, ATTRIBUTE_tb, 0));
  step_read(l, &s, "a", lower_place(l, x));
  step_number(l, &s, "lda", l->ld[x]);
  step_read(l, &s, "b", weights);
  step_write(l, &s, "c", lower_place(l, y));
  step_number(l, &s, "ldc", l->ld[y]);
  step_types(l, &s, false, x, y);
  step_end(l, &s);
}

void lower_grouped_outer(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId a = inst->input[0], b = inst->input[1], off = inst->input[2], c = inst->output[0];
  Step s = step_begin("grouped_outer", index, index);
  step_number(l, &s, "groups", dim_value(l->module, lower_type(l, c).dim[0]));
  step_read(l, &s, "off", lower_place(l, off));
  step_number(l, &s, "rows", type_rows(l->module, lower_type(l, a)));
  step_number(l, &s, "m", type_columns(l->module, lower_type(l, a)));
  step_number(l, &s, "n", type_columns(l->module, lower_type(l, b)));
  step_read(l, &s, "a", lower_place(l, a));
  step_number(l, &s, "lda", l->ld[a]);
  step_read(l, &s, "b", lower_place(l, b));
  step_number(l, &s, "ldb", l->ld[b]);
  step_write(l, &s, "c", lower_place(l, c));
  step_types(l, &s, false, a, c);
  step_end(l, &s);
}
