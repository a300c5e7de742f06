/* Comparing tensors, and keeping the first and the worst of what was found. */
#include <math.h>
#include <string.h>

#include "frontend/check.h"

/* Below this, f32 has no numbers any more: differences are no news. */
static const double smallest_scale = 1e-36;

bool deviation_is_mistake(const Deviation *d) {
  return d->what && !(d->error <= d->allowed);
}

/* How near an error comes to what is allowed; everything that should be exact and is not comes first. */
static double weight(const Deviation *d) {
  return d->error == 0 ? 0 : d->error / d->allowed;
}

void check_note(CheckRow *row, Deviation d) {
  row->compared++;
  if (deviation_is_mistake(&d)) {
    row->deviating++;
    if (!row->first.what)
      row->first = d;
  }
  if (!row->worst.what || weight(&d) > weight(&row->worst))
    row->worst = d;
}

CheckRow *check_row(Check *check, const char *name, const char *func) {
  for (uint32_t i = 0; i < vec_len(check->rows); i++)
    if (strcmp(check->rows[i].check, name) == 0 && strcmp(check->rows[i].func, func) == 0)
      return &check->rows[i];
  vec_push(check->arena, check->rows, (CheckRow){.check = name, .func = func});
  return &vec_last(check->rows);
}

void note_conflicts(Check *check, CheckRow *row, const EvalReplay *replay) {
  row->decisions += replay->differing;
  for (uint32_t i = 0; i < vec_len(replay->conflicts); i++) {
    const EvalConflict *c = &replay->conflicts[i];
    check_note(row, (Deviation){.what = arena_print(check->arena, "%%%s", c->value),
                                .detail = arena_print(check->arena, "a choice that the numbers contradict, %s:%d",
                                                      c->loc.file ? c->loc.file : "-", c->loc.line),
                                .element = c->element,
                                .error = c->margin,
                                .allowed = replay->tolerance});
  }
}

static double element(const Tensor *t, int64_t at) {
  return t->i ? (double)t->i[at] : t->f[at];
}

static bool same_shape(const Tensor *a, const Tensor *b) {
  bool same = a->rank == b->rank && a->live == b->live && (a->i != NULL) == (b->i != NULL);
  for (int d = 0; same && d < a->rank; d++)
    same = a->dim[d] == b->dim[d];
  return same;
}

static double largest(const Tensor *t) {
  double most = 0;
  for (int64_t at = 0, count = tensor_live_elements(t); at < count; at++)
    if (isfinite(element(t, at)))
      most = fmax(most, fabs(element(t, at)));
  return most;
}

static double element_error(double found, double expected, double scale) {
  if (found == expected || (isnan(found) && isnan(expected)))
    return 0;
  double difference = fabs(found - expected);
  return isfinite(difference) ? difference / fmax(scale, smallest_scale) : INFINITY;
}

Deviation compare_tensors(const char *what, const Tensor *found, const Tensor *expected, const Tensor *scale,
                          double allowed) {
  Deviation worst = {.what = what, .allowed = allowed};
  if (!same_shape(found, expected)) {
    worst.error = INFINITY;
    worst.found = (double)tensor_live_elements(found);
    worst.expected = (double)tensor_live_elements(expected);
    worst.detail = "another shape or number of live rows; the numbers are live elements";
    return worst;
  }
  double whole = scale ? 0 : largest(expected);
  for (int64_t at = 0, count = tensor_live_elements(expected); at < count; at++) {
    double x = element(found, at), y = element(expected, at);
    double error = element_error(x, y, scale ? element(scale, at) : whole);
    if (at == 0 || error > worst.error) {
      worst.element = at;
      worst.found = x;
      worst.expected = y;
      worst.error = error;
    }
  }
  return worst;
}
