/* The first thing a trainer does: OpenMP's idle threads must sleep. Spinning, two threads lose most of their speed as
 * soon as anything else runs on the machine. libgomp reads its policy from the environment when it is loaded, which is
 * before any code of the program, and offers no call to change it; so the program starts itself anew. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/execute.h"

void runtime_start(char **argv) {
  signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is then a write that fails, with its message */
  if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
    return;
  char path[4096];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length > 0 && !setenv("OMP_WAIT_POLICY", "passive", 1)) {
    path[length] = 0; /* the file itself and not /proc/self/exe: process lists show its name */
    execv(path, argv);
  }
  fprintf(stderr, "trainer: could not set OMP_WAIT_POLICY=passive (%s): on a busy machine it will be slow\n",
          strerror(errno));
}
