/* The wide form of MoE layers: all experts as one FFN.
 *
 * In: a module at stage GRAPH. Out: the same; where @P.train has packed MoE layers for which it may pay, @P.train is
 * called @P.train.packed, a second function @P.train.wide computes the same with every such layer as
 *
 *   hidden = elementwise(x [w1; ...; wE]^T, b1, ...)                 [N,E,F]: every expert for every token
 *   y      = (hidden * weight) [w2; ...; wE] + weight b2              weight 0 where the mask does not select
 *
 * and the phase has its crossover, the experts per token above which the trainer runs the wide one. No dispatch, no
 * combine: sums over a token's experts are the products' own. Autodiff comes behind, so both have gradients.
 *
 * Holds: equal results, also where x, the hidden columns or the gate's weight are not numbers at pairs that the mask
 * does not select. The packed form never computes those pairs; here selects keep their values out of y, and their
 * gradients (0 * infinity) out of every product: on x and y by token, on the hidden columns where they enter and leave
 * the nonlinear part. Parameters are taken to be finite, those of experts without tokens too.
 *
 * Random draws in experts have the index token*E+e and F columns; the same elements are drawn at token with E*F
 * columns.
 */
#include "passes/dense_experts.h"
#include "passes/rewrite.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- writing one layer */

typedef struct WideWriter {
  Rewrite *rewrite;
  Func *f; /* being written */
  const DenseLayer *layer;
  Loc loc;          /* of the packed instruction that is translated */
  ValueId *wide;    /* by old value: what stands for it, NO_VALUE while nothing does */
  ValueId *guarded; /* the same, 0 at pairs that are not selected */
  ValueId selected; /* the mask as [N,E,1] */
  ValueId token;    /* [N,1]: not 0 where a token selects an expert */
} WideWriter;

static const Module *module_of(const WideWriter *w) {
  return w->f->module;
}

static Dim dims_product(const WideWriter *w, Dim a, Dim b) {
  return dim_product(module_of(w), a, b);
}

static ValueId outer_value(const WideWriter *w, ValueId old) {
  return rewrite_value(w->rewrite, old);
}

static const Inst *old_definition(const WideWriter *w, ValueId v) {
  const Func *old = &w->rewrite->old;
  return old->values[v].kind == VALUE_RESULT ? &old->insts[old->values[v].inst] : NULL;
}

static Type old_type(const WideWriter *w, ValueId v) {
  return w->rewrite->old.values[v].type;
}

static bool is_packed(const WideWriter *w, ValueId v) {
  return old_type(w, v).extent == w->layer->off;
}

/* a where mask is set, else 0. */
static ValueId select_by(const WideWriter *w, ValueId mask, ValueId a) {
  return build(w->f, OP_select, w->loc, (ValueId[]){mask, a, build_const(w->f, w->loc, 0)}, 3, NULL, 0);
}

/* [N,E,columns] */
static ValueId view_by_expert(const WideWriter *w, ValueId v, Dim columns) {
  return build_reshape(w->f, w->loc, v, 3, (Dim[]){w->layer->tokens, w->layer->experts, columns});
}

/* [E,F,D] as [E*F,D] */
static ValueId view_as_matrix(const WideWriter *w, ValueId weights) {
  const Type t = w->f->values[weights].type;
  return build_reshape(w->f, w->loc, weights, 2, (Dim[]){dims_product(w, t.dim[0], t.dim[1]), t.dim[2]});
}

/* Whether v is made from products and biases by sums alone: its gradient reaches them unchanged, so that a select
 * behind it is one for all of them. */
static bool is_linear(const WideWriter *w, ValueId v) {
  const Inst *inst = is_packed(w, v) ? old_definition(w, v) : NULL;
  if (inst == NULL)
    return true;
  if (inst->op == OP_add || inst->op == OP_sub)
    return is_linear(w, inst->input[0]) && is_linear(w, inst->input[1]);
  return inst->op == OP_grouped_matmul || inst->op == OP_expand;
}

static ValueId wide_value(WideWriter *w, ValueId v);

static ValueId guarded_value(WideWriter *w, ValueId v) {
  const ValueId wide = wide_value(w, v);
  if (w->guarded[v] == NO_VALUE) {
    w->loc = old_definition(w, v)->loc;
    w->guarded[v] = select_by(w, w->selected, wide);
  }
  return w->guarded[v];
}

static ValueId write_elementwise(WideWriter *w, const Inst *inst) {
  const bool linear = is_linear(w, inst->output[0]);
  ValueId input[3];
  const int count = inst->op == OP_broadcast ? 1 : inst->input_count;
  for (int k = 0; k < count; k++) {
    const ValueId v = inst->input[k];
    input[k] = is_packed(w, v) && is_linear(w, v) && !linear ? guarded_value(w, v) : wide_value(w, v);
  }
  w->loc = inst->loc;
  if (inst->op != OP_broadcast)
    return build(w->f, inst->op, w->loc, input, count, inst->attr, inst->attr_count);
  Type like = old_type(w, inst->output[0]);
  const Dim dims[] = {w->layer->tokens, w->layer->experts, like.dim[1]};
  return build_broadcast(w->f, w->loc, input[0], type_make(like.dtype, 3, dims));
}

/* Products of all experts: x [w1; ...; wE]^T. x is read where its token selects an expert. */
static ValueId write_first_product(WideWriter *w, const Inst *inst) {
  const ValueId packed = inst->input[0], weights = outer_value(w, inst->input[1]);
  w->loc = inst->loc;
  if (w->wide[packed] == NO_VALUE)
    w->wide[packed] = select_by(w, w->token, outer_value(w, old_definition(w, packed)->input[0]));
  const ValueId product = build_matmul(w->f, w->loc, w->wide[packed], view_as_matrix(w, weights), false, true);
  return view_by_expert(w, product, old_type(w, inst->output[0]).dim[1]);
}

static ValueId write_draw(WideWriter *w, const Inst *inst) {
  const Dim columns = old_type(w, inst->output[0]).dim[1];
  ValueId source;
  if (!dense_pair_index(w->layer, inst->input[0], &source))
    ir_bug("dense_experts: %%%s was matched as a draw by pair", w->rewrite->old.values[inst->output[0]].name);
  w->loc = inst->loc;
  const ValueId input[] = {outer_value(w, source), outer_value(w, inst->input[1])};
  const Attr attr[] = {attr_dim(ATTRIBUTE_columns, dims_product(w, w->layer->experts, columns)),
                       attr_int(ATTRIBUTE_tag, inst_int(inst, ATTRIBUTE_tag, 0))};
  return view_by_expert(w, build(w->f, OP_uniform, w->loc, input, 2, attr, 2), columns);
}

/* What stands for v: [N,E,K] for [R,K]; a bias [E,K] for its expansion. */
static ValueId wide_value(WideWriter *w, ValueId v) {
  if (!is_packed(w, v))
    return outer_value(w, v);
  if (w->wide[v] != NO_VALUE)
    return w->wide[v];
  const Inst *inst = old_definition(w, v);
  ValueId wide;
  if (inst->op == OP_expand) {
    wide = outer_value(w, inst->input[0]);
  } else {
    wide = inst->op == OP_grouped_matmul ? write_first_product(w, inst)
           : inst->op == OP_uniform      ? write_draw(w, inst)
                                         : write_elementwise(w, inst);
    value_rename(w->f, wide, w->rewrite->old.values[v].name);
  }
  w->wide[v] = wide;
  return wide;
}

/* The gate's weight, 0 where the mask does not select. */
static ValueId masked_weight(const WideWriter *w) {
  const DenseLayer *layer = w->layer;
  const Inst *inst = old_definition(w, layer->weight);
  const Inst *other = inst != NULL && inst->op == OP_select ? old_definition(w, inst->input[2]) : NULL;
  const bool masked = other != NULL && inst->input[0] == layer->mask && other->op == OP_const &&
                      inst_float(other, ATTRIBUTE_value, 1) == 0;
  const ValueId weight = outer_value(w, layer->weight);
  return masked ? weight : select_by(w, outer_value(w, layer->mask), weight);
}

static void write_layer(Rewrite *r, const DenseLayer *layer) {
  Func *f = r->f;
  const Inst *combine = &r->old.insts[layer->combine];
  const uint32_t count = vec_len(r->old.values);
  WideWriter w = {.rewrite = r, .f = f, .layer = layer, .loc = combine->loc};
  w.wide = arena_alloc(f->module->arena, (count + 1) * sizeof *w.wide);
  w.guarded = arena_alloc(f->module->arena, (count + 1) * sizeof *w.guarded);
  for (ValueId v = 0; v < count; v++)
    w.wide[v] = w.guarded[v] = NO_VALUE;
  const ValueId mask = outer_value(&w, layer->mask);
  const Attr last = attr_int(ATTRIBUTE_axis, -1);
  const ValueId size = build1(f, OP_abs, w.loc, mask);
  w.token = build(f, OP_max, w.loc, &size, 1, &last, 1);
  w.selected = view_by_expert(&w, mask, dim_number(1));
  const ValueId hidden = wide_value(&w, layer->hidden);
  const Dim columns = old_type(&w, layer->hidden).dim[1];
  w.loc = combine->loc;
  const ValueId weight = masked_weight(&w), per_expert = view_by_expert(&w, weight, dim_number(1));
  const ValueId weighted = build2(f, OP_mul, w.loc, select_by(&w, w.selected, hidden), per_expert);
  const Dim row[] = {layer->tokens, dims_product(&w, layer->experts, columns)};
  const ValueId rows = build_reshape(f, w.loc, weighted, 2, row);
  ValueId y = build_matmul(f, w.loc, rows, view_as_matrix(&w, outer_value(&w, layer->w2)), false, false);
  if (layer->b2 != NO_VALUE)
    y = build2(f, OP_add, w.loc, y, build_matmul(f, w.loc, weight, outer_value(&w, layer->b2), false, false));
  y = select_by(&w, w.token, y);
  value_rename(f, y, r->old.values[combine->output[0]].name);
  rewrite_map(r, combine->output[0], y);
}

/* ---------------------------------------------------------------- the second function */

static const DenseLayer *find_layer(const DenseLayer *layers, uint32_t inst) {
  for (uint32_t i = 0; i < vec_len(layers); i++)
    if (layers[i].combine == inst && layers[i].refusal == NULL)
      return &layers[i];
  return NULL;
}

/* Moves the last function of the module behind `f`. */
static void place_behind(Module *m, const Func *f) {
  uint32_t i = vec_len(m->funcs) - 1;
  for (Func *last = m->funcs[i]; m->funcs[i - 1] != f; i--) {
    m->funcs[i] = m->funcs[i - 1];
    m->funcs[i - 1] = last;
  }
}

/* A function with the arguments, symbols and results of `f` in which every layer without a refusal is wide. */
static Func *write_wide(Func *f, const char *name, const DenseLayer *layers) {
  Module *m = f->module;
  const bool *live = dense_live(f, layers);
  Func *wide = module_add_func(m, name, f->table);
  place_behind(m, f);
  for (SymbolId s = 0, count = vec_len(m->symbols); s < count; s++)
    if (m->symbols[s].scope == f)
      module_add_symbol(m, wide, m->symbols[s].name, m->symbols[s].value);
  wide->values = f->values; /* read by the rewrite, which makes vectors of its own */
  wide->insts = f->insts;
  wide->results = f->results;
  Rewrite r = rewrite_begin(wide);
  for (uint32_t i = 0; i < vec_len(r.old.insts); i++) {
    const DenseLayer *layer = find_layer(layers, i);
    if (live[i] && layer != NULL)
      write_layer(&r, layer);
    else if (live[i])
      rewrite_copy(&r, i);
  }
  rewrite_end(&r);
  return wide;
}

/* ---------------------------------------------------------------- choosing */

static Site site_of(const PassContext *context, const Func *f, const DenseLayer *layer) {
  const Inst *combine = &f->insts[layer->combine];
  Site site = {.pass = context->pass, .function = f->name, .loc = combine->loc};
  vec_push(context->module->arena, site.values, f->values[combine->output[0]].name);
  return site;
}

static void decide_refused(const PassContext *context, const Func *f, const DenseLayer *layer) {
  Alternative *instead = NULL;
  vec_push(context->module->arena, instead, (Alternative){"one wide FFN of all experts", NO_COST, layer->refusal});
  decide(context->ledger, site_of(context, f, layer), "packed rows only", instead, NO_COST,
         "the wide form would not be the same or not be one product");
}

/* Experts per token above which wide is run: the cost model's, or --dense_experts:crossover=X. */
static double crossover_of(const PassContext *context, const DensePrice *price) {
  const char *text = pass_setting_text(context, "crossover", NULL);
  if (text == NULL)
    return price->crossover;
  char *end;
  const double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0))
    ir_fail((Loc){0}, "--%s:crossover=%s: expected a number of experts per token, greater than 0", context->pass, text);
  return value;
}

/* The ledger's line for the layers that can be wide; whether the second version is made. */
static bool decide_versions(const PassContext *context, const Func *f, const DenseLayer *layers, double *crossover) {
  Arena *arena = context->module->arena;
  const DensePrice price = dense_price(layers, context->rates);
  Site site = {0};
  int64_t most = 0, experts = 0;
  for (uint32_t i = 0; i < vec_len(layers); i++) {
    const DenseLayer *layer = &layers[i];
    if (layer->refusal != NULL)
      continue;
    const Site own = site_of(context, f, layer);
    if (site.values == NULL)
      site = own;
    else
      vec_push(arena, site.values, own.values[0]);
    most = layer->most > most ? layer->most : most;
    experts = dim_value(context->module, layer->experts);
  }
  *crossover = crossover_of(context, &price);
  const bool given = pass_setting_text(context, "crossover", NULL) != NULL;
  const Cost packed = dense_packed_cost(&price, (double)most);
  const char *reason = arena_print(
      arena,
      "wide costs the same at any density, packed %.4g us and %.4g us per expert of a token (%s): wide is faster "
      "above %.3g%s of %lld experts per token",
      price.packed_fixed.microseconds, price.packed_per_token.microseconds,
      dense_rates(context->module, context->rates), *crossover, given ? " (as given)" : "", (long long)experts);
  const char *why = arena_print(arena, "a token selects at most %lld", (long long)most);
  Alternative *instead = NULL;
  if ((double)most > *crossover) {
    vec_push(arena, instead, (Alternative){"packed rows only", packed, why});
    decide(context->ledger, site, "two versions, packed and wide", instead, price.wide, reason);
    return true;
  }
  vec_push(arena, instead, (Alternative){"a second version with one wide FFN", price.wide, why});
  decide(context->ledger, site, "packed rows only", instead, packed, reason);
  return false;
}

static bool divide_phase(const PassContext *context, Phase *phase) {
  Module *m = context->module;
  Func *f = module_find_func(m, arena_print(m->arena, "%s.train", phase->name));
  if (f == NULL)
    return false;
  const DenseLayer *layers = dense_match(f);
  uint32_t legal = 0;
  for (uint32_t i = 0; i < vec_len(layers); i++) {
    legal += layers[i].refusal == NULL;
    if (layers[i].refusal != NULL)
      decide_refused(context, f, &layers[i]);
  }
  double crossover;
  if (legal == 0 || !decide_versions(context, f, layers, &crossover))
    return false;
  f->name = arena_intern(m->arena, arena_print(m->arena, "%s.train.packed", phase->name));
  write_wide(f, arena_print(m->arena, "%s.train.wide", phase->name), layers);
  phase->crossover = crossover;
  return true;
}

bool pass_dense_experts(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(context->module->phases); i++)
    changed |= divide_phase(context, context->module->phases[i]);
  return changed;
}
