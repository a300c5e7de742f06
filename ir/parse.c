/* IR text to a module: the other direction of print.c. docs/ir.md is the definition of the language.
 *
 * Recursive descent over lines. Instructions are made by build_named, so a parsed module has the same invariants as a
 * built one, and every type is derived; the type that the text states is then compared and, being equal by value, kept
 * as it was written. A mistake is one message with the line of the text; no text crashes, hangs or takes memory out of
 * proportion (limits: internal.h).
 */
#include <stdlib.h>
#include <string.h>

#include "ir/scan.h"

enum { MAX_GROUP = 65535, MAX_GROUP_SLOTS = 1 << 20, MAX_SCHEDULE_VALUES = 1 << 25 };

typedef struct Parser {
  Scan scan;
  Module *m;
  uint32_t group_slots;     /* in all functions: bounds what a few large group numbers can ask for */
  uint32_t schedule_values; /* in all schedules */
} Parser;

/* ---------------------------------------------------------------- operands and attributes */

static ParamSlot parse_slot(Scan *s) {
  if (!scan_take(s, '!'))
    return SLOT_VALUE;
  if (scan_word(s, "m"))
    return SLOT_M;
  if (scan_word(s, "v"))
    return SLOT_V;
  if (scan_word(s, "next"))
    return SLOT_NEXT;
  scan_expected(s, "m, v or next behind '!'");
}

/* "@w", "@shared::w", "@shared::w!m", behind the @ */
static ValueId parse_parameter(Scan *s, Func *f) {
  const Table *table = f->table;
  const char *name = scan_name(s, "the name of a parameter");
  if (scan_take(s, ':')) {
    scan_need(s, ':');
    table = module_find_table(s->m, name);
    if (!table)
      scan_fail(s, "there is no table @%s", name);
    name = scan_name(s, "the name of a parameter");
  }
  if (!table)
    scan_fail(s, "@%s: this function has no table of parameters", name);
  if (!table_find_param(table, name))
    scan_fail(s, "table @%s has no parameter @%s", table->name, name);
  return func_parameter(f, table, name, parse_slot(s));
}

static ValueId find_value(Scan *s, const Func *f, const char *name) {
  ValueId v = func_find_value(f, name);
  if (v == NO_VALUE || f->values[v].kind == VALUE_PARAMETER)
    scan_fail(s, "%%%s is not defined", name);
  return v;
}

static ValueId parse_operand(Scan *s, Func *f) {
  if (scan_take(s, '@'))
    return parse_parameter(s, f);
  if (!scan_take(s, '%'))
    scan_expected(s, "an operand %name or @name");
  return find_value(s, f, scan_name(s, "the name of a value"));
}

static Attr parse_shape(Scan *s, const Func *f) {
  Dim dims[MAX_RANK];
  int rank = 0;
  scan_need(s, '[');
  while (!scan_take(s, ']')) {
    if (rank > 0)
      scan_need(s, ',');
    if (rank == MAX_RANK)
      scan_fail(s, "a shape of more than %d dims", MAX_RANK);
    dims[rank++] = scan_dim(s, f, NULL);
  }
  return attr_shape(rank, dims);
}

static DType parse_dtype(Scan *s) {
  for (int dtype = 0; dtype < DTYPE_COUNT; dtype++)
    if (scan_word(s, dtype_name((DType)dtype)))
      return (DType)dtype;
  scan_expected(s, "f32, bf16 or i32");
}

static Attr parse_attr(Scan *s, const Func *f, Op op) {
  const char *text = scan_name(s, "the name of an attribute");
  AttrName name = attr_from_name(text);
  if (name == ATTRIBUTE_COUNT || op_attr_use(op, name) == ATTR_USE_NONE)
    scan_fail(s, "%s: unknown attribute '%s', expected %s", op_info[op].name, text,
              *op_info[op].attributes ? op_info[op].attributes : "none");
  scan_need(s, '=');
  switch (attr_kind[name]) {
  case ATTR_INT:
    return attr_int(name, scan_integer(s, text, INT64_MIN, INT64_MAX));
  case ATTR_FLOAT:
    return attr_float(name, scan_number(s, "a number"));
  case ATTR_DTYPE:
    return attr_dtype(parse_dtype(s));
  case ATTR_DIM:
    return attr_dim(name, scan_dim(s, f, NULL));
  case ATTR_SHAPE:
    return parse_shape(s, f);
  }
  ir_bug("attribute %s has no kind", text);
}

/* ---------------------------------------------------------------- instructions */

typedef struct Outputs {
  int count;
  const char *name[MAX_OUTPUTS];
  const char *type[MAX_OUTPUTS]; /* where the type stands; it is read when the outputs exist, which it may name */
} Outputs;

static void parse_outputs(Scan *s, const Func *f, Outputs *outputs) {
  do {
    if (outputs->count == MAX_OUTPUTS)
      scan_fail(s, "more than %d outputs", MAX_OUTPUTS);
    if (!scan_take(s, '%'))
      scan_expected(s, "an instruction '%name: type = op ...', 'group', 'return' or '}'");
    const char *name = scan_name(s, "the name of a value");
    ValueId v = func_find_value(f, name);
    bool defined = v != NO_VALUE && f->values[v].kind != VALUE_PARAMETER;
    for (int i = 0; i < outputs->count; i++)
      defined |= strcmp(outputs->name[i], name) == 0;
    if (defined)
      scan_fail(s, "%%%s is defined already", name);
    scan_need(s, ':');
    outputs->name[outputs->count] = name;
    outputs->type[outputs->count++] = s->at;
    s->at += strcspn(s->at, "]\n#");
    scan_need(s, ']');
  } while (scan_take(s, ','));
}

/* Reads the stated types of the outputs and keeps their dims when they equal what the shape rule derived. */
static void parse_output_types(Scan *s, Func *f, const Inst *inst, const Outputs *outputs) {
  const char *end = s->at;
  for (int i = 0; i < outputs->count; i++) {
    const char *extent;
    s->at = outputs->type[i];
    Type *derived = &f->values[inst->output[i]].type, stated = scan_type(s, f, NULL, &extent);
    if (extent)
      stated.extent = find_value(s, f, extent);
    if (!type_equal(s->m, stated, *derived))
      scan_fail(s, "%%%s is stated as %s, but %s gives %s", outputs->name[i], type_text(f, stated),
                op_info[inst->op].name, type_text(f, *derived));
    *derived = stated;
  }
  s->at = end;
}

static Op parse_op(Scan *s) {
  const char *name = scan_name(s, "the name of an op");
  Op op = op_from_name(name);
  if (op == OP_COUNT)
    scan_fail(s, "unknown op '%s'", name);
  if (!(op_info[op].stages & (1u << s->m->stage)))
    scan_fail(s, "op '%s' is not legal at stage %s", name, stage_name[s->m->stage]);
  return op;
}

static void parse_inst(Scan *s, Func *f, uint32_t group) {
  Arena *arena = s->m->arena;
  Outputs outputs = {0};
  ValueId *input = NULL;
  Attr *attr = NULL;
  parse_outputs(s, f, &outputs);
  scan_need(s, '=');
  Op op = parse_op(s);
  if (!scan_at_line_end(s) && *s->at != '{') {
    do {
      ValueId v = parse_operand(s, f);
      vec_push(arena, input, v);
    } while (scan_take(s, ','));
  }
  if (scan_take(s, '{') && !scan_take(s, '}')) {
    do {
      Attr a = parse_attr(s, f, op);
      vec_push(arena, attr, a);
    } while (scan_take(s, ','));
    scan_need(s, '}');
  }
  int inputs = (int)vec_len(input), attrs = (int)vec_len(attr);
  const char *problem = inst_form_problem(s->m, op, inputs, attr, attrs);
  if (problem)
    scan_fail(s, "%s", problem);
  int expected = inst_output_count(&(Inst){.op = op, .attr = attr, .attr_count = (uint16_t)attrs});
  if (outputs.count != expected)
    scan_fail(s, "%s: found %d output%s, expected %d", op_info[op].name, outputs.count, outputs.count == 1 ? "" : "s",
              expected);
  Inst *inst = build_named(f, op, scan_loc(s), input, inputs, attr, attrs, outputs.name);
  parse_output_types(s, f, inst, &outputs);
  inst->group = group;
  scan_comment(s, &inst->loc, &inst->note);
  scan_next_line(s);
}

static void parse_group(Parser *p, Func *f) {
  Scan *s = &p->scan;
  uint32_t group = (uint32_t)scan_integer(s, "the number of a group", 1, MAX_GROUP);
  Loc loc;
  const char *note;
  for (uint32_t i = vec_len(f->insts); i > 0; i--)
    if (f->insts[i - 1].group == group)
      scan_fail(s, "group %u is opened twice", group);
  while (vec_len(f->group_notes) <= group) {
    if (p->group_slots++ >= MAX_GROUP_SLOTS)
      scan_fail(s, "the numbers of groups are too large");
    vec_push(p->m->arena, f->group_notes, NULL);
  }
  scan_need(s, '{');
  scan_comment(s, &loc, &note);
  f->group_notes[group] = note;
  scan_next_line(s);
  if (scan_take(s, '}'))
    scan_fail(s, "group %u is empty", group);
  while (!scan_take(s, '}'))
    parse_inst(s, f, group);
  scan_next_line(s);
}

/* ---------------------------------------------------------------- functions */

/* "loss", "grad @h1.w" */
static const char *parse_label(Scan *s) {
  const char *name = scan_name(s, "the label of a result");
  if (scan_take(s, '@'))
    name = arena_print(s->m->arena, "%s @%s", name, scan_name(s, "the name of a parameter"));
  return name;
}

static void parse_results(Scan *s, Func *f) {
  if (scan_at_line_end(s)) {
    scan_next_line(s);
    return;
  }
  do {
    scan_over_lines(s);
    const char *label = parse_label(s);
    if (func_find_result(f, label) != NO_VALUE)
      scan_fail(s, "result %s is given twice", label);
    scan_need(s, '=');
    func_add_result(f, label, parse_operand(s, f));
  } while (scan_take(s, ','));
  scan_next_line(s);
}

static void parse_symbol(Scan *s, const Func *f, const Table *table, const void *scope) {
  const char *name = scan_name(s, "the name of a symbol");
  scan_need(s, '=');
  module_add_symbol(s->m, scope, name, dim_value(s->m, scan_dim(s, f, table)));
}

/* "(%x: f32[N,D], %off: i32[E+1])": extents may name later arguments, so they are set in a second step. */
static void parse_arguments(Scan *s, Func *f) {
  const char **extents = NULL;
  scan_need(s, '(');
  scan_over_lines(s);
  while (!scan_take(s, ')')) {
    if (vec_len(f->values) > 0)
      scan_need(s, ',');
    scan_over_lines(s);
    if (!scan_take(s, '%'))
      scan_expected(s, "an argument '%name: type'");
    const char *extent, *name = scan_name(s, "the name of an argument");
    if (func_find_value(f, name) != NO_VALUE)
      scan_fail(s, "%%%s is defined already", name);
    scan_need(s, ':');
    func_add_argument(f, name, scan_type(s, f, NULL, &extent));
    vec_push(s->m->arena, extents, extent);
    scan_over_lines(s);
  }
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    if (!extents[v])
      continue;
    ValueId extent = find_value(s, f, extents[v]);
    if (!is_offsets(f, extent))
      scan_fail(s, "%%%s is %s, expected offsets i32[groups+1]", extents[v], type_text(f, f->values[extent].type));
    f->values[v].type.extent = extent;
  }
}

static Func *parse_header(Scan *s) {
  Table *table = NULL;
  scan_need(s, '@');
  const char *name = scan_name(s, "the name of a function");
  if (module_find_func(s->m, name))
    scan_fail(s, "function @%s is defined already", name);
  if (scan_word(s, "table")) {
    scan_need(s, '=');
    scan_need(s, '@');
    const char *table_name = scan_name(s, "the name of a table");
    table = module_find_table(s->m, table_name);
    if (!table)
      scan_fail(s, "there is no table @%s", table_name);
  }
  Func *f = module_add_func(s->m, name, table);
  if (scan_word(s, "sym")) {
    scan_need(s, '{');
    while (!scan_take(s, '}')) {
      parse_symbol(s, f, NULL, f);
      scan_take(s, ',');
    }
  }
  parse_arguments(s, f);
  scan_need(s, '{');
  scan_next_line(s);
  return f;
}

static void parse_func(Parser *p) {
  Scan *s = &p->scan;
  Func *f = parse_header(s);
  while (!scan_word(s, "return")) {
    if (scan_word(s, "group"))
      parse_group(p, f);
    else if (*s->at == '}')
      scan_fail(s, "@%s ends without 'return'", f->name);
    else
      parse_inst(s, f, NO_GROUP);
  }
  parse_results(s, f);
  scan_need(s, '}');
  scan_next_line(s);
}

/* ---------------------------------------------------------------- tables */

static void parse_segment(Scan *s, Table *t) {
  scan_key(s, "decay");
  Segment segment = {.weight_decay = scan_number(s, "a number")};
  scan_key(s, "birth");
  segment.birth = (int)scan_integer(s, "birth", 0, INT32_MAX);
  vec_push(s->m->arena, t->segments, segment);
}

static void parse_param(Scan *s, Table *t) {
  const char *extent;
  Param p = {.segment = -1};
  scan_need(s, '@');
  p.name = scan_name(s, "the name of a parameter");
  scan_need(s, ':');
  p.type = scan_type(s, NULL, t, &extent);
  if (extent)
    scan_fail(s, "parameter @%s cannot be ragged", p.name);
  if (!scan_word(s, "frozen")) {
    int64_t count = vec_len(t->segments);
    if (!scan_word(s, "segment"))
      scan_expected(s, "'segment=' or 'frozen'");
    scan_need(s, '=');
    p.segment = (int)scan_integer(s, "a segment", 0, INT32_MAX);
    if (p.segment >= count)
      scan_fail(s, "parameter @%s is in segment %d, but the table has %lld", p.name, p.segment, (long long)count);
  }
  if (scan_word(s, "init")) {
    scan_need(s, '=');
    p.init = scan_rest(s, "the initialisation");
  }
  table_add_param(t, s->m, p);
}

static void parse_table(Parser *p) {
  Scan *s = &p->scan;
  scan_need(s, '@');
  const char *name = scan_name(s, "the name of a table");
  if (module_find_table(p->m, name))
    scan_fail(s, "table @%s is defined already", name);
  Table *t = module_add_table(p->m, name);
  scan_need(s, '{');
  scan_next_line(s);
  while (!scan_take(s, '}')) {
    if (scan_word(s, "sym")) {
      while (!scan_at_line_end(s))
        parse_symbol(s, NULL, t, t);
    } else if (scan_word(s, "segment")) {
      parse_segment(s, t);
    } else if (scan_word(s, "param")) {
      parse_param(s, t);
    } else {
      scan_expected(s, "'sym', 'segment', 'param' or '}'");
    }
    scan_next_line(s);
  }
  table_layout(p->m, t);
  scan_next_line(s);
}

/* ---------------------------------------------------------------- schedules and phases */

static void push_value(Parser *p, Schedule *schedule, int64_t count, float value) {
  if (vec_len(schedule->values) == count)
    scan_fail(&p->scan, "schedule @%s has more than %lld values", schedule->name, (long long)count);
  if (p->schedule_values++ >= MAX_SCHEDULE_VALUES)
    scan_fail(&p->scan, "more than %d values in all schedules", MAX_SCHEDULE_VALUES);
  vec_push(p->m->arena, schedule->values, value);
}

/* "linear(a,b,n)" or "raw(v,v,...)" */
static void parse_run(Parser *p, Schedule *schedule, int64_t count) {
  Scan *s = &p->scan;
  if (scan_word(s, "linear")) {
    scan_need(s, '(');
    double a = scan_number(s, "a number");
    scan_need(s, ',');
    double b = scan_number(s, "a number");
    scan_need(s, ',');
    int64_t length = scan_integer(s, "the length of a run", 1, MAX_SCHEDULE_VALUES);
    for (int64_t i = 0; i < length; i++)
      push_value(p, schedule, count, (float)(a + b * (double)i));
  } else if (scan_word(s, "raw")) {
    scan_need(s, '(');
    do {
      push_value(p, schedule, count, (float)scan_number(s, "a number"));
    } while (scan_take(s, ','));
  } else {
    scan_expected(s, "'linear(a,b,n)' or 'raw(v,...)'");
  }
  scan_need(s, ')');
}

static void parse_schedule(Parser *p) {
  Scan *s = &p->scan;
  scan_need(s, '@');
  Schedule *schedule = arena_alloc(p->m->arena, sizeof *schedule);
  schedule->name = scan_name(s, "the name of a schedule");
  for (uint32_t i = 0; i < vec_len(p->m->schedules); i++)
    if (strcmp(p->m->schedules[i]->name, schedule->name) == 0)
      scan_fail(s, "schedule @%s is defined already", schedule->name);
  int64_t count = scan_integer(s, "the number of values", 1, MAX_SCHEDULE_VALUES);
  do {
    parse_run(p, schedule, count);
  } while (scan_take(s, ';'));
  if (vec_len(schedule->values) != count)
    scan_fail(s, "schedule @%s has %u values, expected %lld", schedule->name, vec_len(schedule->values),
              (long long)count);
  vec_push(p->m->arena, p->m->schedules, schedule);
  scan_next_line(s);
}

static void parse_phase(Parser *p) {
  Scan *s = &p->scan;
  const char *note;
  Phase *phase = arena_alloc(p->m->arena, sizeof *phase);
  scan_need(s, '@');
  phase->name = scan_name(s, "the name of a phase");
  for (uint32_t i = 0; i < vec_len(p->m->phases); i++)
    if (strcmp(p->m->phases[i]->name, phase->name) == 0)
      scan_fail(s, "phase @%s is defined already", phase->name);
  scan_key(s, "steps");
  phase->steps = scan_integer(s, "steps", 0, MAX_ELEMENTS);
  scan_key(s, "table");
  scan_need(s, '@');
  const char *table = scan_name(s, "the name of a table");
  phase->table = module_find_table(p->m, table);
  if (!phase->table)
    scan_fail(s, "there is no table @%s", table);
  if (scan_word(s, "enter")) {
    scan_need(s, '=');
    scan_need(s, '@');
    phase->enter = scan_name(s, "the name of a function");
  }
  if (scan_word(s, "crossover")) {
    scan_need(s, '=');
    phase->crossover = scan_number(s, "experts per token");
    if (!(phase->crossover > 0))
      scan_fail(s, "crossover is %g, expected experts per token, greater than 0", phase->crossover);
  }
  scan_comment(s, &phase->loc, &note);
  vec_push(p->m->arena, p->m->phases, phase);
  scan_next_line(s);
}

/* ---------------------------------------------------------------- the module */

static void parse_run_line(Parser *p) {
  Scan *s = &p->scan;
  Module *m = p->m;
  const struct {
    const char *key;
    int64_t *value;
  } sizes[] = {{"steps", &m->steps},
               {"batch", &m->batch},
               {"accumulate", &m->accumulate},
               {"sequence", &m->sequence_length},
               {"vocabulary", &m->vocabulary}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    scan_key(s, sizes[i].key);
    *sizes[i].value = scan_integer(s, sizes[i].key, 0, MAX_ELEMENTS);
  }
  scan_next_line(s);
}

static Stage parse_stage(Scan *s) {
  for (int stage = 0; stage < STAGE_COUNT; stage++)
    if (scan_word(s, stage_name[stage]))
      return (Stage)stage;
  scan_expected(s, "stage graph, gradient or fused");
}

static DType parse_precision(Scan *s) {
  if (scan_word(s, "f32"))
    return DTYPE_F32;
  if (scan_word(s, "bf16"))
    return DTYPE_BF16;
  scan_expected(s, "precision f32 or bf16");
}

/* The first line: it makes the module, which every other line needs. */
static void parse_module_line(Parser *p, Arena *arena) {
  Scan *s = &p->scan;
  p->m = s->m = module_new(arena, "");
  if (!scan_word(s, "module"))
    scan_expected(s, "'module NAME'");
  p->m->name = scan_name(s, "the name of the module");
  if (scan_word(s, "task")) {
    scan_need(s, '=');
    p->m->task = scan_name(s, "a task");
  }
  if (scan_word(s, "stage")) {
    scan_need(s, '=');
    p->m->stage = parse_stage(s);
  }
  scan_next_line(s);
}

static void parse_item(Parser *p) {
  Scan *s = &p->scan;
  if (scan_word(s, "func")) {
    parse_func(p);
  } else if (scan_word(s, "table")) {
    parse_table(p);
  } else if (scan_word(s, "schedule")) {
    parse_schedule(p);
  } else if (scan_word(s, "phase")) {
    parse_phase(p);
  } else if (scan_word(s, "run")) {
    parse_run_line(p);
  } else if (scan_word(s, "precision")) {
    p->m->precision = parse_precision(s);
    scan_next_line(s);
  } else if (scan_word(s, "optimizer")) {
    p->m->optimizer = scan_rest(s, "the optimizer");
    scan_next_line(s);
  } else if (scan_word(s, "sym")) {
    while (!scan_at_line_end(s))
      parse_symbol(s, NULL, NULL, p->m);
    scan_next_line(s);
  } else {
    scan_expected(s, "'run', 'precision', 'sym', 'optimizer', 'table', 'schedule', 'phase' or 'func'");
  }
}

Module *module_parse(Arena *arena, const char *name, const char *text) {
  Parser p = {.scan = {.name = arena_intern(arena, name), .at = text}};
  scan_begin(&p.scan);
  parse_module_line(&p, arena);
  while (!scan_at_end(&p.scan))
    parse_item(&p);
  ir_set_place(no_loc);
  return p.m;
}
