/* gemm, grouped_gemm and grouped_outer against loops in double: random shapes and strides, transposes, beta, empty
 * groups, dead rows that must not be read or written, f32 and bf16. --bench prints GFLOP/s. */
#include <omp.h>

#include "runtime/cpu/cpu.h"
#include "runtime/cpu/onednn.h"
#include "tests/runtime/check.h"

static bool with_bf16; /* the CPU has bf16 products */

static float element(CpuMatrix m, PlanType type, int64_t r, int64_t c) {
  return type == PLAN_BF16 ? cpu_from_bf16(((uint16_t *)m.data)[r * m.ld + c]) : ((float *)m.data)[r * m.ld + c];
}

static CpuMatrix random_matrix_of(int64_t rows, int64_t columns, int64_t ld, PlanType type) {
  CpuMatrix m = {NULL, ld};
  m.data = test_memory(rows * m.ld * 4 + 64);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++)
      if (type == PLAN_BF16)
        ((uint16_t *)m.data)[r * m.ld + c] = cpu_to_bf16(random_float());
      else
        ((float *)m.data)[r * m.ld + c] = random_float();
  return m;
}

static void close_to(float found, double expected, int64_t depth, PlanType ctype, const char *what) {
  double tolerance = ctype == PLAN_BF16 ? 1e-2 : 2e-6;
  CHECK(fabs(found - expected) <= tolerance * (fabs(expected) + sqrt((double)depth) + 1), "%s: %.8g, expected %.8g",
        what, found, expected);
}

static CpuMatrix random_matrix(int64_t rows, int64_t columns, PlanType type) {
  return random_matrix_of(rows, columns, columns + random_between(0, 7), type);
}

/* Compares c with op(a) op(b) + beta * before. */
static void check_product(const CpuGemm *g, const float *before, const char *what) {
  for (int64_t i = 0; i < g->m; i++)
    for (int64_t j = 0; j < g->n; j++) {
      double sum = before ? before[i * g->n + j] : 0;
      for (int64_t k = 0; k < g->k; k++)
        sum += (double)(g->ta ? element(g->a, g->type, k, i) : element(g->a, g->type, i, k)) *
               (double)(g->tb ? element(g->b, g->type, j, k) : element(g->b, g->type, k, j));
      close_to(element(g->c, g->ctype, i, j), sum, g->k, g->ctype, what);
    }
}

static void check_gemm(int round) {
  CpuGemm g = {.m = random_between(1, 70),
               .n = random_between(1, 90),
               .k = round % 11 == 10 ? 0 : random_between(1, 80),
               .ta = random_bits() & 1,
               .tb = random_bits() & 1,
               .beta = round % 3 == 2,
               .ragged = random_bits() & 1};
  g.type = with_bf16 && round % 2 ? PLAN_BF16 : PLAN_F32;
  g.ctype = g.type == PLAN_BF16 && round % 4 == 1 ? PLAN_BF16 : PLAN_F32;
  int64_t rows = g.ta ? g.k : g.m, columns = g.ta ? g.m : g.k;
  /* Rows a multiple of 4 KB apart go another way. */
  g.a = round % 4 == 0 ? random_matrix_of(rows, columns, 1024, g.type) : random_matrix(rows, columns, g.type);
  g.b = random_matrix(g.tb ? g.n : g.k, g.tb ? g.k : g.n, g.type);
  g.c = random_matrix(g.m, g.n, g.ctype);
  float *before = test_memory(g.m * g.n * 4);
  for (int64_t i = 0; i < g.m * g.n; i++)
    before[i] = element(g.c, g.ctype, i / g.n, i % g.n);
  cpu_gemm(&g);
  check_product(&g, g.beta ? before : NULL, "gemm");
  free(g.a.data);
  free(g.b.data);
  free(g.c.data);
  free(before);
}

/* Offsets of `groups` groups, some empty; returns the live rows. */
static int64_t random_groups(int32_t *off, int64_t groups) {
  off[0] = 0;
  for (int64_t e = 0; e < groups; e++)
    off[e + 1] = off[e] + (int32_t)(random_bits() % 3 ? random_between(1, 40) : 0);
  return off[groups];
}

static void check_grouped_gemm(int round) {
  int32_t off[9];
  CpuGrouped g = {.groups = random_between(1, 8),
                  .n = random_between(1, 60),
                  .k = random_between(1, 60),
                  .tb = round & 1,
                  .off = off};
  int64_t live = random_groups(off, g.groups), rows = live + 5;
  g.type = with_bf16 && round % 3 == 2 ? PLAN_BF16 : PLAN_F32;
  g.ctype = g.type == PLAN_BF16 && round % 2 ? PLAN_BF16 : PLAN_F32;
  g.a = random_matrix(live, g.k, g.type); /* behind it: NaN */
  g.b = random_matrix(1, g.groups * g.k * g.n, g.type);
  g.c = (CpuMatrix){NULL, g.n + random_between(0, 7)};
  g.c.data = test_memory(rows * g.c.ld * 4);
  cpu_grouped_gemm(&g);
  for (int64_t e = 0; e < g.groups; e++) {
    int64_t size = (int64_t)plan_type_size(g.type);
    CpuGemm one = {.m = off[e + 1] - off[e], .n = g.n, .k = g.k, .tb = g.tb, .type = g.type, .ctype = g.ctype};
    one.a = (CpuMatrix){(char *)g.a.data + off[e] * g.a.ld * size, g.a.ld};
    one.b = (CpuMatrix){(char *)g.b.data + e * g.k * g.n * size, g.tb ? g.k : g.n};
    one.c = (CpuMatrix){(char *)g.c.data + off[e] * g.c.ld * (int64_t)plan_type_size(g.ctype), g.c.ld};
    check_product(&one, NULL, "grouped_gemm");
  }
  for (int64_t r = live; r < rows; r++)
    for (int64_t c = 0; c < g.n; c++)
      CHECK(isnan(element(g.c, g.ctype, r, c)), "grouped_gemm wrote dead row %lld", (long long)r);
  free(g.a.data);
  free(g.b.data);
  free(g.c.data);
}

static void check_grouped_outer(int round) {
  int32_t off[9];
  CpuGrouped g = {.groups = random_between(1, 8), .m = random_between(1, 60), .n = random_between(1, 60), .off = off};
  int64_t live = random_groups(off, g.groups);
  g.type = with_bf16 && round % 3 == 2 ? PLAN_BF16 : PLAN_F32;
  g.ctype = g.type == PLAN_BF16 && round % 2 ? PLAN_BF16 : PLAN_F32;
  g.a = random_matrix(live, g.m, g.type);
  g.b = random_matrix(live, g.n, g.type);
  g.c.data = test_memory(g.groups * g.m * g.n * 4);
  cpu_grouped_outer(&g);
  for (int64_t e = 0; e < g.groups; e++) {
    int64_t size = (int64_t)plan_type_size(g.type);
    CpuGemm one = {.m = g.m, .n = g.n, .k = off[e + 1] - off[e], .ta = true, .type = g.type, .ctype = g.ctype};
    one.a = (CpuMatrix){(char *)g.a.data + off[e] * g.a.ld * size, g.a.ld};
    one.b = (CpuMatrix){(char *)g.b.data + off[e] * g.b.ld * size, g.b.ld};
    one.c = (CpuMatrix){(char *)g.c.data + e * g.m * g.n * (int64_t)plan_type_size(g.ctype), g.n};
    check_product(&one, NULL, "grouped_outer");
  }
  free(g.a.data);
  free(g.b.data);
  free(g.c.data);
}

static void bench_gemm(int64_t m, int64_t n, int64_t k, bool ta, bool tb, PlanType type, PlanType ctype) {
  CpuGemm g = {.m = m, .n = n, .k = k, .ta = ta, .tb = tb, .type = type, .ctype = ctype};
  g.a = random_matrix(ta ? k : m, ta ? m : k, type);
  g.b = random_matrix(tb ? n : k, tb ? k : n, type);
  g.c = random_matrix(m, n, ctype);
  double seconds;
  cpu_gemm(&g);
  BEST_SECONDS(seconds, cpu_gemm(&g));
  printf("gemm %s>%s m=%lld n=%lld k=%lld ta=%d tb=%d: %.1f GFLOP/s\n", plan_type_name(type), plan_type_name(ctype),
         (long long)m, (long long)n, (long long)k, ta, tb, 2e-9 * (double)(m * n * k) / seconds);
  free(g.a.data);
  free(g.b.data);
  free(g.c.data);
}

/* Top-1 of `rows` tokens over `groups` experts of sizes around the mean: FC1 forward and its weight gradient. */
static void bench_grouped(int64_t groups, int64_t rows, int64_t d, int64_t f, PlanType type) {
  int32_t off[65] = {0};
  for (int64_t e = 0; e < groups; e++)
    off[e + 1] =
        e + 1 == groups ? (int32_t)rows : (int32_t)(rows * (e + 1) / groups + random_between(0, rows / groups / 2));
  CpuGrouped g = {.groups = groups, .n = f, .k = d, .tb = true, .off = off, .type = type};
  g.a = random_matrix(rows, d, type);
  g.b = random_matrix(1, groups * d * f, type);
  g.c = random_matrix(rows, f, PLAN_F32);
  CpuGrouped o = {.groups = groups, .m = f, .n = d, .off = off, .type = type, .b = g.a};
  o.a = random_matrix(rows, f, type);
  o.c.data = test_memory(groups * d * f * 4);
  double product, outer, flops = 2e-9 * (double)(rows * d * f);
  cpu_grouped_gemm(&g);
  cpu_grouped_outer(&o);
  BEST_SECONDS(product, cpu_grouped_gemm(&g));
  BEST_SECONDS(outer, cpu_grouped_outer(&o));
  printf("grouped %s groups=%lld rows=%lld d=%lld f=%lld: product %.1f, outer %.1f GFLOP/s\n", plan_type_name(type),
         (long long)groups, (long long)rows, (long long)d, (long long)f, flops / product, flops / outer);
  free(g.a.data);
  free(g.b.data);
  free(g.c.data);
  free(o.a.data);
  free(o.c.data);
}

static void bench(void) {
  printf("%s, %d threads\n", onednn_name(), omp_get_max_threads());
  for (PlanType type = PLAN_F32; type <= (with_bf16 ? PLAN_BF16 : PLAN_F32); type++) {
    bench_gemm(4096, 1536, 384, false, true, type, type);
    bench_gemm(4096, 384, 1536, false, false, type, type);
    bench_gemm(384, 1536, 4096, true, false, type, PLAN_F32);
    bench_gemm(1024, 8000, 384, false, true, type, PLAN_F32);
    for (int64_t groups = 4; groups <= 64; groups *= 4) {
      bench_grouped(groups, 4096, 384, 1536, type);
      bench_grouped(groups, 2048, 128, 512, type);
    }
  }
}

int main(int argc, char **argv) {
  onednn_open();
  with_bf16 = cpu_level() >= CPU_V4;
  if (test_wants_bench(argc, argv)) {
    bench();
    return 0;
  }
  for (int threads = 1; threads <= 3; threads++) {
    omp_set_num_threads(threads);
    for (int round = 0; round < 66; round++)
      check_gemm(round);
    for (int round = 0; round < 30; round++) {
      check_grouped_gemm(round);
      check_grouped_outer(round);
    }
  }
  printf("products: ok (%s)\n", onednn_name());
  return 0;
}
