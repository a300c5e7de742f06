/* What a run chooses by price or by timing, and keeps: R/tuning.json.
 *
 * A choice is made once. A resumed run reads what stands there, so that it goes on with the same bits; another run can
 * be given the file (--tuning=FILE). Three kinds: the crossover of a phase with two training functions, the experts per
 * token above which .train.wide is faster than .train.packed; on a GPU, the algorithm of every distinct product, and
 * which of its kernels the plan runs where it has several for the same.
 */
#ifndef MOEC_RUNTIME_TUNING_H
#define MOEC_RUNTIME_TUNING_H

#include "runtime/log.h"
#include "runtime/program.h"

/* One training function, timed. */
typedef struct TuningSample {
  double experts; /* per token, mean of the layers */
  double seconds; /* the fastest of a few runs of one micro-batch */
} TuningSample;

typedef struct TuningChoice {
  const char *phase;
  double crossover;                /* experts per token */
  bool measured;                   /* else nothing was timed and it is the plan's, from the cost model */
  TuningSample packed, thin, wide; /* where measured; thin: packed with half of the tokens dead */
} TuningChoice;

typedef struct Tuning {
  TuningChoice *choices; /* one for every phase with two training functions */
  int count;
  ProductChoice *products; /* as they were read or kept last */
  int product_count;
  bool looked_at; /* whether what was read is of this GPU */
} Tuning;

Tuning tuning_new(const Plan *plan);
TuningChoice *tuning_find(Tuning *tuning, const char *phase); /* NULL: the phase has one training function */
/* Takes over the choices of a file; FAIL_USER when it is missing or damaged. */
void tuning_read(Tuning *tuning, const char *path);
void tuning_write(const Tuning *tuning, const char *run); /* RUN/tuning.json */

/* Gives the executor the products of the file; before anything runs. */
void tuning_start(const Tuning *tuning, Executor *executor);
/* Writes RUN/tuning.json anew where the executor chose something since the last time, and says which kernels; and once
 * how much of what was read is of another GPU or library, so that it counts for nothing here. */
void tuning_keep(Tuning *tuning, const Executor *executor, const char *run, Log *log);
/* For a program that continues nothing, but shall compute as the run did: tuning_start with RUN/tuning.json, if any. */
void tuning_take_choices(Program *program, const char *run);

/* Times both training functions of the current phase on the first micro-batch of update number `step`, which changes no
 * parameter, and takes packed to be a line in the experts per token. False, and the crossover stays, when the times do
 * not tell where the two cost the same. */
bool tuning_measure(TuningChoice *choice, Program *program, const TokenFile *file, const DataOrder *order,
                    int64_t step);

#endif
