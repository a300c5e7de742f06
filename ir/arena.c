/* Arena, vectors and interned strings (arena.h).
 *
 * Memory comes in blocks that are zeroed once and handed out from the front; a large request gets a block of its own.
 * Invariant: every pointer handed out is aligned to 16 and its bytes are zero. Running out of memory ends the program
 * with exit code 3, so no caller checks for NULL.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/arena.h"

enum { ALIGNMENT = 16, BLOCK_BYTES = 256 * 1024, FIRST_INTERN_SLOTS = 1024, FIRST_CAPACITY = 8 };

typedef struct Block {
  struct Block *next;
  size_t padding;
} Block;

struct Arena {
  Block *blocks;
  char *free, *end;
  size_t bytes;        /* of all blocks */
  const char **intern; /* open addressing, NULL is empty; the length is a power of two */
  uint32_t intern_slots, intern_used;
};

static _Noreturn void out_of_memory(size_t size) {
  fprintf(stderr, "moec: out of memory (%zu bytes asked for)\n", size);
  exit(3);
}

Arena *arena_new(void) {
  Arena *a = calloc(1, sizeof *a);
  if (!a)
    out_of_memory(sizeof *a);
  return a;
}

void arena_free(Arena *a) {
  for (Block *b = a->blocks, *next; b; b = next) {
    next = b->next;
    free(b);
  }
  free(a);
}

static void *new_block(Arena *a, size_t size) {
  Block *b = calloc(1, sizeof *b + size);
  if (!b)
    out_of_memory(size);
  a->bytes += sizeof *b + size;
  b->next = a->blocks;
  a->blocks = b;
  return b + 1;
}

void *arena_alloc(Arena *a, size_t size) {
  if (size > SIZE_MAX / 2)
    out_of_memory(size);
  size = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
  if (size > BLOCK_BYTES / 4)
    return new_block(a, size);
  if ((size_t)(a->end - a->free) < size) {
    a->free = new_block(a, BLOCK_BYTES);
    a->end = a->free + BLOCK_BYTES;
  }
  void *p = a->free;
  a->free += size;
  return p;
}

size_t arena_held(const Arena *a) {
  return a->bytes;
}

char *arena_print(Arena *a, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  char *text = arena_alloc(a, (size_t)length + 1);
  vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  return text;
}

char *arena_copy(Arena *a, const char *text, size_t length) {
  char *copy = arena_alloc(a, length + 1);
  memcpy(copy, text, length);
  return copy;
}

uint32_t text_hash(const char *text) {
  uint32_t hash = 2166136261u;
  for (; *text; text++)
    hash = (hash ^ (unsigned char)*text) * 16777619u;
  return hash;
}

/* The slot that holds `text`, or the empty one where it belongs. */
static const char **intern_slot(const Arena *a, const char *text) {
  uint32_t i = text_hash(text) & (a->intern_slots - 1);
  while (a->intern[i] && strcmp(a->intern[i], text) != 0)
    i = (i + 1) & (a->intern_slots - 1);
  return &a->intern[i];
}

static void intern_grow(Arena *a) {
  const char **old = a->intern;
  uint32_t old_slots = a->intern_slots;
  a->intern_slots = old_slots ? 2 * old_slots : FIRST_INTERN_SLOTS;
  a->intern = arena_alloc(a, a->intern_slots * sizeof *a->intern);
  for (uint32_t i = 0; i < old_slots; i++)
    if (old[i])
      *intern_slot(a, old[i]) = old[i];
}

const char *arena_intern(Arena *a, const char *text) {
  if (2 * a->intern_used >= a->intern_slots)
    intern_grow(a);
  const char **slot = intern_slot(a, text);
  if (!*slot) {
    *slot = arena_copy(a, text, strlen(text));
    a->intern_used++;
  }
  return *slot;
}

void *vec_grow(Arena *a, void *v, size_t element) {
  uint32_t length = vec_len(v), capacity = v ? vec_header(v)->capacity : 0;
  if (length < capacity)
    return v;
  if (capacity > UINT32_MAX / 2)
    out_of_memory((size_t)capacity * 2 * element);
  capacity = capacity ? 2 * capacity : FIRST_CAPACITY;
  VecHeader *header = arena_alloc(a, sizeof *header + capacity * element);
  header->length = length;
  header->capacity = capacity;
  if (v)
    memcpy(header + 1, v, length * element);
  return header + 1;
}
