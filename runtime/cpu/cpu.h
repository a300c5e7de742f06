/* The builtin steps of the CPU device (docs/plan.md, "Builtin steps") with their memory resolved.
 *
 * All matrices are row-major; ld counts elements between rows. `type` f32 unless said; bf16 is stored as uint16_t.
 * Results never depend on the number of threads, except where a product of oneDNN chooses to split its sum.
 */
#ifndef MOEC_RUNTIME_CPU_H
#define MOEC_RUNTIME_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/plan.h"

/* A matrix in memory. */
typedef struct CpuMatrix {
  void *data;
  int64_t ld;
} CpuMatrix;

/* c[m,n] = op(a)[m,k] op(b)[k,n] + beta * c. `ragged`: m or k change from call to call, so nothing is made for them. */
typedef struct CpuGemm {
  int64_t m, n, k;
  bool ta, tb, beta, ragged;
  CpuMatrix a, b, c;
  PlanType type, ctype; /* of a and b; of c */
} CpuGemm;

/* grouped_gemm: for every group e, rows off[e]..off[e+1] of c = those rows of a times b + e*k*n (tb: stored [n,k]).
 * grouped_outer: c + e*m*n = a(group)^T b(group). */
typedef struct CpuGrouped {
  int64_t groups, m, n, k;
  bool tb;
  const int32_t *off; /* [groups+1] */
  CpuMatrix a, b, c;
  PlanType type, ctype;
} CpuGrouped;

/* q, k, v, o and their gradients: [n, heads*head]; lse: f32 [n, heads]. */
typedef struct CpuAttention {
  int64_t n, segments, heads, head;
  bool causal;
  const int32_t *off; /* [segments+1] */
  PlanType type;
  CpuMatrix q, k, v, o;
  float *lse;
  CpuMatrix dout, dq, dk, dv; /* gradient only */
} CpuAttention;

typedef struct CpuRoute {
  int64_t n, experts, k, bound;
  const float *mask; /* [n, ldm], selected where not 0 */
  int64_t ldm;
  int32_t *pair;    /* [bound] */
  int32_t *off;     /* [experts+1] */
  int32_t *slot;    /* [n, k] */
  int32_t *scratch; /* [(experts+1) * 64] */
} CpuRoute;

typedef enum CpuRouteError { ROUTE_DONE, ROUTE_TOO_MANY_OF_TOKEN, ROUTE_TOO_MANY } CpuRouteError;

/* Where a route went wrong: the first such token and how many experts it selects, or the number of all pairs. */
typedef struct CpuRouteStatus {
  CpuRouteError error;
  int64_t token, count;
} CpuRouteStatus;

/* rank_rows and balanced_assignment: x[n, columns] in `groups` equal slices of rows; results are [n, columns] without
 * gaps. */
typedef struct CpuGroups {
  int64_t n, columns, groups;
  CpuMatrix x;
  void *scratch; /* ranks: 8 * n * columns bytes; assignment of slices of S rows: S * (28 * columns + 12) */
} CpuGroups;

typedef struct CpuScatter {
  int64_t n, d, rows;
  const int32_t *ids; /* [n] */
  CpuMatrix x, c;     /* [n, d], [rows, d] */
  PlanType type, ctype;
  int32_t *scratch; /* [rows + 1 + n] */
} CpuScatter;

typedef struct CpuSegmentSum {
  int64_t groups, n;
  const int32_t *off;
  CpuMatrix x, c; /* [R, n], [groups, n] */
  PlanType type, ctype;
} CpuSegmentSum;

void cpu_gemm(const CpuGemm *gemm);
void cpu_grouped_gemm(const CpuGrouped *grouped);
void cpu_grouped_outer(const CpuGrouped *grouped);
void cpu_attention(const CpuAttention *attention);
void cpu_attention_gradient(const CpuAttention *attention);
CpuRouteStatus cpu_route(const CpuRoute *route);
void cpu_rank_rows(const CpuGroups *groups, int32_t *rank);
void cpu_balanced_assignment(const CpuGroups *groups, float *mask);
/* Returns -1, or the first index whose id is out of range; then c is not written. */
int64_t cpu_scatter_rows(const CpuScatter *scatter);
void cpu_segment_sum(const CpuSegmentSum *sum);
void cpu_copy(int64_t rows, int64_t columns, PlanType type, CpuMatrix from, CpuMatrix to);
void cpu_fill(int64_t rows, int64_t columns, PlanType type, CpuMatrix to, double value);

/* The instruction sets kernels are made for, each with all of those before it. */
typedef enum CpuLevel { CPU_BELOW_V3, CPU_V3, CPU_V4, CPU_V4_BF16 } CpuLevel;
/* The best level of this CPU; --cpu or, without it, MOEC_CPU in the environment asks for a lower one: v3 or v4. */
CpuLevel cpu_level(void);
/* --cpu=`level` of `command`, before the level is asked for; NULL: not given. Another word: FAIL_USAGE. */
void cpu_choose(const char *command, const char *level);
bool cpu_is_native(void); /* --cpu=native: the kernels compiled for this machine alone (features.h) */

static inline float cpu_from_bf16(uint16_t bits) {
  union {
    uint32_t bits;
    float value;
  } both = {.bits = (uint32_t)bits << 16};
  return both.value;
}

/* Rounds to nearest, ties to even; NaN stays NaN. */
static inline uint16_t cpu_to_bf16(float value) {
  union {
    float value;
    uint32_t bits;
  } both = {.value = value};
  if (value != value)
    return (uint16_t)(both.bits >> 16 | 0x40);
  return (uint16_t)((both.bits + 0x7fff + (both.bits >> 16 & 1)) >> 16);
}

#endif
