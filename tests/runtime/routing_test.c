/* route, scatter_rows, segment_sum, copy and fill against plain loops; bit-equal with any number of threads; the
 * errors of a route and of an id out of range. */
#include <omp.h>

#include "runtime/cpu/cpu.h"
#include "tests/runtime/check.h"

enum { THREADS = 5 };

/* ---------------------------------------------------------------- route */

static CpuRoute make_route(int64_t n, int64_t experts, int64_t k) {
  CpuRoute r = {.n = n, .experts = experts, .k = k, .bound = n * k, .ldm = experts + random_between(0, 3)};
  r.mask = random_floats(n * r.ldm + 1);
  r.pair = test_memory(r.bound * 4);
  r.off = test_memory((experts + 1) * 4);
  r.slot = test_memory(n * k * 4);
  r.scratch = test_memory((experts + 1) * 64 * 4);
  return r;
}

static void free_route(CpuRoute *r) {
  free((void *)r->mask);
  free(r->pair);
  free(r->off);
  free(r->slot);
  free(r->scratch);
}

/* Up to k experts of each token; some tokens have none, as dead ones do. */
static void random_mask(const CpuRoute *r) {
  float *mask = (float *)r->mask;
  for (int64_t t = 0; t < r->n; t++) {
    int64_t left = random_between(0, r->k);
    for (int64_t e = 0; e < r->experts; e++) {
      bool take = left > 0 && random_bits() % (uint32_t)r->experts < (uint32_t)r->k;
      mask[t * r->ldm + e] = take ? 1.0f : 0.0f;
      left -= take;
    }
  }
}

static void check_route(int64_t n, int64_t experts, int64_t k) {
  CpuRoute r = make_route(n, experts, k);
  random_mask(&r);
  for (int threads = 1; threads <= THREADS; threads++) {
    omp_set_num_threads(threads);
    memset(r.slot, 0x55, (size_t)(n * k) * 4);
    CpuRouteStatus status = cpu_route(&r);
    CHECK(status.error == ROUTE_DONE, "route failed");
    int64_t row = 0;
    for (int64_t e = 0; e < experts; e++) {
      CHECK(r.off[e] == row, "off[%lld] is %d, expected %lld", (long long)e, r.off[e], (long long)row);
      for (int64_t t = 0; t < n; t++)
        if (r.mask[t * r.ldm + e] != 0) {
          CHECK(r.pair[row] == t * experts + e, "pair[%lld] is %d", (long long)row, r.pair[row]);
          int64_t place = 0; /* experts before e that the token selects */
          for (int64_t before = 0; before < e; before++)
            place += r.mask[t * r.ldm + before] != 0;
          CHECK(r.slot[t * k + place] == row, "slot[%lld,%lld]", (long long)t, (long long)place);
          row++;
        }
    }
    CHECK(r.off[experts] == row, "off[E] is %d, expected %lld", r.off[experts], (long long)row);
    for (int64_t t = 0; t < n; t++) {
      int64_t selected = 0;
      for (int64_t e = 0; e < experts; e++)
        selected += r.mask[t * r.ldm + e] != 0;
      for (int64_t s = selected; s < k; s++)
        CHECK(r.slot[t * k + s] == -1, "slot[%lld,%lld] is not -1", (long long)t, (long long)s);
    }
  }
  free_route(&r);
}

static void check_route_errors(void) {
  CpuRoute r = make_route(300, 8, 2);
  random_mask(&r);
  float *mask = (float *)r.mask;
  for (int64_t e = 0; e < 5; e++)
    mask[211 * r.ldm + e] = mask[280 * r.ldm + e] = 1;
  CpuRouteStatus status = cpu_route(&r);
  CHECK(status.error == ROUTE_TOO_MANY_OF_TOKEN && status.token == 211 && status.count >= 5,
        "token over k: %d %lld %lld", status.error, (long long)status.token, (long long)status.count);
  int64_t pairs = 0;
  for (int64_t t = 0; t < 300; t++)
    for (int64_t e = 0; e < 8; e++) {
      mask[t * r.ldm + e] = e < 2;
      pairs += e < 2;
    }
  r.bound = pairs;
  CHECK(cpu_route(&r).error == ROUTE_DONE, "a full bound is allowed");
  r.bound = pairs - 1;
  status = cpu_route(&r);
  CHECK(status.error == ROUTE_TOO_MANY && status.count == pairs, "batch over its bound");
  free_route(&r);
}

/* ---------------------------------------------------------------- scatter, segment_sum */

static float element(CpuMatrix m, PlanType type, int64_t at) {
  return type == PLAN_BF16 ? cpu_from_bf16(((uint16_t *)m.data)[at]) : ((float *)m.data)[at];
}

static CpuMatrix random_matrix(int64_t rows, int64_t columns, PlanType type) {
  CpuMatrix m = {NULL, columns + random_between(0, 5)};
  m.data = random_floats(rows * m.ld + 1);
  if (type == PLAN_BF16)
    for (int64_t i = 0; i < rows * m.ld; i++)
      ((uint16_t *)m.data)[i] = cpu_to_bf16(random_float());
  return m;
}

static void check_scatter(int64_t n, int64_t d, int64_t rows, PlanType type, PlanType ctype) {
  CpuScatter s = {.n = n, .d = d, .rows = rows, .type = type, .ctype = ctype, .x = random_matrix(n, d, type)};
  int32_t *ids = test_memory(n * 4 + 4);
  for (int64_t i = 0; i < n; i++)
    ids[i] = (int32_t)(random_bits() % 2 ? random_between(0, rows - 1) : rows / 2);
  s.ids = ids;
  s.c = (CpuMatrix){test_memory(rows * d * 4), d};
  s.scratch = test_memory((rows + 1 + n) * 4);
  for (int threads = 1; threads <= THREADS; threads++) {
    omp_set_num_threads(threads);
    memset(s.c.data, 0xff, (size_t)(rows * d) * plan_type_size(ctype));
    CHECK(cpu_scatter_rows(&s) == -1, "scatter failed");
    for (int64_t v = 0; v < rows; v++)
      for (int64_t c = 0; c < d; c++) {
        float sum = 0; /* in order of i, as the op says: the bits are given */
        for (int64_t i = 0; i < n; i++)
          if (ids[i] == v)
            sum += element(s.x, type, i * s.x.ld + c);
        if (ctype == PLAN_BF16)
          sum = cpu_from_bf16(cpu_to_bf16(sum));
        CHECK(element(s.c, ctype, v * d + c) == sum, "scatter row %lld column %lld", (long long)v, (long long)c);
      }
  }
  if (n > 7) {
    ids[7] = (int32_t)rows;
    CHECK(cpu_scatter_rows(&s) == 7, "an id out of range");
    ids[7] = -1;
    CHECK(cpu_scatter_rows(&s) == 7, "a negative id");
  }
  free(s.x.data);
  free(s.c.data);
  free(s.scratch);
  free(ids);
}

static void check_segment_sum(int64_t groups, int64_t n, PlanType type, PlanType ctype) {
  int32_t off[9] = {0};
  for (int64_t e = 0; e < groups; e++)
    off[e + 1] = off[e] + (int32_t)(random_bits() % 3 ? random_between(1, 300) : 0);
  CpuSegmentSum s = {.groups = groups, .n = n, .off = off, .type = type, .ctype = ctype};
  s.x = random_matrix(off[groups] + 1, n, type);
  s.c = (CpuMatrix){test_memory(groups * (n + 3) * 4), n + 3};
  uint64_t first = 0;
  for (int threads = 1; threads <= THREADS; threads++) {
    omp_set_num_threads(threads);
    cpu_segment_sum(&s);
    uint64_t hash = 0;
    for (int64_t e = 0; e < groups; e++)
      for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t r = off[e]; r < off[e + 1]; r++)
          sum += element(s.x, type, r * s.x.ld + c);
        float found = element(s.c, ctype, e * s.c.ld + c);
        CHECK(fabs(found - sum) <= (ctype == PLAN_BF16 ? 1e-2 : 1e-5) * (1 + fabs(sum)), "segment_sum %lld,%lld",
              (long long)e, (long long)c);
        uint32_t bits;
        memcpy(&bits, &found, 4);
        hash = hash * 0x100000001b3u + bits;
      }
    if (threads == 1)
      first = hash;
    CHECK(hash == first, "segment_sum: other bits with %d threads", threads);
  }
  free(s.x.data);
  free(s.c.data);
}

/* ---------------------------------------------------------------- copy, fill */

static void check_copy(void) {
  CpuMatrix from = random_matrix(400, 100, PLAN_F32), to = {test_memory(400 * 120 * 4), 120};
  cpu_copy(400, 100, PLAN_F32, from, to);
  for (int64_t r = 0; r < 400; r++)
    for (int64_t c = 0; c < 120; c++) {
      float found = ((float *)to.data)[r * 120 + c];
      CHECK(c < 100 ? found == ((float *)from.data)[r * from.ld + c] : isnan(found), "copy");
    }
  cpu_fill(400, 100, PLAN_F32, to, 1.5);
  CHECK(((float *)to.data)[399 * 120 + 99] == 1.5f && isnan(((float *)to.data)[100]), "fill f32");
  cpu_fill(3, 5, PLAN_I32, to, -7);
  CHECK(((int32_t *)to.data)[2 * 120 + 4] == -7, "fill i32");
  cpu_fill(3, 5, PLAN_BF16, to, 1);
  CHECK(((uint16_t *)to.data)[2 * 120 + 4] == 0x3f80, "fill bf16");
  CHECK(cpu_to_bf16(cpu_from_bf16(0x3f81)) == 0x3f81 && isnan(cpu_from_bf16(cpu_to_bf16(NAN))), "bf16 rounding");
  free(from.data);
  free(to.data);
}

int main(void) {
  check_route(1, 1, 1);
  check_route(700, 16, 16);
  check_route(333, 5, 2);
  check_route(40, 64, 3);
  check_route_errors();
  check_scatter(300, 7, 50, PLAN_F32, PLAN_F32);
  check_scatter(64, 600, 9, PLAN_BF16, PLAN_F32);
  check_scatter(500, 33, 3, PLAN_F32, PLAN_BF16);
  check_scatter(0, 5, 4, PLAN_F32, PLAN_F32);
  for (int round = 0; round < 6; round++) {
    check_segment_sum(random_between(1, 8), random_between(1, 200), PLAN_F32, PLAN_F32);
    check_segment_sum(random_between(1, 8), random_between(1, 200), PLAN_BF16, round % 2 ? PLAN_BF16 : PLAN_F32);
  }
  check_copy();
  printf("routing: ok\n");
  return 0;
}
