/* Exclusive sums of counts, bin after bin and within a bin part after part: the first place of every (bin, part).
 *
 * In: count[bins][parts] of i32; wrong[parts][2], the first user's mistake that each part has met, or -1. Out: the sums
 * in the place of the counts, and off[bins + 1] where it is not null: the first place of every bin and, last, the total.
 * The first mistake of all is reported in the status cell under `code`, else a total above `bound`; the offsets then end
 * at the bound, so that what reads them stays within its memory.
 *
 * One block of 1024 threads, a warp for every bin in turn; at most 1024 bins. Bytes: the counts read twice and written
 * once by one multiprocessor: 128 KB (128 parts of 256 bins) take a few microseconds. */
enum { THREADS = 1024, WARPS = THREADS / 32, MOST_BINS = 1024 };

/* The sum of x over the lanes before this one. All lanes get the total. */
MOEC_INLINE int32_t sum_before(int32_t x, int32_t *total) {
  const int lane = threadIdx.x & 31;
  int32_t sum = x;
#pragma unroll
  for (int distance = 1; distance < 32; distance <<= 1) {
    const int32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
    sum += lane >= distance ? other : 0;
  }
  *total = __shfl_sync(0xffffffffu, sum, 31);
  return sum - x;
}

MOEC_INLINE void report(int64_t *status, int64_t code, int64_t site, int64_t first, int64_t second) {
  if (status[0] != 0)
    return;
  status[0] = code;
  status[1] = site;
  status[2] = first;
  status[3] = second;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    KERNEL(int32_t *count, const int32_t *wrong, int32_t *off, int64_t bins, int64_t parts, int64_t bound, int64_t code,
           int64_t *status, int64_t site) {
  __shared__ int32_t first[MOST_BINS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int bin = warp; bin < bins; bin += WARPS) {
    int32_t sum = 0;
    for (int part = lane; part < parts; part += 32)
      sum += count[bin * parts + part];
    int32_t total;
    sum_before(sum, &total);
    if (lane == 0)
      first[bin] = total;
  }
  __syncthreads();
  if (warp == 0) {
    int32_t before = 0;
    for (int base = 0; base < bins; base += 32) {
      const int bin = base + lane;
      int32_t total;
      const int32_t own = sum_before(bin < bins ? first[bin] : 0, &total);
      if (bin < bins)
        first[bin] = before + own;
      if (off && bin < bins)
        off[bin] = before + own < bound ? before + own : (int32_t)bound;
      before += total;
    }
    int32_t mistaken = 0x7fffffff; /* the first part that has met a mistake */
    for (int part = lane; wrong && part < parts; part += 32)
      if (wrong[2 * part] >= 0 && part < mistaken)
        mistaken = part;
    mistaken = moec_team_min<32>(mistaken);
    if (lane == 0) {
      if (mistaken < parts)
        report(status, code, site, wrong[2 * mistaken], wrong[2 * mistaken + 1]);
      if (before > bound)
        report(status, 2, site, 0, before);
      if (off)
        off[bins] = before < bound ? before : (int32_t)bound;
    }
  }
  __syncthreads();
  for (int bin = warp; bin < bins; bin += WARPS) {
    int32_t before = first[bin];
    for (int base = 0; base < parts; base += 32) {
      const int part = base + lane;
      int32_t total;
      const int32_t own = sum_before(part < parts ? count[bin * parts + part] : 0, &total);
      if (part < parts)
        count[bin * parts + part] = before + own;
      before += total;
    }
  }
}
