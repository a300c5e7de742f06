/* What went wrong: the first message is kept for simulator_error(), all go to the file $MOEC_SIMULATOR_REPORT.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *first; /* "" : nothing */

void report_clear(void) {
  pthread_mutex_lock(&lock);
  free(first);
  first = NULL;
  pthread_mutex_unlock(&lock);
}

const char *simulator_error(void) {
  return first ? first : "";
}

void report(const char *format, ...) {
  char *text = NULL;
  va_list arguments;
  va_start(arguments, format);
  int length = vasprintf(&text, format, arguments);
  va_end(arguments);
  if (length < 0)
    abort();
  pthread_mutex_lock(&lock);
  const char *path = getenv("MOEC_SIMULATOR_REPORT");
  FILE *file = path && *path ? fopen(path, "a") : NULL;
  if (file) {
    fprintf(file, "%s\n", text);
    fclose(file);
  }
  if (first)
    free(text);
  else
    first = text;
  pthread_mutex_unlock(&lock);
}

/* Appends line `number` of the file to `text`. */
static void append_line(char *text, size_t size, const char *path, int number) {
  char line[300] = "";
  FILE *file = fopen(path, "r");
  if (!file)
    return;
  for (int i = 0; i < number && fgets(line, sizeof line, file); i++)
    ;
  fclose(file);
  line[strcspn(line, "\n")] = 0;
  size_t used = strlen(text);
  snprintf(text + used, size - used, ": %s", line + strspn(line, " "));
}

const char *report_site(const SimulatorUnit *unit, const void *site, char *text, size_t size) {
  Dl_info info;
  char command[4300], file[4100] = "";
  int line = 0;
  *text = 0;
  if (!dladdr(site, &info))
    return text;
  snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", unit->path,
           (size_t)((const char *)site - (const char *)info.dli_fbase) - 1);
  FILE *pipe = popen(command, "r");
  if (!pipe)
    return text;
  bool found = fscanf(pipe, "%4090[^:]:%d", file, &line) == 2;
  pclose(pipe);
  if (!found || !line)
    return text;
  const char *name = strrchr(file, '/');
  if (!name || strcmp(name, "/simulator.h") != 0) { /* the text of the unit, under whatever name it was compiled */
    snprintf(file, sizeof file, "%s", unit->source);
    name = strrchr(file, '/');
  }
  snprintf(text, size, "%s:%d", name ? name + 1 : file, line);
  append_line(text, size, file, line);
  return text;
}
