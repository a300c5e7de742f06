/* Memory by kind (forecast beside what the run held) and time by phase and version. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/report_plot.h"

static const char *const kinds[] = {"parameters", "gradients", "moments", "accumulators", "activations"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const char *figure_title(Report *report, const char *what, const Run *run) {
  return vec_len(report->runs) > 1 ? arena_print(report->arena, "%s: %s", what, run->name) : what;
}

static double member(const cJSON *object, const char *name) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* ---------------------------------------------------------------- memory */

static const char *phase_name(const cJSON *phase) {
  const cJSON *name = cJSON_GetObjectItemCaseSensitive(phase, "name");
  return cJSON_IsString(name) ? name->valuestring : "?";
}

/* The bars of a phase: forecast, what the run held, a gap. */
enum { BARS = 3 };

/* The kinds and what is beyond them at most, in MiB; `memory` NULL: nothing. */
static void memory_row(Text *text, const cJSON *memory, double most) {
  double sum = 0;
  for (int k = 0; k < KINDS; k++) {
    double bytes = member(memory, kinds[k]);
    bytes = isfinite(bytes) ? bytes : 0;
    sum += bytes;
    text_format(text, "%.6g ", bytes / (1 << 20));
  }
  text_format(text, "%.6g\n", fmax(0, isfinite(most) ? most - sum : 0) / (1 << 20));
}

/* A row for every bar of every phase. -1: nothing to show. */
static int memory_block(Plot *plot, const Run *run) {
  const cJSON *phases = cJSON_GetObjectItemCaseSensitive(run->forecast, "phases"), *phase;
  const cJSON *list = phases ? phases : run->memory;
  Text text = {0};
  int rows = 0;
  cJSON_ArrayForEach(phase, list) {
    const char *name = phases ? phase_name(phase) : phase->string;
    const cJSON *forecast = phases ? cJSON_GetObjectItemCaseSensitive(phase, "memory") : NULL;
    const cJSON *held = cJSON_GetObjectItemCaseSensitive(run->memory, name);
    text_format(&plot->script, "%s%s %g", rows ? ", " : "set xtics noenhanced scale 0 (",
                plot_quote(plot->report, name), rows + 0.5);
    memory_row(&text, forecast, fmax(member(forecast, "entry"), member(forecast, "total")));
    memory_row(&text, held, member(held, "arena_peak"));
    memory_row(&text, NULL, 0);
    rows += BARS;
  }
  int block = rows ? plot_block(plot, text.data) : -1;
  if (rows)
    text_format(&plot->script, ")\nset xrange [-1:%d]\n", rows - 1);
  text_free(&text);
  return block;
}

static const char *memory_summary(Report *report, const Run *run) {
  const RunPhase *most = NULL;
  for (uint32_t i = 0; i < vec_len(run->phases); i++)
    if (isfinite(run->phases[i].memory) && (!most || run->phases[i].memory > most->memory))
      most = &run->phases[i];
  const char *forecast = run->forecast ? arena_print(report->arena, "Forecast peak %s; ",
                                                     html_bytes(report->arena, member(run->forecast, "peak_bytes")))
                                       : "No trainer of this model was found, and its forecast is in the trainer "
                                         "(--trainer=FILE); ";
  if (!most)
    return arena_print(report->arena, "%sthe run recorded none yet.", forecast);
  return arena_print(report->arena, "%sthe run held %s at most, in phase %s.", forecast,
                     html_bytes(report->arena, most->memory), most->name);
}

static void memory_figure(Report *report, const Run *run) {
  const char *id = arena_print(report->arena, "figure-memory-%d", run->index + 1);
  const char *title = figure_title(report, "Memory by kind", run);
  Plot plot = plot_begin(report, id);
  int block = memory_block(&plot, run);
  if (block < 0) {
    html_missing(report, id, title,
                 "the run has no memory.json, which comes with its first checkpoint, and no trainer of this model was "
                 "found, whose forecast would stand here (--trainer=FILE).");
    return;
  }
  text_format(&plot.script,
              "set style data histograms\nset style histogram rowstacked\nset style fill solid 0.9 noborder\n"
              "set boxwidth 0.85\nset ylabel 'memory (MiB)'\nset yrange [0:*]\n"
              "set key outside right top invert\nplot ");
  for (int k = 0; k < KINDS; k++)
    text_format(&plot.script, "$d%d using %d title '%s' lc rgb '%s', ", block, k + 1, kinds[k], plot_color(k));
  text_format(&plot.script, "$d%d using %d title 'transition, other' lc rgb '#9096a0'\n", block, KINDS + 1);
  plot_end(
      &plot, 340, title, memory_summary(report, run),
      "A phase's left bar is the forecast, its right bar what the run's arenas held; grey is what there was beyond "
      "the kinds at the same time at most: the arenas of the phase before during the transition, on a GPU also "
      "what its libraries work in. The activation arena is shared by all phases.");
}

/* ---------------------------------------------------------------- time */

static int compare_numbers(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Milliseconds of the phase's updates, ascending; `version` NULL: of all. */
static double *milliseconds(Report *report, const Run *run, const char *phase, const char *version) {
  double *times = NULL;
  for (uint32_t i = 0; i < vec_len(run->updates); i++) {
    const Update *u = &run->updates[i];
    if (u->phase == phase && (!version || u->version == version) && isfinite(u->seconds))
      vec_push(report->arena, times, 1e3 * u->seconds);
  }
  if (times)
    qsort(times, vec_len(times), sizeof *times, compare_numbers);
  return times;
}

static double quantile(const double *sorted, double share) {
  return vec_len(sorted) ? sorted[(uint32_t)(share * (vec_len(sorted) - 1) + 0.5)] : NAN;
}

/* Names of the phases of all runs, in the order of first use. */
static const char **all_phases(Report *report) {
  const char **names = NULL;
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (uint32_t p = 0; p < vec_len(report->runs[i].phases); p++) {
      bool known = false;
      for (uint32_t k = 0; k < vec_len(names); k++)
        known = known || names[k] == report->runs[i].phases[p].name;
      if (!known)
        vec_push(report->arena, names, report->runs[i].phases[p].name);
    }
  return names;
}

static void rate_panel(Plot *plot) {
  Report *report = plot->report;
  const char *separator = "plot ";
  text_format(&plot->script, "set xlabel 'update'\nset ylabel 'speed (tokens/s)'\nset format y '%%.1s%%c'\n"
                             "set yrange [0:*]\n");
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    const Run *run = &report->runs[i];
    double *x = NULL, *y = NULL;
    for (uint32_t k = 0; k < vec_len(run->updates); k++) {
      vec_push(report->arena, x, run->updates[k].step);
      vec_push(report->arena, y, run->updates[k].tokens_per_s);
    }
    int block = plot_series(plot, x, y, vec_len(x));
    if (block < 0)
      continue;
    text_format(&plot->script, "%s$d%d using 1:2 with lines lw 1.1 lc rgb '%s' notitle", separator, block,
                plot_color((int)i));
    separator = ", ";
  }
  text_format(&plot->script, "\n");
}

static void phase_panel(Plot *plot, const char **phases) {
  Report *report = plot->report;
  uint32_t runs = vec_len(report->runs);
  const char *separator = "plot ";
  text_format(&plot->script,
              "unset arrow\nunset label\nset format y '%%g'\nset xlabel 'phase'\n"
              "set ylabel 'time of an update (ms)'\nset xrange [-0.5:%u.5]\nset xtics noenhanced (",
              vec_len(phases) - 1);
  for (uint32_t p = 0; p < vec_len(phases); p++)
    text_format(&plot->script, "%s%s %u", p ? ", " : "", plot_quote(report, phases[p]), p);
  text_format(&plot->script, ")\nset boxwidth %.3g\nset style fill solid 0.85 noborder\n", 0.7 / runs);
  for (uint32_t i = 0; i < runs; i++) {
    Text text = {0};
    for (uint32_t p = 0; p < vec_len(phases); p++) {
      double *times = milliseconds(report, &report->runs[i], phases[p], NULL);
      if (times)
        text_format(&text, "%.6g %.6g %.6g %.6g\n", p + 0.7 * ((i + 0.5) / runs - 0.5), quantile(times, 0.5),
                    quantile(times, 0.25), quantile(times, 0.75));
    }
    if (text.size) {
      int block = plot_block(plot, text.data);
      text_format(&plot->script, "%s$d%d using 1:2 with boxes lc rgb '%s' ", separator, block, plot_color((int)i));
      text_format(&plot->script, plot_has_key(report) ? "title %s" : "notitle",
                  plot_quote(report, report->runs[i].name));
      text_format(&plot->script, ", $d%d using 1:3:(0):($4-$3) with vectors nohead lw 1.4 lc rgb 'black' notitle",
                  block);
      separator = ", ";
    }
    text_free(&text);
  }
  text_format(&plot->script, "\n");
}

static bool any_time(Report *report, const char **phases) {
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (uint32_t p = 0; p < vec_len(phases); p++)
      if (milliseconds(report, &report->runs[i], phases[p], NULL))
        return true;
  return false;
}

static void time_figure(Report *report) {
  const char *title = "Time of an update", **phases = all_phases(report);
  if (!any_time(report, phases)) {
    html_missing(report, "figure-time", title, "metrics.jsonl has no \"tokens_per_s\".");
    return;
  }
  Plot plot = plot_begin(report, "figure-time");
  plot_panels(&plot, 1, 2);
  if (vec_len(report->runs) == 1)
    plot_phases(&plot, &report->runs[0], false);
  rate_panel(&plot);
  phase_panel(&plot, phases);
  const RunPhase *last = &vec_last(report->runs[0].phases);
  plot_end(&plot, 330, title,
           arena_print(report->arena, "Phase %s of %s: %.4g ms per update (median).", last->name, report->runs[0].name,
                       quantile(milliseconds(report, &report->runs[0], last->name, NULL), 0.5)),
           "Boxes are medians, bars reach from the lower to the upper quartile.");
}

static const char **versions_of(Report *report, const Run *run, const char *phase) {
  const char **versions = NULL;
  for (uint32_t i = 0; i < vec_len(run->updates); i++) {
    bool known = run->updates[i].phase != phase;
    for (uint32_t k = 0; k < vec_len(versions); k++)
      known = known || versions[k] == run->updates[i].version;
    if (!known)
      vec_push(report->arena, versions, run->updates[i].version);
  }
  return versions;
}

static void time_rows(Report *report, const Run *run, const RunPhase *phase) {
  const char **versions = versions_of(report, run, phase->name);
  for (uint32_t v = 0; v < vec_len(versions); v++) {
    double *times = milliseconds(report, run, phase->name, versions[v]);
    if (!times)
      continue;
    text_format(&report->page, "<tr><td>");
    html_text(&report->page, run->name);
    text_format(&report->page, "</td><td>");
    html_text(&report->page, phase->name);
    text_format(&report->page, "</td><td>");
    html_text(&report->page, versions[v] ? versions[v] : "-");
    text_format(&report->page,
                "</td><td class=\"n\">%u</td><td class=\"n\">%.4g ms</td><td class=\"n\">%.4g to %.4g ms</td></tr>\n",
                vec_len(times), quantile(times, 0.5), quantile(times, 0.25), quantile(times, 0.75));
  }
}

void report_cost(Report *report) {
  html_section(report, "cost", "Memory and time");
  html_legend(report);
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    memory_figure(report, &report->runs[i]);
  time_figure(report);
  text_format(&report->page,
              "<div class=\"scroll\"><table id=\"table-time\"><tr><th>Run</th><th>Phase</th><th>Version</th>"
              "<th class=\"n\">Updates</th><th class=\"n\">Median time</th><th class=\"n\">Quartiles</th></tr>\n");
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (uint32_t p = 0; p < vec_len(report->runs[i].phases); p++)
      time_rows(report, &report->runs[i], &report->runs[i].phases[p]);
  text_format(&report->page, "</table></div>\n");
  html_end_section(report);
}
