/* A function's plan for CUDA, run step by step on the device simulator: what the lowering and the templates make of IR,
 * without a runtime. Every storage is an allocation of its own, so an access outside of one is found.
 *
 *   PlanRun *run = plan_run_new(arena, module, "f");
 *   plan_run_bind(run, "x", tensor);
 *   if (!plan_run(run)) ...                             what was wrong has been printed
 *   const Tensor *y = plan_run_result(run, "y");
 */
#ifndef MOEC_TESTS_CUDA_PLAN_RUN_H
#define MOEC_TESTS_CUDA_PLAN_RUN_H

#include "codegen/plan.h"
#include "ir/eval.h"

typedef struct PlanRun PlanRun;

PlanRun *plan_run_new(Arena *arena, const Module *m, const char *func);
PlanRun *plan_run_new_with(Arena *arena, const Module *m, const char *func, CudaOptions options);
/* Of every choice that has it, the option of that name; of others, and before this is called, the first one. */
void plan_run_option(PlanRun *run, const char *name);
/* Fills an argument; f64 is rounded to the argument's dtype. */
void plan_run_bind(PlanRun *run, const char *argument, const Tensor *tensor);
/* Launches and memsets in order, each kernel in several orders of threads; every byte of a result must be written. */
bool plan_run(PlanRun *run);
/* The same without a look at results: of a function whose kernels report the user's mistake. */
bool plan_run_partly(PlanRun *run);
/* i64[4], docs/plan.md. */
const int64_t *plan_run_status(const PlanRun *run);
const Tensor *plan_run_result(const PlanRun *run, const char *label);
/* Plants a fault: from now on `to` stands in the place of occurrence number `which` (from 0) of `from` in the texts of
 * the plan's units. False: there are not so many. */
bool plan_run_plant(PlanRun *run, const char *from, const char *to, int which);
/* Text of the unit `index` of the plan as the compiler gets it; NULL behind the last. */
const char *plan_run_unit(const PlanRun *run, uint32_t index);
/* The plan as text, with the names of kernels. */
void plan_run_print(const PlanRun *run, FILE *out);
void plan_run_free(PlanRun *run);

float plan_run_round(DType dtype, double x); /* to the nearest number of the type, even ones in the middle */

#endif
