/* The hidden command `exec --func=NAME --in=X.safetensors --out=Y.safetensors [--seed=N] [--device=cpu|cuda]`: runs one
 * function of the plan on given tensors, for tests that compare it with the interpreter.
 *
 * In, by name: every argument of the function ("tokens"; but p0, g0, m0, v0, ... lie in the arenas), and of every
 * parameter what the function's table holds: "@NAME" its value, "@NAME!m" and "@NAME!v" its moments, "grad @NAME" its
 * gradient. A transition also takes those of the table it leaves: "@TABLE::NAME", "@TABLE::NAME!m", "@TABLE::NAME!v".
 * Arguments must all be there; what is not given of a table is zero. A tensor that fits nothing is an error.
 *
 * Out: every result as "LABEL" or "LABEL @NAME", every `value` line as "%NAME", f32 or i32, in full static shape and
 * dense. Rows behind the live ones are NaN (i32: the smallest number).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/commands.h"
#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/options.h"
#include "runtime/program.h"
#include "runtime/safetensors.h"

static TensorType tensor_type_of(PlanType type) {
  return type == PLAN_I32 ? TENSOR_I32 : type == PLAN_BF16 ? TENSOR_BF16 : TENSOR_F32;
}

static void take(const Tensor *tensor, PlanType type, const PlanShape *shape, void *to) {
  bool same = tensor->type == tensor_type_of(type) && tensor->rank == shape->rank;
  for (int i = 0; same && i < shape->rank; i++)
    same = tensor->dim[i] == shape->dim[i];
  if (!same)
    runtime_fail(FAIL_USER, "tensor '%s' is %s of rank %d and %lld elements, the plan wants %s of rank %d and %lld",
                 tensor->name, tensor_type_name(tensor->type), tensor->rank, (long long)tensor_elements(tensor),
                 plan_type_name(type), shape->rank, (long long)shape->elements);
  memcpy(to, tensor->data, (size_t)shape->elements * plan_type_size(type));
}

/* Nearest, of equals the even one; no NaN. */
static void narrow(const float *from, uint16_t *to, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &from[i], sizeof bits);
    to[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

/* The gradient of NAME, as the update takes it in its segment "g0", "g1", ...; of a state the next value, which stands
 * as far from the end of the arena as the state from the end of the parameters. */
static void take_gradient(const Tensor *tensor, const char *name, const PlanFunc *update, Arenas *arenas) {
  const PlanTable *table = arenas->table;
  const PlanParam *param = plan_param(table, name);
  char *segment = string_format("g%d", param ? param->segment : -1), *gradients = arenas_write_gradients(arenas);
  const PlanArgument *argument = plan_argument(update, segment);
  if (!param || (param->segment >= 0 && !argument))
    runtime_fail(FAIL_USER, "tensor '%s': %s takes no such gradient", tensor->name, update->name);
  int64_t before = param->segment >= 0 ? param->offset - table->segments[param->segment].offset : 0;
  if (param->segment < 0) {
    take(tensor, PLAN_F32, &param->shape,
         gradients + table->gradient_bytes - (table->size - param->offset) * (int64_t)sizeof(float));
  } else if (argument->type == PLAN_BF16) {
    float *elements = runtime_allocate((size_t)param->shape.elements, sizeof *elements);
    take(tensor, PLAN_F32, &param->shape, elements);
    narrow(elements, (uint16_t *)(gradients + argument->at.offset) + before, param->shape.elements);
    free(elements);
  } else {
    take(tensor, PLAN_F32, &param->shape, (float *)(gradients + argument->at.offset) + before);
  }
  free(segment);
}

/* "NAME", "NAME!m" or "NAME!v" behind '@' (and the table). */
static void take_parameter(const Tensor *tensor, const char *text, Arenas *arenas) {
  const char *mark = strrchr(text, '!');
  char *name = mark ? string_format("%.*s", (int)(mark - text), text) : string_format("%s", text);
  const PlanParam *param = plan_param(arenas->table, name);
  if (!param || (mark && strcmp(mark, "!m") != 0 && strcmp(mark, "!v") != 0))
    runtime_fail(FAIL_USER, "tensor '%s': table %s has no such parameter", tensor->name, arenas->table->name);
  ArenaKind kind = !mark ? ARENA_PARAM : mark[1] == 'm' ? ARENA_M : ARENA_V;
  take(tensor, PLAN_F32, &param->shape, arenas_write(arenas, kind) + param->offset);
  free(name);
}

/* The one other table that the inputs name: a transition's source. */
static Arenas *source_arenas(const Program *p, const Safetensors *in) {
  for (int i = 0; i < in->count; i++) {
    const char *name = in->tensors[i].name, *colons = strstr(name, "::");
    if (name[0] != '@' || !colons)
      continue;
    char *table_name = string_format("%.*s", (int)(colons - name - 1), name + 1);
    const PlanTable *table = plan_table(p->plan, table_name);
    if (!table)
      runtime_fail(FAIL_USER, "tensor '%s': no table %s", name, table_name);
    return arenas_new(p->executor, table);
  }
  return NULL;
}

static bool in_arena(const char *name) {
  return strchr("pgmv", name[0]) && name[1] && strspn(name + 1, "0123456789") == strlen(name + 1);
}

static void fill(Executor *executor, const PlanFunc *func, const Safetensors *in, Arenas *arenas, Arenas *source) {
  for (int i = 0; i < func->argument_count; i++) {
    const PlanArgument *argument = &func->arguments[i];
    const Tensor *tensor = safetensors_find(in, argument->name);
    if (!tensor && !in_arena(argument->name))
      runtime_fail(FAIL_USER, "%s: no tensor for argument '%s' of %s", in->path, argument->name, func->name);
    if (tensor && in_arena(argument->name))
      runtime_fail(FAIL_USER, "tensor '%s': %s takes it from its table's arenas", tensor->name, func->name);
    if (tensor)
      take(tensor, argument->type, &argument->shape, executor_argument(executor, func, argument->name));
  }
  for (int i = 0; i < in->count; i++) {
    const Tensor *tensor = &in->tensors[i];
    bool gradient = strncmp(tensor->name, "grad @", 6) == 0;
    const char *colons = strstr(tensor->name, "::");
    if (!gradient && tensor->name[0] != '@') {
      if (!plan_argument(func, tensor->name))
        runtime_fail(FAIL_USER, "tensor '%s': %s has no such argument", tensor->name, func->name);
      continue;
    }
    Arenas *to = colons && !gradient ? source : arenas;
    if (!to)
      runtime_fail(FAIL_USER, "tensor '%s': %s has no table", tensor->name, func->name);
    if (gradient)
      take_gradient(tensor, tensor->name + 6, func, to);
    else
      take_parameter(tensor, colons ? colons + 2 : tensor->name + 1, to);
  }
}

/* `live`: live entries of dim 0, `ld`: elements between rows. */
static Tensor copy_out(const Executor *executor, char *name, PlanType type, const PlanShape *shape, int64_t ld,
                       PlanPlace at, int64_t live) {
  Tensor tensor = {.name = name, .type = tensor_type_of(type), .rank = shape->rank};
  memcpy(tensor.dim, shape->dim, sizeof shape->dim);
  size_t size = plan_type_size(type);
  int64_t rows = shape->rank < 2 ? 1 : shape->elements / shape->dim[shape->rank - 1];
  int64_t columns = rows > 0 ? shape->elements / rows : 0;
  int64_t live_elements = shape->rank == 0 ? 1 : live * (shape->elements / (shape->dim[0] ? shape->dim[0] : 1));
  uint8_t *data = runtime_allocate((size_t)shape->elements + 1, size);
  uint8_t *from = runtime_allocate((size_t)(rows * ld + columns), size);
  if (rows > 0)
    executor_read(executor, at, from, ((rows - 1) * ld + columns) * (int64_t)size);
  for (int64_t row = 0; row < rows; row++)
    memcpy(data + (size_t)(row * columns) * size, from + (size_t)(row * ld) * size, (size_t)columns * size);
  free(from);
  for (int64_t i = live_elements; i < shape->elements; i++) {
    if (type == PLAN_I32)
      ((int32_t *)data)[i] = INT32_MIN;
    else if (type == PLAN_F32)
      ((float *)data)[i] = NAN;
    else
      ((uint16_t *)data)[i] = 0x7FC0;
  }
  tensor.data = data;
  return tensor;
}

static int64_t live_rows(const Executor *executor, PlanCount live, const PlanShape *shape) {
  return shape->rank == 0 ? 1 : live.dynamic ? executor_count(executor, live) : shape->dim[0];
}

static void write_out(const Executor *executor, const PlanFunc *func, const char *path) {
  Tensor *tensors = runtime_allocate((size_t)(func->result_count + func->value_count), sizeof *tensors);
  int count = 0;
  for (int i = 0; i < func->result_count; i++) {
    const PlanResult *r = &func->results[i];
    char *name = r->parameter ? string_format("%s @%s", r->label, r->parameter) : string_format("%s", r->label);
    int64_t columns = r->shape.rank > 0 ? r->shape.dim[r->shape.rank - 1] : 1;
    tensors[count++] =
        copy_out(executor, name, r->type, &r->shape, columns, r->at, live_rows(executor, r->live, &r->shape));
  }
  for (int i = 0; i < func->value_count; i++) {
    const PlanValue *v = &func->values[i];
    tensors[count++] = copy_out(executor, string_format("%%%s", v->name), v->type, &v->shape, v->ld, v->at,
                                live_rows(executor, v->live, &v->shape));
  }
  safetensors_write(path, tensors, count);
}

int trainer_exec(int argc, char **argv) {
  const char *name = NULL, *input = NULL, *output = NULL, *device = "cpu";
  int64_t seed = 1;
  const Option options[] = {{"--func", OPTION_TEXT, &name, 0},
                            {"--in", OPTION_TEXT, &input, 0},
                            {"--out", OPTION_TEXT, &output, 0},
                            {"--seed", OPTION_INTEGER, &seed, 0},
                            {"--device", OPTION_TEXT, &device, 0}};
  options_parse("exec", argc, argv, options, sizeof options / sizeof *options, NULL);
  if (!name || !input || !output)
    runtime_fail(FAIL_USAGE, "exec: --func=NAME, --in=FILE and --out=FILE are needed");
  Program *p = program_open("exec", device);
  const PlanFunc *func = plan_func(p->plan, name);
  if (!func)
    runtime_fail(FAIL_USAGE, "exec: the plan has no function '%s'", name);
  Safetensors *in = safetensors_open(input);
  program_start(p, (uint64_t)seed);
  Arenas *arenas = func->table ? arenas_new(p->executor, func->table) : NULL, *source = source_arenas(p, in);
  executor_set_table(p->executor, arenas);
  executor_set_source(p->executor, source);
  fill(p->executor, func, in, arenas, source);
  if (arenas)
    arenas_settle(arenas);
  if (source)
    arenas_settle(source);
  executor_run(p->executor, func);
  write_out(p->executor, func, output);
  return 0;
}
