/* Runs the functions of a plan on a device: this machine's CPU, or its GPU.
 *
 * In: a plan for the device, a payload with the kernels, arenas. Out: what the functions write. The device has its own
 * memory: arguments are written to where executor_argument says, results are read through the executor, and an arena's
 * elements pass to and from the host through arenas_read, arenas_write and arenas_settle alone. On the CPU all of these
 * are the memory itself.
 *
 * The order of work per step of training:
 *   executor_set_table(ex, arenas)        once per table
 *   executor_argument(...)                fill each argument anew before every run
 *   executor_run(ex, func)                or executor_start, then executor_finish
 *   executor_result(...)                  read before the next run
 * A transition: executor_set_source(ex, old), executor_set_table(ex, new), run; then executor_set_source(ex, NULL).
 *
 * One Executor per process is meant; nothing here is thread-safe (the work inside is parallel).
 */
#ifndef MOEC_RUNTIME_EXECUTE_H
#define MOEC_RUNTIME_EXECUTE_H

#include <stdbool.h>
#include <stdio.h>

#include "runtime/payload.h"
#include "runtime/plan.h"

typedef struct Executor Executor;

/* First call of main: makes OpenMP's idle threads sleep instead of spin (OMP_WAIT_POLICY=passive) unless the user set
 * a policy. libgomp reads the policy when it is loaded, so the program starts itself anew once, with the same
 * arguments. */
void runtime_start(char **argv);

/* Takes the activation arena, loads the kernels and the libraries of the device that plan->target names. `payload` may
 * be NULL when the plan launches no kernel. A machine that lacks what it takes (CPU below x86-64-v3, no GPU, a missing
 * library, too little memory): FAIL_ENVIRONMENT; a kernel missing from the payload: FAIL_BUG. */
Executor *executor_new(const Plan *plan, const Payload *payload);
void executor_free(Executor *executor);

/* NULL: a GPU answers that the CUDA target can use. Else why not, as part of a message. */
const char *executor_no_gpu(void);
const char *executor_gpu(void); /* "NVIDIA H200 (sm_90a), 150.1 GB, driver for CUDA 13.0"; only where one answers */

const char *executor_device(const Executor *executor); /* "cpu" or "cuda" */
/* "x86-64-v4 with AVX512_BF16", "x86-64-v4", "x86-64-v3" or "native ...": what the kernels run at (runtime/cpu/cpu.h);
 * or "NVIDIA H200 (sm_90a)". */
const char *executor_level(const Executor *executor);
const char *executor_library(const Executor *executor); /* "oneDNN 2.6.3", "NVRTC 13.0, cuBLASLt 13.1.0"; "none" */
/* What the start took, for the log: "9 kernels compiled in 2.1 s, ..."; NULL: nothing to say. */
const char *executor_start_note(const Executor *executor);
int executor_threads(const Executor *executor); /* that the results may depend on: on a GPU 1 */

void executor_set_seed(Executor *executor, uint64_t seed);

/* ---------------------------------------------------------------- arenas */

typedef enum ArenaKind { ARENA_PARAM, ARENA_GRAD, ARENA_M, ARENA_V, ARENA_COUNT } ArenaKind;

/* The flat arenas of one parameter table on the device, each of table->size elements, zeroed when made; all f32, but
 * gradients may be bf16. Beside
 * them, where functions read parameters in bf16, an arena of copies: a function that touches it finds every copy made
 * anew since anybody wrote parameters; only updates write parameters and their copies. */
typedef struct Arenas {
  Executor *executor;
  const PlanTable *table;
  char *memory[ARENA_COUNT]; /* of the device */
  char *host[ARENA_COUNT];   /* a copy for the host; NULL: none now */
  bool written[ARENA_COUNT]; /* the copy is newer than the arena */
  char *copies;              /* of the parameters in bf16; NULL: none needed */
  bool outdated;             /* parameters were written, their copies in bf16 not */
} Arenas;

Arenas *arenas_new(Executor *executor, const PlanTable *table); /* FAIL_ENVIRONMENT when they do not fit into memory */
void arenas_free(Arenas *arenas);                               /* NULL is taken */
int64_t arenas_bytes(const Plan *plan, const PlanTable *table); /* that arenas_new takes */
int64_t arenas_copy_bytes(const Plan *plan, const PlanTable *table); /* of them for copies in bf16; 0: none */

/* An arena's elements for the host, to be read or written until arenas_settle, which makes what was written the
 * arena's. No function runs in between. Gradients of any type are written as bytes, to where a function's arguments
 * stand. */
const float *arenas_read(Arenas *arenas, ArenaKind kind);
float *arenas_write(Arenas *arenas, ArenaKind kind);
char *arenas_write_gradients(Arenas *arenas);
void arenas_settle(Arenas *arenas);

/* Ends with FAIL_ENVIRONMENT when the device's own memory cannot hold `bytes` more, as `what` will need; the host's
 * memory, which others give back and take, is asked when it is taken. */
void executor_expect(Executor *executor, const char *what, int64_t bytes);

void executor_set_table(Executor *executor, Arenas *arenas);        /* param, param.bf16, grad, m, v; NULL: none */
void executor_set_source(Executor *executor, const Arenas *arenas); /* src.param, src.m, src.v; NULL: none */

/* After micro-batch number `micro` of `count`: with the last one the bound table's gradients become the sum over the
 * micro-batches, added in their order. */
void executor_sum_gradients(Executor *executor, int64_t micro, int64_t count);

/* ---------------------------------------------------------------- running */

/* Where to write argument `name` of `func`; NULL when the function has none of that name in `act`. */
void *executor_argument(Executor *executor, const PlanFunc *func, const char *name);
/* An executor whose tables are not those `func` needs, or a step that fails on the user's input (more selected pairs
 * than the bound), ends the program with a message that names the Lua line. */
void executor_run(Executor *executor, const PlanFunc *func);

/* The same in two halves. Between them nobody touches the function's arguments and results (FAIL_BUG) or frees its
 * arenas. Where the device runs ahead, executor_start comes back before the function is done, several may be started,
 * which run in this order, and each keeps its results until it is started again: so the device goes on while the host
 * reads. Elsewhere the next function started takes the memory of the results. */
void executor_start(Executor *executor, const PlanFunc *func);
void executor_finish(Executor *executor, const PlanFunc *func);
bool executor_runs_ahead(const Executor *executor);

/* Data of a result in the type and shape it has; NULL when the function has no such result in `act`. */
const void *executor_result(const Executor *executor, const PlanFunc *func, const char *label);
/* The f32 scalar of that label; its absence is a FAIL_BUG. */
float executor_scalar(const Executor *executor, const PlanFunc *func, const char *label);
/* Bytes of the device's memory. */
void executor_read(const Executor *executor, PlanPlace place, void *to, int64_t bytes);
/* Live rows of a result or value now. */
int64_t executor_count(const Executor *executor, PlanCount count);

/* Time per function and step since profiling was switched on (runtime/profile.h). */
void executor_set_profile(Executor *executor, bool on);
void executor_print_profile(const Executor *executor, FILE *out);

/* ---------------------------------------------------------------- what was chosen by timing */

/* What was chosen on a GPU: the algorithm of a product, or one of a plan's ways to compute the same (docs/plan.md,
 * "choice"). Strings are without quotes and control characters. */
typedef struct ProductChoice {
  const char *kind;      /* "product", "kernel" */
  const char *shape;     /* "m=512 n=1024 k=4096 ta=0 tb=1 ... bf16 f32"; the options and their kernels */
  const char *gpu;       /* its name */
  const char *library;   /* and version; "none" of kernels */
  const char *algorithm; /* the library's own, hexadecimal; the option's name */
  double seconds;        /* of the fastest of a few runs */
  int64_t candidates;    /* how many were timed */
} ProductChoice;

/* Taken over before the first run. Those of another GPU or library, or of shapes that never occur, are kept. */
void executor_set_choices(Executor *executor, const ProductChoice *choices, int count);
/* Those taken over and those made since, in the order they came; on the CPU none. */
const ProductChoice *executor_choices(const Executor *executor, int *count);

#endif
