-- moec.config: the script's configuration with -D overrides, each of the type of its default; sizes are named sets of
-- overrides. An unknown key is an error that names the nearest.
local core, lib = ...

lib.config_read = false

-- -D values are text: read as the type of the default.
local function convert(what, default, text)
  local value
  if math.type(default) == "integer" then
    value = math.tointeger(tonumber(text))
  elseif type(default) == "number" then
    value = tonumber(text)
    value = value and value * 1.0
    if value and (value ~= value or value == math.huge or value == -math.huge) then
      value = nil
    end
  elseif type(default) == "boolean" then
    value = ({ ["true"] = true, ["false"] = false })[text]
  elseif type(default) == "string" then
    value = text
  end
  if value == nil then
    local expected = math.type(default) == "integer" and "whole number" or type(default)
    lib.fail("%s: found %s, expected a %s like the default %s", what, lib.describe(text), expected,
      lib.describe(default))
  end
  return value
end

local function unknown(what, key, known)
  local keys = {}
  for _, name in ipairs(lib.sorted_keys(known)) do
    keys[#keys + 1] = tostring(name)
  end
  local near = lib.nearest(key, keys)
  lib.fail("%s: unknown key `%s`, %s", what, key,
    near and ("the nearest is `" .. near .. "`") or #keys > 0 and ("the keys are " .. table.concat(keys, ", "))
      or "there are no keys")
end

-- Puts the values of `from` over those of `into`; both may be nested.
local function overlay(what, into, from)
  for _, key in ipairs(lib.sorted_keys(from)) do
    local old, new = into[key], from[key]
    if old == nil then
      unknown(what, tostring(key), into)
    elseif type(old) == "table" and type(new) == "table" then
      overlay(what .. "." .. key, old, new)
    elseif type(old) ~= type(new) or math.type(old) == "integer" and math.type(new) == "float" then
      lib.fail("%s: %s is %s, expected a %s like the default %s", what, key, lib.describe(new),
        math.type(old) == "integer" and "whole number" or type(old), lib.describe(old))
    else
      into[key] = new
    end
  end
end

local function deep_copy(t)
  local result = {}
  for key, value in next, t do
    if type(value) == "table" then
      value = deep_copy(value)
    elseif type(value) ~= "number" and type(value) ~= "string" and type(value) ~= "boolean" then
      lib.fail("moec.config: key `%s` is %s, expected a number, string, boolean or table", tostring(key),
        lib.describe(value))
    end
    result[key] = value
  end
  return result
end

-- "a.b=3": sets the nested key a.b.
local function define(config, text)
  local path, value = text:match("^([^=]+)=(.*)$")
  local what = "-D " .. text
  if not path then
    lib.fail("%s: expected key=value", what)
  end
  local holder, rest = config, path
  while true do
    local head, tail = rest:match("^([^.]+)%.(.+)$")
    local key = head or rest
    key = holder[key] == nil and math.tointeger(tonumber(key)) or key
    if holder[key] == nil then
      unknown(what, tostring(key), holder)
    elseif not head then
      holder[key] = convert(what, holder[key], value)
      return
    elseif type(holder[key]) ~= "table" then
      unknown(what, rest, { [key] = true })
    end
    holder, rest = holder[key], tail
  end
end

-- Missing keys are errors at every level.
local function make_strict(t, what)
  for key, value in next, t do
    if type(value) == "table" then
      make_strict(value, what .. "." .. key)
    end
  end
  return lib.strict(t, what)
end

function lib.moec.config(defaults)
  if type(defaults) ~= "table" then
    lib.fail("moec.config: found %s, expected a table of keys with their defaults", lib.describe(defaults))
  elseif lib.config_read then
    lib.fail("moec.config is called twice; -D could mean either")
  end
  lib.config_read = true
  local config = deep_copy(defaults)
  local sizes = config.sizes or {}
  config.sizes = nil
  for _, name in ipairs(lib.sorted_keys(sizes)) do -- a mistake in a size shows even when it is not chosen
    overlay("size " .. name, deep_copy(config), sizes[name])
  end
  local rest = {}
  for _, text in ipairs(core.defines()) do
    local name = text:match("^size=(.*)$")
    if name and config.size == nil then
      if not sizes[name] then
        unknown("-D size=" .. name, name, sizes)
      end
      overlay("size " .. name, config, sizes[name])
    else
      rest[#rest + 1] = text
    end
  end
  for _, text in ipairs(rest) do
    define(config, text)
  end
  return make_strict(config, "the configuration")
end

-- ---------------------------------------------------------------- JSON

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r" }

local function json_string(text)
  return '"' .. text:gsub('[%c"\\]', function(c)
    return escapes[c] or string.format("\\u%04x", c:byte())
  end) .. '"'
end

local function json_number(value)
  if math.type(value) == "integer" then
    return tostring(value)
  end
  local short = string.format("%.15g", value)
  return tonumber(short) == value and short or string.format("%.17g", value)
end

function lib.json(value)
  if type(value) == "table" then
    local parts, list = {}, rawlen(value) > 0
    for _, key in ipairs(lib.sorted_keys(value)) do
      parts[#parts + 1] = (list and "" or json_string(tostring(key)) .. ":") .. lib.json(value[key])
    end
    return (list and "[" or "{") .. table.concat(parts, ",") .. (list and "]" or "}")
  elseif type(value) == "number" then
    return (value == value and math.abs(value) ~= math.huge) and json_number(value) or "null"
  elseif type(value) == "boolean" then
    return tostring(value)
  end
  return json_string(value)
end
