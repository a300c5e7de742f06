/* FLOP rules: the useful work of one instruction (ir.h: Work). One function per rule name of ops.def.
 *
 * The rows of a ragged dim are its static bound or, where `live_rows` is given, that number. Bytes are those a kernel
 * of this instruction alone must read and write: every operand and every result once; of a gathered operand the rows
 * that are taken. MACs are counted for products only.
 */
#include "ir/internal.h"

static double rows_of(const Func *f, Type t, double live_rows) {
  if (t.rank == 0)
    return 1;
  if (t.extent != NO_VALUE && live_rows >= 0)
    return live_rows;
  return (double)dim_value(f->module, t.dim[0]);
}

static double elements_of(const Func *f, Type t, double live_rows) {
  double elements = rows_of(f, t, live_rows);
  for (int i = 1; i < t.rank; i++)
    elements *= (double)dim_value(f->module, t.dim[i]);
  return elements;
}

static double bytes_of(const Func *f, ValueId v, double live_rows) {
  Type t = f->values[v].type;
  return elements_of(f, t, live_rows) * (double)dtype_size(t.dtype);
}

static double output_bytes(const Func *f, const Inst *inst, double live_rows) {
  double bytes = 0;
  for (int i = 0; i < inst->output_count; i++)
    bytes += bytes_of(f, inst->output[i], live_rows);
  return bytes;
}

static double all_bytes(const Func *f, const Inst *inst, double live_rows) {
  double bytes = output_bytes(f, inst, live_rows);
  for (int i = 0; i < inst->input_count; i++)
    bytes += bytes_of(f, inst->input[i], live_rows);
  return bytes;
}

static Type input_type(const Func *f, const Inst *inst, int i) {
  return f->values[inst->input[i]].type;
}
static Type output_type(const Func *f, const Inst *inst) {
  return f->values[inst->output[0]].type;
}
static double columns_of(const Func *f, Type t) {
  return (double)dim_value(f->module, t.dim[t.rank - 1]);
}

static Work product(const Func *f, const Inst *inst, double live_rows, double macs) {
  return (Work){.macs = macs, .flops = 2 * macs, .bytes = all_bytes(f, inst, live_rows)};
}

/* ---------------------------------------------------------------- elementwise, rows, moves */

/* Views cost nothing. */
static Work flop_none(const Func *f, const Inst *inst, double live_rows) {
  (void)f, (void)inst, (void)live_rows;
  return (Work){0};
}

static Work flop_elementwise(const Func *f, const Inst *inst, double live_rows) {
  return (Work){.flops = elements_of(f, output_type(f, inst), live_rows), .bytes = all_bytes(f, inst, live_rows)};
}

static Work flop_random(const Func *f, const Inst *inst, double live_rows) {
  return flop_elementwise(f, inst, live_rows);
}

/* A copy of rows: what is written was read too, and the indices. The first operand is the source, of which only the
 * rows that are taken count (concat takes all of all operands, which is the same). */
static Work flop_copy(const Func *f, const Inst *inst, double live_rows) {
  double bytes = 2 * output_bytes(f, inst, live_rows);
  for (int i = 1; i < inst->input_count && inst->op != OP_concat; i++)
    bytes += bytes_of(f, inst->input[i], live_rows);
  return (Work){.bytes = bytes};
}

/* One operation for every element that goes in. */
static Work flop_reduce(const Func *f, const Inst *inst, double live_rows) {
  return (Work){.flops = elements_of(f, input_type(f, inst, 0), live_rows), .bytes = all_bytes(f, inst, live_rows)};
}

static Work flop_scatter(const Func *f, const Inst *inst, double live_rows) {
  return flop_reduce(f, inst, live_rows);
}
static Work flop_combine(const Func *f, const Inst *inst, double live_rows) {
  return flop_reduce(f, inst, live_rows);
}
static Work flop_route(const Func *f, const Inst *inst, double live_rows) {
  return flop_reduce(f, inst, live_rows);
}

/* max, subtract, exp, sum, divide */
static Work flop_softmax(const Func *f, const Inst *inst, double live_rows) {
  Work work = flop_reduce(f, inst, live_rows);
  work.flops *= 5;
  return work;
}

/* ---------------------------------------------------------------- products */

static Work flop_matmul(const Func *f, const Inst *inst, double live_rows) {
  Type a = input_type(f, inst, 0), b = input_type(f, inst, 1);
  bool ta = inst_int(inst, ATTRIBUTE_ta, 0), tb = inst_int(inst, ATTRIBUTE_tb, 0);
  double m = ta ? columns_of(f, a) : rows_of(f, a, live_rows);
  double n = tb ? rows_of(f, b, live_rows) : columns_of(f, b);
  double k = ta ? rows_of(f, a, live_rows) : columns_of(f, a);
  if (ta && b.extent != NO_VALUE) /* either operand may be the one that says how many rows are live */
    k = rows_of(f, b, live_rows);
  return product(f, inst, live_rows, m * n * k);
}

static Work flop_grouped_matmul(const Func *f, const Inst *inst, double live_rows) {
  Type x = input_type(f, inst, 0);
  return product(f, inst, live_rows, rows_of(f, x, live_rows) * columns_of(f, x) * columns_of(f, output_type(f, inst)));
}

static Work flop_grouped_outer(const Func *f, const Inst *inst, double live_rows) {
  Type a = input_type(f, inst, 0), b = input_type(f, inst, 1);
  return product(f, inst, live_rows, rows_of(f, a, live_rows) * columns_of(f, a) * columns_of(f, b));
}

/* ---------------------------------------------------------------- attention */

/* q k^T and p v: 2 D MACs for each pair of tokens of a segment. The segments' lengths are data; counted are equal ones
 * that fill the N tokens, T = N/S, of whose pairs a causal mask leaves half. */
static double attention_macs(const Func *f, const Inst *inst) {
  Type q = input_type(f, inst, 0), offsets = input_type(f, inst, 3);
  double tokens = (double)dim_value(f->module, q.dim[0]);
  double segments = (double)dim_value(f->module, offsets.dim[0]) - 1;
  double pairs = tokens * tokens / segments;
  if (inst_int(inst, ATTRIBUTE_causal, 0))
    pairs /= 2;
  return 2 * pairs * columns_of(f, q);
}

static Work flop_attention(const Func *f, const Inst *inst, double live_rows) {
  return product(f, inst, live_rows, attention_macs(f, inst));
}

/* Five products where forward has two: q k^T again, and dv, dp, dq, dk. */
static Work flop_attention_grad(const Func *f, const Inst *inst, double live_rows) {
  return product(f, inst, live_rows, 2.5 * attention_macs(f, inst));
}

const FlopRule flop_rule[OP_COUNT] = {
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flop, eval, lower, doc) flop_##flop,
#include "ir/ops.def"
};
