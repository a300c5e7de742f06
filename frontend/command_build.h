/* Building a trainer, shared by moec build and moec train. */
#ifndef MOEC_COMMAND_BUILD_H
#define MOEC_COMMAND_BUILD_H

#include "frontend/options.h"

/* Compiles options->model and writes the trainer to `path`. A file `same_model`, when it is there, holds the IR that
 * the script must give: the user's mistake otherwise, and `path` stays as it was. */
void build_trainer(Arena *arena, const Options *options, const char *path, const char *same_model);

#endif
