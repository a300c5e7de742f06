/* The table `core`: the functions through which the Lua library (frontend/lua/moec) makes a module. Scripts never see
 * it; its arguments come from the library, which has checked what the user gave. A function is built between begin and
 * finish; tensors of one function are not accepted in another.
 */
#include <ctype.h>
#include <math.h>
#include <string.h>

#include "frontend/lua_script.h"

static Func *building(lua_State *lua) {
  Func *f = script_state(lua)->func;
  if (!f)
    ir_fail(script_here(lua), "tensors exist only inside forward");
  return f;
}

static Table *named_table(lua_State *lua, int index) {
  const char *name = luaL_checkstring(lua, index);
  Table *table = module_find_table(script_state(lua)->module, name);
  if (!table)
    ir_bug("the Lua library asks for table %s, which does not exist", name);
  return table;
}

/* ---------------------------------------------------------------- functions */

/* begin(name, table or nil) */
static int core_begin(lua_State *lua) {
  ScriptState *s = script_state(lua);
  Table *table = lua_isnoneornil(lua, 2) ? NULL : named_table(lua, 2);
  s->func = module_add_func(s->module, luaL_checkstring(lua, 1), table);
  return 0;
}

static int core_finish(lua_State *lua) {
  script_state(lua)->func = NULL;
  return 0;
}

/* argument(name, dtype, shape) -> tensor */
static int core_argument(lua_State *lua) {
  Dim dims[MAX_RANK];
  DType dtype = script_dtype(lua, 2, "argument");
  int rank = script_shape(lua, 3, "argument", dims);
  script_push_tensor(lua, func_add_argument(building(lua), luaL_checkstring(lua, 1), type_make(dtype, rank, dims)));
  return 1;
}

/* parameter(name, table or nil, "value" | "m" | "v" | "next") -> tensor */
static int core_parameter(lua_State *lua) {
  static const char *const slots[] = {"value", "m", "v", "next", NULL};
  Table *table = lua_isnoneornil(lua, 2) ? NULL : named_table(lua, 2);
  ParamSlot slot = (ParamSlot)luaL_checkoption(lua, 3, "value", slots);
  script_push_tensor(lua, func_parameter(building(lua), table, luaL_checkstring(lua, 1), slot));
  return 1;
}

/* result(label, tensor) */
static int core_result(lua_State *lua) {
  func_add_result(building(lua), luaL_checkstring(lua, 1), script_tensor(lua, 2));
  return 0;
}

/* rename(tensor, name): what the reader of the IR sees. */
static int core_rename(lua_State *lua) {
  value_rename(building(lua), script_tensor(lua, 1), luaL_checkstring(lua, 2));
  lua_settop(lua, 1);
  return 1;
}

/* mark() remembers how far the module is; rollback() forgets what came after. */
static int core_mark(lua_State *lua) {
  ScriptState *s = script_state(lua);
  s->mark.tables = vec_len(s->module->tables);
  s->mark.funcs = vec_len(s->module->funcs);
  s->mark.symbols = vec_len(s->module->symbols);
  return 0;
}

static void truncate_vector(void *vector, uint32_t length) {
  if (vector)
    vec_header(vector)->length = length;
}

static int core_rollback(lua_State *lua) {
  ScriptState *s = script_state(lua);
  truncate_vector(s->module->tables, s->mark.tables);
  truncate_vector(s->module->funcs, s->mark.funcs);
  truncate_vector(s->module->symbols, s->mark.symbols);
  s->func = NULL;
  return 0;
}

/* ---------------------------------------------------------------- tables, schedules, phases */

static int core_add_table(lua_State *lua) {
  module_add_table(script_state(lua)->module, luaL_checkstring(lua, 1));
  return 0;
}

/* add_param(table, name, shape, init text) */
static int core_add_param(lua_State *lua) {
  ScriptState *s = script_state(lua);
  Dim dims[MAX_RANK];
  int rank = script_shape(lua, 3, luaL_checkstring(lua, 2), dims);
  Param p = {.name = luaL_checkstring(lua, 2),
             .type = type_make(DTYPE_F32, rank, dims),
             .init = arena_print(s->arena, "%s", luaL_checkstring(lua, 4)),
             .segment = -1};
  table_add_param(named_table(lua, 1), s->module, p);
  return 0;
}

/* add_segment(table, weight decay, birth) -> number */
static int core_add_segment(lua_State *lua) {
  Table *table = named_table(lua, 1);
  Segment segment = {.weight_decay = luaL_checknumber(lua, 2), .birth = (int)luaL_checkinteger(lua, 3)};
  vec_push(script_state(lua)->arena, table->segments, segment);
  lua_pushinteger(lua, (lua_Integer)vec_len(table->segments) - 1);
  return 1;
}

/* set_segment(table, param, number) */
static int core_set_segment(lua_State *lua) {
  Param *param = table_find_param(named_table(lua, 1), luaL_checkstring(lua, 2));
  if (!param)
    ir_bug("the Lua library asks for parameter %s, which does not exist", luaL_checkstring(lua, 2));
  param->segment = (int)luaL_checkinteger(lua, 3);
  return 0;
}

/* layout(table) -> list of segment sizes */
static int core_layout(lua_State *lua) {
  Table *table = named_table(lua, 1);
  table_layout(script_state(lua)->module, table);
  lua_newtable(lua);
  for (uint32_t i = 0; i < vec_len(table->segments); i++) {
    lua_pushinteger(lua, table->segments[i].size);
    lua_rawseti(lua, -2, (int)i + 1);
  }
  return 1;
}

/* symbol(name, value, "module" | "function" | table's name) -> dim. A name that means another number already in that
 * scope gives the plain number. */
static int core_symbol(lua_State *lua) {
  ScriptState *s = script_state(lua);
  const char *name = luaL_checkstring(lua, 1), *where = luaL_checkstring(lua, 3);
  Dim number = script_dim(lua, 2, name);
  const void *scope = s->module;
  if (strcmp(where, "function") == 0)
    scope = building(lua);
  else if (strcmp(where, "module") != 0)
    scope = named_table(lua, 3);
  for (uint32_t i = 0; i < vec_len(s->module->symbols); i++) {
    const Symbol *symbol = &s->module->symbols[i];
    if (symbol->scope == scope && strcmp(symbol->name, name) == 0) {
      bool same = symbol->value == dim_value(s->module, number);
      script_push_dim(lua, same ? dim_symbol(i) : number);
      return 1;
    }
  }
  script_push_dim(lua, dim_symbol(module_add_symbol(s->module, scope, name, dim_value(s->module, number))));
  return 1;
}

/* schedule(name, function, count): the function's values at 0 .. count-1. What repeats at the end is dropped, since
 * beyond its end a schedule holds its last value. */
static int core_schedule(lua_State *lua) {
  ScriptState *s = script_state(lua);
  Schedule *schedule = arena_alloc(s->arena, sizeof *schedule);
  schedule->name = arena_print(s->arena, "%s", luaL_checkstring(lua, 1));
  lua_Integer count = luaL_checkinteger(lua, 3);
  for (lua_Integer step = 0; step < count; step++) {
    lua_pushvalue(lua, 2);
    lua_pushinteger(lua, step);
    lua_call(lua, 1, 1);
    double value = lua_tonumber(lua, -1);
    if (lua_type(lua, -1) != LUA_TNUMBER || !isfinite((float)value))
      ir_fail(script_here(lua), "schedule %s gives %s at step %lld, expected a finite number", schedule->name,
              luaL_tolstring(lua, -1, NULL), (long long)step);
    vec_push(s->arena, schedule->values, (float)value);
    lua_pop(lua, 1);
  }
  uint32_t length = vec_len(schedule->values);
  while (length > 1 && schedule->values[length - 1] == schedule->values[length - 2])
    length--;
  truncate_vector(schedule->values, length);
  vec_push(s->arena, s->module->schedules, schedule);
  return 0;
}

/* phase(name, steps, table, enter or nil, line) */
static int core_phase(lua_State *lua) {
  ScriptState *s = script_state(lua);
  Phase *phase = arena_alloc(s->arena, sizeof *phase);
  *phase = (Phase){.name = arena_print(s->arena, "%s", luaL_checkstring(lua, 1)),
                   .steps = luaL_checkinteger(lua, 2),
                   .table = named_table(lua, 3),
                   .enter = lua_isnil(lua, 4) ? NULL : arena_print(s->arena, "%s", luaL_checkstring(lua, 4)),
                   .loc = {s->path, (int)luaL_checkinteger(lua, 5)}};
  vec_push(s->arena, s->module->phases, phase);
  return 0;
}

static int64_t integer_field(lua_State *lua, const char *name) {
  lua_getfield(lua, 1, name);
  int64_t value = luaL_checkinteger(lua, -1);
  lua_pop(lua, 1);
  return value;
}

static const char *text_field(lua_State *lua, const char *name) {
  lua_getfield(lua, 1, name);
  const char *text = lua_isnil(lua, -1) ? NULL : arena_print(script_state(lua)->arena, "%s", luaL_checkstring(lua, -1));
  lua_pop(lua, 1);
  return text;
}

/* module { name, task, precision, optimizer or nil, steps, sequence_length, batch, accumulate, vocabulary } */
static int core_module(lua_State *lua) {
  Module *m = script_state(lua)->module;
  m->name = text_field(lua, "name");
  m->task = text_field(lua, "task");
  m->precision = strcmp(text_field(lua, "precision"), "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
  m->optimizer = text_field(lua, "optimizer");
  m->steps = integer_field(lua, "steps");
  m->sequence_length = integer_field(lua, "sequence_length");
  m->batch = integer_field(lua, "batch");
  m->accumulate = integer_field(lua, "accumulate");
  m->vocabulary = integer_field(lua, "vocabulary");
  return 0;
}

/* ---------------------------------------------------------------- questions */

/* dim(tensor, axis from 0, or from -1 backwards) -> dim */
static int core_dim(lua_State *lua) {
  Type type = building(lua)->values[script_tensor(lua, 1)].type;
  lua_Integer axis = luaL_checkinteger(lua, 2);
  axis += axis < 0 ? type.rank : 0;
  if (axis < 0 || axis >= type.rank)
    ir_fail(script_here(lua), "found a tensor %s, expected one of more dims", type_text(building(lua), type));
  script_push_dim(lua, type.dim[axis]);
  return 1;
}

/* param_dims(table, name) -> list of dims */
static int core_param_dims(lua_State *lua) {
  const Param *param = table_find_param(named_table(lua, 1), luaL_checkstring(lua, 2));
  if (!param)
    ir_bug("the Lua library asks for parameter %s, which does not exist", luaL_checkstring(lua, 2));
  lua_newtable(lua);
  for (int i = 0; i < param->type.rank; i++) {
    script_push_dim(lua, param->type.dim[i]);
    lua_rawseti(lua, -2, i + 1);
  }
  return 1;
}

/* number(dim) -> whole number */
static int core_number(lua_State *lua) {
  lua_pushinteger(lua, dim_value(script_state(lua)->module, script_dim(lua, 1, "dim")));
  return 1;
}

/* type(tensor) -> "f32[N,D]" */
static int core_type(lua_State *lua) {
  const Func *f = building(lua);
  lua_pushstring(lua, type_text(f, f->values[script_tensor(lua, 1)].type));
  return 1;
}

/* same_type(tensor, tensor): dims compare by value. */
static int core_same_type(lua_State *lua) {
  const Func *f = building(lua);
  lua_pushboolean(lua,
                  type_equal(f->module, f->values[script_tensor(lua, 1)].type, f->values[script_tensor(lua, 2)].type));
  return 1;
}

/* is_ragged(tensor) */
static int core_is_ragged(lua_State *lua) {
  lua_pushboolean(lua, building(lua)->values[script_tensor(lua, 1)].type.extent != NO_VALUE);
  return 1;
}

static int core_is_tensor(lua_State *lua) {
  lua_pushboolean(lua, script_is_tensor(lua, 1));
  return 1;
}

/* tag(text) -> FNV-1a, 32 bits: names a random stream. */
static int core_tag(lua_State *lua) {
  uint32_t hash = 2166136261u;
  for (const char *p = luaL_checkstring(lua, 1); *p; p++)
    hash = (hash ^ (unsigned char)*p) * 16777619u;
  lua_pushinteger(lua, hash);
  return 1;
}

/* nearest(word, list) -> the member that was meant, or nil */
static int core_nearest(lua_State *lua) {
  ScriptState *s = script_state(lua);
  const char **words = NULL;
  for (int i = 1; lua_rawgeti(lua, 2, i) == LUA_TSTRING; i++) {
    vec_push(s->arena, words, arena_print(s->arena, "%s", lua_tostring(lua, -1)));
    lua_pop(lua, 1);
  }
  lua_pushstring(lua, script_nearest(luaL_checkstring(lua, 1), words, (int)vec_len(words)));
  return 1;
}

/* defines() -> list of "key=value" from the command line */
static int core_defines(lua_State *lua) {
  ScriptState *s = script_state(lua);
  lua_newtable(lua);
  for (uint32_t i = 0; i < vec_len(s->defines); i++) {
    lua_pushstring(lua, s->defines[i]);
    lua_rawseti(lua, -2, (int)i + 1);
  }
  return 1;
}

/* ---------------------------------------------------------------- places and errors */

/* fail(message, line or nil) */
static int core_fail(lua_State *lua) {
  Loc loc = script_here(lua);
  if (!lua_isnoneornil(lua, 2))
    loc.line = (int)luaL_checkinteger(lua, 2);
  ir_fail(loc, "%s", luaL_checkstring(lua, 1));
}

/* line() -> the line of the script that is responsible now */
static int core_line(lua_State *lua) {
  lua_pushinteger(lua, script_here(lua).line);
  return 1;
}

/* print(text): a line on standard error, for the author of a script. */
static int core_print(lua_State *lua) {
  for (const char *p = luaL_checkstring(lua, 1); *p; p++)
    fputc(iscntrl((unsigned char)*p) && *p != '\t' ? ' ' : *p, stderr);
  fputc('\n', stderr);
  return 0;
}

/* call(line or nil, function, ...): calls a function with `line` as the place of what it makes outside the script, and
 * puts the place back where it was. */
static int core_call(lua_State *lua) {
  ScriptState *s = script_state(lua);
  int line = s->line;
  if (!lua_isnil(lua, 1))
    s->line = (int)luaL_checkinteger(lua, 1);
  lua_call(lua, lua_gettop(lua) - 2, LUA_MULTRET);
  s->line = line;
  return lua_gettop(lua) - 1;
}

void script_push_core(lua_State *lua) {
  static const luaL_Reg functions[] = {{"begin", core_begin},
                                       {"finish", core_finish},
                                       {"argument", core_argument},
                                       {"parameter", core_parameter},
                                       {"result", core_result},
                                       {"rename", core_rename},
                                       {"mark", core_mark},
                                       {"rollback", core_rollback},
                                       {"add_table", core_add_table},
                                       {"add_param", core_add_param},
                                       {"add_segment", core_add_segment},
                                       {"set_segment", core_set_segment},
                                       {"layout", core_layout},
                                       {"symbol", core_symbol},
                                       {"schedule", core_schedule},
                                       {"phase", core_phase},
                                       {"module", core_module},
                                       {"dim", core_dim},
                                       {"param_dims", core_param_dims},
                                       {"number", core_number},
                                       {"type", core_type},
                                       {"same_type", core_same_type},
                                       {"is_ragged", core_is_ragged},
                                       {"is_tensor", core_is_tensor},
                                       {"tag", core_tag},
                                       {"nearest", core_nearest},
                                       {"defines", core_defines},
                                       {"fail", core_fail},
                                       {"line", core_line},
                                       {"print", core_print},
                                       {"call", core_call},
                                       {NULL, NULL}};
  luaL_newlib(lua, functions);
}
