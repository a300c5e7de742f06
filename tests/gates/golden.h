/* What tests of goldens by the interpreter share: files of goldens, modules with gradients and nothing else done. */
#ifndef MOEC_GOLDEN_H
#define MOEC_GOLDEN_H

#include <cjson/cJSON.h>

#include "ir/ir.h"

/* The bytes of a file and a 0 behind them, an arena vector; the program ends when it cannot be read. */
char *golden_read_file(Arena *arena, const char *path);
/* The file as JSON; the program ends when it is none. */
cJSON *golden_read(Arena *arena, const char *path);
/* The entry of that name; the program ends when there is none. */
const cJSON *golden_item(const cJSON *object, const char *name);
/* Runs autodiff alone. */
void golden_differentiate(Module *m);

#endif
