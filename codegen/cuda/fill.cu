/* One element: what a constant needs that more than kernels read.
 *
 * Macros: SIZE, its bytes: 2 or 4. One block of one thread. */
#if SIZE == 2
typedef uint16_t moec_element;
#else
typedef uint32_t moec_element;
#endif

extern "C" __global__ void KERNEL(moec_element *to, uint64_t bits) {
  *to = (moec_element)bits;
}
