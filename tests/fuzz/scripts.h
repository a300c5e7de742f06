/* Wrong and unusual model scripts, made from good ones and from nothing, by a stream of random numbers. */
#ifndef MOEC_TESTS_FUZZ_SCRIPTS_H
#define MOEC_TESTS_FUZZ_SCRIPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "ir/arena.h"

/* The same state gives the same script. */
typedef struct Random {
  uint64_t state;
} Random;

uint32_t draw(Random *r, uint32_t bound); /* in [0, bound) */

typedef struct FuzzScript {
  const char *from;     /* "models/gpt_dense.lua", or "generated" */
  const char *text;     /* bytes, with a 0 behind them */
  const char **defines; /* arena vector of "key=value" for -D */
} FuzzScript;

/* Reads the scripts to start from, models/ and tests/; false when a folder cannot be read. */
bool scripts_load(Arena *arena);

FuzzScript script_mutated(Arena *arena, Random *r);   /* one of those that were loaded, changed in a few places */
FuzzScript script_generated(Arena *arena, Random *r); /* a small model of random layers and ops */

/* Values that are at home nowhere: "0/0", "{}", "b.tokens". */
const char *odd_value(Random *r);

#endif
