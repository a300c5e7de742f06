/* See report_plot.h. gnuplot runs once per figure, in a temporary directory that goes when moec ends. */
#define _GNU_SOURCE 1 /* memmem */
#include "frontend/report_plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/package.h"
#include "ir/ir.h"
#include "runtime/files.h"

extern char **environ;

static const char *directory; /* NULL: no figure was drawn yet */
static const char *const file_names[] = {"figure.gp", "figure.svg", "messages.txt"};

static char *path_of(Arena *arena, int file) {
  return arena_print(arena, "%s/%s", directory, file_names[file]);
}

static void remove_directory(void) {
  directory_remove(directory);
}

static void make_directory(Arena *arena) {
  if (directory)
    return;
  directory = temporary_directory(arena, "gnuplot");
  atexit(remove_directory);
}

/* ---------------------------------------------------------------- scripts */

Plot plot_begin(Report *report, const char *id) {
  Plot plot = {.report = report, .id = id};
  text_format(&plot.script, "%s",
              "set border 3 lw 0.8\nset tics nomirror scale 0.6\nset grid ytics lc rgb '#9096a0' lw 0.3\n"
              "set key noenhanced top right samplen 1.6 spacing 1.05\nset title noenhanced\n");
  return plot;
}

const char *plot_quote(Report *report, const char *text) {
  Text quoted = {0};
  text_append(&quoted, "'", 1);
  for (; *text; text++)
    text_append(&quoted, *text == '\'' ? "''" : (unsigned char)*text < ' ' ? " " : text, *text == '\'' ? 2 : 1);
  text_append(&quoted, "'", 1);
  char *copy = arena_copy(report->arena, quoted.data, quoted.size);
  text_free(&quoted);
  return copy;
}

const char *plot_color(int series) {
  static const char *const colors[] = {"#3d85c8", "#e07b39", "#2a9d6f", "#c2477f", "#8a63d2", "#b08a1e",
                                       "#35a3b5", "#d95550", "#7f8c3a", "#a0705a", "#5566c4", "#6d7f8f",
                                       "#d68fb8", "#1f7a8c", "#9bbf3b", "#b36ae2"};
  return colors[series % (int)(sizeof colors / sizeof *colors)];
}

bool plot_has_key(const Report *report) {
  return vec_len(report->runs) > 1 && vec_len(report->runs) <= MOST_NAMED;
}

int plot_series(Plot *plot, const double *x, const double *y, uint32_t count) {
  uint32_t kept = 0, seen = 0;
  for (uint32_t i = 0; i < count; i++)
    kept += isfinite(x[i]) && isfinite(y[i]);
  if (kept == 0)
    return -1;
  text_format(&plot->data, "$d%d << EOD\n", plot->blocks);
  uint32_t width = (kept + PLOT_POINTS - 1) / PLOT_POINTS, inside = 0;
  double x_sum = 0, y_sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (!isfinite(x[i]) || !isfinite(y[i]))
      continue;
    x_sum += x[i];
    y_sum += y[i];
    seen++;
    if (++inside < width && seen < kept)
      continue;
    text_format(&plot->data, "%.9g %.9g\n", x_sum / inside, y_sum / inside);
    x_sum = y_sum = 0;
    inside = 0;
  }
  text_format(&plot->data, "EOD\n");
  return plot->blocks++;
}

int plot_block(Plot *plot, const char *lines) {
  text_format(&plot->data, "$d%d << EOD\n%sEOD\n", plot->blocks, lines);
  return plot->blocks++;
}

void plot_panels(Plot *plot, int rows, int columns) {
  text_format(&plot->script, "set multiplot layout %d,%d\n", rows, columns);
}

void plot_phases(Plot *plot, const Run *run, bool flops) {
  text_format(&plot->script, "unset arrow\nunset label\n");
  for (uint32_t i = 1; i < vec_len(run->phases); i++) {
    const RunPhase *phase = &run->phases[i];
    double at = flops ? phase->flops_before : phase->first - 1;
    if (isfinite(at))
      text_format(&plot->script,
                  "set arrow from first %.9g,graph 0 to first %.9g,graph 1 nohead dt 3 lc rgb '#9096a0'\n"
                  "set label %s at first %.9g,graph 1.03 left tc rgb '#80868f' font ',11' noenhanced\n",
                  at, at, plot_quote(plot->report, phase->name), at);
  }
}

/* ---------------------------------------------------------------- gnuplot */

static void write_script(const Plot *plot, const char *path, const char *output, int height) {
  Text all = {0};
  text_format(&all, "set encoding utf8\nset terminal svg size %d,%d dynamic font 'sans-serif,13'\nset output %s\n",
              PLOT_WIDTH, height, plot_quote(plot->report, output));
  if (plot->data.size)
    text_append(&all, plot->data.data, plot->data.size);
  text_append(&all, plot->script.data, plot->script.size);
  FILE *file = fopen(path, "w");
  if (!file || fwrite(all.data, 1, all.size, file) != all.size || fclose(file) != 0)
    environment_fail("%s: cannot write: %s", path, strerror(errno));
  text_free(&all);
}

static void run_gnuplot(const Plot *plot, const char *script, const char *messages) {
  char *const words[] = {(char *)"gnuplot", (char *)"-d", (char *)script, NULL}; /* -d: without the user's settings */
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, messages, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  pid_t child;
  int error = posix_spawnp(&child, words[0], &actions, NULL, words, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error)
    environment_fail("gnuplot, which draws the figures: %s (Debian's package is gnuplot-nox)", strerror(error));
  int status;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      environment_fail("gnuplot: %s", strerror(errno));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return;
  Bytes said = file_read("gnuplot's messages", messages);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    environment_fail("gnuplot, which draws the figures, cannot run (Debian's package is gnuplot-nox)");
  ir_bug("gnuplot on figure %s: %.600s", plot->id, said.data);
}

/* ---------------------------------------------------------------- SVG */

/* Appends `from` up to `to`, with the figure's name before every id and reference: several figures share a page. */
static void append_renamed(Text *page, const char *id, const char *from, const char *to) {
  static const char *const marks[] = {"id='", "id=\"", "href='#", "href=\"#", "url(#", "url('#"};
  while (from < to) {
    const char *next = to;
    size_t length = 0;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
      const char *at = memmem(from, (size_t)(next - from), marks[i], strlen(marks[i]));
      if (at) {
        next = at;
        length = strlen(marks[i]);
      }
    }
    text_append(page, from, (size_t)(next - from) + length);
    if (length)
      text_format(page, "%s-", id);
    from = next + length;
  }
}

/* gnuplot's own head (its title would show as a tooltip everywhere) makes way for one with a text alternative. */
static void append_svg(Plot *plot, int height, const char *title, const char *summary) {
  Text *page = &plot->report->page;
  Bytes svg = file_read("gnuplot's picture", path_of(plot->report->arena, 1));
  const char *start = strstr(svg.data, "<defs>"), *end = strstr(svg.data, "</svg>");
  if (!start || !end)
    ir_bug("gnuplot made no picture of figure %s", plot->id);
  text_format(page, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", PLOT_WIDTH, height);
  html_text(page, title);
  text_format(page, ": ");
  html_text(page, summary);
  text_format(page, "\" xmlns:xlink=\"http://www.w3.org/1999/xlink\">\n<g>\n");
  append_renamed(page, plot->id, start, end);
  text_format(page, "</svg>\n");
  free(svg.data);
}

void plot_end(Plot *plot, int height, const char *title, const char *summary, const char *caption) {
  Arena *arena = plot->report->arena;
  make_directory(arena);
  write_script(plot, path_of(arena, 0), path_of(arena, 1), height);
  run_gnuplot(plot, path_of(arena, 0), path_of(arena, 2));
  Text *page = &plot->report->page;
  text_format(page, "<figure id=\"%s\"><h3>", plot->id);
  html_text(page, title);
  text_format(page, "</h3>\n");
  append_svg(plot, height, title, summary);
  text_format(page, "<figcaption>");
  html_text(page, summary);
  text_format(page, " ");
  html_text(page, caption);
  text_format(page, "</figcaption></figure>\n");
  text_free(&plot->data);
  text_free(&plot->script);
}

/* ---------------------------------------------------------------- HTML */

void html_text(Text *page, const char *text) {
  for (; *text; text++) {
    const char *entity = *text == '&'                 ? "&amp;"
                         : *text == '<'               ? "&lt;"
                         : *text == '>'               ? "&gt;"
                         : *text == '"'               ? "&quot;"
                         : (unsigned char)*text < ' ' ? " "
                                                      : NULL;
    text_append(page, entity ? entity : text, entity ? strlen(entity) : 1);
  }
}

void html_section(Report *report, const char *id, const char *title) {
  text_format(&report->page, "<section id=\"%s\">\n<h2>", id);
  html_text(&report->page, title);
  text_format(&report->page, "</h2>\n");
}

void html_end_section(Report *report) {
  text_format(&report->page, "</section>\n");
}

void html_legend(Report *report) {
  if (vec_len(report->runs) <= MOST_NAMED)
    return;
  text_format(&report->page, "<p class=\"note\">");
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    text_format(&report->page, "<span class=\"swatch\" style=\"background:%s\"></span>", plot_color((int)i));
    html_text(&report->page, report->runs[i].name);
    text_format(&report->page, " &ensp; ");
  }
  text_format(&report->page, "</p>\n");
}

void html_missing(Report *report, const char *id, const char *title, const char *why) {
  text_format(&report->page, "<figure id=\"%s\" class=\"missing\"><h3>", id);
  html_text(&report->page, title);
  text_format(&report->page, "</h3><p>Not shown: ");
  html_text(&report->page, why);
  text_format(&report->page, "</p></figure>\n");
}

const char *html_number(Arena *arena, double value) {
  static const char *const units[] = {"", " k", " M", " G", " T", " P", " E"};
  if (!isfinite(value))
    return "-";
  int unit = 0;
  while (fabs(value) >= 999.5 && unit < 6) {
    value /= 1000;
    unit++;
  }
  return arena_print(arena, "%.3g%s", value, units[unit]);
}

const char *html_bytes(Arena *arena, double value) {
  if (!isfinite(value))
    return "-";
  return arena_print(arena, "%.1f MiB", value / (1 << 20));
}
