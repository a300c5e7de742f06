/* Sums of the packed rows of each group, over off[e]..off[e+1]; an empty group gives 0.
 *
 * A task is a group and a slice of columns. It adds rows in blocks and blocks to the total: thousands of rows summed
 * one by one would lose digits. Slices are wide, because memory is read in runs of their width, and narrower where
 * there are fewer tasks than threads want; the order of a column's sum is the same in any slice. */
#include <omp.h>
#include <string.h>

#include "runtime/cpu/cpu.h"

enum { COLUMNS = 2048, FEWEST_COLUMNS = 32, BLOCK = 128, TOGETHER = 4 };

/* Adds `count` <= TOGETHER rows, `ld` elements apart: several at a time, so that a sum is read and written once for all
 * of them. */
static void add_bf16(float *restrict sum, const uint16_t *restrict x, int64_t ld, int64_t count, int64_t columns) {
  if (count == TOGETHER) {
    const uint16_t *x1 = x + ld, *x2 = x1 + ld, *x3 = x2 + ld;
    for (int64_t c = 0; c < columns; c++)
      sum[c] += (cpu_from_bf16(x[c]) + cpu_from_bf16(x1[c])) + (cpu_from_bf16(x2[c]) + cpu_from_bf16(x3[c]));
    return;
  }
  for (int64_t r = 0; r < count; r++)
    for (int64_t c = 0; c < columns; c++)
      sum[c] += cpu_from_bf16(x[r * ld + c]);
}

static void add_f32(float *restrict sum, const float *restrict x, int64_t ld, int64_t count, int64_t columns) {
  if (count == TOGETHER) {
    const float *x1 = x + ld, *x2 = x1 + ld, *x3 = x2 + ld;
    for (int64_t c = 0; c < columns; c++)
      sum[c] += (x[c] + x1[c]) + (x2[c] + x3[c]);
    return;
  }
  for (int64_t r = 0; r < count; r++)
    for (int64_t c = 0; c < columns; c++)
      sum[c] += x[r * ld + c];
}

static void add_rows(float *sum, const CpuSegmentSum *s, int64_t begin, int64_t end, int64_t column, int64_t columns) {
  for (int64_t r = begin; r < end; r += TOGETHER) {
    int64_t at = r * s->x.ld + column, count = end - r < TOGETHER ? end - r : TOGETHER;
    if (s->type == PLAN_BF16)
      add_bf16(sum, (const uint16_t *)s->x.data + at, s->x.ld, count, columns);
    else
      add_f32(sum, (const float *)s->x.data + at, s->x.ld, count, columns);
  }
}

static void sum_slice(const CpuSegmentSum *s, int64_t group, int64_t column, int64_t columns) {
  float total[COLUMNS] = {0};
  for (int64_t r = s->off[group]; r < s->off[group + 1]; r += BLOCK) {
    float part[COLUMNS] = {0};
    add_rows(part, s, r, r + BLOCK < s->off[group + 1] ? r + BLOCK : s->off[group + 1], column, columns);
    for (int64_t c = 0; c < columns; c++)
      total[c] += part[c];
  }
  int64_t to = group * s->c.ld + column;
  if (s->ctype == PLAN_BF16)
    for (int64_t c = 0; c < columns; c++)
      ((uint16_t *)s->c.data)[to + c] = cpu_to_bf16(total[c]);
  else
    memcpy((float *)s->c.data + to, total, (size_t)columns * sizeof *total);
}

void cpu_segment_sum(const CpuSegmentSum *s) {
  int64_t width = COLUMNS, wanted = 4 * (int64_t)omp_get_max_threads();
  while (width > FEWEST_COLUMNS && s->groups * ((s->n + width - 1) / width) < wanted)
    width /= 2;
  int64_t parts = (s->n + width - 1) / width;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t task = 0; task < s->groups * parts; task++) {
    int64_t column = task % parts * width;
    sum_slice(s, task / parts, column, column + width < s->n ? width : s->n - column);
  }
}
