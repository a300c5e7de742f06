/* The decision ledger: recording, and printing as text and JSON. See ledger.h. */
#include "passes/ledger.h"

#include <string.h>
#include <cjson/cJSON.h>

Ledger *ledger_new(Arena *arena) {
  Ledger *ledger = arena_alloc(arena, sizeof *ledger);
  ledger->arena = arena;
  return ledger;
}

int decide(Ledger *ledger, Site site, const char *chosen, Alternative *alternatives, Cost cost, const char *reason) {
  const Decision d = {.number = (int)vec_len(ledger->decisions) + 1,
                      .site = site,
                      .chosen = chosen,
                      .cost = cost,
                      .alternatives = alternatives,
                      .reason = reason};
  vec_push(ledger->arena, ledger->decisions, d);
  return d.number;
}

/* ---------------------------------------------------------------- text */

static bool text_equal(const char *a, const char *b) {
  return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool cost_equal(Cost a, Cost b) {
  return a.bytes == b.bytes && a.flops == b.flops && a.launches == b.launches && a.microseconds == b.microseconds;
}

/* The length of the name at `text`, as names of values are made; 0 when none starts there. */
static size_t name_length(const char *text) {
  return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.");
}

/* Whether a's name and b's are the names of the same value of each. */
static bool same_value(const Decision *a, const char *in_a, size_t length_a, const Decision *b, const char *in_b,
                       size_t length_b) {
  for (uint32_t v = 0; v < vec_len(a->site.values) && v < vec_len(b->site.values); v++)
    if (strlen(a->site.values[v]) == length_a && memcmp(a->site.values[v], in_a, length_a) == 0 &&
        strlen(b->site.values[v]) == length_b && memcmp(b->site.values[v], in_b, length_b) == 0)
      return true;
  return false;
}

/* Equal texts but for the names of the values that the decisions are about. */
static bool text_alike(const Decision *a, const char *x, const Decision *b, const char *y) {
  while (*x != '\0' && *y != '\0') {
    const size_t n = name_length(x), m = name_length(y);
    const bool equal = n == m && memcmp(x, y, n == 0 ? 1 : n) == 0;
    if (!equal && (n == 0 || m == 0 || !same_value(a, x, n, b, y, m)))
      return false;
    x += n == 0 ? 1 : n;
    y += m == 0 ? 1 : m;
  }
  return *x == *y;
}

/* Equal but for number and values. */
static bool decision_alike(const Decision *a, const Decision *b) {
  bool alike = strcmp(a->site.pass, b->site.pass) == 0 && strcmp(a->site.function, b->site.function) == 0 &&
               text_equal(a->site.loc.file, b->site.loc.file) && a->site.loc.line == b->site.loc.line &&
               text_alike(a, a->chosen, b, b->chosen) && cost_equal(a->cost, b->cost) &&
               text_alike(a, a->reason, b, b->reason) && vec_len(a->alternatives) == vec_len(b->alternatives);
  for (uint32_t i = 0; alike && i < vec_len(a->alternatives); i++)
    alike = text_alike(a, a->alternatives[i].what, b, b->alternatives[i].what) &&
            cost_equal(a->alternatives[i].cost, b->alternatives[i].cost) &&
            text_alike(a, a->alternatives[i].why_lost, b, b->alternatives[i].why_lost);
  return alike;
}

/* "1.2 MB" */
static void print_scaled(FILE *out, double value, const char *unit) {
  static const char *const prefix[] = {"", "k", "M", "G", "T", "P"};
  size_t p = 0;
  while (value >= 1000 && p + 1 < sizeof prefix / sizeof *prefix) {
    value /= 1000;
    p++;
  }
  fprintf(out, "%.4g %s%s", value, prefix[p], unit);
}

/* " (5 launches, 1.2 MB, 3 MFLOP, 12 us)", or nothing when nothing is predicted */
static void print_cost(FILE *out, Cost c) {
  const char *separator = " (";
  if (c.launches >= 0) {
    fprintf(out, "%s%.0f launch%s", separator, c.launches, c.launches == 1 ? "" : "es");
    separator = ", ";
  }
  if (c.bytes >= 0) {
    fputs(separator, out);
    print_scaled(out, c.bytes, "B");
    separator = ", ";
  }
  if (c.flops >= 0) {
    fputs(separator, out);
    print_scaled(out, c.flops, "FLOP");
    separator = ", ";
  }
  if (c.microseconds >= 0) {
    fprintf(out, "%s%.4g us", separator, c.microseconds);
    separator = ", ";
  }
  if (strcmp(separator, " (") != 0)
    fputs(")", out);
}

enum { NUMBERS_SHOWN = 4, VALUES_SHOWN = 8 };

static void print_values(const Decision *d, FILE *out) {
  const uint32_t count = vec_len(d->site.values);
  for (uint32_t v = 0; v < count && v < VALUES_SHOWN; v++)
    fprintf(out, "%s%%%s", v == 0 ? "" : ", ", d->site.values[v]);
  if (count > VALUES_SHOWN)
    fprintf(out, ", ... %u more", count - VALUES_SHOWN);
}

/* One decision; `alike` are the indices of those it speaks for, itself first. */
static void print_decision(const Ledger *ledger, const uint32_t *alike, FILE *out) {
  const Decision *d = &ledger->decisions[alike[0]];
  const uint32_t count = vec_len(alike);
  fprintf(out, "decision %d", d->number);
  for (uint32_t i = 1; i < count && i < NUMBERS_SHOWN; i++)
    fprintf(out, ", %d", ledger->decisions[alike[i]].number);
  if (count > NUMBERS_SHOWN)
    fprintf(out, ", ... %d", ledger->decisions[alike[count - 1]].number);
  fprintf(out, "  %s  @%s", d->site.pass, d->site.function);
  if (d->site.loc.file != NULL)
    fprintf(out, "  %s:%d", d->site.loc.file, d->site.loc.line);
  if (count > 1)
    fprintf(out, "  (%u alike)", count);
  if (vec_len(d->site.values) > 0) {
    fprintf(out, "\n  values:   ");
    print_values(d, out);
    fprintf(out, "%s", count > 1 ? " and alike" : "");
  }
  fprintf(out, "\n  chosen:   %s", d->chosen);
  print_cost(out, d->cost);
  fprintf(out, "\n  reason:   %s\n", d->reason);
  for (uint32_t i = 0; i < vec_len(d->alternatives); i++) {
    const Alternative *a = &d->alternatives[i];
    fprintf(out, "  instead:  %s", a->what);
    print_cost(out, a->cost);
    if (text_equal(a->why_lost, d->reason))
      fputs("\n", out);
    else
      fprintf(out, ": %s\n", a->why_lost);
  }
}

void ledger_print(const Ledger *ledger, bool all, FILE *out) {
  const uint32_t count = vec_len(ledger->decisions);
  bool *told = arena_alloc(ledger->arena, count + 1);
  for (uint32_t i = 0; i < count; i++) {
    if (told[i])
      continue;
    uint32_t *alike = NULL;
    vec_push(ledger->arena, alike, i);
    for (uint32_t j = i + 1; !all && j < count; j++)
      if (!told[j] && decision_alike(&ledger->decisions[i], &ledger->decisions[j])) {
        told[j] = true;
        vec_push(ledger->arena, alike, j);
      }
    print_decision(ledger, alike, out);
  }
}

/* ---------------------------------------------------------------- JSON */

static void add_number(cJSON *object, const char *key, double value) {
  if (value >= 0)
    cJSON_AddNumberToObject(object, key, value);
}

static void add_cost(cJSON *object, Cost c) {
  cJSON *cost = cJSON_AddObjectToObject(object, "cost");
  add_number(cost, "bytes", c.bytes);
  add_number(cost, "flops", c.flops);
  add_number(cost, "launches", c.launches);
  add_number(cost, "microseconds", c.microseconds);
}

static cJSON *decision_json(const Decision *d) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddNumberToObject(object, "number", d->number);
  cJSON_AddStringToObject(object, "pass", d->site.pass);
  cJSON_AddStringToObject(object, "function", d->site.function);
  if (d->site.loc.file != NULL) {
    cJSON_AddStringToObject(object, "file", d->site.loc.file);
    cJSON_AddNumberToObject(object, "line", d->site.loc.line);
  }
  cJSON *values = cJSON_AddArrayToObject(object, "values");
  for (uint32_t v = 0; v < vec_len(d->site.values); v++)
    cJSON_AddItemToArray(values, cJSON_CreateString(d->site.values[v]));
  cJSON_AddStringToObject(object, "chosen", d->chosen);
  add_cost(object, d->cost);
  cJSON_AddStringToObject(object, "reason", d->reason);
  cJSON *alternatives = cJSON_AddArrayToObject(object, "alternatives");
  for (uint32_t i = 0; i < vec_len(d->alternatives); i++) {
    cJSON *alternative = cJSON_CreateObject();
    cJSON_AddStringToObject(alternative, "what", d->alternatives[i].what);
    add_cost(alternative, d->alternatives[i].cost);
    cJSON_AddStringToObject(alternative, "why_lost", d->alternatives[i].why_lost);
    cJSON_AddItemToArray(alternatives, alternative);
  }
  return object;
}

char *ledger_json(const Ledger *ledger) {
  cJSON *root = cJSON_CreateObject();
  cJSON *decisions = cJSON_AddArrayToObject(root, "decisions");
  for (uint32_t i = 0; i < vec_len(ledger->decisions); i++)
    cJSON_AddItemToArray(decisions, decision_json(&ledger->decisions[i]));
  char *text = cJSON_Print(root);
  cJSON_Delete(root);
  if (text == NULL)
    ir_bug("no memory for the ledger's JSON");
  return text;
}
