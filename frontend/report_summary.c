/* The report's first table: one column per run, and the configuration keys in which they differ. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/report_plot.h"

static void begin_row(Report *report, const char *name) {
  text_format(&report->page, "<tr><th>");
  html_text(&report->page, name);
  text_format(&report->page, "</th>");
}

static void cell(Report *report, const char *text) {
  text_format(&report->page, "<td>");
  html_text(&report->page, text);
  text_format(&report->page, "</td>");
}

static const Evaluation *last_evaluation(const Run *run, const char *split) {
  for (uint32_t i = vec_len(run->evaluations); i-- > 0;)
    if (strcmp(run->evaluations[i].split, split) == 0 && isfinite(run->evaluations[i].ppl))
      return &run->evaluations[i];
  return NULL;
}

static const char *describe_phases(Report *report, const Run *run) {
  Text text = {0};
  for (uint32_t i = 0; i < vec_len(run->phases); i++)
    text_format(&text, "%s%s %.0f to %.0f", i ? ", " : "", run->phases[i].name, run->phases[i].first,
                run->phases[i].last);
  char *copy = arena_copy(report->arena, text.data, text.size);
  text_free(&text);
  return copy;
}

typedef const char *Describe(Report *, const Run *);

static const char *describe_model(Report *report, const Run *run) {
  (void)report;
  return run->model;
}

static const char *describe_machine(Report *report, const Run *run) {
  (void)report;
  return run->machine;
}

static const char *describe_parameters(Report *report, const Run *run) {
  if (!isfinite(run->parameters))
    return "no checkpoint to count them in";
  return arena_print(report->arena, "%.0f (%s)", run->parameters, html_number(report->arena, run->parameters));
}

static const char *describe_steps(Report *report, const Run *run) {
  return arena_print(report->arena, "%.0f", vec_last(run->updates).step);
}

static const char *describe_flops(Report *report, const Run *run) {
  return arena_print(report->arena, "%sFLOPs", html_number(report->arena, vec_last(run->updates).flops));
}

static const char *describe_loss(Report *report, const Run *run) {
  return arena_print(report->arena, "%.4f nats per token", vec_last(run->updates).loss);
}

static const char *describe_perplexity(Report *report, const Run *run) {
  const Evaluation *last = last_evaluation(run, "valid");
  return last ? arena_print(report->arena, "%.3f at step %.0f", last->ppl, last->step) : "not evaluated";
}

static const char *describe_experts(Report *report, const Run *run) {
  return arena_print(report->arena, "%.2f", vec_last(run->updates).experts);
}

static const struct {
  const char *name;
  Describe *describe;
} rows[] = {
    {"Model", describe_model},
    {"Machine", describe_machine},
    {"Parameters at the end", describe_parameters},
    {"Updates", describe_steps},
    {"Phases (updates)", describe_phases},
    {"Training work that ran", describe_flops},
    {"Last training loss", describe_loss},
    {"Validation perplexity", describe_perplexity},
    {"Experts per token at the end", describe_experts},
};

/* ---------------------------------------------------------------- configuration */

static const char *value_text(Report *report, const cJSON *value) {
  if (!value)
    return "-";
  char *printed = cJSON_PrintUnformatted(value);
  char *copy = arena_copy(report->arena, printed, strlen(printed));
  free(printed);
  return copy;
}

static const char *value_of(Report *report, const Run *run, const char *key) {
  return value_text(report, cJSON_GetObjectItemCaseSensitive(run->config, key));
}

static bool differs(Report *report, const char *key) {
  for (uint32_t i = 1; i < vec_len(report->runs); i++)
    if (strcmp(value_of(report, &report->runs[0], key), value_of(report, &report->runs[i], key)) != 0)
      return true;
  return false;
}

static const char **all_keys(Report *report) {
  const char **keys = NULL;
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    const cJSON *item;
    cJSON_ArrayForEach(item, report->runs[i].config) {
      const char *key = arena_intern(report->arena, item->string);
      bool known = false;
      for (uint32_t k = 0; k < vec_len(keys); k++)
        known = known || keys[k] == key;
      if (!known)
        vec_push(report->arena, keys, key);
    }
  }
  return keys;
}

static void key_row(Report *report, const char *key) {
  begin_row(report, key);
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    cell(report, value_of(report, &report->runs[i], key));
  text_format(&report->page, "</tr>\n");
}

static void common_keys(Report *report, const char **keys) {
  text_format(&report->page, "<details><summary>Configuration%s</summary><div class=\"scroll\"><table>\n",
              vec_len(report->runs) > 1 ? " that all runs share" : "");
  for (uint32_t i = 0; i < vec_len(keys); i++) {
    if (differs(report, keys[i]))
      continue;
    begin_row(report, keys[i]);
    cell(report, value_of(report, &report->runs[0], keys[i]));
    text_format(&report->page, "</tr>\n");
  }
  text_format(&report->page, "</table></div></details>\n");
}

void report_summary(Report *report) {
  html_section(report, "summary", "Summary");
  text_format(&report->page, "<div class=\"scroll\"><table id=\"table-runs\">\n");
  begin_row(report, "Run");
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    text_format(&report->page, "<th><span class=\"swatch\" style=\"background:%s\"></span>", plot_color((int)i));
    html_text(&report->page, report->runs[i].name);
    text_format(&report->page, "</th>");
  }
  text_format(&report->page, "</tr>\n");
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    begin_row(report, rows[k].name);
    for (uint32_t i = 0; i < vec_len(report->runs); i++)
      cell(report, rows[k].describe(report, &report->runs[i]));
    text_format(&report->page, "</tr>\n");
  }
  const char **keys = all_keys(report);
  for (uint32_t i = 0; i < vec_len(keys); i++)
    if (differs(report, keys[i]))
      key_row(report, keys[i]);
  text_format(&report->page, "</table></div>\n");
  common_keys(report, keys);
  html_end_section(report);
}
