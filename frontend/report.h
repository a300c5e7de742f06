/* What moec report reads from run directories, and the parts of its page.
 *
 * In: the files of a run (metrics.jsonl, routing.jsonl, probe.jsonl, log.txt, tuning.json, memory.json, config.json,
 * the newest checkpoint) and, where a trainer of the same model is at hand, its ledger and forecast. Out: Run, all
 * numbers as they stand in the logs; NAN for what a line does not have. Lines are in the order of the file. */
#ifndef MOEC_REPORT_H
#define MOEC_REPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "ir/arena.h"
#include "runtime/json.h"

typedef struct Update {
  double step, loss, ce, tau, gradient_norm, tokens_per_s, flops, experts;
  double seconds; /* of this update: its tokens by its rate */
  const char *phase, *version;
} Update;

typedef struct Evaluation {
  double step, ppl, ppl_gate, flops; /* flops: of the updates before it */
  const char *phase, *split;
} Evaluation;

/* One layer at one step. */
typedef struct RoutingLine {
  double step;
  const char *phase, *layer;
  double *load; /* arena vector: tokens of every expert */
  double entropy, kept_weight, margin, dropped;
} RoutingLine;

/* The probe tokens at one step. */
typedef struct ProbeLayer {
  const char *layer;
  int *expert; /* arena vectors, a number per probe token: the strongest expert, -1: none; and how many are selected */
  int *experts;
} ProbeLayer;

typedef struct ProbeLine {
  double step;
  const char *phase;
  ProbeLayer *layers; /* arena vector */
  double *loss;       /* arena vector, or NULL */
} ProbeLine;

typedef struct Probe {
  int *tokens; /* arena vectors, one entry per probe token; the rest NULL where the header has none */
  const char **text;
  double *frequency;
  ProbeLine *lines;
} Probe;

typedef struct RunPhase {
  const char *name;
  double first, last;  /* updates */
  double flops_before; /* of the phases before it */
  double memory;       /* bytes, most in arenas, of log.txt and memory.json; NAN: not recorded */
  double crossover;    /* experts per token, of tuning.json; NAN: one version */
  const char *crossover_by;
} RunPhase;

typedef struct Run {
  const char *directory, *name; /* name: unique in the report */
  const char *model, *machine;
  int index;
  cJSON *config;   /* member "config" of config.json */
  cJSON *memory;   /* member "phases" of memory.json; NULL: none */
  Update *updates; /* arena vectors */
  Evaluation *evaluations;
  RoutingLine *routing;
  const char **layers; /* routed ones, in the order of the logs */
  Probe probe;
  RunPhase *phases;
  double parameters;        /* elements in the newest checkpoint; NAN: there is none */
  cJSON *ledger, *forecast; /* NULL: no trainer of this model was found */
  const char **warnings;    /* damaged lines and the like, for the page */
} Run;

typedef struct Report {
  Arena *arena;
  Run *runs;         /* arena vector, not empty */
  const char *token; /* --token: an id or a piece of text; NULL: the tokens with most changes */
  Text page;         /* HTML so far */
} Report;

/* A directory that is no run, or one without a single update, is the user's mistake; a damaged line is said on standard
 * error and left out. `trainers`: arena vector of paths beside DIR/trainer. */
Run report_read(Report *report, const char *directory, const char **trainers);
const RunPhase *report_phase(const Run *run, const char *name);

/* ---- parts of the page, each with its headline; what the logs lack is said in place of a figure */
void report_summary(Report *report);
void report_curves(Report *report);  /* loss, perplexity, temperature, experts per token */
void report_routing(Report *report); /* load, entropy, kept weight, margin */
void report_probe(Report *report);   /* one token's path, fluctuation, tokens of an expert, difficulty */
void report_cost(Report *report);    /* memory, time */
void report_ledger(Report *report);  /* decisions, predicted and measured */

#endif
