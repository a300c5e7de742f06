/* Row kernels as epilogues of grouped products for CUDA, on the device simulator: of an expert FFN every option of its
 * products against the interpreter; with mma.sync the epilogue and the row kernel give the same bits. Groups end in the
 * middle of tiles, one is empty, rows are dead. Hopper's kernels
 * where they run; with the argument "wgmma" they alone (hopper_threads.cc). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/epilogues.h"
#include "tests/cuda/plan_run.h"
#include "tests/simulator/simulator_kernel.h"

enum { GROUPS = 4, RESULTS = 5 };

typedef struct Shape {
  int rows, d, f;
  int of_group[GROUPS];
} Shape;

static const Shape shapes[] = {{90, 72, 40, {33, 0, 7, 41}}, {200, 264, 136, {130, 0, 1, 60}}};
static const Shape hopper_shape = {200, 264, 264, {130, 0, 1, 60}};
static const char *const results[RESULTS] = {"a", "g", "y", "again", "d"};

static int failures, checks;

static double next_random(void) {
  static uint64_t state = 7;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return 2 * (double)(state >> 11) / 9007199254740992.0 - 1;
}

/* Packed row r is token r's; the tokens behind the last row have chosen nothing. */
static void fill_routing(const Shape *shape, const char *name, Tensor *t) {
  int live = 0;
  memset(t->i, 0, (size_t)tensor_all_elements(t) * sizeof *t->i);
  for (int group = 0; group < GROUPS; group++) {
    if (strcmp(name, "off") == 0)
      t->i[group + 1] = live + shape->of_group[group];
    for (int row = live; row < live + shape->of_group[group]; row++)
      if (strcmp(name, "pair") == 0)
        t->i[row] = row * GROUPS + group;
      else if (strcmp(name, "slot") == 0)
        t->i[row] = row;
    live += shape->of_group[group];
  }
  for (int row = live; strcmp(name, "slot") == 0 && row < shape->rows; row++)
    t->i[row] = -1;
}

static Tensor *make_argument(Arena *arena, const Shape *shape, const Func *f, const Value *v) {
  Tensor *t = tensor_of_type(arena, f->module, v->type);
  double scale = v->name[0] == 'w' && v->name[1] ? 2 / sqrt((double)shape->d) : 1;
  if (t->i)
    fill_routing(shape, v->name, t);
  else
    for (int64_t i = 0; i < tensor_all_elements(t); i++)
      t->f[i] = plan_run_round(v->type.dtype, scale * next_random());
  return t;
}

/* The largest difference among the first elements, over the larger of the number and 1. */
static double difference(const Tensor *got, const Tensor *want, int64_t elements) {
  double largest = 0;
  for (int64_t i = 0; i < elements; i++) {
    double d = fabs(got->f[i] - want->f[i]) / fmax(1, fabs(want->f[i]));
    largest = d <= largest ? largest : d; /* NaN, too */
  }
  return largest;
}

static void expect(const char *option, const char *label, double got, double most) {
  checks++;
  if (got <= most)
    return;
  failures++;
  printf("FAILED: %s: %s: off by %.3g, at most %.3g is allowed\n", option, label, got, most);
}

/* Runs the options of that name; the tensors of all results, or NULL. */
static const Tensor **run_option(Arena *arena, const Module *m, CudaKinds kinds, const char *option,
                                 Tensor *const *in) {
  const Func *f = module_find_func(m, "f");
  PlanRun *run = plan_run_new_with(arena, m, "f", (CudaOptions){.grouped = kinds});
  const Tensor **out = arena_alloc(arena, RESULTS * sizeof *out);
  plan_run_option(run, option);
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT)
      plan_run_bind(run, f->values[v].name, in[v]);
  bool ran = plan_run(run);
  for (int i = 0; ran && i < RESULTS; i++)
    out[i] = plan_run_result(run, results[i]);
  if (!ran)
    failures++;
  plan_run_free(run);
  return ran ? out : NULL;
}

static void check_shape(const Shape *shape, bool wgmma) {
  Arena *arena = arena_new();
  Module *m =
      module_parse(arena, "epilogues", arena_print(arena, epilogues_text, shape->rows, shape->d, shape->f, GROUPS));
  const Func *f = module_find_func(m, "f");
  EvalEnvironment *env = eval_environment_new(arena, 1);
  Tensor **in = arena_alloc(arena, vec_len(f->values) * sizeof *in);
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT) {
      in[v] = make_argument(arena, shape, f, &f->values[v]);
      eval_bind_argument(env, f->values[v].name, in[v]);
    }
  const Evaluation *oracle = eval_func(f, env, arena);
  const double same = simulator_is_simulated() ? 0 : 0.01; /* a GPU's compiler may fuse products and sums otherwise */
  const char *const options[] = {wgmma ? "wgmma-epilogue" : "mma-epilogue", "mma"};
  const Tensor **fused = run_option(arena, m, wgmma ? CUDA_KINDS_WGMMA : CUDA_KINDS_MMA, options[0], in);
  const Tensor **separate = wgmma ? NULL : run_option(arena, m, CUDA_KINDS_MMA, options[1], in);
  for (int i = 0; fused && i < RESULTS; i++) {
    const Tensor *want = eval_result(oracle, results[i]);
    int64_t live = tensor_live_elements(want);
    expect(options[0], results[i], difference(fused[i], want, live), 0.03);
    if (separate)
      expect("the same bits", results[i], difference(fused[i], separate[i], live), same);
  }
  arena_free(arena);
}

int main(int count, char **arguments) {
  if (count > 1 && strcmp(arguments[1], "wgmma") == 0)
    check_shape(&hopper_shape, true);
  else
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
      check_shape(&shapes[i], false);
  if (count == 1 && simulator_runs("sm_90a"))
    check_shape(&hopper_shape, true);
  printf("epilogues: %d checks, %d failed\n", checks, failures);
  return failures != 0 || checks == 0;
}
