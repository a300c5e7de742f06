/* The CUDA text of every kernel of the cases compiles under NVRTC for sm_80 without a warning. No GPU is needed; where
 * there is no NVRTC the test is skipped. `--print` shows the CUDA text. */
#include <stdio.h>
#include <string.h>

#include "tests/kernels/cases.h"
#include "tests/kernels/nvrtc.h"

int main(int count, char **arguments) {
  Arena *arena = arena_new();
  KernelSet set = {.arena = arena};
  cases_load(arena, &set, 0);
  cases_load(arena, &set, 3);
  const char *source = nvrtc_source(arena, &set, 0, vec_len(set.kernels));
  if (count > 1 && strcmp(arguments[1], "--print") == 0) {
    puts(source);
    return 0;
  }
  if (!nvrtc_open()) {
    printf("SKIPPED: no NVRTC library on this machine\n");
    return NVRTC_SKIPPED;
  }
  bool good = nvrtc_accepts(source, "sm_80", NULL, NULL);
  printf("%u CUDA kernels compiled for sm_80: %s\n", vec_len(set.kernels), good ? "no errors, no warnings" : "failed");
  return !good;
}
