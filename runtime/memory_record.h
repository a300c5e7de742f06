/* memory.json of a run: what each phase held, written at every checkpoint beside what the trainer's forecast says.
 *
 *   {"phases":{"dense":{"arena_peak":bytes,"parameters":bytes,"gradients":bytes,"moments":bytes,"accumulators":bytes,
 *    "activations":bytes},...}}
 *
 * The kinds are those of the forecast: the arenas of the phase's table, the sums of gradients over micro-batches, the
 * arena of activations. arena_peak is the most that was held at once since the phase began, its transition included;
 * on a GPU also what libraries work in.
 */
#ifndef MOEC_RUNTIME_MEMORY_RECORD_H
#define MOEC_RUNTIME_MEMORY_RECORD_H

#include "runtime/program.h"

typedef struct MemoryRecord {
  const char *path;
  int64_t *peak; /* by phase of the plan; 0: not run yet */
  bool written;  /* by this process, which then writes only what has grown */
} MemoryRecord;

MemoryRecord memory_record_new(const char *run, const Plan *plan);
/* Takes over what the phases so far held, where the file is there; a damaged one is FAIL_USER. */
void memory_record_read(MemoryRecord *record, const Plan *plan);
/* The program's phase is held to be as large as memory_peak() says, or larger where it was before; writes the file. */
void memory_record_write(MemoryRecord *record, const Program *program);

#endif
