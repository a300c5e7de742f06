/* See cache.h. */
#include "runtime/cuda/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/payload.h"

static char *directory; /* NULL: there is none */

static void note(const char *path, const char *what) {
  fprintf(stderr, "%s: note: %s: %s\n", runtime_program, path, what);
}

/* mkdir -p; a failure is no end: the trainer runs without a cache. */
static bool make_directory(const char *path) {
  char *text = string_format("%s", path);
  for (char *slash = strchr(text + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(text, 0755);
    *slash = '/';
  }
  bool good = mkdir(text, 0755) == 0 || (errno == EEXIST && directory_exists(text));
  free(text);
  return good;
}

void cuda_cache_open(void) {
  const char *own = getenv("MOEC_CACHE"), *user = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  char *path = own && own[0]     ? string_format("%s", own)
               : user && user[0] ? string_format("%s/moec", user)
               : home && home[0] ? string_format("%s/.cache/moec", home)
                                 : NULL;
  if (path && make_directory(path)) {
    directory = path;
    return;
  }
  note(path ? path : "$HOME", path ? strerror(errno) : "not set");
  note("kernels", "compiled anew at every start, for want of a cache directory ($MOEC_CACHE names one)");
  directory = NULL;
}

static char *entry_path(const char *key) {
  return string_format("%s/%s.cubin", directory, key);
}

static Bytes read_whole(const char *path) {
  Bytes bytes = {NULL, 0};
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (descriptor < 0)
    return bytes;
  if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
    bytes = (Bytes){runtime_allocate((size_t)status.st_size + 1, 1), (size_t)status.st_size};
    size_t done = 0;
    for (ssize_t got = 1; got > 0 && done<bytes.size; done += got> 0 ? (size_t)got : 0)
      got = read(descriptor, bytes.data + done, bytes.size - done);
    bytes.size = done;
  }
  close(descriptor);
  return bytes;
}

static char *first_line(const char *key, Bytes image) {
  return string_format("moec-cubin 1 %s %zu %016" PRIx64 "\n", key, image.size, payload_hash(image.data, image.size));
}

Bytes cuda_cache_find(const char *key) {
  Bytes image = {NULL, 0};
  if (!directory)
    return image;
  char *path = entry_path(key);
  Bytes file = read_whole(path);
  if (file.data) {
    const char *end = memchr(file.data, '\n', file.size);
    size_t begins = end ? (size_t)(end + 1 - file.data) : file.size;
    image = (Bytes){file.data + begins, file.size - begins};
    char *expected = first_line(key, image);
    bool good = strlen(expected) == begins && memcmp(expected, file.data, begins) == 0;
    if (good) {
      image.data = memcpy(runtime_allocate(image.size + 1, 1), image.data, image.size);
    } else {
      note(path, "damaged: this kernel is compiled anew");
      image = (Bytes){NULL, 0};
    }
    free(expected);
    free(file.data);
  }
  free(path);
  return image;
}

static bool write_whole(int descriptor, const char *data, size_t size) {
  while (size > 0) {
    ssize_t written = write(descriptor, data, size);
    if (written < 0)
      return false;
    data += written;
    size -= (size_t)written;
  }
  return true;
}

void cuda_cache_store(const char *key, Bytes image) {
  static atomic_bool told;
  static atomic_int serial;
  if (!directory)
    return;
  char *path = entry_path(key), *line = first_line(key, image);
  char *beside = string_format("%s.new-%ld-%d", path, (long)getpid(), atomic_fetch_add(&serial, 1));
  int descriptor = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool good =
      descriptor >= 0 && write_whole(descriptor, line, strlen(line)) && write_whole(descriptor, image.data, image.size);
  good = (descriptor < 0 || close(descriptor) == 0) && good && rename(beside, path) == 0;
  if (!good) {
    int error = errno;
    if (descriptor >= 0)
      unlink(beside);
    if (!atomic_exchange(&told, true))
      note(directory, strerror(error)), note("kernels", "not kept for the next start");
  }
  free(path);
  free(line);
  free(beside);
}
