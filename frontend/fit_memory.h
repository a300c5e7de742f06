/* What runs again so that a trainer fits --memory. */
#ifndef MOEC_FIT_MEMORY_H
#define MOEC_FIT_MEMORY_H

#include "frontend/model.h"

/* With --memory given, for a module in front of the passes: `pipeline` with prices for pass recompute under which the
 * target's forecast fits, or comes as near as recomputing can bring it. */
PipelineOptions fit_memory(const Model *m, const Module *module, PlanTarget target, PipelineOptions pipeline);

#endif
