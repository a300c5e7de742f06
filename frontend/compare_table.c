/* The table of a comparison: one row per setting, means and spreads over the seeds that are finished.
 *
 * FLOPs to the baseline's best: for each seed, the FLOPs of the first evaluation on valid whose perplexity is at most
 * the best one of the baseline's run of the same seed; the mean over seeds, only where every seed came there. The
 * speedup is the baseline's mean over the row's. The spread is the standard deviation of a sample (division by n - 1).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/compare.h"
#include "ir/ir.h"
#include "runtime/files.h"
#include "runtime/json.h"

typedef struct Statistic {
  double mean, spread; /* NAN: not known */
} Statistic;

typedef struct Row {
  const Setting *setting;
  int seeds, done, reached;
  Statistic valid, test, steps, flops, target; /* target: FLOPs to the baseline's best */
  double speedup;
} Row;

static Statistic statistic_of(const double *values) {
  uint32_t count = vec_len(values);
  Statistic s = {.mean = NAN, .spread = NAN};
  if (count == 0)
    return s;
  double sum = 0, squares = 0;
  for (uint32_t i = 0; i < count; i++)
    sum += values[i];
  s.mean = sum / count;
  for (uint32_t i = 0; i < count; i++)
    squares += (values[i] - s.mean) * (values[i] - s.mean);
  if (count > 1)
    s.spread = sqrt(squares / (count - 1));
  return s;
}

/* The FLOPs at which a run first was as good as `ppl`; NAN: never. */
static double flops_to(const Outcome *o, double ppl) {
  for (uint32_t i = 0; i < vec_len(o->curve); i++)
    if (o->curve[i].ppl <= ppl)
      return o->curve[i].flops;
  return NAN;
}

/* The baseline's first setting is what all are measured by. */
static const Setting *baseline_of(const Compare *c) {
  for (uint32_t i = 0; i < vec_len(c->settings); i++)
    if (strcmp(c->settings[i].run->name, c->spec.baseline) == 0)
      return &c->settings[i];
  ir_bug("the baseline has no setting");
}

static const Outcome *outcome_of(const Compare *c, const Outcome *outcomes, const Setting *setting, int64_t seed) {
  for (uint32_t i = 0; i < vec_len(c->jobs); i++)
    if (c->jobs[i].setting == setting && c->jobs[i].seed == seed)
      return &outcomes[i];
  return NULL; /* a setting whose search failed has no jobs */
}

static Row row_of(Compare *c, const Outcome *outcomes, const Setting *setting) {
  Arena *arena = c->arena;
  Row row = {.setting = setting, .seeds = (int)vec_len(c->spec.seeds)};
  double *valid = NULL, *test = NULL, *steps = NULL, *flops = NULL, *target = NULL;
  for (uint32_t i = 0; i < vec_len(c->spec.seeds); i++) {
    const Outcome *o = outcome_of(c, outcomes, setting, c->spec.seeds[i]),
                  *baseline = outcome_of(c, outcomes, baseline_of(c), c->spec.seeds[i]);
    if (!o || !o->done)
      continue;
    row.done++;
    vec_push(arena, valid, o->valid);
    vec_push(arena, test, o->test);
    vec_push(arena, steps, o->steps);
    vec_push(arena, flops, o->flops);
    double reached = baseline && baseline->done ? flops_to(o, baseline->best) : NAN;
    if (isnan(reached))
      continue;
    row.reached++;
    vec_push(arena, target, reached);
  }
  row.valid = statistic_of(valid);
  row.test = statistic_of(test);
  row.steps = statistic_of(steps);
  row.flops = statistic_of(flops);
  row.target = row.done && row.reached == row.done ? statistic_of(target) : (Statistic){NAN, NAN};
  return row;
}

/* ---------------------------------------------------------------- markdown */

static const char *number_text(Arena *arena, const char *format, double value) {
  char text[64];
  if (isnan(value))
    return "-";
  snprintf(text, sizeof text, format, value);
  return arena_print(arena, "%s", text);
}

static const char *statistic_text(Arena *arena, Statistic s) {
  if (isnan(s.mean))
    return "-";
  return isnan(s.spread) ? arena_print(arena, "%.3f", s.mean) : arena_print(arena, "%.3f ± %.3f", s.mean, s.spread);
}

static const char *target_text(Arena *arena, const Row *row) {
  if (!isnan(row->target.mean))
    return arena_print(arena, "%.4g", row->target.mean);
  return row->done ? arena_print(arena, "reached by %d of %d", row->reached, row->done) : "-";
}

enum { COLUMNS = 13 };

static void row_cells(Compare *c, const Row *row, const char **cells) {
  Arena *arena = c->arena;
  const Setting *s = row->setting;
  const char *values[COLUMNS] = {
      s->run->name,
      s->label,
      s->searched ? (s->chosen ? s->chosen : "search failed") : "-",
      arena_print(arena, "%d of %d", row->done, row->seeds),
      statistic_text(arena, row->valid),
      statistic_text(arena, row->test),
      number_text(arena, "%.0f", row->steps.mean),
      number_text(arena, "%.4g", row->flops.mean),
      target_text(arena, row),
      number_text(arena, "%.2f", row->speedup),
      number_text(arena, "%.0f", s->parameters),
      number_text(arena, "%.0f", s->active),
      number_text(arena, "%.4g", s->inference),
  };
  memcpy(cells, values, sizeof values);
}

/* Columns of a terminal: "±" is two bytes and one column. */
static int text_width(const char *text) {
  int width = 0;
  for (; *text; text++)
    width += ((unsigned char)*text & 0xc0) != 0x80;
  return width;
}

static const char *markdown(Compare *c, const Row *rows) {
  const char *search = c->spec.search.key ? c->spec.search.key : "search";
  const char *head[COLUMNS] = {"run",
                               "setting",
                               search,
                               "seeds",
                               "valid ppl",
                               "test ppl",
                               "steps",
                               "FLOPs",
                               "FLOPs to baseline's best",
                               "speedup",
                               "parameters",
                               "active",
                               "inference FLOPs/token"};
  uint32_t count = vec_len(rows) + 1;
  const char *(*cells)[COLUMNS] = arena_alloc(c->arena, count * sizeof *cells);
  int width[COLUMNS] = {0};
  memcpy(cells[0], head, sizeof head);
  for (uint32_t i = 1; i < count; i++)
    row_cells(c, &rows[i - 1], cells[i]);
  for (uint32_t i = 0; i < count; i++)
    for (int k = 0; k < COLUMNS; k++)
      width[k] = text_width(cells[i][k]) > width[k] ? text_width(cells[i][k]) : width[k];
  Text text = {0};
  for (uint32_t i = 0; i < count; i++) {
    for (int k = 0; k < COLUMNS; k++)
      text_format(&text, "| %s%*s ", cells[i][k], width[k] - text_width(cells[i][k]), "");
    text_format(&text, "|\n");
    for (int k = 0; i == 0 && k < COLUMNS; k++)
      text_format(&text, "|%.*s", width[k] + 2, "----------------------------------------------------------------");
    text_format(&text, i == 0 ? "|\n" : "");
  }
  return text.data;
}

/* ---------------------------------------------------------------- JSON */

static void add_number(Text *text, const char *key, double value) {
  text_format(text, ",\"%s\":", key);
  text_json_double(text, value);
}

static void add_statistic(Text *text, const char *key, Statistic s) {
  text_format(text, ",\"%s\":{\"mean\":", key);
  text_json_double(text, s.mean);
  add_number(text, "spread", s.spread);
  text_format(text, "}");
}

static void add_row(Text *text, const Row *row) {
  const Setting *s = row->setting;
  text_format(text, "{\"run\":");
  text_json_string(text, s->run->name);
  text_format(text, ",\"setting\":");
  text_json_string(text, s->label);
  text_format(text, ",\"chosen\":");
  if (s->chosen)
    text_json_string(text, s->chosen);
  else
    text_format(text, "null");
  text_format(text, ",\"seeds\":%d,\"done\":%d,\"reached\":%d", row->seeds, row->done, row->reached);
  add_statistic(text, "valid", row->valid);
  add_statistic(text, "test", row->test);
  add_statistic(text, "steps", row->steps);
  add_statistic(text, "flops", row->flops);
  add_statistic(text, "flops_to_baseline", row->target);
  add_number(text, "speedup", row->speedup);
  add_number(text, "parameters", s->parameters);
  add_number(text, "active_parameters", s->active);
  add_number(text, "inference_flops_per_token", s->inference);
  text_format(text, "}");
}

static Text json_text(const Compare *c, const Row *rows) {
  Text text = {0};
  text_format(&text, "{\"format\":1,\"baseline\":");
  text_json_string(&text, c->spec.baseline);
  text_format(&text, ",\"search\":");
  if (c->spec.search.key)
    text_json_string(&text, c->spec.search.key);
  else
    text_format(&text, "null");
  text_format(&text, ",\"rows\":[\n");
  for (uint32_t i = 0; i < vec_len(rows); i++) {
    add_row(&text, &rows[i]);
    text_format(&text, i + 1 < vec_len(rows) ? ",\n" : "\n");
  }
  text_format(&text, "]}\n");
  return text;
}

void compare_table(Compare *c) {
  Outcome *outcomes = NULL;
  for (uint32_t i = 0; i < vec_len(c->jobs); i++)
    vec_push(c->arena, outcomes, compare_outcome(c->arena, &c->jobs[i]));
  Row *rows = NULL;
  double baseline = row_of(c, outcomes, baseline_of(c)).target.mean;
  for (uint32_t i = 0; i < vec_len(c->settings); i++) {
    vec_push(c->arena, rows, row_of(c, outcomes, &c->settings[i]));
    vec_last(rows).speedup = baseline / vec_last(rows).target.mean;
  }
  const char *table = markdown(c, rows);
  Text json = json_text(c, rows);
  file_replace(arena_print(c->arena, "%s/table.md", c->out), table, strlen(table));
  file_replace(arena_print(c->arena, "%s/table.json", c->out), json.data, json.size);
  text_free(&json);
  printf("%s", table);
}
