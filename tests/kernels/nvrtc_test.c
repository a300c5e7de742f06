/* The CUDA text of every kernel of the cases compiles under NVRTC for sm_80 without a warning. No GPU is needed; where
 * there is no NVRTC the test says that it was skipped. `--print` shows the CUDA text. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/cases.h"

typedef struct NvrtcProgram NvrtcProgram;

static struct {
  int (*create)(NvrtcProgram **, const char *, const char *, int, const char *const *, const char *const *);
  int (*compile)(NvrtcProgram *, int, const char *const *);
  int (*log_size)(NvrtcProgram *, size_t *);
  int (*log)(NvrtcProgram *, char *);
  int (*cubin_size)(NvrtcProgram *, size_t *);
} nvrtc;

static bool open_nvrtc(void) {
  static const char *const names[] = {"libnvrtc.so",
                                      "libnvrtc.so.13",
                                      "libnvrtc.so.12",
                                      "/usr/local/cuda/lib64/libnvrtc.so",
                                      "/usr/local/cuda/lib64/libnvrtc.so.13",
                                      "/usr/local/cuda/lib64/libnvrtc.so.12"};
  void *library = NULL;
  for (size_t i = 0; !library && i < sizeof names / sizeof names[0]; i++)
    library = dlopen(names[i], RTLD_NOW);
  if (!library)
    return false;
  *(void **)&nvrtc.create = dlsym(library, "nvrtcCreateProgram");
  *(void **)&nvrtc.compile = dlsym(library, "nvrtcCompileProgram");
  *(void **)&nvrtc.log_size = dlsym(library, "nvrtcGetProgramLogSize");
  *(void **)&nvrtc.log = dlsym(library, "nvrtcGetProgramLog");
  *(void **)&nvrtc.cubin_size = dlsym(library, "nvrtcGetCUBINSize");
  return nvrtc.create && nvrtc.compile && nvrtc.log_size && nvrtc.log && nvrtc.cubin_size;
}

static char *source_of(const KernelSet *set) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  fputs(kernel_prelude_cuda(), out);
  for (uint32_t i = 0; i < vec_len(set->kernels); i++)
    fprintf(out, "\n%s", kernel_cuda(set->kernels[i]));
  fclose(out);
  return text;
}

/* 0 when it compiles and the compiler has nothing to say. */
static int check_source(const char *source) {
  static const char *const options[] = {"--gpu-architecture=sm_80", "--std=c++17", "-Xptxas=-O1",
                                        "--diag-suppress=177"};
  NvrtcProgram *program;
  if (nvrtc.create(&program, source, "kernels.cu", 0, NULL, NULL) != 0)
    return 1;
  int failed = nvrtc.compile(program, 4, options) != 0;
  size_t size = 0, cubin = 0;
  nvrtc.log_size(program, &size);
  char *log = calloc(size + 1, 1);
  nvrtc.log(program, log);
  failed |= strstr(log, "warning") != NULL;
  if (failed)
    printf("FAILED:\n%.4000s\n", log);
  failed |= nvrtc.cubin_size(program, &cubin) != 0 || cubin == 0;
  free(log);
  return failed;
}

int main(int count, char **arguments) {
  Arena *arena = arena_new();
  KernelSet set = {.arena = arena};
  cases_load(arena, &set, 0);
  cases_load(arena, &set, 3);
  char *source = source_of(&set);
  if (count > 1 && strcmp(arguments[1], "--print") == 0) {
    puts(source);
    return 0;
  }
  if (!open_nvrtc()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return 0;
  }
  int failed = check_source(source);
  printf("%u CUDA kernels compiled for sm_80: %s\n", vec_len(set.kernels),
         failed ? "failed" : "no errors, no warnings");
  return failed;
}
