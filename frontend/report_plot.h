/* Figures and HTML of a report.
 *
 * In: a gnuplot script with its data inline. Out: the SVG that gnuplot makes of it, with ids of its own, in a <figure>
 * of the page. gnuplot that is missing is the environment's failure (exit code 3). */
#ifndef MOEC_REPORT_PLOT_H
#define MOEC_REPORT_PLOT_H

#include "frontend/report.h"

typedef struct Plot {
  Report *report;
  const char *id; /* of the figure in the page */
  Text data;      /* data blocks $d0, $d1, ... */
  Text script;    /* everything behind them */
  int blocks;
} Plot;

enum { PLOT_WIDTH = 960, PLOT_POINTS = 300, MOST_NAMED = 6 };

Plot plot_begin(Report *report, const char *id);
/* Text in single quotes, as gnuplot reads it. */
const char *plot_quote(Report *report, const char *text);
/* "#rrggbb" of the series, readable on light and on dark. */
const char *plot_color(int series);
/* Whether the runs are named in the figures; where they are one, or too many, they are not. */
bool plot_has_key(const Report *report);
/* A block of x y pairs; at most PLOT_POINTS points, each the mean of as many neighbours as it takes. Pairs with a NAN
 * are left out. Returns the block's number, -1: nothing to show. */
int plot_series(Plot *plot, const double *x, const double *y, uint32_t count);
/* A block of text as it stands, its lines ended. */
int plot_block(Plot *plot, const char *lines);
/* `panels` drawn side by side follow. */
void plot_panels(Plot *plot, int rows, int columns);
/* Vertical lines where the phases of the run begin, by step or by FLOPs. */
void plot_phases(Plot *plot, const Run *run, bool flops);
/* Runs gnuplot; appends the figure. `summary`: the main number in words, for who cannot see it. */
void plot_end(Plot *plot, int height, const char *title, const char *summary, const char *caption);

/* ---- HTML */
void html_text(Text *page, const char *text); /* escaped */
void html_section(Report *report, const char *id, const char *title);
void html_end_section(Report *report);
/* The colours of the runs, where the figures have no room to name them. */
void html_legend(Report *report);
/* A figure that cannot be: says why. */
void html_missing(Report *report, const char *id, const char *title, const char *why);
const char *html_number(Arena *arena, double value); /* 1234567 as "1.23 M"; "-" for NAN */
const char *html_bytes(Arena *arena, double value);

#endif
