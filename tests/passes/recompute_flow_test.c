/* Minimum cuts against all cuts of small random networks: same capacity, and of equal ones the least on the sink's
 * side.
 */
#include <stdio.h>

#include "passes/recompute_flow.h"

enum { NODES = 9, EDGES = 20, NETWORKS = 2000, SOURCE = NODES - 2, SINK = NODES - 1 };

typedef struct Edge {
  uint32_t from, to;
  int64_t capacity;
} Edge;

static uint32_t state = 1;

static uint32_t draw(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}

/* `sink_side`: bit by node. */
static int64_t capacity_of(const Edge *edges, unsigned sink_side) {
  int64_t sum = 0;
  for (int i = 0; i < EDGES; i++)
    if (!(sink_side >> edges[i].from & 1) && (sink_side >> edges[i].to & 1))
      sum += edges[i].capacity;
  return sum;
}

/* The best cut by trying all: the smallest set on the sink's side is unique, the intersection of all minimum ones. */
static unsigned best_cut(const Edge *edges) {
  unsigned best = 1u << SINK;
  int64_t least = INT64_MAX;
  for (unsigned inner = 0; inner < 1u << SOURCE; inner++) {
    const unsigned side = inner | 1u << SINK;
    const int64_t capacity = capacity_of(edges, side);
    if (capacity < least) {
      least = capacity;
      best = side;
    } else if (capacity == least) {
      best &= side;
    }
  }
  return best;
}

int main(void) {
  for (int n = 0; n < NETWORKS; n++) {
    Arena *arena = arena_new();
    Edge edges[EDGES];
    Flow flow = flow_new(arena, NODES, SOURCE, SINK);
    for (int i = 0; i < EDGES; i++) {
      edges[i] = (Edge){draw(NODES), draw(NODES), draw(4) == 0 ? 1000000 : draw(6)};
      flow_edge(&flow, edges[i].from, edges[i].to, edges[i].capacity);
    }
    const bool *behind = flow_cut(&flow);
    unsigned side = 0;
    for (int i = 0; i < NODES; i++)
      side |= (unsigned)behind[i] << i;
    if (side != best_cut(edges)) {
      fprintf(stderr, "network %d: cut %#x of capacity %lld, expected %#x of %lld\n", n, side,
              (long long)capacity_of(edges, side), best_cut(edges), (long long)capacity_of(edges, best_cut(edges)));
      return 1;
    }
    arena_free(arena);
  }
  return 0;
}
