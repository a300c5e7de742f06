/* moec report: run directories in, one HTML page out that needs no network and no scripts.
 *
 * The page appears whole or not at all. Damaged lines are said on standard error and in the page; the rest is used. */
#include <math.h>
#include <stdio.h>

#include "frontend/commands.h"
#include "frontend/report_plot.h"
#include "ir/ir.h"
#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/options.h"

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1d2127;--soft:#5c6470;--line:#d5d9df;--page:#ffffff;--card:#f6f7f9}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#a0a8b3;--line:#3a4048;--page:#16191d;"
    "--card:#1e2227}}\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1000px;"
    "margin:0 auto;padding:1.5rem 1rem 4rem}\n"
    "h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.25rem;border-bottom:1px solid var(--line);margin:2.2em 0 .8em}\n"
    "h3{font-size:1rem;margin:0 0 .4em}\n"
    "figure{margin:0 0 1.4rem;padding:.8rem 1rem;background:var(--card);border:1px solid var(--line);"
    "border-radius:6px}\n"
    "figure svg{display:block;width:100%;height:auto}\n"
    "figcaption,.note{color:var(--soft);font-size:.9rem}.missing p{margin:0;color:var(--soft)}\n"
    "[stroke=\"black\"],[stroke^=\"rgb(  0,   0,   "
    "0\"]{stroke:var(--ink)}[fill=\"black\"]{fill:var(--ink)}[color=\"black\"],[color^=\"rgb(  0,   0,   "
    "0\"]{color:var(--ink)}\n"
    ".scroll{overflow-x:auto;margin:0 0 1.4rem}table{border-collapse:collapse;font-size:.88rem;min-width:50%}\n"
    "th,td{text-align:left;vertical-align:top;padding:.25em .8em .25em 0;border-bottom:1px solid var(--line)}\n"
    "th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\n"
    "code{font:.9em ui-monospace,monospace;background:var(--card);border:1px solid var(--line);border-radius:3px;"
    "padding:0 .25em;white-space:pre}\n"
    ".swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}\n"
    ".warning{border-left:4px solid #d9902f;padding:.2em .8em;margin:.5em 0}\n"
    "summary{cursor:pointer}nav a{margin-right:1em}a{color:#3d85c8}\n";

static void print_help(void) {
  puts("moec report RUN... -o report.html     one self-contained page about one run, or several side by side\n"
       "\n"
       "  -o FILE            the page to write\n"
       "  --trainer=FILE     the run's trainer, for the decisions and the forecast in it (repeatable); one that\n"
       "                     moec train left in the run directory is found without it\n"
       "  --token=TOKEN      the probe token whose path is drawn, an id or its text (default: those that change most)");
}

static void write_head(Report *report) {
  Text *page = &report->page;
  text_format(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                    "<link rel=\"icon\" href=\"data:,\">\n<title>moec report: ");
  for (uint32_t i = 0; i < vec_len(report->runs); i++) {
    text_format(page, i ? ", " : "");
    html_text(page, report->runs[i].name);
  }
  text_format(page, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>", style);
  if (vec_len(report->runs) == 1)
    html_text(page, report->runs[0].name);
  else
    text_format(page, "%u training runs", vec_len(report->runs));
  text_format(page, "</h1>\n");
  text_format(page, "<nav><a href=\"#summary\">Summary</a><a href=\"#curves\">Curves</a><a href=\"#routing\">"
                    "Routing</a><a href=\"#probe\">Tokens</a><a href=\"#cost\">Memory and time</a>"
                    "<a href=\"#ledger\">Decisions</a></nav>\n");
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    for (uint32_t k = 0; k < vec_len(report->runs[i].warnings); k++) {
      text_format(page, "<p class=\"warning\">");
      html_text(page, report->runs[i].warnings[k]);
      text_format(page, "</p>\n");
    }
}

int command_report(int argc, char **argv) {
  const char *output = NULL, *token = NULL;
  OptionList words = {0}, trainer_words = {0};
  bool help = false;
  const Option options[] = {{"-o", OPTION_TEXT, &output, 0},
                            {"--trainer", OPTION_LIST, &trainer_words, 0},
                            {"--token", OPTION_TEXT, &token, 0},
                            {"--help", OPTION_FLAG, &help, 0}};
  runtime_program = "moec";
  options_parse("report", argc, argv, options, sizeof options / sizeof *options, &words);
  if (help) {
    print_help();
    return 0;
  }
  if (words.count == 0)
    runtime_fail(FAIL_USAGE, "report: no run directory is named (moec report RUN... -o report.html)");
  if (!output)
    runtime_fail(FAIL_USAGE, "report: -o FILE is missing");
  Report report = {.arena = arena_new(), .token = token};
  const char **trainers = NULL;
  for (int i = 0; i < trainer_words.count; i++)
    vec_push(report.arena, trainers, trainer_words.words[i]);
  for (int i = 0; i < words.count; i++) {
    Run run = report_read(&report, words.words[i], trainers);
    vec_push(report.arena, report.runs, run);
  }
  write_head(&report);
  report_summary(&report);
  report_curves(&report);
  report_routing(&report);
  report_probe(&report);
  report_cost(&report);
  report_ledger(&report);
  text_format(&report.page, "</body>\n</html>\n");
  file_replace(output, report.page.data, report.page.size);
  return 0;
}
