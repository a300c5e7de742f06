/* Checkpoints: RUN/checkpoints/step-NNNNNNNN/ with model.safetensors (parameters by name, f32, logical shapes),
 * optimizer.safetensors (m.NAME, v.NAME: f32; t.NAME: i64 scalar, updates that the moments have seen) and state.json.
 *
 * Written into step-NNNNNNNN.partial, synced, renamed, synced: whatever moment the process or the machine stops at, the
 * newest directory of that form is whole. Damage from elsewhere is found by checksums and is FAIL_USER.
 */
#ifndef MOEC_CHECKPOINT_H
#define MOEC_CHECKPOINT_H

#include "runtime/log.h"
#include "runtime/program.h"

typedef struct CheckpointState {
  int64_t step;
  const char *phase, *next_phase; /* of the parameters; of the next update. They differ at a boundary */
  uint64_t seed;
  int64_t sequences; /* of the training order, taken so far */
  int64_t train_tokens;
  double flops;
  double flops_budget; /* of --flops; 0: none; written, not read */
  const char *version; /* of the last update: "single", "packed", "wide" */
  double density;      /* experts per token of the last update; negative: none in this phase yet */
  int64_t log_offset[LOG_COUNT];
  uint64_t ir_hash, tokenizer_hash;
  const char *device, *cpu_level, *library; /* conditions: other ones give other bits */
  int64_t threads, data_ranks, expert_ranks;
  const char *passes; /* hash of the IR after passes; NULL: not known */
} CheckpointState;

/* Into run directory `run`; replaces one of the same step. */
void checkpoint_write(const char *run, const Program *program, const CheckpointState *state);

/* The newest checkpoint directory of a run directory; NULL when it has none. */
char *checkpoint_newest(const char *run);
/* `path` itself when it is a checkpoint directory, or the newest of the run directory `path`; FAIL_USER if neither. */
char *checkpoint_find(const char *path);
/* The run directory a checkpoint directory lies in. */
char *checkpoint_run(const char *checkpoint);

CheckpointState checkpoint_read_state(const char *checkpoint);
/* Enters the phase of the parameters and fills its arenas. `moments`: m and v as well. */
void checkpoint_load(const char *checkpoint, Program *program, const CheckpointState *state, bool moments);

#endif
