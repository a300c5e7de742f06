/* The decision ledger: what the passes chose, what else was priced, and why that lost. It answers "why was this not
 * fused?".
 *
 * In: decide() by the passes. Out: text for people (`moec explain`) and JSON for tools. Decisions are numbered from 1
 * in the order in which they were taken; notes in the IR refer to these numbers. */
#ifndef MOEC_LEDGER_H
#define MOEC_LEDGER_H

#include "ir/ir.h"

/* Predicted cost of one execution; a negative entry is not predicted. */
typedef struct Cost {
  double bytes, flops, launches, microseconds;
} Cost;

#define NO_COST ((Cost){-1, -1, -1, -1})

typedef struct Alternative {
  const char *what;
  Cost cost;
  const char *why_lost;
} Alternative;

typedef struct Site {
  const char *pass;
  const char *function;
  Loc loc;             /* the Lua line it is about */
  const char **values; /* arena vector of value names, without %; none: the whole function */
} Site;

typedef struct Decision {
  int number;
  Site site;
  const char *chosen;
  Cost cost;
  Alternative *alternatives; /* arena vector */
  const char *reason;
} Decision;

typedef struct Ledger {
  Arena *arena;
  Decision *decisions; /* arena vector */
} Ledger;

Ledger *ledger_new(Arena *arena);

/* Records a decision and returns its number. Texts and vectors must live as long as the ledger. Texts may name the
 * values of the site: equal decisions about other values are still told once. */
int decide(Ledger *ledger, Site site, const char *chosen, Alternative *alternatives, Cost cost, const char *reason);

/* Text. Decisions that differ only in their values (the same choice for every layer) are printed once, with all their
 * numbers, unless `all` is set. */
void ledger_print(const Ledger *ledger, bool all, FILE *out);

/* {"decisions": [{"number", "pass", "function", "line", "values", "chosen", "cost", "alternatives", "reason"}]}; the
 * text is malloc'ed. Nothing is collapsed. */
char *ledger_json(const Ledger *ledger);

#endif
