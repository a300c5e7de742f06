/* The probe: what the gates choose for the same tokens again and again while training goes on.
 *
 * The probe tokens are the first micro-batch of the valid split, in evaluation without noise. probe.jsonl, one object
 * per line:
 *   the first   format (1), tokens (ids), text (each token decoded; not where the data has no tokenizer, or where its
 *               library is missing), frequency (the share of each token's id in the training split), split ("valid")
 *   a probe     step, phase, expert (by layer: each token's expert of the largest weight, -1 for none), experts (by
 *               layer: how many the token gets; where the phase has eval_gate, by that gate at the same input), loss
 *               (each token's cross-entropy in nats, six digits)
 *
 * A probe is one run of the phase's function `probe`: it reads parameters and writes none.
 */
#ifndef MOEC_RUNTIME_PROBE_H
#define MOEC_RUNTIME_PROBE_H

#include "runtime/data.h"
#include "runtime/log.h"
#include "runtime/program.h"

typedef struct Probe {
  const TokenFile *train, *valid;
  const char *tokenizer; /* its directory */
} Probe;

/* Whether a phase of the model has gates, so that there is something to probe. */
bool probe_possible(const Program *program);
/* Writes the first line, unless probe.jsonl has it. */
void probe_begin(const Probe *probe, const Program *program, Log *log);
/* A line about the current parameters; false where the phase has no gates. `step`: updates done. */
bool probe_write(const Probe *probe, Program *program, Log *log, int64_t step);

#endif
