/* Who accessed a piece of memory last: SHADOW_BYTES, the smallest type of emitted code, share a cell. */
#ifndef MOEC_TESTS_SIMULATOR_SHADOW_H
#define MOEC_TESTS_SIMULATOR_SHADOW_H

#include <stdint.h>

enum { SHADOW_BYTES = 2 };

typedef struct ShadowCell {
  uint32_t written_at, read_at; /* clocks of the worker, 0: never */
  uint32_t write_block, read_block;
  uint16_t writer, reader; /* lanes */
} ShadowCell;

#endif
