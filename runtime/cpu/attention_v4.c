/* The attention kernels for x86-64-v4: AVX-512. */
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#include "runtime/cpu/attention_avx512.h"

#define KERNELS attention_kernels_v4
#include "runtime/cpu/attention_kernels.h"
