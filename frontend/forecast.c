/* The forecast.
 *
 * In: a plan with its memory planned. Out: per phase: parameters, work per token, bytes by kind; for all: the peak, and
 * the work of a whole sequence. Work comes from the FLOP rules of the ops, memory from the arenas the plan asks for, so
 * that the forecast cannot disagree with what is compiled.
 */
#include "frontend/forecast.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- functions of a phase */

static const FuncPlan *find_func(const Plan *plan, const Phase *phase, const char *suffix) {
  return plan_find(plan, arena_print(plan->arena, "%s.%s", phase->name, suffix));
}

/* The training function; where it has versions, the packed one, whose work follows the pairs selected. */
static const FuncPlan *find_train(const Plan *plan, const Phase *phase) {
  const FuncPlan *train = find_func(plan, phase, "train");
  return train ? train : find_func(plan, phase, "train.packed");
}

static bool runs_in(const Phase *phase, const Func *f) {
  size_t length = strlen(phase->name);
  return (strncmp(f->name, phase->name, length) == 0 && f->name[length] == '.') ||
         (func_is_update(f) && strcmp(f->table->name, phase->table->name) == 0);
}

static int64_t count_tokens(const Func *f) {
  const Module *m = f->module;
  ValueId tokens = func_find_value(f, "tokens");
  if (tokens != NO_VALUE && f->values[tokens].kind == VALUE_ARGUMENT)
    return type_elements(m, f->values[tokens].type);
  return m->batch * m->sequence_length / (m->accumulate ? m->accumulate : 1);
}

/* ---------------------------------------------------------------- parameters */

/* The value behind views, casts and broadcasts. */
static ValueId source_of(const Func *f, ValueId v) {
  while (f->values[v].kind == VALUE_RESULT) {
    const Inst *inst = &f->insts[f->values[v].inst];
    if (inst->op != OP_reshape && inst->op != OP_cast && inst->op != OP_split)
      break;
    v = inst->input[0];
  }
  return v;
}

/* The parameter an instruction reads per expert, or NULL. */
static const char *expert_parameter(const Func *f, const Inst *inst) {
  if (inst->op != OP_grouped_matmul && inst->op != OP_expand)
    return NULL;
  const Value *value = &f->values[source_of(f, inst->input[inst->op == OP_grouped_matmul ? 1 : 0])];
  return value->kind == VALUE_PARAMETER && value->table == f->table ? value->parameter : NULL;
}

static bool is_expert(const Plan *plan, const Phase *phase, const Param *p) {
  static const char *const suffixes[] = {"eval", "train", "train.packed"};
  for (size_t s = 0; s < sizeof suffixes / sizeof suffixes[0]; s++) {
    const FuncPlan *plan_of = find_func(plan, phase, suffixes[s]);
    for (uint32_t i = 0; plan_of && i < vec_len(plan_of->func->insts); i++) {
      const char *name = expert_parameter(plan_of->func, &plan_of->func->insts[i]);
      if (name && strcmp(name, p->name) == 0)
        return true;
    }
  }
  return false;
}

static ParameterCount count_parameters(const Plan *plan, const Phase *phase) {
  const Module *m = plan->module;
  ParameterCount count = {0};
  for (uint32_t i = 0; i < vec_len(phase->table->params); i++) {
    const Param *p = &phase->table->params[i];
    int64_t elements = type_elements(m, p->type);
    count.total += elements;
    if (p->segment < 0)
      count.frozen += elements;
    if (is_expert(plan, phase, p)) {
      count.expert += elements;
      count.expert_weights += p->type.rank > 2 ? elements : 0;
      count.active += (double)elements / (double)dim_value(m, p->type.dim[0]);
    } else {
      count.shared += elements;
      count.active += (double)elements;
    }
  }
  return count;
}

/* ---------------------------------------------------------------- work */

static double sum_flops(const Func *f, double live_rows) {
  double flops = 0;
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    flops += flop_rule[f->insts[i].op](f, &f->insts[i], live_rows).flops;
  return flops;
}

/* Multiply-adds as papers count them: attention over all pairs, causal or not. */
static double sum_macs(Arena *arena, const Func *f, double live_rows) {
  double macs = 0;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    Inst inst = f->insts[i];
    if (inst.op == OP_attention) {
      inst.attr = arena_alloc(arena, inst.attr_count * sizeof *inst.attr);
      for (int k = 0; k < inst.attr_count; k++) {
        inst.attr[k] = f->insts[i].attr[k];
        if (inst.attr[k].name == ATTRIBUTE_causal)
          inst.attr[k].i = 0;
      }
    }
    macs += flop_rule[inst.op](f, &inst, live_rows).macs;
  }
  return macs;
}

static WorkForecast count_work(const Plan *plan, const Phase *phase) {
  WorkForecast work = {0};
  const FuncPlan *train = find_train(plan, phase), *eval = find_func(plan, phase, "eval");
  if (eval) {
    double tokens = (double)count_tokens(eval->func);
    work.macs = sum_macs(plan->arena, eval->func, tokens) / tokens;
    work.inference = sum_flops(eval->func, tokens) / tokens;
  }
  if (train) {
    double tokens = (double)count_tokens(train->func);
    work.train = sum_flops(train->func, tokens) / tokens;
    work.train_bound = sum_flops(train->func, -1) / tokens;
    for (uint32_t i = 0; i < vec_len(train->func->insts); i++)
      work.routed |= train->func->insts[i].op == OP_route;
  }
  return work;
}

/* ---------------------------------------------------------------- memory */

static int64_t arena_bytes(const Table *table) {
  return table->size * (int64_t)sizeof(float);
}

static int by_bytes(const void *a, const void *b) {
  const Storage *x = *(const Storage *const *)a, *y = *(const Storage *const *)b;
  if (x->bytes != y->bytes)
    return x->bytes > y->bytes ? -1 : 1;
  return x < y ? -1 : x > y;
}

const Storage **forecast_largest(Arena *arena, const FuncPlan *plan, uint32_t most) {
  const Storage **live = NULL;
  for (uint32_t i = 0; i < vec_len(plan->storages); i++) {
    const Storage *s = &plan->storages[i];
    if (plan_is_live(s, plan->peak.step) && s->value != NO_VALUE)
      vec_push(arena, live, s);
  }
  if (!live)
    return NULL;
  qsort(live, vec_len(live), sizeof *live, by_bytes);
  if (vec_len(live) > most)
    vec_header(live)->length = most;
  return live;
}

static int by_need(const void *a, const void *b) {
  const FuncForecast *x = a, *y = b;
  if (x->plan->act != y->plan->act)
    return x->plan->act > y->plan->act ? -1 : 1;
  return strcmp(x->plan->func->name, y->plan->func->name);
}

static FuncForecast *forecast_funcs(const Plan *plan, const Phase *phase) {
  FuncForecast *funcs = NULL;
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++) {
    const FuncPlan *f = &plan->funcs[i];
    if (!runs_in(phase, f->func))
      continue;
    int64_t one_expert = plan_peak(plan->arena, f, count_tokens(f->func)).live;
    vec_push(plan->arena, funcs, (FuncForecast){f, one_expert});
  }
  if (funcs)
    qsort(funcs, vec_len(funcs), sizeof *funcs, by_need);
  return funcs;
}

static PhaseForecast forecast_phase(const Plan *plan, uint32_t index, int64_t act) {
  const Module *m = plan->module;
  const Phase *phase = m->phases[index];
  PhaseForecast f = {.phase = phase};
  f.parameters = count_parameters(plan, phase);
  f.work = count_work(plan, phase);
  f.param = arena_bytes(phase->table);
  f.grad = table_gradient_bytes(m, phase->table, phase->table->size);
  f.moments = 2 * f.param;
  f.accumulators = m->accumulate > 1 ? f.param : 0;
  f.funcs = forecast_funcs(plan, phase);
  f.copies = plan_copy_bytes(plan, phase->table);
  const int64_t arenas = f.param + f.copies + f.grad + f.moments;
  f.total = arenas + f.accumulators + act;
  const Table *before = index > 0 ? m->phases[index - 1]->table : phase->table;
  if (before != phase->table)
    f.entry = 3 * arena_bytes(before) + table_gradient_bytes(m, before, before->size) + plan_copy_bytes(plan, before) +
              arenas + act;
  return f;
}

Forecast forecast_make(const Plan *plan) {
  Forecast forecast = {.plan = plan, .act = plan_act_bytes(plan)};
  for (uint32_t i = 0; i < vec_len(plan->module->phases); i++) {
    PhaseForecast f = forecast_phase(plan, i, forecast.act);
    forecast.peak = f.total > forecast.peak ? f.total : forecast.peak;
    forecast.peak = f.entry > forecast.peak ? f.entry : forecast.peak;
    vec_push(plan->arena, forecast.phases, f);
  }
  return forecast;
}

int64_t forecast_peak(const Plan *plan) {
  return forecast_make(plan).peak;
}
