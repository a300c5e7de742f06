/* The functions of codegen/cuda/hopper.cu for the host's compiler: calls into hopper_threads.cc. Stands behind
 * simulator.h, whose threads are coroutines; here every thread of a block is a thread of the host, one block runs at a
 * time, and shared memory is plain static memory. */
#undef __shared__
#define __shared__ static

extern "C" {
void hopper_machine_barrier(void *barrier, unsigned arrivals);
void hopper_machine_arrive(void *barrier, unsigned bytes);
void hopper_machine_wait(void *barrier, unsigned phase);
void hopper_machine_meet(unsigned threads);
void hopper_machine_map(void *map, const void *base, unsigned columns, unsigned rows, unsigned layers,
                        unsigned long long row_bytes, unsigned long long layer_bytes, unsigned box_rows);
void hopper_machine_copy(void *shared, const void *map, int column, int row, int layer, void *barrier);
void hopper_machine_multiply(float *sum, unsigned long long a, unsigned long long b, int a_crosses, int b_crosses,
                             int add);
void hopper_machine_commit();
void hopper_machine_products_wait(unsigned pending);
extern char dynamic[]; /* dynamic shared memory */
}

/* Shared memory's addresses begin at the dynamic part, not quite at a multiple of 1024. */
inline unsigned moec_shared_address(const void *shared) {
  return (unsigned)((const char *)shared - dynamic) + 16;
}

inline void hopper_barrier_make(unsigned long long *barrier, unsigned arrivals) {
  hopper_machine_barrier(barrier, arrivals);
}
inline void hopper_barriers_made() {}
inline void hopper_arrive(unsigned long long *barrier) {
  hopper_machine_arrive(barrier, 0);
}
inline void hopper_arrive_expecting(unsigned long long *barrier, unsigned bytes) {
  hopper_machine_arrive(barrier, bytes);
}
inline void hopper_wait(unsigned long long *barrier, unsigned phase) {
  hopper_machine_wait(barrier, phase);
}
inline void hopper_fence_shared() {}
template <int BARRIER> inline void hopper_meet(int threads) {
  static_assert(BARRIER == 1, "one barrier beside __syncthreads");
  hopper_machine_meet(threads);
}
template <int REGISTERS> inline void hopper_registers_fewer() {}
template <int REGISTERS> inline void hopper_registers_more() {}
inline void hopper_map_make(void *global, unsigned long long *, const void *base, unsigned columns, unsigned rows,
                            unsigned layers, unsigned long long row_bytes, unsigned long long layer_bytes,
                            unsigned box_rows) {
  hopper_machine_map(global, base, columns, rows, layers, row_bytes, layer_bytes, box_rows);
}
inline void hopper_map_acquire(const void *) {}
inline void hopper_copy_box(void *shared, const void *map, int column, int row, int layer,
                            unsigned long long *barrier) {
  hopper_machine_copy(shared, map, column, row, layer, barrier);
}
inline void hopper_products_begin() {}
inline void hopper_products_commit() {
  hopper_machine_commit();
}
template <int PENDING> inline void hopper_products_wait() {
  hopper_machine_products_wait(PENDING);
}
template <bool A_CROSSES, bool B_CROSSES>
inline void hopper_multiply_n256(float (&sum)[32][4], unsigned long long a, unsigned long long b, bool add) {
  hopper_machine_multiply(&sum[0][0], a, b, A_CROSSES, B_CROSSES, add);
}
template <int COUNT> inline void hopper_sums_any(float (&sum)[COUNT][4]) {
  for (int j = 0; j < COUNT; j++)
    for (int i = 0; i < 4; i++)
      sum[j][i] = __int_as_float(0x7fffffff);
}
template <int COUNT> inline void hopper_sums_settle(float (&)[COUNT][4]) {}
