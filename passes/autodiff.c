/* Reverse-mode differentiation.
 *
 * In: a module at stage GRAPH. Out: stage GRADIENT; every function with the result `loss`, a scalar, has a result
 * `grad @p` for every parameter of its table that is not frozen (0 where no path leads from p to the loss). Functions
 * without `loss` stay as they are. Holds: the forward part is not touched; gradient instructions stand behind it and
 * carry the Lua lines of the forward instructions they come from; contributions to one value are added in the reverse
 * order of their uses, always the same.
 *
 * The rules themselves are in ir/gradient.c, one per op. */
#include "passes/pass.h"

#include <string.h>

/* By ValueId: whether a parameter that learns reaches it along differentiable ops. */
static bool *wanted_values(const Func *f) {
  bool *wanted = arena_alloc(f->module->arena, vec_len(f->values) + 1);
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    const Value *value = &f->values[v];
    if (value->kind == VALUE_PARAMETER && value->table == f->table && value->slot == SLOT_VALUE)
      wanted[v] = table_find_param(f->table, value->parameter)->segment >= 0;
  }
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    bool reached = false;
    for (int k = 0; k < inst->input_count; k++)
      reached |= wanted[inst->input[k]];
    for (int k = 0; k < inst->output_count; k++)
      wanted[inst->output[k]] =
          reached && gradient_rule[inst->op] != NULL && f->values[inst->output[k]].type.dtype != DTYPE_I32;
  }
  return wanted;
}

static bool has_gradient(const Gradients *g, const Inst *inst) {
  for (int k = 0; k < inst->output_count; k++)
    if (g->of[inst->output[k]] != NO_VALUE)
      return true;
  return false;
}

/* Calls the gradient of %x "d_x", where no other value's gradient is the same value. */
static void name_gradient(Gradients *g, ValueId v, ValueId first_gradient, bool *named) {
  const ValueId d = g->of[v];
  if (d == NO_VALUE || d < first_gradient || named[d - first_gradient])
    return;
  named[d - first_gradient] = true;
  value_rename(g->f, d, arena_print(g->f->module->arena, "d_%s", g->f->values[v].name));
}

static void name_gradients(Gradients *g, ValueId first_gradient) {
  bool *named = arena_alloc(g->f->module->arena, vec_len(g->f->values) - first_gradient + 1);
  for (ValueId v = 0; v < first_gradient; v++)
    name_gradient(g, v, first_gradient, named);
}

/* Where the instructions belong that come from no forward instruction: the seed and zero gradients. */
static Loc loss_loc(const Func *f, ValueId loss) {
  return f->values[loss].kind == VALUE_RESULT ? f->insts[f->values[loss].inst].loc : (Loc){0};
}

static ValueId seed_gradient(Func *f, ValueId loss) {
  const Loc loc = loss_loc(f, loss);
  const Type type = f->values[loss].type;
  if (type.dtype != DTYPE_F32 || type_elements(f->module, type) != 1 || type.extent != NO_VALUE)
    ir_fail(loc, "@%s: the result `loss` is %s; expected a scalar, f32[]", f->name, type_text(f, type));
  return build_broadcast(f, loc, build_const(f, loc, 1), type);
}

/* By index of a parameter in the function's table: the value that stands for it, NO_VALUE when it is not read. */
static ValueId *parameter_values(const Func *f, ValueId forward_values) {
  const uint32_t count = vec_len(f->table->params);
  ValueId *value_of = arena_alloc(f->module->arena, (count + 1) * sizeof *value_of);
  for (uint32_t i = 0; i < count; i++)
    value_of[i] = NO_VALUE;
  for (ValueId v = 0; v < forward_values; v++) {
    const Value *value = &f->values[v];
    if (value->kind == VALUE_PARAMETER && value->table == f->table && value->slot == SLOT_VALUE)
      value_of[table_find_param(f->table, value->parameter) - f->table->params] = v;
  }
  return value_of;
}

static void add_gradient_results(Gradients *g, ValueId loss, const ValueId *parameter_value) {
  Func *f = g->f;
  for (uint32_t i = 0; i < vec_len(f->table->params); i++) {
    const Param *p = &f->table->params[i];
    if (p->segment < 0)
      continue;
    ValueId d = parameter_value[i] == NO_VALUE ? NO_VALUE : g->of[parameter_value[i]];
    if (d == NO_VALUE) {
      const Loc loc = loss_loc(f, loss);
      d = build_broadcast(f, loc, build_const(f, loc, 0), p->type);
      value_rename(f, d, arena_print(f->module->arena, "d_%s", p->name));
    }
    func_add_result(f, arena_print(f->module->arena, "grad @%s", p->name), d);
  }
}

static void differentiate(Func *f, ValueId loss) {
  Arena *arena = f->module->arena;
  const uint32_t forward_insts = vec_len(f->insts);
  const ValueId forward_values = vec_len(f->values);
  Gradients g = {.f = f, .wanted = wanted_values(f)};
  g.of = arena_alloc(arena, (forward_values + 1) * sizeof *g.of);
  for (ValueId v = 0; v < forward_values; v++)
    g.of[v] = NO_VALUE;
  g.of[loss] = seed_gradient(f, loss);
  for (uint32_t i = forward_insts; i-- > 0;) {
    const Inst inst = f->insts[i]; /* a copy: rules append to f->insts, which moves */
    if (has_gradient(&g, &inst) && g.wanted[inst.output[0]])
      gradient_rule[inst.op](&g, &inst);
  }
  name_gradients(&g, forward_values);
  add_gradient_results(&g, loss, parameter_values(f, forward_values));
}

bool pass_autodiff(PassContext *context) {
  Module *m = context->module;
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++) {
    const ValueId loss = func_find_result(m->funcs[i], "loss");
    if (loss == NO_VALUE || m->funcs[i]->table == NULL)
      continue;
    differentiate(m->funcs[i], loss);
    changed = true;
  }
  return changed;
}
