/* The wide form of MoE layers computes what the packed form computes: losses, metrics and all gradients, also where
 * pairs that the mask does not select hold what is no number.
 *
 * One layer in every variant that changes what the pass writes; masks and weights are arguments, so that a test can
 * choose them. The experts draw random numbers and take a logarithm, which is no number for half of the pairs: the mask
 * selects among the others. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/eval.h"
#include "passes/pipeline.h"

enum { N = 24, D = 5, E = 3, F = 2, DEAD = 7 };
static const double tolerance = 1e-11;

static const char head[] = "module m task=lm stage=graph\n"
                           "run steps=1 batch=1 accumulate=1 sequence=24 vocabulary=8\n"
                           "sym N=24 D=5 F=2\n"
                           "table @t {\n"
                           "  sym E=3\n"
                           "  segment decay=0 birth=0\n"
                           "  param @gate: f32[E,D] segment=0\n"
                           "  param @in: f32[D,D] segment=0\n"
                           "  param @w1: f32[E,F,D] segment=0\n"
                           "  param @w3: f32[E,F,D] segment=0\n"
                           "  param @b1: f32[E,F] segment=0\n"
                           "  param @w2: f32[E,F,D] segment=0\n"
                           "  param @b2: f32[E,D] segment=0\n"
                           "}\n"
                           "phase @p steps=0 table=@t\n"
                           "func @p.train table=@t sym {R=72} (%x0: f32[N,D], %mask: f32[N,E], %noise: f32[N,E], "
                           "%factor: f32[N,D], %live: f32[N], %token: i32[N], %step: i32[]) {\n"
                           "  %x: f32[N,D] = matmul %x0, @in\n"
                           "  %z: f32[N,E] = matmul %x, @gate {tb=1}\n"
                           "  %weight: f32[N,E] = mul %z, %noise\n"
                           "  %zero: f32[] = const {value=0}\n"
                           "  %w: f32[N,E] = select %mask, %weight, %zero\n"
                           "  %pair: i32[R<%off>], %off: i32[E+1], %slot: i32[N,E] = route %mask {k=3}\n"
                           "  %xs: f32[R<%off>,D] = dispatch %x, %pair, %slot\n"
                           "  %h0: f32[R<%off>,F] = grouped_matmul %xs, @w1, %off {tb=1}\n"
                           "  %be: f32[R<%off>,F] = expand @b1, %off\n"
                           "  %h1: f32[R<%off>,F] = add %h0, %be\n";

/* Dropout by pair, as nn.moe writes the index. */
static const char dropout[] = "  %e: i32[] = const {value=3, dtype=i32}\n"
                              "  %local: i32[R<%off>] = div %pair, %e\n"
                              "  %column: i32[N,1] = reshape %token {shape=[N,1]}\n"
                              "  %global: i32[R<%off>,1] = gather_rows %column, %local\n"
                              "  %base: i32[R<%off>] = mul %local, %e\n"
                              "  %expert: i32[R<%off>] = sub %pair, %base\n"
                              "  %row: i32[R<%off>,1] = reshape %expert {shape=[R,1]}\n"
                              "  %scaled: i32[R<%off>,1] = mul %global, %e\n"
                              "  %index: i32[R<%off>,1] = add %scaled, %row\n"
                              "  %u: f32[R<%off>,F] = uniform %index, %step {columns=F, tag=0x77}\n"
                              "  %rate: f32[] = const {value=0.4}\n"
                              "  %keep: f32[R<%off>,F] = greater %u, %rate\n";

static const char tail[] = "  %ow: f32[R<%off>,D] = mul %o, %wp\n"
                           "  %y: f32[N,D] = combine %ow, %slot, %pair\n"
                           "  %q0: f32[N,D] = mul %y, %factor\n"
                           "  %q1: f32[N,D] = mul %q0, %q0\n"
                           "  %q2: f32[N,1] = sum %q1 {axis=-1}\n"
                           "  %alive: f32[N,1] = reshape %live {shape=[N,1]}\n"
                           "  %q3: f32[N,1] = select %alive, %q2, %zero\n"
                           "  %q4: f32[1,1] = sum %q3 {axis=0}\n"
                           "  %loss: f32[] = reshape %q4 {shape=[]}\n"
                           "  %load: f32[1,E] = sum %mask {axis=0}\n"
                           "  return loss=%loss, load.moe=%load\n"
                           "}\n";

typedef struct Variant {
  const char *name, *hidden, *output;
} Variant;

static const Variant variants[] = {
    {"a bias behind each product, an activation with a pole, dropout",
     "  %h2: f32[R<%off>,F] = log %h1\n  %h: f32[R<%off>,F] = select %keep, %h2, %zero\n",
     "  %o0: f32[R<%off>,D] = grouped_matmul %h, @w2, %off\n  %b: f32[R<%off>,D] = expand @b2, %off\n"
     "  %o: f32[R<%off>,D] = add %o0, %b\n  %wp: f32[R<%off>,1] = pack %w, %pair, %slot\n"},
    {"two products before the hidden columns, a weight that is not masked, no bias behind",
     "  %g: f32[R<%off>,F] = grouped_matmul %xs, @w3, %off {tb=1}\n  %s: f32[R<%off>,F] = sigmoid %g\n"
     "  %h2: f32[R<%off>,F] = log %h1\n  %h: f32[R<%off>,F] = mul %h2, %s\n",
     "  %o: f32[R<%off>,D] = grouped_matmul %h, @w2, %off\n  %wp: f32[R<%off>,1] = pack %weight, %pair, %slot\n"},
    {"no activation", "  %half: f32[] = const {value=0.5}\n  %h: f32[R<%off>,F] = sub %h1, %half\n",
     "  %o: f32[R<%off>,D] = grouped_matmul %h, @w2, %off\n  %wp: f32[R<%off>,1] = pack %w, %pair, %slot\n"},
};

static uint64_t state = 1;

static double draw(double low, double high) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return low + (high - low) * (double)(state >> 11) / 9007199254740992.0;
}

static Tensor *random_tensor(Arena *arena, const Module *m, Type type) {
  Tensor *t = tensor_of_type(arena, m, type);
  for (int64_t i = 0; i < tensor_all_elements(t); i++)
    t->f[i] = draw(-1, 1);
  return t;
}

typedef struct Case {
  Arena *arena;
  Module *m;
  EvalEnvironment *env;
  Tensor *x, *mask, *noise, *factor, *in, *w1, *b1;
} Case;

static Module *compile(Arena *arena, const Variant *variant) {
  char *text = arena_print(arena, "%s%s%s%s%s", head, dropout, variant->hidden, variant->output, tail);
  Module *m = module_parse(arena, "layer", text);
  module_verify(m, NULL);
  static const char *const passes[] = {"dense_experts", "autodiff", "fold", "cse", "dce"};
  PipelineOptions options = {0};
  for (size_t i = 0; i < sizeof passes / sizeof *passes; i++)
    vec_push(arena, options.only, passes[i]);
  vec_push(arena, options.settings, (PassSetting){"dense_experts", "crossover", "0.5"});
  pipeline_run(m, &options, ledger_new(arena));
  return m;
}

/* The logarithm's operand, as the layer computes it. */
static double hidden_before(const Case *c, int t, int e, int f) {
  double total = c->b1->f[e * F + f];
  for (int d = 0; d < D; d++) {
    double x = 0;
    for (int i = 0; i < D; i++)
      x += c->x->f[t * D + i] * c->in->f[i * D + d];
    total += x * c->w1->f[(e * F + f) * D + d];
  }
  return total;
}

/* Selects pairs whose hidden columns have a logarithm; token DEAD selects none. */
static int fill_mask(const Case *c) {
  int selected = 0;
  for (int t = 0; t < N; t++)
    for (int e = 0; e < E; e++) {
      const bool positive = hidden_before(c, t, e, 0) > 0 && hidden_before(c, t, e, 1) > 0;
      c->mask->f[t * E + e] = positive && t != DEAD;
      selected += positive && t != DEAD;
    }
  return selected;
}

static Case case_new(const Variant *variant) {
  Case c = {.arena = arena_new()};
  c.m = compile(c.arena, variant);
  c.env = eval_environment_new(c.arena, 5);
  const Table *t = c.m->tables[0];
  for (uint32_t i = 0; i < vec_len(t->params); i++) {
    Tensor *p = random_tensor(c.arena, c.m, t->params[i].type);
    c.in = strcmp(t->params[i].name, "in") == 0 ? p : c.in;
    c.w1 = strcmp(t->params[i].name, "w1") == 0 ? p : c.w1;
    c.b1 = strcmp(t->params[i].name, "b1") == 0 ? p : c.b1;
    eval_bind_parameter(c.env, t, t->params[i].name, SLOT_VALUE, p);
  }
  const int64_t row[] = {N}, by_column[] = {N, D}, by_expert[] = {N, E};
  Tensor *live = tensor_new(c.arena, DTYPE_F32, 1, row), *token = tensor_new(c.arena, DTYPE_I32, 1, row);
  c.x = tensor_new(c.arena, DTYPE_F32, 2, by_column);
  c.factor = tensor_new(c.arena, DTYPE_F32, 2, by_column);
  c.mask = tensor_new(c.arena, DTYPE_F32, 2, by_expert);
  c.noise = tensor_new(c.arena, DTYPE_F32, 2, by_expert);
  for (int i = 0; i < N * D; i++) {
    c.x->f[i] = draw(-1, 1);
    c.factor->f[i] = draw(-1, 1);
  }
  for (int i = 0; i < N * E; i++)
    c.noise->f[i] = draw(-1, 1);
  for (int i = 0; i < N; i++) {
    live->f[i] = i != DEAD;
    token->i[i] = 100 + i; /* not the row's own number */
  }
  eval_bind_argument(c.env, "x0", c.x);
  eval_bind_argument(c.env, "factor", c.factor);
  eval_bind_argument(c.env, "mask", c.mask);
  eval_bind_argument(c.env, "noise", c.noise);
  eval_bind_argument(c.env, "live", live);
  eval_bind_argument(c.env, "token", token);
  eval_bind_argument(c.env, "step", tensor_scalar_i32(c.arena, 3));
  return c;
}

/* Whether a result that the packed form computes as numbers is the same in the wide form. */
static bool same(const char *what, const char *label, const Tensor *expected, const Tensor *found) {
  double largest = 0, worst = found ? 0 : INFINITY;
  for (int64_t k = 0; found && k < tensor_all_elements(expected); k++) {
    const double difference = fabs(expected->f[k] - found->f[k]);
    largest = fmax(largest, fabs(expected->f[k]));
    worst = isfinite(difference) ? fmax(worst, difference) : INFINITY;
  }
  if (worst <= tolerance * largest)
    return true;
  fprintf(stderr, "%s: %s: packed and wide differ by %g of %g\n", what, label, worst, largest);
  return false;
}

static bool is_finite(const Tensor *t) {
  for (int64_t k = 0; k < tensor_all_elements(t); k++)
    if (!isfinite(t->f[k]))
      return false;
  return true;
}

/* Compares all results. `finite`: how many of them the packed form must give as numbers; 0: all. */
static int compare(const Case *c, const char *what, int finite) {
  const Func *packed = module_find_func(c->m, "p.train.packed"), *wide = module_find_func(c->m, "p.train.wide");
  int wrong = 0, compared = 0;
  if (!packed || !wide) {
    fprintf(stderr, "%s: there are no two versions\n", what);
    return 1;
  }
  const Evaluation *a = eval_func(packed, c->env, c->arena), *b = eval_func(wide, c->env, c->arena);
  for (uint32_t i = 0; i < vec_len(packed->results); i++) {
    const char *label = packed->results[i].label;
    const Tensor *expected = eval_result(a, label);
    if (!is_finite(expected))
      continue;
    compared++;
    wrong += !same(what, label, expected, eval_result(b, label));
  }
  const int least = finite ? finite : (int)vec_len(packed->results);
  if (compared < least) {
    fprintf(stderr, "%s: only %d results are numbers, expected %d\n", what, compared, least);
    wrong++;
  }
  return wrong;
}

/* What comes in and what comes back for a token that selects nothing is no number, nor is its weight. It reaches the
 * parameters that this token itself is multiplied with, @in and @gate, in both forms, and must reach nothing else. */
static void poison(const Case *c) {
  for (int i = 0; i < D; i++) {
    c->factor->f[DEAD * D + i] = NAN;
    c->x->f[DEAD * D + i] = i == 0 ? INFINITY : NAN;
  }
  for (int e = 0; e < E; e++)
    c->noise->f[DEAD * E + e] = NAN;
}

enum { NOT_REACHED = 2 + 7 - 2 }; /* loss, load and the gradients of the other parameters */

int main(void) {
  int wrong = 0;
  for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
    Case c = case_new(&variants[i]);
    const int selected = fill_mask(&c);
    if (selected < N / 4 || selected > N * E / 2) {
      fprintf(stderr, "%s: %d pairs are selected, which tests little\n", variants[i].name, selected);
      wrong++;
    }
    wrong += compare(&c, variants[i].name, 0);
    poison(&c);
    wrong += compare(&c, arena_print(c.arena, "a dead token, %s", variants[i].name), NOT_REACHED);
    arena_free(c.arena);
  }
  return wrong != 0;
}
