/* Streams of the simulated device: what is submitted runs at once, or is recorded while the stream is captured. With
 * $MOEC_SIMULATOR_DELAYED it runs as late as a device may run it: when the host waits for it. So a host that reads too
 * early, or writes again too early what is still to be copied, is seen. Shared by the stand-ins for the driver and
 * cuBLASLt.
 */
#ifndef MOEC_TESTS_SIMULATOR_STREAM_H
#define MOEC_TESTS_SIMULATOR_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/cuda/types.h"

/* One piece of work: false when it broke a rule (reported). */
typedef bool (*StreamWork)(const void *data);

/* Copies `data`. CUDA_SUCCESS, or what failed: a stream that has failed stays so. */
CUresult stream_submit(CUstream stream, StreamWork work, const void *data, size_t bytes);
CUresult stream_capture(CUstream stream);
CUresult stream_capture_end(CUstream stream, CUgraph *graph);
CUresult stream_state(CUstream stream);
CUstream stream_new(void);

/* Where the stream stands now; stream_wait runs what was submitted before that. */
int64_t stream_position(CUstream stream);
CUresult stream_wait(CUstream stream, int64_t position);
void stream_wait_all(void); /* everything, of all streams */

/* Everything recorded, in order. */
CUgraph stream_graph_copy(CUgraph graph);
void stream_graph_free(CUgraph graph);
CUresult stream_graph_run(CUgraph graph, CUstream stream);

/* Both check that the bytes lie in device memory, and report when they do not. */
bool stream_reads(const char *what, const void *memory, size_t bytes);
bool stream_writes(const char *what, void *memory, size_t bytes); /* they count as written */

/* Reports a call that the libraries would refuse; also prints it. */
void stream_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
