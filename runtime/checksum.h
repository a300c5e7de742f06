/* The checksum of checkpoints and token files: four lanes of multiply and rotate over blocks of 32 bytes, so that
 * checking a file costs less than reading it. Fed in any pieces it gives the same sum. It is for damage, not for
 * malice. */
#ifndef MOEC_RUNTIME_CHECKSUM_H
#define MOEC_RUNTIME_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

typedef struct Checksum { /* private */
  uint64_t lane[4], total;
  uint8_t rest[32];
  size_t held;
} Checksum;

Checksum checksum_start(void);
void checksum_add(Checksum *sum, const void *bytes, size_t size);
uint64_t checksum_end(Checksum *sum); /* nothing is added to it afterwards */

#endif
