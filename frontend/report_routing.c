/* Routing over time: how the load spreads over experts (EvoMoE, Figure 4a) and what the gates look like: entropy,
 * weight kept, margin of the selection, tokens without an expert. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "frontend/report_plot.h"

enum { HEAT_COLUMNS = 80, MOST_LAYERS = 8, PANEL_HEIGHT = 250 };

/* ---------------------------------------------------------------- heat map */

typedef struct Heat {
  uint32_t experts;
  int columns;
  double first, width; /* updates; of a column */
  double *sum;         /* [columns, experts], of loads relative to balance; NAN-free, divided by lines */
  int *lines;          /* [columns] */
} Heat;

static Heat heat_size(Report *report, const Run *run, const char *layer) {
  Heat heat = {0};
  double last = 0, before = -1;
  int steps = 0;
  for (uint32_t i = 0; i < vec_len(run->routing); i++) {
    const RoutingLine *line = &run->routing[i];
    if (line->layer != layer)
      continue;
    heat.experts = vec_len(line->load) > heat.experts ? vec_len(line->load) : heat.experts;
    heat.first = steps == 0 ? line->step : heat.first;
    steps += line->step != before;
    before = last = line->step;
  }
  heat.columns = steps < HEAT_COLUMNS ? steps : HEAT_COLUMNS;
  heat.width = steps > 1 ? (last - heat.first) / (steps - 1) * steps / heat.columns : 1;
  heat.sum = arena_alloc(report->arena, (size_t)heat.columns * heat.experts * sizeof *heat.sum);
  heat.lines = arena_alloc(report->arena, (size_t)heat.columns * sizeof *heat.lines);
  return heat;
}

/* Relative to balance: 1 is an expert that sees one E-th of all selections. */
static Heat heat_of(Report *report, const Run *run, const char *layer) {
  Heat heat = heat_size(report, run, layer);
  for (uint32_t i = 0; i < vec_len(run->routing); i++) {
    const RoutingLine *line = &run->routing[i];
    uint32_t experts = vec_len(line->load);
    double total = 0;
    for (uint32_t e = 0; e < experts; e++)
      total += line->load[e];
    if (line->layer != layer || !(total > 0))
      continue;
    double at = (line->step - heat.first) / heat.width;
    int column = at >= 0 ? (int)fmin(at, heat.columns - 1) : 0;
    heat.lines[column]++;
    for (uint32_t e = 0; e < experts; e++)
      heat.sum[(uint32_t)column * heat.experts + e] += line->load[e] / total * experts;
  }
  return heat;
}

static void heat_panel(Plot *plot, const Run *run, const char *layer, const char *shown, double most) {
  Heat heat = heat_of(plot->report, run, layer);
  Text text = {0};
  for (int c = 0; c < heat.columns; c++)
    for (uint32_t e = 0; e < heat.experts; e++)
      if (heat.lines[c])
        text_format(&text, "%.9g %u %.4g\n", heat.first + (c + 0.5) * heat.width - 0.5, e,
                    heat.sum[(uint32_t)c * heat.experts + e] / heat.lines[c]);
      else
        text_format(&text, "%.9g %u NaN\n", heat.first + (c + 0.5) * heat.width - 0.5, e);
  int block = plot_block(plot, text.data);
  text_free(&text);
  text_format(&plot->script,
              "set title %s\nset xlabel 'update'\nset ylabel 'expert'\nset cbrange [0:%.4g]\n"
              "set yrange [-0.5:%u.5]\nset ytics %u\nset xrange [%.9g:%.9g]\n",
              plot_quote(plot->report, shown), most, heat.experts - 1, heat.experts > 8 ? heat.experts / 4 : 1,
              heat.first - 0.5, heat.first - 0.5 + heat.columns * heat.width);
  text_format(&plot->script,
              heat.columns > 1 ? "plot $d%d using 1:2:3 with image pixels notitle\n"
                               : "plot $d%d using 1:2:(0.5):(0.5):3 with boxxyerror fs solid lc palette "
                                 "notitle\n",
              block);
}

/* Of the last line of every layer: the most loaded expert, and how many have nothing. */
static const char *load_summary(Report *report, const Run *run, double *most) {
  double peak = 0, step = vec_last(run->routing).step;
  int dead = 0;
  *most = 2;
  for (uint32_t i = 0; i < vec_len(run->routing); i++) {
    const RoutingLine *line = &run->routing[i];
    double total = 0;
    for (uint32_t e = 0; e < vec_len(line->load); e++)
      total += line->load[e];
    for (uint32_t e = 0; e < vec_len(line->load) && total > 0; e++) {
      double relative = line->load[e] / total * vec_len(line->load);
      *most = fmax(*most, relative);
      if (line->step != step)
        continue;
      peak = fmax(peak, relative);
      dead += line->load[e] == 0;
    }
  }
  *most = fmin(*most, 4);
  return arena_print(report->arena,
                     "At update %.0f the busiest expert has %.2f times its even share, and %d expert%s nothing.", step,
                     peak, dead, dead == 1 ? " has" : "s have");
}

static bool has_load(const Run *run, const char *layer) {
  for (uint32_t i = 0; i < vec_len(run->routing); i++)
    for (uint32_t e = 0; run->routing[i].layer == layer && e < vec_len(run->routing[i].load); e++)
      if (run->routing[i].load[e] > 0)
        return true;
  return false;
}

/* Layers with a load; evenly spread where there are too many to draw. */
static const char **shown_layers(Report *report, const Run *run) {
  const char **loaded = NULL, **layers = NULL;
  for (uint32_t i = 0; i < vec_len(run->layers); i++)
    if (has_load(run, run->layers[i]))
      vec_push(report->arena, loaded, run->layers[i]);
  uint32_t all = vec_len(loaded), count = all < MOST_LAYERS ? all : MOST_LAYERS;
  for (uint32_t i = 0; i < count; i++)
    vec_push(report->arena, layers, loaded[i * (all - 1) / (count > 1 ? count - 1 : 1)]);
  return layers;
}

static const char *figure_title(Report *report, const char *what, const Run *run) {
  return vec_len(report->runs) > 1 ? arena_print(report->arena, "%s: %s", what, run->name) : what;
}

static void load_figure(Report *report, const Run *run) {
  const char *id = arena_print(report->arena, "figure-load-%d", run->index + 1);
  const char *title = figure_title(report, "Expert load over time", run);
  const char **layers = shown_layers(report, run);
  if (!layers) {
    html_missing(report, id, title,
                 "routing.jsonl of this run has no line: no phase with a gate was logged (--routing-every N).");
    return;
  }
  double most;
  const char *summary = load_summary(report, run, &most);
  uint32_t count = vec_len(layers), columns = count > 1 ? 2 : 1, panels = (count + columns - 1) / columns;
  Plot plot = plot_begin(report, id);
  text_format(&plot.script, "set palette defined (0 '#30204f', 0.25 '#3b5b92', 0.5 '#2a9d8f', 0.75 '#a5c94a', 1 "
                            "'#fbe34b')\nset cblabel 'share / even share'\nset xtics format '%%.0f'\nunset grid\n");
  plot_panels(&plot, (int)panels, (int)columns);
  for (uint32_t i = 0; i < count; i++)
    heat_panel(&plot, run, layers[i], layers[i], most);
  plot_end(
      &plot, (int)panels * PANEL_HEIGHT, title, summary,
      count < vec_len(run->layers)
          ? arena_print(report->arena,
                        "Share of a layer's selections, 1 is even, as far as %.3g; %u of %u "
                        "routed layers.",
                        most, count, vec_len(run->layers))
          : arena_print(report->arena, "Share of a layer's selections, 1 is even; the colours end at %.3g.", most));
}

/* ---------------------------------------------------------------- gates */

static double member_of(const RoutingLine *line, size_t offset) {
  double value;
  memcpy(&value, (const char *)line + offset, sizeof value);
  return value;
}

typedef struct GatePanel {
  const char *label, *range; /* range: of the axis, as gnuplot takes it */
  size_t offset;             /* in RoutingLine */
} GatePanel;

static void gate_panel(Plot *plot, const Run *run, const char **layers, const GatePanel *panel, bool legend) {
  Report *report = plot->report;
  bool any = false;
  text_format(&plot->script, "set xlabel 'update'\nset ylabel %s\nset format x '%%.0f'\nset yrange [%s]\n",
              plot_quote(report, panel->label), panel->range);
  for (uint32_t k = 0; k < vec_len(layers); k++) {
    double *x = NULL, *y = NULL;
    for (uint32_t i = 0; i < vec_len(run->routing); i++)
      if (run->routing[i].layer == layers[k]) {
        vec_push(report->arena, x, run->routing[i].step);
        vec_push(report->arena, y, member_of(&run->routing[i], panel->offset));
      }
    int block = plot_series(plot, x, y, vec_len(x));
    if (block < 0)
      continue;
    text_format(&plot->script, "%s$d%d using 1:2 with lines lw 1.3 lc rgb '%s' ", any ? ", " : "plot ", block,
                plot_color((int)k));
    text_format(&plot->script, legend ? "title %s" : "notitle", plot_quote(report, layers[k]));
    any = true;
  }
  text_format(&plot->script, any ? "\n" : "set multiplot next\n");
}

static bool has_member(const Run *run, size_t offset) {
  for (uint32_t i = 0; i < vec_len(run->routing); i++)
    if (isfinite(member_of(&run->routing[i], offset)))
      return true;
  return false;
}

static void gate_figure(Report *report, const Run *run) {
  static const GatePanel panels[] = {{"entropy (nats)", "0:0.1<*", offsetof(RoutingLine, entropy)},
                                     {"weight kept", "*:*", offsetof(RoutingLine, kept_weight)},
                                     {"margin", "*:*", offsetof(RoutingLine, margin)},
                                     {"tokens without an expert", "0:1<*", offsetof(RoutingLine, dropped)}};
  const char *id = arena_print(report->arena, "figure-gate-%d", run->index + 1);
  const char *title = figure_title(report, "How decided the gates are", run);
  if (!has_member(run, offsetof(RoutingLine, entropy))) {
    html_missing(report, id, title,
                 run->routing ? "routing.jsonl of this run holds loads alone."
                              : "routing.jsonl of this run has no line (--routing-every N).");
    return;
  }
  const char **layers = shown_layers(report, run);
  Plot plot = plot_begin(report, id);
  plot_panels(&plot, 2, 2);
  for (size_t i = 0; i < sizeof panels / sizeof *panels; i++)
    gate_panel(&plot, run, layers, &panels[i], i == 0);
  const RoutingLine *last = &vec_last(run->routing);
  plot_end(&plot, 2 * PANEL_HEIGHT, title,
           arena_print(report->arena, "At update %.0f the gate of %s has an entropy of %.3f nats.", last->step,
                       last->layer, last->entropy),
           "Means over tokens. Margin: smallest selected weight less the largest that was not, relative to the "
           "largest weight.");
}

void report_routing(Report *report) {
  html_section(report, "routing", "Routing");
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    load_figure(report, &report->runs[i]);
    gate_figure(report, &report->runs[i]);
  }
  html_end_section(report);
}
