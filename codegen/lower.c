/* Lowering: instructions become the steps of the plan.
 *
 * In: a module behind all passes. Out: per function, its steps in the order of the instructions, and a storage for
 * every value. A group, or an instruction whose rule is `row`, becomes one row kernel; the rest becomes builtin steps
 * (docs/plan.md). Holds afterwards: every step's operands have storages; offsets follow in plan_memory.
 */
#include "codegen/lower.h"

#include <string.h>

#include "codegen/cuda_lower.h"
#include "ir/rows.h"

const LowerRule lower_rule[OP_COUNT] = {
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flops, eval, lower, doc)               \
  [OP_##name] = lower_##lower,
#include "ir/ops.def"
};

int64_t type_rows(const Module *m, Type t) {
  return row_shape(m, t).rows;
}

int64_t type_columns(const Module *m, Type t) {
  return row_shape(m, t).columns;
}

Type lower_type(const Lower *l, ValueId v) {
  return l->func->values[v].type;
}

Place lower_place(const Lower *l, ValueId v) {
  const ValuePlace *place = &l->plan->values[v];
  if (place->place.storage == NO_STORAGE)
    ir_bug("%s: %%%s is read but has no place", l->func->name, l->func->values[v].name);
  return place->place;
}

/* ---------------------------------------------------------------- building steps */

Step step_begin(const char *keyword, uint32_t first_inst, uint32_t last_inst) {
  return (Step){.keyword = keyword, .first_inst = first_inst, .last_inst = last_inst};
}

void step_number(Lower *l, Step *s, const char *key, int64_t number) {
  vec_push(l->arena, s->fields, (Field){.kind = FIELD_NUMBER, .key = key, .number = number});
}

void step_real(Lower *l, Step *s, const char *key, double real) {
  vec_push(l->arena, s->fields, (Field){.kind = FIELD_REAL, .key = key, .real = real});
}

void step_word(Lower *l, Step *s, const char *key, const char *word) {
  vec_push(l->arena, s->fields, (Field){.kind = FIELD_WORD, .key = key, .word = word});
}

/* A constant is a literal in kernels; its memory is written only when something else reads it. */
static void materialize(Lower *l, uint32_t storage) {
  uint32_t inst = l->plan->storages[storage].fill;
  if (inst == NO_INST)
    return;
  l->plan->storages[storage].fill = NO_INST;
  const Inst *constant = &l->func->insts[inst];
  lower_fill(l, inst, lower_type(l, constant->output[0]).dtype, (Place){.storage = storage},
             inst_float(constant, ATTRIBUTE_value, 0));
}

void step_read(Lower *l, Step *s, const char *key, Place place) {
  materialize(l, place.storage);
  vec_push(l->arena, s->fields, (Field){.kind = FIELD_READ, .key = key, .place = place});
}

void step_write(Lower *l, Step *s, const char *key, Place place) {
  vec_push(l->arena, s->fields, (Field){.kind = FIELD_WRITE, .key = key, .place = place});
}

void step_count(Lower *l, Step *s, const char *key, int64_t number, ValueId extent) {
  if (extent == NO_VALUE) {
    step_number(l, s, key, number);
    return;
  }
  Place place = lower_place(l, extent);
  materialize(l, place.storage);
  place.offset += (type_elements(l->module, lower_type(l, extent)) - 1) * (int64_t)dtype_size(DTYPE_I32);
  vec_push(l->arena, s->fields, (Field){.kind = FIELD_COUNT, .key = key, .place = place});
}

void step_rows(Lower *l, Step *s, const char *key, Type type) {
  step_count(l, s, key, type_rows(l->module, type), type.rank <= 2 ? type.extent : NO_VALUE);
}

void step_scratch(Lower *l, Step *s, const char *key, int64_t bytes) {
  uint32_t storage = lower_storage(l, (Storage){.bytes = bytes, .value = NO_VALUE, .scratch = true});
  step_write(l, s, key, (Place){.storage = storage});
}

void step_end(Lower *l, const Step *s) {
  Step step = *s;
  step.choice = l->option ? l->choices : 0;
  step.option = l->option;
  vec_push(l->arena, l->plan->steps, step);
}

/* ---------------------------------------------------------------- functions */

/* Reads by instructions and results; a value nobody reads has its own definition as last use. A checker replays the
 * choices: keep_values makes them leave their kernels, which compute as before. */
static void find_last_uses(Lower *l, bool keep_values) {
  const Func *f = l->func;
  l->last_use = arena_alloc(l->arena, (vec_len(f->values) + 1) * sizeof *l->last_use);
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    l->last_use[v] = f->values[v].kind == VALUE_RESULT ? f->values[v].inst : 0;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; k < inst->input_count; k++)
      l->last_use[inst->input[k]] = i;
    for (int k = 0; k < inst->output_count; k++) {
      ValueId extent = lower_type(l, inst->output[k]).extent;
      if (extent != NO_VALUE)
        l->last_use[extent] = i;
    }
  }
  for (uint32_t i = 0; keep_values && i < vec_len(f->insts); i++)
    if (op_info[f->insts[i].op].flags & FLAG_DECISION)
      l->last_use[f->insts[i].output[0]] = UINT32_MAX;
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    ValueId extent = lower_type(l, f->results[i].value).extent;
    l->last_use[f->results[i].value] = UINT32_MAX;
    if (extent != NO_VALUE)
      l->last_use[extent] = UINT32_MAX;
  }
}

static bool is_read(const Lower *l, const Inst *inst, uint32_t index) {
  for (int k = 0; k < inst->output_count; k++)
    if (l->last_use[inst->output[k]] != index)
      return true;
  return false;
}

/* The loss of a function with gradients: what is made before it and read behind it is kept for the backward part. */
static uint32_t find_loss(const Func *f) {
  uint32_t loss = NO_INST;
  bool gradients = false;
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    const Value *value = &f->values[f->results[i].value];
    if (strcmp(f->results[i].label, "loss") == 0 && value->kind == VALUE_RESULT)
      loss = value->inst;
    gradients |= result_is_gradient(&f->results[i]);
  }
  return gradients ? loss : NO_INST;
}

/* FLOPs as the trainer counts them: what every run costs, and what one selected expert-token pair adds, where pairs are
 * those of all MoE layers (results `load.*`), whether the layer's work is packed here or not. */
static void count_work(FuncPlan *plan, const Func *f) {
  double pairs = 0;
  int layers = 0, routes = 0;
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    layers += strncmp(f->results[i].label, "load.", 5) == 0;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    double none = flop_rule[f->insts[i].op](f, &f->insts[i], 0).flops;
    plan->work += none;
    pairs += flop_rule[f->insts[i].op](f, &f->insts[i], 1).flops - none;
    routes += f->insts[i].op == OP_route;
  }
  layers = layers ? layers : routes;
  plan->work_of_pair = layers ? pairs / layers : 0;
}

/* For CUDA an op has a rule of its own, or one that makes row kernels, views and copies for both targets. */
static LowerRule find_rule(const Lower *l, Op op) {
  LowerRule rule = lower_rule[op];
  if (l->target == PLAN_CPU)
    return rule;
  if (cuda_lower_rule[op])
    return cuda_lower_rule[op];
  bool both = rule == lower_row || rule == lower_sum || rule == lower_view || rule == lower_concat;
  return both ? rule : lower_cuda_missing;
}

/* The function as it is lowered. */
static const Func *prepare(const Plan *plan, const Func *f) {
  return plan->target == PLAN_CUDA ? cuda_with_gelu_kept(cuda_with_copies(f)) : f;
}

/* FLOPs are those of the module's own function: the same for every target. */
static FuncPlan lower_func(Plan *plan, const Func *original) {
  const Func *f = prepare(plan, original);
  FuncPlan out = {.func = f, .loss_inst = find_loss(f), .peak.step = NO_STEP};
  Lower l = {.arena = plan->arena,
             .module = plan->module,
             .func = f,
             .plan = &out,
             .target = plan->target,
             .cuda = &plan->cuda,
             .kernels = &plan->kernels,
             .keep_values = plan->keep_values,
             .seed = NO_STORAGE};
  find_last_uses(&l, plan->keep_values);
  lower_find_sums(&l, plan->keep_values);
  lower_places(&l);
  if (plan->target == PLAN_CUDA)
    cuda_find_pairs(&l);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    uint32_t last = i;
    if (inst->group != NO_GROUP)
      while (last + 1 < vec_len(f->insts) && f->insts[last + 1].group == inst->group)
        last++;
    if (cuda_lower_paired(&l, i)) {
      i = last;
      continue;
    }
    if (l.adds[i]) {
      lower_added_matmul(&l, i++);
      continue;
    }
    if (inst->group != NO_GROUP)
      lower_kernel(&l, i, last);
    else if (inst->op != OP_const && is_read(&l, inst, i))
      find_rule(&l, inst->op)(&l, i);
    i = last;
  }
  lower_results(&l);
  count_work(&out, original);
  if (plan->keep_values)
    for (uint32_t s = 0; s < vec_len(out.storages); s++)
      out.storages[s].result |= !out.storages[s].scratch;
  plan_memory(plan->arena, &out);
  return out;
}

static Plan *lower_module(const Module *m, PlanTarget target, bool keep_values, CudaOptions cuda) {
  Plan *plan = arena_alloc(m->arena, sizeof *plan);
  plan->arena = m->arena;
  plan->module = m;
  plan->target = target;
  plan->cuda = cuda;
  plan->kernels.arena = m->arena;
  plan->kernels.cuda = target == PLAN_CUDA;
  plan->keep_values = keep_values;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    vec_push(plan->arena, plan->funcs, lower_func(plan, m->funcs[i]));
  for (uint32_t i = 0; target == PLAN_CUDA && i < vec_len(m->tables); i++)
    if (cuda_has_copies(m, m->tables[i]))
      vec_push(plan->arena, plan->funcs, lower_func(plan, cuda_copies_func(m, m->tables[i])));
  return plan;
}

Plan *plan_lower(const Module *m, PlanTarget target, bool keep_values) {
  return lower_module(m, target, keep_values, (CudaOptions){0});
}

Plan *plan_lower_cuda(const Module *m, bool keep_values, CudaOptions options) {
  return lower_module(m, PLAN_CUDA, keep_values, options);
}

int64_t plan_act_bytes(const Plan *plan) {
  int64_t bytes = 0;
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++)
    if (plan->funcs[i].act > bytes)
      bytes = plan->funcs[i].act;
  return bytes;
}

const FuncPlan *plan_find(const Plan *plan, const char *func) {
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++)
    if (strcmp(plan->funcs[i].func->name, func) == 0)
      return &plan->funcs[i];
  return NULL;
}
