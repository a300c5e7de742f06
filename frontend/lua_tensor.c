/* Tensors and dims as Lua values, and the functions moec.op.*, made from the op table.
 *
 * A tensor is a value of the function being built. op.NAME(operands..., attributes): operands first, as many as the op
 * has; where the op is elementwise a number may stand for an operand and becomes a constant. Then either one table of
 * attributes by name, or the attributes themselves in the order of ops.def: op.sum(x, -1) is op.sum(x, { axis = -1 }).
 */
#include <math.h>
#include <string.h>

#include "frontend/lua_script.h"

/* Names of the metatables; Lua shows them in its messages. */
#define TENSOR "tensor"
#define DIM "dim"

enum { MAX_OPERANDS = 64, MAX_ATTRIBUTES = 4, MAX_WORD = 24 };

typedef struct Tensor {
  const Func *func;
  ValueId value;
} Tensor;

/* ---------------------------------------------------------------- values */

void script_push_tensor(lua_State *lua, ValueId value) {
  Tensor *t = lua_newuserdatauv(lua, sizeof *t, 0);
  *t = (Tensor){script_state(lua)->func, value};
  luaL_setmetatable(lua, TENSOR);
}

bool script_is_tensor(lua_State *lua, int index) {
  return luaL_testudata(lua, index, TENSOR) != NULL;
}

/* What stands at `index`, for a message. */
static const char *found(lua_State *lua, int index) {
  if (lua_isnoneornil(lua, index))
    return "nothing";
  if (script_is_tensor(lua, index))
    return "a tensor";
  if (lua_type(lua, index) == LUA_TNUMBER)
    return lua_tostring(lua, index);
  return lua_pushfstring(lua, "a %s", luaL_typename(lua, index));
}

static ValueId tensor_value(lua_State *lua, const Tensor *t) {
  if (t->func != script_state(lua)->func)
    ir_fail(script_here(lua), "this tensor was made in another call of forward (or of a gate); it cannot be kept");
  return t->value;
}

ValueId script_tensor(lua_State *lua, int index) {
  const Tensor *t = luaL_testudata(lua, index, TENSOR);
  if (!t)
    ir_fail(script_here(lua), "found %s, expected a tensor", found(lua, index));
  return tensor_value(lua, t);
}

void script_push_dim(lua_State *lua, Dim dim) {
  Dim *d = lua_newuserdatauv(lua, sizeof *d, 0);
  *d = dim;
  luaL_setmetatable(lua, DIM);
}

Dim script_dim(lua_State *lua, int index, const char *what) {
  const Dim *d = luaL_testudata(lua, index, DIM);
  if (d)
    return *d;
  int whole;
  lua_Integer n = lua_tointegerx(lua, index, &whole);
  if (lua_type(lua, index) != LUA_TNUMBER || !whole || n < 1)
    ir_fail(script_here(lua), "%s: found %s, expected a positive whole number", what, found(lua, index));
  return dim_number(n);
}

int script_shape(lua_State *lua, int index, const char *what, Dim *dims) {
  if (lua_type(lua, index) != LUA_TTABLE)
    ir_fail(script_here(lua), "%s: found %s, expected a list of dims", what, found(lua, index));
  lua_Unsigned rank = lua_rawlen(lua, index);
  if (rank > MAX_RANK)
    ir_fail(script_here(lua), "%s: found %d dims, expected at most %d", what, (int)rank, MAX_RANK);
  for (int i = 0; i < (int)rank; i++) {
    lua_rawgeti(lua, index, i + 1);
    dims[i] = script_dim(lua, -1, what);
    lua_pop(lua, 1);
  }
  return (int)rank;
}

DType script_dtype(lua_State *lua, int index, const char *what) {
  const char *name = lua_type(lua, index) == LUA_TSTRING ? lua_tostring(lua, index) : NULL;
  for (int i = 0; name && i < DTYPE_COUNT; i++)
    if (strcmp(name, dtype_name((DType)i)) == 0)
      return (DType)i;
  ir_fail(script_here(lua), "%s: found %s, expected \"f32\", \"bf16\" or \"i32\"", what,
          name ? arena_print(script_state(lua)->arena, "\"%.20s\"", name) : luaL_typename(lua, index));
}

/* ---------------------------------------------------------------- the nearest word */

static int edit_distance(const char *a, const char *b) {
  int row[MAX_WORD + 1], n = (int)strlen(b);
  for (int j = 0; j <= n; j++)
    row[j] = j;
  for (int i = 1; *a; a++, i++) {
    int diagonal = row[0];
    row[0] = i;
    for (int j = 1; j <= n; j++) {
      int best = diagonal + (*a != b[j - 1]);
      diagonal = row[j];
      best = row[j] + 1 < best ? row[j] + 1 : best;
      row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
    }
  }
  return row[n];
}

const char *script_nearest(const char *word, const char *const *words, int count) {
  const char *nearest = NULL;
  int least = (int)strlen(word) / 2 + 1; /* more than half of it wrong is another word */
  for (int i = 0; i < count && strlen(word) <= MAX_WORD; i++) {
    int distance = strlen(words[i]) <= MAX_WORD ? edit_distance(word, words[i]) : least;
    if (distance < least) {
      least = distance;
      nearest = words[i];
    }
  }
  return nearest;
}

/* ---------------------------------------------------------------- attributes */

/* The names in op_info's "k rows?" without the marks. */
static int attribute_names(const OpInfo *info, Arena *arena, const char **names) {
  int count = 0;
  for (const char *p = info->attributes; *p;) {
    size_t length = strcspn(p, " ?");
    names[count++] = arena_copy(arena, p, length);
    p += length;
    p += strspn(p, " ?");
  }
  return count;
}

static AttrName attribute_named(const char *name) {
  for (int i = 0; i < ATTRIBUTE_COUNT; i++)
    if (strcmp(attr_name[i], name) == 0)
      return (AttrName)i;
  ir_bug("the op table names no attribute %s", name);
}

static Attr read_attribute(lua_State *lua, int index, const OpInfo *info, const char *name) {
  AttrName attribute = attribute_named(name);
  const char *what = arena_print(script_state(lua)->arena, "op.%s: attribute %s", info->name, name);
  int ok = 0;
  switch (attr_kind[attribute]) {
  case ATTR_INT: {
    lua_Integer n = lua_isboolean(lua, index) ? lua_toboolean(lua, index) : lua_tointegerx(lua, index, &ok);
    if (!lua_isboolean(lua, index) && (lua_type(lua, index) != LUA_TNUMBER || !ok))
      ir_fail(script_here(lua), "%s: found %s, expected a whole number", what, found(lua, index));
    return attr_int(attribute, n);
  }
  case ATTR_FLOAT:
    if (lua_type(lua, index) != LUA_TNUMBER)
      ir_fail(script_here(lua), "%s: found %s, expected a number", what, found(lua, index));
    return attr_float(attribute, lua_tonumber(lua, index));
  case ATTR_DTYPE:
    return attr_dtype(script_dtype(lua, index, what));
  case ATTR_DIM:
    return attr_dim(attribute, script_dim(lua, index, what));
  case ATTR_SHAPE: {
    Dim dims[MAX_RANK];
    int rank = script_shape(lua, index, what, dims);
    return attr_shape(rank, dims);
  }
  }
  ir_bug("attribute %s has no kind", name);
}

/* Every key of the table of attributes must be one of `names`. */
static void check_keys(lua_State *lua, int table, const OpInfo *info, const char *const *names, int count) {
  lua_pushnil(lua);
  while (lua_next(lua, table)) {
    lua_pop(lua, 1);
    const char *key = lua_type(lua, -1) == LUA_TSTRING ? lua_tostring(lua, -1) : luaL_typename(lua, -1);
    bool known = false;
    for (int i = 0; i < count; i++)
      known |= strcmp(key, names[i]) == 0;
    if (known)
      continue;
    const char *nearest = script_nearest(key, names, count);
    ir_fail(script_here(lua), "op.%s: unknown attribute %.40s, expected %s", info->name, key,
            nearest ? nearest : (*info->attributes ? info->attributes : "none"));
  }
}

static int read_attributes(lua_State *lua, int index, const OpInfo *info, Attr *attrs) {
  const char *names[MAX_ATTRIBUTES];
  int known = attribute_names(info, script_state(lua)->arena, names), count = 0, last = lua_gettop(lua);
  if (lua_type(lua, index) == LUA_TTABLE && lua_rawlen(lua, index) == 0) {
    check_keys(lua, index, info, names, known);
    for (int i = 0; i < known; i++)
      if (lua_getfield(lua, index, names[i]) != LUA_TNIL)
        attrs[count++] = read_attribute(lua, lua_gettop(lua), info, names[i]);
    if (index < last)
      ir_fail(script_here(lua), "op.%s: found arguments behind the table of attributes", info->name);
    return count;
  }
  if (last - index + 1 > known)
    ir_fail(script_here(lua), "op.%s: found %d arguments behind %d operands, expected the attributes %s", info->name,
            last - index + 1, index - 1, known ? info->attributes : "(none)");
  for (int i = 0; index + i <= last; i++)
    if (!lua_isnil(lua, index + i))
      attrs[count++] = read_attribute(lua, index + i, info, names[i]);
  return count;
}

/* ---------------------------------------------------------------- operands */

static bool takes_numbers(const OpInfo *info) {
  return (info->flags & FLAG_ELEMENTWISE) && info->min_inputs == info->max_inputs && info->min_inputs > 0;
}

/* A number among the operands becomes a constant of the dtype of the tensors beside it. */
static ValueId number_operand(lua_State *lua, Op op, int index, DType beside) {
  ScriptState *s = script_state(lua);
  double value = lua_tonumber(lua, index);
  if (beside == DTYPE_I32 && value != floor(value))
    ir_fail(script_here(lua), "op.%s: operand %d is the number %.9g, expected a whole number beside i32",
            op_info[op].name, index, value);
  Attr attrs[] = {attr_float(ATTRIBUTE_value, value), attr_dtype(DTYPE_I32)};
  return build(s->func, OP_const, script_here(lua), NULL, 0, attrs, beside == DTYPE_I32 ? 2 : 1);
}

static DType dtype_beside(lua_State *lua, Op op, int count) {
  const Func *f = script_state(lua)->func;
  for (int i = op == OP_select ? 2 : 1; i <= count; i++)
    if (script_is_tensor(lua, i) && f->values[script_tensor(lua, i)].type.dtype == DTYPE_I32)
      return DTYPE_I32;
  return DTYPE_F32;
}

static int count_operands(lua_State *lua, const OpInfo *info) {
  bool numbers = takes_numbers(info);
  int most = info->max_inputs < 0 ? MAX_OPERANDS : info->max_inputs, count = 0;
  while (count < most && (script_is_tensor(lua, count + 1) || (numbers && lua_type(lua, count + 1) == LUA_TNUMBER)))
    count++;
  if (count < info->min_inputs)
    ir_fail(script_here(lua), "op.%s: operand %d: found %s, expected a tensor%s", info->name, count + 1,
            found(lua, count + 1), numbers ? " or a number" : "");
  return count;
}

static int apply_op(lua_State *lua, Op op) {
  ScriptState *s = script_state(lua);
  const OpInfo *info = &op_info[op];
  if (!s->func)
    ir_fail(script_here(lua), "op.%s: tensors exist only inside forward", info->name);
  int count = count_operands(lua, info);
  DType beside = dtype_beside(lua, op, count);
  ValueId input[MAX_OPERANDS];
  for (int i = 0; i < count; i++)
    input[i] = script_is_tensor(lua, i + 1) ? script_tensor(lua, i + 1) : number_operand(lua, op, i + 1, beside);
  Attr attrs[MAX_ATTRIBUTES];
  int attr_count = lua_gettop(lua) > count ? read_attributes(lua, count + 1, info, attrs) : 0;
  Inst inst = *build_inst(s->func, op, script_here(lua), input, count, attrs, attr_count);
  for (int i = 0; i < inst.output_count; i++)
    script_push_tensor(lua, inst.output[i]);
  return inst.output_count;
}

static int op_function(lua_State *lua) {
  return apply_op(lua, (Op)lua_tointeger(lua, lua_upvalueindex(1)));
}

void script_push_ops(lua_State *lua) {
  lua_newtable(lua);
  for (int op = 0; op < OP_COUNT; op++) {
    if (!(op_info[op].stages & (1u << STAGE_GRAPH)) || (op_info[op].flags & FLAG_GRADIENT_ONLY))
      continue;
    lua_pushinteger(lua, op);
    lua_pushcclosure(lua, op_function, 1);
    lua_setfield(lua, -2, op_info[op].name);
  }
}

/* ---------------------------------------------------------------- metamethods */

static int tensor_binary(lua_State *lua) {
  lua_settop(lua, 2);
  return apply_op(lua, (Op)lua_tointeger(lua, lua_upvalueindex(1)));
}

static int tensor_negate(lua_State *lua) {
  lua_settop(lua, 1);
  return apply_op(lua, OP_neg);
}

static int tensor_text(lua_State *lua) {
  const Tensor *t = luaL_checkudata(lua, 1, TENSOR);
  lua_pushfstring(lua, "tensor %s", type_text(t->func, t->func->values[t->value].type));
  return 1;
}

/* x:shape() gives a list of whole numbers. */
static int tensor_shape(lua_State *lua) {
  const Func *f = script_state(lua)->func;
  Type type = f->values[script_tensor(lua, 1)].type;
  lua_newtable(lua);
  for (int i = 0; i < type.rank; i++) {
    lua_pushinteger(lua, dim_value(f->module, type.dim[i]));
    lua_rawseti(lua, -2, i + 1);
  }
  return 1;
}

static int tensor_dtype(lua_State *lua) {
  lua_pushstring(lua, dtype_name(script_state(lua)->func->values[script_tensor(lua, 1)].type.dtype));
  return 1;
}

static int tensor_missing(lua_State *lua) {
  const char *key = lua_type(lua, 2) == LUA_TSTRING ? lua_tostring(lua, 2) : luaL_typename(lua, 2);
  ir_fail(script_here(lua), "a tensor has no field %.40s, expected shape or dtype", key);
}

static int dim_product_of(lua_State *lua) {
  const Module *m = script_state(lua)->module;
  script_push_dim(lua, dim_product(m, script_dim(lua, 1, "dim"), script_dim(lua, 2, "dim")));
  return 1;
}

static int dim_sum_of(lua_State *lua) {
  script_push_dim(lua, dim_add(script_state(lua)->module, script_dim(lua, 1, "dim"), luaL_checkinteger(lua, 2)));
  return 1;
}

static int dim_as_text(lua_State *lua) {
  lua_pushstring(lua, dim_text(script_state(lua)->module, script_dim(lua, 1, "dim")));
  return 1;
}

void script_open_tensors(lua_State *lua) {
  static const struct {
    const char *event;
    Op op;
  } binary[] = {{"__add", OP_add}, {"__sub", OP_sub}, {"__mul", OP_mul}, {"__div", OP_div}};
  luaL_newmetatable(lua, TENSOR);
  for (size_t i = 0; i < sizeof binary / sizeof *binary; i++) {
    lua_pushinteger(lua, binary[i].op);
    lua_pushcclosure(lua, tensor_binary, 1);
    lua_setfield(lua, -2, binary[i].event);
  }
  static const luaL_Reg functions[] = {{"__unm", tensor_negate}, {"__tostring", tensor_text}, {NULL, NULL}};
  luaL_setfuncs(lua, functions, 0);
  lua_pushboolean(lua, 0);
  lua_setfield(lua, -2, "__metatable");
  static const luaL_Reg methods[] = {{"shape", tensor_shape}, {"dtype", tensor_dtype}, {NULL, NULL}};
  luaL_newlib(lua, methods);
  lua_createtable(lua, 0, 1);
  lua_pushcfunction(lua, tensor_missing);
  lua_setfield(lua, -2, "__index");
  lua_setmetatable(lua, -2);
  lua_setfield(lua, -2, "__index");
  lua_pop(lua, 1);

  luaL_newmetatable(lua, DIM);
  static const luaL_Reg arithmetic[] = {
      {"__mul", dim_product_of}, {"__add", dim_sum_of}, {"__tostring", dim_as_text}, {NULL, NULL}};
  luaL_setfuncs(lua, arithmetic, 0);
  lua_pushboolean(lua, 0);
  lua_setfield(lua, -2, "__metatable");
  lua_pop(lua, 1);
}
