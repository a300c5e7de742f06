/* Rows that row kernels leave for later ones are stored in bf16.
 *
 * In: a module behind precision and recompute, for CUDA. Out: where its precision is bf16, an f32 matrix that row ops
 * make in one stretch between two products and row ops of another stretch read (the sum of a residual connection, its
 * gradient, a dropout mask) is rounded to bf16 where it is made, and widened again in every stretch that reads it, the
 * own one included, so that all see the same numbers. Fusion makes the casts part of the kernels; what lies in memory
 * has half the bytes. So is a matrix that a product reads as bf16 and a sum over its rows as f32 (the gradient of a
 * bias): both read the same. A dispatch moves the rounded rows. Holds: the same values but for that rounding, which the
 * interpreter does not do; what a product or anything but a row op reads as f32, what is a result, what a decision is
 * taken on, and rows of few columns (a gate's, the statistics of a layer norm) stay f32.
 *
 * On a GPU such rows are what a layer norm with its residual costs: an element moves 8 bytes forward and 8 backward in
 * place of 12 and 16. The CPU has caches for them, and nothing is done. */
#include "passes/narrow_rows.h"

#include <string.h>

#include "ir/rows.h"
#include "passes/recompute.h"
#include "passes/rewrite.h"

typedef struct Narrow {
  const PassContext *context;
  const Func *f; /* before the pass */
  Arena *arena;
  uint32_t *stretch; /* by instruction: how many before it and itself are no row ops */
  bool *narrow;      /* by value: it is rounded */
  ValueId *cast;     /* by value: the first cast of it to bf16, or NO_VALUE */
} Narrow;

static bool is_cast(const Narrow *n, const Inst *inst, DType dtype) {
  return inst->op == OP_cast && n->f->values[inst->output[0]].type.dtype == dtype;
}

/* A matrix that a row op makes. */
bool narrow_rows_takes(const Func *f, const Rates *rates, ValueId v) {
  const Value *value = &f->values[v];
  if (!rates->gpu || f->module->precision != DTYPE_BF16 || value->kind != VALUE_RESULT ||
      value->type.dtype != DTYPE_F32 || value->type.rank < 2)
    return false;
  const Inst *maker = &f->insts[value->inst];
  const RowShape shape = row_shape(f->module, value->type);
  return recompute_is_row_op(f, maker) && !row_is_column_sum(f, maker) && !(op_info[maker->op].flags & FLAG_RANDOM) &&
         shape.columns > ROW_PRODUCT_MAX && shape.rows > 1;
}

/* Whether the reader needs the rows in memory, wherever it stands: another stretch, or rows chosen by data; or might,
 * as a sum over rows does that stands in a kernel of its own. */
static bool reads_memory(const Narrow *n, uint32_t reader, int operand, ValueId v) {
  const Inst *inst = &n->f->insts[reader];
  return n->stretch[reader] != n->stretch[n->f->values[v].inst] || (inst->op == OP_dispatch && operand == 0) ||
         (row_is_column_sum(n->f, inst) && n->cast[v] != NO_VALUE);
}

static void find_casts(Narrow *n) {
  for (uint32_t i = 0; i < vec_len(n->f->insts); i++) {
    const Inst *inst = &n->f->insts[i];
    if (is_cast(n, inst, DTYPE_BF16) && n->cast[inst->input[0]] == NO_VALUE)
      n->cast[inst->input[0]] = inst->output[0];
  }
}

/* Marks what row ops alone read, and not all of them where it is made. */
static void find_narrow(Narrow *n) {
  const Func *f = n->f;
  bool *fixed = arena_alloc(n->arena, vec_len(f->values) + 1);
  find_casts(n);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    fixed[f->results[i].value] = true;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    const bool reads_f32 = !recompute_is_row_op(f, inst) || (op_info[inst->op].flags & FLAG_DECISION);
    for (int k = 0; k < inst->input_count; k++) {
      const ValueId v = inst->input[k];
      if (!narrow_rows_takes(f, n->context->rates, v))
        continue;
      fixed[v] |= reads_f32;
      n->narrow[v] |= reads_memory(n, i, k, v);
    }
  }
  for (ValueId v = 0; v < vec_len(f->values); v++)
    n->narrow[v] &= !fixed[v];
}

/* ---------------------------------------------------------------- writing */

typedef struct Writer {
  const Narrow *n;
  Rewrite r;
  ValueId *stored;   /* by old value that is rounded: it in bf16 */
  uint32_t *widened; /* by old value that is rounded: the stretch for which r.map has it, from 1 */
} Writer;

static ValueId write_cast(Writer *w, ValueId from, DType dtype, Loc loc, const char *name) {
  const Attr attr = attr_dtype(dtype);
  const ValueId cast = build(w->r.f, OP_cast, loc, &from, 1, &attr, 1);
  value_rename(w->r.f, cast, name);
  return cast;
}

static void write_stored(Writer *w, ValueId old, Loc loc) {
  const Narrow *n = w->n;
  const char *name = n->cast[old] != NO_VALUE ? n->f->values[n->cast[old]].name
                                              : arena_print(n->arena, "%s_bf16", n->f->values[old].name);
  w->stored[old] = write_cast(w, rewrite_value(&w->r, old), DTYPE_BF16, loc, name);
  w->widened[old] = 0;
}

/* Sees to it that r.map has the rounded value as f32, made in this stretch. Of packed rows every reader has its own:
 * one that a combine reads at a token's slots must not be needed elsewhere. */
static void widen(Writer *w, ValueId old, uint32_t stretch, Loc loc) {
  if (w->widened[old] == stretch + 1 && w->n->f->values[old].type.extent == NO_VALUE)
    return;
  const char *name = arena_print(w->n->arena, "%s_f32", w->n->f->values[old].name);
  rewrite_map(&w->r, old, write_cast(w, w->stored[old], DTYPE_F32, loc, name));
  w->widened[old] = stretch + 1;
}

/* The rows in bf16, and in f32 what comes of them. */
static void write_dispatch(Writer *w, uint32_t index) {
  const Inst *inst = &w->n->f->insts[index];
  const ValueId input[] = {w->stored[inst->input[0]], rewrite_value(&w->r, inst->input[1]),
                           rewrite_value(&w->r, inst->input[2])};
  const char *name = w->n->f->values[inst->output[0]].name;
  const ValueId moved = build(w->r.f, OP_dispatch, inst->loc, input, inst->input_count, inst->attr, inst->attr_count);
  value_rename(w->r.f, moved, arena_print(w->n->arena, "%s_bf16", name));
  rewrite_map(&w->r, inst->output[0], write_cast(w, moved, DTYPE_F32, inst->loc, name));
  w->stored[inst->output[0]] = moved;
  w->widened[inst->output[0]] = w->n->stretch[index] + 1;
}

/* A sum over the rows of a value of higher rank, in two: a kernel widens the rows of a matrix as it sums them. */
static void write_sum(Writer *w, const Inst *inst) {
  Func *f = w->r.f;
  const ValueId old = inst->input[0];
  const char *name = w->n->f->values[inst->output[0]].name;
  const Type type = w->n->f->values[old].type, result = w->n->f->values[inst->output[0]].type;
  Dim shape[2] = {type.dim[0], type.dim[1]};
  for (int i = 2; i < type.rank; i++)
    shape[1] = dim_product(f->module, shape[1], type.dim[i]);
  const ValueId rows = build_reshape(f, inst->loc, w->stored[old], 2, shape);
  const ValueId wide = write_cast(w, rows, DTYPE_F32, inst->loc, arena_print(w->n->arena, "%s_rows", name));
  const ValueId sum = build(f, OP_sum, inst->loc, &wide, 1, inst->attr, inst->attr_count);
  const ValueId again = build_reshape(f, inst->loc, sum, result.rank, result.dim);
  value_rename(f, again, name);
  rewrite_map(&w->r, inst->output[0], again);
}

static void write_inst(Writer *w, uint32_t index) {
  const Narrow *n = w->n;
  const Inst *inst = &n->f->insts[index];
  const ValueId given = inst->input_count > 0 ? inst->input[0] : NO_VALUE;
  if (given != NO_VALUE && n->narrow[given] && is_cast(n, inst, DTYPE_BF16)) {
    rewrite_map(&w->r, inst->output[0], w->stored[given]);
    return;
  }
  if (given != NO_VALUE && n->narrow[given] && inst->op == OP_dispatch) {
    write_dispatch(w, index);
    return;
  }
  if (given != NO_VALUE && n->narrow[given] && row_is_column_sum(n->f, inst) && n->f->values[given].type.rank > 2) {
    write_sum(w, inst);
    return;
  }
  for (int k = 0; k < inst->input_count; k++)
    if (n->narrow[inst->input[k]])
      widen(w, inst->input[k], n->stretch[index], inst->loc);
  rewrite_copy(&w->r, index);
  for (int k = 0; k < inst->output_count; k++)
    if (n->narrow[inst->output[k]])
      write_stored(w, inst->output[k], inst->loc);
}

static void record(const Narrow *n) {
  Site site = {.pass = n->context->pass, .function = n->f->name};
  double bytes = 0;
  for (ValueId v = 0; v < vec_len(n->f->values); v++) {
    if (!n->narrow[v])
      continue;
    vec_push(n->arena, site.values, n->f->values[v].name);
    bytes += (double)type_elements(n->f->module, n->f->values[v].type) * (double)dtype_size(DTYPE_BF16);
  }
  Cost cost = NO_COST, wide = NO_COST;
  cost.bytes = bytes;
  wide.bytes = 2 * bytes;
  Alternative *alternatives = NULL;
  vec_push(n->arena, alternatives,
           ((Alternative){"stored in f32", wide, "each is written once and read at least once"}));
  decide(n->context->ledger, site,
         arena_print(n->arena, "%u matrices between row kernels stored in bf16", vec_len(site.values)), alternatives,
         cost, "memory is what row kernels cost, and the module's precision is bf16");
}

static bool narrow_func(const PassContext *context, Func *f) {
  Narrow n = {.context = context, .f = f, .arena = f->module->arena};
  const uint32_t values = vec_len(f->values), count = vec_len(f->insts);
  n.stretch = arena_alloc(n.arena, (count + 1) * sizeof *n.stretch);
  n.narrow = arena_alloc(n.arena, values + 1);
  n.cast = arena_alloc(n.arena, (values + 1) * sizeof *n.cast);
  memset(n.cast, 0xff, (values + 1) * sizeof *n.cast);
  for (uint32_t i = 0, now = 0; i < count; i++)
    n.stretch[i] = now += recompute_is_heavy(f, &f->insts[i]);
  find_narrow(&n);
  bool any = false;
  for (ValueId v = 0; v < values; v++)
    any |= n.narrow[v];
  if (!any)
    return false;
  Writer w = {.n = &n, .r = rewrite_begin(f)};
  n.f = &w.r.old;
  record(&n);
  w.stored = arena_alloc(n.arena, (values + 1) * sizeof *w.stored);
  w.widened = arena_alloc(n.arena, (values + 1) * sizeof *w.widened);
  for (uint32_t i = 0; i < count; i++)
    write_inst(&w, i);
  rewrite_end(&w.r);
  return true;
}

bool pass_narrow_rows(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; context->rates->gpu && i < vec_len(context->module->funcs); i++)
    changed |= narrow_func(context, context->module->funcs[i]);
  return changed;
}
