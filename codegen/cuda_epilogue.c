/* Which kernels an epilogue of the library can replace.
 *
 * In: a function as it is lowered for CUDA. Out: pairs of a product and a kernel (cuda_epilogue.h). Holds: what the
 * product gives alone is read by the kernel and by nobody else; what the kernel gives is not read before the product
 * stands; no instruction belongs to two pairs. The ledger says of every product what became available, or why not.
 */
#include "codegen/cuda_epilogue.h"

#include <string.h>

#include "ir/rows.h"
#include "passes/ledger.h"

typedef struct Finder {
  const Lower *l;
  const Func *f;
  const uint32_t *uses;
  bool copies; /* parameters of the function's table are kept in bf16 */
  double (*room)[EPILOGUE_SAMPLES];
  CudaPair **pairs; /* by instruction */
} Finder;

static DType dtype_of(const Finder *s, ValueId v) {
  return s->f->values[v].type.dtype;
}

/* What leaves the kernel. */
static ValueId *kernel_results(const Finder *s, uint32_t first, uint32_t last) {
  ValueId *results = NULL;
  for (uint32_t k = first; k <= last; k++)
    for (int o = 0; o < s->f->insts[k].output_count; o++)
      if (s->l->last_use[s->f->insts[k].output[o]] > last)
        vec_push(s->l->arena, results, s->f->insts[k].output[o]);
  return results;
}

static uint32_t reads_within(const Func *f, uint32_t first, uint32_t last, ValueId v) {
  uint32_t reads = 0;
  for (uint32_t k = first; k <= last; k++)
    for (int i = 0; i < f->insts[k].input_count; i++)
      reads += f->insts[k].input[i] == v;
  return reads;
}

/* The library adds a bias of the result's type: f32, or the copy in bf16 of a parameter. */
static bool can_add(const Finder *s, ValueId bias, DType result) {
  return bias == NO_VALUE || dtype_of(s, bias) == result ||
         (result == DTYPE_BF16 && s->copies && cuda_copied_parameter(s->f, bias) != NO_VALUE);
}

/* f32 operands have no bf16 result. */
static bool can_give(const Finder *s, const CudaPair *pair, ValueId result) {
  return dtype_of(s, result) == DTYPE_F32 || dtype_of(s, s->f->insts[pair->product].input[0]) == DTYPE_BF16;
}

/* Whether the value is there when the product is made; of two products that a kernel adds, the later one adds. */
static bool is_earlier(const Finder *s, ValueId v, uint32_t product) {
  return v == NO_VALUE || s->f->values[v].kind != VALUE_RESULT || s->f->values[v].inst < product;
}

/* ---------------------------------------------------------------- kernels behind a product */

static bool find_sum(const Finder *s, const Samples *body, ValueId product, CudaPair *pair, ValueId result) {
  ValueId *biases = samples_operands(body, product, true), *residuals = samples_operands(body, product, false);
  double sum[EPILOGUE_SAMPLES], gelu[EPILOGUE_SAMPLES];
  vec_push(s->l->arena, biases, NO_VALUE);
  vec_push(s->l->arena, residuals, NO_VALUE);
  for (uint32_t b = 0; b < vec_len(biases); b++)
    for (uint32_t r = 0; r < vec_len(residuals); r++) {
      if (residuals[r] == product || !is_earlier(s, residuals[r], pair->product) ||
          (biases[b] == NO_VALUE && residuals[r] == NO_VALUE) || !can_add(s, biases[b], dtype_of(s, result)) ||
          !can_give(s, pair, result) || (residuals[r] != NO_VALUE && dtype_of(s, residuals[r]) != dtype_of(s, result)))
        continue;
      samples_sum(body, product, biases[b], residuals[r], sum);
      samples_gelu(sum, gelu);
      pair->bias = biases[b];
      pair->residual = residuals[r];
      pair->result = result;
      pair->epilogue = biases[b] == NO_VALUE ? EPILOGUE_SUM : EPILOGUE_BIAS;
      if (samples_equal(body->number[result], sum))
        return true;
      pair->epilogue = EPILOGUE_GELU_BIAS;
      if (residuals[r] == NO_VALUE && samples_equal(body->number[result], gelu))
        return true;
    }
  return false;
}

/* gelu(product + bias), where the kernel also gives product + bias. */
static bool find_kept(const Finder *s, const Samples *body, ValueId product, CudaPair *pair, const ValueId *results) {
  double sum[EPILOGUE_SAMPLES];
  for (uint32_t i = 0; i < 2; i++) {
    const ValueId aux = results[1 - i];
    if (dtype_of(s, aux) != dtype_of(s, results[i]) || !find_sum(s, body, product, pair, results[i]) ||
        pair->epilogue != EPILOGUE_GELU_BIAS)
      continue;
    samples_sum(body, product, pair->bias, NO_VALUE, sum);
    if (!samples_equal(body->number[aux], sum))
      continue;
    pair->epilogue = EPILOGUE_GELU_AUX_BIAS;
    pair->aux = aux;
    return true;
  }
  return false;
}

/* The library gives column sums in the type of the result; a sum in f32 is widened from that. */
static bool can_give_sums(const Finder *s, ValueId sum, DType result) {
  return dtype_of(s, sum) == DTYPE_F32 || dtype_of(s, sum) == result;
}

static bool is_column_sum_of(const Finder *s, const Samples *body, ValueId v, const CudaPair *pair,
                             const double sum[EPILOGUE_SAMPLES]) {
  const Inst *inst = &s->f->insts[s->f->values[v].inst];
  return row_is_column_sum(s->f, inst) && can_give_sums(s, v, dtype_of(s, pair->result)) &&
         samples_equal(body->number[inst->input[0]], sum);
}

/* Whether a result of the kernel follows from the product otherwise than by way of `given`, which may be NO_VALUE. */
static bool follows(const Samples *body, ValueId result, ValueId product, ValueId given) {
  const Func *f = body->f;
  bool *from = arena_alloc(f->module->arena, body->last - body->first + 1);
  for (uint32_t k = body->first; k <= body->last; k++)
    for (int i = 0; i < f->insts[k].input_count; i++) {
      const Value *value = &f->values[f->insts[k].input[i]];
      bool inside =
          value->kind == VALUE_RESULT && value->inst >= body->first && value->inst < k && f->insts[k].input[i] != given;
      from[k - body->first] |= f->insts[k].input[i] == product || (inside && from[value->inst - body->first]);
    }
  return from[f->values[result].inst - body->first];
}

/* The result that is product * gelu'(kept), its column sums, and the rest, which must not need the product. */
static bool sort_results(const Finder *s, const Samples *body, ValueId product, CudaPair *pair,
                         const ValueId *results) {
  double gradient[EPILOGUE_SAMPLES];
  samples_gelu_gradient(body->number[product], body->number[pair->aux], gradient);
  for (uint32_t k = 0; k < vec_len(results); k++)
    if (dtype_of(s, results[k]) == dtype_of(s, pair->aux) && samples_equal(body->number[results[k]], gradient))
      pair->result = results[k];
  for (uint32_t k = 0; pair->result != NO_VALUE && k < vec_len(results); k++) {
    if (results[k] == pair->result)
      continue;
    if (pair->bias == NO_VALUE && is_column_sum_of(s, body, results[k], pair, gradient))
      pair->bias = results[k];
    else if (!follows(body, results[k], product, NO_VALUE))
      vec_push(s->l->arena, pair->rest, results[k]);
    else
      return false;
  }
  return pair->result != NO_VALUE;
}

static bool find_gelu_gradient(const Finder *s, const Samples *body, ValueId product, CudaPair *pair,
                               const ValueId *results) {
  const ValueId *kept = samples_operands(body, product, false);
  for (uint32_t i = 0; i < vec_len(kept); i++) {
    pair->aux = kept[i];
    pair->result = pair->bias = pair->residual = NO_VALUE;
    pair->rest = NULL;
    if (kept[i] == product || !is_earlier(s, kept[i], pair->product) || dtype_of(s, kept[i]) != dtype_of(s, product) ||
        !sort_results(s, body, product, pair, results))
      continue;
    pair->epilogue = pair->bias == NO_VALUE ? EPILOGUE_DGELU : EPILOGUE_DGELU_BGRAD;
    return true;
  }
  return false;
}

/* A result that is the product, a bias and a matrix, from which all the others follow: what a layer norm's kernel makes
 * of a residual connection. The rest is done by a kernel that reads the sum. */
static bool find_residual(const Finder *s, const Samples *body, ValueId product, CudaPair *pair,
                          const ValueId *results) {
  for (uint32_t i = 0; i < vec_len(results); i++) {
    const ValueId sum = results[i];
    bool alone = type_elements(s->l->module, s->f->values[sum].type) ==
                     type_elements(s->l->module, s->f->values[product].type) &&
                 find_sum(s, body, product, pair, sum) && pair->residual != NO_VALUE;
    pair->rest = NULL;
    for (uint32_t k = 0; alone && k < vec_len(results); k++) {
      alone = results[k] == sum || !follows(body, results[k], product, sum);
      if (results[k] != sum)
        vec_push(s->l->arena, pair->rest, results[k]);
    }
    if (alone)
      return true;
  }
  pair->residual = pair->bias = NO_VALUE;
  pair->rest = NULL;
  return false;
}

/* NULL, or why not. */
static const char *find_behind(const Finder *s, uint32_t product, CudaPair *pair) {
  const ValueId v = s->f->insts[product].output[0];
  uint32_t reader = product + 1;
  while (reader < vec_len(s->f->insts) && reads_within(s->f, reader, reader, v) == 0)
    reader++;
  if (reader == vec_len(s->f->insts) || !row_op(s->f, &s->f->insts[reader]))
    return "no kernel reads it first";
  uint32_t first = reader;
  while (first > 0 && s->f->insts[reader].group != NO_GROUP &&
         s->f->insts[first - 1].group == s->f->insts[reader].group)
    first--;
  const uint32_t last = kernel_end(s->f, first);
  if (s->pairs[first] || reads_within(s->f, first, last, v) != s->uses[v])
    return "more than one kernel reads it";
  *pair = (CudaPair){.product = product, .first = first, .last = last, .aux = NO_VALUE, .residual = NO_VALUE};
  const ValueId *results = kernel_results(s, first, last);
  const Samples body = samples_take(s->f, first, last, s->room);
  if (vec_len(results) == 1 && find_sum(s, &body, v, pair, results[0]))
    return NULL;
  pair->residual = NO_VALUE;
  if (vec_len(results) > 1 && find_residual(s, &body, v, pair, results))
    return NULL;
  if ((vec_len(results) == 2 && find_kept(s, &body, v, pair, results)) ||
      find_gelu_gradient(s, &body, v, pair, results))
    return NULL;
  return first == last
             ? "the kernel that reads it adds neither a bias nor a matrix"
             : "the kernel that reads it is more than a bias, a matrix or GELU in types that the library takes";
}

/* ---------------------------------------------------------------- column sums beside a product */

/* The value behind casts. */
static ValueId behind_casts(const Func *f, ValueId v) {
  while (f->values[v].kind == VALUE_RESULT && f->insts[f->values[v].inst].op == OP_cast)
    v = f->insts[f->values[v].inst].input[0];
  return v;
}

/* The instruction that reads the value first, views passed; UINT32_MAX: none does. */
static uint32_t first_reader(const Func *f, ValueId v) {
  uint32_t first = UINT32_MAX;
  for (uint32_t k = f->values[v].inst + 1; k < vec_len(f->insts) && k < first; k++) {
    const Inst *inst = &f->insts[k];
    if (reads_within(f, k, k, v) == 0)
      continue;
    bool view = op_info[inst->op].flags & FLAG_VIEW;
    for (int o = 0; view && o < inst->output_count; o++) {
      const uint32_t reader = first_reader(f, inst->output[o]);
      first = reader < first ? reader : first;
    }
    first = view ? first : k;
  }
  return first;
}

/* A kernel that does nothing but sum the rows of what the product, a gradient of weights, reads transposed. */
static bool find_beside(const Finder *s, uint32_t product, CudaPair *pair) {
  const Inst *inst = &s->f->insts[product];
  const ValueId operand = behind_casts(s->f, inst->input[0]);
  const DType result = dtype_of(s, inst->output[0]);
  if (!inst_int(inst, ATTRIBUTE_ta, 0))
    return false;
  for (uint32_t first = 0; first < vec_len(s->f->insts); first = kernel_end(s->f, first) + 1) {
    const uint32_t last = kernel_end(s->f, first);
    const ValueId sum = s->f->insts[last].output_count ? s->f->insts[last].output[0] : NO_VALUE;
    if (s->pairs[first] || !row_is_column_sum(s->f, &s->f->insts[last]) || !can_give_sums(s, sum, result) ||
        behind_casts(s->f, s->f->insts[last].input[0]) != operand)
      continue;
    const ValueId *results = kernel_results(s, first, last);
    const uint32_t end = first < product ? product : last;
    if (vec_len(results) != 1 || results[0] != sum || first_reader(s->f, sum) < end ||
        first_reader(s->f, inst->output[0]) < end)
      continue;
    *pair = (CudaPair){.epilogue = EPILOGUE_BGRADB,
                       .product = product,
                       .first = first,
                       .last = last,
                       .result = inst->output[0],
                       .bias = sum,
                       .aux = NO_VALUE,
                       .residual = NO_VALUE};
    return true;
  }
  return false;
}

/* ---------------------------------------------------------------- all pairs */

/* What the product does besides; a bias may come with a matrix. */
static const char *const epilogue_text[] = {[EPILOGUE_SUM] = "adds a matrix",
                                            [EPILOGUE_BIAS] = "adds a bias",
                                            [EPILOGUE_GELU_BIAS] = "adds a bias and applies GELU",
                                            [EPILOGUE_GELU_AUX_BIAS] = "adds a bias, keeps that and applies GELU",
                                            [EPILOGUE_DGELU] = "multiplies with the slope of GELU at what was kept",
                                            [EPILOGUE_DGELU_BGRAD] =
                                                "multiplies with the slope of GELU at what was kept and sums rows",
                                            [EPILOGUE_BGRADB] = "sums the rows of its first operand"};

static Cost kernel_cost(const Finder *s, uint32_t first, uint32_t last) {
  Cost cost = {.flops = -1, .launches = 1, .microseconds = -1};
  const ValueId *results = kernel_results(s, first, last);
  for (uint32_t k = first; k <= last; k++)
    for (int i = 0; i < s->f->insts[k].input_count; i++) {
      const Value *value = &s->f->values[s->f->insts[k].input[i]];
      bool inside = value->kind == VALUE_RESULT && value->inst >= first && value->inst <= last;
      cost.bytes += inside ? 0 : (double)type_bytes(s->l->module, value->type);
    }
  for (uint32_t k = 0; k < vec_len(results); k++) {
    cost.bytes += (double)type_bytes(s->l->module, s->f->values[results[k]].type);
  }
  return cost;
}

static void record(const Finder *s, uint32_t product, const CudaPair *pair, const char *reason) {
  const Inst *inst = &s->f->insts[product];
  if (!s->l->cuda->ledger)
    return;
  Site site = {.pass = "epilogue", .function = s->f->name, .loc = inst->loc};
  vec_push(s->l->arena, site.values, s->f->values[inst->output[0]].name);
  Alternative *alternatives = NULL;
  if (pair)
    vec_push(s->l->arena, alternatives,
             ((Alternative){"a kernel of its own beside the product", kernel_cost(s, pair->first, pair->last),
                            "the GPU times both at the first step and keeps the faster"}));
  decide(s->l->cuda->ledger, site,
         pair ? arena_print(s->l->arena, "available as an epilogue: the product also %s%s",
                            epilogue_text[pair->epilogue],
                            pair->bias != NO_VALUE && pair->residual != NO_VALUE ? " and a matrix" : "")
              : "a product without epilogue",
         alternatives, NO_COST, reason);
}

CudaPair **epilogue_pairs(const Lower *l) {
  const Func *f = l->func;
  Finder s = {.l = l, .f = f, .uses = row_count_uses(f, l->arena)};
  s.copies = f->table && cuda_has_copies(l->module, f->table);
  s.room = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *s.room);
  s.pairs = arena_alloc(l->arena, (vec_len(f->insts) + 1) * sizeof *s.pairs);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    if (!is_plain_product(f, i) || l->adds[i])
      continue;
    CudaPair pair = {0}, *found = NULL;
    const char *reason = find_behind(&s, i, &pair);
    if (reason && find_beside(&s, i, &pair))
      reason = NULL;
    if (!reason && pair.first > 0 && l->adds[pair.first - 1])
      reason = "the sum is made by the product in front of it, in its place";
    if (!reason) {
      found = arena_alloc(l->arena, sizeof *found);
      *found = pair;
      s.pairs[i] = found;
      for (uint32_t k = pair.first; k <= pair.last; k++)
        s.pairs[k] = found;
      reason = "what the kernel computes is this epilogue";
    }
    record(&s, i, found, reason);
  }
  return s.pairs;
}
