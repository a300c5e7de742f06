/* How the trainer ends when it cannot go on: one message on standard error and an exit code (design section 1). */
#ifndef MOEC_RUNTIME_ERROR_H
#define MOEC_RUNTIME_ERROR_H

#include <stddef.h>
#include <stdint.h>

enum {
  FAIL_USER = 1,        /* the user's input is wrong: data, checkpoint, more selected pairs than the bound */
  FAIL_USAGE = 2,       /* bad command line */
  FAIL_ENVIRONMENT = 3, /* disk, memory, missing library, no GPU */
  FAIL_BUG = 70         /* a bug in moec: the message says so */
};

/* Begins every message; "trainer" unless a program sets another name. */
extern const char *runtime_program;

/* Prints "trainer: text" (FAIL_BUG: with a line that asks for a report) and exits with `code`. */
_Noreturn void runtime_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Small memory that lives as long as the process: zeroed, never NULL (FAIL_ENVIRONMENT). */
void *runtime_allocate(size_t count, size_t size);
/* Room for one more element behind `count` of an array grown by doubling; the new element is zero. */
void *runtime_grow(void *array, int count, size_t size);

#endif
