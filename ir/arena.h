/* Memory of one compilation: allocate, never free. Vectors are plain pointers with a hidden header, grown in the arena.
 *
 *   Value *values = NULL;
 *   vec_push(arena, values, v);   for (uint32_t i = 0; i < vec_len(values); i++) ...
 *
 * A grown vector moves: keep indices, not pointers, across a push. */
#ifndef MOEC_ARENA_H
#define MOEC_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct Arena Arena;

Arena *arena_new(void);
void arena_free(Arena *a);                /* for tests and fuzzers; moec itself exits */
void *arena_alloc(Arena *a, size_t size); /* zeroed, aligned to 16 */
size_t arena_held(const Arena *a);        /* taken from the system so far */
char *arena_print(Arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *arena_copy(Arena *a, const char *text, size_t length);
const char *arena_intern(Arena *a, const char *text); /* equal texts give the same pointer */
uint32_t text_hash(const char *text);

typedef struct VecHeader {
  uint32_t length, capacity;
  uint64_t padding;
} VecHeader;

#define vec_header(v) ((VecHeader *)(void *)(v)-1)
#define vec_len(v) ((v) ? vec_header(v)->length : 0u)
#define vec_push(arena, v, ...)                                                                                        \
  ((v) = vec_grow((arena), (v), sizeof *(v)), (v)[vec_header(v)->length++] = (__VA_ARGS__))
#define vec_last(v) ((v)[vec_header(v)->length - 1])
void *vec_grow(Arena *a, void *v, size_t element); /* room for one more */

#endif
