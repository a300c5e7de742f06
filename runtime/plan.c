/* The plan's text into structs: the file level (tables, phases, schedules, functions); steps are in plan_step.c.
 *
 * In: text. Out: Plan. Holds afterwards: what plan.h promises. Tables and functions may be named before they are
 * described, so names are resolved behind the last line. */
#include "runtime/plan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/plan_read.h"

/* ---------------------------------------------------------------- lexical */

void plan_fail(const PlanReader *reader, const char *format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  runtime_fail(FAIL_BUG, "%s:%d: %s", reader->name, reader->line, text);
}

/* Splits the next line that is not empty; false at the end. `init=` is the last key of its line and may hold spaces. */
static bool next_line(PlanReader *reader) {
  for (;;) {
    char *line = reader->next;
    if (!*line)
      return false;
    reader->line++;
    char *end = line + strcspn(line, "\n");
    reader->next = *end ? end + 1 : end;
    *end = 0;
    reader->comment = "";
    for (char *c = line; *c; c++)
      if (*c == '#' && (c == line || c[-1] == ' ')) {
        *c = 0;
        reader->comment = c + 1 + strspn(c + 1, " ");
        break;
      }
    for (size_t length = strlen(line); length && line[length - 1] == ' ';)
      line[--length] = 0;
    reader->word_count = 0;
    while (*(line += strspn(line, " "))) {
      if (reader->word_count == reader->word_capacity) {
        reader->word_capacity = reader->word_capacity ? 2 * reader->word_capacity : 64;
        reader->words = realloc(reader->words, (size_t)reader->word_capacity * sizeof *reader->words);
        if (!reader->words)
          runtime_fail(FAIL_ENVIRONMENT, "out of memory while reading the plan");
      }
      reader->words[reader->word_count++] = line;
      line += strncmp(line, "init=", 5) ? strcspn(line, " ") : strlen(line);
      if (*line)
        *line++ = 0;
    }
    if (reader->word_count)
      return true;
  }
}

char *plan_word(const PlanReader *reader, int index, const char *what) {
  if (index >= reader->word_count)
    plan_fail(reader, "'%s' lacks its %s", reader->words[0], what);
  return reader->words[index];
}

char *plan_find_key(const PlanReader *reader, const char *key) {
  size_t length = strlen(key);
  for (int i = 1; i < reader->word_count; i++)
    if (!strncmp(reader->words[i], key, length) && reader->words[i][length] == '=')
      return reader->words[i] + length + 1;
  return NULL;
}

char *plan_key(const PlanReader *reader, const char *key) {
  char *text = plan_find_key(reader, key);
  if (!text)
    plan_fail(reader, "'%s' lacks key '%s'", reader->words[0], key);
  return text;
}

int64_t plan_parse_number(const PlanReader *reader, const char *what, const char *text) {
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if (end == text || *end || errno)
    plan_fail(reader, "%s: '%s' is not a number", what, text);
  return number;
}

double plan_parse_double(const PlanReader *reader, const char *what, const char *text) {
  char *end;
  double number = strtod(text, &end);
  if (end == text || *end)
    plan_fail(reader, "%s: '%s' is not a number", what, text);
  return number;
}

PlanPlace plan_parse_place(const PlanReader *reader, const char *what, const char *text) {
  static const char *const names[SPACE_COUNT] = {"act",   "param", "grad", "m",      "v",          "seed", "src.param",
                                                 "src.m", "src.v", "tag",  "status", "param.bf16", "null"};
  const char *colon = strchr(text, ':');
  if (!strcmp(text, "null"))
    return (PlanPlace){.space = SPACE_NULL};
  if (!colon)
    plan_fail(reader, "%s: '%s' is not a place (space:offset)", what, text);
  size_t length = (size_t)(colon - text);
  int space = 0;
  while (space < SPACE_COUNT && (strncmp(names[space], text, length) || names[space][length]))
    space++;
  if (space == SPACE_COUNT)
    plan_fail(reader, "%s: no space is called '%.*s'", what, (int)length, text);
  PlanPlace place = {.space = (PlanSpace)space, .offset = plan_parse_number(reader, what, colon + 1)};
  if (place.offset < 0 || (space == SPACE_ACT && place.offset > reader->plan->act))
    plan_fail(reader, "%s: %s lies outside the arena of %lld bytes", what, text, (long long)reader->plan->act);
  return place;
}

PlanCount plan_parse_count(const PlanReader *reader, const char *what, const char *text) {
  if (*text == '*')
    return (PlanCount){.dynamic = true, .place = plan_parse_place(reader, what, text + 1)};
  PlanCount count = {.number = plan_parse_number(reader, what, text)};
  if (count.number < 0)
    plan_fail(reader, "%s: %s is negative", what, text);
  return count;
}

PlanType plan_parse_type(const PlanReader *reader, const char *text) {
  for (PlanType type = PLAN_F32; type <= PLAN_I32; type++)
    if (!strcmp(text, plan_type_name(type)))
      return type;
  plan_fail(reader, "no type is called '%s'", text);
}

static PlanShape parse_shape(const PlanReader *reader, char *text) {
  PlanShape shape = {.elements = 1};
  while (*text) {
    char *comma = text + strcspn(text, ",");
    bool last = !*comma;
    *comma = 0;
    if (shape.rank == PLAN_MAX_RANK)
      plan_fail(reader, "a shape has at most %d dims", PLAN_MAX_RANK);
    int64_t dim = plan_parse_number(reader, "shape", text);
    if (dim < 0 || (dim > 0 && shape.elements > INT64_MAX / 16 / dim))
      plan_fail(reader, "shape: dim %s is out of range", text);
    shape.dim[shape.rank++] = dim;
    shape.elements *= dim;
    text = last ? comma : comma + 1;
  }
  return shape;
}

/* ---------------------------------------------------------------- the file level */

#define APPEND(array, count) ((array) = runtime_grow((array), (count), sizeof *(array)), &(array)[(count)++])

/* Names that are resolved behind the last line. */
typedef struct Reference {
  int line;
  const char *table, *func; /* NULL or "-": none */
} Reference;

typedef struct References {
  Reference *phases, *funcs;
  int phase_count, func_count;
} References;

/* linear(a,b,n) and raw(v,...), separated by ';'. */
static void read_runs(const PlanReader *reader, PlanSchedule *schedule, char *text) {
  int64_t filled = 0;
  while (*text) {
    char *open = strchr(text, '('), *close = strchr(text, ')');
    if (!open || !close || close < open)
      plan_fail(reader, "schedule %s: '%s' is not a run", schedule->name, text);
    *open = *close = 0;
    double number[3] = {0};
    int numbers = 0;
    bool linear = !strcmp(text, "linear");
    if (!linear && strcmp(text, "raw"))
      plan_fail(reader, "schedule %s: no run is called '%s'", schedule->name, text);
    for (char *item = open + 1, *rest; item; item = rest) {
      rest = strchr(item, ',');
      if (rest)
        *rest++ = 0;
      double value = plan_parse_double(reader, "schedule", item);
      if (linear && numbers < 3)
        number[numbers] = value;
      else if (!linear && filled < schedule->count)
        schedule->values[filled] = (float)value;
      numbers++;
      filled += !linear;
    }
    if (linear && numbers != 3)
      plan_fail(reader, "schedule %s: linear needs 3 numbers", schedule->name);
    for (int64_t i = 0; linear && i < (int64_t)number[2]; i++, filled++)
      if (filled < schedule->count)
        schedule->values[filled] = (float)(number[0] + number[1] * (double)i);
    text = close + 1;
    if (*text == ';')
      text++;
  }
  if (filled != schedule->count)
    plan_fail(reader, "schedule %s: %lld values, count=%lld", schedule->name, (long long)filled,
              (long long)schedule->count);
}

static void read_schedule(PlanReader *reader) {
  PlanSchedule *schedule = APPEND(reader->plan->schedules, reader->plan->schedule_count);
  schedule->name = plan_word(reader, 1, "name");
  schedule->count = plan_parse_number(reader, "count", plan_key(reader, "count"));
  if (schedule->count < 1 || schedule->count > INT32_MAX)
    plan_fail(reader, "schedule %s: count=%lld", schedule->name, (long long)schedule->count);
  schedule->values = runtime_allocate((size_t)schedule->count, sizeof *schedule->values);
  read_runs(reader, schedule, plan_word(reader, 3, "runs"));
}

static void read_table(PlanReader *reader) {
  PlanTable *table = APPEND(reader->plan->tables, reader->plan->table_count);
  table->name = plan_word(reader, 1, "name");
  table->size = plan_parse_number(reader, "size", plan_key(reader, "size"));
  table->gradient_bytes = plan_parse_number(reader, "gradients", plan_key(reader, "gradients"));
  if (table->size < 0 || table->gradient_bytes < 0)
    plan_fail(reader, "table %s: size=%lld gradients=%lld", table->name, (long long)table->size,
              (long long)table->gradient_bytes);
}

static void read_segment(PlanReader *reader, PlanTable *table) {
  int64_t index = plan_parse_number(reader, "segment", plan_word(reader, 1, "number"));
  if (index != table->segment_count)
    plan_fail(reader, "segment %lld stands where %d was expected", (long long)index, table->segment_count);
  PlanSegment *segment = APPEND(table->segments, table->segment_count);
  segment->offset = plan_parse_number(reader, "offset", plan_key(reader, "offset"));
  segment->size = plan_parse_number(reader, "size", plan_key(reader, "size"));
  segment->decay = plan_parse_double(reader, "decay", plan_key(reader, "decay"));
  segment->birth = (int)plan_parse_number(reader, "birth", plan_key(reader, "birth"));
  if (segment->offset < 0 || segment->size < 0 || segment->offset > table->size - segment->size)
    plan_fail(reader, "segment %lld lies outside its table of %lld elements", (long long)index, (long long)table->size);
}

static void read_param(PlanReader *reader, PlanTable *table) {
  PlanParam *param = APPEND(table->params, table->param_count);
  param->name = plan_word(reader, 1, "name");
  param->offset = plan_parse_number(reader, "offset", plan_key(reader, "offset"));
  param->shape = parse_shape(reader, plan_key(reader, "shape"));
  param->segment = (int)plan_parse_number(reader, "segment", plan_key(reader, "segment"));
  char *init = plan_find_key(reader, "init");
  param->init = init ? init : "";
  if (param->offset < 0 || param->offset > table->size - param->shape.elements || param->segment < -1)
    plan_fail(reader, "parameter %s lies outside its table of %lld elements", param->name, (long long)table->size);
}

static void read_phase(PlanReader *reader, References *references) {
  PlanPhase *phase = APPEND(reader->plan->phases, reader->plan->phase_count);
  phase->name = plan_word(reader, 1, "name");
  phase->steps = plan_parse_number(reader, "steps", plan_key(reader, "steps"));
  phase->line = plan_key(reader, "line");
  char *crossover = plan_find_key(reader, "crossover");
  if (crossover)
    phase->crossover = plan_parse_double(reader, "crossover", crossover);
  *APPEND(references->phases, references->phase_count) =
      (Reference){.line = reader->line, .table = plan_key(reader, "table"), .func = plan_key(reader, "enter")};
}

static void read_argument(PlanReader *reader, PlanFunc *func) {
  PlanArgument *argument = APPEND(func->arguments, func->argument_count);
  argument->name = plan_word(reader, 1, "name");
  argument->type = plan_parse_type(reader, plan_word(reader, 2, "type"));
  argument->shape = parse_shape(reader, plan_key(reader, "shape"));
  argument->at = plan_parse_place(reader, "at", plan_key(reader, "at"));
}

/* Live entries of dim 0: all of them unless the line says otherwise; a scalar has one. */
static PlanCount live_count(const PlanReader *reader, const PlanShape *shape) {
  char *text = plan_find_key(reader, "live");
  if (text)
    return plan_parse_count(reader, "live", text);
  return (PlanCount){.number = shape->rank ? shape->dim[0] : 1};
}

static void read_result(PlanReader *reader, PlanFunc *func) {
  PlanResult *result = APPEND(func->results, func->result_count);
  result->label = plan_word(reader, 1, "label");
  int next = 2;
  if (plan_word(reader, next, "type")[0] == '@')
    result->parameter = reader->words[next++] + 1;
  result->type = plan_parse_type(reader, plan_word(reader, next, "type"));
  result->shape = parse_shape(reader, plan_key(reader, "shape"));
  result->at = plan_parse_place(reader, "at", plan_key(reader, "at"));
  result->live = live_count(reader, &result->shape);
  func->spaces |= 1u << result->at.space;
}

static void read_value(PlanReader *reader, PlanFunc *func) {
  PlanValue *value = APPEND(func->values, func->value_count);
  value->name = plan_word(reader, 1, "name");
  value->type = plan_parse_type(reader, plan_word(reader, 2, "type"));
  value->shape = parse_shape(reader, plan_key(reader, "shape"));
  value->ld = plan_parse_number(reader, "ld", plan_key(reader, "ld"));
  value->at = plan_parse_place(reader, "at", plan_key(reader, "at"));
  value->live = live_count(reader, &value->shape);
}

static void read_work(PlanReader *reader, PlanFunc *func) {
  func->flops = plan_parse_double(reader, "flops", plan_key(reader, "flops"));
  func->flops_per_pair = plan_parse_double(reader, "pair", plan_key(reader, "pair"));
}

/* The steps of a choice stand together, choices count from 1. */
static bool read_step(PlanReader *reader, PlanFunc *func) {
  PlanStep step;
  if (!plan_read_step(reader, &step, &func->spaces))
    return false;
  int most = 0;
  for (int i = 0; i < func->step_count; i++)
    most = func->steps[i].choice > most ? func->steps[i].choice : most;
  bool goes_on = func->step_count > 0 && func->steps[func->step_count - 1].choice == step.choice;
  if (step.choice && !goes_on && step.choice != most + 1)
    plan_fail(reader, "choice=%d: expected %d, or more of the step before", step.choice, most + 1);
  *APPEND(func->steps, func->step_count) = step;
  return true;
}

static void read_func(PlanReader *reader, References *references) {
  PlanFunc *func = APPEND(reader->plan->funcs, reader->plan->func_count);
  func->name = plan_word(reader, 1, "name");
  func->act = plan_parse_number(reader, "act", plan_key(reader, "act"));
  if (func->act < 0 || func->act > reader->plan->act)
    plan_fail(reader, "%s needs act=%lld of an arena of %lld", func->name, (long long)func->act,
              (long long)reader->plan->act);
  *APPEND(references->funcs, references->func_count) =
      (Reference){.line = reader->line, .table = plan_key(reader, "table")};
  for (;;) {
    if (!next_line(reader))
      plan_fail(reader, "%s has no 'end': the plan is cut off", func->name);
    const char *keyword = reader->words[0];
    if (!strcmp(keyword, "end"))
      return;
    if (!strcmp(keyword, "work"))
      read_work(reader, func);
    else if (!strcmp(keyword, "arg"))
      read_argument(reader, func);
    else if (!strcmp(keyword, "result"))
      read_result(reader, func);
    else if (!strcmp(keyword, "value"))
      read_value(reader, func);
    else if (!read_step(reader, func))
      plan_fail(reader, "'%s' is not part of a function", keyword);
  }
}

static void read_symbols(PlanReader *reader) {
  for (int i = 1; i < reader->word_count; i++) {
    char *equals = strchr(reader->words[i], '=');
    if (!equals)
      plan_fail(reader, "'%s': expected name=value", reader->words[i]);
    *equals = 0;
    *APPEND(reader->plan->symbols, reader->plan->symbol_count) =
        (PlanSymbol){.name = reader->words[i], .value = plan_parse_number(reader, reader->words[i], equals + 1)};
  }
}

static void read_run(PlanReader *reader) {
  PlanRun *run = &reader->plan->run;
  run->steps = plan_parse_number(reader, "steps", plan_key(reader, "steps"));
  run->batch = plan_parse_number(reader, "batch", plan_key(reader, "batch"));
  run->accumulate = plan_parse_number(reader, "accumulate", plan_key(reader, "accumulate"));
  run->sequence = plan_parse_number(reader, "sequence", plan_key(reader, "sequence"));
  run->vocabulary = plan_parse_number(reader, "vocabulary", plan_key(reader, "vocabulary"));
  run->tokens = plan_parse_number(reader, "tokens", plan_key(reader, "tokens"));
  run->segments = plan_parse_number(reader, "segments", plan_key(reader, "segments"));
}

static void read_header(PlanReader *reader) {
  if (!next_line(reader) || strcmp(reader->words[0], "moec-plan"))
    plan_fail(reader, "the text is not a plan (no 'moec-plan' at its head)");
  const char *version = plan_word(reader, 1, "version");
  if (strcmp(version, "1"))
    plan_fail(reader, "the plan has version %s, this runtime reads version 1", version);
  reader->plan->target = plan_key(reader, "target");
  reader->plan->module = plan_key(reader, "module");
  reader->plan->task = plan_key(reader, "task");
}

static void read_file(PlanReader *reader, References *references) {
  Plan *plan = reader->plan;
  while (next_line(reader)) {
    const char *keyword = reader->words[0];
    PlanTable *table = plan->table_count ? &plan->tables[plan->table_count - 1] : NULL;
    if (!strcmp(keyword, "arena"))
      plan->act = plan_parse_number(reader, "act", plan_key(reader, "act"));
    else if (!strcmp(keyword, "symbol"))
      read_symbols(reader);
    else if (!strcmp(keyword, "run"))
      read_run(reader);
    else if (!strcmp(keyword, "schedule"))
      read_schedule(reader);
    else if (!strcmp(keyword, "table"))
      read_table(reader);
    else if (!strcmp(keyword, "segment") && table)
      read_segment(reader, table);
    else if (!strcmp(keyword, "param") && table)
      read_param(reader, table);
    else if (!strcmp(keyword, "phase"))
      read_phase(reader, references);
    else if (!strcmp(keyword, "func"))
      read_func(reader, references);
    else
      plan_fail(reader, "unknown line '%s'", keyword);
  }
}

static void resolve(PlanReader *reader, const References *references) {
  Plan *plan = reader->plan;
  for (int i = 0; i < plan->phase_count; i++) {
    const Reference *reference = &references->phases[i];
    reader->line = reference->line;
    plan->phases[i].table = plan_table(plan, reference->table);
    if (!plan->phases[i].table)
      plan_fail(reader, "phase %s: there is no table '%s'", plan->phases[i].name, reference->table);
    if (!strcmp(reference->func, "-"))
      continue;
    plan->phases[i].enter = plan_func(plan, reference->func);
    if (!plan->phases[i].enter)
      plan_fail(reader, "phase %s: there is no function '%s'", plan->phases[i].name, reference->func);
  }
  for (int i = 0; i < plan->func_count; i++) {
    const char *name = references->funcs[i].table;
    reader->line = references->funcs[i].line;
    if (!strcmp(name, "-"))
      continue;
    plan->funcs[i].table = plan_table(plan, name);
    if (!plan->funcs[i].table)
      plan_fail(reader, "func %s: there is no table '%s'", plan->funcs[i].name, name);
  }
}

Plan *plan_read(const char *name, const char *text, size_t size) {
  Plan *plan = runtime_allocate(1, sizeof *plan);
  char *copy = runtime_allocate(size + 1, 1);
  memcpy(copy, text, size);
  PlanReader reader = {.name = name, .next = copy, .plan = plan};
  References references = {0};
  if (strlen(copy) != size)
    plan_fail(&reader, "the plan holds a zero byte");
  read_header(&reader);
  read_file(&reader, &references);
  resolve(&reader, &references);
  free(references.phases);
  free(references.funcs);
  free(reader.words);
  return plan;
}

/* ---------------------------------------------------------------- look-ups */

size_t plan_type_size(PlanType type) {
  return type == PLAN_BF16 ? 2 : 4;
}

const char *plan_type_name(PlanType type) {
  static const char *const names[] = {"f32", "bf16", "i32"};
  return names[type];
}

#define FIND(array, count, wanted)                                                                                     \
  for (int i = 0; i < (count); i++)                                                                                    \
    if (!strcmp((array)[i].name, (wanted)))                                                                            \
      return &(array)[i];                                                                                              \
  return NULL

const PlanFunc *plan_func(const Plan *plan, const char *name) {
  FIND(plan->funcs, plan->func_count, name);
}

const PlanTable *plan_table(const Plan *plan, const char *name) {
  FIND(plan->tables, plan->table_count, name);
}

const PlanPhase *plan_phase(const Plan *plan, const char *name) {
  FIND(plan->phases, plan->phase_count, name);
}

const PlanSchedule *plan_schedule(const Plan *plan, const char *name) {
  FIND(plan->schedules, plan->schedule_count, name);
}

const PlanParam *plan_param(const PlanTable *table, const char *name) {
  FIND(table->params, table->param_count, name);
}

const PlanArgument *plan_argument(const PlanFunc *func, const char *name) {
  FIND(func->arguments, func->argument_count, name);
}

const PlanResult *plan_result(const PlanFunc *func, const char *label, const char *parameter) {
  for (int i = 0; i < func->result_count; i++) {
    const PlanResult *result = &func->results[i];
    if (strcmp(result->label, label) || !result->parameter != !parameter)
      continue;
    if (!parameter || !strcmp(result->parameter, parameter))
      return result;
  }
  return NULL;
}

const PlanFunc *plan_copies(const Plan *plan, const PlanTable *table) {
  for (int i = 0; i < plan->func_count; i++) {
    const PlanFunc *func = &plan->funcs[i];
    if (func->table == table && !strncmp(func->name, table->name, strlen(table->name)) &&
        !strcmp(func->name + strlen(table->name), ".copies"))
      return func;
  }
  return NULL;
}

float plan_schedule_value(const PlanSchedule *schedule, int64_t step) {
  if (step < 0)
    step = 0;
  return schedule->values[step < schedule->count ? step : schedule->count - 1];
}
