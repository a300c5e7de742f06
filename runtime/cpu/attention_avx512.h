/* The vectors of the attention kernels in AVX-512; attention_vector.h says what these are. Included by attention_v4.c
 * and attention_bf16.c, behind their target. */
#include <immintrin.h>

#define VECTOR 16
#define VECTOR_MAX(a, b) ((Vector)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define INTERLEAVE_LOW                                                                                                 \
  { 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23 }
#define INTERLEAVE_HIGH                                                                                                \
  { 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 }
