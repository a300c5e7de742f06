-- The function being built: scopes, names, parameters and random draws. context.current exists only while a forward
-- runs; lib/model.lua makes one per phase and mode.
--
-- A name is scope.module.name; the second module of a kind in a scope gets _2. Module values made outside forward take
-- their names there, and every run of forward goes on counting behind them.
local core, lib = ...

local context = { outer_counts = {} }
lib.context = context

function context.get(what)
  if not context.current then
    lib.fail("%s: tensors exist only inside forward", what)
  end
  return context.current
end

function context.join(path, name)
  return path == "" and name or path .. "." .. name
end

-- The name of the next module of this kind in the current scope, or the given one.
function context.module_path(kind, given)
  local path = context.current and context.current.path or ""
  if given then
    return context.join(path, context.check_name("option `name`", given))
  end
  local counts = context.current and context.current.counts or context.outer_counts
  local key = context.join(path, kind)
  counts[key] = (counts[key] or 0) + 1
  return counts[key] == 1 and key or key .. "_" .. counts[key]
end

function context.check_name(what, name)
  if type(name) ~= "string" or #name > 100 or not name:find("^[%w_][%w_.-]*$") then
    lib.fail("%s: found %s, expected a name of letters, digits, _ - and .", what, lib.describe(name))
  end
  return name
end

-- Calls a function with `path` as the current scope.
function context.within(path, call, ...)
  local c = context.current
  local outer = c.path
  c.path = path
  local results = table.pack(core.call(nil, call, ...))
  c.path = outer
  return table.unpack(results, 1, results.n)
end

function lib.moec.scope(name, call, ...)
  local c = context.get("moec.scope")
  context.check_name("moec.scope", name)
  lib.check_type("moec.scope: the second argument", call, "function")
  return context.within(context.join(c.path, name), call, ...)
end

-- ---------------------------------------------------------------- parameters

local function shape_numbers(shape)
  local numbers = {}
  for i, dim in ipairs(shape) do
    numbers[i] = core.number(dim)
  end
  return numbers
end

local function shape_text(numbers)
  return "[" .. table.concat(numbers, ",") .. "]"
end
context.shape_text = shape_text

-- The modes of a phase must agree: the first (train) makes the list, the others are checked against it.
local function register(c, full, shape, init, expert, is_state)
  local known, numbers = c.phase.params[full], shape_numbers(shape)
  if c.collects then
    core.add_param(c.table, full, shape, init.text)
    known = { name = full, shape = numbers, init = init, line = core.line(), expert = expert, is_state = is_state }
    c.phase.params[full] = known
    c.phase.order[#c.phase.order + 1] = known
  elseif not known then
    lib.fail("parameter %s is created in mode %s of phase %s, but not in mode train", full, c.mode, c.phase.name)
  elseif shape_text(known.shape) ~= shape_text(numbers) then
    lib.fail("parameter %s is %s in mode %s of phase %s, but %s in mode train", full, shape_text(numbers), c.mode,
      c.phase.name, shape_text(known.shape))
  end
end

-- The parameter `name` of the module at `path`. `owner` (a module value) may ask again; anyone else is an error.
-- `expert`: its first dim counts experts. `is_state`: it does not learn.
function context.param(path, name, shape, init, owner, expert, is_state)
  local c = context.current
  local full = context.join(path, name)
  local declared = c.declared[full]
  if declared and (not owner or declared.owner ~= owner) then
    lib.fail("parameter %s exists already, made in line %d: give another name or scope", full, declared.line)
  elseif not declared then
    register(c, full, shape, init, expert, is_state)
    c.declared[full] = { owner = owner, line = core.line() }
  end
  return core.parameter(full)
end

local function check_tensor_arguments(what, name, shape, init)
  context.check_name(what, name)
  lib.check_type(what .. ": the shape", shape, "table")
  lib.check_type(what .. ": the third argument", init, "init")
  if #shape == 0 then
    lib.fail("%s: the shape of %s is empty, expected at least one dim", what, name)
  end
  for _, dim in ipairs(shape) do
    lib.check_type(what .. ": a dim of " .. name, dim, "integer")
    lib.at_least(what .. ": a dim of " .. name, dim, 1)
  end
end

function lib.moec.param(name, shape, init)
  local c = context.get("moec.param")
  check_tensor_arguments("moec.param", name, shape, init)
  return context.param(c.path, name, shape, init)
end

-- ---------------------------------------------------------------- state

-- What training changes by another rule than the optimiser's: a parameter without gradient, decay and moments. s.value
-- is the tensor; s:next(value) says what it is after the update: with accumulation, the mean over the micro-batches.
-- In evaluation and sampling next does nothing, so that a gate reads the same in every mode.
local function next_value(s, value)
  local c = context.get("a state's next")
  lib.check_type("the next value of " .. s.name, value, "tensor")
  if not core.same_type(s.value, value) then
    lib.fail("the next value of %s is %s, expected %s", s.name, core.type(value), core.type(s.value))
  elseif not c.training then
    return
  elseif c.next_values[s.name] then
    lib.fail("state %s is given a next value twice", s.name)
  end
  c.next_values[s.name] = true
  c.phase.params[s.name].advances = true
  core.result("next @" .. s.name, lib.op.stop(value))
end

function context.state(path, name, shape, init, owner)
  local value = context.param(path, name, shape, init, owner, false, true)
  return lib.strict({ kind = "state", name = context.join(path, name), value = value, next = next_value }, "a state")
end

function lib.moec.state(name, shape, init)
  local c = context.get("moec.state")
  check_tensor_arguments("moec.state", name, shape, init)
  return context.state(c.path, name, shape, init)
end

-- Every parameter of train must have been made in this mode, too.
function context.check_complete(c)
  for _, known in ipairs(c.phase.order) do
    if not c.declared[known.name] then
      lib.fail_at(known.line, "parameter %s is created in mode train of phase %s, but not in mode %s", known.name,
        c.phase.name, c.mode)
    end
  end
end

-- ---------------------------------------------------------------- random draws

-- Uniform numbers in (0,1): one row per token, or per expert-token pair inside an expert. Every draw of a scope has its
-- own stream, named by scope and ordinal, so that it does not depend on what else the model draws.
function context.uniform(what, columns, index)
  local c = context.get(what)
  if not c.training then
    lib.fail("%s: random numbers are drawn in training only: ask `training` first", what)
  end
  c.draws[c.path] = (c.draws[c.path] or 0) + 1
  local tag = core.tag(c.path .. "#" .. c.draws[c.path])
  local u = lib.op.uniform(index or c.row_index(), c.step, { columns = columns, tag = tag })
  return core.rename(u, "u")
end
