/* What the trainer carries, opened, and the parameters it works on: shared by train, eval, sample, info and exec.
 *
 * Holds: `arenas` are those of the table of phase number `phase`, bound to the executor.
 */
#ifndef MOEC_PROGRAM_H
#define MOEC_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/data.h"
#include "runtime/execute.h"
#include "runtime/payload.h"
#include "runtime/plan.h"

/* Sections of a trainer's payload, beside the kernels (execute.h) and the SentencePiece shim (tokenizer.h). */
#define SECTION_PLAN_CPU "plan.cpu" /* docs/plan.md */
#define SECTION_PLAN_CUDA "plan.cuda"
#define SECTION_IR "model.ir"                    /* before passes */
#define SECTION_CONFIG "config.json"             /* the resolved configuration */
#define SECTION_PASSES "passes.ir"               /* after passes: those for the CPU, or for the only target */
#define SECTION_PASSES_CUDA "passes.cuda.ir"     /* after those for CUDA, where that is not the only target */
#define SECTION_LEDGER "ledger.json"             /* what `moec explain --json` prints */
#define SECTION_FORECAST_CPU "forecast.cpu.json" /* what `moec forecast --json --target=cpu` prints */
#define SECTION_FORECAST_CUDA "forecast.cuda.json"
#define SECTION_C "kernels.c"
#define SECTION_CUDA "kernels.cu"

typedef struct Program {
  const Payload *payload;
  const Plan *plan;
  const char *no_gpu; /* see program_no_gpu */
  Executor *executor;
  Arenas *arenas;
  int phase;
  int64_t *phase_start; /* by phase: updates done when it begins; behind the last one where that has an end */
  uint64_t seed;
  uint64_t ir_hash; /* of the IR before passes, by payload_ir_hash */
} Program;

/* The running executable's payload and its plan for `device`, without an executor. `device` NULL: "cuda" where the
 * trainer carries its plan and a GPU answers, else "cpu". A trainer without a plan for the device asked for:
 * FAIL_ENVIRONMENT; another word, or one of several ranks: FAIL_USAGE. `command` begins the messages. */
Program *program_open(const char *command, const char *device);
void program_start(Program *program, uint64_t seed); /* makes the executor */
const char *program_device(const Program *program);  /* "cpu" or "cuda" */
/* Why a trainer that carries a plan for CUDA runs on the CPU unasked; NULL: it does not. */
const char *program_no_gpu(const Program *program);
char *program_text(const Program *program, const char *section); /* NULL: not carried. Terminated, lives on */

const char *program_passes_section(const Program *program); /* SECTION_PASSES, or the device's own */
const char *program_passes(const Program *program); /* names what the passes made of the model; NULL: not known */

/* The function of a phase: "train", "eval", ...; NULL when absent. */
const PlanFunc *program_func(const Program *program, int phase, const char *kind);
int program_phase_at(const Program *program, int64_t step);        /* of update number `step` (from 0) */
int program_phase_named(const Program *program, const char *name); /* -1: none */
const PlanSchedule *program_schedule(const Program *program, int phase, const char *name); /* of the phase, or NULL */

/* Ends with FAIL_ENVIRONMENT where the device cannot hold the arenas of phases `first` to `last` and of the transitions
 * between them: better now than at the transition. */
void program_expect_memory(Program *program, int first, int last);
void program_enter(Program *program, int phase);         /* fresh, zeroed arenas for the phase's table */
void program_initialize(Program *program);               /* phase 0, parameters by @init */
void program_transition(Program *program, int64_t step); /* to the next phase, by its function where it has one */

/* Fills the scalars of `func` that follow from (phase, step): step, lr, t0.., schedules. Data arguments,
 * inverse_targets and last are the caller's. */
void program_fill(Program *program, const PlanFunc *func, int64_t step);
Batch program_batch(Program *program, const PlanFunc *func); /* where the data arguments of `func` lie */
void program_set_float(Program *program, const PlanFunc *func, const char *name, float value); /* absent: nothing */

#endif
