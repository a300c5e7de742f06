/* Runs a model script in a sandbox and gives its module.
 *
 * In: the path of a Lua text and the -D overrides. Out: a verified module at stage GRAPH and the resolved
 * configuration. The Lua library (frontend/lua/moec) does the work; it reaches the IR through the table `core`
 * (lua_builder.c). The script itself sees only the library's environment. Whatever goes wrong ends in ir_fail with the
 * script's line.
 */
#include <errno.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/lua_script.h"
#include "frontend/script.h"

static ScriptState *running; /* whose Lua state an ir_fail must leave */

/* ir_fail inside Lua: a Lua error whose message has its place. */
static void fail_in_script(const char *message) {
  ScriptState *s = running;
  size_t path = strlen(s->path);
  if (strncmp(message, s->path, path) == 0 && message[path] == ':')
    script_raise(s, arena_copy(s->arena, message, strlen(message)));
  script_raise(s, arena_print(s->arena, "%s:%d: %s", s->path, script_here(s->lua).line, message));
}

static char *read_script(Arena *arena, const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file)
    ir_fail((Loc){0}, "cannot read the script %s: %s", path, strerror(errno));
  char *text = NULL; /* an arena vector */
  for (int c; (c = getc(file)) != EOF;)
    vec_push(arena, text, (char)c);
  bool failed = ferror(file);
  fclose(file);
  if (failed)
    ir_fail((Loc){0}, "cannot read the script %s: %s", path, strerror(errno));
  return text;
}

/* ---------------------------------------------------------------- in protected mode */

static void open_libraries(lua_State *lua) {
  static const luaL_Reg libraries[] = {{LUA_GNAME, luaopen_base},
                                       {LUA_TABLIBNAME, luaopen_table},
                                       {LUA_STRLIBNAME, luaopen_string},
                                       {LUA_MATHLIBNAME, luaopen_math},
                                       {LUA_UTF8LIBNAME, luaopen_utf8}};
  for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
    luaL_requiref(lua, libraries[i].name, libraries[i].func, 1);
    lua_pop(lua, 1);
  }
}

/* Leaves the table `lib` on the stack. */
static void load_library(lua_State *lua) {
  lua_newtable(lua);
  int lib = lua_gettop(lua);
  script_push_ops(lua);
  lua_setfield(lua, lib, "ops");
  script_push_core(lua);
  int core = lua_gettop(lua);
  for (int i = 0; i < library_file_count; i++) {
    const LibraryFile *file = &library_files[i];
    const char *name = lua_pushfstring(lua, "=%s", file->name);
    if (luaL_loadbufferx(lua, file->text, (size_t)(file->end - file->text), name, "t") != LUA_OK)
      ir_bug("the Lua library does not load: %s", lua_tostring(lua, -1));
    lua_pushvalue(lua, core);
    lua_pushvalue(lua, lib);
    lua_call(lua, 2, 0);
    lua_pop(lua, 1);
  }
  lua_settop(lua, lib);
}

/* Runs the script in the library's environment; its result stays on the stack. */
static void run_script(ScriptState *s, int lib) {
  lua_State *lua = s->lua;
  const char *text = s->text ? s->text : "";
  if (luaL_loadbufferx(lua, text, vec_len(s->text), "=" SCRIPT_MARK, "t") != LUA_OK)
    lua_error(lua);
  lua_Debug debug;
  lua_pushvalue(lua, -1);
  lua_getinfo(lua, ">S", &debug);
  s->source = debug.source;
  lua_getfield(lua, lib, "environment");
  lua_setupvalue(lua, -2, 1);
  lua_call(lua, 0, 1);
}

/* The whole work; result: the JSON that the reader gives. */
static int compile_protected(lua_State *lua) {
  ScriptState *s = script_state(lua);
  open_libraries(lua);
  script_open_tensors(lua);
  load_library(lua);
  int lib = lua_gettop(lua);
  lua_getfield(lua, lib, s->reader);
  run_script(s, lib);
  lua_call(lua, 1, 1);
  return 1;
}

/* ---------------------------------------------------------------- outside */

/* The message becomes an ir_fail of the outer handler, with its place where it has one. */
static _Noreturn void report(ScriptState *s, int status) {
  const char *message = s->message;
  if (status == LUA_ERRMEM)
    message = arena_print(s->arena, "%s:%d: the script needs more than %d megabytes of memory", s->path, s->line,
                          SCRIPT_MEGABYTES);
  else if (status != LUA_ERRRUN || !message)
    message = arena_print(s->arena, "%s:%d: the script fails in its error handling", s->path, s->line);
  size_t path = strlen(s->path);
  char *end;
  long line = strncmp(message, s->path, path) == 0 && message[path] == ':' ? strtol(message + path + 1, &end, 10) : -1;
  if (line < 0)
    ir_fail((Loc){0}, "%s", message);
  ir_fail((Loc){s->path, (int)line}, "%s", end + strspn(end, ": "));
}

/* Runs the script of a state that has its path, defines and reader; gives the reader's JSON. */
static const char *run_protected(ScriptState *state) {
  Arena *arena = state->arena;
  state->text = read_script(arena, state->path);
  state->module = module_new(arena, "model");
  running = state;
  lua_State *lua = script_open(state);
  if (!lua)
    ir_fail((Loc){0}, "not enough memory to start Lua");
  ir_set_error_handler(fail_in_script);
  lua_pushcfunction(lua, script_message_handler);
  lua_pushcfunction(lua, compile_protected);
  int status = lua_pcall(lua, 0, 1, 1);
  ir_set_error_handler(NULL);
  running = NULL;
  const char *json = status == LUA_OK ? arena_print(arena, "%s", lua_tostring(lua, -1)) : NULL;
  lua_close(lua);
  if (status != LUA_OK)
    report(state, status);
  return json;
}

Script script_compile(Arena *arena, const ScriptOptions *options) {
  ScriptState state = {
      .arena = arena, .path = arena_intern(arena, options->path), .defines = options->defines, .reader = "compile"};
  const char *json = run_protected(&state);
  module_verify(state.module, "frontend");
  return (Script){.module = state.module, .config_json = json};
}

const char *script_read_compare(Arena *arena, const char *path) {
  ScriptState state = {.arena = arena, .path = arena_intern(arena, path), .reader = "read_compare"};
  return run_protected(&state);
}
