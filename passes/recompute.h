/* What the files of pass recompute share. */
#ifndef MOEC_RECOMPUTE_H
#define MOEC_RECOMPUTE_H

#include "passes/pass.h"

/* What becomes of a value of the forward part that the backward part needs, directly or to run something again. */
typedef enum Fate { FATE_UNUSED, FATE_KEPT, FATE_AGAIN } Fate;

/* A policy: what may run again, and how many bytes one microsecond of running again must free. */
typedef struct Policy {
  const char *name;
  bool none;     /* nothing runs again */
  bool products; /* matrix products may, between the inputs of layers; else only row ops */
  bool graded;   /* values made late, whose memory is free again soon, must free up to GRADE times as much */
  double price;  /* bytes per microsecond */
} Policy;

enum { GRADE = 8 };

/* The two parts of a function, and what holds for its forward values under every policy. */
typedef struct Forward {
  Func *f;
  Arena *arena;
  const Rates *rates;
  uint32_t count;     /* instructions before `count` are the forward part */
  bool *read;         /* by ValueId: the backward part reads it */
  bool *written;      /* by ValueId: by something that is no row op, so that it has to be in memory */
  bool *stored;       /* by ValueId: the forward part puts it into memory, kept or not */
  const char **fixed; /* by ValueId: why it never runs again; NULL: it may */
  bool *border;       /* by ValueId: it leads from one layer into another */
  bool *last;         /* by ValueId: made behind the last border: the backward part begins there */
  bool *leaf;         /* by instruction: only results, or views that are results, read what it makes */
} Forward;

typedef struct Choice {
  Fate *fate;                 /* by ValueId */
  uint32_t *times;            /* by ValueId: how often it runs again; 0: not */
  uint32_t *reads;            /* by ValueId: in how many stretches row ops of the backward part read it from memory */
  double kept, released;      /* bytes kept for the backward part; bytes it reads or read of values that run again */
  double flops, microseconds; /* of what runs again, as often as it does */
} Choice;

/* False: a function that has no two parts: neither gradients nor the norm of an update. */
bool recompute_forward(Func *f, const Rates *rates, Forward *forward);
/* The cheapest choice found: the sum of the bytes kept and of the price of what runs again. */
Choice recompute_choose(const Forward *forward, const Policy *policy);

/* Whether it is a matrix product or what else a policy with products may run again. */
bool recompute_is_product(const Inst *inst);
/* What ends a stretch of row kernels in the backward part: copies of row ops serve one stretch (recompute.c). */
bool recompute_is_heavy(const Func *f, const Inst *inst);
/* A row op but for small products, which row kernels can do as well. */
bool recompute_is_row_op(const Func *f, const Inst *inst);
/* Constants and views cost nothing, wherever they stand. */
bool recompute_is_free(const Inst *inst);
/* Floating point operations and microseconds of one more run of the instruction that makes v. */
double recompute_flops(const Forward *forward, ValueId v);
double recompute_time(const Forward *forward, ValueId v);
/* Of the value in memory, as pass narrow_rows stores it there. */
double recompute_bytes(const Forward *forward, ValueId v);

#endif
