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
  CUgraph capture, waiting; /* NULL: nothing is captured; work runs at once */
  int64_t done;             /* works of `waiting` that ran, of all that were ever there */
  int next;                 /* the first one of `waiting` that has not run */
  bool failed;
  CUstream other;
};

static CUstream streams;

CUstream stream_new(void) {
  const char *delayed = getenv("MOEC_SIMULATOR_DELAYED");
  CUstream stream = calloc(1, sizeof *stream);
  if (delayed && *delayed && strcmp(delayed, "0") != 0)
    stream->waiting = calloc(1, sizeof *stream->waiting);
  stream->other = streams;
  streams = stream;
  return stream;
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
  CUgraph keeps = stream->capture ? stream->capture : stream->waiting;
  if (!keeps)
    return stream_work(stream, work, data);
  graph_add(keeps, work, data, bytes);
  return stream_state(stream);
}

int64_t stream_position(CUstream stream) {
  return stream->waiting ? stream->done + stream->waiting->count - stream->next : 0;
}

CUresult stream_wait(CUstream stream, int64_t position) {
  CUgraph waiting = stream->waiting;
  while (stream->done < position) {
    GraphNode *node = &waiting->nodes[stream->next++];
    stream->done++;
    stream_work(stream, node->work, node->data);
    free(node->data);
  }
  if (waiting && stream->next == waiting->count)
    stream->next = waiting->count = 0;
  return stream_state(stream);
}

void stream_wait_all(void) {
  for (CUstream stream = streams; stream; stream = stream->other)
    stream_wait(stream, stream_position(stream));
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
    stream_submit(stream, graph->nodes[i].work, graph->nodes[i].data, graph->nodes[i].bytes);
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
