/* bf16 numbers as f32: column sums that a product gives in the type of its result.
 *
 * No macros. A thread each. */
extern "C" __global__ void KERNEL(const uint16_t *from, float *to, int64_t count) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count)
    to[i] = moec_from_bf16(from[i]);
}
