/* How the trainer calls an emitted CPU kernel. This header is printed at the head of every emitted C file and read by
 * the runtime; it depends on nothing. */
#ifndef MOEC_KERNEL_ABI_H
#define MOEC_KERNEL_ABI_H

#include <stdint.h>

typedef struct moec_launch {
  void *const *pointer; /* operands, in the order of the plan line */
  int64_t rows;         /* live rows */
} moec_launch;

typedef void (*moec_kernel)(const moec_launch *launch);

#endif
