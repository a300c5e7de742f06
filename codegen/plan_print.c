/* The plan as text (docs/plan.md).
 *
 * In: a plan whose memory is planned. Out: the text, the same for the same plan. Comments name IR values and Lua lines.
 */
#include "codegen/plan.h"

#include <inttypes.h>
#include <string.h>

const char *const space_name[SPACE_COUNT] = {"act",       "param", "grad",  "m",   "v",      "seed",
                                             "src.param", "src.m", "src.v", "tag", "status", "param.bf16"};

int64_t place_offset(const FuncPlan *plan, Place place) {
  return plan->storages[place.storage].offset + place.offset;
}

static void print_place(const FuncPlan *plan, Place place, FILE *out) {
  fprintf(out, "%s:%" PRId64, space_name[plan->storages[place.storage].space], place_offset(plan, place));
}

static void print_shape(const Module *m, Type type, FILE *out) {
  fprintf(out, "shape=");
  for (int i = 0; i < type.rank; i++)
    fprintf(out, "%s%" PRId64, i ? "," : "", dim_value(m, type.dim[i]));
}

/* ` live=*act:96` for ragged rows. */
static void print_live(const FuncPlan *plan, Type type, FILE *out) {
  if (type.extent == NO_VALUE)
    return;
  Place place = plan->values[type.extent].place;
  int64_t entries = type_elements(plan->func->module, plan->func->values[type.extent].type);
  place.offset += (entries - 1) * (int64_t)dtype_size(DTYPE_I32);
  fprintf(out, " live=*");
  print_place(plan, place, out);
}

/* ---------------------------------------------------------------- head */

static void print_table(const Module *m, const Table *t, FILE *out) {
  fprintf(out, "table %s size=%" PRId64 " gradients=%" PRId64 " segments=%u params=%u\n", t->name, t->size,
          table_gradient_bytes(m, t, t->size), vec_len(t->segments), vec_len(t->params));
  for (uint32_t i = 0; i < vec_len(t->segments); i++) {
    const Segment *s = &t->segments[i];
    fprintf(out, "  segment %u offset=%" PRId64 " size=%" PRId64 " decay=%.17g birth=%d\n", i, s->offset, s->size,
            s->weight_decay, s->birth);
  }
  for (uint32_t i = 0; i < vec_len(t->params); i++) {
    const Param *p = &t->params[i];
    fprintf(out, "  param %s offset=%" PRId64 " ", p->name, p->offset);
    print_shape(m, p->type, out);
    fprintf(out, " segment=%d init=%s\n", p->segment, p->init ? p->init : "-");
  }
}

static const Value *find_argument(const Func *f, const char *name) {
  ValueId v = func_find_value(f, name);
  return v != NO_VALUE && f->values[v].kind == VALUE_ARGUMENT ? &f->values[v] : NULL;
}

/* A training function of the phase: the only one, or the first of its versions. */
static const Func *find_train(const Module *m, const Phase *phase) {
  const Func *train = module_find_func(m, arena_print(m->arena, "%s.train", phase->name));
  return train ? train : module_find_func(m, arena_print(m->arena, "%s.train.packed", phase->name));
}

/* Tokens and segments of one micro-batch, from the first function that trains. */
static void print_run(const Module *m, FILE *out) {
  int64_t accumulate = m->accumulate ? m->accumulate : 1;
  int64_t tokens = m->batch * m->sequence_length / accumulate, segments = m->batch / accumulate;
  for (uint32_t i = 0; i < vec_len(m->phases); i++) {
    const Func *train = find_train(m, m->phases[i]);
    const Value *token = train ? find_argument(train, "tokens") : NULL,
                *off = train ? find_argument(train, "off") : NULL;
    if (token && off) {
      tokens = type_elements(m, token->type);
      segments = type_elements(m, off->type) - 1;
      break;
    }
  }
  fprintf(out,
          "run steps=%" PRId64 " batch=%" PRId64 " accumulate=%" PRId64 " sequence=%" PRId64 " vocabulary=%" PRId64
          " tokens=%" PRId64 " segments=%" PRId64 "\n",
          m->steps, m->batch, accumulate, m->sequence_length, m->vocabulary, tokens, segments);
}

static void print_head(const Plan *plan, FILE *out) {
  const Module *m = plan->module;
  fprintf(out, "moec-plan 1 target=%s module=%s task=%s\n", plan->target == PLAN_CUDA ? "cuda" : "cpu", m->name,
          m->task ? m->task : "-");
  fprintf(out, "arena act=%" PRId64 "\n", plan_act_bytes(plan));
  bool any = false;
  for (uint32_t i = 0; i < vec_len(m->symbols); i++)
    if (m->symbols[i].scope == m) {
      fprintf(out, "%s%s=%" PRId64, any ? " " : "symbol ", m->symbols[i].name, m->symbols[i].value);
      any = true;
    }
  if (any)
    fputc('\n', out);
  print_run(m, out);
  for (uint32_t i = 0; i < vec_len(m->schedules); i++) {
    const Schedule *s = m->schedules[i];
    fprintf(out, "schedule %s count=%u %s\n", s->name, vec_len(s->values), schedule_text(m->arena, s));
  }
  for (uint32_t i = 0; i < vec_len(m->tables); i++)
    print_table(m, m->tables[i], out);
  for (uint32_t i = 0; i < vec_len(m->phases); i++) {
    const Phase *p = m->phases[i];
    fprintf(out, "phase %s steps=%" PRId64 " table=%s enter=%s line=%s:%d", p->name, p->steps, p->table->name,
            p->enter ? p->enter : "-", p->loc.file ? p->loc.file : "-", p->loc.line);
    if (p->crossover > 0)
      fprintf(out, " crossover=%.17g", p->crossover);
    fputc('\n', out);
  }
}

/* ---------------------------------------------------------------- functions */

static void print_field(const FuncPlan *plan, const Field *field, FILE *out) {
  fputc(' ', out);
  if (field->key)
    fprintf(out, "%s=", field->key);
  switch (field->kind) {
  case FIELD_NUMBER:
    fprintf(out, "%" PRId64, field->number);
    break;
  case FIELD_REAL:
    fprintf(out, "%.17g", field->real);
    break;
  case FIELD_WORD:
    fprintf(out, "%s", field->word);
    break;
  case FIELD_COUNT:
    fputc('*', out);
    print_place(plan, field->place, out);
    break;
  case FIELD_READ:
  case FIELD_WRITE:
    print_place(plan, field->place, out);
    break;
  }
}

/* The values a step makes, then the Lua line. */
static void print_comment(const FuncPlan *plan, const Step *step, FILE *out) {
  const Func *f = plan->func;
  if (step->first_inst == NO_INST)
    return;
  fprintf(out, "  #");
  const Inst *last = &f->insts[step->last_inst];
  for (int k = 0; k < last->output_count && step->first_inst == step->last_inst; k++)
    fprintf(out, " %%%s", f->values[last->output[k]].name);
  for (uint32_t k = 0; k < vec_len(step->fields) && step->first_inst != step->last_inst; k++)
    if (step->fields[k].kind == FIELD_WRITE && plan->storages[step->fields[k].place.storage].value != NO_VALUE)
      fprintf(out, " %%%s", f->values[step->fields[k].value].name);
  fprintf(out, " = %s", last->group != NO_GROUP ? "group" : op_info[last->op].name);
  if (last->loc.file)
    fprintf(out, " %s:%d", last->loc.file, last->loc.line);
}

/* Values that still stand where they were made when the function ends: those of the act arena that a step touched. */
static void print_values(const FuncPlan *plan, FILE *out) {
  const Func *f = plan->func;
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    const ValuePlace *place = &plan->values[v];
    if (place->place.storage == NO_STORAGE)
      continue;
    const Storage *s = &plan->storages[place->place.storage];
    bool pinned = s->space == SPACE_PARAM || s->space == SPACE_GRAD || s->space == SPACE_M || s->space == SPACE_V ||
                  s->space == SPACE_PARAM_BF16;
    bool made = s->value != NO_VALUE && f->values[s->value].kind == VALUE_RESULT && s->first != NO_STEP;
    if (f->values[v].kind != VALUE_RESULT || !made || !(s->space == SPACE_ACT || pinned))
      continue;
    fprintf(out, "  value %s %s ", f->values[v].name, dtype_name(f->values[v].type.dtype));
    print_shape(f->module, f->values[v].type, out);
    fprintf(out, " ld=%" PRId64 " at=", place->ld);
    print_place(plan, place->place, out);
    print_live(plan, f->values[v].type, out);
    fputc('\n', out);
  }
}

void plan_print_func(const Plan *plan, const FuncPlan *func, FILE *out) {
  const Func *f = func->func;
  const Module *m = plan->module;
  fprintf(out, "func %s table=%s act=%" PRId64 "\n", f->name, f->table ? f->table->name : "-", func->act);
  fprintf(out, "  work flops=%.17g pair=%.17g\n", func->work, func->work_of_pair);
  for (uint32_t v = 0; v < vec_len(f->values); v++) {
    if (f->values[v].kind != VALUE_ARGUMENT)
      continue;
    fprintf(out, "  arg %s %s ", f->values[v].name, dtype_name(f->values[v].type.dtype));
    print_shape(m, f->values[v].type, out);
    fprintf(out, " at=");
    print_place(func, func->values[v].place, out);
    fputc('\n', out);
  }
  for (uint32_t i = 0; i < vec_len(func->results); i++) {
    const ResultPlace *result = &func->results[i];
    Type type = f->values[result->result->value].type;
    fprintf(out, "  result %s %s ", result->result->label, dtype_name(type.dtype));
    print_shape(m, type, out);
    fprintf(out, " at=");
    print_place(func, result->place, out);
    print_live(func, type, out);
    fputc('\n', out);
  }
  if (plan->keep_values)
    print_values(func, out);
  for (uint32_t i = 0; i < vec_len(func->steps); i++) {
    const Step *step = &func->steps[i];
    fprintf(out, "  %s", step->keyword);
    for (uint32_t k = 0; k < vec_len(step->fields); k++)
      print_field(func, &step->fields[k], out);
    if (step->choice)
      fprintf(out, " choice=%d option=%s", step->choice, step->option);
    print_comment(func, step, out);
    fputc('\n', out);
  }
  fprintf(out, "end\n");
}

void plan_print(const Plan *plan, FILE *out) {
  print_head(plan, out);
  for (uint32_t i = 0; i < vec_len(plan->funcs); i++)
    plan_print_func(plan, &plan->funcs[i], out);
}
