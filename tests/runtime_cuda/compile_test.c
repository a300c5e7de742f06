/* Units, cache and container of runtime/cuda/compile.h: what is parsed; that each place a cubin can come from is used
 * and the compiler is not called where it need not be, so not for other comments; that damage in the cache is noticed
 * and mended, and several processes may fill it at a time. Compiles with the real NVRTC, which needs no GPU; without it
 * the test is skipped. */
#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/cuda/compile.h"
#include "runtime/cuda/libraries.h"
#include "tests/runtime/check.h"

static const char text[] = "#define SCALE 2\n"
                           "//@unit twice sha=0011223344556677\n"
                           "extern \"C\" __global__ void twice(float *x) { x[threadIdx.x] *= SCALE; }\n"
                           "extern \"C\" __global__ void twice_finish(float *x) { x[0] = 0; }\n"
                           "//@unit twice_over arch=sm_90a\n"
                           "extern \"C\" __global__ void twice_over(float *x) { x[threadIdx.x] *= SCALE * 2; }\n"
                           "//@unit half\n"
                           "extern \"C\" __global__ void half(float *x) { x[threadIdx.x] /= SCALE; }\n";

static char directory[] = "/tmp/moec-compile-XXXXXX";
static int compilations;
static nvrtcResult (*real_compile)(nvrtcProgram, int, const char *const *);

static nvrtcResult count_compile(nvrtcProgram program, int count, const char *const *options) {
  __atomic_add_fetch(&compilations, 1, __ATOMIC_RELAXED);
  return real_compile(program, count, options);
}

static void check_source(const CudaSource *source) {
  CHECK(source->head_size == strlen("#define SCALE 2\n") && source->count == 3, "%d units", source->count);
  CHECK(!strcmp(source->units[0].name, "twice") && !source->units[0].arch, "first unit");
  CHECK(!strcmp(source->units[1].name, "twice_over") && !strcmp(source->units[1].arch, "sm_90a"), "second unit");
  CHECK(cuda_source_find(source, "twice") == 0 && cuda_source_find(source, "twice_finish") == 0, "entries of a unit");
  CHECK(cuda_source_find(source, "twice_over") == 1, "the longest name that fits holds the entry");
  CHECK(cuda_source_find(source, "twic") == -1 && cuda_source_find(source, "halfway") == -1, "no such entry");
}

/* Loads all units for sm_80 and checks that two of them came, and how many compilations that took. */
static Bytes *load(const CudaSource *source, Mapping container, int expected) {
  compilations = 0;
  Bytes *images = cuda_load_units(source, (const bool[]){true, true, true}, "sm_80", container);
  CHECK(images[0].data && images[2].data && !images[1].data, "the units of this architecture");
  CHECK(compilations == expected, "%d compilations, expected %d", compilations, expected);
  return images;
}

static char *an_entry(void) {
  DIR *open = opendir(directory);
  for (struct dirent *entry; (entry = readdir(open));)
    if (strstr(entry->d_name, ".cubin")) {
      char *path = string_format("%s/%s", directory, entry->d_name);
      closedir(open);
      return path;
    }
  CHECK(false, "the cache is empty");
  return NULL;
}

/* Changes one byte, or cuts the file to `size` bytes where that is not negative. */
static void damage(const char *path, long at, long size) {
  FILE *file = fopen(path, "r+b");
  CHECK(file, "%s", path);
  if (size >= 0) {
    CHECK(ftruncate(fileno(file), size) == 0, "truncate");
  } else {
    fseek(file, at, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(byte ^ 1, file);
  }
  fclose(file);
}

static void check_same(const Bytes *a, const Bytes *b) {
  for (int i = 0; i < 3; i += 2)
    CHECK(a[i].size == b[i].size && memcmp(a[i].data, b[i].data, a[i].size) == 0, "unit %d has other bytes", i);
}

static void check_cache(const CudaSource *source) {
  Mapping none = {NULL, 0};
  Bytes *first = load(source, none, 2);
  CHECK(first[0].size > 100 && memcmp(first[0].data, "\177ELF", 4) == 0, "a cubin is an ELF file");
  check_same(first, load(source, none, 0));
  const long positions[] = {3, 40, 200};
  for (int i = 0; i < 3; i++) {
    damage(an_entry(), positions[i], -1);
    check_same(first, load(source, none, 1));
    check_same(first, load(source, none, 0));
  }
  damage(an_entry(), 0, 150);
  check_same(first, load(source, none, 1));
  damage(an_entry(), 0, 0);
  check_same(first, load(source, none, 1));
  compilations = 0;
  cuda_load_units(source, (const bool[]){true, false, false}, "sm_90a", none);
  CHECK(compilations == 1, "another architecture is another entry");
  CHECK(setenv("MOEC_CACHE", "/proc/none", 1) == 0, "setenv");
  check_same(first, load(source, none, 2));
}

/* The text with another comment in its head and in a unit is the same to the cache; with another number it is not. */
static void check_comments(void) {
  static const char *const heads[] = {"/* a */#define SCALE 2\n", "#define SCALE 2/* b / c */\n", "#define SCALE 3\n"};
  static const int expected[] = {1, 0, 1};
  for (int i = 0; i < 3; i++) {
    char *other = string_format(
        "%s//@unit half\n/* %d / 2 */extern \"C\" __global__ void half(float *x) { *x /= SCALE; }\n", heads[i], i);
    CudaSource source = cuda_source_read(other, strlen(other));
    compilations = 0;
    cuda_load_units(&source, (const bool[]){true}, "sm_80", (Mapping){NULL, 0});
    CHECK(compilations == expected[i], "comment %d: %d compilations", i, compilations);
  }
}

static void empty_cache(void) {
  CHECK(!system(string_format("rm %s/*.cubin", directory)), "the cache is not emptied");
}

/* Processes that find the cache empty at the same time: each compiles, none reads half a file. */
static void check_together(const CudaSource *source) {
  enum { PROCESSES = 3 };
  empty_cache();
  for (int i = 0; i < PROCESSES; i++)
    if (fork() == 0) {
      execl("/proc/self/exe", "compile_test", directory, (char *)NULL);
      _exit(127);
    }
  for (int i = 0, status; i < PROCESSES; i++)
    CHECK(wait(&status) > 0 && status == 0, "a process beside others ends with status %d", status);
  load(source, (Mapping){NULL, 0}, 0);
  CHECK(!system(string_format("test -z \"$(ls %s | grep -v 'cubin$')\"", directory)), "parts of files are left");
  empty_cache();
}

static void check_container(const CudaSource *source) {
  static const char container[] = "half 0 4\ntwice 4 3\n\nhalfTWO";
  Bytes *images = load(source, (Mapping){(const uint8_t *)container, strlen(container)}, 0);
  CHECK(images[2].size == 4 && !memcmp(images[2].data, "half", 4), "half");
  CHECK(images[0].size == 3 && !memcmp(images[0].data, "TWO", 3), "twice");
}

int main(int count, char **arguments) {
  const char *problem = cuda_open(CUDA_NVRTC);
  if (problem) {
    printf("skipped: %s\n", problem);
    return 77;
  }
  real_compile = cuda.nvrtcCompileProgram;
  cuda.nvrtcCompileProgram = count_compile;
  CudaSource source = cuda_source_read(text, strlen(text));
  if (count > 1) { /* one of several processes */
    setenv("MOEC_CACHE", arguments[1], 1);
    for (int i = 0; i < 20; i++)
      cuda_load_units(&source, (const bool[]){true, true, true}, "sm_80", (Mapping){NULL, 0});
    return 0;
  }
  CHECK(mkdtemp(directory), "no directory for the test");
  setenv("MOEC_CACHE", string_format("%s/", directory), 1);
  check_source(&source);
  check_comments();
  check_together(&source);
  check_cache(&source);
  check_container(&source);
  CHECK(!system(string_format("rm -r %s", directory)), "the test's directory stays");
  printf("units, cache, container: ok\n");
  return 0;
}
