/* Device memory: allocations far apart, every byte 0xff until somebody writes.
 *
 * In: sizes. Out: addresses that the host may use directly. What is written is remembered byte by byte; races are
 * looked for where memory_watch_races has been called since the allocation's last launch.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/simulator/private.h"
#include "tests/simulator/shadow.h"

enum { ALLOCATIONS = 4096, PAGE = 4096 };

static Allocation allocations[ALLOCATIONS];
static int count; /* slots in use or free again */

static void *pages(size_t bytes) {
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    fprintf(stderr, "simulator: no memory for %zu bytes\n", bytes);
    exit(3);
  }
  return at;
}

static size_t padded(size_t bytes) { /* a page on either side that no allocation owns */
  return (bytes + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
}

static size_t shadow_size(size_t bytes) {
  return (bytes / SHADOW_BYTES + 1) * sizeof(ShadowCell);
}

void *simulator_alloc(size_t bytes) {
  char *at = pages(padded(bytes));
  Allocation a = {.at = at + PAGE, .bytes = bytes, .written = pages(bytes + 1), .shadow = pages(shadow_size(bytes))};
  memset(a.at, NAN_BYTE, bytes);
  int slot = 0;
  while (slot < count && allocations[slot].at)
    slot++;
  if (slot == ALLOCATIONS) {
    fprintf(stderr, "simulator: more than %d allocations\n", ALLOCATIONS);
    exit(70);
  }
  if (slot == count)
    count++;
  allocations[slot] = a;
  return a.at;
}

void *simulator_copy(const void *data, size_t bytes) {
  void *memory = simulator_alloc(bytes);
  memcpy(memory, data, bytes);
  simulator_mark_written(memory, bytes);
  return memory;
}

Allocation *memory_find(const void *at, size_t bytes, int *hint) {
  for (int i = -1; i < count; i++) {
    Allocation *a = &allocations[i < 0 ? *hint : i];
    if (a->at && (const char *)at >= a->at && (const char *)at + bytes <= a->at + a->bytes) {
      *hint = (int)(a - allocations);
      return a;
    }
  }
  return NULL;
}

const Allocation *memory_near(const void *at) {
  const char *address = at;
  for (int i = 0; i < count; i++) {
    const Allocation *a = &allocations[i];
    if (a->at && address >= a->at - PAGE && address < a->at + a->bytes + PAGE)
      return a;
  }
  return NULL;
}

static Allocation *allocation_of(const void *memory, size_t bytes, const char *call) {
  int hint = 0;
  Allocation *a = memory_find(memory, bytes, &hint);
  if (!a) {
    fprintf(stderr, "simulator: %s: %zu bytes at %p are not in one allocation\n", call, bytes, memory);
    exit(70);
  }
  return a;
}

void simulator_free(void *memory) {
  if (!memory)
    return;
  Allocation *a = allocation_of(memory, 0, "simulator_free");
  munmap(a->written, a->bytes + 1);
  munmap(a->shadow, shadow_size(a->bytes));
  munmap(a->at - PAGE, padded(a->bytes));
  *a = (Allocation){NULL};
}

void simulator_mark_written(void *memory, size_t bytes) {
  Allocation *a = allocation_of(memory, bytes, "simulator_mark_written");
  memset(a->written + ((char *)memory - a->at), 1, bytes);
}

int64_t simulator_unwritten(const void *memory, size_t from, size_t bytes) {
  const char *begin = (const char *)memory + from;
  const Allocation *a = allocation_of(begin, bytes, "simulator_unwritten");
  const unsigned char *written = a->written + (begin - a->at), *hole = memchr(written, 0, bytes);
  return hole ? (int64_t)from + (hole - written) : -1;
}

bool simulator_is_memory(const void *memory, size_t bytes) {
  int hint = 0;
  return memory_find(memory, bytes, &hint) != NULL;
}

/* ---------------------------------------------------------------- the same memory for several runs */

void memory_keep(MemoryImage *image) {
  *image = (MemoryImage){.count = count, .bytes = calloc((size_t)count + 1, sizeof(char *))};
  for (int i = 0; i < count; i++) {
    if (!allocations[i].at)
      continue;
    image->bytes[i] = malloc(allocations[i].bytes + 1);
    memcpy(image->bytes[i], allocations[i].at, allocations[i].bytes);
  }
}

void memory_restore(const MemoryImage *image) {
  for (int i = 0; i < image->count; i++)
    if (image->bytes[i])
      memcpy(allocations[i].at, image->bytes[i], allocations[i].bytes);
}

bool memory_equals(const MemoryImage *image, char *where, size_t size) {
  for (int i = 0; i < image->count; i++) {
    const Allocation *a = &allocations[i];
    if (!image->bytes[i] || memcmp(image->bytes[i], a->at, a->bytes) == 0)
      continue;
    size_t at = 0;
    while (image->bytes[i][at] == a->at[at])
      at++;
    snprintf(where, size, "byte %zu of an allocation of %zu bytes", at, a->bytes);
    return false;
  }
  return true;
}

void memory_forget(MemoryImage *image) {
  for (int i = 0; i < image->count; i++)
    free(image->bytes[i]);
  free(image->bytes);
}
