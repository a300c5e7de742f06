/* Reading the pieces of IR text (scan.h). */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ir/scan.h"

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
#define LOWER_CHARACTERS "abcdefghijklmnopqrstuvwxyz"

enum { MAX_NUMBER = 63, MAX_FOUND = 24 };

Loc scan_loc(const Scan *s) {
  return (Loc){s->name, s->line};
}

_Noreturn void scan_fail(Scan *s, const char *format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  ir_fail(scan_loc(s), "%s", message);
}

static void skip_spaces(Scan *s) {
  s->at += strspn(s->at, " \t\r");
}

_Noreturn void scan_expected(Scan *s, const char *what) {
  skip_spaces(s);
  if (!*s->at)
    scan_fail(s, "found the end of the text, expected %s", what);
  if (*s->at == '\n' || *s->at == '#')
    scan_fail(s, "found the end of the line, expected %s", what);
  size_t length = strcspn(s->at, " \t\r\n,(){}#");
  length = length == 0 ? 1 : length > MAX_FOUND ? MAX_FOUND : length;
  scan_fail(s, "found '%.*s', expected %s", (int)length, s->at, what);
}

/* ---------------------------------------------------------------- lines */

bool scan_at_line_end(Scan *s) {
  skip_spaces(s);
  return !*s->at || *s->at == '\n' || *s->at == '#';
}

void scan_over_lines(Scan *s) {
  while (scan_at_line_end(s) && *s->at) {
    s->at += strcspn(s->at, "\n");
    if (*s->at) {
      s->at++;
      s->line++;
    }
  }
  ir_set_place(scan_loc(s));
}

void scan_begin(Scan *s) {
  s->line = 1;
  scan_over_lines(s);
}

bool scan_at_end(Scan *s) {
  skip_spaces(s);
  return !*s->at;
}

void scan_next_line(Scan *s) {
  if (!scan_at_line_end(s))
    scan_expected(s, "the end of the line");
  scan_over_lines(s);
}

bool scan_take(Scan *s, char c) {
  skip_spaces(s);
  if (*s->at != c)
    return false;
  s->at++;
  return true;
}

void scan_need(Scan *s, char c) {
  if (!scan_take(s, c))
    scan_expected(s, (char[]){'\'', c, '\'', 0});
}

bool scan_word(Scan *s, const char *word) {
  skip_spaces(s);
  size_t length = strlen(word);
  if (strncmp(s->at, word, length) != 0 || (s->at[length] && strchr(NAME_CHARACTERS, s->at[length])))
    return false;
  s->at += length;
  return true;
}

void scan_key(Scan *s, const char *key) {
  if (!scan_word(s, key))
    scan_expected(s, arena_print(s->m->arena, "'%s='", key));
  scan_need(s, '=');
}

/* ---------------------------------------------------------------- names and numbers */

const char *scan_name(Scan *s, const char *what) {
  skip_spaces(s);
  size_t length = strspn(s->at, NAME_CHARACTERS);
  if (length == 0)
    scan_expected(s, what);
  if (length > MAX_NAME)
    scan_fail(s, "a name of %zu characters, expected at most %d", length, MAX_NAME);
  char name[MAX_NAME + 1];
  memcpy(name, s->at, length);
  name[length] = 0;
  s->at += length;
  return arena_intern(s->m->arena, name);
}

/* The characters of one number, copied so that what follows cannot become part of it. */
static void number_characters(Scan *s, const char *what, char text[MAX_NUMBER + 1]) {
  skip_spaces(s);
  size_t length = strspn(s->at, "+-.0123456789abcdefinpxABCDEFINPX");
  if (length == 0 || length > MAX_NUMBER)
    scan_expected(s, what);
  memcpy(text, s->at, length);
  text[length] = 0;
}

int64_t scan_integer(Scan *s, const char *what, int64_t low, int64_t high) {
  char text[MAX_NUMBER + 1], *end;
  skip_spaces(s);
  size_t digits = strspn(s->at + (*s->at == '-'), "0123456789xabcdefABCDEF") + (*s->at == '-');
  if (digits == 0 || digits > MAX_NUMBER)
    scan_expected(s, what);
  memcpy(text, s->at, digits);
  text[digits] = 0;
  errno = 0;
  long long value = strtoll(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
  if (end == text)
    scan_expected(s, what);
  if (errno == ERANGE || value < low || value > high)
    scan_fail(s, "%s is %.*s, expected %lld to %lld", what, (int)(end - text), text, (long long)low, (long long)high);
  s->at += end - text;
  return value;
}

double scan_number(Scan *s, const char *what) {
  char text[MAX_NUMBER + 1], *end;
  number_characters(s, what, text);
  double value = strtod(text, &end);
  if (end == text)
    scan_expected(s, what);
  s->at += end - text;
  return value;
}

const char *scan_rest(Scan *s, const char *what) {
  if (scan_at_line_end(s))
    scan_expected(s, what);
  size_t length = strcspn(s->at, "#\n");
  const char *text = s->at;
  s->at += length;
  while (strchr(" \t\r", text[length - 1]))
    length--;
  return arena_copy(s->m->arena, text, length);
}

/* ---------------------------------------------------------------- comments */

bool note_is_valid(const char *note) {
  size_t word = strspn(note, LOWER_CHARACTERS);
  return word > 0 && note[word] == ':' && note[word + 1] == ' ' && !strpbrk(note, "#\n\r\t") &&
         note[strlen(note) - 1] != ' ';
}

/* "path:17" */
static bool read_loc(Scan *s, const char *text, Loc *loc) {
  const char *colon = strrchr(text, ':');
  if (!colon || colon == text)
    return false;
  size_t digits = strspn(colon + 1, "0123456789");
  if (digits == 0 || digits > 9 || colon[1 + digits])
    return false;
  char *file = arena_copy(s->m->arena, text, (size_t)(colon - text));
  *loc = (Loc){arena_intern(s->m->arena, file), atoi(colon + 1)};
  return true;
}

void scan_comment(Scan *s, Loc *loc, const char **note) {
  *loc = no_loc;
  *note = NULL;
  while (scan_take(s, '#')) {
    if (scan_at_line_end(s))
      continue;
    const char *text = scan_rest(s, "a comment");
    if (!*note && note_is_valid(text))
      *note = text;
    else if (!loc->file)
      read_loc(s, text, loc);
  }
}

/* ---------------------------------------------------------------- dims and types */

static Dim scan_factor(Scan *s, const Func *f, const Table *table) {
  skip_spaces(s);
  if (*s->at == '-' || (*s->at >= '0' && *s->at <= '9'))
    return dim_number(scan_integer(s, "a dim", -MAX_COEFFICIENT, MAX_COEFFICIENT));
  size_t length = strspn(s->at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
  if (length == 0)
    scan_expected(s, "a dim");
  char name[MAX_SYMBOL_NAME + 1];
  if (length > MAX_SYMBOL_NAME)
    scan_fail(s, "a symbol of %zu characters, expected at most %d", length, MAX_SYMBOL_NAME);
  memcpy(name, s->at, length);
  name[length] = 0;
  SymbolId symbol = symbol_lookup(s->m, f, table, name);
  if (symbol == UINT32_MAX)
    scan_fail(s, "symbol '%s' is not declared", name);
  s->at += length;
  return dim_symbol(symbol);
}

Dim scan_dim(Scan *s, const Func *f, const Table *table) {
  Dim d = scan_factor(s, f, table);
  int64_t value;
  for (;;) {
    if (scan_take(s, '*')) {
      d = dim_product(s->m, d, scan_factor(s, f, table));
    } else if (scan_take(s, '/')) {
      Dim by = scan_factor(s, f, table), quotient;
      if (!dim_divide(s->m, d, by, &quotient))
        scan_fail(s, "the dim %s does not divide by %s", dim_text(s->m, d), dim_text(s->m, by));
      d = quotient;
    } else {
      break;
    }
    if (!dim_evaluate(s->m, d, &value))
      scan_fail(s, "the dim %s is too large", dim_text(s->m, d));
  }
  skip_spaces(s);
  bool minus = *s->at == '-';
  if (scan_take(s, '+') || scan_take(s, '-')) {
    int64_t n = scan_integer(s, "a number", 0, MAX_COEFFICIENT);
    d = dim_add(s->m, d, minus ? -n : n);
  }
  if (!dim_evaluate(s->m, d, &value))
    scan_fail(s, "the dim %s is too large", dim_text(s->m, d));
  return d;
}

Type scan_type(Scan *s, const Func *f, const Table *table, const char **extent) {
  const char *what = "a type such as f32[N,D]";
  Type t = type_scalar(DTYPE_COUNT);
  *extent = NULL;
  for (int dtype = 0; dtype < DTYPE_COUNT; dtype++)
    if (t.dtype == DTYPE_COUNT && scan_word(s, dtype_name((DType)dtype)))
      t.dtype = (DType)dtype;
  if (t.dtype == DTYPE_COUNT || *s->at != '[')
    scan_expected(s, what);
  scan_need(s, '[');
  while (!scan_take(s, ']')) {
    if (t.rank > 0)
      scan_need(s, ',');
    if (t.rank == MAX_RANK)
      scan_fail(s, "a type of more than %d dims", MAX_RANK);
    t.dim[t.rank++] = scan_dim(s, f, table);
    if (scan_take(s, '<')) {
      if (t.rank > 1)
        scan_fail(s, "only dim 0 can be ragged");
      scan_need(s, '%');
      *extent = scan_name(s, "the name of offsets");
      scan_need(s, '>');
    }
  }
  const char *problem = type_problem(s->m, t);
  if (problem)
    scan_fail(s, "%s: %s", type_text_in(s->m, f, table, t), problem);
  return t;
}
