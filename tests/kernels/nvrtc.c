/* NVRTC, opened at run time: the tests build on machines without CUDA. */
#include "tests/kernels/nvrtc.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct NvrtcProgram NvrtcProgram;

static struct {
  int (*create)(NvrtcProgram **, const char *, const char *, int, const char *const *, const char *const *);
  int (*compile)(NvrtcProgram *, int, const char *const *);
  int (*log_size)(NvrtcProgram *, size_t *);
  int (*log)(NvrtcProgram *, char *);
  int (*cubin_size)(NvrtcProgram *, size_t *);
  int (*destroy)(NvrtcProgram **);
} nvrtc;

bool nvrtc_open(void) {
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
  *(void **)&nvrtc.destroy = dlsym(library, "nvrtcDestroyProgram");
  return nvrtc.create && nvrtc.compile && nvrtc.log_size && nvrtc.log && nvrtc.cubin_size && nvrtc.destroy;
}

const char *nvrtc_source(Arena *arena, const KernelSet *set, uint32_t first, uint32_t last) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  fputs(kernel_prelude_cuda(), out);
  for (uint32_t i = first; i < last; i++)
    fprintf(out, "\n%s", kernel_cuda(set->kernels[i]));
  fclose(out);
  const char *copy = arena_copy(arena, text, size);
  free(text);
  return copy;
}

/* "ptxas info    : Compiling entry function 'NAME' for 'sm_80'", "    8 bytes stack frame, 4 bytes spill stores, 4
 * bytes spill loads" and "ptxas info    : Used 32 registers, used 1 barriers, 16 bytes smem". */
static void read_uses(const char *log, NvrtcUse *uses, int *count) {
  static const char head[] = "Compiling entry function '";
  *count = 0;
  for (const char *at = log; (at = strstr(at, head)) && *count < NVRTC_ENTRIES; at++) {
    NvrtcUse *use = &uses[(*count)++];
    memset(use, 0, sizeof *use);
    sscanf(at + sizeof head - 1, "%159[^']", use->entry);
    const char *stack = strstr(at, " bytes stack frame"), *used = strstr(at, "Used "), *line = stack;
    if (!stack || !used)
      continue;
    while (line > at && line[-1] != '\n')
      line--;
    sscanf(line, "%d bytes stack frame, %d bytes spill stores, %d bytes spill loads", &use->stack, &use->spill_out,
           &use->spill_in);
    sscanf(used, "Used %d registers", &use->registers);
    const char *end = strchr(used, '\n'), *shared = strstr(used, " bytes smem");
    if (shared && (!end || shared < end)) {
      while (shared[-1] >= '0' && shared[-1] <= '9')
        shared--;
      use->shared = atoi(shared);
    }
  }
}

bool nvrtc_accepts(const char *source, const char *arch, NvrtcUse *uses, int *count) {
  char target[64];
  snprintf(target, sizeof target, "--gpu-architecture=%s", arch);
  const char *const options[] = {target, "--std=c++17", "--diag-suppress=177", "--ptxas-options=-v"};
  NvrtcProgram *program;
  if (nvrtc.create(&program, source, "kernels.cu", 0, NULL, NULL) != 0)
    return false;
  bool good = nvrtc.compile(program, 4, options) == 0;
  size_t size = 0, cubin = 0;
  nvrtc.log_size(program, &size);
  char *log = calloc(size + 1, 1);
  nvrtc.log(program, log);
  /* the assembler's remarks begin with a number: (C7510) products of warpgroups one after the other, (C7517) a wait put
   * in between, (C7507) setmaxnreg ignored */
  good = good && !strstr(log, "warning") && !strstr(log, "info    : (C") && nvrtc.cubin_size(program, &cubin) == 0 &&
         cubin > 0;
  if (!good)
    printf("FAILED:\n%.4000s\n", log);
  if (uses)
    read_uses(log, uses, count);
  free(log);
  nvrtc.destroy(&program);
  return good;
}
