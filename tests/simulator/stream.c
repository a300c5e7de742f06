/* Streams and graphs: see stream.h. */
#include "tests/simulator/stream.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"

enum { LAUNCH_FAILED = 719, ILLEGAL_STATE = 401 }; /* CUresult */

typedef struct GraphNode {
  StreamWork work;
  void *data;
  size_t bytes;
} GraphNode;

struct CUgraph_st {
  GraphNode *nodes;
  int count, capacity;
};

struct CUstream_st {
  CUgraph capture; /* NULL: work runs at once */
  bool failed;
};

CUstream stream_new(void) {
  return calloc(1, sizeof(struct CUstream_st));
}

CUresult stream_state(CUstream stream) {
  return stream->failed ? LAUNCH_FAILED : CUDA_SUCCESS;
}

static void graph_add(CUgraph graph, StreamWork work, const void *data, size_t bytes) {
  if (graph->count == graph->capacity) {
    graph->capacity = 2 * graph->capacity + 64;
    graph->nodes = realloc(graph->nodes, (size_t)graph->capacity * sizeof *graph->nodes);
  }
  GraphNode node = {work, malloc(bytes), bytes};
  memcpy(node.data, data, bytes);
  graph->nodes[graph->count++] = node;
}

static CUresult stream_work(CUstream stream, StreamWork work, const void *data) {
  if (stream->failed)
    return stream_state(stream);
  report_clear();
  if (!work(data)) {
    stream->failed = true;
    fprintf(stderr, "simulator: %s\n", simulator_error());
  }
  return stream_state(stream);
}

CUresult stream_submit(CUstream stream, StreamWork work, const void *data, size_t bytes) {
  if (!stream->capture)
    return stream_work(stream, work, data);
  graph_add(stream->capture, work, data, bytes);
  return stream_state(stream);
}

CUresult stream_capture(CUstream stream) {
  if (stream->capture)
    return ILLEGAL_STATE;
  stream->capture = calloc(1, sizeof *stream->capture);
  return stream_state(stream);
}

CUresult stream_capture_end(CUstream stream, CUgraph *graph) {
  if (!stream->capture)
    return ILLEGAL_STATE;
  *graph = stream->capture;
  stream->capture = NULL;
  return stream_state(stream);
}

CUgraph stream_graph_copy(CUgraph graph) {
  CUgraph copy = calloc(1, sizeof *copy);
  for (int i = 0; i < graph->count; i++)
    graph_add(copy, graph->nodes[i].work, graph->nodes[i].data, graph->nodes[i].bytes);
  return copy;
}

void stream_graph_free(CUgraph graph) {
  for (int i = 0; i < graph->count; i++)
    free(graph->nodes[i].data);
  free(graph->nodes);
  free(graph);
}

CUresult stream_graph_run(CUgraph graph, CUstream stream) {
  if (stream->capture)
    return ILLEGAL_STATE;
  for (int i = 0; i < graph->count && !stream->failed; i++)
    stream_work(stream, graph->nodes[i].work, graph->nodes[i].data);
  return stream_state(stream);
}

void stream_complain(const char *format, ...) {
  char text[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  report("%s", text);
  fprintf(stderr, "simulator: %s\n", text);
}

bool stream_reads(const char *what, const void *memory, size_t bytes) {
  if (simulator_is_memory(memory, bytes))
    return true;
  report("%s: %zu bytes at %p do not lie in one allocation", what, bytes, memory);
  return false;
}

bool stream_writes(const char *what, void *memory, size_t bytes) {
  if (!stream_reads(what, memory, bytes))
    return false;
  simulator_mark_written(memory, bytes);
  return true;
}
