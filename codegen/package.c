/* Packaging of a trainer.
 *
 * In: named sections. Out: one executable file. The runtime's bytes are part of moec's own executable.
 */
#include "codegen/package.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/payload.h"

enum { EXIT_ENVIRONMENT = 3 };

extern const unsigned char moec_runtime_start[], moec_runtime_end[];

const char *temporary_directory(Arena *arena, const char *what) {
  const char *base = getenv("TMPDIR");
  char *path = arena_print(arena, "%s/moec-XXXXXX", base && *base ? base : "/tmp");
  if (!mkdtemp(path))
    environment_fail("%s: cannot make a directory for %s: %s", path, what, strerror(errno));
  return path;
}

_Noreturn void environment_fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("moec: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(EXIT_ENVIRONMENT);
}

/* The file as it grows; `hash` is FNV-1a 64 of what is written. */
typedef struct PackageFile {
  FILE *out;
  size_t size;
  uint64_t hash;
  bool good; /* false from the first write that failed */
} PackageFile;

static void put(PackageFile *file, const void *data, size_t size) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i++)
    file->hash = (file->hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  file->size += size;
  file->good = file->good && fwrite(data, 1, size, file->out) == size;
}

static void store_u64(unsigned char *to, uint64_t value) {
  for (int i = 0; i < 8; i++)
    to[i] = (unsigned char)(value >> 8 * i);
}

/* Runtime, sections, index, trailer (runtime/payload.h); false when a write failed. */
static bool write_all(Arena *arena, FILE *out, const PackageSection *sections) {
  PackageFile file = {.out = out, .hash = UINT64_C(0xcbf29ce484222325), .good = true};
  const char *index = "";
  put(&file, moec_runtime_start, (size_t)(moec_runtime_end - moec_runtime_start));
  for (uint32_t i = 0; i < vec_len(sections); i++) {
    index = arena_print(arena, "%s%s %zu %zu\n", index, sections[i].name, file.size, sections[i].size);
    put(&file, sections[i].data, sections[i].size);
  }
  unsigned char trailer[PAYLOAD_TRAILER_SIZE];
  memcpy(trailer, PAYLOAD_MAGIC, 8);
  store_u64(trailer + 8, file.size);
  store_u64(trailer + 16, strlen(index));
  put(&file, index, strlen(index));
  put(&file, trailer, 24);
  store_u64(trailer + 24, file.hash);
  put(&file, trailer + 24, 8);
  return file.good;
}

void package_write(Arena *arena, const char *path, const PackageSection *sections) {
  struct stat status;
  if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
    environment_fail("%s: cannot write the trainer here: not a plain file", path);
  const char *beside = arena_print(arena, "%s.new-%ld", path, (long)getpid());
  FILE *out = fopen(beside, "wb");
  if (!out)
    environment_fail("%s: cannot write the trainer: %s", path, strerror(errno));
  bool good = write_all(arena, out, sections);
  good = fflush(out) == 0 && good && fsync(fileno(out)) == 0 && fchmod(fileno(out), 0755) == 0;
  int error = errno;
  good = fclose(out) == 0 && good;
  if (good && rename(beside, path) == 0)
    return;
  if (good)
    error = errno;
  unlink(beside);
  environment_fail("%s: cannot write the trainer: %s", path, strerror(error));
}
