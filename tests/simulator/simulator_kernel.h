/* The device simulator for tests: emitted CUDA source, unchanged, compiled with the host's C++ compiler and run.
 *
 *   SimulatorUnit *unit = simulator_compile(text);      text: the head (device_cuda.h, prelude_cuda.h) and one unit
 *   float *x = simulator_copy(data, bytes);             an operand: device memory that a test reads and writes directly
 *   float *y = simulator_alloc(bytes);                  every byte 0xff, until a kernel writes
 *   SimulatorLaunch launch = {unit, "NAME", .blocks = {4}, .threads = 128, .shared_bytes = 0};
 *   uint64_t parameters[] = {(uintptr_t)x, (uintptr_t)y, 17};
 *   if (!simulator_run(&launch, parameters, 3)) puts(simulator_error());
 *   if (simulator_unwritten(y, 0, bytes) >= 0) ...       the first byte that no kernel has written
 *
 * simulator_run runs the launch in several orders of blocks and threads, each from the same memory, and wants the same
 * bits from all. A run fails, with kernel, block, thread and source line in simulator_error(), when
 *   - an access lies outside of every allocation, of the shared variables, or is not aligned to its size;
 *   - an array of known size is indexed outside of its bounds;
 *   - shared memory is read that this block has not written, or that cp.async has not yet delivered (moec_copy_wait);
 *   - two threads access the same byte, one of them writing, with no barrier between them: in shared memory any two of
 * the block, in global memory also those of two blocks;
 *   - the threads of a block or warp do not all come to the same barrier, shuffle or product;
 *   - the launch asks for more than the device has.
 * Allocations lie apart, so that an access just outside of one is outside of all. Compiled units are kept in the
 * directory simulator_cache of the build (or $MOEC_SIMULATOR_CACHE) under the hash of text and compiler flags.
 */
#ifndef MOEC_TESTS_SIMULATOR_SIMULATOR_KERNEL_H
#define MOEC_TESTS_SIMULATOR_SIMULATOR_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SimulatorUnit SimulatorUnit;

/* NULL when the compiler refuses it: its messages are simulator_error(). */
SimulatorUnit *simulator_compile(const char *text);
bool simulator_has_entry(const SimulatorUnit *unit, const char *entry);
/* Whether units that only `arch` ("sm_90a") can compile run here. */
bool simulator_runs(const char *arch);
/* Whether this is the simulator, which finds missing barriers and runs wgmma.cu too; false on a GPU (tests/gpu). */
bool simulator_is_simulated(void);

typedef struct SimulatorLaunch {
  SimulatorUnit *unit;
  const char *entry;
  int64_t blocks[3]; /* 0 counts as 1 */
  int threads;
  int64_t shared_bytes; /* dynamic shared memory */
} SimulatorLaunch;

typedef enum SimulatorOrder { SIMULATOR_FORWARD, SIMULATOR_BACKWARD, SIMULATOR_SHUFFLED } SimulatorOrder;

/* In all orders; memory holds the result when it returns. Every parameter is one 8-byte word. */
bool simulator_run(const SimulatorLaunch *launch, const uint64_t *parameters, int count);
/* Once. */
bool simulator_run_once(const SimulatorLaunch *launch, const uint64_t *parameters, int count, SimulatorOrder order,
                        uint64_t seed);

void *simulator_alloc(size_t bytes);
void *simulator_copy(const void *data, size_t bytes); /* counts as written */
void simulator_free(void *memory);
/* Writes of the host, which count as such. */
void simulator_mark_written(void *memory, size_t bytes);
/* Distance from `memory` of the first of `bytes` bytes that is not written, or -1. */
int64_t simulator_unwritten(const void *memory, size_t from, size_t bytes);
/* Whether [memory, memory + bytes) lies in one allocation. */
bool simulator_is_memory(const void *memory, size_t bytes);

/* What was wrong, until the next call that can fail. */
const char *simulator_error(void);

#ifdef __cplusplus
}
#endif

#endif
