/* What keeps an untrusted script within bounds and every error in one line with its place.
 *
 * In: a ScriptState. Out: a Lua state whose allocator refuses more than SCRIPT_MEGABYTES, whose hook ends the script
 * after SCRIPT_MILLION_INSTRUCTIONS or SCRIPT_IR_MEGABYTES of IR, and in which ir_fail becomes a Lua error.
 *
 * The place of an instruction or an error is the nearest stack frame that belongs to the script. A tail call removes
 * that frame; then it is the line of the script that ran last, which the line hook keeps.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/lua_script.h"

enum { HOOK_INTERVAL = 10000, MESSAGE_LENGTH = 1000 };

ScriptState *script_state(lua_State *lua) {
  return *(ScriptState **)lua_getextraspace(lua);
}

/* ---------------------------------------------------------------- limits */

static void *limited_alloc(void *user, void *block, size_t old_size, size_t new_size) {
  ScriptState *s = user;
  size_t old = block ? old_size : 0;
  if (new_size > old && s->memory - old + new_size > (size_t)SCRIPT_MEGABYTES << 20)
    return NULL;
  if (new_size == 0) {
    free(block);
    s->memory -= old;
    return NULL;
  }
  void *grown = realloc(block, new_size);
  if (grown)
    s->memory += new_size - old;
  return grown;
}

static void limit_hook(lua_State *lua, lua_Debug *debug) {
  ScriptState *s = script_state(lua);
  if (debug->event == LUA_HOOKLINE) {
    lua_getinfo(lua, "S", debug);
    if (debug->source == s->source)
      s->line = debug->currentline;
    return;
  }
  s->instructions += HOOK_INTERVAL;
  if (s->instructions > (int64_t)SCRIPT_MILLION_INSTRUCTIONS * 1000000)
    ir_fail(script_here(lua), "the script ran more than %d million instructions: does a loop never end?",
            SCRIPT_MILLION_INSTRUCTIONS);
  if (arena_held(s->arena) - s->held_before > (size_t)SCRIPT_IR_MEGABYTES << 20)
    ir_fail(script_here(lua), "the model's IR needs more than %d megabytes: are there too many layers?",
            SCRIPT_IR_MEGABYTES);
}

lua_State *script_open(ScriptState *s) {
  s->held_before = arena_held(s->arena);
  s->lua = lua_newstate(limited_alloc, s);
  if (!s->lua)
    return NULL;
  *(ScriptState **)lua_getextraspace(s->lua) = s;
  lua_sethook(s->lua, limit_hook, LUA_MASKCOUNT | LUA_MASKLINE, HOOK_INTERVAL);
  return s->lua;
}

/* ---------------------------------------------------------------- places */

Loc script_here(lua_State *lua) {
  ScriptState *s = script_state(lua);
  lua_Debug debug;
  for (int level = 0; lua_getstack(lua, level, &debug); level++) {
    lua_getinfo(lua, "Slt", &debug);
    if (debug.source == s->source && debug.currentline > 0)
      return (Loc){s->path, debug.currentline};
    if (debug.istailcall)
      break;
  }
  return (Loc){s->path, s->line};
}

/* ---------------------------------------------------------------- errors */

static char raised; /* its address is the error object of an error whose message is complete */

_Noreturn void script_raise(ScriptState *s, const char *message) {
  s->message = message;
  lua_pushlightuserdata(s->lua, &raised);
  lua_error(s->lua);
  abort(); /* lua_error does not return, but does not say so */
}

/* The head of `text`, with the script's path in place of its chunk name, in one line of printable characters. */
static char *clean_text(ScriptState *s, const char *text) {
  size_t path = strlen(s->path), length = strnlen(text, MESSAGE_LENGTH), used = 0;
  char *clean = arena_alloc(s->arena, length * (path + 1) + 1);
  for (const char *end = text + length; text < end; text++) {
    if (*text == SCRIPT_MARK[0]) {
      memcpy(clean + used, s->path, path);
      used += path;
    } else {
      clean[used++] = iscntrl((unsigned char)*text) ? ' ' : *text;
    }
  }
  return clean;
}

int script_message_handler(lua_State *lua) {
  ScriptState *s = script_state(lua);
  if (lua_touserdata(lua, 1) == &raised)
    return 1;
  const char *text;
  if (lua_type(lua, 1) == LUA_TSTRING)
    text = lua_tostring(lua, 1);
  else
    text = arena_print(s->arena, "error was called with a %s value, expected a message", luaL_typename(lua, 1));
  const char *argument = strstr(text, ": bad argument");
  if (strncmp(text, "moec/", 5) == 0 && argument)
    text = argument + 2; /* of a function that the library wraps: the place in the library helps nobody */
  bool placed = text[0] == SCRIPT_MARK[0];
  text = clean_text(s, text);
  if (!placed)
    text = arena_print(s->arena, "%s:%d: %s", s->path, script_here(lua).line, text);
  s->message = text;
  lua_pushlightuserdata(lua, &raised);
  return 1;
}
