/* Thousands of wrong model scripts, each in a process of its own with limits. Good outcomes: exit code 0 and no word,
 * or exit code 1 and one line on standard error that begins with the script's name and does not speak of the inside of
 * the library. Scripts that are taken go on through passes and lowering. Everything else, a signal, exit code 70, too
 * much time or memory, is a failure; the script is printed.
 *
 *   lua_fuzz_test [CASES [SEED [FIRST]]] runs other cases than the test does; case N of a seed is the same in every run
 */
#define _GNU_SOURCE 1 /* memfd_create */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/plan.h"
#include "frontend/script.h"
#include "passes/pipeline.h"
#include "tests/fuzz/scripts.h"

#ifndef __SANITIZE_ADDRESS__
#define __SANITIZE_ADDRESS__ 0
#endif

enum { CASES = 2500, MOST_FAILURES = 10, CPU_SECONDS = 90, WALL_SECONDS = 300, MESSAGE_ROOM = 4096 };
enum { SMALL = 5000 }; /* instructions: time and memory of the passes on large models are not the question here */

static int script_file, message_file; /* in memory */
static char script_path[32];

/* ---------------------------------------------------------------- the child */

static void limit_resources(void) {
  setrlimit(RLIMIT_CPU, &(struct rlimit){CPU_SECONDS, CPU_SECONDS + 5});
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  if (!__SANITIZE_ADDRESS__) /* which reserves terabytes */
    setrlimit(RLIMIT_AS, &(struct rlimit){(rlim_t)6 << 30, (rlim_t)6 << 30});
  alarm(WALL_SECONDS);
}

static uint32_t count_instructions(const Module *m) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++)
    count += vec_len(m->funcs[i]->insts);
  return count;
}

static _Noreturn void compile_script(const FuzzScript *script) {
  dup2(message_file, STDERR_FILENO);
  limit_resources();
  Arena *arena = arena_new();
  ScriptOptions options = {.path = script_path, .defines = script->defines, .seed = 1};
  Module *m = script_compile(arena, &options).module;
  FILE *out = fopen("/dev/null", "w");
  module_print(m, out);
  if (count_instructions(m) <= SMALL) {
    pipeline_run(m, &(PipelineOptions){0}, ledger_new(arena));
    plan_print(plan_lower(m, PLAN_CPU, false), out);
  }
  exit(0);
}

/* ---------------------------------------------------------------- the verdict */

static void write_script(const char *text) {
  size_t length = strlen(text);
  if (ftruncate(script_file, 0) != 0 || ftruncate(message_file, 0) != 0 || lseek(message_file, 0, SEEK_SET) != 0 ||
      pwrite(script_file, text, length, 0) != (ssize_t)length) {
    perror("lua_fuzz_test");
    exit(1);
  }
}

/* NULL when all is well. */
static const char *judge(int status, const char *message) {
  if (WIFSIGNALED(status))
    return strsignal(WTERMSIG(status));
  int code = WEXITSTATUS(status);
  const char *end = strchr(message, '\n');
  if (code == 0)
    return *message ? "the script is taken, but there is a message" : NULL;
  if (code != 1)
    return "an exit code other than 0 and 1";
  if (!end || end[1])
    return "not one line";
  if (strncmp(message, script_path, strlen(script_path)) != 0)
    return "a message without a place";
  if (strstr(message, "moec/") || strstr(message, "[C]") || strstr(message, "traceback"))
    return "a message about the inside of the library";
  return NULL;
}

typedef struct Tally {
  uint32_t taken, failures, slowest;
  double seconds; /* of the slowest */
} Tally;

static double seconds_of(const struct rusage *usage) {
  return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
         1e-6 * (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

static void show_failure(const FuzzScript *script, uint32_t number, const char *what, double seconds,
                         const char *message) {
  printf("FAILED: case %u (%s), after %.1f s: %s\n%s%s-D", number, script->from, seconds, what, message,
         *message ? "" : "(no message)\n");
  for (uint32_t i = 0; i < vec_len(script->defines); i++)
    printf(" %s", script->defines[i]);
  printf("\n----\n%s\n----\n", script->text);
  fflush(stdout);
}

static void run_case(uint64_t seed, uint32_t number, Tally *tally) {
  Arena *arena = arena_new();
  Random random = {(seed << 32 | number) * 0x9e3779b97f4a7c15u};
  draw(&random, 2);
  FuzzScript script = draw(&random, 3) ? script_mutated(arena, &random) : script_generated(arena, &random);
  write_script(script.text);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0)
    compile_script(&script);
  int status = 0;
  struct rusage usage = {0};
  if (child < 0 || wait4(child, &status, 0, &usage) != child) {
    perror("lua_fuzz_test: fork");
    exit(1);
  }
  char message[MESSAGE_ROOM] = "";
  ssize_t length = pread(message_file, message, sizeof message - 1, 0);
  message[length > 0 ? length : 0] = '\0';
  const char *what = judge(status, message);
  double seconds = seconds_of(&usage);
  if (what)
    show_failure(&script, number, what, seconds, message);
  tally->failures += what != NULL;
  tally->taken += WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (seconds > tally->seconds) {
    tally->seconds = seconds;
    tally->slowest = number;
  }
  arena_free(arena);
}

int main(int argc, char **argv) {
  uint32_t cases = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : CASES;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  uint32_t first = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
  Arena *arena = arena_new();
  script_file = memfd_create("script.lua", 0);
  message_file = memfd_create("messages", 0);
  if (!scripts_load(arena) || script_file < 0 || message_file < 0) {
    perror("lua_fuzz_test: cannot read models/ and tests/");
    return 1;
  }
  snprintf(script_path, sizeof script_path, "/proc/self/fd/%d", script_file);
  Tally tally = {0};
  uint32_t done = 0;
  for (; done < cases && tally.failures < MOST_FAILURES; done++)
    run_case(seed, first + done, &tally);
  printf("%u scripts, %u taken, %u failures, the slowest is case %u with %.1f s\n", done, tally.taken, tally.failures,
         tally.slowest, tally.seconds);
  return tally.failures != 0;
}
