/* Minimum cut by Dinic's method. See recompute_flow.h.
 *
 * In: a network. Out: the side of every node. Holds: the same network gives the same cut, edge order included; nothing
 * recurses, since chains of a model may be long. */
#include "passes/recompute_flow.h"

#define NO_EDGE UINT32_MAX

Flow flow_new(Arena *arena, uint32_t nodes, uint32_t source, uint32_t sink) {
  Flow flow = {.arena = arena, .nodes = nodes, .source = source, .sink = sink};
  flow.first = arena_alloc(arena, (nodes + 1) * sizeof *flow.first);
  for (uint32_t i = 0; i < nodes; i++)
    flow.first[i] = NO_EDGE;
  return flow;
}

static void half_edge(Flow *flow, uint32_t from, uint32_t to, int64_t capacity) {
  const FlowEdge edge = {.to = to, .next = flow->first[from], .left = capacity};
  flow->first[from] = vec_len(flow->edges);
  vec_push(flow->arena, flow->edges, edge);
}

void flow_edge(Flow *flow, uint32_t from, uint32_t to, int64_t capacity) {
  half_edge(flow, from, to, capacity);
  half_edge(flow, to, from, 0);
}

/* Distances to the sink along edges that have something left; UINT32_MAX: none leads there. */
static void find_distances(const Flow *flow, uint32_t *distance, uint32_t *queue) {
  for (uint32_t i = 0; i < flow->nodes; i++)
    distance[i] = UINT32_MAX;
  uint32_t head = 0, tail = 0;
  distance[flow->sink] = 0;
  queue[tail++] = flow->sink;
  while (head < tail) {
    const uint32_t node = queue[head++];
    for (uint32_t e = flow->first[node]; e != NO_EDGE; e = flow->edges[e].next) {
      const uint32_t from = flow->edges[e].to;
      if (flow->edges[e ^ 1].left > 0 && distance[from] == UINT32_MAX) {
        distance[from] = distance[node] + 1;
        queue[tail++] = from;
      }
    }
  }
}

/* Sends what one path from the source carries; `path` holds its edges. False when there is none left of the shortest
 * length. `next` is, by node, the first edge that may still lead on. */
static bool send_one(Flow *flow, const uint32_t *distance, uint32_t *next, uint32_t *path) {
  uint32_t length = 0, node = flow->source;
  while (node != flow->sink) {
    const uint32_t e = next[node];
    if (e == NO_EDGE) {
      if (length == 0)
        return false;
      const uint32_t back = path[--length]; /* a dead end: the edge into it leads nowhere */
      node = flow->edges[back ^ 1].to;
      next[node] = flow->edges[back].next;
    } else if (flow->edges[e].left > 0 && distance[flow->edges[e].to] != UINT32_MAX &&
               distance[flow->edges[e].to] + 1 == distance[node]) {
      path[length++] = e;
      node = flow->edges[e].to;
    } else {
      next[node] = flow->edges[e].next;
    }
  }
  int64_t amount = FLOW_UNLIMITED;
  for (uint32_t i = 0; i < length; i++)
    amount = flow->edges[path[i]].left < amount ? flow->edges[path[i]].left : amount;
  for (uint32_t i = 0; i < length; i++) {
    flow->edges[path[i]].left -= amount;
    flow->edges[path[i] ^ 1].left += amount;
  }
  return true;
}

bool *flow_cut(Flow *flow) {
  uint32_t *distance = arena_alloc(flow->arena, flow->nodes * sizeof *distance);
  uint32_t *next = arena_alloc(flow->arena, flow->nodes * sizeof *next);
  uint32_t *path = arena_alloc(flow->arena, (flow->nodes + 1) * sizeof *path);
  for (;;) {
    find_distances(flow, distance, path);
    if (distance[flow->source] == UINT32_MAX)
      break;
    for (uint32_t i = 0; i < flow->nodes; i++)
      next[i] = flow->first[i];
    while (send_one(flow, distance, next, path))
      ;
  }
  bool *behind = arena_alloc(flow->arena, flow->nodes);
  for (uint32_t i = 0; i < flow->nodes; i++)
    behind[i] = distance[i] != UINT32_MAX;
  return behind;
}
