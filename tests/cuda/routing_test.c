/* route, rank_rows, balanced_assignment, scatter_rows, segment_sum, copies, constants and sums over rows for CUDA, on
 * the device simulator, against the interpreter: sizes at and around the edges of tiles, parts and vectors, f32 and
 * bf16; and what the status cell says when a token selects too many experts, all together too many, or an id names no
 * row. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/plan_run.h"

static int failures, functions;

static double random_number(double low, double high) {
  static uint64_t state = 7;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return low + (high - low) * (double)(state >> 11) / 9007199254740992.0;
}

/* ---------------------------------------------------------------- inputs */

/* Up to `most` experts of a token, none of some. */
static void fill_mask(Tensor *t, int64_t most) {
  for (int64_t n = 0; n < t->dim[0]; n++) {
    int64_t left = (int64_t)random_number(0, (double)most + 1);
    for (int64_t e = 0; e < t->dim[1]; e++) {
      bool take = left > 0 && random_number(0, 1) < (double)(2 * most) / (double)t->dim[1];
      t->f[n * t->dim[1] + e] = take;
      left -= take;
    }
  }
}

/* Half of the ids name one row, so that it has many. */
static void fill_ids(Tensor *t, int64_t rows) {
  for (int64_t i = 0; i < t->dim[0]; i++)
    t->i[i] = random_number(0, 1) < 0.5 ? (int32_t)(rows / 2) : (int32_t)random_number(0, (double)rows);
}

/* Groups of any size, one of them empty; an eighth of the rows is dead. */
static void fill_offsets(Tensor *t, int64_t rows) {
  int64_t groups = t->dim[0] - 1, live = rows - rows / 8;
  for (int64_t g = 0; g <= groups; g++)
    t->i[g] = (int32_t)(g == 0        ? 0
                        : g == groups ? live
                        : g == 1      ? live / 3
                                      : live / 3 + (live - live / 3) * (g - 2) / groups);
}

/* By name: mask_K, ids_ROWS, off_ROWS; others are random numbers. */
static Tensor *make_argument(Arena *arena, const Func *f, const Value *v) {
  Tensor *t = tensor_of_type(arena, f->module, v->type);
  const char *number = strrchr(v->name, '_');
  int64_t size = number ? atoll(number + 1) : 0;
  if (strncmp(v->name, "mask_", 5) == 0)
    fill_mask(t, size);
  else if (strncmp(v->name, "ids_", 4) == 0)
    fill_ids(t, size);
  else if (strncmp(v->name, "off_", 4) == 0)
    fill_offsets(t, size);
  else
    for (int64_t i = 0; i < tensor_all_elements(t); i++)
      t->f[i] = plan_run_round(v->type.dtype, random_number(-1, 1));
  return t;
}

/* ---------------------------------------------------------------- comparison */

static void fail(const char *name, const char *result, int64_t at, double got, double expected) {
  failures++;
  printf("FAILED: %s: %s[%lld] is %.9g, expected %.9g\n", name, result, (long long)at, got, expected);
}

static void compare(const char *name, const char *label, const Tensor *got, const Tensor *expected, DType dtype,
                    double tolerance) {
  for (int64_t i = 0; i < tensor_live_elements(expected); i++) {
    double a = got->i ? got->i[i] : got->f[i], b = expected->i ? expected->i[i] : expected->f[i];
    double allowed = expected->i ? 0 : (dtype == DTYPE_BF16 ? 0.01 : tolerance) * (1 + fabs(b));
    if (!(fabs(a - b) <= allowed)) {
      fail(name, label, i, a, b);
      return;
    }
  }
}

static Module *parse(Arena *arena, const char *name, const char *symbols, const char *body) {
  const char *text = arena_print(arena,
                                 "module test task=lm stage=fused\nrun steps=0 batch=0 accumulate=0 sequence=0 "
                                 "vocabulary=0\nsym %s\nfunc @f %s",
                                 symbols, body);
  Module *m = module_parse(arena, name, text);
  module_verify(m, NULL);
  return m;
}

/* Function @f behind "func @f". Sums of many f32 may differ by their order. */
static void check(const char *name, const char *symbols, const char *body, double tolerance) {
  Arena *arena = arena_new();
  Module *m = parse(arena, name, symbols, body);
  const Func *f = module_find_func(m, "f");
  EvalEnvironment *env = eval_environment_new(arena, 1);
  PlanRun *run = plan_run_new(arena, m, "f");
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT) {
      Tensor *t = make_argument(arena, f, &f->values[v]);
      eval_bind_argument(env, f->values[v].name, t);
      plan_run_bind(run, f->values[v].name, t);
    }
  Evaluation *oracle = eval_func(f, env, arena);
  functions++;
  if (!plan_run(run)) {
    failures++;
    printf("FAILED: %s\n", name);
  } else {
    for (uint32_t i = 0; i < vec_len(f->results); i++) {
      const char *label = f->results[i].label;
      compare(name, label, plan_run_result(run, label), eval_result(oracle, label),
              f->values[f->results[i].value].type.dtype, tolerance);
    }
    if (plan_run_status(run)[0] != 0)
      fail(name, "status", 0, (double)plan_run_status(run)[0], 0);
  }
  plan_run_free(run);
  arena_free(arena);
}

/* ---------------------------------------------------------------- mistakes */

/* Runs @f on the one argument, whose elements `change` sets; the status cell must say so. */
static void check_mistake(const char *name, const char *symbols, const char *body, void (*change)(Tensor *),
                          const int64_t expected[4]) {
  Arena *arena = arena_new();
  Module *m = parse(arena, name, symbols, body);
  const Func *f = module_find_func(m, "f");
  PlanRun *run = plan_run_new(arena, m, "f");
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT) {
      Tensor *t = make_argument(arena, f, &f->values[v]);
      if (strcmp(f->values[v].name, "x") != 0)
        change(t);
      plan_run_bind(run, f->values[v].name, t);
    }
  functions++;
  plan_run_partly(run);
  for (int i = 0; i < 4; i++)
    if (plan_run_status(run)[i] != expected[i])
      fail(name, "status", i, (double)plan_run_status(run)[i], (double)expected[i]);
  plan_run_free(run);
  arena_free(arena);
}

static void clear_mask(Tensor *mask) {
  for (int64_t i = 0; i < tensor_all_elements(mask); i++)
    mask->f[i] = 0;
}

/* Tokens 299 and 420 select 5 and 3. */
static void overfill_token(Tensor *mask) {
  clear_mask(mask);
  for (int64_t e = 0; e < 5; e++)
    mask->f[299 * mask->dim[1] + e] = 1;
  for (int64_t e = 0; e < 3; e++)
    mask->f[420 * mask->dim[1] + e] = 1;
}

/* 2 of every token's experts. */
static void overfill_rows(Tensor *mask) {
  for (int64_t i = 0; i < tensor_all_elements(mask); i++)
    mask->f[i] = i % mask->dim[1] < 2;
}

static void wrong_ids(Tensor *ids) {
  for (int64_t i = 0; i < tensor_all_elements(ids); i++)
    ids->i[i] = (int32_t)(i % 7);
  ids->i[290] = 300;
  ids->i[400] = -1;
}

static void check_mistakes(void) {
  const char *route = "(%mask_2: f32[N,E]) {\n  %pair: i32[R<%off>], %off: i32[E+1], %slot: i32[N,K] = route %mask_2 "
                      "{k=2, rows=R}\n  return off=%off, slot=%slot\n}\n";
  check_mistake("too many of a token", "N=600 E=8 K=2 R=1200", route, overfill_token, (int64_t[]){1, 1, 299, 5});
  check_mistake("too many in all", "N=600 E=8 K=2 R=1199", route, overfill_rows, (int64_t[]){2, 1, 0, 1200});
  check_mistake("an id that names no row", "N=600 D=8 V=300",
                "(%x: f32[N,D], %ids_300: i32[N]) {\n  %c: f32[V,D] = scatter_rows %x, %ids_300 {rows=V}\n"
                "  return c=%c\n}\n",
                wrong_ids, (int64_t[]){3, 1, 290, 300});
}

/* ---------------------------------------------------------------- cases */

static void check_routes(void) {
  const char *body = "(%mask_3: f32[N,E]) {\n  %pair: i32[R<%off>], %off: i32[E+1], %slot: i32[N,K] = route %mask_3 "
                     "{k=3, rows=R}\n  return pair=%pair, off=%off, slot=%slot\n}\n";
  check("route", "N=257 E=5 K=3 R=N*K", body, 0);
  check("route of few tokens", "N=3 E=37 K=3 R=N*K", body, 0);
  check("route of many experts", "N=300 E=70 K=3 R=N*K", body, 0);
  check("route with two tiles a part", "N=33000 E=3 K=3 R=N*K", body, 0);
}

static void check_scatters(void) {
  static const struct {
    const char *name, *symbols, *from, *to;
  } cases[] = {
      {"scatter_rows", "N=700 V=300 D=40", "f32", "f32"},
      {"scatter_rows of bf16", "N=300 V=7 D=264", "bf16", "bf16"},
      {"scatter_rows of odd bf16", "N=100 V=300 D=7", "bf16", "bf16"},
      {"scatter_rows of pairs", "N=260 V=20 D=26", "f32", "f32"},
      {"scatter_rows of three digits", "N=257 V=66000 D=1", "f32", "f32"},
      {"scatter_rows with two tiles a part", "N=33000 V=9 D=2", "f32", "f32"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const char *v = strstr(cases[i].symbols, "V=") + 2;
    char body[400];
    snprintf(body, sizeof body,
             "(%%x: %s[N,D], %%ids_%d: i32[N]) {\n  %%c: %s[V,D] = scatter_rows %%x, %%ids_%d {rows=V}\n  return "
             "c=%%c\n}\n",
             cases[i].from, atoi(v), cases[i].to, atoi(v));
    check(cases[i].name, cases[i].symbols, body, 2e-4);
  }
}

static void check_segment_sums(void) {
  static const struct {
    const char *name, *symbols, *from, *to;
  } cases[] = {
      {"segment_sum", "R=700 E=5 F=72", "f32", "f32"},
      {"segment_sum of bf16", "R=300 E=2 F=264", "bf16", "f32"},
      {"segment_sum to bf16", "R=129 E=40 F=16", "bf16", "bf16"},
      {"segment_sum of odd columns", "R=128 E=3 F=37", "f32", "f32"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int rows = atoi(cases[i].symbols + 2);
    char body[400];
    snprintf(body, sizeof body,
             "(%%off_%d: i32[E+1], %%x: %s[R<%%off_%d>,F]) {\n  %%c: %s[E,F] = segment_sum %%x, %%off_%d {dtype=%s}\n"
             "  return c=%%c\n}\n",
             rows, cases[i].from, rows, cases[i].to, rows, cases[i].to);
    check(cases[i].name, cases[i].symbols, body, 2e-5);
  }
}

/* Values of rank_rows are few, so that equals occur. */
static void check_choices(void) {
  const char *rank = "(%ids_40: i32[N,E]) {\n  %x: f32[N,E] = cast %ids_40 {dtype=f32}\n"
                     "  %rank: i32[N,E] = rank_rows %x {groups=%G}\n  return rank=%rank\n}\n";
  const char *auction = "(%x: f32[N,E]) {\n  %y: f32[N,E] = balanced_assignment %x {groups=%G}\n  return y=%y\n}\n";
  static const struct {
    const char *name, *symbols;
    bool ranks;
    int groups;
  } cases[] = {
      {"rank_rows", "N=64 E=4", true, 2},
      {"rank_rows over blocks", "N=2600 E=2", true, 2},
      {"balanced_assignment", "N=128 E=4", false, 2},
      {"balanced_assignment, several rows a thread", "N=300 E=3", false, 1},
      {"balanced_assignment to one expert", "N=8 E=1", false, 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const char *text = cases[i].ranks ? rank : auction, *groups = strstr(text, "%G");
    char body[400];
    snprintf(body, sizeof body, "%.*s%d%s", (int)(groups - text), text, cases[i].groups, groups + 2);
    check(cases[i].name, cases[i].symbols, body, 0);
  }
}

int main(void) {
  check_routes();
  check_choices();
  check_scatters();
  check_segment_sums();
  check("copies", "N=50 D=24 C=7",
        "(%x: f32[N,D], %y: f32[N,C], %z: bf16[N,C]) {\n"
        "  %a: f32[N,D+7] = concat %x, %y\n  %b: f32[N,14] = concat %y, %y\n  %c: bf16[N,14] = concat %z, %z\n"
        "  return a=%a, b=%b, c=%c\n}\n",
        0);
  check("ragged copies", "R=300 E=3 D=24 C=8",
        "(%off_300: i32[E+1], %x: f32[R<%off_300>,D], %y: bf16[R<%off_300>,C]) {\n"
        "  %a: f32[R<%off_300>,D*2] = concat %x, %x\n  %b: bf16[R<%off_300>,C*2] = concat %y, %y\n"
        "  return a=%a, b=%b\n}\n",
        0);
  check("constants", "N=2",
        "(%x: f32[N,N]) {\n  %a: f32[] = const {value=1.5}\n  %b: i32[] = const {value=-7, dtype=i32}\n"
        "  %c: bf16[] = const {value=0.3, dtype=bf16}\n  return a=%a, b=%b, c=%c, x=%x\n}\n",
        1e-6);
  check("sums over rows", "R=700 E=3 N=333 D=40",
        "(%off_700: i32[E+1], %x: f32[R<%off_700>,D], %y: f32[N,D], %z: f32[N,1]) {\n"
        "  %a: f32[1,D] = sum %x {axis=0}\n  %b: f32[1,D] = sum %y {axis=0}\n  %c: f32[1,1] = sum %z {axis=0}\n"
        "  group 1 {\n    %s: f32[N,D] = mul %y, %z\n    %t: f32[1,D] = sum %s {axis=0}\n    %u: f32[N,1] = sum %s "
        "{axis=1}\n"
        "  }\n  return a=%a, b=%b, c=%c, t=%t, u=%u\n}\n",
        2e-5);
  check_mistakes();
  printf("%d functions, %s\n", functions, failures ? "failed" : "as the interpreter has them");
  return failures != 0;
}
