/* Reading the pieces of IR text: names, numbers, dims, types. parse.c puts them together.
 *
 * A Scan stands at a character of a line. Every function skips spaces first and fails with "name:line: what was found,
 * what was expected" (scan_fail). Texts come from users: nothing here trusts a length or a number.
 */
#ifndef MOEC_IR_SCAN_H
#define MOEC_IR_SCAN_H

#include "ir/internal.h"

typedef struct Scan {
  Module *m;
  const char *name; /* of the text, for messages */
  const char *at;
  int line;
} Scan;

_Noreturn void scan_fail(Scan *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void scan_expected(Scan *s, const char *what); /* "found 'x', expected WHAT" */
Loc scan_loc(const Scan *s);

void scan_begin(Scan *s);                  /* to the first line that is not empty */
bool scan_at_end(Scan *s);                 /* of the text */
bool scan_at_line_end(Scan *s);            /* nothing but a comment is left on the line */
void scan_next_line(Scan *s);              /* over the end of the line, to the next that is not empty */
void scan_over_lines(Scan *s);             /* inside a list: over the ends of lines, if there are any */
bool scan_take(Scan *s, char c);           /* true and past it when `c` is next */
void scan_need(Scan *s, char c);           /* past `c`, which must be next */
bool scan_word(Scan *s, const char *word); /* true and past it when this word is next */
void scan_key(Scan *s, const char *key);   /* past "key=", which must be next */

const char *scan_name(Scan *s, const char *what);                           /* letters, digits, _ . - */
int64_t scan_integer(Scan *s, const char *what, int64_t low, int64_t high); /* decimal or 0x hexadecimal */
double scan_number(Scan *s, const char *what);
const char *scan_rest(Scan *s, const char *what); /* the rest of the line without its comment, not empty */
/* The trailing comment: "# file:line" and "# word: text", each may be absent; other comments are dropped. */
void scan_comment(Scan *s, Loc *loc, const char **note);

Dim scan_dim(Scan *s, const Func *f, const Table *table);
/* A type; the name in R<%name> goes to *extent (NULL where there is none) and is left to the caller. */
Type scan_type(Scan *s, const Func *f, const Table *table, const char **extent);

#endif
