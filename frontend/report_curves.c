/* Curves of a report: loss and perplexity against updates and against the FLOPs that really ran (EvoMoE, Figure 6),
 * temperature and experts per token. One colour per run; lines are means of neighbouring updates where there are more
 * than a figure can show. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "frontend/report_plot.h"

enum { CURVE_HEIGHT = 340 };

static double *update_column(Report *report, const Run *run, size_t offset) {
  uint32_t count = vec_len(run->updates);
  double *column = arena_alloc(report->arena, count * sizeof *column);
  for (uint32_t i = 0; i < count; i++)
    memcpy(&column[i], (const char *)&run->updates[i] + offset, sizeof *column);
  return column;
}

/* Where all runs change phase at the same updates, or only one is shown. */
static void phase_lines(Plot *plot, bool flops) {
  const Run *runs = plot->report->runs;
  bool same = !flops || vec_len(runs) == 1;
  for (uint32_t i = 1; i < vec_len(runs) && same; i++) {
    same = vec_len(runs[i].phases) == vec_len(runs[0].phases);
    for (uint32_t k = 0; same && k < vec_len(runs[0].phases); k++)
      same = runs[i].phases[k].name == runs[0].phases[k].name && runs[i].phases[k].first == runs[0].phases[k].first;
  }
  if (same)
    plot_phases(plot, &runs[0], flops);
  else
    text_format(&plot->script, "unset arrow\nunset label\n");
}

/* Between ticks of the work, so that four to ten of them fit a panel. */
static double flops_step(const Report *report) {
  double most = 1;
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    most = fmax(most, vec_last(report->runs[i].updates).flops);
  double power = pow(10, floor(log10(most / 4))), digit = most / 4 / power;
  return power * (digit >= 5 ? 5 : digit >= 2 ? 2 : 1);
}

static void axes(Plot *plot, bool flops, const char *y) {
  text_format(&plot->script, "set xlabel '%s'\nset ylabel '%s' noenhanced\nset format x '%s'\nset xrange [0:*]\n",
              flops ? "training work that ran (FLOPs)" : "update", y, flops ? "%.1s%c" : "%.0f");
  if (flops)
    text_format(&plot->script, "set xtics %.9g font ',11'\n", flops_step(plot->report));
  phase_lines(plot, flops);
}

/* One line per run that has numbers for it. */
static void lines(Plot *plot, size_t x, size_t y, bool legend, const char *with) {
  Report *report = plot->report;
  bool any = false;
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    const Run *run = &report->runs[i];
    int block = plot_series(plot, update_column(report, run, x), update_column(report, run, y), vec_len(run->updates));
    if (block < 0)
      continue;
    text_format(&plot->script, "%s$d%d using 1:2 with %s lw 1.4 lc rgb '%s' %s", any ? ", " : "plot ", block, with,
                plot_color((int)i), legend && plot_has_key(report) ? "title " : "notitle");
    if (legend && plot_has_key(report))
      text_format(&plot->script, "%s", plot_quote(report, run->name));
    any = true;
  }
  text_format(&plot->script, "\n");
}

static const char *each_run(Report *report, const char *what, double (*value)(const Run *)) {
  Text text = {0};
  text_format(&text, "%s: ", what);
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    double number = value(&report->runs[i]);
    text_format(&text, i ? ", " : "");
    if (vec_len(report->runs) > 1)
      text_format(&text, "%s ", report->runs[i].name);
    if (isfinite(number))
      text_format(&text, "%.4g", number);
    else
      text_format(&text, "unknown");
  }
  text_format(&text, ".");
  char *copy = arena_copy(report->arena, text.data, text.size);
  text_free(&text);
  return copy;
}

/* ---------------------------------------------------------------- loss */

static double last_loss(const Run *run) {
  return vec_last(run->updates).loss;
}

static bool any_number(const Report *report, size_t offset) {
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (uint32_t k = 0; k < vec_len(report->runs[i].updates); k++) {
      double number;
      memcpy(&number, (const char *)&report->runs[i].updates[k] + offset, sizeof number);
      if (isfinite(number))
        return true;
    }
  return false;
}

static void loss_figure(Report *report) {
  const char *title = "Training loss";
  if (!any_number(report, offsetof(Update, loss))) {
    html_missing(report, "figure-loss", title, "metrics.jsonl has no \"loss\".");
    return;
  }
  Plot plot = plot_begin(report, "figure-loss");
  plot_panels(&plot, 1, 2);
  axes(&plot, false, "loss (nats per token)");
  lines(&plot, offsetof(Update, step), offsetof(Update, loss), true, "lines");
  axes(&plot, true, "loss (nats per token)");
  lines(&plot, offsetof(Update, flops), offsetof(Update, loss), false, "lines");
  plot_end(&plot, CURVE_HEIGHT, title, each_run(report, "Loss of the last update", last_loss),
           "With all auxiliary losses; left against updates, right against the work that really ran.");
}

/* ---------------------------------------------------------------- perplexity */

/* A block of one run's evaluations of `split`; -1: none. */
static int evaluation_block(Plot *plot, const Run *run, bool flops, bool gate) {
  Text text = {0};
  for (uint32_t i = 0; i < vec_len(run->evaluations); i++) {
    const Evaluation *e = &run->evaluations[i];
    double ppl = gate ? e->ppl_gate : e->ppl;
    double at = flops ? e->flops : e->step;
    if (strcmp(e->split, "valid") == 0 && isfinite(ppl) && isfinite(at))
      text_format(&text, "%.9g %.9g\n", at, ppl);
  }
  int block = text.size ? plot_block(plot, text.data) : -1;
  text_free(&text);
  return block;
}

static void perplexity_lines(Plot *plot, bool flops) {
  Report *report = plot->report;
  bool any = false, several = vec_len(report->runs) > 1;
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (int gate = 0; gate < 2; gate++) {
      int block = evaluation_block(plot, &report->runs[i], flops, gate);
      if (block < 0)
        continue;
      const char *name = gate ? "with the dense gate" : several ? report->runs[i].name : "as the model is used";
      text_format(&plot->script, "%s$d%d using 1:2 with linespoints pt %d ps 0.4 lw 1.3 %s lc rgb '%s' ",
                  any ? ", " : "plot ", block, gate ? 6 : 7, gate ? "dt 2" : "", plot_color((int)i));
      if (flops || (several && (gate || !plot_has_key(report))))
        text_format(&plot->script, "notitle");
      else
        text_format(&plot->script, "title %s", plot_quote(report, name));
      any = true;
    }
  text_format(&plot->script, "\n");
}

static double last_perplexity(const Run *run) {
  for (uint32_t i = vec_len(run->evaluations); i-- > 0;)
    if (strcmp(run->evaluations[i].split, "valid") == 0 && isfinite(run->evaluations[i].ppl))
      return run->evaluations[i].ppl;
  return NAN;
}

/* Of the largest to the least that is shown. */
static double perplexity_ratio(const Report *report) {
  double least = INFINITY, most = 0;
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (uint32_t k = 0; k < vec_len(report->runs[i].evaluations); k++) {
      const Evaluation *e = &report->runs[i].evaluations[k];
      if (strcmp(e->split, "valid") != 0 || !isfinite(e->ppl))
        continue;
      least = fmin(least, e->ppl);
      most = fmax(most, e->ppl);
    }
  return most / least;
}

static void perplexity_figure(Report *report) {
  const char *title = "Validation perplexity";
  bool any = false;
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    any = any || isfinite(last_perplexity(&report->runs[i]));
  if (!any) {
    html_missing(report, "figure-perplexity", title,
                 "metrics.jsonl holds no evaluation of the valid split with \"ppl\" (--eval-every writes them).");
    return;
  }
  Plot plot = plot_begin(report, "figure-perplexity");
  plot_panels(&plot, 1, 2);
  if (perplexity_ratio(report) > 4)
    text_format(&plot.script, "set logscale y\n");
  axes(&plot, false, "perplexity");
  perplexity_lines(&plot, false);
  axes(&plot, true, "perplexity");
  perplexity_lines(&plot, true);
  plot_end(&plot, CURVE_HEIGHT, title, each_run(report, "Last perplexity", last_perplexity),
           "A transition is evaluated before and after. Dashed with open circles: the dense training gate without "
           "noise, in phases that have one.");
}

/* ---------------------------------------------------------------- temperature, experts per token */

static double last_experts(const Run *run) {
  return vec_last(run->updates).experts;
}

static void density_figure(Report *report) {
  const char *title = "Temperature and experts per token";
  bool tau = any_number(report, offsetof(Update, tau));
  if (!any_number(report, offsetof(Update, experts))) {
    html_missing(report, "figure-density", title, "metrics.jsonl has no \"experts_per_token\".");
    return;
  }
  Plot plot = plot_begin(report, "figure-density");
  plot_panels(&plot, 1, tau ? 2 : 1);
  if (tau) {
    axes(&plot, false, "temperature of the gate");
    text_format(&plot.script, "set yrange [0:*]\n");
    lines(&plot, offsetof(Update, step), offsetof(Update, tau), true, "lines");
  }
  axes(&plot, false, "experts per token");
  text_format(&plot.script, "set yrange [0:*]\n");
  lines(&plot, offsetof(Update, step), offsetof(Update, experts), !tau, "lines");
  plot_end(&plot, CURVE_HEIGHT, title, each_run(report, "Experts per token at the end", last_experts),
           tau ? "A phase without a temperature has no line on the left."
               : "No phase of these runs has a temperature.");
}

void report_curves(Report *report) {
  html_section(report, "curves", "Curves");
  html_legend(report);
  loss_figure(report);
  perplexity_figure(report);
  density_figure(report);
  html_end_section(report);
}
