/* Shared by the files of the pass dense_experts: dense_match.c finds layers and says which are legal, dense_cost.c
 * prices both forms, dense_experts.c makes the second function. */
#ifndef MOEC_DENSE_EXPERTS_H
#define MOEC_DENSE_EXPERTS_H

#include "passes/pass.h"

/* One packed MoE layer of a function:
 *
 *   pair, off, slot = route mask
 *   hidden = elementwise(grouped_matmul(dispatch x, w1, off) {tb=1}, expand b1, ...)     [R<off>,F]
 *   y = combine(mul(add(grouped_matmul(hidden, w2, off), expand b2), pack weight))
 */
typedef struct DenseLayer {
  const Func *f;
  uint32_t combine; /* the instruction that makes y */
  ValueId mask, pair, off, slot, weight, hidden, w2;
  ValueId b2;            /* [E,D], NO_VALUE when the experts have none */
  Dim tokens, experts;   /* of the mask */
  int64_t columns, rows; /* D, F */
  int64_t most;          /* experts that a token selects at most */
  int first_products;    /* grouped products before the hidden columns: 1, or more in gated experts */
  bool *inside;          /* by instruction: works on packed rows for this layer alone */
  ValueId *sources;      /* arena vector: all that the layer reads from outside */
  const char *refusal;   /* NULL, or why it cannot be one wide FFN */
} DenseLayer;

/* Every layer of `f`, in order: an arena vector. Layers that share packed rows with anything else are refused. */
DenseLayer *dense_match(const Func *f);

/* By instruction: whether a result needs it when the layers without a refusal read their sources only. */
bool *dense_live(const Func *f, const DenseLayer *layers);

/* Whether v is (source[t] * E + e) for the pair t*E+e, the index of random draws in experts; sets *source. */
bool dense_pair_index(const DenseLayer *layer, ValueId v, ValueId *source);

/* What the layers without a refusal cost together, forward and backward, on every run of the function. */
typedef struct DensePrice {
  Cost packed_fixed, packed_per_token; /* packed: fixed + per_token * (experts per token) */
  Cost wide;
  double crossover; /* experts per token at which both cost the same; may lie beyond the number of experts */
} DensePrice;

DensePrice dense_price(const DenseLayer *layers, const Rates *rates);
/* Of all layers without a refusal, in packed form. */
Cost dense_packed_cost(const DensePrice *price, double experts_per_token);
const char *dense_rates(const Module *m, const Rates *rates); /* the rates of the prices, in words */

#endif
