/* Minimum cuts of small networks with integer capacities: what recompute decides with. */
#ifndef MOEC_RECOMPUTE_FLOW_H
#define MOEC_RECOMPUTE_FLOW_H

#include "ir/arena.h"

#include <stdbool.h>

typedef struct FlowEdge {
  uint32_t to, next; /* next: of the same node; UINT32_MAX ends the list. Edge e's reverse is e ^ 1 */
  int64_t left;      /* capacity that no flow uses yet */
} FlowEdge;

typedef struct Flow {
  Arena *arena;
  uint32_t nodes, source, sink;
  uint32_t *first; /* by node */
  FlowEdge *edges; /* arena vector */
} Flow;

#define FLOW_UNLIMITED (INT64_C(1) << 60)

Flow flow_new(Arena *arena, uint32_t nodes, uint32_t source, uint32_t sink);
void flow_edge(Flow *flow, uint32_t from, uint32_t to, int64_t capacity);

/* By node: whether it is on the sink's side of the minimum cut, of several minimum ones the cut nearest to the sink.
 * Uses the network up. Every path from source to sink must have an edge that is not unlimited. */
bool *flow_cut(Flow *flow);

#endif
