/* Matrix products: f32 by dnnl_sgemm, bf16 by oneDNN's matmul with f32 accumulation.
 *
 * f32 needs nothing made per shape; a bf16 product is made once per shape, with run-time dims where they change from
 * call to call. A product over nothing (k = 0) is zero, which the library does not take.
 *
 * dnnl_sgemm loses 10 to 17 % on a transposed operand whose rows lie a multiple of 4 KB apart, where what it gathers
 * falls on few sets of the cache (weight gradients of a wide FFN, of the output layer): matmul, which copies
 * differently, takes these. It does not where dims are run-time ones: it would call sgemm itself. */
#include <string.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/onednn.h"
#include "runtime/error.h"

enum { ALIASING_BYTES = 4096 };

static bool is_aliasing(const CpuGemm *g) {
  return g->ta && !g->ragged && g->a.ld * (int64_t)sizeof(float) % ALIASING_BYTES == 0;
}

static OnednnType library_type(PlanType type) {
  return type == PLAN_BF16 ? ONEDNN_BF16 : ONEDNN_F32;
}

static void gemm_by_primitive(const CpuGemm *g) {
  OnednnShape shape = {.m = g->m,
                       .n = g->n,
                       .k = g->k,
                       .a_stride = {g->ta ? 1 : g->a.ld, g->ta ? g->a.ld : 1},
                       .b_stride = {g->tb ? 1 : g->b.ld, g->tb ? g->b.ld : 1},
                       .c_stride = {g->c.ld, 1},
                       .type = library_type(g->type),
                       .ctype = library_type(g->ctype),
                       .beta = g->beta};
  if (g->ragged && g->ta)
    shape.k = ONEDNN_RUNTIME;
  else if (g->ragged)
    shape.m = ONEDNN_RUNTIME;
  onednn_execute(onednn_product(&shape), g->m, g->k, g->a.data, g->b.data, g->c.data);
}

void cpu_gemm(const CpuGemm *g) {
  if (g->m == 0 || g->n == 0)
    return;
  if (g->k == 0) {
    if (!g->beta)
      cpu_fill(g->m, g->n, g->ctype, g->c, 0);
    return;
  }
  bool is_f32 = g->type == PLAN_F32 && g->ctype == PLAN_F32;
  if (g->type == PLAN_BF16 || (is_f32 && is_aliasing(g)))
    gemm_by_primitive(g);
  else if (is_f32)
    onednn_sgemm(g->ta, g->tb, g->m, g->n, g->k, g->a.data, g->a.ld, g->b.data, g->b.ld, g->beta, g->c.data, g->c.ld);
  else
    runtime_fail(FAIL_BUG, "a product of %s into %s", plan_type_name(g->type), plan_type_name(g->ctype));
}
