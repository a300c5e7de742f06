-- moec.compare: what a specification of a comparison returns. Everything is checked here, so that the command finds only
-- whole specifications; the result goes to it as JSON, with every value of the configuration as the text that -D takes.
local core, lib = ...

local accepts_value = { number = true, string = true, boolean = true }

-- A value as -D takes it.
local function define_text(what, value)
  if not accepts_value[type(value)] or value ~= value or value == math.huge or value == -math.huge then
    lib.fail("%s: found %s, expected a number, text, true or false", what, lib.describe(value))
  end
  return type(value) == "string" and value or lib.json(value)
end

-- { key = value } as a list of { key =, value = } in the order of the keys; `convert(what, value)` makes the value.
local function pairs_of(what, given, convert)
  if type(given) ~= "table" then
    lib.fail("%s: found %s, expected a table", what, lib.describe(given))
  end
  local result = {}
  for _, key in ipairs(lib.sorted_keys(given)) do
    if type(key) ~= "string" then
      lib.fail("%s: found the key %s, expected the name of a configuration key", what, tostring(key))
    end
    result[#result + 1] = { key = key, value = convert(what .. "." .. key, given[key]) }
  end
  return result
end

-- A list that is not empty and in which nothing stands twice.
local function list_of(what, given, convert)
  if type(given) ~= "table" or rawlen(given) == 0 or #lib.sorted_keys(given) ~= rawlen(given) then
    lib.fail("%s: found %s, expected a list with at least one entry", what, lib.describe(given))
  end
  local result, seen = {}, {}
  for i, value in ipairs(given) do
    result[i] = convert(string.format("%s, entry %d", what, i), value)
    if type(result[i]) ~= "table" then
      if seen[result[i]] then
        lib.fail("%s: %s stands there twice", what, tostring(result[i]))
      end
      seen[result[i]] = true
    end
  end
  return result
end

local function values_of(what, given)
  return list_of(what, given, define_text)
end

-- A share of the steps or between two forecasts.
local function share_of(what, value)
  lib.check_type(what, value, "number")
  if not (value >= 0 and value <= 1) then
    lib.fail("%s: found %s, expected a share from 0 to 1", what, tostring(value))
  end
  return value + 0.0
end

local function whole_of(what, value, least)
  lib.check_type(what, value, "integer")
  return lib.at_least(what, math.tointeger(value), least)
end

-- Names become directories.
local function name_of(what, name)
  if not name:match("^[%w_][%w_.+-]*$") then
    lib.fail("%s: found %s, expected letters, digits, _, -, + and . for a directory's name", what, lib.describe(name))
  end
  return name
end

-- A key is decided by one of them.
local function check_search(spec)
  local key = spec.search and spec.search.key
  if key == "steps" then
    lib.fail("moec.compare: search.key: the budget decides the number of steps")
  end
  for _, entry in ipairs(spec.sweep) do
    if entry.key == key then
      lib.fail("moec.compare: search.key: `%s` is swept as well", key)
    end
  end
end

-- Nothing but the budget sets the number of steps.
local function check_free(what, given)
  for _, name in ipairs { "config", "shares", "sweep" } do
    for _, entry in ipairs(given[name] or {}) do
      if entry.key == "steps" then
        lib.fail("%s: %s.steps: the budget decides the number of steps", what, name)
      end
    end
  end
end

local function run_of(what, given)
  local run = lib.options(what, given, { name = "string", model = "string", config = "table?", shares = "table?",
    density = "table?" })
  what = "run " .. name_of(what .. ": option `name`", run.name)
  run.config = pairs_of(what .. ": config", run.config or {}, define_text)
  run.shares = pairs_of(what .. ": shares", run.shares or {}, share_of)
  run.density = pairs_of(what .. ": density", run.density or {}, share_of)
  check_free(what, run)
  return run
end

local function budget_of(given)
  local budget = lib.options("moec.compare: budget", given, { steps = "integer?", flops = "number?" })
  if (budget.steps == nil) == (budget.flops == nil) then
    lib.fail("moec.compare: budget: expected either steps or flops")
  elseif budget.steps then
    lib.at_least("moec.compare: budget.steps", budget.steps, 1)
  elseif not (budget.flops > 0 and budget.flops < math.huge) then
    lib.fail("moec.compare: budget.flops: found %s, expected a number above 0", tostring(budget.flops))
  end
  return budget
end

local function search_of(given)
  local what = "moec.compare: search"
  local search = lib.options(what, given, { key = "string", values = "table", budget = "number?" })
  search.values = values_of(what .. ".values", search.values)
  search.budget = share_of(what .. ".budget", search.budget or 0.25)
  if search.budget == 0 then
    lib.fail("%s.budget: found 0, expected a share above 0", what)
  end
  return search
end

local function check_names(spec)
  local names = {}
  for _, run in ipairs(spec.runs) do
    if names[run.name] then
      lib.fail("moec.compare: two runs are named %s", run.name)
    end
    names[run.name] = true
  end
  spec.baseline = spec.baseline or spec.runs[1].name
  if not names[spec.baseline] then
    local near = lib.nearest(spec.baseline, lib.sorted_keys(names))
    lib.fail("moec.compare: baseline: there is no run `%s`%s", spec.baseline,
      near and (", the nearest is `" .. near .. "`") or "")
  end
end

local kinds = {
  data = "string?", runs = "table", seeds = "table?", budget = "table", baseline = "string?", config = "table?",
  shares = "table?", sweep = "table?", search = "table?", eval_every = "integer?", checkpoint_every = "integer?",
  probe_every = "integer?", parallel = "integer?",
}

function lib.moec.compare(given)
  local spec = lib.options("moec.compare", given, kinds)
  spec.config = pairs_of("moec.compare: config", spec.config or {}, define_text)
  spec.shares = pairs_of("moec.compare: shares", spec.shares or {}, share_of)
  spec.budget = budget_of(spec.budget)
  spec.runs = list_of("moec.compare: runs", spec.runs, run_of)
  spec.seeds = list_of("moec.compare: seeds", spec.seeds or { 1 }, function(what, seed)
    return whole_of(what, seed, 0)
  end)
  spec.sweep = pairs_of("moec.compare: sweep", spec.sweep or {}, values_of)
  spec.search = spec.search and search_of(spec.search)
  check_free("moec.compare", spec)
  check_search(spec)
  spec.eval_every = whole_of("moec.compare: eval_every", spec.eval_every or 100, 1)
  spec.checkpoint_every = whole_of("moec.compare: checkpoint_every", spec.checkpoint_every or 200, 1)
  spec.probe_every = whole_of("moec.compare: probe_every", spec.probe_every or 0, 0)
  spec.parallel = whole_of("moec.compare: parallel", spec.parallel or 1, 1)
  check_names(spec)
  return { kind = "compare", spec = spec }
end

-- The specification as JSON, from what the script returned.
function lib.read_compare(result)
  if type(result) ~= "table" or rawget(result, "kind") ~= "compare" then
    lib.fail("the script returns %s, expected moec.compare {...}",
      type(result) == "table" and rawget(result, "kind") == "model" and "a model" or lib.describe(result))
  end
  return lib.json(result.spec)
end
