/* Where the time of a run goes: seconds per function of the plan and, within it, per kernel or shape of builtin step.
 *
 * In: every step that ran, its time and the floating point operations it did. Out: a table, the most expensive function
 * and line first. Steps that differ in their operands alone share a line.
 */
#ifndef MOEC_RUNTIME_PROFILE_H
#define MOEC_RUNTIME_PROFILE_H

#include <stdio.h>

#include "runtime/plan.h"

typedef struct Profile Profile;

Profile *profile_new(const Plan *plan);
void profile_free(Profile *profile); /* NULL is taken */

/* One more run of func->steps[step]. `flops` is 0 where they are not the point. */
void profile_add(Profile *profile, const PlanFunc *func, int step, double seconds, double flops);
void profile_print(const Profile *profile, FILE *out);

#endif
