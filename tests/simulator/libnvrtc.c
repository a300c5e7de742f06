/* libnvrtc.so.13 of the simulated device: compile.sh in NVRTC's place; the shared object's bytes are the cubin. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/types.h"
#include "tests/simulator/private.h"

#define FUNCTION(library, returns, name, parameters) returns name parameters;
#include "runtime/cuda/functions.def"
#undef FUNCTION

enum { MAJOR = 13, FIRST_MINOR = 1000000, MINORS = 1000000 };

struct _nvrtcProgram {
  char *source, *log, *cubin;
  size_t cubin_size;
};

/* No real compiler has this version, and it changes with the simulator: cubins of theirs are not taken for ours. */
nvrtcResult nvrtcVersion(int *major, int *minor) {
  *major = MAJOR;
  *minor = FIRST_MINOR + (int)(compile_version() % MINORS);
  return NVRTC_SUCCESS;
}

const char *nvrtcGetErrorString(nvrtcResult result) {
  return result == NVRTC_SUCCESS ? "NVRTC_SUCCESS" : "refused by the simulator's compiler";
}

nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *source, const char *name, int headers,
                               const char *const *header, const char *const *include_name) {
  (void)name, (void)header, (void)include_name;
  if (headers)
    return NVRTC_ERROR_INVALID_OPTION;
  *program = calloc(1, sizeof **program);
  (*program)->source = strdup(source);
  (*program)->log = strdup("");
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program) {
  free((*program)->source);
  free((*program)->log);
  free((*program)->cubin);
  free(*program);
  *program = NULL;
  return NVRTC_SUCCESS;
}

/* Options that do not change what a text means. */
static bool is_known(const char *option) {
  char own[40];
  snprintf(own, sizeof own, "--gpu-architecture=sm_%d", device_arch());
  return strncmp(option, own, strlen(own)) == 0 || strcmp(option, "--std=c++17") == 0 ||
         strncmp(option, "--diag-suppress=", 16) == 0;
}

static bool read_cubin(nvrtcProgram program, const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return false;
  fseek(file, 0, SEEK_END);
  program->cubin_size = (size_t)ftell(file);
  rewind(file);
  program->cubin = malloc(program->cubin_size);
  bool whole = fread(program->cubin, 1, program->cubin_size, file) == program->cubin_size;
  fclose(file);
  return whole;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char *const *options) {
  char path[4200], *log = NULL;
  for (int i = 0; i < count; i++)
    if (!is_known(options[i])) {
      report("nvrtcCompileProgram: option %s is not simulated", options[i]);
      return NVRTC_ERROR_INVALID_OPTION;
    }
  if (compile_unit(program->source, path, sizeof path, &log) && read_cubin(program, path))
    return NVRTC_SUCCESS;
  if (log) {
    free(program->log);
    program->log = log;
  }
  return NVRTC_ERROR_COMPILATION;
}

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t *bytes) {
  *bytes = program->cubin_size;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char *cubin) {
  memcpy(cubin, program->cubin, program->cubin_size);
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t *bytes) {
  *bytes = strlen(program->log) + 1;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char *log) {
  strcpy(log, program->log);
  return NVRTC_SUCCESS;
}
