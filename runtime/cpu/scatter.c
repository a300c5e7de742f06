/* scatter_rows: row v of c is the sum of the rows i of x with ids[i] = v, in order of i.
 *
 * A stable counting sort of the ids gives every row its contributions in order; then rows are summed in parallel, each
 * by one thread, so that the result does not depend on how many there are. A row without contributions is zero. */
#include <string.h>

#include "runtime/cpu/cpu.h"

enum { COLUMNS = 256 }; /* of one task, so that few rows with many contributions still fill all threads */

static void add_row(float *sum, const void *row, int64_t columns, PlanType type) {
  if (type == PLAN_BF16)
    for (int64_t c = 0; c < columns; c++)
      sum[c] += cpu_from_bf16(((const uint16_t *)row)[c]);
  else
    for (int64_t c = 0; c < columns; c++)
      sum[c] += ((const float *)row)[c];
}

/* Columns begin..end of row v. */
static void sum_row(const CpuScatter *s, const int32_t *first, const int32_t *order, int64_t v, int64_t begin,
                    int64_t end) {
  size_t size = plan_type_size(s->type);
  float sum[COLUMNS] = {0};
  for (int32_t i = first[v]; i < first[v + 1]; i++)
    add_row(sum, (const char *)s->x.data + (size_t)(order[i] * s->x.ld + begin) * size, end - begin, s->type);
  int64_t to = v * s->c.ld + begin;
  if (s->ctype == PLAN_BF16)
    for (int64_t c = 0; c < end - begin; c++)
      ((uint16_t *)s->c.data)[to + c] = cpu_to_bf16(sum[c]);
  else
    memcpy((float *)s->c.data + to, sum, (size_t)(end - begin) * sizeof *sum);
}

int64_t cpu_scatter_rows(const CpuScatter *s) {
  int32_t *first = s->scratch, *order = s->scratch + s->rows + 1;
  memset(first, 0, (size_t)(s->rows + 1) * sizeof *first);
  for (int64_t i = 0; i < s->n; i++) {
    if (s->ids[i] < 0 || s->ids[i] >= s->rows)
      return i;
    first[s->ids[i]]++;
  }
  int32_t sum = 0; /* first[v] becomes the end of row v, and placing from the back moves it to the begin */
  for (int64_t v = 0; v <= s->rows; v++)
    first[v] = sum += first[v];
  for (int64_t i = s->n - 1; i >= 0; i--)
    order[--first[s->ids[i]]] = (int32_t)i;

  int64_t parts = (s->d + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t task = 0; task < s->rows * parts; task++) {
    int64_t begin = task % parts * COLUMNS, end = begin + COLUMNS < s->d ? begin + COLUMNS : s->d;
    sum_row(s, first, order, task / parts, begin, end);
  }
  return -1;
}
