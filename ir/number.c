/* Text of numbers and of schedules.
 *
 * A schedule is printed as runs (docs/plan.md): linear(a,b,n) stands for (float)(a + b*i), i = 0..n-1, and is used only
 * where it gives every value exactly. A run is the longest stretch that one line passes through: each value v allows
 * the lines that round to v, lo <= a + b*i <= hi; in the plane of (a, b) these are strips, and what they leave is a
 * convex polygon that is clipped until it vanishes. Any point of the last polygon will do; the one with the fewest
 * digits is taken. Coordinates are relative to the first value, since the polygon is some 1e-8 of it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/internal.h"

char *number_text(Arena *a, double value) {
  char text[40];
  if (isnan(value))
    return arena_print(a, "nan");
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtod(text, NULL) == value)
      break;
  }
  return arena_copy(a, text, strlen(text));
}

/* ---------------------------------------------------------------- lines through values */

enum { MAX_CORNERS = 64, SHORTEST_LINE = 4 };

typedef struct Point {
  double a, b;
} Point;

typedef struct Polygon {
  int count;
  Point corner[MAX_CORNERS];
} Polygon;

/* What is left of `p` where sign*(a + b*i) <= sign*bound. */
static Polygon clip(const Polygon *p, double i, double bound, double sign) {
  Polygon result = {0};
  for (int c = 0; c < p->count && result.count < MAX_CORNERS - 1; c++) {
    Point from = p->corner[c], to = p->corner[(c + 1) % p->count];
    double d = sign * (from.a + from.b * i - bound), e = sign * (to.a + to.b * i - bound);
    if (d <= 0)
      result.corner[result.count++] = from;
    if ((d < 0 && e > 0) || (d > 0 && e < 0)) {
      double t = d / (d - e);
      result.corner[result.count++] = (Point){from.a + t * (to.a - from.a), from.b + t * (to.b - from.b)};
    }
  }
  return result;
}

/* The doubles that round to `v` lie between the middles to its neighbours. */
static double middle(float v, float towards) {
  return ((double)v + (double)nextafterf(v, towards)) / 2;
}

static bool line_gives(double a, double b, uint32_t i, float value) {
  float plain = (float)(a + b * i), contracted = (float)fma(b, i, a); /* whichever the reader's compiler makes */
  return memcmp(&plain, &value, sizeof value) == 0 && memcmp(&contracted, &value, sizeof value) == 0;
}

/* How many values, from the first on, the line gives. */
static uint32_t line_length(double a, double b, const float *values, uint32_t count) {
  uint32_t i = 0;
  while (i < count && line_gives(a, b, i, values[i]))
    i++;
  return i;
}

/* The number with the fewest digits in [low, high]. */
static double shortest_between(double low, double high) {
  char text[40];
  double middle_value = low + (high - low) / 2;
  if (low <= 0 && high >= 0)
    return 0;
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, middle_value);
    double value = strtod(text, NULL);
    if (value >= low && value <= high)
      return value;
  }
  return middle_value;
}

/* The part of the vertical line at `a` inside the polygon. */
static bool polygon_column(const Polygon *p, double a, double *low, double *high) {
  *low = INFINITY, *high = -INFINITY;
  for (int c = 0; c < p->count; c++) {
    Point from = p->corner[c], to = p->corner[(c + 1) % p->count];
    if ((from.a < a && to.a < a) || (from.a > a && to.a > a))
      continue;
    double b = to.a == from.a ? from.b : from.b + (a - from.a) / (to.a - from.a) * (to.b - from.b);
    *low = fmin(*low, b), *high = fmax(*high, b);
  }
  return *low <= *high;
}

/* The line with the fewest digits among those of the polygon, which is relative to `origin`. */
static Point shortest_line(const Polygon *p, double origin) {
  double low = INFINITY, high = -INFINITY, b_low, b_high;
  Point center = {0, 0};
  for (int c = 0; c < p->count; c++) {
    low = fmin(low, p->corner[c].a), high = fmax(high, p->corner[c].a);
    center.a += p->corner[c].a / p->count;
    center.b += p->corner[c].b / p->count;
  }
  double a = shortest_between(origin + low, origin + high);
  if (!polygon_column(p, a - origin, &b_low, &b_high))
    return (Point){origin + center.a, center.b};
  return (Point){a, shortest_between(b_low, b_high)};
}

/* The longest line from the first value on: returns how many values it gives. */
static uint32_t find_line(const float *values, uint32_t count, Point *line) {
  Polygon polygon = {0};
  if (count < SHORTEST_LINE || !isfinite(values[0]) || !isfinite(values[1]))
    return 0;
  double origin = values[0];
  double a_low = middle(values[0], -INFINITY) - origin, a_high = middle(values[0], INFINITY) - origin;
  double b_low = middle(values[1], -INFINITY) - origin, b_high = middle(values[1], INFINITY) - origin;
  polygon = (Polygon){
      .count = 4,
      .corner = {{a_low, b_low - a_low}, {a_high, b_low - a_high}, {a_high, b_high - a_high}, {a_low, b_high - a_low}}};
  uint32_t length = 2;
  for (; length < count && isfinite(values[length]); length++) {
    Polygon above = clip(&polygon, length, middle(values[length], -INFINITY) - origin, -1);
    Polygon both = clip(&above, length, middle(values[length], INFINITY) - origin, 1);
    if (both.count < 3 || both.count > MAX_CORNERS - 4)
      break;
    polygon = both;
  }
  if (length < SHORTEST_LINE)
    return 0;
  *line = shortest_line(&polygon, origin);
  return line_length(line->a, line->b, values, length);
}

char *schedule_text(Arena *arena, const Schedule *s) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    ir_bug("no memory stream");
  bool in_raw = false;
  for (uint32_t i = 0, count = vec_len(s->values); i < count;) {
    Point line;
    uint32_t length = find_line(s->values + i, count - i, &line);
    bool raw = length < SHORTEST_LINE;
    if (in_raw && !raw)
      fputs(")", out);
    if (i > 0 && !(in_raw && raw))
      fputs(";", out);
    if (raw)
      fprintf(out, "%s%.9g", in_raw ? "," : "raw(", (double)s->values[i]);
    else
      fprintf(out, "linear(%s,%s,%u)", number_text(arena, line.a), number_text(arena, line.b), length);
    in_raw = raw;
    i += raw ? 1 : length;
  }
  if (in_raw)
    fputs(")", out);
  fclose(out);
  char *result = arena_copy(arena, text, size);
  free(text);
  return result;
}
