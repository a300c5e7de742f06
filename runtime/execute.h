/* Runs the functions of a plan on this machine's CPU.
 *
 * In: a plan, a payload with the emitted kernels (sections kernels.v3.so and kernels.v4.so), arenas. Out: what the
 * functions write: results stand in `act` until the next run, or in the arenas of the parameter table.
 *
 * The order of work per step of training:
 *   executor_set_table(ex, arenas)        once per table
 *   executor_argument(...)                fill each argument; they lie in `act`: fill all of them anew before every run
 *   executor_run(ex, func)
 *   executor_result(...)                  read before the next run
 * A transition: executor_set_source(ex, old), executor_set_table(ex, new), run; then executor_set_source(ex, NULL).
 *
 * One Executor per process is meant; nothing here is thread-safe (the work inside is parallel through OpenMP).
 */
#ifndef MOEC_RUNTIME_EXECUTE_H
#define MOEC_RUNTIME_EXECUTE_H

#include <stdio.h>

#include "runtime/payload.h"
#include "runtime/plan.h"

/* The flat f32 arenas of one parameter table, each of table->size elements, zeroed when made. */
typedef struct Arenas {
  const PlanTable *table;
  float *param, *grad, *m, *v;
} Arenas;

Arenas *arenas_new(const PlanTable *table); /* FAIL_ENVIRONMENT when they do not fit into memory */
void arenas_free(Arenas *arenas);

typedef struct Executor Executor;

/* First call of main: makes OpenMP's idle threads sleep instead of spin (OMP_WAIT_POLICY=passive) unless the user set
 * a policy. libgomp reads the policy when it is loaded, so the program starts itself anew once, with the same
 * arguments. */
void runtime_start(char **argv);

/* Maps the activation arena, loads the kernels of this CPU's level (x86-64-v4 or -v3) and oneDNN where the plan has a
 * product. `payload` may be NULL when the plan launches no kernel. A CPU below x86-64-v3 or a missing library:
 * FAIL_ENVIRONMENT; a kernel missing from the payload: FAIL_BUG. */
Executor *executor_new(const Plan *plan, const Payload *payload);
void executor_free(Executor *executor);

/* "x86-64-v4" or "x86-64-v3": what the kernels run at. MOEC_CPU=v3 in the environment asks for the lower level. */
const char *executor_cpu_level(const Executor *executor);
const char *executor_library(const Executor *executor); /* "oneDNN 2.6.3", or "none" */
int executor_threads(const Executor *executor);

void executor_set_seed(Executor *executor, uint64_t seed);
void executor_set_table(Executor *executor, const Arenas *arenas);  /* param, grad, m, v; NULL: none */
void executor_set_source(Executor *executor, const Arenas *arenas); /* src.param, src.m, src.v; NULL: none */

/* Memory of a place now; NULL only when its space is not bound. */
void *executor_memory(const Executor *executor, PlanPlace place);
/* Where to write argument `name` of `func`; NULL when the function has none of that name. */
void *executor_argument(Executor *executor, const PlanFunc *func, const char *name);
/* An executor whose tables are not those `func` needs, or a step that fails on the user's input (more selected pairs
 * than the bound), ends the program with a message that names the Lua line. */
void executor_run(Executor *executor, const PlanFunc *func);

/* Data of a result in the type and shape it has; NULL when the function has no such result. */
const void *executor_result(const Executor *executor, const PlanFunc *func, const char *label);
/* The f32 scalar of that label; its absence is a FAIL_BUG. */
float executor_scalar(const Executor *executor, const PlanFunc *func, const char *label);
/* Live rows of a result or value now. */
int64_t executor_count(const Executor *executor, PlanCount count);

/* Time per function and step since profiling was switched on (runtime/profile.h). */
void executor_set_profile(Executor *executor, bool on);
void executor_print_profile(const Executor *executor, FILE *out);

#endif
