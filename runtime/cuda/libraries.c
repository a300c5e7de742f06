/* See libraries.h. */
#include "runtime/cuda/libraries.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/files.h"

CudaFunctions cuda;

static const char *const file_name[CUDA_LIBRARIES] = {
    [CUDA_DRIVER] = "libcuda.so.1", [CUDA_NVRTC] = "libnvrtc.so.13", [CUDA_CUBLAS] = "libcublasLt.so.13"};

/* Whence it comes, for the message. */
static const char *const source[CUDA_LIBRARIES] = {[CUDA_DRIVER] = "it comes with NVIDIA's driver",
                                                   [CUDA_NVRTC] = "it comes with the CUDA toolkit 13",
                                                   [CUDA_CUBLAS] = "it comes with the CUDA toolkit 13"};

typedef struct Entry {
  CudaLibrary library;
  const char *name;
  size_t at; /* in CudaFunctions */
} Entry;

static const Entry entries[] = {
#define driver CUDA_DRIVER
#define nvrtc CUDA_NVRTC
#define cublas CUDA_CUBLAS
#define FUNCTION(library, returns, name, parameters) {library, #name, offsetof(CudaFunctions, name)},
#include "runtime/cuda/functions.def"
#undef FUNCTION
#undef driver
#undef nvrtc
#undef cublas
};

static void *open_beside_toolkit(const char *name) {
  static const char *const patterns[] = {"/usr/local/cuda/lib64/", "/usr/local/cuda-*/lib64/"};
  void *library = NULL;
  for (size_t i = 0; !library && i < sizeof patterns / sizeof *patterns; i++) {
    char *pattern = string_format("%s%s", patterns[i], name);
    glob_t found;
    if (glob(pattern, 0, NULL, &found) == 0) {
      for (size_t k = 0; !library && k < found.gl_pathc; k++)
        library = dlopen(found.gl_pathv[k], RTLD_NOW | RTLD_LOCAL);
      globfree(&found);
    }
    free(pattern);
  }
  return library;
}

/* The loader's reason where there is more to say than that the file is not there. */
static const char *describe_problem(CudaLibrary which, const char *directory) {
  const char *reason = dlerror();
  bool absent = !reason || strstr(reason, "cannot open shared object file: No such file");
  if (absent)
    return string_format("%s is not %s%s (%s)", file_name[which], directory ? "in " : "on this machine",
                         directory ? directory : "", source[which]);
  return string_format("%s cannot be opened: %s", file_name[which], reason);
}

static void *open_file(CudaLibrary which, const char **problem) {
  const char *directory = getenv("MOEC_CUDA_PATH"), *name = file_name[which];
  void *library;
  if (directory && directory[0]) {
    char *path = string_format("%s/%s", directory, name);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    free(path);
  } else {
    directory = NULL;
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
      library = open_beside_toolkit(name);
  }
  if (!library)
    *problem = describe_problem(which, directory);
  return library;
}

static const char *open_library(CudaLibrary which) {
  const char *problem = NULL;
  void *library = open_file(which, &problem);
  if (!library)
    return problem;
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
    if (entries[i].library != which)
      continue;
    void *symbol = dlsym(library, entries[i].name);
    if (!symbol)
      return string_format("%s has no function %s: it is too old", file_name[which], entries[i].name);
    memcpy((char *)&cuda + entries[i].at, &symbol, sizeof symbol);
  }
  return NULL;
}

const char *cuda_open(CudaLibrary library) {
  static bool tried[CUDA_LIBRARIES];
  static const char *problem[CUDA_LIBRARIES];
  if (!tried[library])
    problem[library] = open_library(library);
  tried[library] = true;
  return problem[library];
}

const char *cuda_error_text(CUresult result) {
  const char *name = NULL, *text = NULL;
  if (cuda.cuGetErrorName(result, &name) != CUDA_SUCCESS || cuda.cuGetErrorString(result, &text) != CUDA_SUCCESS)
    return string_format("CUDA error %d", result);
  return string_format("%s: %s", name, text);
}

void cuda_check(CUresult result, const char *what) {
  if (result == CUDA_SUCCESS)
    return;
  bool machine = result == CUDA_ERROR_OUT_OF_MEMORY || result == CUDA_ERROR_NO_DEVICE ||
                 result == CUDA_ERROR_DEVICE_UNAVAILABLE || result == CUDA_ERROR_ECC_UNCORRECTABLE ||
                 result == CUDA_ERROR_UNKNOWN;
  runtime_fail(machine ? FAIL_ENVIRONMENT : FAIL_BUG, "the GPU failed at %s: %s", what, cuda_error_text(result));
}
