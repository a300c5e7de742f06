/* Gradients of a whole function against finite differences of its loss.
 *
 * In: a run of a function behind autodiff. For every parameter p that learns and a direction d in the shape of p, the
 * change of the loss along d is compared with the sum of grad * d. Every element of d has the sign of the gradient's
 * element (a random one where that is 0), so that the sum has no cancellation and a missing element shows. What
 * autodiff holds constant, decisions among it, keeps the values of the run: the difference quotient then meets no jump.
 */
#include <math.h>
#include <string.h>

#include "frontend/check.h"

static const double tolerance = 1e-5;

/* Part of the loss below which the difference of two losses says nothing: their rounding over the step. */
static const double noise = 1e-10;

typedef struct Probe {
  const Evaluation *base;
  const Func *func;
  bool *needed; /* by ValueId: the loss is computed from it */
  bool *anew;   /* by ValueId: the moved parameter reaches it */
} Probe;

static bool *needed_values(Arena *arena, const Func *f, ValueId loss) {
  bool *needed = arena_alloc(arena, vec_len(f->values) + 1);
  needed[loss] = true;
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    bool used = false;
    for (int o = 0; o < inst->output_count; o++)
      used |= needed[inst->output[o]];
    for (int k = 0; used && k < inst->input_count; k++)
      needed[inst->input[k]] = true;
  }
  return needed;
}

/* What must be computed again when the parameter moves. */
static void mark_reached(Probe *probe, const char *parameter) {
  const Func *f = probe->func;
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    const Value *value = &f->values[v];
    probe->anew[v] = value->kind == VALUE_PARAMETER && value->table == f->table && value->slot == SLOT_VALUE &&
                     strcmp(value->parameter, parameter) == 0;
  }
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    bool reached = false, wanted = false, constant = (op_info[inst->op].flags & FLAG_NO_GRADIENT) != 0;
    for (int k = 0; k < inst->input_count; k++)
      reached |= probe->anew[inst->input[k]];
    for (int o = 0; o < inst->output_count; o++) {
      wanted |= probe->needed[inst->output[o]];
      constant |= f->values[inst->output[o]].type.dtype == DTYPE_I32;
    }
    for (int o = 0; o < inst->output_count; o++)
      probe->anew[inst->output[o]] = reached && wanted && !constant;
  }
}

static double loss_at(const Probe *probe, const char *parameter, const Tensor *from, const Tensor *direction,
                      double distance) {
  Arena *arena = arena_new();
  Tensor *moved = tensor_new(arena, from->dtype, from->rank, from->dim);
  for (int64_t at = 0; at < tensor_all_elements(from); at++)
    moved->f[at] = from->f[at] + distance * direction->f[at];
  EvalEnvironment *env = probe->base->env;
  eval_bind_parameter(env, probe->func->table, parameter, SLOT_VALUE, moved);
  double loss = eval_result(eval_again(probe->base, probe->anew, arena), "loss")->f[0];
  eval_bind_parameter(env, probe->func->table, parameter, SLOT_VALUE, from);
  arena_free(arena);
  return loss;
}

/* Magnitudes in (0.5, 1.5). */
static Tensor *make_direction(Arena *arena, uint64_t seed, const Tensor *gradient) {
  Tensor *d = tensor_new(arena, gradient->dtype, gradient->rank, gradient->dim);
  for (int64_t at = 0; at < tensor_all_elements(d); at++) {
    double u = eval_uniform_draw(seed, (uint64_t)at, 0, 0), sign = eval_uniform_draw(seed, (uint64_t)at, 1, 0) - 0.5;
    d->f[at] = copysign(0.5 + u, gradient->f[at] != 0 ? gradient->f[at] : sign);
  }
  return d;
}

/* Central differences at one step after the other until one agrees: a large step feels the curvature, a small one the
 * rounding. */
static Deviation probe_parameter(const Probe *probe, const char *parameter, const Tensor *from,
                                 const Tensor *gradient) {
  static const double steps[] = {1e-5, 1e-4, 1e-6};
  Arena *arena = probe->base->arena;
  Deviation best = {.what = arena_print(arena, "grad @%s", parameter), .allowed = tolerance, .error = INFINITY};
  Tensor *direction = make_direction(arena, probe->base->env->seed, gradient);
  for (int64_t at = 0; at < tensor_all_elements(gradient); at++)
    best.found += gradient->f[at] * direction->f[at];
  double loss = fabs(eval_result(probe->base, "loss")->f[0]);
  for (size_t i = 0; i < sizeof steps / sizeof steps[0] && !(best.error <= tolerance); i++) {
    double slope =
        (loss_at(probe, parameter, from, direction, steps[i]) - loss_at(probe, parameter, from, direction, -steps[i])) /
        (2 * steps[i]);
    double error = fmax(0, fabs(best.found - slope) - noise * loss) / fmax(fabs(slope), noise * loss);
    if (i == 0 || error < best.error) {
      best.expected = slope;
      best.error = isnan(error) ? INFINITY : error;
    }
  }
  return best;
}

/* One version of a function says it for all: check_passes compares their gradients with each other. */
void check_gradients(Check *check, const Evaluation *run) {
  const Func *f = run->func;
  CheckRow *row = check_row(check, "gradients", inputs_origin(check->inputs, f->name));
  if (row->compared)
    return;
  Probe probe = {.base = run, .func = f, .anew = arena_alloc(run->arena, vec_len(f->values) + 1)};
  probe.needed = needed_values(run->arena, f, func_find_result(f, "loss"));
  const TableValues *values = inputs_table(check->inputs, f->table);
  for (uint32_t i = 0; i < vec_len(f->table->params); i++) {
    const Param *p = &f->table->params[i];
    const Tensor *gradient = eval_result(run, arena_print(run->arena, "grad @%s", p->name));
    if (p->segment < 0)
      continue;
    if (!gradient)
      ir_bug("check: @%s has no gradient of @%s", f->name, p->name);
    mark_reached(&probe, p->name);
    Deviation d = probe_parameter(&probe, p->name, values->slot[SLOT_VALUE][i], gradient);
    d.what = arena_print(check->arena, "%s", d.what);
    check_note(row, d);
  }
}
