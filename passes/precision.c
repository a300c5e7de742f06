/* bf16 compute with f32 masters.
 *
 * In: a module whose precision is bf16, everything in it f32. Out: matrix products, grouped products and attention take
 * bf16 operands; casts stand where a value changes its dtype. Holds: sums stay f32; parameters, moments, results but
 * gradients, and whatever row kernels compute stay f32; nothing is decided on bf16. As the interpreter does not round,
 * the meaning in exact arithmetic is the same.
 *
 * A product stays f32 when its result leads to a decision of the forward part (a gate) without passing another product,
 * and so do the products of its gradient. The result of a bf16 product is bf16, except:
 *   - it sums over rows, as the gradient of a weight does, and others than a result in bf16 are made of it;
 *   - it leads to a result without passing another product: scores. In functions with gradients those with more
 *     columns than they are sums of, the logits, are bf16 nevertheless: they are the largest tensor of all, and the
 *     loss is computed from them in f32. Option scores: auto, as said; f32: all scores are; bf16: none.
 * Gradients of parameters (results "grad @p", and what the update takes of them) are bf16 by option gradients: auto, on
 * CUDA where the step is one micro-batch, so that each is written once and read once or twice; f32; bf16. A sum over
 * rows that is nothing but a gradient is rounded where it is made.
 *
 * A value that only products read exists in bf16 only. Reshapes, splits, concatenations and dispatches move bf16
 * instead of f32 where their result is read in bf16. The cast of a result to f32 costs nothing within a row kernel but
 * would have to be stored between two, so it is made anew behind each product. A segment_sum takes the bf16 rows that
 * products read too, with an f32 result.
 *
 * Runs before recomputation, which then repeats what was computed, with its dtype. */
#include <inttypes.h>
#include <string.h>

#include "ir/rows.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

typedef enum Kind {
  KIND_OTHER,  /* computes in f32 */
  KIND_MOVE,   /* the same elements elsewhere: takes and gives what its readers want */
  KIND_NARROW, /* takes bf16 operands */
  KIND_ROUND,  /* a sum over rows in f32 with a bf16 result */
  KIND_SUM     /* segment_sum: takes bf16 rows where they exist */
} Kind;

typedef enum Scores { SCORES_AUTO, SCORES_F32, SCORES_BF16, SCORES_COUNT } Scores;

typedef struct Precision {
  const PassContext *context;
  const Func *f; /* before the pass */
  Arena *arena;
  Scores scores;
  bool narrow_gradients;
  bool *only_gradient; /* by value: it is a gradient in bf16 and nothing else */
  Kind *kind;          /* by instruction */
  bool *wide_result;   /* by instruction of KIND_NARROW: its result is f32 */
  const char **reason; /* by instruction: why a product or its result is f32, NULL: it is not */
  bool *born_narrow;   /* by value: it is computed as bf16 */
  bool *need_narrow;   /* by value: somebody reads it as bf16 */
  bool *need_wide;     /* by value: somebody reads it as f32 */
} Precision;

/* ---------------------------------------------------------------- facts */

static bool is_f32(const Func *f, ValueId v) {
  return f->values[v].type.dtype == DTYPE_F32;
}

static bool is_product(Op op) {
  return op == OP_matmul || op == OP_grouped_matmul || op == OP_grouped_outer || op == OP_attention ||
         op == OP_attention_grad;
}

static bool is_move(Op op) {
  return op == OP_reshape || op == OP_split || op == OP_concat || op == OP_dispatch;
}

/* Whether a product reads this operand as bf16; lse stays f32. */
static bool takes_narrow(const Func *f, const Inst *inst, int operand) {
  return is_f32(f, inst->input[operand]) && !(inst->op == OP_attention_grad && operand == 5);
}

/* A product of f32: another one was written so by the script. */
static bool is_f32_product(const Func *f, const Inst *inst) {
  return is_product(inst->op) && is_f32(f, inst->input[0]) && is_f32(f, inst->input[1]);
}

static bool sums_over_rows(const Inst *inst) {
  return inst->op == OP_grouped_outer || (inst->op == OP_matmul && inst_int(inst, ATTRIBUTE_ta, 0) != 0);
}

static bool has_gradients(const Func *f) {
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    if (result_is_gradient(&f->results[i]))
      return true;
  return false;
}

/* By value: whether something else is made of it than results "grad @p", by moving. */
static bool *find_other_uses(const Func *f, Arena *arena) {
  bool *other = arena_alloc(arena, vec_len(f->values) + 1);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    other[f->results[i].value] |= !result_is_gradient(&f->results[i]);
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    bool computes = !is_move(inst->op);
    for (int k = 0; k < inst->output_count; k++)
      computes |= other[inst->output[k]];
    for (int k = 0; k < inst->input_count && computes; k++)
      other[inst->input[k]] = true;
  }
  return other;
}

/* By instruction: whether a result that is no gradient needs it. */
static bool *find_forward(const Func *f, Arena *arena) {
  bool *live = arena_alloc(arena, vec_len(f->values) + 1), *forward = arena_alloc(arena, vec_len(f->insts) + 1);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    live[f->results[i].value] |= !result_is_gradient(&f->results[i]);
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; k < inst->output_count; k++)
      forward[i] |= live[inst->output[k]];
    for (int k = 0; k < inst->input_count && forward[i]; k++)
      live[inst->input[k]] = true;
  }
  return forward;
}

/* From the marked values back to the products from which they follow: by instruction, whether it is one of those. */
static bool *find_sources(const Func *f, Arena *arena, bool *marked) {
  bool *source = arena_alloc(arena, vec_len(f->insts) + 1);
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    bool any = false;
    for (int k = 0; k < inst->output_count; k++)
      any |= marked[inst->output[k]];
    source[i] = any && is_product(inst->op);
    for (int k = 0; k < inst->input_count && any && !is_product(inst->op); k++)
      marked[inst->input[k]] = true;
  }
  return source;
}

/* ---------------------------------------------------------------- which products */

static void keep_decisions(Precision *p) {
  const Func *f = p->f;
  const bool *forward = find_forward(f, p->arena);
  bool *marked = arena_alloc(p->arena, vec_len(f->values) + 1);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    const bool decides = op_info[inst->op].flags & FLAG_DECISION || inst->op == OP_route;
    for (int k = 0; forward[i] && decides && k < inst->input_count; k++)
      marked[inst->input[k]] = true;
  }
  const bool *source = find_sources(f, p->arena, marked);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    if (source[i])
      p->reason[i] = "a decision follows from it: gates are f32";
}

static bool same_dims(const Func *f, ValueId a, ValueId b) {
  const Type x = f->values[a].type, y = f->values[b].type;
  bool same = x.rank == y.rank;
  for (int i = 0; same && i < x.rank; i++)
    same = dim_equal(f->module, x.dim[i], y.dim[i]);
  return same;
}

/* The product of one operand of `product` and of a gradient of its result. */
static bool is_adjoint(const Func *f, const Inst *product, const Inst *inst) {
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < 2; i++)
      if (inst->input[k] == product->input[i] && same_dims(f, inst->input[1 - k], product->output[0]))
        return true;
  return false;
}

static void keep_adjoints(Precision *p) {
  const Func *f = p->f;
  const uint32_t count = vec_len(f->insts);
  for (uint32_t i = 0; i < count; i++) {
    if (p->reason[i] == NULL)
      continue;
    for (uint32_t k = i + 1; k < count; k++)
      if (p->reason[k] == NULL && is_f32_product(f, &f->insts[k]) && is_adjoint(f, &f->insts[i], &f->insts[k]))
        p->reason[k] = "it is a product of the gradient of one that is f32";
  }
}

static void choose_kinds(Precision *p) {
  const Func *f = p->f;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    if (is_f32_product(f, inst) && p->reason[i] == NULL)
      p->kind[i] = KIND_NARROW;
    else if (is_move(inst->op) && is_f32(f, inst->input[0]))
      p->kind[i] = KIND_MOVE;
    else if (inst->op == OP_segment_sum && is_f32(f, inst->input[0]))
      p->kind[i] = KIND_SUM;
    else if (row_is_column_sum(f, inst) && is_f32(f, inst->input[0]) && p->only_gradient[inst->output[0]])
      p->kind[i] = KIND_ROUND;
  }
}

/* ---------------------------------------------------------------- which results */

static void mark_moved(const Func *f, bool *marked) {
  for (uint32_t i = vec_len(f->insts); i-- > 0;)
    for (int o = 0; is_move(f->insts[i].op) && o < f->insts[i].output_count; o++)
      for (int k = 0; marked[f->insts[i].output[o]] && k < f->insts[i].input_count; k++)
        marked[f->insts[i].input[k]] = true;
}

/* Whether scores stay f32; learns: the function has gradients. */
static bool are_scores_f32(const Precision *p, const Inst *inst, bool learns) {
  if (p->scores != SCORES_AUTO)
    return p->scores == SCORES_F32;
  const Func *f = p->f;
  const Type a = f->values[inst->input[0]].type, out = f->values[inst->output[0]].type;
  const bool widens = dim_value(f->module, out.dim[out.rank - 1]) > dim_value(f->module, a.dim[a.rank - 1]);
  return !learns || !widens;
}

static void choose_results(Precision *p) {
  const Func *f = p->f;
  bool learns = false;
  bool *marked = arena_alloc(p->arena, vec_len(f->values) + 1), *moved = arena_alloc(p->arena, vec_len(f->values) + 1);
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    marked[f->results[i].value] |= !result_is_gradient(&f->results[i]);
    moved[f->results[i].value] = true;
    learns |= result_is_gradient(&f->results[i]);
  }
  const bool *scores = find_sources(f, p->arena, marked);
  mark_moved(f, moved);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    if (p->kind[i] != KIND_NARROW || inst->op == OP_attention || inst->op == OP_attention_grad)
      continue;
    if (p->only_gradient[inst->output[0]])
      continue;
    if (sums_over_rows(inst))
      p->reason[i] = p->narrow_gradients ? "it sums over rows, and is not a gradient yet"
                                         : "it sums over rows, as gradients of weights do: these are f32";
    else if (moved[inst->output[0]])
      p->reason[i] = "it is a result of the function";
    else if (scores[i] && are_scores_f32(p, inst, learns))
      p->reason[i] = "a result follows from it: scores are f32 (--precision:scores=bf16)";
    p->wide_result[i] = p->reason[i] != NULL;
  }
}

/* ---------------------------------------------------------------- who reads what */

static void find_born(Precision *p) {
  const Func *f = p->f;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    bool narrow = p->kind[i] == KIND_NARROW && !p->wide_result[i];
    if (p->kind[i] == KIND_MOVE) {
      narrow = true;
      for (int k = 0; k < inst->input_count; k++)
        narrow &= !is_f32(f, inst->input[k]) || p->born_narrow[inst->input[k]];
    }
    for (int k = 0; k < inst->output_count; k++) /* of attention the first: lse is f32 */
      p->born_narrow[inst->output[k]] = narrow && !(inst->op == OP_attention && k > 0);
  }
}

static void need_operands(Precision *p, const Inst *inst, bool narrow) {
  for (int k = 0; k < inst->input_count; k++) {
    if (!is_f32(p->f, inst->input[k]))
      continue;
    if (narrow && takes_narrow(p->f, inst, k))
      p->need_narrow[inst->input[k]] = true;
    else
      p->need_wide[inst->input[k]] = true;
  }
}

/* Readers before what they read. A value that is born narrow is widened by casts, so nobody above is asked for f32. */
static void find_needs(Precision *p) {
  const Func *f = p->f;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) /* products first: sums follow them */
    if (p->kind[i] == KIND_NARROW)
      need_operands(p, &f->insts[i], true);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    *(p->narrow_gradients && result_is_gradient(&f->results[i]) ? &p->need_narrow[f->results[i].value]
                                                                : &p->need_wide[f->results[i].value]) = true;
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    const ValueId x = inst->input_count ? inst->input[0] : NO_VALUE;
    if (p->kind[i] == KIND_OTHER || p->kind[i] == KIND_ROUND)
      need_operands(p, inst, false);
    if (p->kind[i] == KIND_SUM)
      need_operands(p, inst, p->need_narrow[x] || p->born_narrow[x]);
    for (int o = 0; p->kind[i] == KIND_MOVE && o < inst->output_count; o++) {
      const ValueId v = inst->output[o];
      if (p->need_narrow[v] || (p->need_wide[v] && p->born_narrow[v]))
        need_operands(p, inst, true);
      if (p->need_wide[v] && !p->born_narrow[v])
        need_operands(p, inst, false);
    }
  }
}

/* ---------------------------------------------------------------- writing */

typedef struct Writer {
  Precision *p;
  Rewrite r;               /* r.map: old values in f32, and all that are not floats */
  ValueId *narrow;         /* by old value: the same in bf16, NO_VALUE while there is none */
  uint32_t *widened;       /* by old value born narrow: the number of products before its cast in r.map */
  uint32_t products;       /* written so far */
  const char **parameters; /* arena vector: names of the casts of parameters */
  double bytes;            /* of these copies */
} Writer;

static Loc definition_loc(const Writer *w, ValueId old, Loc reader) {
  const Value *value = &w->r.old.values[old];
  return value->kind == VALUE_RESULT ? w->r.old.insts[value->inst].loc : reader;
}

static ValueId write_cast(Writer *w, ValueId old, ValueId from, DType dtype, Loc loc) {
  Func *f = w->r.f;
  const Attr attr = attr_dtype(dtype);
  const Value *value = &w->r.old.values[old];
  const ValueId cast = build(f, OP_cast, loc, &from, 1, &attr, 1);
  const char *name = value->kind == VALUE_PARAMETER ? value->parameter : value->name;
  value_rename(f, cast, arena_print(w->p->arena, "%s_%s", name, dtype_name(dtype)));
  return cast;
}

/* The old value in bf16: made where it is defined, of arguments and parameters where it is first read. */
static ValueId narrow_value(Writer *w, ValueId old, Loc reader) {
  if (!is_f32(&w->r.old, old))
    return rewrite_value(&w->r, old);
  if (w->narrow[old] != NO_VALUE)
    return w->narrow[old];
  w->narrow[old] = write_cast(w, old, rewrite_value(&w->r, old), DTYPE_BF16, definition_loc(w, old, reader));
  if (w->r.old.values[old].kind == VALUE_PARAMETER) {
    const Type type = w->r.old.values[old].type;
    vec_push(w->p->arena, w->parameters, w->r.f->values[w->narrow[old]].name);
    w->bytes += (double)type_elements(w->r.f->module, type) * (double)dtype_size(DTYPE_BF16);
  }
  return w->narrow[old];
}

/* Sees to it that r.map has the old value in f32. */
static void widen_value(Writer *w, ValueId old) {
  if (!is_f32(&w->r.old, old) || !w->p->born_narrow[old] ||
      (w->r.map[old] != NO_VALUE && w->widened[old] == w->products))
    return;
  rewrite_map(&w->r, old, write_cast(w, old, w->narrow[old], DTYPE_F32, definition_loc(w, old, (Loc){0})));
  w->widened[old] = w->products;
}

static void copy_wide(Writer *w, uint32_t index) {
  const Inst *inst = &w->r.old.insts[index];
  for (int k = 0; k < inst->input_count; k++)
    widen_value(w, inst->input[k]);
  rewrite_copy(&w->r, index);
}

/* Writes the instruction with its bf16 operands, but for a sum that is rounded; `result`: the dtype that it does not
 * have by itself, or NULL. Outputs take the old names where they are the only form of the old values. */
static void copy_narrow(Writer *w, uint32_t index, const DType *result) {
  Func *f = w->r.f;
  const Inst *old = &w->r.old.insts[index];
  const Kind kind = w->p->kind[index];
  ValueId *input = arena_alloc(w->p->arena, (old->input_count + 1u) * sizeof *input);
  Attr *attr = arena_alloc(w->p->arena, (old->attr_count + 1u) * sizeof *attr);
  int attr_count = old->attr_count;
  memcpy(attr, old->attr, (size_t)attr_count * sizeof *attr);
  if (result != NULL)
    attr[attr_count++] = attr_dtype(*result);
  for (int k = 0; k < old->input_count; k++) {
    const bool narrow = kind == KIND_MOVE || (kind != KIND_ROUND && takes_narrow(&w->r.old, old, k));
    if (!narrow)
      widen_value(w, old->input[k]);
    input[k] = narrow ? narrow_value(w, old->input[k], old->loc) : rewrite_value(&w->r, old->input[k]);
  }
  const Inst *inst = build_inst(f, old->op, old->loc, input, old->input_count, attr, attr_count);
  ValueId output[MAX_OUTPUTS];
  memcpy(output, inst->output, sizeof output);
  for (int k = 0; k < old->output_count; k++) {
    const ValueId v = old->output[k];
    const char *name = w->r.old.values[v].name;
    if (f->values[output[k]].type.dtype == DTYPE_BF16) {
      w->narrow[v] = output[k];
      if (!w->p->born_narrow[v])
        name = arena_print(w->p->arena, "%s_bf16", name);
    } else {
      rewrite_map(&w->r, v, output[k]);
    }
    value_rename(f, output[k], name);
  }
}

static bool any_needed(const Inst *inst, const bool *need) {
  for (int k = 0; k < inst->output_count; k++)
    if (need[inst->output[k]])
      return true;
  return false;
}

static void write_inst(Writer *w, uint32_t index) {
  static const DType in_f32 = DTYPE_F32, in_bf16 = DTYPE_BF16;
  const Precision *p = w->p;
  const Inst *inst = &w->r.old.insts[index];
  const bool born = p->born_narrow[inst->output[0]];
  if (p->kind[index] == KIND_NARROW) {
    copy_narrow(w, index, p->wide_result[index] ? &in_f32 : NULL);
  } else if (p->kind[index] == KIND_ROUND) {
    copy_narrow(w, index, &in_bf16);
  } else if (p->kind[index] == KIND_SUM && p->need_narrow[inst->input[0]]) {
    copy_narrow(w, index, p->only_gradient[inst->output[0]] ? NULL : &in_f32);
  } else if (p->kind[index] == KIND_MOVE) {
    const bool narrow = any_needed(inst, p->need_narrow), wide = any_needed(inst, p->need_wide);
    if (wide && !born)
      copy_wide(w, index);
    if (narrow || born)
      copy_narrow(w, index, NULL);
  } else {
    copy_wide(w, index);
  }
  if (is_product(inst->op))
    w->products++;
  for (int k = 0; k < inst->output_count; k++) /* beside the definition, to be fused with it */
    if (p->need_narrow[inst->output[k]] && w->r.map[inst->output[k]] != NO_VALUE)
      narrow_value(w, inst->output[k], inst->loc);
}

/* ---------------------------------------------------------------- the ledger */

/* With operands and result of these dtypes. */
static Cost product_cost(const Func *f, const Inst *inst, DType operands, DType result) {
  const Work work = flop_rule[inst->op](f, inst, -1);
  double written = 0;
  for (int k = 0; k < inst->output_count; k++)
    written += (double)type_elements(f->module, f->values[inst->output[k]].type) * (double)dtype_size(DTYPE_F32);
  const double bytes =
      (operands == DTYPE_F32 ? 1 : 0.5) * (work.bytes - written) + (result == DTYPE_F32 ? 1 : 0.5) * written;
  return (Cost){.bytes = bytes, .flops = work.flops, .launches = 1, .microseconds = -1};
}

static Alternative alternative(const Precision *p, const Inst *inst, const char *format, DType operands, DType result,
                               const char *why_lost) {
  return (Alternative){.what = arena_print(p->arena, format, op_info[inst->op].name),
                       .cost = product_cost(p->f, inst, operands, result),
                       .why_lost = why_lost};
}

static void record(const Precision *p, uint32_t index) {
  const Func *f = p->f;
  const Inst *inst = &f->insts[index];
  if (!is_f32_product(f, inst))
    return;
  const bool narrow = p->kind[index] == KIND_NARROW, wide = p->wide_result[index];
  const bool attends = inst->op == OP_attention || inst->op == OP_attention_grad;
  const Alternative in_f32 =
      alternative(p, inst, "%s in f32", DTYPE_F32, DTYPE_F32,
                  attends ? "twice the bytes" : "twice the bytes, half the speed where the hardware multiplies bf16");
  const Alternative in_bf16 = alternative(p, inst, "%s in bf16", DTYPE_BF16, DTYPE_BF16,
                                          narrow ? p->reason[index] : "its operands would be rounded");
  const Alternative mixed = alternative(p, inst, "%s in bf16 with an f32 result", DTYPE_BF16, DTYPE_F32, NULL);
  const Alternative *chosen = !narrow ? &in_f32 : wide ? &mixed : &in_bf16;
  Alternative *others = NULL;
  if (narrow)
    vec_push(p->arena, others, in_f32);
  if (chosen != &in_bf16)
    vec_push(p->arena, others, in_bf16);
  const char **values = NULL;
  vec_push(p->arena, values, f->values[inst->output[0]].name);
  const Site site = {p->context->pass, f->name, inst->loc, values};
  decide(p->context->ledger, site, chosen->what, others, chosen->cost,
         narrow ? "the module's precision is bf16: operands are rounded, sums are f32" : p->reason[index]);
}

static void record_parameters(const Writer *w) {
  const Precision *p = w->p;
  const uint32_t count = vec_len(w->parameters);
  if (count == 0)
    return;
  const Site site = {p->context->pass, p->f->name, (Loc){0}, w->parameters};
  decide(p->context->ledger, site,
         arena_print(p->arena, "%u parameters are cast to bf16 at every call, on a GPU once per update", count), NULL,
         (Cost){.bytes = 3 * w->bytes, .flops = -1, .launches = count, .microseconds = -1},
         "the masters are f32, and a weight is read several times for each time it is cast");
}

static void record_gradients(const Precision *p) {
  const char **values = NULL;
  double bytes = 0;
  for (uint32_t i = 0; p->narrow_gradients && i < vec_len(p->f->results); i++) {
    const Result *result = &p->f->results[i];
    if (!result_is_gradient(result))
      continue;
    vec_push(p->arena, values, result->label);
    bytes += (double)type_elements(p->f->module, p->f->values[result->value].type) * (double)dtype_size(DTYPE_BF16);
  }
  if (values == NULL)
    return;
  Alternative *others = NULL;
  const Cost in_f32 = {.bytes = 2 * bytes, .flops = -1, .microseconds = -1};
  vec_push(p->arena, others,
           ((Alternative){"gradients in f32", in_f32, "each is read again, by the norm and by Adam"}));
  const Site site = {p->context->pass, p->f->name, (Loc){0}, values};
  decide(p->context->ledger, site, arena_print(p->arena, "%u gradients are bf16", vec_len(values)), others,
         (Cost){.bytes = bytes, .flops = -1, .microseconds = -1},
         "a step is one micro-batch: nothing is added to a gradient once it is made");
}

/* ---------------------------------------------------------------- the pass */

/* The segments of gradients that an update takes. */
static void narrow_arguments(Writer *w) {
  for (ValueId v = 0; w->p->narrow_gradients && v < vec_len(w->r.old.values); v++) {
    if (!func_is_gradient_argument(&w->r.old, &w->r.old.values[v]))
      continue;
    w->narrow[v] = rewrite_value(&w->r, v);
    w->r.f->values[w->narrow[v]].type.dtype = DTYPE_BF16;
    rewrite_map(&w->r, v, NO_VALUE);
  }
}

static void write_results(Writer *w) {
  const Result *results = w->r.old.results;
  for (uint32_t i = 0; i < vec_len(results); i++) {
    const ValueId old = results[i].value;
    if (!w->p->narrow_gradients || !result_is_gradient(&results[i]))
      widen_value(w, old);
    else if (narrow_value(w, old, (Loc){0}) != NO_VALUE && w->r.map[old] == NO_VALUE)
      rewrite_map(&w->r, old, w->narrow[old]);
  }
  rewrite_end(&w->r);
  for (uint32_t i = 0; i < vec_len(results); i++)
    if (w->p->narrow_gradients && result_is_gradient(&results[i]))
      w->r.f->results[i].value = w->narrow[results[i].value];
}

static void write_func(Precision *p, Func *f) {
  Writer w = {.p = p, .r = rewrite_begin(f)};
  const uint32_t values = vec_len(w.r.old.values);
  w.narrow = arena_alloc(p->arena, (values + 1) * sizeof *w.narrow);
  w.widened = arena_alloc(p->arena, (values + 1) * sizeof *w.widened);
  memset(w.narrow, 0xff, (values + 1) * sizeof *w.narrow);
  p->f = &w.r.old;
  narrow_arguments(&w);
  for (uint32_t i = 0; i < vec_len(w.r.old.insts); i++) {
    record(p, i);
    write_inst(&w, i);
  }
  write_results(&w);
  record_parameters(&w);
  record_gradients(p);
}

/* By value, of narrow gradients alone. */
static bool *find_only_gradients(const Precision *p) {
  bool *only = find_other_uses(p->f, p->arena);
  for (uint32_t v = 0; v < vec_len(p->f->values); v++)
    only[v] = p->narrow_gradients && !only[v];
  return only;
}

/* Whether there is something to narrow in the function; learns what the update's arguments are. */
static bool has_work(Precision *p) {
  const Func *f = p->f;
  bool any = p->narrow_gradients && has_gradients(f);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    any |= is_f32_product(f, &f->insts[i]);
  for (uint32_t v = 0; p->narrow_gradients && v < vec_len(f->values); v++) {
    p->born_narrow[v] = func_is_gradient_argument(f, &f->values[v]);
    any |= p->born_narrow[v];
  }
  return any;
}

static bool precision_func(const PassContext *context, Func *f, Scores scores, bool narrow_gradients) {
  Arena *arena = f->module->arena;
  const size_t insts = vec_len(f->insts) + 1u, values = vec_len(f->values) + 1u;
  Precision p = {.context = context, .f = f, .arena = arena, .scores = scores, .narrow_gradients = narrow_gradients};
  p.only_gradient = find_only_gradients(&p);
  p.kind = arena_alloc(arena, insts * sizeof *p.kind);
  p.wide_result = arena_alloc(arena, insts);
  p.reason = arena_alloc(arena, insts * sizeof *p.reason);
  p.born_narrow = arena_alloc(arena, values);
  p.need_narrow = arena_alloc(arena, values);
  p.need_wide = arena_alloc(arena, values);
  keep_decisions(&p);
  keep_adjoints(&p);
  choose_kinds(&p);
  choose_results(&p);
  if (!has_work(&p))
    return false;
  find_born(&p);
  find_needs(&p);
  write_func(&p, f);
  return true;
}

static Scores scores_setting(const PassContext *context) {
  static const char *const names[SCORES_COUNT] = {[SCORES_AUTO] = "auto", [SCORES_F32] = "f32", [SCORES_BF16] = "bf16"};
  const char *text = pass_setting_text(context, "scores", names[SCORES_AUTO]);
  for (int i = 0; i < SCORES_COUNT; i++)
    if (strcmp(text, names[i]) == 0)
      return (Scores)i;
  ir_fail((Loc){0}, "--%s:scores=%s: expected auto, f32 or bf16", context->pass, text);
}

/* Sums of gradients over micro-batches are f32, and so is what is added. */
static bool gradients_setting(const PassContext *context) {
  const Module *m = context->module;
  const char *text = pass_setting_text(context, "gradients", "auto");
  if (strcmp(text, "bf16") == 0 && m->accumulate > 1)
    ir_fail((Loc){0}, "--%s:gradients=bf16: gradients of %" PRId64 " micro-batches are summed in f32", context->pass,
            m->accumulate);
  if (strcmp(text, "auto") == 0)
    return context->rates->gpu && m->accumulate <= 1;
  if (strcmp(text, "f32") != 0 && strcmp(text, "bf16") != 0)
    ir_fail((Loc){0}, "--%s:gradients=%s: expected auto, f32 or bf16", context->pass, text);
  return strcmp(text, "bf16") == 0;
}

bool pass_precision(PassContext *context) {
  Module *m = context->module;
  const Scores scores = scores_setting(context);
  const bool narrow_gradients = gradients_setting(context);
  bool changed = false;
  for (uint32_t i = 0; m->precision == DTYPE_BF16 && i < vec_len(m->funcs); i++)
    changed |= precision_func(context, m->funcs[i], scores, narrow_gradients);
  return changed;
}
