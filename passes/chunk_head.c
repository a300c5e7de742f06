/* The output layer, its loss and their gradients in one place, and in chunks of rows.
 *
 * In: a module behind autodiff and precision. Out: in every function in which a product makes scores that a row
 * reduction reads (logits: more columns than they are sums of), all that reads or makes values of their size stands
 * together, right behind the product: the loss of each row, the gradient of the scores, and the products that read it.
 * So the scores live nowhere else, one kernel can make their gradient, and can make it in their place. Where it pays,
 * all of that is written once for each of several equal chunks of rows, so that the scores of one chunk live at a time:
 * what is needed of each row is cut by views, sums over rows are added up in the order of the chunks, the rest is put
 * together. Holds: the same values but for the order of sums over rows. The gradient of the scores does not follow from
 * the sum of the losses, but from the rows and numbers known before; where something stands between that is not row by
 * row, nothing is done and the ledger says what.
 *
 * Cost: one more chunk reads the other operands of the products and the sums so far once more, and writes these. Its
 * price is that of recompute's policy cheap: the bytes that a microsecond must free. A chunk has no fewer than
 * LEAST_ROWS rows, with which products still run at full speed; option rows asks for fewer or more. */
#include <string.h>

#include "passes/pass.h"
#include "passes/rewrite.h"

enum { LEAST_ROWS = 8192, MOST_CHUNKS = 1024 };

typedef struct Head {
  const PassContext *context;
  const Func *f; /* before the pass */
  Arena *arena;
  uint32_t product; /* the instruction that makes the scores */
  int64_t rows;
  bool *inside;       /* by instruction */
  bool *wide;         /* by value: has the shape of the scores and is made or read inside */
  uint32_t **readers; /* by value: arena vector of the instructions that read it */
  bool *result;       /* by value */
} Head;

/* ---------------------------------------------------------------- row by row */

static Type type_of(const Head *h, ValueId v) {
  return h->f->values[v].type;
}

static bool has_rows(const Head *h, Type t) {
  return t.rank > 0 && t.extent == NO_VALUE && dim_value(h->f->module, t.dim[0]) == h->rows;
}

static bool has_shape_of_scores(const Head *h, ValueId v) {
  const Type t = type_of(h, v), scores = type_of(h, h->f->insts[h->product].output[0]);
  return h->f->values[v].kind == VALUE_RESULT && t.rank == 2 && has_rows(h, t) &&
         dim_equal(h->f->module, t.dim[1], scores.dim[1]);
}

static bool reduces_columns(const Head *h, const Inst *inst) {
  const int64_t axis = inst_int(inst, ATTRIBUTE_axis, -1);
  return inst->op == OP_max || inst->op == OP_softmax ||
         (inst->op == OP_sum && (axis == -1 || axis == type_of(h, inst->input[0]).rank - 1));
}

/* Its result is a sum over rows. */
static bool sums_rows(const Head *h, const Inst *inst) {
  return (inst->op == OP_matmul && inst_int(inst, ATTRIBUTE_ta, 0)) ||
         (inst->op == OP_sum && !reduces_columns(h, inst));
}

/* Whether the instruction, for a chunk of rows, reads these rows of the operand; otherwise all of it. */
static bool is_cut(const Head *h, const Inst *inst, int operand) {
  const Type t = type_of(h, inst->input[operand]);
  switch (inst->op) {
  case OP_matmul:
    return operand == 0 || inst_int(inst, ATTRIBUTE_ta, 0);
  case OP_uniform:
    return operand == 0;
  default:
    if (op_info[inst->op].flags & FLAG_ELEMENTWISE) /* aligned at the right */
      return has_rows(h, t) && t.rank == type_of(h, inst->output[0]).rank;
    return true;
  }
}

static bool is_known(const Inst *inst) {
  switch (inst->op) {
  case OP_const: /* has no rows and stands outside */
    return false;
  case OP_broadcast:
    return inst->input_count == 1;
  case OP_matmul:
    return !inst_int(inst, ATTRIBUTE_ta, 0) || !inst_int(inst, ATTRIBUTE_tb, 0);
  case OP_reshape:
  case OP_sum:
  case OP_max:
  case OP_argmax:
  case OP_softmax:
  case OP_topk_mask:
  case OP_one_hot:
  case OP_pick:
  case OP_uniform:
    return true;
  default:
    return op_info[inst->op].flags & FLAG_ELEMENTWISE;
  }
}

static bool is_made_inside(const Head *h, ValueId v) {
  return h->f->values[v].kind == VALUE_RESULT && h->inside[h->f->values[v].inst];
}

/* NULL, or why the instruction cannot be done chunk by chunk. */
static const char *row_refusal(const Head *h, const Inst *inst) {
  const char *name = op_info[inst->op].name;
  if (!is_known(inst))
    return arena_print(h->arena, "%s stands between the scores and their gradient", name);
  if (!sums_rows(h, inst) && !has_rows(h, type_of(h, inst->output[0])))
    return arena_print(h->arena, "the result of %s has other rows than the scores", name);
  for (int k = 0; k < inst->input_count; k++) {
    const ValueId v = inst->input[k];
    const bool cut = is_cut(h, inst, k), inside = is_made_inside(h, v);
    if (cut ? !has_rows(h, type_of(h, v)) : type_of(h, v).extent != NO_VALUE)
      return arena_print(h->arena, "%s reads other rows than those of the scores", name);
    if (inside && (!cut || sums_rows(h, &h->f->insts[h->f->values[v].inst])))
      return arena_print(h->arena, "%s needs all rows of what the scores lead to", name);
  }
  return NULL;
}

/* ---------------------------------------------------------------- what belongs together */

static void add_inst(Head *h, uint32_t index) {
  const Inst *inst = &h->f->insts[index];
  h->inside[index] = true;
  for (int k = 0; k < inst->input_count; k++)
    h->wide[inst->input[k]] |= has_shape_of_scores(h, inst->input[k]);
  for (int k = 0; k < inst->output_count; k++)
    h->wide[inst->output[k]] |= has_shape_of_scores(h, inst->output[k]);
}

static bool touches_wide(const Head *h, const Inst *inst) {
  bool touches = false;
  for (int k = 0; k < inst->input_count; k++)
    touches |= h->wide[inst->input[k]];
  for (int k = 0; k < inst->output_count; k++)
    touches |= h->wide[inst->output[k]];
  return touches;
}

/* By instruction: whether it reads, directly or not, what is made inside. */
static bool *find_behind(const Head *h) {
  bool *behind = arena_alloc(h->arena, vec_len(h->f->insts) + 1);
  for (uint32_t i = 0; i < vec_len(h->f->insts); i++) {
    const Inst *inst = &h->f->insts[i];
    for (int k = 0; k < inst->input_count; k++) {
      const Value *value = &h->f->values[inst->input[k]];
      behind[i] |= value->kind == VALUE_RESULT && (h->inside[value->inst] || behind[value->inst]);
    }
  }
  return behind;
}

/* Adds what stands between: made from what is inside and needed inside. */
static bool add_between(Head *h) {
  const bool *behind = find_behind(h);
  bool *needed = arena_alloc(h->arena, vec_len(h->f->insts) + 1), added = false;
  for (uint32_t i = vec_len(h->f->insts); i-- > 0;) {
    const Inst *inst = &h->f->insts[i];
    if (needed[i] && behind[i] && !h->inside[i]) {
      add_inst(h, i);
      added = true;
    }
    for (int k = 0; k < inst->input_count && (needed[i] || h->inside[i]); k++)
      if (h->f->values[inst->input[k]].kind == VALUE_RESULT)
        needed[h->f->values[inst->input[k]].inst] = true;
  }
  return added;
}

static void find_inside(Head *h) {
  for (bool grows = true; grows;) {
    grows = false;
    for (uint32_t i = 0; i < vec_len(h->f->insts); i++)
      if (!h->inside[i] && touches_wide(h, &h->f->insts[i])) {
        add_inst(h, i);
        grows = true;
      }
    grows = grows || add_between(h);
  }
}

/* One number a row, row by row. */
static bool is_column(const Head *h, const Inst *inst) {
  const Type t = type_of(h, inst->output[0]);
  return inst->output_count == 1 && !sums_rows(h, inst) && type_elements(h->f->module, t) == h->rows &&
         row_refusal(h, inst) == NULL;
}

/* Takes in the numbers of each row that only what is inside reads, so that kernels make them where they are needed, and
 * those that follow, so that fewer are put together. */
static void add_columns(Head *h) {
  for (uint32_t i = vec_len(h->f->insts); i-- > 0;) {
    const Inst *inst = &h->f->insts[i];
    bool only = !h->inside[i] && is_column(h, inst) && !h->result[inst->output[0]] && inst->op != OP_reshape;
    for (uint32_t k = 0; only && k < vec_len(h->readers[inst->output[0]]); k++)
      only = h->inside[h->readers[inst->output[0]][k]];
    h->inside[i] |= only;
  }
  const bool *behind = find_behind(h);
  for (uint32_t i = 0; i < vec_len(h->f->insts); i++) {
    const Inst *inst = &h->f->insts[i];
    bool follows = false, known = true;
    for (int k = 0; k < inst->input_count; k++) {
      const Value *value = &h->f->values[inst->input[k]];
      follows |= is_made_inside(h, inst->input[k]);
      known &= value->kind != VALUE_RESULT || h->inside[value->inst] || !behind[value->inst];
    }
    h->inside[i] |= follows && known && is_column(h, inst);
  }
}

/* NULL, or why the region cannot stand together behind the product. */
static const char *refusal(const Head *h) {
  for (uint32_t i = 0; i < vec_len(h->f->insts); i++) {
    const Inst *inst = &h->f->insts[i];
    const char *reason = h->inside[i] ? row_refusal(h, inst) : NULL;
    if (reason != NULL)
      return reason;
    for (int k = 0; !h->inside[i] && i < h->product && k < inst->input_count; k++)
      if (is_made_inside(h, inst->input[k]))
        return arena_print(h->arena, "%s reads before them what is needed with the scores", op_info[inst->op].name);
  }
  for (ValueId v = 0; v < vec_len(h->f->values); v++)
    if (h->wide[v] && h->result[v])
      return "they are a result of the function";
  return NULL;
}

/* ---------------------------------------------------------------- how many chunks */

static double value_bytes(const Head *h, ValueId v) {
  return (double)type_bytes(h->f->module, type_of(h, v));
}

/* What one more chunk reads and writes again. */
static double bytes_of_chunk(const Head *h) {
  double bytes = 0;
  for (uint32_t i = 0; i < vec_len(h->f->insts); i++) {
    const Inst *inst = &h->f->insts[i];
    for (int k = 0; h->inside[i] && inst->op == OP_matmul && k < inst->input_count; k++)
      bytes += is_cut(h, inst, k) ? 0 : value_bytes(h, inst->input[k]);
    if (h->inside[i] && sums_rows(h, inst))
      bytes += 2 * value_bytes(h, inst->output[0]);
  }
  return bytes;
}

static Cost chunks_cost(const Head *h, int64_t chunks) {
  Cost cost = NO_COST;
  cost.bytes = value_bytes(h, h->f->insts[h->product].output[0]) / (double)chunks;
  cost.microseconds = 1e6 * (double)(chunks - 1) * bytes_of_chunk(h) / h->context->rates->again_memory;
  return cost;
}

static double price(const Head *h, int64_t chunks) {
  const Cost cost = chunks_cost(h, chunks);
  return cost.bytes + h->context->rates->price * cost.microseconds;
}

/* Powers of two: views cut into equal parts, four at most. */
static bool may_cut(const Head *h, int64_t chunks) {
  return chunks <= MOST_CHUNKS && h->rows % chunks == 0;
}

static int64_t choose_chunks(const Head *h) {
  const int64_t asked = pass_setting_int(h->context, "rows", 0), least = asked ? asked : LEAST_ROWS;
  int64_t best = 1;
  for (int64_t chunks = 2; may_cut(h, chunks) && h->rows / chunks >= least; chunks *= 2)
    if (asked || price(h, chunks) < price(h, best))
      best = chunks;
  return best;
}

static const char *chunks_text(const Head *h, int64_t chunks) {
  return chunks == 1
             ? "all rows at once"
             : arena_print(h->arena, "%lld chunks of %lld rows", (long long)chunks, (long long)(h->rows / chunks));
}

static Site site_of(const Head *h) {
  const Inst *inst = &h->f->insts[h->product];
  Site site = {.pass = h->context->pass, .function = h->f->name, .loc = inst->loc};
  vec_push(h->arena, site.values, h->f->values[inst->output[0]].name);
  return site;
}

static void add_alternative(const Head *h, Alternative **alternatives, int64_t chunks, int64_t chosen) {
  const char *why = chunks < chosen ? "the scores of more rows live at a time" : "its time is worth more than it frees";
  if (chunks > chosen && h->rows / chunks < LEAST_ROWS)
    why = arena_print(h->arena, "products of fewer than %d rows are slower (option rows)", LEAST_ROWS);
  vec_push(h->arena, *alternatives, (Alternative){chunks_text(h, chunks), chunks_cost(h, chunks), why});
}

static void record(const Head *h, int64_t chunks) {
  const char *reason = "the scores and their gradient, made in their place, live where they are made only";
  Alternative *alternatives = NULL;
  if (chunks > 1)
    add_alternative(h, &alternatives, chunks / 2, chunks);
  if (may_cut(h, 2 * chunks))
    add_alternative(h, &alternatives, 2 * chunks, chunks);
  if (pass_setting_int(h->context, "rows", 0))
    reason = arena_print(h->arena, "option rows; %s", reason);
  decide(h->context->ledger, site_of(h), chunks_text(h, chunks), alternatives, chunks_cost(h, chunks), reason);
}

static void record_refusal(const Head *h, const char *reason) {
  Alternative *alternatives = NULL;
  vec_push(h->arena, alternatives, (Alternative){"together, or in chunks", NO_COST, reason});
  Cost cost = NO_COST;
  cost.bytes = value_bytes(h, h->f->insts[h->product].output[0]);
  decide(h->context->ledger, site_of(h), "the scores live until their gradient is made", alternatives, cost, reason);
}

/* ---------------------------------------------------------------- writing */

typedef struct Writer {
  const Head *h;
  Rewrite r;
  bool *written; /* by old instruction */
  uint32_t chunks;
  ValueId **cut;  /* by old value that is cut: its chunks; NULL while it is not */
  ValueId **made; /* by old value made inside: its chunks; of sums over rows: the sums so far */
} Writer;

/* Copies what an instruction needs from behind the product, then itself. */
static void write_outside(Writer *w, uint32_t index) {
  const Inst *inst = &w->r.old.insts[index];
  if (w->written[index])
    return;
  w->written[index] = true;
  for (int k = 0; k < inst->input_count; k++)
    if (w->r.old.values[inst->input[k]].kind == VALUE_RESULT)
      write_outside(w, w->r.old.values[inst->input[k]].inst);
  rewrite_copy(&w->r, index);
}

static void write_needed(Writer *w) {
  const Func *old = &w->r.old;
  for (uint32_t i = 0; i < vec_len(old->insts); i++)
    for (int k = 0; w->h->inside[i] && k < old->insts[i].input_count; k++) {
      const ValueId v = old->insts[i].input[k];
      if (old->values[v].kind == VALUE_RESULT && !w->h->inside[old->values[v].inst])
        write_outside(w, old->values[v].inst);
    }
}

static ValueId flatten(Func *f, Loc loc, ValueId v) {
  const Dim shape[2] = {dim_number(1), dim_number(type_elements(f->module, f->values[v].type))};
  return build_reshape(f, loc, v, 2, shape);
}

/* The shape of `t` with other rows. */
static void with_rows(Type t, int64_t rows, Dim *shape) {
  memcpy(shape, t.dim, sizeof t.dim);
  shape[0] = dim_number(rows);
}

/* The first `chunks` parts of one row, a few at a time. */
static void cut_row(Func *f, Loc loc, ValueId row, uint32_t chunks, ValueId *parts) {
  if (chunks == 1) {
    parts[0] = row;
    return;
  }
  const uint32_t pieces = chunks % MAX_OUTPUTS == 0 ? MAX_OUTPUTS : 2;
  const Attr attr = attr_int(ATTRIBUTE_parts, pieces);
  const Inst *inst = build_inst(f, OP_split, loc, &row, 1, &attr, 1);
  ValueId output[MAX_OUTPUTS];
  memcpy(output, inst->output, sizeof output);
  for (uint32_t i = 0; i < pieces; i++)
    cut_row(f, loc, output[i], chunks / pieces, parts + i * (chunks / pieces));
}

static void cut_value(Writer *w, ValueId old, Loc loc) {
  if (w->cut[old] != NULL)
    return;
  Func *f = w->r.f;
  const Type type = type_of(w->h, old);
  Dim shape[MAX_RANK];
  with_rows(type, w->h->rows / w->chunks, shape);
  w->cut[old] = arena_alloc(w->h->arena, w->chunks * sizeof **w->cut);
  cut_row(f, loc, flatten(f, loc, rewrite_value(&w->r, old)), w->chunks, w->cut[old]);
  for (uint32_t c = 0; c < w->chunks; c++)
    w->cut[old][c] = build_reshape(f, loc, w->cut[old][c], type.rank, shape);
}

static void cut_operands(Writer *w) {
  const Func *old = &w->r.old;
  for (uint32_t i = 0; i < vec_len(old->insts); i++)
    for (int k = 0; w->h->inside[i] && k < old->insts[i].input_count; k++)
      if (is_cut(w->h, &old->insts[i], k) && !is_made_inside(w->h, old->insts[i].input[k]))
        cut_value(w, old->insts[i].input[k], old->insts[i].loc);
}

static ValueId operand_of_chunk(const Writer *w, const Inst *inst, int k, uint32_t chunk) {
  const ValueId v = inst->input[k];
  if (!is_cut(w->h, inst, k))
    return rewrite_value(&w->r, v);
  return is_made_inside(w->h, v) ? w->made[v][chunk] : w->cut[v][chunk];
}

/* The attributes of an instruction for one chunk. Sums over rows are f32 until all are added. */
static int attributes_of_chunk(const Writer *w, const Inst *inst, Attr *attr) {
  const bool sums = sums_rows(w->h, inst);
  int count = 0;
  for (int k = 0; k < inst->attr_count; k++) {
    if (sums && inst->attr[k].name == ATTRIBUTE_dtype)
      continue;
    attr[count] = inst->attr[k];
    if (attr[count].name == ATTRIBUTE_shape)
      attr[count].shape.dim[0] = dim_number(w->h->rows / w->chunks);
    count++;
  }
  if (sums && inst->op == OP_matmul && type_of(w->h, inst->input[0]).dtype != DTYPE_F32)
    attr[count++] = attr_dtype(DTYPE_F32);
  return count;
}

/* One instruction for one chunk; of a sum over rows, added to that of the chunks before. */
static void write_inst_of_chunk(Writer *w, uint32_t index, uint32_t chunk) {
  Func *f = w->r.f;
  const Inst *inst = &w->r.old.insts[index];
  ValueId *input = arena_alloc(w->h->arena, (inst->input_count + 1u) * sizeof *input);
  Attr *attr = arena_alloc(w->h->arena, (inst->attr_count + 1u) * sizeof *attr);
  for (int k = 0; k < inst->input_count; k++)
    input[k] = operand_of_chunk(w, inst, k, chunk);
  const int attr_count = attributes_of_chunk(w, inst, attr);
  const ValueId old = inst->output[0];
  ValueId made = build(f, inst->op, inst->loc, input, inst->input_count, attr, attr_count);
  value_rename(f, made, arena_print(w->h->arena, "%s.%u", w->r.old.values[old].name, chunk + 1));
  if (sums_rows(w->h, inst) && chunk > 0)
    made = build2(f, OP_add, inst->loc, w->made[old][chunk - 1], made);
  if (w->made[old] == NULL)
    w->made[old] = arena_alloc(w->h->arena, w->chunks * sizeof **w->made);
  w->made[old][chunk] = made;
}

/* The value as the rest of the function reads it: all rows, or the whole sum. */
static void put_together(Writer *w, const Inst *inst) {
  Func *f = w->r.f;
  const ValueId old = inst->output[0];
  ValueId whole = w->made[old][w->chunks - 1];
  if (!sums_rows(w->h, inst)) {
    const Type type = type_of(w->h, old);
    ValueId *rows = arena_alloc(w->h->arena, w->chunks * sizeof *rows);
    for (uint32_t c = 0; c < w->chunks; c++)
      rows[c] = flatten(f, inst->loc, w->made[old][c]);
    whole = build(f, OP_concat, inst->loc, rows, (int)w->chunks, NULL, 0);
    whole = build_reshape(f, inst->loc, whole, type.rank, type.dim);
  }
  if (f->values[whole].type.dtype != type_of(w->h, old).dtype) {
    const Attr attr = attr_dtype(type_of(w->h, old).dtype);
    whole = build(f, OP_cast, inst->loc, &whole, 1, &attr, 1);
  }
  value_rename(f, whole, w->r.old.values[old].name);
  rewrite_map(&w->r, old, whole);
}

static bool is_read_outside(const Head *h, ValueId v) {
  bool outside = h->result[v];
  for (uint32_t i = 0; i < vec_len(h->readers[v]); i++)
    outside |= !h->inside[h->readers[v][i]];
  return outside;
}

static void write_inside(Writer *w) {
  const uint32_t count = vec_len(w->r.old.insts);
  write_needed(w);
  if (w->chunks > 1)
    cut_operands(w);
  for (uint32_t c = 0; c < w->chunks; c++)
    for (uint32_t i = 0; i < count; i++) {
      if (w->h->inside[i] && w->chunks > 1)
        write_inst_of_chunk(w, i, c);
      else if (w->h->inside[i])
        rewrite_copy(&w->r, i);
    }
  for (uint32_t i = 0; i < count && w->chunks > 1; i++)
    if (w->h->inside[i] && is_read_outside(w->h, w->r.old.insts[i].output[0]))
      put_together(w, &w->r.old.insts[i]);
}

static void write_func(Head *h, Func *f, int64_t chunks) {
  Writer w = {.h = h, .r = rewrite_begin(f), .chunks = (uint32_t)chunks};
  const uint32_t count = vec_len(w.r.old.insts), values = vec_len(w.r.old.values);
  h->f = &w.r.old;
  w.written = arena_alloc(h->arena, count + 1);
  w.cut = arena_alloc(h->arena, (values + 1) * sizeof *w.cut);
  w.made = arena_alloc(h->arena, (values + 1) * sizeof *w.made);
  for (uint32_t i = 0; i < count; i++) {
    if (i == h->product)
      write_inside(&w);
    else if (!h->inside[i] && !w.written[i])
      rewrite_copy(&w.r, i);
    w.written[i] = true;
  }
  rewrite_end(&w.r);
}

/* ---------------------------------------------------------------- the pass */

/* Whether a reduction over columns reads the value, or what elementwise ops make of it. */
static bool is_reduced(const Head *h, ValueId scores) {
  bool *follows = arena_alloc(h->arena, vec_len(h->f->values) + 1);
  follows[scores] = true;
  for (uint32_t i = h->product + 1; i < vec_len(h->f->insts); i++) {
    const Inst *inst = &h->f->insts[i];
    bool reads = false;
    for (int k = 0; k < inst->input_count; k++)
      reads |= follows[inst->input[k]];
    if (reads && reduces_columns(h, inst))
      return true;
    if (reads && (op_info[inst->op].flags & FLAG_ELEMENTWISE))
      follows[inst->output[0]] = has_shape_of_scores(h, inst->output[0]);
  }
  return false;
}

/* A product whose result has more columns than it sums over, which a reduction over columns reads. */
static bool makes_scores(Head *h, uint32_t index) {
  const Inst *inst = &h->f->insts[index];
  if (inst->op != OP_matmul || inst_int(inst, ATTRIBUTE_ta, 0))
    return false;
  const Type a = type_of(h, inst->input[0]), out = type_of(h, inst->output[0]);
  if (a.rank != 2 || out.extent != NO_VALUE || dim_value(h->f->module, out.dim[0]) < 2 ||
      dim_value(h->f->module, out.dim[1]) <= dim_value(h->f->module, a.dim[1]))
    return false;
  h->product = index;
  h->rows = dim_value(h->f->module, out.dim[0]);
  return is_reduced(h, inst->output[0]);
}

static void find_readers(Head *h) {
  const Func *f = h->f;
  h->readers = arena_alloc(h->arena, (vec_len(f->values) + 1) * sizeof *h->readers);
  h->result = arena_alloc(h->arena, vec_len(f->values) + 1);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    for (int k = 0; k < f->insts[i].input_count; k++)
      vec_push(h->arena, h->readers[f->insts[i].input[k]], i);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    h->result[f->results[i].value] = true;
}

/* The products that make scores, those of the largest first. */
static uint32_t *find_products(Head *h) {
  uint32_t *products = NULL;
  for (uint32_t i = 0; i < vec_len(h->f->insts); i++) {
    if (!makes_scores(h, i))
      continue;
    vec_push(h->arena, products, i);
    for (uint32_t k = vec_len(products) - 1; k > 0; k--)
      if (value_bytes(h, h->f->insts[products[k - 1]].output[0]) < value_bytes(h, h->f->insts[i].output[0])) {
        products[k] = products[k - 1];
        products[k - 1] = i;
      }
  }
  return products;
}

/* Finds what belongs to the scores of this product; false: it cannot stand together. */
static bool gather(Head *h, uint32_t product) {
  h->product = product;
  h->rows = dim_value(h->f->module, type_of(h, h->f->insts[product].output[0]).dim[0]);
  h->inside = arena_alloc(h->arena, vec_len(h->f->insts) + 1);
  h->wide = arena_alloc(h->arena, vec_len(h->f->values) + 1);
  add_inst(h, product);
  find_inside(h);
  const char *reason = refusal(h);
  if (reason != NULL)
    record_refusal(h, reason);
  return reason == NULL;
}

static bool chunk_func(const PassContext *context, Func *f) {
  Head head = {.context = context, .f = f, .arena = f->module->arena}, *h = &head;
  find_readers(h);
  const uint32_t *products = find_products(h);
  uint32_t tried = 0;
  while (tried < vec_len(products) && !gather(h, products[tried]))
    tried++;
  if (tried == vec_len(products))
    return false;
  add_columns(h);
  const int64_t chunks = choose_chunks(h);
  record(h, chunks);
  write_func(h, f, chunks);
  return true;
}

bool pass_chunk_head(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(context->module->funcs); i++)
    changed |= chunk_func(context, context->module->funcs[i]);
  return changed;
}
