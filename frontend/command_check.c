/* moec check: compares passes, gradients and the trainer of a model with the interpreter, and says where they differ.
 *
 * In: a script; or IR text, of which passes and gradients are checked.
 * Out: a table with one line per check and function, and below it the first and the worst mistake of each; or JSON.
 * Exit code 70 when anything differs by more than is allowed: that is a bug in moec, never the script's.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <cjson/cJSON.h>

#include "frontend/check.h"
#include "frontend/commands.h"

enum { EXIT_BUG = 70 };

/* ---------------------------------------------------------------- text */

static void print_row(const CheckRow *row, FILE *out) {
  fprintf(out, "%-10s %-24s %9" PRId64 " %9" PRId64, row->check, row->func, row->compared, row->deviating);
  if (row->worst.what && row->worst.error > 0)
    fprintf(out, "   %8.1e %8.1e  %s", row->worst.error, row->worst.allowed, row->worst.what);
  else
    fprintf(out, "   %8s", "0");
  if (row->decisions)
    fprintf(out, " (%" PRId64 " choices within rounding)", row->decisions);
  fputc('\n', out);
}

static void print_mistake(const CheckRow *row, const char *rank, const Deviation *d, FILE *out) {
  fprintf(out, "%s: @%s: %s mistake: %s", row->check, row->func, rank, d->what);
  if (d->detail)
    fprintf(out, ", %s", d->detail);
  fprintf(out, ", element %" PRId64 ": found %.9g, expected %.9g, relative error %.2e, allowed %.0e\n", d->element,
          d->found, d->expected, d->error, d->allowed);
}

static void print_text(const Check *check, FILE *out) {
  fprintf(out, "%-10s %-24s %9s %9s   %8s %8s  %s\n", "check", "function", "compared", "mistakes", "worst", "allowed",
          "at");
  for (uint32_t i = 0; i < vec_len(check->rows); i++)
    print_row(&check->rows[i], out);
  for (uint32_t i = 0; i < vec_len(check->rows); i++) {
    const CheckRow *row = &check->rows[i];
    if (!row->deviating)
      continue;
    print_mistake(row, "first", &row->first, out);
    if (row->deviating > 1)
      print_mistake(row, "worst", &row->worst, out);
  }
}

/* ---------------------------------------------------------------- JSON */

static void add_number(cJSON *to, const char *name, double value) {
  if (isfinite(value))
    cJSON_AddNumberToObject(to, name, value);
  else
    cJSON_AddStringToObject(to, name, isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
}

static void add_deviation(cJSON *row, const char *name, const Deviation *d) {
  cJSON *to = cJSON_AddObjectToObject(row, name);
  cJSON_AddStringToObject(to, "what", d->what);
  if (d->detail)
    cJSON_AddStringToObject(to, "detail", d->detail);
  add_number(to, "element", (double)d->element);
  add_number(to, "found", d->found);
  add_number(to, "expected", d->expected);
  add_number(to, "error", d->error);
  add_number(to, "allowed", d->allowed);
}

static void print_json(const Check *check, int64_t mistakes, FILE *out) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "model", check->options->model);
  add_number(root, "mistakes", (double)mistakes);
  cJSON *rows = cJSON_AddArrayToObject(root, "checks");
  for (uint32_t i = 0; i < vec_len(check->rows); i++) {
    const CheckRow *row = &check->rows[i];
    cJSON *to = cJSON_CreateObject();
    cJSON_AddItemToArray(rows, to);
    cJSON_AddStringToObject(to, "check", row->check);
    cJSON_AddStringToObject(to, "function", row->func);
    add_number(to, "compared", (double)row->compared);
    add_number(to, "mistakes", (double)row->deviating);
    add_number(to, "decisions", (double)row->decisions);
    if (row->worst.what)
      add_deviation(to, "worst", &row->worst);
    if (row->first.what)
      add_deviation(to, "first", &row->first);
  }
  fprintf(out, "%s\n", cJSON_Print(root));
}

/* ---------------------------------------------------------------- the command */

int command_check(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_CHECK, argc, argv);
  options.keep_values = true;
  Model model = model_load(arena, &options, false);
  Check check = {.arena = arena, .options = &options, .phase = model_phase(&model)};
  check.inputs = inputs_new(model.module, (uint64_t)options.seed);
  check_passes(&check, &model);
  if (!model_is_text(&options))
    check_target(&check, model.module);
  int64_t mistakes = 0;
  for (uint32_t i = 0; i < vec_len(check.rows); i++)
    mistakes += check.rows[i].deviating;
  FILE *out = output_open(&options);
  if (options.json)
    print_json(&check, mistakes, out);
  else
    print_text(&check, out);
  output_close(&options, out);
  if (!mistakes)
    return 0;
  fprintf(stderr, "moec: a bug in moec: %s does not compute what its script says (%" PRId64 " mistakes)\n",
          options.model, mistakes);
  return EXIT_BUG;
}
