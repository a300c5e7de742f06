/* Finding packed MoE layers that can be one wide FFN. See dense_experts.h.
 *
 * In: a function at stage GRAPH. Out: a DenseLayer for every combine, with the parts of the layer or the reason why it
 * must stay packed. Matched is the structure: no name of a value, parameter or module enters.
 */
#include "passes/dense_experts.h"

static const Inst *definition(const Func *f, ValueId v) {
  return f->values[v].kind == VALUE_RESULT ? &f->insts[f->values[v].inst] : NULL;
}

static const Inst *defined_by(const Func *f, ValueId v, Op op) {
  const Inst *inst = definition(f, v);
  return inst != NULL && inst->op == op ? inst : NULL;
}

static Type type_of(const DenseLayer *layer, ValueId v) {
  return layer->f->values[v].type;
}

static const char *name_of(const DenseLayer *layer, ValueId v) {
  return layer->f->values[v].name;
}

static const char *op_of(const DenseLayer *layer, ValueId v) {
  const Inst *inst = definition(layer->f, v);
  return inst == NULL ? "no instruction" : op_info[inst->op].name;
}

static Arena *arena_of(const DenseLayer *layer) {
  return layer->f->module->arena;
}

#define refuse(...) return arena_print(arena_of(layer), __VA_ARGS__)
#define attempt(call)                                                                                                  \
  do {                                                                                                                 \
    const char *reason = (call);                                                                                       \
    if (reason != NULL)                                                                                                \
      return reason;                                                                                                   \
  } while (0)

static bool is_packed(const DenseLayer *layer, ValueId v) {
  return type_of(layer, v).extent == layer->off;
}

static void take(DenseLayer *layer, ValueId v) {
  layer->inside[layer->f->values[v].inst] = true;
}

static void add_source(DenseLayer *layer, ValueId v) {
  vec_push(arena_of(layer), layer->sources, v);
}

/* ---------------------------------------------------------------- indices of random draws */

/* The value of a packed index when it is a sum of products with these three: the pair itself, the token pair / E, and
 * source[pair / E], where `source` has one element per token. */
typedef struct PairIndex {
  int64_t constant, pair, token, gathered;
  ValueId source;
} PairIndex;

static int64_t expert_count(const DenseLayer *layer) {
  return dim_value(layer->f->module, layer->experts);
}

static bool is_constant(const PairIndex *a) {
  return a->pair == 0 && a->token == 0 && a->gathered == 0;
}

static bool pair_index(const DenseLayer *layer, ValueId v, PairIndex *out);

static bool index_sum(const DenseLayer *layer, const Inst *inst, PairIndex *out) {
  PairIndex a, b;
  if (!pair_index(layer, inst->input[0], &a) || !pair_index(layer, inst->input[1], &b))
    return false;
  if (a.gathered != 0 && b.gathered != 0 && a.source != b.source)
    return false;
  const int64_t sign = inst->op == OP_sub ? -1 : 1;
  *out = (PairIndex){a.constant + sign * b.constant, a.pair + sign * b.pair, a.token + sign * b.token,
                     a.gathered + sign * b.gathered, a.gathered != 0 ? a.source : b.source};
  return true;
}

static bool index_product(const DenseLayer *layer, const Inst *inst, PairIndex *out) {
  PairIndex a, b;
  if (!pair_index(layer, inst->input[0], &a) || !pair_index(layer, inst->input[1], &b))
    return false;
  if (!is_constant(&a) && !is_constant(&b))
    return false;
  const PairIndex x = is_constant(&b) ? a : b;
  const int64_t n = is_constant(&b) ? b.constant : a.constant;
  *out = (PairIndex){n * x.constant, n * x.pair, n * x.token, n * x.gathered, x.source};
  return true;
}

/* pair / E */
static bool index_quotient(const DenseLayer *layer, const Inst *inst, PairIndex *out) {
  PairIndex a, b;
  if (!pair_index(layer, inst->input[0], &a) || !pair_index(layer, inst->input[1], &b))
    return false;
  *out = (PairIndex){.token = 1};
  return a.pair == 1 && a.constant == 0 && a.token == 0 && a.gathered == 0 && is_constant(&b) &&
         b.constant == expert_count(layer);
}

/* source[pair / E] */
static bool index_gather(const DenseLayer *layer, const Inst *inst, PairIndex *out) {
  PairIndex a;
  if (!pair_index(layer, inst->input[1], &a) || a.token != 1 || a.constant != 0 || a.pair != 0 || a.gathered != 0)
    return false;
  ValueId source = inst->input[0];
  for (const Inst *view; (view = defined_by(layer->f, source, OP_reshape)) != NULL;)
    source = view->input[0];
  *out = (PairIndex){.gathered = 1, .source = source};
  const Module *m = layer->f->module;
  return type_elements(m, type_of(layer, source)) == dim_value(m, layer->tokens);
}

static bool pair_index(const DenseLayer *layer, ValueId v, PairIndex *out) {
  *out = (PairIndex){.source = NO_VALUE};
  const Inst *inst = definition(layer->f, v);
  if (v == layer->pair) {
    out->pair = 1;
    return true;
  }
  if (inst == NULL || type_of(layer, v).dtype != DTYPE_I32)
    return false;
  switch (inst->op) {
  case OP_const:
    out->constant = (int64_t)inst_float(inst, ATTRIBUTE_value, 0);
    return true;
  case OP_reshape:
  case OP_broadcast:
    return pair_index(layer, inst->input[0], out);
  case OP_add:
  case OP_sub:
    return index_sum(layer, inst, out);
  case OP_mul:
    return index_product(layer, inst, out);
  case OP_div:
    return index_quotient(layer, inst, out);
  case OP_gather_rows:
    return index_gather(layer, inst, out);
  default:
    return false;
  }
}

bool dense_pair_index(const DenseLayer *layer, ValueId v, ValueId *source) {
  PairIndex index;
  if (!pair_index(layer, v, &index))
    return false;
  *source = index.source;
  const int64_t experts = expert_count(layer);
  return index.constant == 0 && index.pair == 1 && index.token == -experts && index.gathered == experts;
}

/* ---------------------------------------------------------------- the experts, from hidden columns back to x */

static const char *check_hidden(DenseLayer *layer, ValueId v);

/* w [E,F,D], whose experts lie side by side as one matrix [E*F,D]. */
static const char *check_weights(DenseLayer *layer, ValueId w) {
  const Type t = type_of(layer, w);
  if (t.extent != NO_VALUE)
    refuse("the weights %s are ragged", name_of(layer, w));
  add_source(layer, w);
  return NULL;
}

static const char *check_first_product(DenseLayer *layer, const Inst *inst) {
  const Inst *dispatch = defined_by(layer->f, inst->input[0], OP_dispatch);
  if (dispatch == NULL || dispatch->input[1] != layer->pair)
    refuse("%s (%s) stands between dispatch and the product %s; the experts must read the tokens themselves",
           name_of(layer, inst->input[0]), op_of(layer, inst->input[0]), name_of(layer, inst->output[0]));
  if (inst_int(inst, ATTRIBUTE_tb, 0) == 0)
    refuse("%s reads weights [E,D,F]: the experts do not lie side by side in one matrix, as those of [E,F,D] do",
           name_of(layer, inst->output[0]));
  layer->first_products++;
  take(layer, inst->input[0]);
  add_source(layer, dispatch->input[0]);
  return check_weights(layer, inst->input[1]);
}

/* Draws at token*E+expert of F columns are, element by element, draws at token of E*F columns. */
static const char *check_draw(DenseLayer *layer, const Inst *inst) {
  ValueId source;
  if (!dense_pair_index(layer, inst->input[0], &source))
    refuse("%s draws at an index that is not token * %lld + expert", name_of(layer, inst->output[0]),
           (long long)expert_count(layer));
  add_source(layer, source);
  add_source(layer, inst->input[1]);
  return NULL;
}

/* What is the same for all packed rows: a scalar, or one row of columns. */
static const char *check_constant(DenseLayer *layer, ValueId v) {
  const Type t = type_of(layer, v);
  const bool one_row = t.rank < 2 || (t.rank == 2 && dim_value(layer->f->module, t.dim[0]) == 1);
  if (t.extent != NO_VALUE || !one_row)
    refuse("%s is %s, neither rows packed by %s nor one row for all of them", name_of(layer, v), type_text(layer->f, t),
           name_of(layer, layer->off));
  add_source(layer, v);
  return NULL;
}

static const char *check_operands(DenseLayer *layer, const Inst *inst) {
  const int count = inst->op == OP_broadcast ? 1 : inst->input_count; /* the second one only names the ragged dim */
  for (int k = 0; k < count; k++)
    attempt(check_hidden(layer, inst->input[k]));
  return NULL;
}

static const char *check_hidden(DenseLayer *layer, ValueId v) {
  if (!is_packed(layer, v))
    return check_constant(layer, v);
  const Inst *inst = definition(layer->f, v);
  if (inst == NULL || type_of(layer, v).rank != 2)
    refuse("%s is %s, expected rows of hidden columns", name_of(layer, v), type_text(layer->f, type_of(layer, v)));
  if (layer->inside[layer->f->values[v].inst])
    return NULL;
  take(layer, v);
  if (op_info[inst->op].flags & FLAG_ELEMENTWISE)
    return check_operands(layer, inst);
  switch (inst->op) {
  case OP_grouped_matmul:
    return check_first_product(layer, inst);
  case OP_expand:
    add_source(layer, inst->input[0]);
    return NULL;
  case OP_uniform:
    return check_draw(layer, inst);
  default:
    refuse("%s (%s) is not elementwise over the hidden columns", name_of(layer, v), op_info[inst->op].name);
  }
}

/* ---------------------------------------------------------------- the layer, from y back to hidden columns */

/* How many elements of a row of [N,E] can differ from 0. */
static int64_t most_selected(const DenseLayer *layer, ValueId v) {
  const int64_t experts = expert_count(layer);
  const Type t = type_of(layer, v);
  const Inst *inst = definition(layer->f, v);
  if (inst == NULL || t.rank != 2 || dim_value(layer->f->module, t.dim[1]) != experts)
    return experts;
  int64_t most = experts;
  switch (inst->op) {
  case OP_topk_mask:
    return inst_int(inst, ATTRIBUTE_k, experts);
  case OP_one_hot:
    return 1;
  case OP_stop:
  case OP_cast:
  case OP_reshape:
    return most_selected(layer, inst->input[0]);
  case OP_mul:
    for (int k = 0; k < 2; k++) {
      const int64_t own = most_selected(layer, inst->input[k]);
      most = own < most ? own : most;
    }
    return most;
  case OP_add:
  case OP_maximum:
    most = most_selected(layer, inst->input[0]) + most_selected(layer, inst->input[1]);
    return most < experts ? most : experts;
  default:
    return experts;
  }
}

/* The packed form reports a gate that selects more than it promised. The wide form has no bound to report, so the
 * promise must be provable. */
static const char *check_bounds(DenseLayer *layer, const Inst *route) {
  const Module *m = layer->f->module;
  const int64_t promised = inst_int(route, ATTRIBUTE_k, expert_count(layer));
  const int64_t provable = most_selected(layer, layer->mask);
  const int64_t bound = dim_value(m, type_of(layer, layer->pair).dim[0]);
  layer->most = provable < promised ? provable : promised;
  if (provable > promised)
    refuse("that a token selects at most %lld of %lld experts must be checked at run time, which the packed form does",
           (long long)promised, (long long)expert_count(layer));
  if (bound < layer->most * dim_value(m, layer->tokens))
    refuse("that at most %lld pairs are selected must be checked at run time, which the packed form does",
           (long long)bound);
  return NULL;
}

static const char *match_routing(DenseLayer *layer) {
  const Inst *combine = &layer->f->insts[layer->combine];
  const Inst *route = defined_by(layer->f, combine->input[1], OP_route);
  layer->slot = combine->input[1];
  layer->pair = combine->input[2];
  layer->off = type_of(layer, layer->pair).extent;
  if (route == NULL || route->output[0] != layer->pair)
    refuse("its packed rows are not those of one route");
  layer->mask = route->input[0];
  layer->tokens = type_of(layer, layer->mask).dim[0];
  layer->experts = type_of(layer, layer->mask).dim[1];
  layer->columns = dim_value(layer->f->module, type_of(layer, combine->output[0]).dim[1]);
  return check_bounds(layer, route);
}

/* o = experts' output * pack(weight), either way round. Sets *body to the experts' output. */
static const char *match_weight(DenseLayer *layer, ValueId o, ValueId *body) {
  const Inst *mul = defined_by(layer->f, o, OP_mul);
  for (int k = 0; mul != NULL && k < 2; k++) {
    const Inst *pack = defined_by(layer->f, mul->input[k], OP_pack);
    if (pack == NULL || pack->input[1] != layer->pair)
      continue;
    layer->weight = pack->input[0];
    *body = mul->input[1 - k];
    take(layer, o);
    take(layer, mul->input[k]);
    return NULL;
  }
  refuse("%s (%s), which combine sums, is not the experts' output times its weight", name_of(layer, o),
         op_of(layer, o));
}

/* body = grouped_matmul(hidden, w2), or that plus expand(b2). */
static const char *match_second_product(DenseLayer *layer, ValueId body) {
  ValueId product = body;
  const Inst *sum = defined_by(layer->f, body, OP_add);
  layer->b2 = NO_VALUE;
  for (int k = 0; sum != NULL && k < 2; k++) {
    const Inst *bias = defined_by(layer->f, sum->input[k], OP_expand);
    if (bias == NULL || bias->input[1] != layer->off)
      continue;
    layer->b2 = bias->input[0];
    product = sum->input[1 - k];
    take(layer, body);
    take(layer, sum->input[k]);
    break;
  }
  const Inst *inst = defined_by(layer->f, product, OP_grouped_matmul);
  if (inst == NULL || inst->input[2] != layer->off)
    refuse("%s (%s) stands between the second product and combine, where only the expert's bias may",
           name_of(layer, product), op_of(layer, product));
  if (inst_int(inst, ATTRIBUTE_tb, 0) != 0)
    refuse("%s reads weights [E,D,F]: the experts do not lie side by side in one matrix, as those of [E,F,D] do",
           name_of(layer, product));
  take(layer, product);
  layer->hidden = inst->input[0];
  layer->w2 = inst->input[1];
  layer->rows = dim_value(layer->f->module, type_of(layer, layer->hidden).dim[1]);
  return check_weights(layer, layer->w2);
}

static const char *match_layer(DenseLayer *layer) {
  const ValueId packed = layer->f->insts[layer->combine].input[0];
  ValueId body = NO_VALUE;
  attempt(match_routing(layer));
  attempt(match_weight(layer, packed, &body));
  attempt(match_second_product(layer, body));
  if (!is_packed(layer, layer->hidden))
    refuse("%s is not packed by %s", name_of(layer, layer->hidden), name_of(layer, layer->off));
  attempt(check_hidden(layer, layer->hidden));
  if (layer->first_products == 0)
    refuse("%s does not depend on the tokens", name_of(layer, layer->hidden));
  add_source(layer, layer->mask);
  add_source(layer, layer->weight);
  if (layer->b2 != NO_VALUE)
    add_source(layer, layer->b2);
  return NULL;
}

/* ---------------------------------------------------------------- what else reads packed rows */

static const DenseLayer *layer_at(const DenseLayer *layers, uint32_t inst) {
  for (uint32_t i = 0; i < vec_len(layers); i++)
    if (layers[i].combine == inst && layers[i].refusal == NULL)
      return &layers[i];
  return NULL;
}

static void mark(const Func *f, bool *needed, ValueId v) {
  needed[v] = true;
  if (f->values[v].type.extent != NO_VALUE)
    needed[f->values[v].type.extent] = true;
}

bool *dense_live(const Func *f, const DenseLayer *layers) {
  Arena *arena = f->module->arena;
  bool *needed = arena_alloc(arena, vec_len(f->values) + 1), *live = arena_alloc(arena, vec_len(f->insts) + 1);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    mark(f, needed, f->results[i].value);
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    const DenseLayer *layer = layer_at(layers, i);
    for (int k = 0; k < inst->output_count; k++)
      live[i] |= needed[inst->output[k]];
    for (uint32_t k = 0; live[i] && layer != NULL && k < vec_len(layer->sources); k++)
      mark(f, needed, layer->sources[k]);
    for (int k = 0; live[i] && k < inst->output_count; k++)
      mark(f, needed, inst->output[k]);
    for (int k = 0; live[i] && layer == NULL && k < inst->input_count; k++)
      mark(f, needed, inst->input[k]);
  }
  return live;
}

/* Refuses the layers whose packed rows something else reads: both forms would run. Whether one was. */
static bool refuse_shared(const Func *f, DenseLayer *layers) {
  const bool *live = dense_live(f, layers);
  bool any = false;
  for (uint32_t l = 0; l < vec_len(layers); l++)
    for (uint32_t i = 0; layers[l].refusal == NULL && i < vec_len(f->insts); i++)
      if (layers[l].inside[i] && live[i]) {
        layers[l].refusal = arena_print(f->module->arena, "%s is also read outside of the layer",
                                        f->values[f->insts[i].output[0]].name);
        any = true;
      }
  return any;
}

DenseLayer *dense_match(const Func *f) {
  DenseLayer *layers = NULL;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    if (f->insts[i].op != OP_combine)
      continue;
    DenseLayer layer = {.f = f, .combine = i};
    layer.inside = arena_alloc(f->module->arena, vec_len(f->insts) + 1);
    layer.refusal = match_layer(&layer);
    vec_push(f->module->arena, layers, layer);
  }
  while (refuse_shared(f, layers)) /* a refused layer needs its packed rows, which another may have given up */
    ;
  return layers;
}
