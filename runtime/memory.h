/* Large memory of the trainer: the arenas. Zeroed, page aligned, counted.
 *
 * More than the machine has available, or a refused mapping, ends the trainer with FAIL_ENVIRONMENT and a message that
 * names what was asked for, its size, what is held already and what is available.
 */
#ifndef MOEC_RUNTIME_MEMORY_H
#define MOEC_RUNTIME_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes the machine, or the control group the process runs in, can still give. */
int64_t memory_available(void);

void *memory_map(const char *what, int64_t bytes); /* `what` in a message: "activations" */
void memory_unmap(void *memory, int64_t bytes);

/* Counts memory of another device in what follows: taken, or, negative, given back. */
void memory_count(int64_t bytes);

int64_t memory_held(void); /* bytes mapped now */
int64_t memory_peak(void); /* the most that was ever mapped at once, or since memory_peak_restart */
void memory_peak_restart(void);

#endif
