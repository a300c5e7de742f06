/* The lexical level of the plan, shared by plan.c (tables, functions) and plan_step.c (steps). Private to them. */
#ifndef MOEC_RUNTIME_PLAN_READ_H
#define MOEC_RUNTIME_PLAN_READ_H

#include "runtime/plan.h"

typedef struct PlanReader {
  const char *name; /* of the text, for messages */
  char *next;       /* the rest of the text */
  int line;         /* number of the current line, from 1 */
  char **words;     /* of the current line */
  int word_count, word_capacity;
  const char *comment; /* behind '#', "" when there is none */
  Plan *plan;
} PlanReader;

_Noreturn void plan_fail(const PlanReader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A positional word; a missing one fails naming `what`. */
char *plan_word(const PlanReader *reader, int index, const char *what);
/* The text behind "key=", NULL when the line has no such word. */
char *plan_find_key(const PlanReader *reader, const char *key);
char *plan_key(const PlanReader *reader, const char *key); /* absent: fails */

int64_t plan_parse_number(const PlanReader *reader, const char *what, const char *text);
double plan_parse_double(const PlanReader *reader, const char *what, const char *text);
PlanPlace plan_parse_place(const PlanReader *reader, const char *what, const char *text);
PlanCount plan_parse_count(const PlanReader *reader, const char *what, const char *text);
PlanType plan_parse_type(const PlanReader *reader, const char *text);

/* plan_step.c: the current line as a step; false when its keyword names none. */
bool plan_read_step(PlanReader *reader, PlanStep *step, unsigned *spaces);

#endif
