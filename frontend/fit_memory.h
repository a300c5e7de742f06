/* What runs again so that a trainer fits --memory. */
#ifndef MOEC_FIT_MEMORY_H
#define MOEC_FIT_MEMORY_H

#include "frontend/model.h"

/* Behind model_load, with --memory given: the model's pipeline, with prices for pass recompute under which the forecast
 * fits, or comes as near as recomputing can bring it. */
PipelineOptions fit_memory(const Model *m);

#endif
