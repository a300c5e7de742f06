/* Small tools of the runtime's tests: random numbers, comparison, timing. A failed check prints what and where and ends
 * the program with 1. */
#ifndef MOEC_TEST_CHECK_H
#define MOEC_TEST_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(condition, ...)                                                                                          \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                                  \
      fprintf(stderr, __VA_ARGS__);                                                                                    \
      fprintf(stderr, "\n");                                                                                           \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint32_t random_bits(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (uint32_t)(random_state >> 32);
}

static inline int64_t random_between(int64_t low, int64_t high) {
  return low + (int64_t)(random_bits() % (uint32_t)(high - low + 1));
}

/* In (-1, 1). */
static inline float random_float(void) {
  return ((float)(random_bits() >> 8) + 0.5f) * 0x1p-23f - 1;
}

/* 64-byte aligned, filled with NaN bytes, so that what is read without being written shows. */
static inline void *test_memory(int64_t bytes) {
  size_t size = ((size_t)bytes + 127) / 64 * 64;
  void *memory = aligned_alloc(64, size);
  CHECK(memory, "no memory for the test");
  return memset(memory, 0xff, size);
}

static inline float *random_floats(int64_t count) {
  float *floats = test_memory(count * 4);
  for (int64_t i = 0; i < count; i++)
    floats[i] = random_float();
  return floats;
}

static inline double test_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The fastest of at least 3 runs and a quarter of a second. */
#define BEST_SECONDS(result, statement)                                                                                \
  do {                                                                                                                 \
    double started_ = test_seconds();                                                                                  \
    (result) = 1e30;                                                                                                   \
    for (int run_ = 0; run_ < 3 || test_seconds() - started_ < 0.25; run_++) {                                         \
      double begin_ = test_seconds();                                                                                  \
      statement;                                                                                                       \
      double time_ = test_seconds() - begin_;                                                                          \
      if (time_ < (result))                                                                                            \
        (result) = time_;                                                                                              \
    }                                                                                                                  \
  } while (0)

static inline bool test_wants_bench(int argc, char **argv) {
  return argc > 1 && !strcmp(argv[1], "--bench");
}

#endif
