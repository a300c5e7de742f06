/* The attention kernels for x86-64-v3: AVX2 and FMA. */
#pragma GCC target("arch=x86-64-v3")
#include <immintrin.h>

#define VECTOR 8
#define VECTOR_MAX(a, b) ((Vector)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define INTERLEAVE_LOW                                                                                                 \
  { 0, 8, 1, 9, 2, 10, 3, 11 }
#define INTERLEAVE_HIGH                                                                                                \
  { 4, 12, 5, 13, 6, 14, 7, 15 }
#define KERNELS attention_kernels_v3
#include "runtime/cpu/attention_kernels.h"
