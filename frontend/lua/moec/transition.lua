-- What happens between phases: @init makes the first table, @A_to_B maps a table to the next one. Per parameter: copied
-- with its moments, grown from one expert to many, or fresh; what the new phase does not have is dropped.
local core, lib = ...
local op = lib.op

function lib.build_init(phase)
  core.begin("init", phase.table)
  for _, record in ipairs(phase.order) do
    core.call(record.line, function()
      core.result("param @" .. record.name, record.init.draw(record.name, core.param_dims(phase.table, record.name)))
    end)
  end
  core.finish()
end

-- How `record` of the new phase comes from the old one: "copy", "grow" or "fresh".
local function origin(record, old, new)
  local before = old.params[record.name]
  if not before then
    return "fresh"
  end
  local from, to = lib.context.shape_text(before.shape), lib.context.shape_text(record.shape)
  if from == to then
    return "copy"
  end
  local grown = table.move(record.shape, 1, #record.shape, 1, {})
  grown[1] = 1
  if not record.expert or lib.context.shape_text(grown) ~= from then
    lib.fail_at(record.line, "parameter %s is %s in phase %s and %s in phase %s: only one expert can become many",
      record.name, from, old.name, to, new.name)
  elseif not new.enter then
    lib.fail_at(record.line, "parameter %s grows from %s to %s in phase %s: give it `enter = phase.diversify {...}`",
      record.name, from, to, new.name)
  end
  return "grow"
end

-- Fills in record.origin and record.birth, the number of the phase with which its Adam count starts. A model with one
-- expert everywhere goes through the phases of its larger ones: there is nothing to grow.
function lib.trace_origins(old, new, number)
  local grown, one, many = false, false, false
  for _, record in ipairs(new.order) do
    record.origin = old and origin(record, old, new) or "fresh"
    grown = grown or record.origin == "grow"
    one = one or record.expert and record.shape[1] == 1
    many = many or record.expert and record.shape[1] > 1
    local before = old and old.params[record.name]
    local restarts = record.origin == "grow" and new.enter.moments == "zero"
    record.birth = before and not before.frozen and not restarts and before.birth or number
  end
  if new.enter and not grown and (many or not one) then
    lib.fail("phase %s has `enter`, but no expert parameter grows in it", new.name)
  end
end

local function zeros(dims)
  return op.broadcast(op.const(0), dims)
end

-- One expert's tensor for each of many: [1,...] -> [E,...].
local function repeated(x, dims)
  return op.broadcast(x, dims)
end

-- The grown value and its kept mask (nil: nothing masked). Matrices are diversified, vectors copied.
local function diversify(enter, record, value, dims, step)
  local grown = repeated(value, dims)
  if #dims < 3 then
    return grown
  end
  local stream = record.name .. "#diversify"
  if enter.mask and enter.mask > 0 then
    local u = op.reshape(lib.parameter_uniform(dims, step, stream), dims)
    local kept = op.greater(u, enter.mask)
    return op.select(kept, grown, 0), kept
  elseif enter.noise and enter.noise > 0 then
    local noise = op.reshape(lib.parameter_normal(dims, step, stream), dims)
    return grown + noise * enter.noise
  end
  return grown
end

-- value, m, v of one parameter of the new table; m and v are nil where it has none.
local function enter_parameter(record, old, new, step)
  local dims = core.param_dims(new.table, record.name)
  if record.origin == "fresh" then
    return record.init.draw(record.name, dims, old), zeros(dims), zeros(dims)
  end
  local value = core.parameter(record.name, old.table)
  local kept
  if record.origin == "grow" then
    value, kept = diversify(new.enter, record, value, dims, step)
  end
  local before = old.params[record.name]
  if before.frozen or record.birth ~= before.birth then
    return value, zeros(dims), zeros(dims)
  end
  local m, v = core.parameter(record.name, old.table, "m"), core.parameter(record.name, old.table, "v")
  if record.origin == "grow" then
    m, v = repeated(m, dims), repeated(v, dims)
    m = kept and op.select(kept, m, 0) or m
  end
  return value, m, v
end

-- Builds the transition and returns its name.
function lib.build_transition(old, new)
  local name = old.table .. "_to_" .. new.table
  core.begin(name, new.table)
  local step = core.argument("step", "i32", {})
  for _, record in ipairs(new.order) do
    core.call(record.line, function()
      local value, m, v = enter_parameter(record, old, new, step)
      core.result("param @" .. record.name, value)
      if not record.frozen then
        core.result("m @" .. record.name, m)
        core.result("v @" .. record.name, v)
      end
    end)
  end
  core.finish()
  return name
end
