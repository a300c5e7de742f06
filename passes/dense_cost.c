/* What an MoE layer costs in packed and in wide form. See dense_experts.h.
 *
 * Counted is one run, forward and backward: products at the rate of their kind, and the bytes that row kernels read
 * and write at the rate of memory. What both forms do alike (the gate, the selection) is left out. For a layer of N
 * tokens, E experts, D columns, F hidden columns, p products before the hidden columns:
 *
 *   products, per pair          6 (p+1) D F FLOP: forward 2, backward 4 times the multiply-adds
 *   hidden columns, per pair    4 (4p+2) F bytes: forward reads p and writes 1 row of F floats, backward reads p+1 and
 *                               writes p, the biases' gradients read p
 *   packed rows, per pair       32 D bytes: dispatch 2 rows of D floats, combine 1, backward of combine 2 and of the
 *                               weights 1, gradient of b2 1, backward of dispatch 1
 *   packed, always              3 (p+1) E products that are started, 8 N D bytes of combined rows
 *   wide, always                N E pairs, and 36 N D bytes: rows selected, products added, and their backward
 */
#include "passes/dense_experts.h"

enum { FLOAT_BYTES = 4 };
#define SMALLEST_CROSSOVER 0.01

/* Of the CPU target: two cores of x86-64-v4 with oneDNN, f32; products of bf16 are taken to be twice as fast. Fitted to
 * the CPU time of a step of gpt_evomoe at size=demo, on one thread, packed with 1 and with 8 experts per token and
 * wide. Only ratios enter the crossover; `TRAINER train --tune` measures it on the machine that trains. */
static const double wide_flops = 440e9, packed_flops = 415e9; /* per second, in plain and in grouped products */
static const double memory_bytes = 40e9;                      /* per second */
static const double start_seconds = 3e-6;                     /* of every product that is started */

typedef struct Counts {
  double flops, bytes, launches;
} Counts;

static double product_speedup(const Module *m) {
  return m->precision == DTYPE_BF16 ? 2 : 1;
}

static Cost cost_of(Counts c, double flops_per_second) {
  const double seconds = c.flops / flops_per_second + c.bytes / memory_bytes + c.launches * start_seconds;
  return (Cost){.bytes = c.bytes, .flops = c.flops, .launches = c.launches, .microseconds = 1e6 * seconds};
}

static Cost cost_add(Cost a, Cost b, double times) {
  return (Cost){a.bytes + times * b.bytes, a.flops + times * b.flops, a.launches + times * b.launches,
                a.microseconds + times * b.microseconds};
}

const char *dense_rates(const Module *m) {
  const double speedup = product_speedup(m);
  return arena_print(m->arena, "products at %g GFLOP/s, grouped ones at %g, memory at %g GB/s",
                     1e-9 * speedup * wide_flops, 1e-9 * speedup * packed_flops, 1e-9 * memory_bytes);
}

/* One pair of a layer without what packing adds. */
static Counts count_pair(const DenseLayer *layer) {
  const double p = layer->first_products, d = (double)layer->columns, f = (double)layer->rows;
  return (Counts){.flops = 6 * (p + 1) * d * f, .bytes = FLOAT_BYTES * (4 * p + 2) * f};
}

DensePrice dense_price(const DenseLayer *layers) {
  DensePrice price = {0};
  for (uint32_t i = 0; i < vec_len(layers); i++) {
    const DenseLayer *layer = &layers[i];
    if (layer->refusal != NULL)
      continue;
    const Module *m = layer->f->module;
    const double speedup = product_speedup(m);
    const double d = (double)layer->columns, products = 3 * (layer->first_products + 1);
    const double n = (double)dim_value(m, layer->tokens), e = (double)dim_value(m, layer->experts);
    const Counts pair = count_pair(layer);
    const Counts packed_fixed = {.bytes = FLOAT_BYTES * 2 * n * d, .launches = products * e};
    const Counts packed_pair = {.flops = pair.flops, .bytes = pair.bytes + FLOAT_BYTES * 8 * d};
    const Counts wide = {
        .flops = n * e * pair.flops, .bytes = n * e * pair.bytes + FLOAT_BYTES * 9 * n * d, .launches = products};
    price.packed_fixed = cost_add(price.packed_fixed, cost_of(packed_fixed, speedup * packed_flops), 1);
    price.packed_per_token = cost_add(price.packed_per_token, cost_of(packed_pair, speedup * packed_flops), n);
    price.wide = cost_add(price.wide, cost_of(wide, speedup * wide_flops), 1);
  }
  price.crossover = (price.wide.microseconds - price.packed_fixed.microseconds) / price.packed_per_token.microseconds;
  if (price.crossover < SMALLEST_CROSSOVER) /* wide is cheaper at any density; 0 would mean that there is one version */
    price.crossover = SMALLEST_CROSSOVER;
  return price;
}

Cost dense_packed_cost(const DensePrice *price, double experts_per_token) {
  return cost_add(price->packed_fixed, price->packed_per_token, experts_per_token);
}
