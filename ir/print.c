/* The text of a module: docs/ir.md is the definition of the language, parse.c the other direction.
 *
 * The text says everything that a module holds except offsets, which table_layout makes again. Order: module line, run,
 * symbols, optimizer, tables, schedules, phases, functions.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ir/internal.h"

const char *const stage_name[STAGE_COUNT] = {"graph", "gradient", "fused"};

enum { COMMENT_COLUMN = 76, LINE_WIDTH = 116 };

/* A line of text that is being made; lists break it where it gets too long. */
typedef struct Line {
  FILE *out;
  int column;
} Line;

static void put(Line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(Line *line, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  line->column += vfprintf(line->out, format, arguments);
  va_end(arguments);
}

static void end_line(Line *line) {
  fputc('\n', line->out);
  line->column = 0;
}

/* Before item `i` of a list: a comma, and a new line where the item would not fit. */
static void put_separator(Line *line, uint32_t i, size_t item_length) {
  if (i > 0)
    put(line, ",");
  if (i > 0 && line->column + (int)item_length + 1 > LINE_WIDTH) {
    end_line(line);
    put(line, "     ");
  }
  if (i > 0)
    put(line, " ");
}

/* The trailing comment of a line: "# models/gpt.lua:17" and "# fused: ...", either of them or both. */
static void put_comment(Line *line, Loc loc, const char *note) {
  const char *text[2] = {NULL, note};
  char buffer[512];
  if (loc.file) {
    snprintf(buffer, sizeof buffer, "%.480s:%d", loc.file, loc.line);
    text[0] = buffer;
  }
  for (int i = 0; i < 2; i++) {
    if (!text[i])
      continue;
    int gap = line->column < COMMENT_COLUMN - 2 ? COMMENT_COLUMN - line->column : 2;
    put(line, "%*s# ", gap, "");
    for (const char *c = text[i]; *c; c++, line->column++)
      fputc(*c == '#' || (unsigned char)*c < ' ' ? '?' : *c, line->out); /* both end a comment */
  }
  end_line(line);
}

/* ---------------------------------------------------------------- functions */

static const char *operand_text(const Func *f, ValueId v) {
  const Value *value = &f->values[v];
  if (value->kind == VALUE_PARAMETER)
    return parameter_text(f, value->table, value->parameter, value->slot);
  return arena_print(f->module->arena, "%%%s", value->name);
}

static const char *shape_text(const Func *f, const Attr *attr) {
  return type_text(f, type_make(DTYPE_F32, attr->shape.rank, attr->shape.dim)) + strlen("f32");
}

static const char *attr_text(const Func *f, const Attr *attr) {
  Arena *arena = f->module->arena;
  switch (attr_kind[attr->name]) {
  case ATTR_INT:
    return arena_print(arena, attr->name == ATTRIBUTE_tag ? "0x%llx" : "%lld", (long long)attr->i);
  case ATTR_FLOAT:
    return number_text(arena, attr->f);
  case ATTR_DTYPE:
    return dtype_name(attr->dtype);
  case ATTR_DIM:
    return dim_text_in(f->module, f, NULL, attr->dim);
  case ATTR_SHAPE:
    return shape_text(f, attr);
  }
  ir_bug("attribute %s has no kind", attr_name[attr->name]);
}

static void put_inst(Line *line, const Func *f, const Inst *inst) {
  put(line, "%s", inst->group == NO_GROUP ? "  " : "    ");
  for (int i = 0; i < inst->output_count; i++) {
    const Value *value = &f->values[inst->output[i]];
    put(line, "%s%%%s: %s", i ? ", " : "", value->name, type_text(f, value->type));
  }
  put(line, " = %s", op_info[inst->op].name);
  for (int i = 0; i < inst->input_count; i++)
    put(line, "%s %s", i ? "," : "", operand_text(f, inst->input[i]));
  for (int i = 0; i < inst->attr_count; i++)
    put(line, "%s%s=%s", i ? ", " : " {", attr_name[inst->attr[i].name], attr_text(f, &inst->attr[i]));
  if (inst->attr_count)
    put(line, "}");
  put_comment(line, inst->loc, inst->note);
}

/* "sym {R=8192 S=16} " or the like: what `scope` declares. */
static void put_symbols(Line *line, const Module *m, const void *scope, const char *before, const char *after) {
  bool any = false;
  for (SymbolId i = 0; i < vec_len(m->symbols); i++) {
    if (m->symbols[i].scope != scope)
      continue;
    put(line, "%s%s=%lld", any ? " " : before, m->symbols[i].name, (long long)m->symbols[i].value);
    any = true;
  }
  if (any)
    put(line, "%s", after);
}

static void put_header(Line *line, const Func *f) {
  put(line, "func @%s", f->name);
  if (f->table)
    put(line, " table=@%s", f->table->name);
  put_symbols(line, f->module, f, " sym {", "}");
  put(line, " (");
  uint32_t count = 0;
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    if (f->values[v].kind != VALUE_ARGUMENT)
      continue;
    const char *text = arena_print(f->module->arena, "%%%s: %s", f->values[v].name, type_text(f, f->values[v].type));
    put_separator(line, count++, strlen(text));
    put(line, "%s", text);
  }
  put(line, ") {");
  end_line(line);
}

static void put_results(Line *line, const Func *f) {
  put(line, "  return");
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    const Result *result = &f->results[i];
    const char *text = arena_print(f->module->arena, "%s=%s", result->label, operand_text(f, result->value));
    if (i == 0)
      put(line, " ");
    put_separator(line, i, strlen(text));
    put(line, "%s", text);
  }
  end_line(line);
}

void func_print(const Func *f, FILE *out) {
  Line line = {out, 0};
  put_header(&line, f);
  uint32_t group = NO_GROUP;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    if (inst->group != group && group != NO_GROUP) {
      put(&line, "  }");
      end_line(&line);
    }
    if (inst->group != group && inst->group != NO_GROUP) {
      put(&line, "  group %u {", inst->group);
      put_comment(&line, no_loc, f->group_notes[inst->group]);
    }
    group = inst->group;
    put_inst(&line, f, inst);
  }
  if (group != NO_GROUP) {
    put(&line, "  }");
    end_line(&line);
  }
  put_results(&line, f);
  put(&line, "}");
  end_line(&line);
}

/* ---------------------------------------------------------------- the rest of a module */

static void put_table(Line *line, const Module *m, const Table *t) {
  put(line, "table @%s {", t->name);
  end_line(line);
  put_symbols(line, m, t, "  sym ", "\n");
  line->column = 0;
  for (uint32_t i = 0; i < vec_len(t->segments); i++) {
    const Segment *segment = &t->segments[i];
    put(line, "  segment decay=%s birth=%d", number_text(m->arena, segment->weight_decay), segment->birth);
    end_line(line);
  }
  for (uint32_t i = 0; i < vec_len(t->params); i++) {
    const Param *p = &t->params[i];
    put(line, "  param @%s: %s ", p->name, type_text_in(m, NULL, t, p->type));
    if (p->segment < 0)
      put(line, "frozen");
    else
      put(line, "segment=%d", p->segment);
    if (p->init)
      put(line, " init=%s", p->init);
    end_line(line);
  }
  put(line, "}");
  end_line(line);
}

static void put_phase(Line *line, const Module *m, const Phase *phase) {
  put(line, "phase @%s steps=%lld table=@%s", phase->name, (long long)phase->steps, phase->table->name);
  if (phase->enter)
    put(line, " enter=@%s", phase->enter);
  if (phase->crossover > 0)
    put(line, " crossover=%s", number_text(m->arena, phase->crossover));
  put_comment(line, phase->loc, NULL);
}

void module_print(const Module *m, FILE *out) {
  Line line = {out, 0};
  put(&line, "module %s task=%s stage=%s\n", m->name, m->task, stage_name[m->stage]);
  put(&line, "run steps=%lld batch=%lld accumulate=%lld sequence=%lld vocabulary=%lld\n", (long long)m->steps,
      (long long)m->batch, (long long)m->accumulate, (long long)m->sequence_length, (long long)m->vocabulary);
  if (m->precision != DTYPE_F32)
    put(&line, "precision %s\n", dtype_name(m->precision));
  put_symbols(&line, m, m, "sym ", "\n");
  if (m->optimizer)
    put(&line, "optimizer %s\n", m->optimizer);
  line.column = 0;
  for (uint32_t i = 0; i < vec_len(m->tables); i++)
    put_table(&line, m, m->tables[i]);
  for (uint32_t i = 0; i < vec_len(m->schedules); i++)
    fprintf(out, "schedule @%s %u %s\n", m->schedules[i]->name, vec_len(m->schedules[i]->values),
            schedule_text(m->arena, m->schedules[i]));
  for (uint32_t i = 0; i < vec_len(m->phases); i++)
    put_phase(&line, m, m->phases[i]);
  for (uint32_t i = 0; i < vec_len(m->funcs); i++) {
    fputc('\n', out);
    func_print(m->funcs[i], out);
  }
}
