/* Attention on tensor cores: rows of two matrices of one head, RUN at a time, through two buffers each.
 *
 * Stands behind the text that defines PITCH and copy_tile. `next` is the buffer that fetch fills, `now` the one before
 * it. The caller ends a fetch with moec_copy_commit, and lets all threads meet between the wait for it and turn, and
 * between the last use of `now` and the next fetch. */
template <int RUN, int LD_A, int LD_B> struct Stream {
  uint16_t *tiles_a, *tiles_b;
  const uint16_t *from_a, *from_b;
  int32_t live;
  int next, now;

  /* Starts copying from row `first` on, where that is before `end`. */
  __device__ __forceinline__ void fetch(int32_t first, int32_t end) const {
    if (first < end) {
      copy_tile<RUN>(tiles_a + next * RUN * PITCH, from_a, LD_A, first, live);
      copy_tile<RUN>(tiles_b + next * RUN * PITCH, from_b, LD_B, first, live);
    }
  }
  __device__ __forceinline__ void turn() {
    now = next;
    next ^= 1;
  }
  __device__ __forceinline__ const uint16_t *a() const {
    return tiles_a + now * RUN * PITCH;
  }
  __device__ __forceinline__ const uint16_t *b() const {
    return tiles_b + now * RUN * PITCH;
  }
};
