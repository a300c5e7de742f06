/* The logs of a run and what the user sees of it while it goes on.
 *
 * metrics.jsonl, one object per line:
 *   a training step   step, phase, loss, ce, lr, tau (null where the phase has none), grad_norm, tokens (cumulative),
 *                     tokens_per_s (of this step), flops (cumulative), experts_per_token, version ("single", or
 *                     "packed" or "wide" where the phase has versions), every auxiliary loss (aux.NAME) and metric
 *                     (metric.NAME) as NAME, mean of the micro-batches
 *   an evaluation     step, phase, split, ce, ppl, ppl_gate (where the phase has one), tokens (targets),
 *                     experts_per_token (where tokens are routed)
 * routing.jsonl: step, phase, load (by layer: selected pairs of every expert, summed over the step's micro-batches),
 *                layers (by layer: what the gate looked like); docs/routing_log.md says what each number is.
 * probe.jsonl: see probe.h; there from its first line on.
 * log.txt: the lines that say what happened.
 *
 * Each line is one write, so a kill leaves whole lines, and at most one broken one behind the last checkpoint's offset.
 */
#ifndef MOEC_RUNTIME_LOG_H
#define MOEC_RUNTIME_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/json.h"

enum { LOG_METRICS, LOG_ROUTING, LOG_PROBE, LOG_TEXT, LOG_COUNT };
extern const char *const log_file[LOG_COUNT];

typedef struct Log {
  char *path[LOG_COUNT];
  int descriptor[LOG_COUNT]; /* -1: no such file yet */
  int64_t offset[LOG_COUNT]; /* bytes */
  bool terminal, line_open;  /* a progress line stands on the terminal */
  double start, shown;       /* seconds: of the run, of the last progress */
} Log;

double log_seconds(void); /* a clock that only goes forward */

/* Opens the logs of run directory `directory`, cut off at `offsets`. Another process that has them open is
 * FAIL_ENVIRONMENT; a log shorter than its offset FAIL_USER. */
Log *log_open(const char *directory, const int64_t offsets[LOG_COUNT]);
/* Appends `line` and a line end, then empties `line`. */
void log_line(Log *log, int which, Text *line);
/* To standard output and log.txt. */
void log_note(Log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The progress line on a terminal (at most ten a second); otherwise a plain line every ten seconds. */
void log_progress(Log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Makes what was written durable. */
void log_sync(Log *log);
/* Ends the progress line, so that a message can follow. */
void log_end_line(Log *log);

#endif
