/* Files and directories as a run needs them: whole reads, durable writes, one message per failure.
 *
 * A file that cannot be written (full disk, no permission) ends the program with FAIL_ENVIRONMENT; one that cannot be
 * read, with FAIL_USER: the message names the path and the system's reason.
 */
#ifndef MOEC_RUNTIME_FILES_H
#define MOEC_RUNTIME_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A formatted string in memory that lives as long as the process. */
char *string_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

typedef struct Bytes {
  char *data; /* terminated by a zero that `size` does not count */
  size_t size;
} Bytes;

/* The whole file, also of a pipe; "-" is standard input. Release with free(data). `what` in the message: "data file".
 */
Bytes file_read(const char *what, const char *path);
bool file_exists(const char *path);
bool directory_exists(const char *path);

/* A read-only mapping; an empty file has size 0. */
typedef struct Mapping {
  const uint8_t *data;
  size_t size;
} Mapping;
Mapping file_map(const char *what, const char *path);
void file_unmap(Mapping mapping);

/* Everything below fails with FAIL_ENVIRONMENT. */
int file_create(const char *path);                                                 /* descriptor, truncated */
void file_write(int descriptor, const char *path, const void *bytes, size_t size); /* all of it */
void file_close_durable(int descriptor, const char *path);                         /* fsync, close */
/* Written beside, synced, renamed: afterwards the path holds all of the new bytes or, after a crash, all of the old. */
void file_replace(const char *path, const void *bytes, size_t size);
void directory_create(const char *path);               /* with its parents; one that exists is fine */
void directory_sync(const char *path);                 /* makes renames in it durable */
void directory_remove(const char *path);               /* with the files in it, no sub-directories; absent is fine */
void directory_copy(const char *from, const char *to); /* the plain files of `from`, each by file_replace */

#endif
