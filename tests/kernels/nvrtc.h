/* Whether CUDA text compiles, by NVRTC, for sm_80; no GPU is needed. */
#ifndef MOEC_TESTS_KERNELS_NVRTC_H
#define MOEC_TESTS_KERNELS_NVRTC_H

#include "codegen/kernel.h"

enum { NVRTC_SKIPPED = 77 }; /* exit code of a test on a machine without NVRTC */

bool nvrtc_open(void); /* false where there is no NVRTC */

/* The prelude and the kernels [first, last) as one source. In the arena. */
const char *nvrtc_source(Arena *arena, const KernelSet *set, uint32_t first, uint32_t last);

/* True when it compiles and the compiler has nothing to say; otherwise what it says is printed. */
bool nvrtc_accepts(const char *source);

#endif
