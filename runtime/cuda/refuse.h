/* The message for a GPU that is too small: what was asked for, what there is, what the model needs by phase (section
 * forecast.cuda.json, as `moec forecast --target=cuda` prints it) and what would help. */
#ifndef MOEC_RUNTIME_CUDA_REFUSE_H
#define MOEC_RUNTIME_CUDA_REFUSE_H

#include "runtime/payload.h"

/* FAIL_ENVIRONMENT. `need`: "gradients need 6.4 GB". `payload`: NULL: no table. */
_Noreturn void refuse_memory(const Payload *payload, const char *need);

#endif
