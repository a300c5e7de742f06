/* In: a section that is a shared library. Out: the functions the plan launches. The library reaches the dynamic linker
 * through a file that exists in memory only, so a trainer needs no writable directory. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "runtime/kernels.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/error.h"

static void *open_library(const PayloadSection *section) {
  int fd = memfd_create(section->name, MFD_CLOEXEC);
  if (fd < 0)
    runtime_fail(FAIL_ENVIRONMENT, "no memory file for the kernels: %s", strerror(errno));
  for (size_t done = 0; done < section->size;) {
    ssize_t written = write(fd, section->data + done, section->size - done);
    if (written <= 0)
      runtime_fail(FAIL_ENVIRONMENT, "the kernels do not fit into memory: %s", strerror(errno));
    done += (size_t)written;
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    runtime_fail(FAIL_ENVIRONMENT, "section %s of the trainer cannot be loaded: %s", section->name, dlerror());
  close(fd);
  return library;
}

moec_kernel *kernels_load(const Plan *plan, const Payload *payload, const char *section) {
  moec_kernel *kernels = runtime_allocate((size_t)plan->kernel_count, sizeof *kernels);
  if (!plan->kernel_count)
    return kernels;
  if (!payload)
    runtime_fail(FAIL_BUG, "the plan launches kernels, but there is no payload that holds them");
  void *library = open_library(payload_section(payload, section));
  for (int i = 0; i < plan->kernel_count; i++) {
    void *symbol = dlsym(library, plan->kernels[i]);
    if (!symbol)
      runtime_fail(FAIL_BUG, "section %s has no kernel %s, which the plan launches", section, plan->kernels[i]);
    memcpy(&kernels[i], &symbol, sizeof symbol);
  }
  return kernels;
}
