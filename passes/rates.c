/* The rates of the two targets. See rates.h.
 *
 * CPU: two cores of x86-64-v4 with oneDNN. Plain and grouped products, memory and launch were fitted to the CPU time of
 * a step of gpt_evomoe at size=demo, on one thread, packed with 1 and with 8 experts per token and wide (dense_cost.c);
 * bf16 products are taken to be twice as fast. Attention in f32: twice the 200 GFLOP/s of one core
 * (docs/performance.md). The rates of running again are those of activations that the caches do not hold.
 *
 * GPU: an H200. What it cannot exceed: 790 TFLOP/s in bf16 products, measured at 8192^3 with random numbers, 4.3 TB/s
 * of a copy, measured; 67 TFLOP/s in f32 by NVIDIA's data sheet, where TF32 stays off. What passes price with is what
 * good kernels have been seen to reach on Hopper: products with a depth of 1024 at 660, grouped ones at 600, attention
 * with heads of 64 columns at 250 and 215, memory at 3.9 TB/s. Row kernels: 132 processors x 128 lanes x 1.7 GHz, one
 * operation a cycle. A launch: the gap between two kernels of a graph. */
#include "passes/rates.h"

#include <stddef.h>

const Rates rates_cpu = {
    .name = "2 cores of x86-64-v4",
    .product_f32 = 440e9,
    .product_bf16 = 880e9,
    .grouped_f32 = 415e9,
    .grouped_bf16 = 830e9,
    .attention = 400e9,
    .attention_grad = 400e9,
    .row = 100e9,
    .memory = 40e9,
    .launch = 3e-6,
    .again_product = 400e9,
    .again_memory = 20e9,
    .price = 4000,
};

static const Rates h200_bound = {
    .name = "an H200's limits",
    .product_f32 = 67e12,
    .product_bf16 = 790e12,
    .grouped_f32 = 67e12,
    .grouped_bf16 = 790e12,
    .attention = 790e12,
    .attention_grad = 790e12,
    .row = 28e12,
    .memory = 4.3e12,
};

const Rates rates_cuda = {
    .name = "an H200",
    .product_f32 = 50e12,
    .product_bf16 = 660e12,
    .grouped_f32 = 25e12,
    .grouped_bf16 = 600e12,
    .attention = 250e12,
    .attention_grad = 215e12,
    .row = 28e12,
    .memory = 3.9e12,
    .launch = 1.5e-6,
    .again_product = 660e12,
    .again_memory = 3.9e12,
    .price = 8e6,
    .gpu = true,
    .bound = &h200_bound,
};

#define FIELD(name, unit)                                                                                              \
  { #name, unit, offsetof(Rates, name) }
const RatesField rates_fields[] = {
    FIELD(product_f32, "FLOP/s"),
    FIELD(product_bf16, "FLOP/s"),
    FIELD(grouped_f32, "FLOP/s"),
    FIELD(grouped_bf16, "FLOP/s"),
    FIELD(attention, "FLOP/s"),
    FIELD(attention_grad, "FLOP/s"),
    FIELD(row, "operations/s"),
    FIELD(memory, "bytes/s"),
    FIELD(launch, "s"),
    FIELD(again_product, "FLOP/s"),
    FIELD(again_memory, "bytes/s"),
    FIELD(price, "bytes/us"),
    {NULL, NULL, 0},
};
