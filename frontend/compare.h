/* moec compare: many models on the same data, seeds and budget.
 *
 * In: a specification (frontend/lua/moec/compare.lua checks it). Out: a directory with
 *
 *   trainers/HASH              one trainer per distinct configuration; of script, configuration and target
 *   NAME/SETTING/seed-N/       a run directory; in it evaluation.jsonl, what the trainer's eval says of the
 *                              final checkpoint, and done.json, written last: the run is finished
 *   NAME/SETTING/seed-N.out    what the trainer said
 *   NAME/SETTING/search/V/...  the same of the search's runs, V the value tried
 *   table.md, table.json, report.html
 *
 * A setting is a run of the specification with one choice of the swept keys. What holds: a job's directory, trainer and
 * command follow from the specification alone (and from the search's results), so the same command goes on where a
 * killed one was.
 */
#ifndef MOEC_COMPARE_H
#define MOEC_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "ir/arena.h"

/* A configuration key with its value as -D takes it. */
typedef struct ConfigPair {
  const char *key, *value;
} ConfigPair;

/* A configuration key that is this share of the steps, or a phase that costs this share of the way from one expert per
 * token to the router's bound. */
typedef struct Share {
  const char *key;
  double value;
} Share;

typedef struct CompareRun {
  const char *name, *model; /* model: a path that can be opened */
  ConfigPair *config;       /* arena vectors */
  Share *shares, *density;
} CompareRun;

typedef struct Sweep {
  const char *key;
  const char **values; /* arena vector */
} Sweep;

typedef struct CompareSpec {
  const char *path, *data;
  CompareRun *runs; /* arena vectors */
  ConfigPair *config;
  Share *shares;
  int64_t *seeds;
  Sweep *sweep;
  int64_t steps; /* the budget: one of them is 0 */
  double flops;
  const char *baseline;
  Sweep search; /* key NULL: no search */
  double search_budget;
  int64_t eval_every, checkpoint_every, probe_every, parallel; /* probe_every 0: never */
} CompareSpec;

typedef struct Setting {
  const CompareRun *run;
  const char *label;                    /* "base" or "experts=4,tau_max=1" */
  ConfigPair *config;                   /* without what the budget and the search decide */
  Share *shares;                        /* of the keys that the model has */
  bool searched;                        /* the model has the search's key */
  const char *chosen;                   /* its best value; NULL: not known */
  double parameters, active, inference; /* of the last phase; FLOPs of one token */
} Setting;

/* One training. */
typedef struct Job {
  const Setting *setting;
  int64_t seed;
  const char *tried;     /* a value of the search, or NULL */
  int64_t steps;         /* the length of the schedules, and of the run where the budget is in steps */
  double flops;          /* the budget, or 0 */
  double forecast;       /* FLOPs */
  const char *name;      /* NAME/SETTING/... below the output directory, also the run's */
  const char *directory; /* the run directory */
  const char *trainer;
  const char **defines; /* arena vector: "key=value" */
  int code;             /* exit code of what failed; 0: none did */
} Job;

/* An evaluation on valid, with the FLOPs of all updates before it. */
typedef struct CurvePoint {
  double flops, ppl;
} CurvePoint;

/* What a finished job wrote. */
typedef struct Outcome {
  bool done;
  double steps, flops;
  double valid, test;     /* perplexity at the end; NAN: no such split */
  double best;            /* of all evaluations on valid */
  double tokens, seconds; /* of the updates */
  CurvePoint *curve;      /* arena vector */
} Outcome;

typedef struct Compare {
  Arena *arena;
  CompareSpec spec;
  Setting *settings; /* arena vectors */
  Job *searches, *jobs;
  const char *out, *device; /* device NULL: the trainer chooses */
} Compare;

/* compare_spec.c: the specification and the settings that come of it. Mistakes: ir_fail. */
CompareSpec compare_read(Arena *arena, const char *path, const char *data);
void compare_make_settings(Compare *c);
/* Steps, forecast, configuration and trainer of a training with `budget` times the budget; `tried`: the search's value.
 * compare_seed gives it its seed, name and directory. */
Job compare_job(Compare *c, Setting *setting, const char *tried, double budget);
Job compare_seed(Compare *c, Job job, int64_t seed);

/* compare_run.c: builds and trains what is not finished, as many at a time as the specification says. The jobs' `code`
 * say what failed, which is also on standard error. */
void compare_run(Compare *c, Job *jobs);
/* What the job's directory holds; done is false unless the job is finished. */
Outcome compare_outcome(Arena *arena, const Job *job);
/* Runs a program: standard output and error to the descriptor; gives its exit code, 128 + N of signal N. */
int compare_spawn(const char *const *words, int output);

/* compare_table.c: the table, on standard output and in table.md and table.json. */
void compare_table(Compare *c);

#endif
