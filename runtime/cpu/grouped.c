/* Products of packed rows with the weights of their expert: one product per group that has rows, one after the other,
 * each with all threads. The cost follows the live rows; rows behind off[groups] are neither read nor written. */
#include "runtime/cpu/cpu.h"

static void *advance(CpuMatrix matrix, int64_t elements, PlanType type) {
  return (char *)matrix.data + elements * (int64_t)plan_type_size(type);
}

void cpu_grouped_gemm(const CpuGrouped *g) {
  for (int64_t e = 0; e < g->groups; e++) {
    int64_t begin = g->off[e];
    CpuGemm product = {.m = g->off[e + 1] - begin,
                       .n = g->n,
                       .k = g->k,
                       .tb = g->tb,
                       .ragged = true,
                       .a = {advance(g->a, begin * g->a.ld, g->type), g->a.ld},
                       .b = {advance(g->b, e * g->k * g->n, g->type), g->tb ? g->k : g->n},
                       .c = {advance(g->c, begin * g->c.ld, g->ctype), g->c.ld},
                       .type = g->type,
                       .ctype = g->ctype};
    cpu_gemm(&product);
  }
}

void cpu_grouped_outer(const CpuGrouped *g) {
  for (int64_t e = 0; e < g->groups; e++) {
    int64_t begin = g->off[e];
    CpuGemm product = {.m = g->m,
                       .n = g->n,
                       .k = g->off[e + 1] - begin,
                       .ta = true,
                       .ragged = true,
                       .a = {advance(g->a, begin * g->a.ld, g->type), g->a.ld},
                       .b = {advance(g->b, begin * g->b.ld, g->type), g->b.ld},
                       .c = {advance(g->c, e * g->m * g->n, g->ctype), g->n},
                       .type = g->type,
                       .ctype = g->ctype};
    cpu_gemm(&product);
  }
}
