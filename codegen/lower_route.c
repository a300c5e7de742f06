/* Lowering of packed routing and of the sums over rows chosen by indices. */
#include "codegen/lower.h"

enum { ROUTE_BLOCKS = 64 }; /* docs/plan.md: the step counts pairs per expert in so many blocks of tokens */

void lower_route(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId mask = inst->input[0], pair = inst->output[0], off = inst->output[1], slot = inst->output[2];
  int64_t experts = type_columns(l->module, lower_type(l, mask));
  Step s = step_begin("route", index, index);
  step_number(l, &s, "n", type_rows(l->module, lower_type(l, mask)));
  step_number(l, &s, "experts", experts);
  step_number(l, &s, "k", type_columns(l->module, lower_type(l, slot)));
  step_number(l, &s, "bound", type_elements(l->module, lower_type(l, pair)));
  step_read(l, &s, "mask", lower_place(l, mask));
  step_number(l, &s, "ldm", l->ld[mask]);
  step_write(l, &s, "pair", lower_place(l, pair));
  step_write(l, &s, "off", lower_place(l, off));
  step_write(l, &s, "slot", lower_place(l, slot));
  step_scratch(l, &s, "scratch", (experts + 1) * ROUTE_BLOCKS * (int64_t)dtype_size(DTYPE_I32));
  step_end(l, &s);
}

static void lower_groups(Lower *l, uint32_t index, const char *keyword, int64_t scratch_bytes) {
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0], c = inst->output[0];
  Step s = step_begin(keyword, index, index);
  step_number(l, &s, "n", type_rows(l->module, lower_type(l, x)));
  step_number(l, &s, "columns", type_columns(l->module, lower_type(l, x)));
  step_number(l, &s, "groups", inst_int(inst, ATTRIBUTE_groups, 1));
  step_read(l, &s, "x", lower_place(l, x));
  step_number(l, &s, "ldx", l->ld[x]);
  step_write(l, &s, "c", lower_place(l, c));
  step_scratch(l, &s, "scratch", scratch_bytes);
  step_end(l, &s);
}

/* Scratch: a key of 8 bytes for every element. */
void lower_rank_rows(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  lower_groups(l, index, "rank_rows", 8 * type_elements(l->module, lower_type(l, inst->input[0])));
}

/* Scratch of one slice: three numbers of 8 bytes and one of 4 for every element, one of each for every row. */
void lower_balanced_assignment(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  Type x = lower_type(l, inst->input[0]);
  int64_t rows = type_rows(l->module, x) / inst_int(inst, ATTRIBUTE_groups, 1);
  lower_groups(l, index, "balanced_assignment", rows * (28 * type_columns(l->module, x) + 12));
}

static void step_float_type(Lower *l, Step *s, ValueId x, ValueId c) {
  if (lower_type(l, x).dtype == DTYPE_F32)
    return;
  step_word(l, s, "type", dtype_name(lower_type(l, x).dtype));
  step_word(l, s, "ctype", dtype_name(lower_type(l, c).dtype));
}

void lower_scatter_rows(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0], c = inst->output[0];
  if (lower_type(l, x).extent != NO_VALUE)
    ir_fail(inst->loc, "scatter_rows: the rows of %%%s are ragged; it needs as many rows at every step",
            l->func->values[x].name);
  Place ids = lower_contiguous(l, index, inst->input[1]);
  int64_t n = type_rows(l->module, lower_type(l, x)), rows = type_rows(l->module, lower_type(l, c));
  Step s = step_begin("scatter_rows", index, index);
  step_number(l, &s, "n", n);
  step_number(l, &s, "d", type_columns(l->module, lower_type(l, x)));
  step_number(l, &s, "rows", rows);
  step_read(l, &s, "ids", ids);
  step_read(l, &s, "x", lower_place(l, x));
  step_number(l, &s, "ldx", l->ld[x]);
  step_write(l, &s, "c", lower_place(l, c));
  step_scratch(l, &s, "scratch", (rows + 1 + n) * (int64_t)dtype_size(DTYPE_I32));
  step_float_type(l, &s, x, c);
  step_end(l, &s);
}

void lower_segment_sum(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0], c = inst->output[0];
  Step s = step_begin("segment_sum", index, index);
  step_number(l, &s, "groups", type_rows(l->module, lower_type(l, c)));
  step_read(l, &s, "off", lower_place(l, inst->input[1]));
  step_number(l, &s, "n", type_columns(l->module, lower_type(l, x)));
  step_read(l, &s, "x", lower_place(l, x));
  step_number(l, &s, "ldx", l->ld[x]);
  step_write(l, &s, "c", lower_place(l, c));
  step_number(l, &s, "ldc", l->ld[c]);
  step_float_type(l, &s, x, c);
  step_end(l, &s);
}
