/* In: sizes of arenas. Out: zeroed mappings, and the count of what is held. Large pages are asked for, since every
 * arena is walked from one end to the other. */
#include "runtime/memory.h"

#include <stdio.h>
#include <sys/mman.h>

#include "runtime/error.h"

static int64_t held, peak;

static int64_t meminfo_available(void) {
  FILE *file = fopen("/proc/meminfo", "r");
  if (!file)
    return INT64_MAX;
  char line[256];
  long long kilobytes;
  int64_t available = INT64_MAX;
  while (fgets(line, sizeof line, file))
    if (sscanf(line, "MemAvailable: %lld kB", &kilobytes) == 1)
      available = (int64_t)kilobytes * 1024;
  fclose(file);
  return available;
}

/* The number a control group file holds; INT64_MAX where there is none ("max", or no such file). */
static int64_t group_number(const char *path) {
  FILE *file = fopen(path, "r");
  long long number;
  if (!file)
    return INT64_MAX;
  int64_t result = fscanf(file, "%lld", &number) == 1 ? (int64_t)number : INT64_MAX;
  fclose(file);
  return result;
}

int64_t memory_available(void) {
  int64_t available = meminfo_available();
  int64_t limit = group_number("/sys/fs/cgroup/memory.max");
  int64_t used = group_number("/sys/fs/cgroup/memory.current");
  if (limit != INT64_MAX && used != INT64_MAX && limit - used < available)
    available = limit > used ? limit - used : 0;
  return available;
}

static double gigabytes(int64_t bytes) {
  return (double)bytes / 1e9;
}

void memory_count(int64_t bytes) {
  held += bytes;
  if (held > peak)
    peak = held;
}

void *memory_map(const char *what, int64_t bytes) {
  int64_t available = memory_available();
  if (bytes > available)
    runtime_fail(FAIL_ENVIRONMENT,
                 "not enough memory: %s need %.3f GB, %.3f GB are held already, %.3f GB are available", what,
                 gigabytes(bytes), gigabytes(held), gigabytes(available));
  if (bytes == 0)
    bytes = 1;
  void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    runtime_fail(FAIL_ENVIRONMENT, "the system refused memory: %s need %.3f GB, %.3f GB are held already", what,
                 gigabytes(bytes), gigabytes(held));
  madvise(memory, (size_t)bytes, MADV_HUGEPAGE); /* advice only: a refusal changes nothing but speed */
  memory_count(bytes);
  return memory;
}

void memory_unmap(void *memory, int64_t bytes) {
  if (!memory)
    return;
  if (bytes == 0)
    bytes = 1;
  if (munmap(memory, (size_t)bytes))
    runtime_fail(FAIL_BUG, "unmapping %lld bytes failed", (long long)bytes);
  memory_count(-bytes);
}

int64_t memory_held(void) {
  return held;
}

int64_t memory_peak(void) {
  return peak;
}

void memory_peak_restart(void) {
  peak = held;
}
