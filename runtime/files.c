/* See files.h. */
#define _GNU_SOURCE 1 /* vasprintf */
#include "runtime/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/error.h"

char *string_format(const char *format, ...) {
  va_list arguments;
  char *string;
  va_start(arguments, format);
  if (vasprintf(&string, format, arguments) < 0)
    runtime_fail(FAIL_ENVIRONMENT, "no memory for a string");
  va_end(arguments);
  return string;
}

static _Noreturn void cannot_read(const char *what, const char *path) {
  runtime_fail(FAIL_USER, "cannot read %s %s: %s", what, path, strerror(errno));
}

static _Noreturn void cannot_write(const char *path) {
  runtime_fail(FAIL_ENVIRONMENT, "cannot write %s: %s", path, strerror(errno));
}

Bytes file_read(const char *what, const char *path) {
  bool standard = strcmp(path, "-") == 0;
  int descriptor = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    cannot_read(what, path);
  struct stat status;
  size_t capacity = fstat(descriptor, &status) == 0 && status.st_size > 0 ? (size_t)status.st_size + 1 : 1 << 16;
  Bytes bytes = {NULL, 0};
  for (;;) {
    if (!bytes.data || bytes.size + 1 == capacity) {
      capacity = bytes.data ? capacity * 2 : capacity + 1;
      bytes.data = realloc(bytes.data, capacity);
      if (!bytes.data)
        runtime_fail(FAIL_ENVIRONMENT, "no memory to read %s: %zu bytes", path, capacity);
    }
    ssize_t got = read(descriptor, bytes.data + bytes.size, capacity - 1 - bytes.size);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      cannot_read(what, path);
    if (got == 0)
      break;
    bytes.size += (size_t)got;
  }
  bytes.data[bytes.size] = 0;
  if (!standard)
    close(descriptor);
  return bytes;
}

bool file_exists(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

bool directory_exists(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

Mapping file_map(const char *what, const char *path) {
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (descriptor < 0 || fstat(descriptor, &status) != 0)
    cannot_read(what, path);
  if (!S_ISREG(status.st_mode))
    runtime_fail(FAIL_USER, "cannot read %s %s: not a file", what, path);
  Mapping mapping = {NULL, (size_t)status.st_size};
  if (mapping.size > 0) {
    void *memory = mmap(NULL, mapping.size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED)
      runtime_fail(FAIL_ENVIRONMENT, "cannot map %s: %s", path, strerror(errno));
    mapping.data = memory;
  }
  close(descriptor);
  return mapping;
}

void file_unmap(Mapping mapping) {
  if (mapping.data)
    munmap((void *)mapping.data, mapping.size);
}

int file_create(const char *path) {
  int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0)
    cannot_write(path);
  return descriptor;
}

void file_write(int descriptor, const char *path, const void *bytes, size_t size) {
  const char *at = bytes;
  while (size > 0) {
    ssize_t written = write(descriptor, at, size);
    if (written < 0 && errno == EINTR)
      continue;
    if (written < 0)
      cannot_write(path);
    at += written;
    size -= (size_t)written;
  }
}

/* Devices and some network file systems cannot sync and say EINVAL: nothing can be done there. */
static void sync_descriptor(int descriptor, const char *path) {
  if (fsync(descriptor) != 0 && errno != EINVAL)
    cannot_write(path);
}

void file_close_durable(int descriptor, const char *path) {
  sync_descriptor(descriptor, path);
  if (close(descriptor) != 0)
    cannot_write(path);
}

static char *parent_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? string_format("%.*s", slash == path ? 1 : (int)(slash - path), path) : string_format(".");
}

void file_replace(const char *path, const void *bytes, size_t size) {
  char *beside = string_format("%s.partial", path), *parent = parent_of(path);
  int descriptor = file_create(beside);
  file_write(descriptor, beside, bytes, size);
  file_close_durable(descriptor, beside);
  if (rename(beside, path) != 0)
    cannot_write(path);
  directory_sync(parent);
  free(beside);
  free(parent);
}

void directory_create(const char *path) {
  char *copy = string_format("%s", path);
  for (char *slash = strchr(copy + 1, '/');; slash = strchr(slash + 1, '/')) {
    if (slash)
      *slash = 0;
    if (mkdir(copy, 0777) != 0 && errno != EEXIST)
      runtime_fail(FAIL_ENVIRONMENT, "cannot make directory %s: %s", copy, strerror(errno));
    if (!slash)
      break;
    *slash = '/';
  }
  if (!directory_exists(path))
    runtime_fail(FAIL_ENVIRONMENT, "cannot make directory %s: a file of that name exists", path);
  free(copy);
}

void directory_sync(const char *path) {
  int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0)
    cannot_write(path);
  sync_descriptor(descriptor, path);
  close(descriptor);
}

void directory_remove(const char *path) {
  DIR *directory = opendir(path);
  if (!directory && errno == ENOENT)
    return;
  if (!directory)
    cannot_write(path);
  for (struct dirent *entry; (entry = readdir(directory));)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
        unlinkat(dirfd(directory), entry->d_name, 0) != 0)
      cannot_write(path);
  closedir(directory);
  if (rmdir(path) != 0)
    cannot_write(path);
}

void directory_copy(const char *from, const char *to) {
  DIR *directory = opendir(from);
  if (!directory)
    cannot_read("directory", from);
  directory_create(to);
  for (struct dirent *entry; (entry = readdir(directory));) {
    char *source = string_format("%s/%s", from, entry->d_name);
    if (file_exists(source)) {
      char *target = string_format("%s/%s", to, entry->d_name);
      Bytes bytes = file_read("file", source);
      file_replace(target, bytes.data, bytes.size);
      free(bytes.data);
      free(target);
    }
    free(source);
  }
  closedir(directory);
}
