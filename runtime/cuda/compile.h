/* From the text of section kernels.cu to machine code, unit by unit (docs/plan.md, "Kernel source").
 *
 * In: the head and the units. Out: a cubin per unit, taken from the trainer (section cubin.<arch>), from the cache or
 * from NVRTC, in this order. A unit that NVRTC refuses is FAIL_BUG with its log.
 *
 * Section cubin.<arch>: lines "NAME OFFSET SIZE", an empty line, then the bytes that the offsets count from.
 */
#ifndef MOEC_RUNTIME_CUDA_COMPILE_H
#define MOEC_RUNTIME_CUDA_COMPILE_H

#include <stdbool.h>

#include "runtime/files.h"

typedef struct CudaUnit {
  const char *name;
  const char *arch; /* the only one it can be compiled for ("sm_90a"); NULL: any */
  const char *text; /* from its line //@unit to the next one's; not terminated */
  size_t size;
} CudaUnit;

typedef struct CudaSource {
  const char *head; /* stands in front of every unit; not terminated */
  size_t head_size;
  CudaUnit *units;
  int count;
} CudaSource;

/* The runtime's own unit, moec_sum_arenas(sum, first, second, count): sum[i] = first[i] + second[i], f32, a thread
 * each, 256 threads a block. It stands behind those of the plan in section kernels.cu, so that cubins carry it, too. */
#define CUDA_SUM_ARENAS "moec_sum_arenas"
extern const char cuda_runtime_unit[];

/* The text must outlive the result. */
CudaSource cuda_source_read(const char *text, size_t size);
/* Index of the unit that holds entry point `kernel`: NAME or NAME_something; -1: none. */
int cuda_source_find(const CudaSource *source, const char *kernel);

/* NVRTC's version, "13.0"; it must be open. */
const char *cuda_compiler_version(void);

/* The unit's cubin for `arch` ("sm_80"), compiled now; thread-safe. */
Bytes cuda_compile(const CudaSource *source, const CudaUnit *unit, const char *arch);

/* Cubins by unit of all `wanted` ones, those of another architecture left out (data NULL), in parallel. `container` is
 * the text of section cubin.<arch>, or NULL. Opens NVRTC where one must be compiled or looked up in the cache; without
 * NVRTC then: FAIL_ENVIRONMENT. */
Bytes *cuda_load_units(const CudaSource *source, const bool *wanted, const char *arch, Mapping container);

/* What cuda_load_units did last: "9 kernels compiled in 2.1 s, 80 from the cache, 0 carried (opening NVRTC 20 ms,
 * hashing 4 ms, reading 9 ms)", the last two summed over the threads. */
const char *cuda_load_summary(void);

#endif
