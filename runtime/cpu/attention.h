/* The builds of the attention kernels: for x86-64-v3 (vectors of 8) and -v4 (vectors of 16), which multiply in f32
 * whatever the type, and for bf16 data on CPUs with AVX512_BF16. Private to attention*.c. */
#ifndef MOEC_RUNTIME_ATTENTION_H
#define MOEC_RUNTIME_ATTENTION_H

#include "runtime/cpu/cpu.h"

enum { ATTENTION_BLOCK = 64 }; /* queries and keys of a block */

/* One head of one segment: rows begin .. begin+length. */
typedef struct AttentionTask {
  int64_t begin, length, head;
  int64_t block_begin, block_end; /* forward only: which blocks of queries */
} AttentionTask;

typedef struct AttentionKernels {
  /* Floats of the workspace a thread needs for segments of up to `length` rows and heads of `head` columns. */
  int64_t (*workspace)(int64_t length, int64_t head);
  /* `work` is aligned to 64 bytes. */
  void (*forward)(const CpuAttention *attention, const AttentionTask *task, float *work);
  void (*gradient)(const CpuAttention *attention, const AttentionTask *task, float *work);
} AttentionKernels;

extern const AttentionKernels attention_kernels_v3, attention_kernels_v4, attention_kernels_bf16;

#endif
