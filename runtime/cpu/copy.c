/* Rows moved or filled. */
#include <string.h>

#include "runtime/cpu/cpu.h"

enum { PARALLEL_BYTES = 1 << 16 }; /* below this, starting threads costs more than the copy */

void cpu_copy(int64_t rows, int64_t columns, PlanType type, CpuMatrix from, CpuMatrix to) {
  int64_t size = (int64_t)plan_type_size(type), bytes = columns * size;
#pragma omp parallel for schedule(static) if (rows * bytes > PARALLEL_BYTES)
  for (int64_t r = 0; r < rows; r++)
    memcpy((char *)to.data + r * to.ld * size, (char *)from.data + r * from.ld * size, (size_t)bytes);
}

static void fill_row(void *row, int64_t columns, PlanType type, double value) {
  if (type == PLAN_F32)
    for (int64_t c = 0; c < columns; c++)
      ((float *)row)[c] = (float)value;
  else if (type == PLAN_I32)
    for (int64_t c = 0; c < columns; c++)
      ((int32_t *)row)[c] = (int32_t)value;
  else
    for (int64_t c = 0; c < columns; c++)
      ((uint16_t *)row)[c] = cpu_to_bf16((float)value);
}

void cpu_fill(int64_t rows, int64_t columns, PlanType type, CpuMatrix to, double value) {
  int64_t size = (int64_t)plan_type_size(type);
#pragma omp parallel for schedule(static) if (rows * columns * size > PARALLEL_BYTES)
  for (int64_t r = 0; r < rows; r++)
    fill_row((char *)to.data + r * to.ld * size, columns, type, value);
}
