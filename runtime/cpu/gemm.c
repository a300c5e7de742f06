/* Matrix products: f32 by dnnl_sgemm, bf16 by oneDNN's matmul with f32 accumulation.
 *
 * f32 needs nothing made per shape; a bf16 product is made once per shape, with run-time dims where they change from
 * call to call. A product over nothing (k = 0) is zero, which the library does not take. */
#include <string.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/onednn.h"
#include "runtime/error.h"

static void gemm_bf16(const CpuGemm *g) {
  OnednnShape shape = {.m = g->m,
                       .n = g->n,
                       .k = g->k,
                       .a_stride = {g->ta ? 1 : g->a.ld, g->ta ? g->a.ld : 1},
                       .b_stride = {g->tb ? 1 : g->b.ld, g->tb ? g->b.ld : 1},
                       .c_stride = {g->c.ld, 1},
                       .type = ONEDNN_BF16,
                       .ctype = g->ctype == PLAN_BF16 ? ONEDNN_BF16 : ONEDNN_F32,
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
  if (g->type == PLAN_BF16)
    gemm_bf16(g);
  else if (g->type == PLAN_F32 && g->ctype == PLAN_F32)
    onednn_sgemm(g->ta, g->tb, g->m, g->n, g->k, g->a.data, g->a.ld, g->b.data, g->b.ld, g->beta, g->c.data, g->c.ld);
  else
    runtime_fail(FAIL_BUG, "a product of %s into %s", plan_type_name(g->type), plan_type_name(g->ctype));
}
