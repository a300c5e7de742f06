//@use vector
/* Sums of the packed rows of every group: c[e] = the sum of x[off[e]] .. x[off[e+1] - 1]; 0 for an empty group.
 *
 * Macros: those of vector.cu; GROUPS, COLUMNS (a multiple of VECTOR), LD_X, LD_C elements between rows.
 * Launches: KERNEL_parts, blocks (ceil(bound / 128), ceil(COLUMNS / (VECTOR 256))) of 256 threads; KERNEL_finish,
 * blocks (ceil(COLUMNS / 256), GROUPS) of 256 threads.
 *
 * Rows are cut into blocks of 128 wherever groups begin. What block b has of group e is part b + e: along the rows
 * either b or e grows, so no two parts share a number, and there are at most bound / 128 + GROUPS of them. `finish` adds
 * a group's parts in order. The result depends on the offsets alone. Bytes: x once; parts are 1 / 128 of it in f32. */
enum { THREADS = 256, BLOCK_ROWS = 128 };

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(parts)(const moec_x *x, const int32_t *off, float *parts) {
  const int column = (blockIdx.y * THREADS + threadIdx.x) * VECTOR;
  const int32_t begin = blockIdx.x * BLOCK_ROWS, live = off[GROUPS];
  const int32_t end = begin + BLOCK_ROWS < live ? begin + BLOCK_ROWS : live;
  if (column >= COLUMNS || begin >= end)
    return;
  int32_t group = moec_expert_of_row(off, GROUPS, begin), row = begin;
  while (row < end) {
    while (off[group + 1] <= row)
      group++;
    const int32_t stop = off[group + 1] < end ? off[group + 1] : end;
    Sum sum = {};
#pragma unroll 8
    for (; row < stop; row++) {
      const Vector<moec_x> own = vector_read(x + (int64_t)row * LD_X + column);
      sum_add(&sum, &own);
    }
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
      parts[(int64_t)(blockIdx.x + group) * COLUMNS + column + i] = sum.of[i];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL_FUNCTION(finish)(const float *parts, const int32_t *off, moec_c *c) {
  const int column = blockIdx.x * THREADS + threadIdx.x, group = blockIdx.y;
  if (column >= COLUMNS)
    return;
  float total = 0.0f;
  if (off[group] < off[group + 1]) {
    const int32_t first = off[group] / BLOCK_ROWS, last = (off[group + 1] - 1) / BLOCK_ROWS;
#pragma unroll 4
    for (int32_t block = first; block <= last; block++)
      total += parts[(int64_t)(block + group) * COLUMNS + column];
  }
  moec_set(&c[(int64_t)group * LD_C + column], total);
}
