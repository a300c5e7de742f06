/* Text of a unit -> shared object, by compile.sh; kept under the hash of text, simulator.h and compile.sh.
 *
 * The directory is $MOEC_SIMULATOR_CACHE, or simulator_cache in the build directory. Two processes may make the same
 * object at the same time: source and object appear whole, by renaming.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/simulator/private.h"

static char *file_text(const char *path) {
  FILE *file = fopen(path, "rb");
  char *text = NULL;
  size_t size = 0, read;
  char part[4096];
  FILE *out = open_memstream(&text, &size);
  while (file && (read = fread(part, 1, sizeof part, file)) > 0)
    fwrite(part, 1, read, out);
  if (file)
    fclose(file);
  fclose(out);
  return text;
}

static uint64_t hash_text(uint64_t hash, const char *text) { /* FNV-1a */
  for (; *text; text++)
    hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
  return hash;
}

uint64_t compile_version(void) {
  static const char *const parts[] = {"simulator.h", "compile.sh"};
  uint64_t hash = 0xcbf29ce484222325u;
  for (int i = 0; i < 2; i++) {
    char path[1000];
    snprintf(path, sizeof path, "%s/%s", SIMULATOR_SOURCES, parts[i]);
    char *part = file_text(path);
    hash = hash_text(hash * 31, part);
    free(part);
  }
  return hash;
}

static char *own_path(void) {
  Dl_info info;
  return dladdr((void *)(uintptr_t)own_path, &info) ? realpath(info.dli_fname, NULL) : NULL;
}

static bool write_text(const char *path, const char *text) {
  char beside[4300];
  snprintf(beside, sizeof beside, "%s.%d", path, (int)getpid());
  FILE *file = fopen(beside, "wb");
  bool good = file && fputs(text, file) >= 0;
  return file && fclose(file) == 0 && good && rename(beside, path) == 0;
}

const char *compile_cache(void) {
  const char *chosen = getenv("MOEC_SIMULATOR_CACHE"), *directory = chosen && *chosen ? chosen : SIMULATOR_CACHE;
  mkdir(directory, 0777);
  return directory;
}

bool compile_unit(const char *text, char *path, size_t size, char **log) {
  char *library = own_path(), *directory = realpath(compile_cache(), NULL), source[4200], said[4200], command[16000];
  if (!library || !directory) {
    fprintf(stderr, "simulator: %s: %s\n", compile_cache(), strerror(errno));
    exit(3);
  }
  const uint64_t hash = hash_text(compile_version(), text);
  snprintf(path, size, "%s/%016llx.so", directory, (unsigned long long)hash);
  snprintf(source, sizeof source, "%s/%016llx.cu", directory, (unsigned long long)hash);
  snprintf(said, sizeof said, "%s/%016llx.%d.log", directory, (unsigned long long)hash, (int)getpid());
  snprintf(command, sizeof command, "sh '%s/compile.sh' '%s' '%s' '%s' 2>'%s'", SIMULATOR_SOURCES, source, path,
           library, said);
  free(directory);
  free(library);
  if (access(path, R_OK) == 0)
    return true;
  if (!write_text(source, text)) {
    fprintf(stderr, "simulator: %s: %s\n", source, strerror(errno));
    exit(3);
  }
  bool good = system(command) == 0;
  if (!good)
    *log = file_text(said);
  unlink(said);
  return good;
}

SimulatorUnit *simulator_compile(const char *text) {
  char path[4200], *log = NULL;
  report_clear();
  if (compile_unit(text, path, sizeof path, &log))
    return unit_load(path);
  report("%s", log);
  free(log);
  return NULL;
}
