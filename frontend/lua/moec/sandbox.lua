-- What a script can reach: string, table, math and utf8 without what is unsafe, random or dependent on addresses; pairs
-- and next in a fixed order; moec through require. No io, os, load, debug, coroutines or metatables.
local core, lib = ...

local function copy(source, without)
  local result = {}
  for key, value in next, source do
    if not without[key] then
      result[key] = value
    end
  end
  return result
end

-- Text of any value without its address.
local function text(value)
  local kind = type(value)
  if kind == "table" or kind == "function" then
    return kind
  end
  return tostring(value)
end

local function sorted_pairs(t)
  if type(t) ~= "table" then
    lib.fail("pairs: found %s, expected a table", lib.describe(t))
  end
  local keys, i = lib.sorted_keys(t), 0
  return function()
    repeat
      i = i + 1
    until keys[i] == nil or rawget(t, keys[i]) ~= nil
    if keys[i] ~= nil then
      return keys[i], rawget(t, keys[i])
    end
  end
end

local function sorted_next(t, key)
  local keys, i = lib.sorted_keys(t), 1
  while key ~= nil and keys[i] ~= key do
    if keys[i] == nil then
      lib.fail("next: found a key that the table does not have")
    end
    i = i + 1
  end
  i = key == nil and 1 or i + 1
  if keys[i] ~= nil then
    return keys[i], rawget(t, keys[i])
  end
end

local safe_string = copy(string, { dump = true })
local safe_table = copy(table, {})

-- The functions of Lua's C library run without the instruction count: what could run long is bounded here.
local LONGEST, COSTLIEST = 1 << 28, 1e8

function safe_string.rep(s, n, separator)
  local length = #string.rep(s, 1) + #string.rep(separator or "", 1)
  if length == 0 or math.type(n) == nil or n < 1 then
    return string.rep(s, math.type(n) and 0 or n)
  elseif length * n > LONGEST then
    lib.fail("string.rep: the result would have %.0f bytes, expected at most %d", length * n * 1.0, LONGEST)
  end
  return string.rep(s, n, separator)
end

function safe_string.format(format, ...)
  if string.find(string.gsub(format, "%%%%", ""), "%%[-+ #0-9.]*p") then
    lib.fail("string.format: %%p would print an address")
  end
  local arguments = table.pack(...)
  for i = 1, arguments.n do
    arguments[i] = type(arguments[i]) == "table" and "table" or arguments[i]
    arguments[i] = type(arguments[i]) == "function" and "function" or arguments[i]
  end
  return string.format(format, table.unpack(arguments, 1, arguments.n))
end

for _, name in ipairs { "find", "match", "gmatch", "gsub" } do
  safe_string[name] = function(s, pattern, ...)
    local length = #string.rep(s, 1)
    local _, repeats = string.gsub(pattern, "[*+-]", "")
    if (length + 1.0) ^ (repeats + 1) > COSTLIEST then
      lib.fail("string.%s: a pattern with %d repeats on %d bytes could take too long", name, repeats, length)
    end
    return string[name](s, pattern, ...)
  end
end

function safe_table.move(from, first, last, position, to)
  if last - first > LONGEST then
    lib.fail("table.move: %d elements, expected at most %d", last - first, LONGEST)
  end
  return table.move(from, first, last, position, to)
end

-- Methods of strings ("x"):rep(9) go through the same functions.
local meta = getmetatable("")
meta.__index = safe_string
meta.__metatable = false

lib.environment = {
  assert = assert,
  error = error,
  ipairs = ipairs,
  next = sorted_next,
  pairs = sorted_pairs,
  rawequal = rawequal,
  rawget = rawget,
  rawlen = rawlen,
  rawset = rawset,
  select = select,
  tonumber = tonumber,
  tostring = text,
  type = function(value)
    return core.is_tensor(value) and "tensor" or type(value)
  end,
  print = function(...)
    local words = table.pack(...)
    for i = 1, words.n do
      words[i] = text(words[i])
    end
    core.print(table.concat(words, "\t", 1, words.n))
  end,
  string = safe_string,
  table = safe_table,
  math = copy(math, { random = true, randomseed = true }),
  utf8 = copy(utf8, {}),
  _VERSION = _VERSION,
}
lib.environment._G = lib.environment

local absent = {}
for name in ("io os load loadstring loadfile dofile debug coroutine package collectgarbage pcall xpcall "
  .. "setmetatable getmetatable"):gmatch("%a+") do
  absent[name] = true
end

setmetatable(lib.environment, {
  __metatable = false,
  __index = function(_, name)
    if absent[name] then
      lib.fail("`%s` does not exist in model scripts: they reach nothing outside themselves", name)
    end
  end,
})

lib.moec = {}

function lib.environment.require(name)
  if name ~= "moec" then
    lib.fail('require: found %s, expected "moec", the only module there is', lib.describe(name))
  end
  return lib.moec
end
