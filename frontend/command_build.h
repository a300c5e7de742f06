/* Building a trainer, shared by moec build and moec train. */
#ifndef MOEC_COMMAND_BUILD_H
#define MOEC_COMMAND_BUILD_H

#include "frontend/options.h"

/* Compiles options->model and writes the trainer to `path`. */
void build_trainer(Arena *arena, const Options *options, const char *path);

#endif
