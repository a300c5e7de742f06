/* Attention and its gradient as CUDA, on the device simulator, against the interpreter: all head sizes that differ in
 * their tiles, ragged and empty segments, a dead tail that is not a number, packed and separate operands. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/plan_run.h"
#include "tests/simulator/simulator_kernel.h"

typedef struct Case {
  const char *name;
  DType dtype;
  int n, heads, head, causal;
  double range;       /* of queries, keys and values */
  const char *kernel; /* a part of the name of the kernels */
  int segments;
  const int32_t *off; /* segments + 1 */
} Case;

#define OFFSETS(...)                                                                                                   \
  (int)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)) - 1, (const int32_t[]) {                                   \
    __VA_ARGS__                                                                                                        \
  }

static int failures, checks;

static void expect(bool holds, const Case *c, const char *what) {
  checks++;
  if (!holds) {
    failures++;
    printf("FAILED: %s: %s\n", c->name, what);
  }
}

/* Deterministic, uniform in [-1, 1) and then rounded to the case's type. */
static double draw(const Case *c, uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return plan_run_round(c->dtype, 2 * (double)(*state >> 11) / 9007199254740992.0 - 1);
}

/* [n, columns]; rows of no segment are not numbers. */
static Tensor *draw_rows(Arena *arena, const Case *c, int columns, double range, uint64_t seed) {
  Tensor *t = tensor_new(arena, c->dtype, 2, (int64_t[]){c->n, columns});
  for (int64_t at = 0; at < (int64_t)c->off[c->segments] * columns; at++)
    t->f[at] = plan_run_round(c->dtype, range * draw(c, &seed));
  return t;
}

static Tensor *offsets_of(Arena *arena, const Case *c) {
  Tensor *t = tensor_new(arena, DTYPE_I32, 1, (int64_t[]){c->segments + 1});
  memcpy(t->i, c->off, (size_t)(c->segments + 1) * sizeof *t->i);
  return t;
}

/* The projections packed in one matrix, read in place, and their gradients made in place. */
static const char packed[] =
    "func @f (%%x: %1$s[N,3*D], %%off: i32[S+1], %%do: %1$s[N,D]) {\n"
    "  %%q: %1$s[N,D], %%k: %1$s[N,D], %%v: %1$s[N,D] = split %%x {parts=3}\n"
    "  %%o: %1$s[N,D], %%lse: f32[N,H] = attention %%q, %%k, %%v, %%off {heads=%2$d, causal=%3$d}\n"
    "  %%dq: %1$s[N,D], %%dk: %1$s[N,D], %%dv: %1$s[N,D] = attention_grad %%q, %%k, %%v, %%off, %%o, %%lse, %%do "
    "{heads=%2$d, causal=%3$d}\n"
    "  %%dx: %1$s[N,3*D] = concat %%dq, %%dk, %%dv\n"
    "  return o=%%o, lse=%%lse, dx=%%dx\n}\n";

static Module *module_of(Arena *arena, const Case *c) {
  const char *head = arena_print(arena,
                                 "module attention task=lm stage=gradient\n"
                                 "run steps=0 batch=0 accumulate=0 sequence=0 vocabulary=0\n"
                                 "sym N=%d D=%d S=%d H=%d\n",
                                 c->n, c->heads * c->head, c->segments, c->heads);
  const char *body = arena_print(arena, packed, dtype_name(c->dtype), c->heads, c->causal);
  return module_parse(arena, c->name, arena_print(arena, "%s%s", head, body));
}

/* The largest difference against the largest number, and the norm of all differences against that of all numbers. */
static void compare(const Case *c, const char *what, const Tensor *got, const Tensor *want, double largest_part,
                    double norm_part) {
  double largest = 0, difference = 0, squares = 0, difference_squares = 0;
  bool finite = true, zero = true;
  int64_t columns = tensor_row_elements(want), live = c->off[c->segments] * columns;
  for (int64_t at = 0; at < tensor_all_elements(want); at++) {
    double d = got->f[at] - want->f[at];
    finite = finite && isfinite(got->f[at]);
    zero = zero && (at < live || got->f[at] == 0);
    largest = fmax(largest, fabs(want->f[at])), difference = fmax(difference, fabs(d));
    squares += want->f[at] * want->f[at], difference_squares += d * d;
  }
  checks += 3;
  double norm = squares > 0 ? sqrt(difference_squares / squares) : sqrt(difference_squares);
  double part = largest > 0 ? difference / largest : difference;
  if (finite && zero && part <= largest_part && norm <= norm_part)
    return;
  failures++;
  printf("FAILED: %s: %s: largest difference %.3g of the largest number (at most %.3g), of the norm %.3g (at most "
         "%.3g)%s%s\n",
         c->name, what, part, largest_part, norm, norm_part, finite ? "" : ", not all finite",
         zero ? "" : ", not 0 beyond the last offset");
}

static void run_case(Arena *arena, const Case *c, bool wgmma) {
  Module *m = module_of(arena, c);
  const Tensor *x = draw_rows(arena, c, 3 * c->heads * c->head, c->range, 11);
  const Tensor *d_o = draw_rows(arena, c, c->heads * c->head, 1, 12), *off = offsets_of(arena, c);

  PlanRun *run =
      plan_run_new_with(arena, m, "f", (CudaOptions){.attention = wgmma ? CUDA_KINDS_WGMMA : CUDA_KINDS_MMA});
  plan_run_bind(run, "x", x);
  plan_run_bind(run, "off", off);
  plan_run_bind(run, "do", d_o);
  expect(strstr(plan_run_unit(run, 0), c->kernel) != NULL, c, "takes another kernel than expected");
  if (!plan_run(run)) {
    expect(false, c, "does not run");
  } else {
    EvalEnvironment *env = eval_environment_new(arena, 1);
    eval_bind_argument(env, "x", x);
    eval_bind_argument(env, "off", off);
    eval_bind_argument(env, "do", d_o);
    const Evaluation *oracle = eval_func(module_find_func(m, "f"), env, arena);
    const bool rounds = c->dtype == DTYPE_BF16;
    const double part = rounds ? 2e-2 : 1e-5, norm = rounds ? 8e-3 : 2e-6;
    compare(c, "o", plan_run_result(run, "o"), eval_result(oracle, "o"), part, norm);
    compare(c, "lse", plan_run_result(run, "lse"), eval_result(oracle, "lse"), 1e-5, 2e-6);
    compare(c, "dq, dk, dv", plan_run_result(run, "dx"), eval_result(oracle, "dx"), part, norm);
  }
  plan_run_free(run);
}

/* More segments than 32 lanes can tell apart in two probes, most of them empty. */
static void run_many_segments(void) {
  enum { SEGMENTS = 1500, LIVE = 90 };
  int32_t off[SEGMENTS + 1];
  for (int s = 0; s <= SEGMENTS; s++)
    off[s] = s * LIVE / SEGMENTS;
  const Case c = {"1500 segments", DTYPE_F32, 96, 1, 4, 0, 1.5, "moec_attention_plain_forward_", SEGMENTS, off};
  Arena *arena = arena_new();
  run_case(arena, &c, false);
  arena_free(arena);
}

static const Case cases[] = {
    {"head 64, causal", DTYPE_BF16, 300, 2, 64, 1, 1.5, "moec_attention_", OFFSETS(0, 70, 70, 201, 290)},
    {"head 64, all pairs", DTYPE_BF16, 290, 1, 64, 0, 1.5, "moec_attention_", OFFSETS(0, 3, 260, 261, 263, 290)},
    {"head 16, short segments", DTYPE_BF16, 140, 3, 16, 1, 1.5, "moec_attention_",
     OFFSETS(0, 1, 2, 2, 2, 3, 9, 12, 12, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48,
             49, 50, 60, 61, 62, 63, 64, 65, 66, 77, 78, 79, 80, 100, 128, 128, 129, 129)},
    {"head 32, one segment", DTYPE_BF16, 260, 1, 32, 1, 1.5, "moec_attention_", OFFSETS(0, 260)},
    {"head 24, filled up", DTYPE_BF16, 70, 2, 24, 0, 1.5, "moec_attention_", OFFSETS(0, 40, 66)},
    {"head 48", DTYPE_BF16, 150, 1, 48, 1, 1.5, "moec_attention_", OFFSETS(0, 131, 149)},
    {"head 80", DTYPE_BF16, 150, 1, 80, 1, 1.5, "moec_attention_", OFFSETS(0, 129, 150)},
    {"head 96", DTYPE_BF16, 131, 1, 96, 0, 1.5, "moec_attention_", OFFSETS(0, 100, 130)},
    {"head 128", DTYPE_BF16, 170, 1, 128, 1, 1.5, "moec_attention_", OFFSETS(0, 5, 169)},
    {"head 20 in bf16", DTYPE_BF16, 70, 2, 20, 1, 1.5, "moec_attention_plain_forward_", OFFSETS(0, 40, 66)},
    {"head 64 in f32", DTYPE_F32, 100, 1, 64, 1, 1.5, "moec_attention_plain_forward_", OFFSETS(0, 33, 33, 98)},
    {"head 5 in f32", DTYPE_F32, 80, 3, 5, 0, 1.5, "moec_attention_plain_forward_", OFFSETS(0, 1, 1, 70, 72)},
    {"sharp scores", DTYPE_BF16, 150, 1, 64, 1, 8, "moec_attention_", OFFSETS(0, 130, 149)},
    {"no segment", DTYPE_BF16, 40, 1, 16, 1, 1.5, "moec_attention_", OFFSETS(0, 0, 0)},
};

/* With --attention=wgmma. */
static const Case hopper_cases[] = {
    {"head 64, causal", DTYPE_BF16, 300, 2, 64, 1, 1.5, "moec_attention_sm90_", OFFSETS(0, 70, 70, 201, 290)},
    {"head 64, all pairs", DTYPE_BF16, 450, 1, 64, 0, 1.5, "moec_attention_sm90_", OFFSETS(0, 3, 260, 261, 263, 430)},
    {"head 128", DTYPE_BF16, 170, 1, 128, 1, 1.5, "moec_attention_sm90_", OFFSETS(0, 5, 169)},
    {"sharp scores", DTYPE_BF16, 330, 1, 64, 1, 8, "moec_attention_sm90_", OFFSETS(0, 310, 329)},
    {"tiles without a live row", DTYPE_BF16, 450, 1, 64, 1, 1.5, "moec_attention_sm90_", OFFSETS(0, 60, 100)},
    {"no segment", DTYPE_BF16, 200, 1, 64, 0, 1.5, "moec_attention_sm90_", OFFSETS(0, 0, 0)},
    {"head 32, where wgmma cannot be used", DTYPE_BF16, 40, 1, 32, 1, 1.5, "moec_attention_", OFFSETS(0, 40)},
};

/* What the kernels' barriers and waits are for: without one of them the simulator finds a race. */
static void expect_race(const char *barrier) {
  const Case c = {"a barrier left out", DTYPE_BF16, 200, 1, 16, 0, 1.5, "moec_attention_", OFFSETS(0, 200)};
  Arena *arena = arena_new();
  PlanRun *run = plan_run_new(arena, module_of(arena, &c), "f");
  char *text = arena_copy(arena, plan_run_unit(run, 0), strlen(plan_run_unit(run, 0)));
  char *at = strstr(text, barrier);
  expect(at != NULL, &c, "the text has no such barrier");
  if (at)
    memset(at, ' ', strcspn(at, ";"));
  SimulatorUnit *unit = simulator_compile(text);
  const char *name = strstr(text, "#define KERNEL ") + strlen("#define KERNEL ");
  SimulatorLaunch launch = {.unit = unit,
                            .entry = arena_copy(arena, name, strcspn(name, "\n")),
                            .blocks = {1, 2},
                            .threads = 128,
                            .shared_bytes = 2 * 24 * (128 + 4 * 64)};
  uint16_t *x = simulator_alloc(200 * 48 * sizeof *x), *o = simulator_alloc(200 * 16 * sizeof *o);
  float *lse = simulator_alloc(200 * sizeof *lse);
  int32_t *off = simulator_copy(c.off, 2 * sizeof *off);
  memset(x, 0, 200 * 48 * sizeof *x);
  simulator_mark_written(x, 200 * 48 * sizeof *x);
  uint64_t operands[] = {(uintptr_t)x,   (uintptr_t)(x + 16), (uintptr_t)(x + 32),
                         (uintptr_t)off, (uintptr_t)o,        (uintptr_t)lse};
  expect(unit && !simulator_run(&launch, operands, 6), &c, "the simulator finds nothing wrong");
  simulator_free(x), simulator_free(o), simulator_free(lse), simulator_free(off);
  plan_run_free(run);
  arena_free(arena);
}

static void run_cases(const Case *list, size_t length, bool wgmma, const char *only) {
  for (size_t i = 0; i < length; i++)
    if (!only || strstr(list[i].name, only)) {
      Arena *arena = arena_new();
      run_case(arena, &list[i], wgmma);
      arena_free(arena);
    }
}

int main(int count, char **arguments) {
  const char *only = count > 1 ? arguments[1] : NULL;
  run_cases(cases, sizeof cases / sizeof cases[0], false, only);
  if (simulator_is_simulated() || simulator_runs("sm_90a")) {
    setenv("MOEC_SIMULATOR_ARCH", "9.0", 1); /* with its shared memory */
    run_cases(hopper_cases, sizeof hopper_cases / sizeof hopper_cases[0], true, only);
    unsetenv("MOEC_SIMULATOR_ARCH");
  } else
    printf("SKIPPED: the kernels for sm_90a do not run on this GPU\n");
  if (!only)
    run_many_segments();
  if (!only && simulator_is_simulated()) {
    expect_race("__syncthreads(); /* the next columns");
    expect_race("moec_copy_wait<0>();\n  __syncthreads(); /* the queries");
  }
  printf("cuda_attention_test: %d checks, %d failed\n", checks, failures);
  return failures != 0;
}
