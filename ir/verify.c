/* The verifier: what must hold of a module at every point of the pipeline.
 *
 *   names      valid and unique: tables, functions, phases and schedules in the module, values in their function
 *   values     definitions before uses; types as the shape rules derive them; extents are offsets defined before
 *   stages     every op is legal at the module's stage, with its operands and attributes
 *   groups     the instructions of a group are adjacent
 *   results    labels unique; "grad @p" and the like have the type of the parameter, gradients of a table and the
 *              segments of them that its update takes all f32 or all bf16
 *   tables     the layout is the one table_layout makes
 *   text       everything that is printed reads back
 *
 * A violation is the user's mistake in a text (`where` NULL) and else a bug of the pass `where`.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ir/internal.h"

typedef struct Check {
  const Module *m;
  const char *where;
  const Func *f;
  Loc loc;       /* of the instruction, for a user's mistake */
  bool *defined; /* by ValueId, so far */
} Check;

static _Noreturn void violation(const Check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static _Noreturn void violation(const Check *c, const char *format, ...) {
  char message[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  const char *in = c->f ? arena_print(c->m->arena, "@%s: ", c->f->name) : "";
  if (c->where)
    ir_bug("after %s: %s%s", c->where, in, message);
  ir_fail(c->loc, "%s%s", in, message);
}

static void check_name(const Check *c, const char *what, const char *name) {
  if (!name || !name_is_valid(name))
    violation(c, "'%.80s' is no name of a %s, expected letters, digits, _ . -", name ? name : "", what);
}

/* A text that is printed as the rest of a line. */
static void check_text(const Check *c, const char *what, const char *text) {
  if (text && (!*text || strpbrk(text, "#\n") || strchr(" \t\r", *text) || strchr(" \t\r", text[strlen(text) - 1])))
    violation(c, "the text of %s must be one line without '#' or spaces around it, found '%.80s'", what, text);
}

/* ---------------------------------------------------------------- values */

static void check_type(const Check *c, ValueId v) {
  const Value *value = &c->f->values[v];
  const char *problem = type_problem(c->m, value->type);
  if (problem)
    violation(c, "%%%s: %s: %s", value->name, type_text(c->f, value->type), problem);
  ValueId extent = value->type.extent;
  if (extent == NO_VALUE)
    return;
  if (extent >= vec_len(c->f->values) || value->type.rank == 0)
    violation(c, "%%%s: its extent is no value", value->name);
  if (!is_offsets(c->f, extent))
    violation(c, "%%%s: its extent %%%s is %s, expected offsets i32[groups+1]", value->name, c->f->values[extent].name,
              type_text(c->f, c->f->values[extent].type));
}

static void check_parameter(const Check *c, const Value *value) {
  const Param *p = NULL;
  for (uint32_t i = 0; i < vec_len(c->m->tables); i++)
    if (c->m->tables[i] == value->table)
      p = table_find_param(value->table, value->parameter);
  if (!p)
    violation(c, "@%s is no parameter of a table of this module", value->parameter);
  if (!type_equal(c->m, p->type, value->type))
    violation(c, "@%s is used as %s, but is %s", value->parameter, type_text(c->f, value->type),
              type_text(c->f, p->type));
}

/* Names of all values; types of those that stand at the start. */
static void check_values(Check *c) {
  const Func *f = c->f;
  uint32_t count = vec_len(f->values);
  c->defined = arena_alloc(c->m->arena, count + 1);
  func_reindex(f);
  for (ValueId v = 0; v < count; v++) {
    const Value *value = &f->values[v];
    if (value->kind != VALUE_PARAMETER)
      check_name(c, "value", value->name);
    if (func_find_value(f, value->name) != v)
      violation(c, "two values have the name %%%s", value->name);
    c->defined[v] = value->kind != VALUE_RESULT;
  }
  for (ValueId v = 0; v < count; v++) {
    if (!c->defined[v])
      continue;
    check_type(c, v);
    if (f->values[v].kind == VALUE_PARAMETER)
      check_parameter(c, &f->values[v]);
    if (f->values[v].type.extent != NO_VALUE && !c->defined[f->values[v].type.extent])
      violation(c, "%%%s: its extent %%%s is no argument", f->values[v].name, f->values[f->values[v].type.extent].name);
  }
}

/* ---------------------------------------------------------------- instructions */

static void check_operands(const Check *c, const Inst *inst) {
  const Func *f = c->f;
  for (int i = 0; i < inst->input_count; i++) {
    ValueId v = inst->input[i];
    if (v >= vec_len(f->values))
      violation(c, "%s: operand %d is no value", op_info[inst->op].name, i + 1);
    if (!c->defined[v])
      violation(c, "%s: operand %d, %%%s, is not defined before its use", op_info[inst->op].name, i + 1,
                f->values[v].name);
  }
}

static void check_outputs(const Check *c, const Inst *inst, uint32_t number) {
  const Func *f = c->f;
  Type derived[MAX_OUTPUTS];
  if (inst->output_count != inst_output_count(inst))
    violation(c, "%s: %d outputs, expected %d", op_info[inst->op].name, inst->output_count, inst_output_count(inst));
  for (int i = 0; i < inst->output_count; i++) {
    ValueId v = inst->output[i];
    if (v >= vec_len(f->values) || f->values[v].kind != VALUE_RESULT || f->values[v].inst != number ||
        f->values[v].output != i || c->defined[v])
      violation(c, "%s: output %d and its value do not point at each other", op_info[inst->op].name, i + 1);
    c->defined[v] = true;
  }
  const char *problem = shape_rule[inst->op](f, inst, derived);
  if (problem)
    violation(c, "%s", problem);
  for (int i = 0; i < inst->output_count; i++) {
    ValueId v = inst->output[i];
    check_type(c, v);
    if (!type_equal(c->m, f->values[v].type, derived[i]))
      violation(c, "%%%s is %s, but %s gives %s", f->values[v].name, type_text(f, f->values[v].type),
                op_info[inst->op].name, type_text(f, derived[i]));
    if (derived[i].extent != NO_VALUE && !c->defined[derived[i].extent])
      violation(c, "%%%s: its extent %%%s is not defined before", f->values[v].name, f->values[derived[i].extent].name);
  }
}

static void check_insts(Check *c) {
  const Func *f = c->f;
  uint32_t groups = vec_len(f->group_notes), group = NO_GROUP;
  bool *seen = arena_alloc(c->m->arena, groups + 1);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    c->loc = inst->loc;
    if ((unsigned)inst->op >= OP_COUNT)
      violation(c, "instruction %u has no op", i);
    if (!(op_info[inst->op].stages & (1u << c->m->stage)))
      violation(c, "op '%s' is not legal at stage %s", op_info[inst->op].name, stage_name[c->m->stage]);
    const char *problem = inst_form_problem(c->m, inst->op, inst->input_count, inst->attr, inst->attr_count);
    if (problem)
      violation(c, "%s", problem);
    check_operands(c, inst);
    check_outputs(c, inst, i);
    if (inst->group != group && inst->group != NO_GROUP) {
      if (inst->group >= groups)
        violation(c, "group %u has no entry in group_notes", inst->group);
      if (seen[inst->group])
        violation(c, "the instructions of group %u are not adjacent", inst->group);
      seen[inst->group] = true;
    }
    group = inst->group;
    if (inst->note && !note_is_valid(inst->note))
      violation(c, "a note must read 'word: text', found '%.80s'", inst->note);
  }
  c->loc = no_loc;
  for (uint32_t i = 0; i < groups; i++)
    if (f->group_notes[i] && !note_is_valid(f->group_notes[i]))
      violation(c, "a note must read 'word: text', found '%.80s'", f->group_notes[i]);
}

/* ---------------------------------------------------------------- results */

/* "grad @p": the parameter that a label names, or NULL; the label must be a name otherwise. */
static const Param *labelled_parameter(const Check *c, const char *label) {
  static const char *const kinds[] = {"grad @", "param @", "m @", "v @", "next @"};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    size_t length = strlen(kinds[k]);
    if (strncmp(label, kinds[k], length) != 0)
      continue;
    const Param *p = c->f->table ? table_find_param(c->f->table, label + length) : NULL;
    if (!p)
      violation(c, "result %s: the function's table has no such parameter", label);
    return p;
  }
  if (!name_is_valid(label))
    violation(c, "result '%.80s', expected a name, or 'grad', 'param', 'm', 'v' or 'next' and a parameter", label);
  return NULL;
}

static int compare_labels(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void check_labels(const Check *c) {
  const char **labels = NULL;
  for (uint32_t i = 0; i < vec_len(c->f->results); i++)
    vec_push(c->m->arena, labels, c->f->results[i].label);
  if (labels)
    qsort(labels, vec_len(labels), sizeof *labels, compare_labels);
  for (uint32_t i = 1; i < vec_len(labels); i++)
    if (strcmp(labels[i - 1], labels[i]) == 0)
      violation(c, "result %s is given twice", labels[i]);
}

/* Of the function's table. */
static DType gradient_dtype(const Check *c) {
  const DType dtype = table_gradient_dtype(c->m, c->f->table);
  return dtype == DTYPE_BF16 ? dtype : DTYPE_F32; /* an i32 is wrong beside either */
}

static void check_results(const Check *c) {
  const Func *f = c->f;
  check_labels(c);
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    const Result *result = &f->results[i];
    if (result->value >= vec_len(f->values) || !c->defined[result->value])
      violation(c, "result %s is not defined", result->label);
    const Param *p = labelled_parameter(c, result->label);
    Type expected = p ? p->type : (Type){0};
    if (p && result_is_gradient(result))
      expected.dtype = gradient_dtype(c);
    if (p && !type_equal(c->m, f->values[result->value].type, expected))
      violation(c, "result %s is %s, expected %s", result->label, type_text(f, f->values[result->value].type),
                type_text(f, expected));
  }
  for (uint32_t v = 0; v < vec_len(f->values); v++)
    if (func_is_gradient_argument(f, &f->values[v]) && f->values[v].type.dtype != gradient_dtype(c))
      violation(c, "argument %%%s is %s, but gradients of table @%s are %s", f->values[v].name,
                type_text(f, f->values[v].type), f->table->name, dtype_name(gradient_dtype(c)));
}

static void check_func(Check *c, const Func *f) {
  c->f = f;
  check_name(c, "function", f->name);
  if (module_find_func(c->m, f->name) != f)
    violation(c, "another function has this name");
  if (f->table && module_find_table(c->m, f->table->name) != f->table)
    violation(c, "table @%s is no table of this module", f->table->name);
  check_values(c);
  check_insts(c);
  check_results(c);
  c->f = NULL;
}

/* ---------------------------------------------------------------- tables, schedules, phases */

static void check_layout(const Check *c, const Table *t) {
  Table copy = {.name = t->name};
  for (uint32_t i = 0; i < vec_len(t->params); i++)
    vec_push(c->m->arena, copy.params, t->params[i]);
  for (uint32_t i = 0; i < vec_len(t->segments); i++)
    vec_push(c->m->arena, copy.segments, t->segments[i]);
  table_place(c->m, &copy);
  bool same = copy.size == t->size;
  for (uint32_t i = 0; i < vec_len(t->params); i++)
    same &= copy.params[i].offset == t->params[i].offset;
  for (uint32_t i = 0; i < vec_len(t->segments); i++)
    same &= copy.segments[i].offset == t->segments[i].offset && copy.segments[i].size == t->segments[i].size;
  if (!same)
    violation(c, "table @%s is not laid out as table_layout does", t->name);
}

static void check_table(const Check *c, const Table *t) {
  check_name(c, "table", t->name);
  if (module_find_table(c->m, t->name) != t)
    violation(c, "two tables have the name @%s", t->name);
  for (uint32_t i = 0; i < vec_len(t->params); i++) {
    const Param *p = &t->params[i];
    check_name(c, "parameter", p->name);
    if (table_find_param(t, p->name) != p)
      violation(c, "table @%s has two parameters @%s", t->name, p->name);
    const char *problem = p->type.extent == NO_VALUE ? type_problem(c->m, p->type) : "a parameter cannot be ragged";
    if (problem)
      violation(c, "parameter @%s: %s", p->name, problem);
    if (p->segment < -1 || p->segment >= (int)vec_len(t->segments))
      violation(c, "parameter @%s: table @%s has no segment %d", p->name, t->name, p->segment);
    check_text(c, "init", p->init);
  }
  check_layout(c, t);
}

static void check_phases(const Check *c) {
  for (uint32_t i = 0; i < vec_len(c->m->phases); i++) {
    const Phase *phase = c->m->phases[i];
    check_name(c, "phase", phase->name);
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(c->m->phases[j]->name, phase->name) == 0)
        violation(c, "two phases have the name @%s", phase->name);
    if (!phase->table || module_find_table(c->m, phase->table->name) != phase->table)
      violation(c, "phase @%s has no table of this module", phase->name);
    if (phase->steps < 0)
      violation(c, "phase @%s has %lld steps", phase->name, (long long)phase->steps);
    if (phase->enter && !module_find_func(c->m, phase->enter))
      violation(c, "phase @%s is entered by @%s, but there is no such function", phase->name, phase->enter);
  }
}

static void check_schedules(const Check *c) {
  for (uint32_t i = 0; i < vec_len(c->m->schedules); i++) {
    const Schedule *schedule = c->m->schedules[i];
    check_name(c, "schedule", schedule->name);
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(c->m->schedules[j]->name, schedule->name) == 0)
        violation(c, "two schedules have the name @%s", schedule->name);
    if (vec_len(schedule->values) == 0)
      violation(c, "schedule @%s has no values", schedule->name);
  }
}

void module_verify(const Module *m, const char *where) {
  Check c = {.m = m, .where = where, .loc = no_loc};
  check_name(&c, "module", m->name);
  check_name(&c, "task", m->task);
  if ((unsigned)m->stage >= STAGE_COUNT)
    violation(&c, "the module has no stage");
  if (m->precision != DTYPE_F32 && m->precision != DTYPE_BF16)
    violation(&c, "the module's precision is neither f32 nor bf16");
  check_text(&c, "optimizer", m->optimizer);
  for (uint32_t i = 0; i < vec_len(m->tables); i++)
    check_table(&c, m->tables[i]);
  check_schedules(&c);
  check_phases(&c);
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    check_func(&c, m->funcs[i]);
}
