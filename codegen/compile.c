/* Compiles row kernels with the system's C compiler.
 *
 * In: the kernels of a plan. Out: one shared object per CPU level, in memory. The kernels are dealt to a few
 * translation units, so that the compilers of all levels and units run side by side on all processors.
 */
#include "codegen/compile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/package.h"

enum { MAX_UNITS = 8, KERNELS_PER_UNIT = 12, MESSAGE_BYTES = 2000 };

typedef struct Job {
  const char *command; /* run by sh in the build directory, standard error into `log` */
  const char *log;
  pid_t pid; /* 0: not started */
} Job;

/* ---------------------------------------------------------------- sources */

static char *join_sources(const KernelSet *set, const char *prelude, const char *(*text)(const Kernel *), uint32_t from,
                          uint32_t to) {
  char *source = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&source, &size);
  if (!out)
    environment_fail("out of memory");
  fputs(prelude, out);
  for (uint32_t i = from; i < to; i++)
    fprintf(out, "\n%s", text(set->kernels[i]));
  if (fclose(out) != 0)
    environment_fail("out of memory");
  return source;
}

static char *in_arena(Arena *arena, char *text) {
  char *copy = arena_copy(arena, text, strlen(text));
  free(text);
  return copy;
}

char *kernels_source_c(Arena *arena, const KernelSet *set) {
  return in_arena(arena, join_sources(set, kernel_prelude_c(), kernel_c, 0, vec_len(set->kernels)));
}

char *kernels_source_cuda(Arena *arena, const KernelSet *set) {
  char *source = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&source, &size);
  if (!out)
    environment_fail("out of memory");
  fputs(kernel_prelude_cuda(), out);
  for (uint32_t i = 0; i < vec_len(set->kernels); i++) {
    const Kernel *k = set->kernels[i];
    fprintf(out, "\n//@unit %s%s%s\n%s", kernel_name(k), kernel_arch(k) ? " arch=" : "",
            kernel_arch(k) ? kernel_arch(k) : "", kernel_cuda(k));
  }
  if (fclose(out) != 0)
    environment_fail("out of memory");
  return in_arena(arena, source);
}

/* ---------------------------------------------------------------- files */

static void remove_directory(Arena *arena, const char *directory) {
  DIR *open = opendir(directory);
  if (open)
    for (struct dirent *entry; (entry = readdir(open));)
      unlink(arena_print(arena, "%s/%s", directory, entry->d_name));
  if (open)
    closedir(open);
  rmdir(directory);
}

static void write_file(const char *path, const char *text) {
  FILE *out = fopen(path, "w");
  bool good = out && fputs(text, out) >= 0;
  good = out && fclose(out) == 0 && good;
  if (!good)
    environment_fail("%s: cannot write: %s", path, strerror(errno));
}

static char *read_file(Arena *arena, const char *path, size_t *size) {
  FILE *in = fopen(path, "rb");
  if (!in || fseek(in, 0, SEEK_END) != 0)
    environment_fail("%s: cannot read: %s", path, strerror(errno));
  long length = ftell(in);
  char *data = arena_alloc(arena, (size_t)length + 1);
  rewind(in);
  if (fread(data, 1, (size_t)length, in) != (size_t)length)
    environment_fail("%s: cannot read: %s", path, strerror(errno));
  fclose(in);
  *size = (size_t)length;
  return data;
}

/* ---------------------------------------------------------------- processes */

static void start_job(Job *job, const char *directory) {
  fflush(NULL);
  job->pid = fork();
  if (job->pid < 0)
    environment_fail("cannot start the C compiler: %s", strerror(errno));
  if (job->pid > 0)
    return;
  int log = chdir(directory) == 0 ? open(job->log, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
  if (log < 0 || dup2(log, STDERR_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0)
    _exit(126);
  execl("/bin/sh", "sh", "-c", job->command, (char *)NULL);
  _exit(126);
}

/* A compiler that is missing or too old is the environment's failure; C it refuses is ours. */
_Noreturn static void job_failed(Arena *arena, const Job *job, const char *directory, int status) {
  size_t size = 0;
  const char *path = arena_print(arena, "%s/%s", directory, job->log);
  char *message = access(path, R_OK) == 0 ? read_file(arena, path, &size) : arena_print(arena, "no message");
  if (strlen(message) > MESSAGE_BYTES)
    message[MESSAGE_BYTES] = '\0';
  remove_directory(arena, directory);
  bool ours = WIFEXITED(status) && WEXITSTATUS(status) == 1 && !strstr(message, "-march") &&
              !strstr(message, "No space left") && !strstr(message, "fatal error");
  if (ours)
    ir_bug("the C compiler refuses an emitted kernel: %s\n%s", job->command, message);
  environment_fail("the C compiler failed: %s\n%s", job->command, message);
}

/* Runs all jobs, as many at a time as there are processors. */
static void run_jobs(Arena *arena, Job *jobs, const char *directory) {
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  uint32_t started = 0, running = 0, failed = 0;
  int failed_status = 0;
  bool any_failed = false;
  while ((started < vec_len(jobs) && !any_failed) || running > 0) {
    if (started < vec_len(jobs) && !any_failed && running < (uint32_t)(processors > 0 ? processors : 1)) {
      start_job(&jobs[started++], directory);
      running++;
      continue;
    }
    int status;
    pid_t pid = waitpid(-1, &status, 0);
    for (uint32_t i = 0; i < started; i++)
      if (jobs[i].pid == pid) {
        running--;
        if (status != 0 && !any_failed) {
          any_failed = true;
          failed = i;
          failed_status = status;
        }
      }
  }
  if (any_failed)
    job_failed(arena, &jobs[failed], directory, failed_status);
}

void kernels_compile(Arena *arena, const KernelSet *set, CompiledKernels *levels, int level_count) {
  const char *compiler = getenv("CC") && *getenv("CC") ? getenv("CC") : "cc";
  const char *directory = temporary_directory(arena, "the C compiler");
  uint32_t kernels = vec_len(set->kernels), units = kernels / KERNELS_PER_UNIT + 1;
  units = units < MAX_UNITS ? units : MAX_UNITS;
  Job *compiles = NULL, *links = NULL;
  const char **objects = arena_alloc(arena, (size_t)level_count * sizeof *objects);
  for (uint32_t u = 0; u < units; u++) {
    char *source = join_sources(set, kernel_prelude_c(), kernel_c, kernels * u / units, kernels * (u + 1) / units);
    write_file(arena_print(arena, "%s/unit%u.c", directory, u), source);
    free(source);
    for (int i = 0; i < level_count; i++) {
      const char *object = arena_print(arena, "unit%u.%s.o", u, levels[i].level);
      objects[i] = arena_print(arena, "%s %s", objects[i] ? objects[i] : "", object);
      Job job = {.command = arena_print(arena, "%s %s -march=%s -c unit%u.c -o %s", compiler, KERNEL_C_FLAGS,
                                        levels[i].level, u, object),
                 .log = arena_print(arena, "%s.log", object)};
      vec_push(arena, compiles, job);
    }
  }
  for (int i = 0; i < level_count; i++) {
    Job job = {.command =
                   arena_print(arena, "%s -shared -fopenmp%s -o %s.so -lm", compiler, objects[i], levels[i].level),
               .log = arena_print(arena, "%s.so.log", levels[i].level)};
    vec_push(arena, links, job);
  }
  run_jobs(arena, compiles, directory);
  run_jobs(arena, links, directory);
  for (int i = 0; i < level_count; i++)
    levels[i].data = read_file(arena, arena_print(arena, "%s/%s.so", directory, levels[i].level), &levels[i].size);
  remove_directory(arena, directory);
}
