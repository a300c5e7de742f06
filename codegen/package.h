/* Writes a trainer: the runtime's executable with the payload appended (runtime/payload.h has the format). */
#ifndef MOEC_PACKAGE_H
#define MOEC_PACKAGE_H

#include <stddef.h>

#include "ir/arena.h"

typedef struct PackageSection {
  const char *name;
  const void *data;
  size_t size;
} PackageSection;

/* Writes beside `path` and renames, mode 755: either the whole trainer stands there or what stood before.
 * `sections` is an arena vector. A path that cannot be written: environment_fail. */
void package_write(Arena *arena, const char *path, const PackageSection *sections);

/* Makes a directory in $TMPDIR or /tmp; the caller removes it. Where none can be made: environment_fail, which says
 * that it was for `what`. */
const char *temporary_directory(Arena *arena, const char *what);

/* The machine failed, not the user's input: a message on standard error, exit code 3. */
_Noreturn void environment_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
