/* The two ways an IR function stops: the user's mistake (ir_fail) and ours (ir_bug). See ir.h for the exit codes.
 *
 * A mistake without a line of its own gets the place that was set last (the parser's line); it is forgotten with the
 * first mistake, so a handler that goes on never meets a stale one.
 *
 * A handler may be set by whoever wants to go on after a user's mistake (the Lua binding, fuzzers, tests); it must not
 * return.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/internal.h"

enum { MESSAGE_BYTES = 4096, EXIT_USER = 1, EXIT_BUG = 70 };

static ErrorHandler error_handler;
static Loc place;

void ir_set_place(Loc loc) {
  place = loc;
}

void ir_set_error_handler(ErrorHandler handler) {
  error_handler = handler;
}

_Noreturn void ir_fail(Loc loc, const char *format, ...) {
  static char message[MESSAGE_BYTES];
  int used = 0;
  if (!loc.file)
    loc = place;
  place = no_loc;
  if (loc.file && loc.line > 0)
    used = snprintf(message, sizeof message, "%.1000s:%d: ", loc.file, loc.line);
  else if (loc.file)
    used = snprintf(message, sizeof message, "%.1000s: ", loc.file);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message + used, sizeof message - (size_t)used, format, arguments);
  va_end(arguments);
  if (error_handler) {
    error_handler(message);
    ir_bug("an error handler returned");
  }
  fprintf(stderr, "%s%s\n", loc.file ? "" : "moec: ", message);
  exit(EXIT_USER);
}

_Noreturn void ir_bug(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("moec: this is a bug in moec: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(EXIT_BUG);
}
