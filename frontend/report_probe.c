/* What the probe tokens show: the path of one token (EvoMoE, Figure 4b), routing fluctuation as StableMoE defines it
 * (the last line at which a token's strongest expert is not its final one), the tokens every expert sees most (Table
 * VII), and whether hard tokens get more experts than easy ones. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/report_plot.h"

enum { TOKENS_SHOWN = 3, PIECES_SHOWN = 8, LEAST_BIN = 8, BINS = 8 };

static const char *figure_id(Report *report, const char *what, const Run *run) {
  return arena_print(report->arena, "%s-%d", what, run->index + 1);
}

static const char *figure_title(Report *report, const char *what, const Run *run) {
  return vec_len(report->runs) > 1 ? arena_print(report->arena, "%s: %s", what, run->name) : what;
}

static const ProbeLayer *layer_of(const ProbeLine *line, const char *layer) {
  for (uint32_t i = 0; i < vec_len(line->layers); i++)
    if (line->layers[i].layer == layer)
      return &line->layers[i];
  return NULL;
}

static bool has_probe(const Run *run) {
  for (uint32_t i = 0; i < vec_len(run->probe.lines); i++)
    if (run->probe.lines[i].layers)
      return true;
  return false;
}

static const char no_probe[] = "the run has no probe.jsonl with routed layers (--probe-every N writes one).";

/* White space made visible; a piece that is nothing but an id otherwise. */
static const char *piece(Report *report, const Probe *probe, uint32_t token) {
  if (!probe->text)
    return arena_print(report->arena, "token %d", probe->tokens[token]);
  Text text = {0};
  for (const char *at = probe->text[token]; *at; at++)
    if (*at == '\n')
      text_format(&text, "\xe2\x8f\x8e");
    else if (*at == ' ')
      text_format(&text, "\xe2\x90\xa3");
    else
      text_append(&text, (unsigned char)*at < ' ' ? "?" : at, 1);
  char *copy = text.size ? arena_copy(report->arena, text.data, text.size)
                         : arena_print(report->arena, "token %d", probe->tokens[token]);
  text_free(&text);
  return copy;
}

/* ---------------------------------------------------------------- one token */

static int changes_of(const Run *run, uint32_t token) {
  int changes = 0;
  for (uint32_t k = 0; k < vec_len(run->layers); k++) {
    int before = -2;
    for (uint32_t i = 0; i < vec_len(run->probe.lines); i++) {
      const ProbeLayer *layer = layer_of(&run->probe.lines[i], run->layers[k]);
      if (!layer)
        continue;
      changes += before != -2 && layer->expert[token] != before;
      before = layer->expert[token];
    }
  }
  return changes;
}

/* Whether --token, if there is one, means the token at that position: its id, or its text with or without the space
 * that it may begin with. */
static bool is_asked_for(const Report *report, const Probe *probe, uint32_t token) {
  const char *asked = report->token, *text = probe->text ? probe->text[token] : "";
  char *end;
  if (!asked)
    return true;
  long id = strtol(asked, &end, 10);
  if (*asked && !*end)
    return probe->tokens[token] == id;
  return strcmp(text, asked) == 0 || (text[0] == ' ' && strcmp(text + 1, asked) == 0);
}

/* Positions of --token, or all, those with most changes first; an arena vector. */
static uint32_t *choose_tokens(Report *report, const Run *run) {
  uint32_t *chosen = NULL, count = vec_len(run->probe.tokens);
  int *changes = arena_alloc(report->arena, count * sizeof *changes);
  for (uint32_t t = 0; t < count; t++)
    changes[t] = is_asked_for(report, &run->probe, t) ? changes_of(run, t) : -1;
  while (vec_len(chosen) < TOKENS_SHOWN) {
    uint32_t best = 0;
    for (uint32_t t = 1; t < count; t++)
      best = changes[t] > changes[best] ? t : best;
    if (changes[best] < 0)
      break;
    changes[best] = -1;
    vec_push(report->arena, chosen, best);
  }
  return chosen;
}

static void path_panel(Plot *plot, const Run *run, uint32_t token, bool last) {
  Report *report = plot->report;
  char *title = arena_print(report->arena, "\"%s\" at position %u", piece(report, &run->probe, token), token);
  text_format(&plot->script, "set title %s\nset xlabel '%s'\n", plot_quote(report, title), last ? "update" : "");
  bool any = false;
  for (uint32_t k = 0; k < vec_len(run->layers); k++) {
    Text text = {0};
    for (uint32_t i = 0; i < vec_len(run->probe.lines); i++) {
      const ProbeLayer *layer = layer_of(&run->probe.lines[i], run->layers[k]);
      if (layer)
        text_format(&text, "%.9g %g\n", run->probe.lines[i].step, layer->expert[token] + 0.06 * k);
    }
    if (text.size) {
      int block = plot_block(plot, text.data);
      text_format(&plot->script, "%s$d%d using 1:2 with steps lw 1.2 lc rgb '%s' notitle, ", any ? "" : "plot ", block,
                  plot_color((int)k));
      text_format(&plot->script, "$d%d using 1:2 with points pt 7 ps 0.45 lc rgb '%s' ", block, plot_color((int)k));
      text_format(&plot->script, "title %s, ", plot_quote(report, run->layers[k]));
      any = true;
    }
    text_free(&text);
  }
  text_format(&plot->script, "NaN notitle\n");
}

/* Widens what the axis must show by the token's experts. */
static void expert_range(const Run *run, uint32_t token, int *most, bool *none) {
  for (uint32_t i = 0; i < vec_len(run->probe.lines); i++)
    for (uint32_t k = 0; k < vec_len(run->probe.lines[i].layers); k++) {
      int expert = run->probe.lines[i].layers[k].expert[token];
      *most = expert > *most ? expert : *most;
      *none = *none || expert < 0;
    }
}

static const char *times_text(Report *report, int times) {
  return times == 1 ? "once" : arena_print(report->arena, "%d times", times);
}

static void path_figure(Report *report, const Run *run) {
  const char *id = figure_id(report, "figure-token", run);
  const char *title = figure_title(report, "The expert of one token over time", run);
  if (!has_probe(run)) {
    html_missing(report, id, title, no_probe);
    return;
  }
  uint32_t *tokens = choose_tokens(report, run);
  if (!tokens) {
    html_missing(report, id, title, arena_print(report->arena, "%s is none of the probe tokens.", report->token));
    return;
  }
  Plot plot = plot_begin(report, id);
  plot_panels(&plot, (int)vec_len(tokens), 1);
  bool none = false;
  int most = 0;
  for (uint32_t i = 0; i < vec_len(tokens); i++)
    expert_range(run, tokens[i], &most, &none);
  text_format(&plot.script,
              "set yrange [%g:%g]\nset xrange [0:*]\nset ylabel '%s'\nset key outside right top\nset tmargin 2\n"
              "set bmargin 3.2\nset ytics 0,%d\n",
              none ? -1.4 : -0.4, most + 0.6, none ? "expert (below 0: none)" : "expert", most / 8 + 1);
  plot_phases(&plot, run, false);
  text_format(&plot.script, "unset label\n"); /* the panels' titles stand there */
  for (uint32_t i = 0; i < vec_len(tokens); i++)
    path_panel(&plot, run, tokens[i], i + 1 == vec_len(tokens));
  plot_end(&plot, (int)vec_len(tokens) * 210, title,
           arena_print(report->arena, "\"%s\" at position %u changes its strongest expert %s%s.",
                       piece(report, &run->probe, tokens[0]), tokens[0], times_text(report, changes_of(run, tokens[0])),
                       vec_len(run->layers) > 1 ? " in all layers together" : ""),
           arena_print(report->arena, "%s%s",
                       report->token ? "Positions of the token that was asked for, those with most changes first."
                                     : "The probe tokens with most changes.",
                       vec_len(run->layers) > 1 ? " A layer's line is set off a little." : ""));
}

/* ---------------------------------------------------------------- fluctuation */

/* The step of the last line whose expert is not the final one; 0: none. */
static double last_fluctuation(const Run *run, const char *layer, uint32_t token) {
  int final = -2;
  for (uint32_t i = vec_len(run->probe.lines); i-- > 0;) {
    const ProbeLayer *at = layer_of(&run->probe.lines[i], layer);
    if (!at)
      continue;
    if (final == -2)
      final = at->expert[token];
    else if (at->expert[token] != final)
      return run->probe.lines[i].step;
  }
  return 0;
}

static int compare_numbers(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Shares of training of every probe token (of one layer, or NULL: of all), ascending. */
static double *fluctuations(Report *report, const Run *run, const char *only) {
  double *shares = NULL, end = vec_last(run->updates).step;
  for (uint32_t k = 0; k < vec_len(run->layers); k++)
    for (uint32_t t = 0; t < vec_len(run->probe.tokens) && (!only || only == run->layers[k]); t++)
      vec_push(report->arena, shares, last_fluctuation(run, run->layers[k], t) / end);
  if (shares)
    qsort(shares, vec_len(shares), sizeof *shares, compare_numbers);
  return shares;
}

static void fluctuation_line(Plot *plot, const double *shares, const char *name, int color, bool first) {
  Text text = {0};
  uint32_t count = vec_len(shares);
  text_format(&text, "0 0\n");
  for (uint32_t i = 0; i < count; i++)
    if (i + 1 == count || shares[i + 1] > shares[i])
      text_format(&text, "%.6g %.6g\n", 100 * shares[i], 100.0 * (i + 1) / count);
  text_format(&text, "100 100\n");
  int block = plot_block(plot, text.data);
  text_free(&text);
  text_format(&plot->script, "%s$d%d using 1:2 with steps lw 1.5 lc rgb '%s' %s", first ? "plot " : ", ", block,
              plot_color(color), name ? "title " : "notitle");
  text_format(&plot->script, "%s", name ? plot_quote(plot->report, name) : "");
}

/* Shares of the tokens that change after 20, 50 and 80 % of training, as StableMoE gives them. */
static void fluctuation_summary(Text *summary, const double *shares, const char *run) {
  static const double after[] = {0.2, 0.5, 0.8};
  text_format(summary, "%s%s", run ? run : "", run ? ": " : "");
  for (size_t i = 0; i < sizeof after / sizeof *after; i++) {
    uint32_t late = 0;
    for (uint32_t k = 0; k < vec_len(shares); k++)
      late += shares[k] > after[i];
    text_format(summary,
                i == 0 ? "%.1f %% of the probe tokens still change expert after %.0f %% of training"
                       : ", %.1f %% after %.0f %%",
                100.0 * late / vec_len(shares), 100 * after[i]);
  }
  text_format(summary, ". ");
}

static void fluctuation_figure(Report *report) {
  const char *title = "Routing fluctuation";
  bool several = vec_len(report->runs) > 1, first = true;
  Plot plot = plot_begin(report, "figure-fluctuation");
  text_format(&plot.script, "set key bottom right\nset xrange [0:100]\nset yrange [0:100]\n"
                            "set xlabel 'last fluctuation (%% of training)'\nset ylabel 'probe tokens (%%)'\n");
  Text summary = {0};
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    const Run *run = &report->runs[i];
    if (!has_probe(run))
      continue;
    double *all = fluctuations(report, run, NULL);
    fluctuation_summary(&summary, all, several ? run->name : NULL);
    if (several)
      fluctuation_line(&plot, all, plot_has_key(report) ? run->name : NULL, (int)i, first);
    for (uint32_t k = 0; k < vec_len(run->layers) && !several; k++) {
      fluctuation_line(&plot, fluctuations(report, run, run->layers[k]), run->layers[k], (int)k, k == 0);
    }
    first = false;
  }
  text_format(&plot.script, "\n");
  if (first)
    html_missing(report, "figure-fluctuation", title, no_probe);
  else
    plot_end(
        &plot, 360, title, summary.data,
        "Cumulative share of tokens (in all layers, or per layer) whose strongest expert never changes again after "
        "that share of training, as far as probe.jsonl samples it.");
  text_free(&summary);
}

/* ---------------------------------------------------------------- tokens of an expert */

typedef struct PieceCount {
  int token;
  uint32_t position; /* one that holds it */
  int count;
} PieceCount;

static int compare_counts(const void *a, const void *b) {
  const PieceCount *x = a, *y = b;
  return x->count != y->count ? y->count - x->count : x->token - y->token;
}

static void expert_row(Report *report, const Run *run, const ProbeLayer *layer, int expert) {
  PieceCount *counts = NULL;
  uint32_t tokens = 0;
  for (uint32_t t = 0; t < vec_len(run->probe.tokens); t++) {
    if (layer->expert[t] != expert)
      continue;
    tokens++;
    uint32_t k = 0;
    while (k < vec_len(counts) && counts[k].token != run->probe.tokens[t])
      k++;
    if (k == vec_len(counts))
      vec_push(report->arena, counts, (PieceCount){run->probe.tokens[t], t, 0});
    counts[k].count++;
  }
  Text *page = &report->page;
  text_format(page, "<tr><td>");
  html_text(page, layer->layer);
  text_format(page, "</td><td class=\"n\">%d</td><td class=\"n\">%.1f %%</td><td>", expert,
              100.0 * tokens / vec_len(run->probe.tokens));
  if (counts)
    qsort(counts, vec_len(counts), sizeof *counts, compare_counts);
  for (uint32_t k = 0; k < vec_len(counts) && k < PIECES_SHOWN; k++) {
    text_format(page, "<code>");
    html_text(page, piece(report, &run->probe, counts[k].position));
    text_format(page, "</code>&nbsp;%d ", counts[k].count);
  }
  text_format(page, counts ? "</td></tr>\n" : "none</td></tr>\n");
}

static void expert_table(Report *report, const Run *run) {
  const char *id = figure_id(report, "table-experts", run);
  const char *title = figure_title(report, "The tokens each expert sees most", run);
  if (!has_probe(run)) {
    html_missing(report, id, title, no_probe);
    return;
  }
  const ProbeLine *last = NULL;
  for (uint32_t i = 0; i < vec_len(run->probe.lines); i++)
    if (run->probe.lines[i].layers)
      last = &run->probe.lines[i];
  Text *page = &report->page;
  text_format(page, "<h3>");
  html_text(page, title);
  text_format(
      page,
      "</h3><p class=\"note\">Of %u probe tokens at update %.0f, by strongest expert: how often each piece came "
      "to it.</p>\n<div class=\"scroll\"><table id=\"%s\"><tr><th>Layer</th><th class=\"n\">Expert</th>"
      "<th class=\"n\">Share</th><th>Pieces and counts</th></tr>\n",
      vec_len(run->probe.tokens), last->step, id);
  for (uint32_t k = 0; k < vec_len(last->layers); k++) {
    int most = -1;
    for (uint32_t t = 0; t < vec_len(run->probe.tokens); t++)
      most = last->layers[k].expert[t] > most ? last->layers[k].expert[t] : most;
    for (uint32_t i = 0; i < vec_len(run->routing); i++) /* the logs know of experts that the probe never meets */
      if (run->routing[i].layer == last->layers[k].layer && (int)vec_len(run->routing[i].load) > most + 1)
        most = (int)vec_len(run->routing[i].load) - 1;
    for (int e = 0; e <= most; e++)
      expert_row(report, run, &last->layers[k], e);
  }
  text_format(page, "</table></div>\n");
}

/* ---------------------------------------------------------------- compute against difficulty */

typedef struct Difficulty {
  double at, experts;
} Difficulty;

static int compare_difficulty(const void *a, const void *b) {
  return compare_numbers(&((const Difficulty *)a)->at, &((const Difficulty *)b)->at);
}

/* Mean of the token's experts over the layers; NAN where none was logged. */
static double experts_of(const ProbeLine *line, uint32_t token) {
  double sum = 0, layers = 0;
  for (uint32_t k = 0; k < vec_len(line->layers); k++)
    if (line->layers[k].experts) {
      sum += line->layers[k].experts[token];
      layers++;
    }
  return layers > 0 ? sum / layers : NAN;
}

/* Bins of as many tokens each, their means. `at`: what the tokens are sorted by. -1: nothing to show. */
static int difficulty_block(Plot *plot, const Probe *probe, const ProbeLine *line, const double *at) {
  Difficulty *tokens = NULL;
  for (uint32_t t = 0; at && t < vec_len(probe->tokens); t++) {
    Difficulty d = {at[t], experts_of(line, t)};
    if (isfinite(d.at) && isfinite(d.experts) && (at != probe->frequency || d.at > 0)) /* on a logarithmic axis */
      vec_push(plot->report->arena, tokens, d);
  }
  uint32_t count = vec_len(tokens), bins = count / LEAST_BIN < BINS ? count / LEAST_BIN : BINS;
  if (bins == 0)
    return -1;
  qsort(tokens, count, sizeof *tokens, compare_difficulty);
  Text text = {0};
  for (uint32_t b = 0; b < bins; b++) {
    uint32_t from = count * b / bins, to = count * (b + 1) / bins;
    double x = 0, y = 0;
    for (uint32_t i = from; i < to; i++) {
      x += tokens[i].at;
      y += tokens[i].experts;
    }
    text_format(&text, "%.6g %.6g\n", x / (to - from), y / (to - from));
  }
  int block = plot_block(plot, text.data);
  text_free(&text);
  return block;
}

static const ProbeLine *last_of_phase(const Run *run, const char *phase) {
  const ProbeLine *last = NULL;
  for (uint32_t i = 0; i < vec_len(run->probe.lines); i++)
    if (run->probe.lines[i].phase == phase && run->probe.lines[i].layers)
      last = &run->probe.lines[i];
  return last;
}

static bool difficulty_panel(Plot *plot, const Run *run, bool by_loss) {
  bool any = false;
  for (uint32_t i = 0; i < vec_len(run->phases); i++) {
    const ProbeLine *line = last_of_phase(run, run->phases[i].name);
    int block = line ? difficulty_block(plot, &run->probe, line, by_loss ? line->loss : run->probe.frequency) : -1;
    if (block < 0)
      continue;
    text_format(&plot->script, "%s$d%d using 1:2 with linespoints pt 7 ps 0.5 lw 1.4 lc rgb '%s' ",
                any ? ", " : "plot ", block, plot_color((int)i));
    text_format(&plot->script, by_loss ? "notitle" : "title %s", plot_quote(plot->report, run->phases[i].name));
    any = true;
  }
  text_format(&plot->script, any ? "\n" : "set multiplot next\n");
  return any;
}

static const char *difficulty_summary(Report *report, const Run *run) {
  const ProbeLine *line = NULL;
  for (uint32_t i = 0; i < vec_len(run->phases); i++) {
    const ProbeLine *last = last_of_phase(run, run->phases[i].name);
    line = last ? last : line;
  }
  double sum = 0;
  for (uint32_t t = 0; t < vec_len(run->probe.tokens); t++)
    sum += experts_of(line, t);
  return arena_print(report->arena, "%.2f experts per probe token at update %.0f.", sum / vec_len(run->probe.tokens),
                     line->step);
}

static void difficulty_figure(Report *report, const Run *run) {
  const char *id = figure_id(report, "figure-difficulty", run);
  const char *title = figure_title(report, "Compute per token against difficulty", run);
  if (!has_probe(run)) {
    html_missing(report, id, title, no_probe);
    return;
  }
  Plot plot = plot_begin(report, id);
  plot_panels(&plot, 1, 2);
  text_format(&plot.script, "set yrange [0:*]\nset ylabel 'experts per token and layer'\nset logscale x\n"
                            "set format x '10^{%%L}'\nset xlabel 'share of the token in the training text'\n");
  bool any = difficulty_panel(&plot, run, false);
  text_format(&plot.script, "unset logscale x\nset format x '%%g'\nset xlabel 'loss of the token (nats)'\n");
  any = difficulty_panel(&plot, run, true) || any;
  if (any)
    plot_end(&plot, 330, title, difficulty_summary(report, run),
             "Probe tokens in bins of as many each, at the last probe of every phase, by the training gate without "
             "noise.");
  else
    html_missing(report, id, title, "probe.jsonl has neither frequencies nor losses with numbers of experts.");
}

void report_probe(Report *report) {
  html_section(report, "probe", "Tokens");
  html_legend(report);
  fluctuation_figure(report);
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    path_figure(report, &report->runs[i]);
    difficulty_figure(report, &report->runs[i]);
    expert_table(report, &report->runs[i]);
  }
  html_end_section(report);
}
