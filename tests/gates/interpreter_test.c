/* The gates in f64: the first update of every case of tests/parity/goldens/gate_*.json by the interpreter, compared
 * with what PyTorch got in float64: losses and the norm of the gradient to 1e-9, the loads of the experts exactly.
 *
 *     interpreter_test ROOT     the root of the source tree
 *
 * The data of a micro-batch comes from the runtime, parameters from @init. A table that the trainer makes of its data
 * (gate.hash with "balanced") is not there: such a case is left to tests/parity.
 */
#include <cjson/cJSON.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/script.h"
#include "ir/eval.h"
#include "runtime/data.h"
#include "tests/gates/golden.h"

static const double tolerance = 1e-9;
static int failed, compared;

typedef struct Case {
  Arena *arena;
  const char *name;
  const cJSON *golden, *config;
  const Module *module;
  const Func *train;
  EvalEnvironment *env;
  TokenFile *tokens;
  int64_t seed, accumulate;
} Case;

static void compare(const Case *c, const char *key, double found, double expected) {
  double error = fabs(found - expected) / fmax(fabs(expected), 1e-30);
  compared++;
  if (error <= tolerance)
    return;
  failed++;
  printf("%s: %s is %.13g, expected %.13g (relative difference %.2g)\n", c->name, key, found, expected, error);
}

/* The tokeniser `bytes`, as a token file. */
static TokenFile *byte_tokens(Arena *arena, const char *root) {
  const char *text = golden_read_file(arena, arena_print(arena, "%s/tests/parity/train.txt", root));
  const int64_t count = vec_len(text) - 1;
  int32_t *tokens = arena_alloc(arena, (size_t)count * sizeof *tokens);
  for (int64_t i = 0; i < count; i++)
    tokens[i] = (unsigned char)text[i];
  char directory[] = "interpreter-test-XXXXXX";
  if (!mkdtemp(directory)) {
    perror("mkdtemp");
    exit(1);
  }
  const char *path = token_file_path(directory, "train");
  token_file_write(path, tokens, count, 256, 0);
  TokenFile *file = token_file_open(directory, "train");
  unlink(path);
  rmdir(directory);
  return file;
}

/* ---------------------------------------------------------------- the model */

static const char **defines_of(Arena *arena, const cJSON *config) {
  const char **defines = NULL;
  for (const cJSON *key = config->child; key; key = key->next)
    vec_push(arena, defines,
             cJSON_IsString(key) ? arena_print(arena, "%s=%s", key->string, key->valuestring)
                                 : arena_print(arena, "%s=%.17g", key->string, key->valuedouble));
  return defines;
}

/* False when a parameter is what only a trainer knows. */
static bool bind_parameters(Case *c) {
  const Func *init = module_find_func(c->module, "init");
  const Table *table = c->train->table;
  const Evaluation *run = eval_func(init, eval_environment_new(c->arena, (uint64_t)c->seed), c->arena);
  for (uint32_t i = 0; i < vec_len(table->params); i++) {
    const Param *p = &table->params[i];
    if (strncmp(p->init, "token_balance", strlen("token_balance")) == 0)
      return false;
    eval_bind_parameter(c->env, table, p->name, SLOT_VALUE,
                        eval_result(run, arena_print(c->arena, "param @%s", p->name)));
  }
  return true;
}

/* ---------------------------------------------------------------- a micro-batch */

static Tensor *argument(const Case *c, const char *name) {
  const Value *value = &c->train->values[func_find_value(c->train, name)];
  return tensor_of_type(c->arena, c->module, value->type);
}

static void bind_integers(const Case *c, const char *name, const int32_t *data) {
  Tensor *t = argument(c, name);
  memcpy(t->i, data, (size_t)tensor_all_elements(t) * sizeof *data);
  eval_bind_argument(c->env, name, t);
}

static void bind_floats(const Case *c, const char *name, const float *data) {
  Tensor *t = argument(c, name);
  for (int64_t i = 0; i < tensor_all_elements(t); i++)
    t->f[i] = (double)data[i];
  eval_bind_argument(c->env, name, t);
}

static void bind_batch(Case *c, int64_t micro) {
  const Module *m = c->module;
  int64_t n = m->batch * m->sequence_length / c->accumulate, segments = m->batch / c->accumulate;
  int32_t *integers = arena_alloc(c->arena, (size_t)(4 * n + segments + 1) * sizeof *integers);
  float *floats = arena_alloc(c->arena, (size_t)(2 * n) * sizeof *floats);
  Batch batch = {.rows = n,
                 .segments = segments,
                 .tokens = integers,
                 .targets = integers + n,
                 .position = integers + 2 * n,
                 .token = integers + 3 * n,
                 .off = integers + 4 * n,
                 .weight = floats,
                 .live = floats + n};
  DataOrder order = data_order(c->tokens, m->sequence_length, (uint64_t)c->seed);
  batch_fill_training(&batch, c->tokens, &order, 0, m->batch, micro, c->accumulate);
  bind_integers(c, "tokens", batch.tokens);
  bind_integers(c, "targets", batch.targets);
  bind_integers(c, "position", batch.position);
  bind_integers(c, "token", batch.token);
  bind_integers(c, "off", batch.off);
  bind_floats(c, "weight", batch.weight);
  bind_floats(c, "live", batch.live);
  eval_bind_argument(c->env, "step", tensor_scalar_i32(c->arena, 0));
  eval_bind_argument(c->env, "inverse_targets",
                     tensor_scalar_f32(c->arena, 1 / (double)(m->batch * m->sequence_length)));
}

/* ---------------------------------------------------------------- an update */

static double sum_of(const Case *c, Evaluation *const *runs, const char *label) {
  double sum = 0;
  for (int64_t i = 0; i < c->accumulate; i++)
    sum += eval_result(runs[i], label)->f[0];
  return sum;
}

static double gradient_norm(const Case *c, Evaluation *const *runs) {
  const Table *table = c->train->table;
  double squares = 0;
  for (uint32_t p = 0; p < vec_len(table->params); p++) {
    const char *label = arena_print(c->arena, "grad @%s", table->params[p].name);
    for (int64_t at = 0; table->params[p].segment >= 0 && at < type_elements(c->module, table->params[p].type); at++) {
      double sum = 0;
      for (int64_t i = 0; i < c->accumulate; i++)
        sum += eval_result(runs[i], label)->f[at];
      squares += sum * sum;
    }
  }
  return sqrt(squares);
}

static void compare_update(const Case *c, Evaluation *const *runs) {
  const cJSON *line = cJSON_GetObjectItem(c->golden, "train")->child;
  for (const cJSON *item = line->child; item; item = item->next) {
    const char *key = item->string, *loss = arena_print(c->arena, "aux.%s", key);
    if (strcmp(key, "loss") == 0 || strcmp(key, "ce") == 0)
      compare(c, key, sum_of(c, runs, key), item->valuedouble);
    else if (strcmp(key, "grad_norm") == 0)
      compare(c, key, gradient_norm(c, runs), item->valuedouble);
    else if (func_find_result(c->train, loss) != NO_VALUE)
      compare(c, key, sum_of(c, runs, loss) / (double)c->accumulate, item->valuedouble);
  }
  for (const cJSON *layer = cJSON_GetObjectItem(line, "load")->child; layer; layer = layer->next)
    for (int e = 0; e < cJSON_GetArraySize(layer); e++) {
      double load = 0;
      for (int64_t i = 0; i < c->accumulate; i++)
        load += eval_result(runs[i], arena_print(c->arena, "load.%s", layer->string))->f[e];
      compare(c, layer->string, load, cJSON_GetArrayItem(layer, e)->valuedouble);
    }
}

static bool run_case(const char *root, const char *path) {
  Arena *arena = arena_new();
  Case c = {.arena = arena, .name = strrchr(path, '/') + 1, .golden = golden_read(arena, path)};
  c.config = cJSON_GetObjectItem(c.golden, "config");
  c.seed = (int64_t)cJSON_GetObjectItem(c.golden, "seed")->valuedouble;
  const char *model = cJSON_GetObjectItem(c.golden, "model")->valuestring;
  ScriptOptions options = {.path = arena_print(arena, "%s/%s", root, model), .defines = defines_of(arena, c.config)};
  Module *m = script_compile(arena, &options).module;
  golden_differentiate(m);
  c.module = m;
  c.accumulate = m->accumulate;
  c.train = module_find_func(m, arena_print(arena, "%s.train", m->phases[0]->name));
  c.env = eval_environment_new(arena, (uint64_t)c.seed);
  c.tokens = byte_tokens(arena, root);
  bool possible = bind_parameters(&c);
  if (possible) {
    Evaluation **runs = arena_alloc(arena, (size_t)c.accumulate * sizeof *runs);
    for (int64_t micro = 0; micro < c.accumulate; micro++) {
      bind_batch(&c, micro);
      runs[micro] = eval_func(c.train, c.env, arena);
    }
    compare_update(&c, runs);
  }
  arena_free(arena);
  return possible;
}

int main(int argc, char **argv) {
  Arena *arena = arena_new();
  const char *root = argc > 1 ? argv[1] : ".";
  glob_t found;
  int cases = 0;
  if (glob(arena_print(arena, "%s/tests/parity/goldens/gate_*.json", root), 0, NULL, &found) != 0) {
    printf("no goldens under %s\n", root);
    return 1;
  }
  for (size_t i = 0; i < found.gl_pathc; i++)
    cases += run_case(root, found.gl_pathv[i]);
  printf("interpreter_test: %d cases, %d comparisons, %d failures\n", cases, compared, failed);
  return failed || cases < 10;
}
