/* moec check finds the mistakes it is there to find, and takes nothing else for one.
 *
 * A small function stands for a model, and the interpreter's own values, rounded to f32, for a trainer's; one thing at
 * a time is made wrong. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frontend/check.h"
#include "passes/pipeline.h"

/* Parts of the compiler's executable that packaging refers to; no trainer is packaged here. */
const unsigned char moec_runtime_start[1], moec_runtime_end[1], moec_shim_start[1], moec_shim_end[1];

static const char text[] = "module small task=lm stage=graph\n"
                           "run steps=4 batch=2 accumulate=1 sequence=4 vocabulary=11\n"
                           "sym N=8 S=2 V=11 D=6\n"
                           "table @t {\n"
                           "  segment decay=0 birth=0\n"
                           "  param @table: f32[V,D] segment=0\n"
                           "  param @w: f32[D,D] segment=0\n"
                           "  param @b: f32[D] segment=0\n"
                           "}\n"
                           "phase @p steps=0 table=@t\n"
                           "func @p.train table=@t (%tokens: i32[N], %off: i32[S+1], %live: f32[N]) {\n"
                           "  %x: f32[N,D] = gather_rows @table, %tokens          # small.lua:1\n"
                           "  %z: f32[N,D] = matmul %x, @w                         # small.lua:2\n"
                           "  %a: f32[N,D] = add %z, @b                            # small.lua:3\n"
                           "  %h: f32[N,D] = tanh %a                               # small.lua:4\n"
                           "  %p: f32[N,D] = softmax %h                            # small.lua:5\n"
                           "  %m: f32[N,D] = topk_mask %p {k=2}                    # small.lua:6\n"
                           "  %k: f32[N,D] = mul %p, %m                            # small.lua:7\n"
                           "  %column: f32[N,1] = reshape %live {shape=[N,1]}\n"
                           "  %s: f32[N,1] = sum %k {axis=-1}                      # small.lua:8\n"
                           "  %l: f32[N,1] = mul %s, %column                       # small.lua:9\n"
                           "  %t: f32[1,1] = sum %l {axis=0}                       # small.lua:10\n"
                           "  %loss: f32[] = reshape %t {shape=[]}\n"
                           "  return loss=%loss\n"
                           "}\n";

static int failed;

static void expect(bool holds, const char *what) {
  if (!holds)
    fprintf(stderr, "check_test: %s\n", what);
  failed += !holds;
}

/* ---------------------------------------------------------------- a model and its trainer */

typedef struct Scene {
  Check check;
  Func *f;
  Tensor **given;          /* by ValueId: what the trainer computed */
  EvalDecisions decisions; /* its choices */
} Scene;

static void autodiff(Module *m) {
  const char **only = NULL;
  vec_push(m->arena, only, "autodiff");
  PipelineOptions options = {.only = only};
  pipeline_run(m, &options, ledger_new(m->arena));
}

static Scene scene_new(void) {
  static const Options options = {.model = "small.ir"};
  Arena *arena = arena_new();
  Module *m = module_parse(arena, "small.ir", text);
  module_verify(m, NULL);
  Scene s = {.check = {.arena = arena, .options = &options}};
  s.check.inputs = inputs_new(m, 5);
  autodiff(m);
  s.f = module_find_func(m, "p.train");
  const Evaluation *run = eval_func(s.f, inputs_environment(s.check.inputs, s.f), arena);
  s.given = arena_alloc(arena, vec_len(s.f->values) * sizeof *s.given);
  for (uint32_t v = 0; v < vec_len(s.f->values); v++) {
    if (s.f->values[v].kind != VALUE_RESULT)
      continue;
    s.given[v] = run->tensors[v];
    for (int64_t at = 0; s.given[v]->f && at < tensor_all_elements(s.given[v]); at++)
      s.given[v]->f[at] = (double)(float)s.given[v]->f[at];
  }
  ValueId mask = func_find_value(s.f, "m");
  vec_push(arena, s.decisions.items, (EvalDecision){.func = s.f->name, .value = "m", .tensor = s.given[mask]});
  return s;
}

static Tensor *value(const Scene *s, const char *name) {
  return s->given[func_find_value(s->f, name)];
}

/* What the trainer holds in registers only. */
static void withhold(Scene *s, const char *name) {
  s->given[func_find_value(s->f, name)] = NULL;
}

static const CheckRow *compare(Scene *s) {
  CheckRow *row = check_row(&s->check, "ops", s->f->name);
  check_ops(&s->check, row, s->f, s->given, &s->decisions);
  return row;
}

/* ---------------------------------------------------------------- what is found */

static void test_right(void) {
  Scene s = scene_new();
  const CheckRow *row = compare(&s);
  expect(row->compared > 20 && row->deviating == 0 && row->decisions == 0, "a right trainer has no mistakes");
  s = scene_new();
  withhold(&s, "z");
  withhold(&s, "a");
  withhold(&s, "h");
  withhold(&s, "k");
  withhold(&s, "s");
  row = compare(&s);
  expect(row->deviating == 0, "a right trainer has no mistakes where values stay in registers");
}

static double *largest(Tensor *t) {
  double *most = t->f;
  for (int64_t at = 0; at < tensor_all_elements(t); at++)
    most = fabs(t->f[at]) > fabs(*most) ? &t->f[at] : most;
  return most;
}

/* One element of one value is off by 1e-4 of itself. */
static void test_wrong_value(const char *name, const char *in_registers, const char *found) {
  Scene s = scene_new();
  *largest(value(&s, name)) *= 1.0001;
  if (in_registers)
    withhold(&s, in_registers);
  const CheckRow *row = compare(&s);
  char what[128];
  snprintf(what, sizeof what, "a wrong %s is found at %s, not at %s", name, found,
           row->first.what ? row->first.what : "none");
  expect(row->deviating >= 1 && row->first.what && strcmp(row->first.what, found) == 0, what);
  expect(row->first.detail && strstr(row->first.detail, "small.lua:"), "a mistake has its op and line");
}

static void test_wrong_choice(void) {
  Scene s = scene_new();
  Tensor *mask = value(&s, "m");
  for (int64_t c = 0; c < 6; c++) /* the two columns that were not chosen first */
    mask->f[c] = 1 - mask->f[c];
  const CheckRow *row = compare(&s);
  expect(row->deviating >= 1 && row->decisions >= 1, "a choice that the numbers contradict is a mistake");
}

static void test_wrong_integer(void) {
  const int64_t three = 3;
  Arena *arena = arena_new();
  Tensor *a = tensor_new(arena, DTYPE_I32, 1, &three), *b = tensor_new(arena, DTYPE_I32, 1, &three);
  for (int i = 0; i < 3; i++)
    a->i[i] = b->i[i] = i;
  Deviation d = compare_tensors("a", a, b, NULL, 0);
  expect(!deviation_is_mistake(&d), "equal integers are equal");
  a->i[2] = 3;
  d = compare_tensors("a", a, b, NULL, 0);
  expect(deviation_is_mistake(&d) && d.element == 2, "integers are compared exactly");
  arena_free(arena);
}

static void test_not_a_number(void) {
  const int64_t two = 2;
  Arena *arena = arena_new();
  Tensor *a = tensor_new(arena, DTYPE_F32, 1, &two), *b = tensor_new(arena, DTYPE_F32, 1, &two);
  a->f[0] = b->f[0] = 1;
  Deviation d = compare_tensors("a", a, b, NULL, 1e-3);
  expect(!deviation_is_mistake(&d), "NaN where NaN is expected is right");
  b->f[1] = 1;
  d = compare_tensors("a", a, b, NULL, 1e-3);
  expect(deviation_is_mistake(&d), "NaN for a number is a mistake");
  a->f[1] = INFINITY;
  d = compare_tensors("a", a, b, NULL, 1e-3);
  expect(deviation_is_mistake(&d), "infinity for a number is a mistake");
  a->live = 1;
  d = compare_tensors("a", a, b, NULL, 1e-3);
  expect(deviation_is_mistake(&d), "another number of live rows is a mistake");
  arena_free(arena);
}

/* ---------------------------------------------------------------- gradients */

static const CheckRow *compare_gradients(Scene *s) {
  const Evaluation *run = eval_func(s->f, inputs_environment(s->check.inputs, s->f), arena_new());
  check_gradients(&s->check, run);
  return check_row(&s->check, "gradients", "p.train");
}

static void test_gradients(void) {
  Scene s = scene_new();
  const CheckRow *row = compare_gradients(&s);
  expect(row->compared == 3 && row->deviating == 0, "right gradients have no mistakes");
  s = scene_new();
  Func *f = s.f;
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    if (strcmp(f->results[i].label, "grad @w") != 0)
      continue;
    ValueId factor = build_const(f, (Loc){0}, 1.001);
    f->results[i].value = build2(f, OP_mul, (Loc){0}, f->results[i].value, factor);
  }
  row = compare_gradients(&s);
  expect(row->deviating == 1 && strcmp(row->first.what, "grad @w") == 0, "a wrong gradient is found");
}

int main(void) {
  test_right();
  test_wrong_value("x", NULL, "%x");
  test_wrong_value("z", NULL, "%z");
  test_wrong_value("h", NULL, "%h");
  test_wrong_value("h", "a", "%h");
  test_wrong_value("p", "h", "%p");
  test_wrong_value("l", "s", "%l");
  test_wrong_value("t", NULL, "%t");
  test_wrong_choice();
  test_wrong_integer();
  test_not_a_number();
  test_gradients();
  if (failed)
    fprintf(stderr, "check_test: %d failed\n", failed);
  return failed != 0;
}
