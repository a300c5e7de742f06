-- Checks of what a script gives: every table of options is checked against a list of names and types, and an unknown
-- name is an error that names the nearest known one. Every other file of the library loads after this one.
local core, lib = ...

function lib.fail(text, ...)
  core.fail(string.format(text, ...))
end

function lib.fail_at(line, text, ...)
  core.fail(string.format(text, ...), line)
end

-- Numbers before strings, each in order: the one order in which the library and scripts walk a table.
function lib.sorted_keys(t)
  local keys = {}
  for key in next, t do
    if math.type(key) == nil and type(key) ~= "string" then
      lib.fail("a table with a %s as key has no fixed order, expected strings and numbers", type(key))
    end
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) ~= type(b) then
      return type(a) == "number"
    end
    return a < b
  end)
  return keys
end

function lib.is_tensor(value)
  return core.is_tensor(value)
end

-- What was found, for a message: never an address.
function lib.describe(value)
  if value == nil then
    return "nothing"
  elseif core.is_tensor(value) then
    return tostring(value)
  elseif type(value) == "string" then
    return (string.format("%q", value:sub(1, 40)):gsub("\n", "n"))
  elseif type(value) == "number" or type(value) == "boolean" then
    return tostring(value)
  end
  return "a " .. type(value)
end

function lib.nearest(word, words)
  return core.nearest(tostring(word), words)
end

-- A table whose missing fields are errors.
function lib.strict(t, what)
  return setmetatable(t, {
    __metatable = false,
    __index = function(self, key)
      local near = lib.nearest(key, lib.sorted_keys(self))
      lib.fail("%s has no `%s`%s", what, tostring(key), near and (", the nearest is `" .. near .. "`") or "")
    end,
  })
end

local accepts = {
  integer = function(value)
    return math.type(value) ~= nil and math.tointeger(value) ~= nil
  end,
  number = function(value)
    return math.type(value) ~= nil
  end,
  boolean = function(value)
    return type(value) == "boolean"
  end,
  string = function(value)
    return type(value) == "string"
  end,
  ["function"] = function(value)
    return type(value) == "function"
  end,
  table = function(value)
    return type(value) == "table"
  end,
  tensor = core.is_tensor,
  any = function()
    return true
  end,
}

-- The library's own kinds of values are tables with a field `kind`.
local function has_kind(value, kind)
  return type(value) == "table" and rawget(value, "kind") == kind
end

local article = {
  integer = "a whole number",
  init = "an initialisation (moec.init)",
  optimizer = "an optimizer (moec.optim)",
  enter = "a transition (moec.phase)",
  gate_record = "what nn.moe gives a gate beside x",
}

function lib.check_type(what, value, kind)
  local accept = accepts[kind]
  if accept and accept(value) or not accept and has_kind(value, kind) then
    return
  end
  lib.fail("%s: found %s, expected %s", what, lib.describe(value), article[kind] or ("a " .. kind))
end

-- `spec` maps a name to a type, with ? behind it where the option may be left out. Returns a copy of `given` in which
-- whole numbers are integers.
function lib.options(what, given, spec)
  if type(given) ~= "table" then
    lib.fail("%s: found %s, expected a table of options", what, lib.describe(given))
  end
  for _, key in ipairs(lib.sorted_keys(given)) do
    if not spec[key] then
      local near = lib.nearest(key, lib.sorted_keys(spec))
      lib.fail("%s: unknown option `%s`, expected %s", what, tostring(key),
        near and ("`" .. near .. "`") or ("one of " .. table.concat(lib.sorted_keys(spec), ", ")))
    end
  end
  local result = {}
  for _, key in ipairs(lib.sorted_keys(spec)) do
    local kind, optional = spec[key]:match("^([%a_]+)(%??)$")
    local value = rawget(given, key)
    if value == nil and optional == "" then
      lib.fail("%s: option `%s` is missing", what, key)
    elseif value ~= nil then
      lib.check_type(what .. ": option `" .. key .. "`", value, kind)
      result[key] = kind == "integer" and math.tointeger(value) or value
    end
  end
  return result
end

-- One of the given words.
function lib.choice(what, value, words)
  for _, word in ipairs(words) do
    if value == word then
      return value
    end
  end
  lib.fail('%s: found %s, expected "%s"', what, lib.describe(value), table.concat(words, '" or "'))
end

function lib.at_least(what, value, least)
  if not (value >= least) then
    lib.fail("%s: found %s, expected at least %s", what, tostring(value), tostring(least))
  end
  return value
end

function lib.positive(what, value)
  if not (value > 0) then
    lib.fail("%s is %s, expected a positive number", what, tostring(value))
  end
  return value
end

-- A pattern of names: `*` stands for any characters, everything else for itself.
function lib.matches(name, pattern)
  return name:match("^" .. pattern:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$") ~= nil
end

function lib.matches_any(name, patterns)
  for _, pattern in ipairs(patterns) do
    if lib.matches(name, pattern) then
      return true
    end
  end
  return false
end
