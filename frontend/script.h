/* Runs a model script and gives its module at stage GRAPH: the only door between Lua and the rest of moec. */
#ifndef MOEC_SCRIPT_H
#define MOEC_SCRIPT_H

#include "ir/ir.h"

typedef struct ScriptOptions {
  const char *path;     /* MODEL.lua */
  const char **defines; /* arena vector of "key=value" from -D */
  int64_t seed;         /* for whatever is drawn at build (none of it reaches the parameters) */
} ScriptOptions;

typedef struct Script {
  Module *module;          /* stage GRAPH, verified */
  const char *config_json; /* the resolved configuration: {"model":name,"task":..,"config":{...}} */
} Script;

/* A mistake in the script goes to ir_fail with its line. */
Script script_compile(Arena *arena, const ScriptOptions *options);

/* Runs a specification of moec compare; gives it, checked, as JSON (frontend/lua/moec/compare.lua). */
const char *script_read_compare(Arena *arena, const char *path);

#endif
