/* In: a file with a payload at its end (payload.h has the format). Out: its sections, mapped. The whole file is checked
 * against its hash, and every number of the trailer and the index before it is used. */
#include "runtime/payload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/error.h"

static const char running_executable[] = "/proc/self/exe";

uint64_t payload_hash(const void *data, size_t size) {
  const uint8_t *bytes = data;
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

uint64_t payload_ir_hash(const void *text, size_t size) {
  char *bare = runtime_allocate(size + 1, 1);
  size_t length = 0;
  bool comment = false;
  for (const char *c = text; c < (const char *)text + size; c++) {
    comment = *c == '#' || (comment && *c != '\n');
    if (!comment && *c != ' ')
      bare[length++] = *c;
  }
  uint64_t hash = payload_hash(bare, length);
  free(bare);
  return hash;
}

static uint64_t read_u64(const uint8_t *bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; i--)
    value = value << 8 | bytes[i];
  return value;
}

/* The path to show: a link such as /proc/self/exe says nothing to the user. */
static const char *readable_path(const char *path) {
  char *target = runtime_allocate(4096, 1);
  if (path == running_executable && readlink(path, target, 4095) > 0)
    return target;
  snprintf(target, 4096, "%s", path);
  return target;
}

/* Parses "name offset size" lines in place; `size` counts the file up to the index. */
static void read_index(Payload *payload, char *index, const uint8_t *file, uint64_t end) {
  size_t lines = 0;
  for (const char *c = index; *c; c++)
    lines += *c == '\n';
  payload->sections = runtime_allocate(lines, sizeof *payload->sections);
  for (char *line = index; *line;) {
    char *next = strchr(line, '\n');
    if (!next)
      runtime_fail(FAIL_USER, "%s: its payload is damaged: the index ends within a line", payload->path);
    *next++ = 0;
    char *space = strchr(line, ' '), *rest = NULL;
    if (!space)
      runtime_fail(FAIL_USER, "%s: its payload is damaged: index line '%s'", payload->path, line);
    *space = 0;
    uint64_t offset = strtoull(space + 1, &rest, 10), size = strtoull(rest, &rest, 10);
    if (*rest || offset > end || size > end - offset)
      runtime_fail(FAIL_USER, "%s: its payload is damaged: section '%s' lies outside the file", payload->path, line);
    payload->sections[payload->count++] = (PayloadSection){.name = line, .data = file + offset, .size = (size_t)size};
    line = next;
  }
}

bool payload_present(const char *path) {
  int fd = open(path ? path : running_executable, O_RDONLY | O_CLOEXEC);
  char magic[8] = {0};
  bool present = fd >= 0 && lseek(fd, -PAYLOAD_TRAILER_SIZE, SEEK_END) >= 0 && read(fd, magic, 8) == 8 &&
                 !memcmp(magic, PAYLOAD_MAGIC, 8);
  if (fd >= 0)
    close(fd);
  return present;
}

Payload *payload_open(const char *path) {
  if (!path)
    path = running_executable;
  Payload *payload = runtime_allocate(1, sizeof *payload);
  payload->path = readable_path(path);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (fd < 0 || fstat(fd, &status))
    runtime_fail(FAIL_USER, "%s: cannot be read: %s", payload->path, strerror(errno));
  uint64_t size = (uint64_t)status.st_size;
  if (size < PAYLOAD_TRAILER_SIZE)
    runtime_fail(FAIL_USER, "%s: carries no model: it is not a trainer made by moec build", payload->path);
  const uint8_t *file = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (file == MAP_FAILED)
    runtime_fail(FAIL_ENVIRONMENT, "%s: cannot be mapped: %s", payload->path, strerror(errno));
  close(fd);

  const uint8_t *trailer = file + size - PAYLOAD_TRAILER_SIZE;
  if (memcmp(trailer, PAYLOAD_MAGIC, 8))
    runtime_fail(FAIL_USER, "%s: carries no model: it is not a trainer made by moec build, or its end was cut off",
                 payload->path);
  uint64_t offset = read_u64(trailer + 8), length = read_u64(trailer + 16), hash = read_u64(trailer + 24);
  uint64_t end = size - PAYLOAD_TRAILER_SIZE;
  if (offset > end || length > end - offset)
    runtime_fail(FAIL_USER, "%s: its payload is damaged: the index lies outside the file", payload->path);
  if (payload_hash(file, size - 8) != hash)
    runtime_fail(FAIL_USER, "%s: damaged: its checksum is not the one at its end; build the trainer again",
                 payload->path);
  char *index = runtime_allocate(length + 1, 1);
  memcpy(index, file + offset, length);
  read_index(payload, index, file, end);
  return payload;
}

const PayloadSection *payload_find(const Payload *payload, const char *name) {
  for (size_t i = 0; i < payload->count; i++)
    if (!strcmp(payload->sections[i].name, name))
      return &payload->sections[i];
  return NULL;
}

const PayloadSection *payload_section(const Payload *payload, const char *name) {
  const PayloadSection *section = payload_find(payload, name);
  if (!section)
    runtime_fail(FAIL_BUG, "%s carries no section '%s'", payload->path, name);
  return section;
}
