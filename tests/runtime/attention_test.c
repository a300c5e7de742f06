/* Flash attention, forward and backward, against the definition in double: random segments (empty ones, a dead tail),
 * heads, strides, causal or not, f32 and bf16; bit-equal with any number of threads. It runs at the level of this CPU,
 * and at lower ones under MOEC_CPU. --bench prints GFLOP/s. */
#include <omp.h>

#include "runtime/cpu/cpu.h"
#include "tests/runtime/check.h"

/* One case: tensors with their strides; `wide` f32 copies for the reference. */
typedef struct Case {
  CpuAttention a;
  int32_t off[64];
  float *wide[4]; /* q, k, v, dout, contiguous [n, D] */
} Case;

static int64_t width(const Case *c) {
  return c->a.heads * c->a.head;
}

/* A tensor of the case's type and the f32 values it holds. */
static CpuMatrix random_tensor(const Case *c, int64_t ld, float *wide) {
  CpuMatrix m = {test_memory(c->a.n * ld * 4 + 64), ld};
  for (int64_t t = 0; t < c->a.n; t++)
    for (int64_t x = 0; x < width(c); x++) {
      float value = 1.5f * random_float();
      if (c->a.type == PLAN_BF16) {
        ((uint16_t *)m.data)[t * ld + x] = cpu_to_bf16(value);
        value = cpu_from_bf16(cpu_to_bf16(value));
      } else {
        ((float *)m.data)[t * ld + x] = value;
      }
      wide[t * width(c) + x] = value;
    }
  return m;
}

static float element(const Case *c, CpuMatrix m, int64_t t, int64_t x) {
  if (c->a.type == PLAN_BF16)
    return cpu_from_bf16(((uint16_t *)m.data)[t * m.ld + x]);
  return ((float *)m.data)[t * m.ld + x];
}

static Case make_case(int64_t n, int64_t segments, const int32_t *off, int64_t heads, int64_t head, bool causal,
                      PlanType type) {
  Case c = {.a = {.n = n, .segments = segments, .heads = heads, .head = head, .causal = causal, .type = type}};
  memcpy(c.off, off, (size_t)(segments + 1) * sizeof *off);
  CpuMatrix *tensors[] = {&c.a.q, &c.a.k, &c.a.v, &c.a.dout};
  for (int i = 0; i < 4; i++) {
    c.wide[i] = test_memory(n * width(&c) * 4);
    *tensors[i] = random_tensor(&c, width(&c) + random_between(0, 5), c.wide[i]);
  }
  CpuMatrix *outputs[] = {&c.a.o, &c.a.dq, &c.a.dk, &c.a.dv};
  for (int i = 0; i < 4; i++) {
    int64_t ld = width(&c) + random_between(0, 5);
    *outputs[i] = (CpuMatrix){test_memory(n * ld * 4), ld};
  }
  c.a.lse = test_memory(n * heads * 4);
  return c;
}

static void free_case(Case *c) {
  void *all[] = {c->a.q.data,  c->a.k.data, c->a.v.data, c->a.dout.data, c->a.o.data, c->a.dq.data, c->a.dk.data,
                 c->a.dv.data, c->a.lse,    c->wide[0],  c->wide[1],     c->wide[2],  c->wide[3]};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free(all[i]);
}

static void close_to(double found, double expected, double tolerance, const char *what, int64_t t, int64_t x) {
  CHECK(fabs(found - expected) <= tolerance * (1 + fabs(expected)), "%s[%lld,%lld] is %.8g, expected %.8g", what,
        (long long)t, (long long)x, found, expected);
}

/* The reference of one head of one segment: o, lse and the gradients in double. */
static void check_head(const Case *c, int64_t begin, int64_t end, int64_t h, double tolerance) {
  int64_t d = c->a.head, D = width(c), n = end - begin, base = h * d;
  double scale = 1 / sqrt((double)d);
  double *dk = calloc((size_t)(n * d), sizeof *dk), *dv = calloc((size_t)(n * d), sizeof *dv);
  double *p = calloc((size_t)n, sizeof *p);
#define AT(i, t, x) ((double)c->wide[i][(begin + (t)) * D + base + (x)])
  for (int64_t i = 0; i < n; i++) {
    int64_t keys = c->a.causal ? i + 1 : n;
    double maximum = -1e300, sum = 0, delta = 0;
    for (int64_t j = 0; j < keys; j++) {
      p[j] = 0;
      for (int64_t x = 0; x < d; x++)
        p[j] += scale * AT(0, i, x) * AT(1, j, x);
      maximum = fmax(maximum, p[j]);
    }
    for (int64_t j = 0; j < keys; j++)
      sum += p[j] = exp(p[j] - maximum);
    close_to(c->a.lse[(begin + i) * c->a.heads + h], maximum + log(sum), 1e-5, "lse", begin + i, h);
    for (int64_t x = 0; x < d; x++) {
      double o = 0;
      for (int64_t j = 0; j < keys; j++)
        o += p[j] / sum * AT(2, j, x);
      close_to(element(c, c->a.o, begin + i, base + x), o, tolerance, "o", begin + i, base + x);
      delta += o * AT(3, i, x);
    }
    double dq[256] = {0};
    for (int64_t j = 0; j < keys; j++) {
      double probability = p[j] / sum, dp = 0;
      for (int64_t x = 0; x < d; x++)
        dp += AT(3, i, x) * AT(2, j, x);
      double ds = probability * (dp - delta) * scale;
      for (int64_t x = 0; x < d; x++) {
        dq[x] += ds * AT(1, j, x);
        dk[j * d + x] += ds * AT(0, i, x);
        dv[j * d + x] += probability * AT(3, i, x);
      }
    }
    for (int64_t x = 0; x < d; x++)
      close_to(element(c, c->a.dq, begin + i, base + x), dq[x], tolerance, "dq", begin + i, base + x);
  }
#undef AT
  for (int64_t j = 0; j < n; j++)
    for (int64_t x = 0; x < d; x++) {
      close_to(element(c, c->a.dk, begin + j, base + x), dk[j * d + x], tolerance, "dk", begin + j, base + x);
      close_to(element(c, c->a.dv, begin + j, base + x), dv[j * d + x], tolerance, "dv", begin + j, base + x);
    }
  free(dk);
  free(dv);
  free(p);
}

static void run(Case *c, int threads) {
  omp_set_num_threads(threads);
  c->a.off = c->off;
  cpu_attention(&c->a);
  cpu_attention_gradient(&c->a);
}

/* A sum over the bytes of all outputs that any changed bit changes. */
static uint64_t outputs_hash(const Case *c) {
  uint64_t hash = 0;
  const CpuMatrix outputs[] = {c->a.o, c->a.dq, c->a.dk, c->a.dv};
  for (int i = 0; i < 4; i++)
    for (int64_t t = 0; t < c->a.n; t++)
      for (int64_t x = 0; x < width(c); x++) {
        float value = element(c, outputs[i], t, x);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        hash = hash * 0x100000001b3u + bits;
      }
  return hash;
}

static void check_case(Case *c) {
  double tolerance = c->a.type == PLAN_BF16 ? 1e-2 : 3e-5;
  run(c, 1);
  uint64_t hash = outputs_hash(c);
  for (int64_t s = 0; s < c->a.segments; s++)
    for (int64_t h = 0; h < c->a.heads; h++)
      check_head(c, c->off[s], c->off[s + 1], h, tolerance);
  const CpuMatrix outputs[] = {c->a.o, c->a.dq, c->a.dk, c->a.dv};
  for (int64_t t = c->off[c->a.segments]; t < c->a.n; t++)
    for (int64_t x = 0; x < width(c); x++)
      for (int i = 0; i < 4; i++)
        CHECK(element(c, outputs[i], t, x) == 0, "the dead row %lld is not 0", (long long)t);
  for (int threads = 2; threads <= 5; threads++) {
    run(c, threads);
    CHECK(outputs_hash(c) == hash, "other bits with %d threads", threads);
  }
}

static void check_random(void) {
  static const int64_t heads_of[] = {8, 16, 24, 37, 64, 96, 128, 200, 256};
  for (int i = 0; i < 72; i++) {
    int32_t off[64] = {0};
    int64_t segments = random_between(1, 6);
    for (int64_t s = 0; s < segments; s++)
      off[s + 1] = off[s] + (int32_t)(random_bits() % 4 ? random_between(1, i % 5 ? 90 : 300) : random_between(0, 3));
    Case c = make_case(off[segments] + random_between(0, 9), segments, off, random_between(1, 3), heads_of[i % 9],
                       i / 9 % 2, i / 18 % 2 ? PLAN_BF16 : PLAN_F32);
    check_case(&c);
    free_case(&c);
  }
}

/* Scores of +-300 must neither overflow nor lose the maximum. */
static void check_large_scores(void) {
  int32_t off[] = {0, 150};
  Case c = make_case(150, 1, off, 1, 16, true, PLAN_F32);
  for (int64_t i = 0; i < 150 * 16; i++)
    c.wide[0][i] *= 20;
  for (int64_t t = 0; t < 150; t++)
    for (int64_t x = 0; x < 16; x++)
      ((float *)c.a.q.data)[t * c.a.q.ld + x] = c.wide[0][t * 16 + x];
  run(&c, 1);
  check_head(&c, 0, 150, 0, 1e-3);
  free_case(&c);
}

static void bench(int64_t n, int64_t length, int64_t heads, int64_t head, PlanType type) {
  int32_t off[64] = {0};
  int64_t segments = n / length;
  for (int64_t s = 0; s < segments; s++)
    off[s + 1] = (int32_t)((s + 1) * length);
  Case c = make_case(n, segments, off, heads, head, true, type);
  double forward, backward, pairs = 0.5 * (double)n * (double)(length + 1);
  run(&c, omp_get_max_threads());
  BEST_SECONDS(forward, cpu_attention(&c.a));
  BEST_SECONDS(backward, cpu_attention_gradient(&c.a));
  double flops = 4 * pairs * (double)(heads * head);
  printf("attention %s n=%lld length=%lld heads=%lld head=%lld threads=%d: forward %.1f, backward %.1f GFLOP/s\n",
         plan_type_name(type), (long long)n, (long long)length, (long long)heads, (long long)head,
         omp_get_max_threads(), 1e-9 * flops / forward, 2.5e-9 * flops / backward);
  free_case(&c);
}

int main(int argc, char **argv) {
  if (test_wants_bench(argc, argv)) {
    bench(4096, 256, 6, 64, PLAN_F32);
    bench(4096, 1024, 6, 64, PLAN_F32);
    bench(4096, 1024, 16, 32, PLAN_F32);
    bench(4096, 1024, 3, 128, PLAN_F32);
    bench(4096, 256, 6, 64, PLAN_BF16);
    bench(4096, 1024, 6, 64, PLAN_BF16);
    bench(4096, 1024, 16, 32, PLAN_BF16);
    bench(4096, 1024, 3, 128, PLAN_BF16);
    return 0;
  }
  check_random();
  check_large_scores();
  printf("attention: ok\n");
  return 0;
}
