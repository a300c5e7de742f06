/* Whether CUDA text compiles, by NVRTC; no GPU is needed. */
#ifndef MOEC_TESTS_KERNELS_NVRTC_H
#define MOEC_TESTS_KERNELS_NVRTC_H

#include "codegen/kernel.h"

enum { NVRTC_SKIPPED = 77 }; /* exit code of a test on a machine without NVRTC */

bool nvrtc_open(void); /* false where there is no NVRTC */

/* The prelude and the kernels [first, last) as one source. In the arena. */
const char *nvrtc_source(Arena *arena, const KernelSet *set, uint32_t first, uint32_t last);

/* What a kernel uses, as the assembler says. */
typedef struct NvrtcUse {
  char entry[160];
  int registers;                  /* of a thread */
  int shared;                     /* bytes of a block, without dynamic ones */
  int stack, spill_out, spill_in; /* bytes of a thread in local memory */
} NvrtcUse;
enum { NVRTC_ENTRIES = 8 };

/* True when it compiles for `arch` ("sm_80") as a trainer compiles it and the compiler has nothing to say; otherwise
 * what it says is printed. `uses`: NULL, or room for NVRTC_ENTRIES; `count`: how many there are. */
bool nvrtc_accepts(const char *source, const char *arch, NvrtcUse *uses, int *count);

#endif
