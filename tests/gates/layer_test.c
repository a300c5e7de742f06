/* One MoE layer with every gate in f64: the functions of tests/parity/layer.lua by the interpreter, compared with
 * tests/parity/goldens/layer/CASE.json tensor by tensor: losses, loads, the layer's output, the gradient of every
 * parameter. tests/parity/layer.py does the same with trainers.
 *
 *     layer_test ROOT     the root of the source tree
 *
 * Goldens have 9 digits of their largest number, so that rounding may take half of 1e-8 of it: the tolerance is above
 * that.
 */
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frontend/script.h"
#include "ir/eval.h"
#include "tests/gates/golden.h"

static const double tolerance = 6e-9, nothing = 1e-14;
static int failed, compared;

typedef struct Case {
  Arena *arena;
  const char *name, *function;
  const cJSON *golden;
  const Module *module;
  const Func *func;
  EvalEnvironment *env;
} Case;

static void fail(const Case *c, const char *label, const char *what) {
  failed++;
  printf("%s: %s %s\n", c->function, label, what);
}

/* ---------------------------------------------------------------- what goes in */

static Tensor *numbers(const Case *c, Type type, const cJSON *values, double scale) {
  Tensor *t = tensor_of_type(c->arena, c->module, type);
  int64_t i = 0;
  for (const cJSON *value = values->child; value && i < tensor_all_elements(t); value = value->next, i++) {
    if (t->dtype == DTYPE_I32)
      t->i[i] = value->valueint;
    else
      t->f[i] = value->valuedouble * scale;
  }
  if (i != cJSON_GetArraySize(values) || i != tensor_all_elements(t))
    fail(c, values->string, "has not as many numbers as the script says");
  return t;
}

static void bind_argument(const Case *c, const char *name, const cJSON *values) {
  eval_bind_argument(c->env, name, numbers(c, c->func->values[func_find_value(c->func, name)].type, values, 1));
}

static void bind_inputs(const Case *c) {
  const cJSON *inputs = golden_item(c->golden, "inputs");
  double targets = 0;
  int64_t n = cJSON_GetArraySize(golden_item(inputs, "tokens"));
  for (const cJSON *item = inputs->child; item; item = item->next)
    bind_argument(c, item->string, item);
  for (const cJSON *weight = golden_item(inputs, "weight")->child; weight; weight = weight->next)
    targets += weight->valuedouble;
  eval_bind_argument(c->env, "inverse_targets", tensor_scalar_f32(c->arena, 1 / targets));
  eval_bind_argument(c->env, "tau", tensor_scalar_f32(c->arena, golden_item(c->golden, "tau")->valuedouble));
  eval_bind_argument(c->env, "step", tensor_scalar_i32(c->arena, golden_item(c->golden, "step")->valueint));
  Tensor *token = tensor_new(c->arena, DTYPE_I32, 1, &n);
  for (int64_t i = 0; i < n; i++)
    token->i[i] = (int32_t)i;
  eval_bind_argument(c->env, "token", token);
}

static void bind_parameters(const Case *c) {
  const Table *table = c->func->table;
  const cJSON *given = golden_item(c->golden, "parameters");
  for (uint32_t i = 0; i < vec_len(table->params); i++) {
    const Param *p = &table->params[i];
    const cJSON *parts = golden_item(golden_item(given, p->name), "parts");
    eval_bind_parameter(c->env, table, p->name, SLOT_VALUE, numbers(c, p->type, parts, 1.0 / 64));
  }
}

/* ---------------------------------------------------------------- what comes out */

static void compare(const Case *c, const char *label, const Tensor *found, const cJSON *expected) {
  double largest = 0, worst = 0;
  int64_t i = 0;
  compared++;
  if (tensor_all_elements(found) != cJSON_GetArraySize(expected)) {
    fail(c, label, "has another size than expected");
    return;
  }
  for (const cJSON *value = expected->child; value; value = value->next, i++) {
    double error = fabs(found->f[i] - value->valuedouble);
    largest = fmax(largest, fabs(value->valuedouble));
    worst = error <= worst ? worst : error; /* NaN is the worst */
  }
  if (worst <= (largest > 0 ? tolerance * largest : nothing))
    return;
  failed++;
  printf("%s: %s is off by %.2g of its largest number %.9g\n", c->function, label, worst / largest, largest);
}

static void compare_results(const Case *c, const Evaluation *run, const cJSON *expected) {
  for (const cJSON *item = expected->child; item; item = item->next) {
    const Tensor *found = strcmp(item->string, "y") == 0 ? eval_value(run, "combine") : eval_result(run, item->string);
    if (found)
      compare(c, item->string, found, item);
    else
      fail(c, item->string, "is not there");
  }
  for (uint32_t i = 0; i < vec_len(c->func->results); i++) {
    const char *label = c->func->results[i].label;
    if ((strncmp(label, "grad @", 6) == 0 || strncmp(label, "aux.", 4) == 0) &&
        !cJSON_GetObjectItemCaseSensitive(expected, label))
      fail(c, label, "is not expected");
  }
}

/* The module of the golden's set, with its `experts`. */
static const Module *compile(Arena *arena, const char *root, const cJSON *golden) {
  const char **defines = NULL;
  vec_push(arena, defines, arena_print(arena, "set=%s", golden_item(golden, "set")->valuestring));
  vec_push(arena, defines, arena_print(arena, "experts=%d", golden_item(golden, "experts")->valueint));
  ScriptOptions options = {.path = arena_print(arena, "%s/tests/parity/layer.lua", root), .defines = defines};
  Module *m = script_compile(arena, &options).module;
  golden_differentiate(m);
  return m;
}

static void run_case(const char *root, const char *path) {
  Arena *arena = arena_new();
  const char *file = strrchr(path, '/') + 1;
  Case c = {.arena = arena, .golden = golden_read(arena, path)};
  c.name = arena_print(arena, "%.*s", (int)(strlen(file) - strlen(".json")), file);
  c.module = compile(arena, root, c.golden);
  for (const cJSON *mode = golden_item(c.golden, "results")->child; mode; mode = mode->next) {
    c.function = arena_print(arena, "%s.%s", c.name, mode->string);
    c.func = module_find_func(c.module, c.function);
    c.env = eval_environment_new(arena, (uint64_t)golden_item(c.golden, "seed")->valueint);
    if (!c.func) {
      fail(&c, c.function, "is not in the module");
      continue;
    }
    bind_inputs(&c);
    bind_parameters(&c);
    compare_results(&c, eval_func(c.func, c.env, arena), mode);
  }
  arena_free(arena);
}

int main(int argc, char **argv) {
  Arena *arena = arena_new();
  const char *root = argc > 1 ? argv[1] : ".";
  glob_t found;
  if (glob(arena_print(arena, "%s/tests/parity/goldens/layer/*.json", root), 0, NULL, &found) != 0) {
    printf("no goldens under %s\n", root);
    return 1;
  }
  for (size_t i = 0; i < found.gl_pathc; i++)
    run_case(root, found.gl_pathv[i]);
  printf("layer_test: %zu gates, %d tensors compared, %d failures\n", found.gl_pathc, compared, failed);
  return failed || compared < 300;
}
