/* In: a reason to stop. Out: one message on standard error and the exit code. */
#include "runtime/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *runtime_program = "trainer";

void runtime_fail(int code, const char *format, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fflush(stdout);
  if (code == FAIL_BUG)
    fprintf(stderr, "%s: bug in moec: %s\n%s: please report it with the model script\n", runtime_program, text,
            runtime_program);
  else
    fprintf(stderr, "%s: %s\n", runtime_program, text);
  exit(code);
}

void *runtime_allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size ? size : 1);
  if (!memory)
    runtime_fail(FAIL_ENVIRONMENT, "out of memory: %zu bytes refused", count * size);
  return memory;
}

void *runtime_grow(void *array, int count, size_t size) {
  if (count == 0 || (count >= 8 && (count & (count - 1)) == 0)) {
    size_t capacity = count < 8 ? 8 : (size_t)count * 2;
    array = realloc(array, capacity * size);
    if (!array)
      runtime_fail(FAIL_ENVIRONMENT, "out of memory: %zu bytes refused", capacity * size);
  }
  memset((char *)array + (size_t)count * size, 0, size);
  return array;
}
