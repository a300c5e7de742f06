/* What an MoE layer costs in packed and in wide form. See dense_experts.h.
 *
 * Counted is one run, forward and backward: products at the rate of their kind, and the bytes that row kernels read
 * and write at the rate of memory (rates.h), of floats on the CPU, of the model's precision on a GPU. What both forms
 * do alike (the gate, the selection) is left out. For a layer of N tokens, E experts, D columns, F hidden columns, p
 * products before the hidden columns:
 *
 *   products, per pair          6 (p+1) D F FLOP: forward 2, backward 4 times the multiply-adds
 *   hidden columns, per pair    4 (4p+2) F bytes: forward reads p and writes 1 row of F floats, backward reads p+1 and
 *                               writes p, the biases' gradients read p; on a GPU in bf16 only the last, where packed:
 *                               the rest is done by the products' epilogues
 *   packed rows, per pair       32 D bytes: dispatch 2 rows of D floats, combine 1, backward of combine 2 and of the
 *                               weights 1, gradient of b2 1, backward of dispatch 1
 *   packed, always              3 (p+1) E products that are started, on a GPU 3 (p+1), 8 N D bytes of combined rows
 *   wide, always                N E pairs, and 36 N D bytes: rows selected, products added, and their backward
 */
#include "passes/dense_experts.h"

#define SMALLEST_CROSSOVER 0.01

/* Only ratios of rates enter the crossover; `TRAINER train --tune` measures it on the machine that trains. */
typedef struct Counts {
  double flops, bytes, launches;
} Counts;

static bool is_bf16(const Module *m) {
  return m->precision == DTYPE_BF16;
}

/* Of an element of a row: the CPU's rates were fitted with rows counted as floats. */
static double element_bytes(const Module *m, const Rates *rates) {
  return (double)dtype_size(rates->gpu && is_bf16(m) ? DTYPE_BF16 : DTYPE_F32);
}

static Cost cost_of(Counts c, double flops_per_second, const Rates *rates) {
  const double seconds = c.flops / flops_per_second + c.bytes / rates->memory + c.launches * rates->launch;
  return (Cost){.bytes = c.bytes, .flops = c.flops, .launches = c.launches, .microseconds = 1e6 * seconds};
}

static Cost cost_add(Cost a, Cost b, double times) {
  return (Cost){a.bytes + times * b.bytes, a.flops + times * b.flops, a.launches + times * b.launches,
                a.microseconds + times * b.microseconds};
}

static double plain_rate(const Module *m, const Rates *rates) {
  return is_bf16(m) ? rates->product_bf16 : rates->product_f32;
}

static double grouped_rate(const Module *m, const Rates *rates) {
  return is_bf16(m) ? rates->grouped_bf16 : rates->grouped_f32;
}

const char *dense_rates(const Module *m, const Rates *rates) {
  return arena_print(m->arena, "products at %g GFLOP/s, grouped ones at %g, memory at %g GB/s",
                     1e-9 * plain_rate(m, rates), 1e-9 * grouped_rate(m, rates), 1e-9 * rates->memory);
}

/* One pair of a layer without what packing adds. `passes`: how often row kernels read or write hidden columns. */
static Counts count_pair(const DenseLayer *layer, double element, double passes) {
  const double p = layer->first_products, d = (double)layer->columns, f = (double)layer->rows;
  return (Counts){.flops = 6 * (p + 1) * d * f, .bytes = element * passes * f};
}

DensePrice dense_price(const DenseLayer *layers, const Rates *rates) {
  DensePrice price = {0};
  for (uint32_t i = 0; i < vec_len(layers); i++) {
    const DenseLayer *layer = &layers[i];
    if (layer->refusal != NULL)
      continue;
    const Module *m = layer->f->module;
    const double plain = plain_rate(m, rates), grouped = grouped_rate(m, rates), element = element_bytes(m, rates);
    const double d = (double)layer->columns, products = 3 * (layer->first_products + 1);
    const double n = (double)dim_value(m, layer->tokens), e = (double)dim_value(m, layer->experts);
    const double first = layer->first_products, passes = 4 * first + 2;
    const bool epilogues = rates->gpu && is_bf16(m); /* do all but the sums of the biases' gradients */
    const Counts pair = count_pair(layer, element, epilogues ? first : passes);
    const Counts wide_pair = count_pair(layer, element, passes);
    /* packed, a group is one more start of a product on the CPU; on a GPU all of them are one launch */
    const Counts packed_fixed = {.bytes = element * 2 * n * d, .launches = rates->gpu ? products : products * e};
    const Counts packed_pair = {.flops = pair.flops, .bytes = pair.bytes + element * 8 * d};
    const Counts wide = {
        .flops = n * e * wide_pair.flops, .bytes = n * e * wide_pair.bytes + element * 9 * n * d, .launches = products};
    price.packed_fixed = cost_add(price.packed_fixed, cost_of(packed_fixed, grouped, rates), 1);
    price.packed_per_token = cost_add(price.packed_per_token, cost_of(packed_pair, grouped, rates), n);
    price.wide = cost_add(price.wide, cost_of(wide, plain, rates), 1);
  }
  price.crossover = (price.wide.microseconds - price.packed_fixed.microseconds) / price.packed_per_token.microseconds;
  if (price.crossover < SMALLEST_CROSSOVER) /* wide is cheaper at any density; 0 would mean that there is one version */
    price.crossover = SMALLEST_CROSSOVER;
  return price;
}

Cost dense_packed_cost(const DensePrice *price, double experts_per_token) {
  return cost_add(price->packed_fixed, price->packed_per_token, experts_per_token);
}
