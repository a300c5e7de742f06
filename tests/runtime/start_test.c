/* runtime_start: whatever the environment was, libgomp itself must say that idle threads wait passively, and the
 * arguments must arrive; a policy the user set stays. */
#include <unistd.h>

#include "runtime/execute.h"
#include "tests/runtime/check.h"

/* Output of this program as a child, with libgomp printing what it read. */
static void child_output(const char *environment, char *text, size_t size) {
  char self[1024], command[2048];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  CHECK(length > 0, "no path of the test");
  self[length] = 0;
  snprintf(command, sizeof command,
           "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT %s OMP_DISPLAY_ENV=true '%s' child 'a b' 2>&1", environment, self);
  FILE *pipe = popen(command, "r");
  CHECK(pipe, "the child does not start");
  size_t got = fread(text, 1, size - 1, pipe);
  text[got] = 0;
  CHECK(!pclose(pipe), "the child failed: %s", text);
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "child")) {
    runtime_start(argv);
    double sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < 100; i++)
      sum += i;
    printf("arguments: %s, %s, %g\n", argv[1], argv[2], sum);
    return 0;
  }
  char text[16384];
  child_output("", text, sizeof text);
  CHECK(strstr(text, "OMP_WAIT_POLICY = 'PASSIVE'"), "libgomp does not wait passively:\n%s", text);
  CHECK(strstr(text, "arguments: child, a b, 4950"), "the arguments were lost:\n%s", text);
  child_output("OMP_WAIT_POLICY=active", text, sizeof text);
  CHECK(strstr(text, "OMP_WAIT_POLICY = 'ACTIVE'"), "the user's policy was changed:\n%s", text);
  CHECK(!strstr(text, "OMP_WAIT_POLICY = 'PASSIVE'"), "the user's policy was changed:\n%s", text);
  printf("start: ok\n");
  return 0;
}
