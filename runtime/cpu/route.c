/* Packed routing: every selected (token, expert) pair gets a row, in expert order, then token order.
 *
 * In: mask[n, experts]. Out: pair, off, slot (ir/ops.def, op route). The tokens are cut into CHUNKS parts, always the
 * same ones, so that counting and placing run in parallel and give the same rows with any number of threads: each part
 * counts its pairs per expert, a scan gives every (expert, part) its first row, each part places its pairs. */
#include <string.h>

#include "runtime/cpu/cpu.h"

enum { CHUNKS = 64 }; /* the plan's scratch is (experts+1) * 64 */

static int64_t chunk_begin(const CpuRoute *r, int64_t chunk) {
  return r->n * chunk / CHUNKS;
}

/* Counts a part's pairs per expert; returns the first token that selects too many, or -1. */
static int64_t count_chunk(const CpuRoute *r, int64_t chunk, int32_t *count) {
  memset(count, 0, (size_t)r->experts * sizeof *count);
  for (int64_t t = chunk_begin(r, chunk); t < chunk_begin(r, chunk + 1); t++) {
    const float *mask = r->mask + t * r->ldm;
    int64_t selected = 0;
    for (int64_t e = 0; e < r->experts; e++) {
      count[e] += mask[e] != 0;
      selected += mask[e] != 0;
    }
    if (selected > r->k)
      return t;
  }
  return -1;
}

/* Writes pair and slot of a part, whose first row for each expert stands in `next`. */
static void place_chunk(const CpuRoute *r, int64_t chunk, int32_t *next) {
  for (int64_t t = chunk_begin(r, chunk); t < chunk_begin(r, chunk + 1); t++) {
    const float *mask = r->mask + t * r->ldm;
    int32_t *slot = r->slot + t * r->k;
    int64_t used = 0;
    for (int64_t e = 0; e < r->experts; e++)
      if (mask[e] != 0) {
        int32_t row = next[e]++;
        r->pair[row] = (int32_t)(t * r->experts + e);
        slot[used++] = row;
      }
    while (used < r->k)
      slot[used++] = -1;
  }
}

static CpuRouteStatus too_many_of_token(const CpuRoute *r, int64_t token) {
  CpuRouteStatus status = {.error = ROUTE_TOO_MANY_OF_TOKEN, .token = token};
  for (int64_t e = 0; e < r->experts; e++)
    status.count += r->mask[token * r->ldm + e] != 0;
  return status;
}

CpuRouteStatus cpu_route(const CpuRoute *r) {
  int32_t *count = r->scratch; /* [CHUNKS, experts]: pairs of a part, then its first rows */
  int64_t wrong[CHUNKS], total = 0;
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < CHUNKS; chunk++)
    wrong[chunk] = count_chunk(r, chunk, count + chunk * r->experts);
  for (int64_t chunk = 0; chunk < CHUNKS; chunk++)
    if (wrong[chunk] >= 0)
      return too_many_of_token(r, wrong[chunk]);

  for (int64_t i = 0; i < CHUNKS * r->experts; i++)
    total += count[i];
  if (total > r->bound)
    return (CpuRouteStatus){.error = ROUTE_TOO_MANY, .count = total};
  int32_t row = 0;
  for (int64_t e = 0; e < r->experts; e++) {
    r->off[e] = row;
    for (int64_t chunk = 0; chunk < CHUNKS; chunk++) {
      int32_t here = count[chunk * r->experts + e];
      count[chunk * r->experts + e] = row;
      row += here;
    }
  }
  r->off[r->experts] = row;
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < CHUNKS; chunk++)
    place_chunk(r, chunk, count + chunk * r->experts);
  return (CpuRouteStatus){.error = ROUTE_DONE};
}
