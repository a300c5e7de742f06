/* The decisions of the compiler: what was predicted beside what the run measured, and the ledger itself, folded. */
#include <math.h>
#include <string.h>

#include "frontend/report_plot.h"

static double member(const cJSON *object, const char *name) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static const char *text_of(const cJSON *object, const char *name) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsString(value) ? value->valuestring : "";
}

static void cell(Report *report, const char *text) {
  text_format(&report->page, "<td>");
  html_text(&report->page, text);
  text_format(&report->page, "</td>");
}

/* ---------------------------------------------------------------- predicted and measured */

static const cJSON *forecast_phase(const Run *run, const char *name) {
  const cJSON *phase;
  cJSON_ArrayForEach(phase, cJSON_GetObjectItemCaseSensitive(
                                run->forecast, "phases")) if (strcmp(text_of(phase, "name"), name) == 0) return phase;
  return NULL;
}

/* Sums over the updates of a phase. */
typedef struct PhaseSums {
  uint32_t updates, wide, packed;
  double experts, low, high, tokens;
} PhaseSums;

static PhaseSums sums_of(const Run *run, const RunPhase *phase) {
  PhaseSums s = {.low = INFINITY, .high = -INFINITY};
  for (uint32_t i = 0; i < vec_len(run->updates); i++) {
    const Update *u = &run->updates[i];
    if (u->phase != phase->name)
      continue;
    s.updates++;
    s.wide += u->version && strcmp(u->version, "wide") == 0;
    s.packed += u->version && strcmp(u->version, "packed") == 0;
    s.experts += u->experts;
    s.low = fmin(s.low, u->experts);
    s.high = fmax(s.high, u->experts);
    s.tokens += isfinite(u->seconds) ? u->seconds * u->tokens_per_s : 0;
  }
  return s;
}

static const char *crossover_text(Report *report, const RunPhase *phase, const PhaseSums *s) {
  if (!isfinite(phase->crossover))
    return "one version";
  return arena_print(report->arena, "wide above %.2f experts per token, by %s; ran %u wide, %u packed",
                     phase->crossover, phase->crossover_by ? phase->crossover_by : "an unknown source", s->wide,
                     s->packed);
}

static const char *memory_text(Report *report, const RunPhase *phase, const cJSON *forecast) {
  const cJSON *memory = cJSON_GetObjectItemCaseSensitive(forecast, "memory");
  double predicted = fmax(member(memory, "total"), member(memory, "entry"));
  const char *measured = isfinite(phase->memory) ? html_bytes(report->arena, phase->memory) : "not recorded";
  if (!isfinite(predicted))
    return arena_print(report->arena, "%s; no forecast", measured);
  if (!isfinite(phase->memory))
    return arena_print(report->arena, "forecast %s; %s", html_bytes(report->arena, predicted), measured);
  return arena_print(report->arena, "forecast %s, measured %s (%+.1f %%)", html_bytes(report->arena, predicted),
                     measured, 100 * (phase->memory / predicted - 1));
}

static const char *work_text(Report *report, const Run *run, uint32_t index, const PhaseSums *s,
                             const cJSON *forecast) {
  const cJSON *work = cJSON_GetObjectItemCaseSensitive(forecast, "work");
  double end = index + 1 < vec_len(run->phases) ? run->phases[index + 1].flops_before : vec_last(run->updates).flops;
  double ran = (end - run->phases[index].flops_before) / s->tokens / 1e6;
  if (!work)
    return arena_print(report->arena, "ran %.4g MFLOPs per token; no forecast", ran);
  double one = member(work, "train_flops_per_token") / 1e6,
         bound = member(work, "train_flops_per_token_at_bound") / 1e6;
  if (one == bound)
    return arena_print(report->arena, "forecast %.4g MFLOPs per token, ran %.4g", one, ran);
  return arena_print(report->arena, "forecast %.4g MFLOPs per token at one expert, %.4g at the bound; ran %.4g", one,
                     bound, ran);
}

static void predicted_table(Report *report) {
  text_format(&report->page,
              "<h3>Predicted and measured</h3>\n<div class=\"scroll\"><table id=\"table-predicted\"><tr><th>Run</th>"
              "<th>Phase</th><th>Version</th><th>Experts per token</th><th>Memory</th>"
              "<th>Training work, the update included</th></tr>\n");
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    const Run *run = &report->runs[i];
    for (uint32_t p = 0; p < vec_len(run->phases); p++) {
      const RunPhase *phase = &run->phases[p];
      const cJSON *forecast = forecast_phase(run, phase->name);
      PhaseSums s = sums_of(run, phase);
      text_format(&report->page, "<tr>");
      cell(report, run->name);
      cell(report, phase->name);
      cell(report, crossover_text(report, phase, &s));
      cell(report, arena_print(report->arena, "%.2f (%.2f to %.2f)", s.experts / s.updates, s.low, s.high));
      cell(report, memory_text(report, phase, forecast));
      cell(report, work_text(report, run, p, &s, forecast));
      text_format(&report->page, "</tr>\n");
    }
  }
  text_format(&report->page, "</table></div>\n");
}

/* ---------------------------------------------------------------- the ledger */

static const char *cost_text(Report *report, const cJSON *cost) {
  double bytes = member(cost, "bytes"), launches = member(cost, "launches"), time = member(cost, "microseconds");
  Text text = {0};
  if (launches >= 0)
    text_format(&text, "%.0f launch%s", launches, launches == 1 ? "" : "es");
  if (bytes >= 0)
    text_format(&text, "%s%.3g MB", text.size ? ", " : "", bytes / 1e6);
  if (time >= 0)
    text_format(&text, "%s%.4g us", text.size ? ", " : "", time);
  char *copy = text.size ? arena_copy(report->arena, text.data, text.size) : arena_print(report->arena, "-");
  text_free(&text);
  return copy;
}

/* Decisions that differ in function and values alone are told once. */
static bool alike(const cJSON *a, const cJSON *b) {
  static const char *const members[] = {"pass", "file", "chosen", "reason"};
  for (size_t i = 0; i < sizeof members / sizeof *members; i++)
    if (strcmp(text_of(a, members[i]), text_of(b, members[i])) != 0)
      return false;
  double x = member(a, "line"), y = member(b, "line");
  return x == y || (isnan(x) && isnan(y));
}

static void alternatives_cell(Report *report, const cJSON *decision) {
  const cJSON *item;
  Text *page = &report->page;
  text_format(page, "<td>");
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(decision, "alternatives")) {
    html_text(page, text_of(item, "what"));
    text_format(page, " (");
    html_text(page, cost_text(report, cJSON_GetObjectItemCaseSensitive(item, "cost")));
    text_format(page, "): ");
    html_text(page, text_of(item, "why_lost"));
    text_format(page, "<br>");
  }
  text_format(page, "</td>");
}

static void decision_row(Report *report, const cJSON *decision, int count) {
  text_format(&report->page, "<tr><td class=\"n\">%d</td>", count);
  double line = member(decision, "line");
  const char *file = text_of(decision, "file"), *slash = strrchr(file, '/');
  cell(report, line > 0 ? arena_print(report->arena, "%s:%.0f", slash ? slash + 1 : file, line)
                        : text_of(decision, "function"));
  cell(report, text_of(decision, "chosen"));
  cell(report, cost_text(report, cJSON_GetObjectItemCaseSensitive(decision, "cost")));
  cell(report, text_of(decision, "reason"));
  alternatives_cell(report, decision);
  text_format(&report->page, "</tr>\n");
}

static void pass_table(Report *report, const cJSON **decisions, const char *pass) {
  uint32_t count = vec_len(decisions), total = 0;
  bool *told = arena_alloc(report->arena, count * sizeof *told);
  for (uint32_t i = 0; i < count; i++)
    total += strcmp(text_of(decisions[i], "pass"), pass) == 0;
  text_format(&report->page, "<details><summary>");
  html_text(&report->page, pass);
  text_format(&report->page,
              ": %u decision%s</summary><div class=\"scroll\"><table><tr><th class=\"n\">Times</th><th>Where</th>"
              "<th>Chosen</th><th>Predicted cost</th><th>Reason</th><th>Instead</th></tr>\n",
              total, total == 1 ? "" : "s");
  for (uint32_t i = 0; i < count; i++) {
    if (told[i] || strcmp(text_of(decisions[i], "pass"), pass) != 0)
      continue;
    int times = 0;
    for (uint32_t k = i; k < count; k++)
      if (!told[k] && alike(decisions[i], decisions[k])) {
        told[k] = true;
        times++;
      }
    decision_row(report, decisions[i], times);
  }
  text_format(&report->page, "</table></div></details>\n");
}

static void run_ledger(Report *report, const Run *run) {
  const char *id = arena_print(report->arena, "ledger-%d", run->index + 1);
  const char *title = arena_print(report->arena, "Decisions for %s", run->name);
  const cJSON **decisions = NULL, *item;
  const char **passes = NULL;
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(run->ledger, "decisions")) {
    vec_push(report->arena, decisions, item);
    const char *pass = arena_intern(report->arena, text_of(item, "pass"));
    bool known = false;
    for (uint32_t i = 0; i < vec_len(passes); i++)
      known = known || passes[i] == pass;
    if (!known)
      vec_push(report->arena, passes, pass);
  }
  if (!decisions) {
    html_missing(report, id, title,
                 "no trainer of this model was found, and the ledger is in the trainer (--trainer=FILE).");
    return;
  }
  text_format(&report->page, "<div id=\"%s\"><h3>", id);
  html_text(&report->page, title);
  text_format(&report->page, "</h3>\n");
  for (uint32_t i = 0; i < vec_len(passes); i++)
    pass_table(report, decisions, passes[i]);
  text_format(&report->page, "</div>\n");
}

void report_ledger(Report *report) {
  html_section(report, "ledger", "Decisions");
  predicted_table(report);
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    run_ledger(report, &report->runs[i]);
  html_end_section(report);
}
