/* See log.h. */
#include "runtime/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/files.h"

const char *const log_file[LOG_COUNT] = {"metrics.jsonl", "routing.jsonl", "probe.jsonl", "log.txt"};

double log_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int open_file(const char *path, int flags) {
  int descriptor = open(path, O_RDWR | O_APPEND | O_CLOEXEC | flags, 0666);
  if (descriptor < 0 && !(errno == ENOENT && !(flags & O_CREAT)))
    runtime_fail(FAIL_ENVIRONMENT, "cannot write %s: %s", path, strerror(errno));
  return descriptor;
}

Log *log_open(const char *directory, const int64_t offsets[LOG_COUNT]) {
  Log *log = runtime_allocate(1, sizeof *log);
  for (int i = 0; i < LOG_COUNT; i++) {
    log->path[i] = string_format("%s/%s", directory, log_file[i]);
    log->descriptor[i] = open_file(log->path[i], i == LOG_PROBE && offsets[i] == 0 ? 0 : O_CREAT);
    if (i == 0 && flock(log->descriptor[i], LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      runtime_fail(FAIL_ENVIRONMENT, "another process is training into %s", directory);
  }
  for (int i = 0; i < LOG_COUNT; i++) {
    struct stat status;
    if (log->descriptor[i] < 0)
      continue;
    if (fstat(log->descriptor[i], &status) != 0 || status.st_size < offsets[i])
      runtime_fail(FAIL_USER, "%s: damaged: %lld bytes, the checkpoint was written behind %lld", log->path[i],
                   (long long)status.st_size, (long long)offsets[i]);
    if (ftruncate(log->descriptor[i], offsets[i]) != 0)
      runtime_fail(FAIL_ENVIRONMENT, "cannot cut %s: %s", log->path[i], strerror(errno));
    log->offset[i] = offsets[i];
  }
  log->terminal = isatty(STDOUT_FILENO);
  log->start = log->shown = log_seconds();
  return log;
}

void log_line(Log *log, int which, Text *line) {
  text_append(line, "\n", 1);
  if (log->descriptor[which] < 0)
    log->descriptor[which] = open_file(log->path[which], O_CREAT);
  file_write(log->descriptor[which], log->path[which], line->data, line->size);
  log->offset[which] += (int64_t)line->size;
  line->size = 0;
}

void log_end_line(Log *log) {
  if (log->line_open) {
    putchar('\n');
    fflush(stdout);
  }
  log->line_open = false;
}

static void append_arguments(Text *text, const char *format, va_list arguments) {
  char line[1024];
  vsnprintf(line, sizeof line, format, arguments);
  text_format(text, "%s", line);
}

void log_note(Log *log, const char *format, ...) {
  Text line = {0};
  va_list arguments;
  va_start(arguments, format);
  append_arguments(&line, format, arguments);
  va_end(arguments);
  if (log->line_open)
    fputs("\r\033[K", stdout);
  log->line_open = false;
  puts(line.data);
  fflush(stdout);
  log_line(log, LOG_TEXT, &line);
  text_free(&line);
}

void log_progress(Log *log, const char *format, ...) {
  double now = log_seconds();
  if (now - log->shown < (log->terminal ? 0.1 : 10))
    return;
  log->shown = now;
  va_list arguments;
  Text line = {0};
  va_start(arguments, format);
  append_arguments(&line, format, arguments);
  va_end(arguments);
  printf(log->terminal ? "\r%s\033[K" : "%s\n", line.data);
  fflush(stdout);
  log->line_open = log->terminal;
  text_free(&line);
}

void log_sync(Log *log) {
  for (int i = 0; i < LOG_COUNT; i++)
    if (log->descriptor[i] >= 0 && fsync(log->descriptor[i]) != 0 && errno != EINVAL)
      runtime_fail(FAIL_ENVIRONMENT, "cannot write %s: %s", log->path[i], strerror(errno));
}
