/* Faults planted in the templates for CUDA are found by the device simulator, or by wrong results: every barrier and
 * every wait for copies left out, one at a time, so none is there for nothing; a row too many; a neighbour's place.
 * Each template runs clean before. Sizes are such that every tile has one before it, and every group ends within a
 * tile. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/plan_run.h"

enum { ALL = 1000, MOST_CHANGES = 4, MOST_OFFSETS = 5 };

/* `from` becomes `to`, in the first `count` places, one at a time. */
typedef struct Change {
  const char *from, *to;
  int count;
} Change;

#define BARRIER                                                                                                        \
  { "__syncthreads();", ";", ALL }

typedef struct Case {
  const char *name, *symbols, *body;
  int32_t off[MOST_OFFSETS]; /* of argument off */
  int32_t ids;               /* integers of other arguments are below it */
  Change changes[MOST_CHANGES];
} Case;

static const Case cases[] = {
    {"route", "N=33000 E=3 K=2 R=N*K",
     "(%mask: f32[N,E]) {\n  %pair: i32[R<%off>], %off: i32[E+1], %slot: i32[N,K] = route %mask {k=2, rows=R}\n"
     "  return pair=%pair, off=%off, slot=%slot\n}\n",
     .changes = {BARRIER, {"< N ", "<= N ", ALL}}},
    {"scatter_rows", "N=33000 V=300 D=2",
     "(%x: f32[N,D], %ids: i32[N]) {\n  %c: f32[V,D] = scatter_rows %x, %ids {rows=V}\n  return c=%c\n}\n", .ids = 300,
     .changes = {BARRIER, {"__syncwarp();", ";", ALL}, {"< N ", "<= N ", ALL}, {"first[row + 1]", "first[row]", ALL}}},
    {"rank_rows", "N=2600 E=2",
     "(%ids: i32[N,E]) {\n  %x: f32[N,E] = cast %ids {dtype=f32}\n  %rank: i32[N,E] = rank_rows %x {groups=2}\n"
     "  return rank=%rank\n}\n",
     .ids = 40, .changes = {BARRIER, {"< ROWS ", "<= ROWS ", ALL}}},
    {"attention", "N=200 D=64 S=3",
     "(%q: bf16[N,D], %k: bf16[N,D], %v: bf16[N,D], %off: i32[S+1]) {\n"
     "  %o: bf16[N,D], %lse: f32[N,1] = attention %q, %k, %v, %off {heads=1, causal=1}\n  return o=%o, lse=%lse\n}\n",
     .off = {0, 170, 180, 200}, .changes = {BARRIER, {"moec_copy_wait<0>();", ";", ALL}}},
    {"grouped_matmul", "R=400 E=3 K=200 F=72",
     "(%x: bf16[R<%off>,K], %w: bf16[E,K,F], %off: i32[E+1]) {\n"
     "  %h: bf16[R<%off>,F] = grouped_matmul %x, %w, %off\n  return h=%h\n}\n",
     .off = {0, 300, 300, 390}, /* behind the first two places stands the text for f32 */
     .changes = {{"__syncthreads();", ";", 2}, {"moec_copy_wait<STAGES - 2>();", "moec_copy_wait<STAGES - 1>();", 1}}},
};

static double draw(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (double)(*state >> 11) / 9007199254740992.0;
}

/* Masks: up to two experts of a token. */
static Tensor *make_argument(Arena *arena, const Case *c, const Func *f, const Value *v, uint64_t *state) {
  Tensor *t = tensor_of_type(arena, f->module, v->type);
  bool is_mask = strcmp(v->name, "mask") == 0, is_off = strcmp(v->name, "off") == 0;
  int64_t columns = t->dim[t->rank - 1];
  for (int64_t i = 0; i < tensor_all_elements(t); i++)
    if (is_off)
      t->i[i] = c->off[i];
    else if (t->i)
      t->i[i] = (int32_t)(draw(state) * c->ids);
    else if (is_mask)
      t->f[i] = i % columns != i / columns % columns && draw(state) < 0.7;
    else
      t->f[i] = plan_run_round(v->type.dtype, 2 * draw(state) - 1);
  return t;
}

static bool agree(const Tensor *got, const Tensor *expected) {
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < tensor_live_elements(expected); i++) {
    double a = got->i ? got->i[i] : got->f[i], b = expected->i ? expected->i[i] : expected->f[i];
    if (expected->i && a != b)
      return false;
    largest = fmax(largest, fabs(b));
    difference = isfinite(a) ? fmax(difference, fabs(a - b)) : INFINITY;
  }
  return difference <= 2e-2 * largest;
}

typedef enum Outcome { NO_SUCH_PLACE, RIGHT, WRONG } Outcome;

/* `change` NULL: nothing is planted. */
static Outcome try(const Case *c, const Change *change, int place) {
  Arena *arena = arena_new();
  const Module *m = module_parse(arena, c->name,
                                 arena_print(arena,
                                             "module test task=lm stage=gradient\nrun steps=0 batch=0 accumulate=0 "
                                             "sequence=0 vocabulary=0\nsym %s\nfunc @f %s",
                                             c->symbols, c->body));
  const Func *f = module_find_func(m, "f");
  PlanRun *run =
      plan_run_new_with(arena, m, "f", (CudaOptions){.attention = CUDA_KINDS_MMA, .grouped = CUDA_KINDS_MMA});
  EvalEnvironment *env = eval_environment_new(arena, 1);
  Outcome outcome = RIGHT;
  uint64_t state = 7;
  if (change && (place >= change->count || !plan_run_plant(run, change->from, change->to, place)))
    outcome = NO_SUCH_PLACE;
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (f->values[v].kind == VALUE_ARGUMENT) {
      Tensor *t = make_argument(arena, c, f, &f->values[v], &state);
      eval_bind_argument(env, f->values[v].name, t);
      plan_run_bind(run, f->values[v].name, t);
    }
  if (outcome == RIGHT && !plan_run(run)) {
    outcome = WRONG;
  } else if (outcome == RIGHT) {
    const Evaluation *oracle = eval_func(f, env, arena);
    for (uint32_t i = 0; i < vec_len(f->results); i++)
      if (!agree(plan_run_result(run, f->results[i].label), eval_result(oracle, f->results[i].label)))
        outcome = WRONG;
  }
  plan_run_free(run);
  arena_free(arena);
  return outcome;
}

int main(void) {
  int planted = 0, missed = 0, unclean = 0;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    if (try(&cases[i], NULL, 0) != RIGHT) {
      unclean++;
      printf("WRONG as it is: %s\n", cases[i].name);
    }
    for (int k = 0; k < MOST_CHANGES && cases[i].changes[k].from; k++)
      for (int place = 0, outcome; (outcome = try(&cases[i], &cases[i].changes[k], place)) != NO_SUCH_PLACE; place++) {
        planted++;
        if (outcome == WRONG)
          continue;
        missed++;
        printf("MISSED: %s: place %d of %s\n", cases[i].name, place, cases[i].changes[k].from);
      }
  }
  printf("%d planted faults (what is FAILED above is theirs), %d missed\n", planted, missed);
  return missed > 0 || unclean > 0 || planted == 0;
}
