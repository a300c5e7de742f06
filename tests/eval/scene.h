/* What the tests of the interpreter and of the gradients share: a module with one function, data bound to its
 * arguments and parameters as they are made, and counted checks. */
#ifndef MOEC_TESTS_SCENE_H
#define MOEC_TESTS_SCENE_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ir/eval.h"

/* Short forms of "pointer, count" arguments. */
#define DIMS(...)                                                                                                      \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) {                                       \
    __VA_ARGS__                                                                                                        \
  }
#define INPUTS(...) (const ValueId[]){__VA_ARGS__}, (int)(sizeof((ValueId[]){__VA_ARGS__}) / sizeof(ValueId))
#define ATTRS(...) (const Attr[]){__VA_ARGS__}, (int)(sizeof((Attr[]){__VA_ARGS__}) / sizeof(Attr))
#define NO_ATTRS NULL, 0
#define FLOATS(...) ((const double[]){__VA_ARGS__})
#define INTS(...) ((const int32_t[]){__VA_ARGS__})

typedef struct Scene {
  Arena *arena;
  Module *module;
  Table *table;
  Func *func;
  EvalEnvironment *env;
  uint64_t random;
} Scene;

static const Loc scene_loc = {"test.lua", 7};

static inline Scene scene_new(const char *func_name) {
  Scene s = {.arena = arena_new(), .random = 1};
  s.module = module_new(s.arena, "test");
  s.table = module_add_table(s.module, "t");
  s.func = module_add_func(s.module, func_name, s.table);
  s.env = eval_environment_new(s.arena, 0x123456789abcdef0u);
  return s;
}

static inline void scene_free(Scene *s) {
  arena_free(s->arena);
}

static inline Type scene_type(DType dtype, int rank, const int64_t *dims) {
  Dim dim[MAX_RANK];
  for (int d = 0; d < rank; d++)
    dim[d] = dim_number(dims[d]);
  return type_make(dtype, rank, dim);
}

/* Deterministic, uniform in [low, high). */
static inline double scene_random(Scene *s, double low, double high) {
  s->random = s->random * 6364136223846793005u + 1442695040888963407u;
  return low + (high - low) * (double)(s->random >> 11) / 9007199254740992.0;
}

static inline const char *scene_name(Scene *s, const char *stem) {
  return arena_print(s->arena, "%s%u", stem, vec_len(s->func->values));
}

/* An argument of any type with its data: double or int32_t, by dtype. */
static inline ValueId scene_argument(Scene *s, Type type, const void *data) {
  const char *name = scene_name(s, "arg");
  Tensor *t = tensor_of_type(s->arena, s->module, type);
  size_t count = (size_t)tensor_all_elements(t);
  if (t->i)
    memcpy(t->i, data, count * sizeof *t->i);
  else
    memcpy(t->f, data, count * sizeof *t->f);
  eval_bind_argument(s->env, name, t);
  return func_add_argument(s->func, name, type);
}

static inline ValueId scene_floats(Scene *s, int rank, const int64_t *dims, const double *data) {
  return scene_argument(s, scene_type(DTYPE_F32, rank, dims), data);
}

static inline ValueId scene_ints(Scene *s, int rank, const int64_t *dims, const int32_t *data) {
  return scene_argument(s, scene_type(DTYPE_I32, rank, dims), data);
}

/* Random data in [low, high). */
static inline double *scene_data(Scene *s, int rank, const int64_t *dims, double low, double high) {
  size_t count = 1;
  for (int d = 0; d < rank; d++)
    count *= (size_t)dims[d];
  double *data = arena_alloc(s->arena, count * sizeof *data);
  for (size_t i = 0; i < count; i++)
    data[i] = scene_random(s, low, high);
  return data;
}

static inline ValueId scene_parameter(Scene *s, int rank, const int64_t *dims, const double *data) {
  Param p = {.name = arena_print(s->arena, "p%u", vec_len(s->table->params)),
             .type = scene_type(DTYPE_F32, rank, dims),
             .init = "given"};
  Tensor *t = tensor_of_type(s->arena, s->module, p.type);
  memcpy(t->f, data, (size_t)tensor_all_elements(t) * sizeof *t->f);
  eval_bind_parameter(s->env, s->table, p.name, SLOT_VALUE, t);
  table_add_param(s->table, s->module, p);
  return func_parameter(s->func, NULL, p.name, SLOT_VALUE);
}

/* The first output of a new instruction. */
static inline ValueId scene_op(Scene *s, Op op, const ValueId *input, int input_count, const Attr *attr,
                               int attr_count) {
  return build(s->func, op, scene_loc, input, input_count, attr, attr_count);
}

/* Another output of the instruction that made `first`. */
static inline ValueId scene_output(const Scene *s, ValueId first, int output) {
  return s->func->insts[s->func->values[first].inst].output[output];
}

static inline Attr scene_shape(int rank, const int64_t *dims) {
  Dim dim[MAX_RANK];
  for (int d = 0; d < rank; d++)
    dim[d] = dim_number(dims[d]);
  return attr_shape(rank, dim);
}

/* ---------------------------------------------------------------- checks */

extern int checks_failed, checks_made; /* of the whole program: defined beside its main */

static inline bool check(bool holds, const char *what) {
  checks_made++;
  if (!holds) {
    checks_failed++;
    printf("FAILED: %s\n", what);
  }
  return holds;
}

static inline int check_summary(const char *program) {
  printf("%s: %d checks, %d failed\n", program, checks_made, checks_failed);
  return checks_failed ? 1 : 0;
}

#endif
