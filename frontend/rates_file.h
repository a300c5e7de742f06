/* --rates=FILE: how fast a target is, given by the user. */
#ifndef MOEC_RATES_FILE_H
#define MOEC_RATES_FILE_H

#include <cjson/cJSON.h>

#include "ir/arena.h"
#include "passes/rates.h"

/* A JSON object with numbers under the names of rates_fields; what it leaves out is as in `otherwise`, and so is
 * whether memory's traffic is priced. Its bound is not known. ir_fail when it is anything else. */
const Rates *rates_read(Arena *arena, const char *path, const Rates *otherwise);

/* The same object. */
cJSON *rates_json(const Rates *rates);

#endif
