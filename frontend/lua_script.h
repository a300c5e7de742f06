/* What the files frontend/script.c and frontend/lua_*.c share: one running script. */
#ifndef MOEC_LUA_SCRIPT_H
#define MOEC_LUA_SCRIPT_H

#include <lauxlib.h>
#include <lua.h>

#include "ir/ir.h"

/* Limits of an untrusted script. */
enum { SCRIPT_MILLION_INSTRUCTIONS = 500, SCRIPT_MEGABYTES = 1024, SCRIPT_IR_MEGABYTES = 512 };

/* The chunk name of the user's script: short, so that Lua never abbreviates it; replaced by the path in messages. */
#define SCRIPT_MARK "\001"

typedef struct ScriptState {
  Arena *arena;
  lua_State *lua;
  const char *path;   /* of the script, interned */
  char *text;         /* of the script, an arena vector */
  const char *source; /* Lua's own copy of the script's chunk name: same pointer = a function of the script */
  const char **defines;
  const char *reader; /* the function of the library that takes what the script returned and gives JSON */
  Module *module;
  Func *func; /* being built, or NULL */
  int line;   /* of the script, that ran last: where a tail call has removed the frame */
  size_t memory;
  size_t held_before; /* by the arena, when the script began */
  int64_t instructions;
  const char *message; /* of the error under way, complete with its place */
  struct {
    uint32_t tables, funcs, symbols;
  } mark;
} ScriptState;

ScriptState *script_state(lua_State *lua);

/* lua_limits.c: allocator and hook that enforce the limits, places in the script, errors. */
lua_State *script_open(ScriptState *s); /* NULL when there is no memory */
/* The line of the script that is responsible for what runs now. */
Loc script_here(lua_State *lua);
/* Raises `message` as it is; it has its place already. */
_Noreturn void script_raise(ScriptState *s, const char *message);
/* A message of one line with its place: what lua_pcall's handler makes of any error object. */
int script_message_handler(lua_State *lua);

/* lua_tensor.c: tensors and dims as userdata; the functions moec.op.*. */
void script_open_tensors(lua_State *lua);         /* registers their metatables */
void script_push_ops(lua_State *lua);             /* a table: name -> function, for every op legal in a graph */
ValueId script_tensor(lua_State *lua, int index); /* of the function being built; an error otherwise */
void script_push_tensor(lua_State *lua, ValueId value);
bool script_is_tensor(lua_State *lua, int index);
Dim script_dim(lua_State *lua, int index, const char *what); /* a dim or a whole number */
void script_push_dim(lua_State *lua, Dim dim);
int script_shape(lua_State *lua, int index, const char *what, Dim *dims); /* a list of dims; its rank */
DType script_dtype(lua_State *lua, int index, const char *what);
/* The member of `words` nearest to `word`, or NULL when none is near. */
const char *script_nearest(const char *word, const char *const *words, int count);

/* lua_builder.c: the table `core` through which the Lua library makes a module. */
void script_push_core(lua_State *lua);

/* lua_library.c: the embedded Lua files, in the order in which they load. */
typedef struct LibraryFile {
  const char *name; /* "moec/nn.lua" */
  const char *text, *end;
} LibraryFile;
extern const LibraryFile library_files[];
extern const int library_file_count;

#endif
