-- moec.schedule: values that change over the steps. A schedule is a function of the step, counted from 0: from the start
-- of its phase, or for the learning rate from the start of the run. It is evaluated at build for every step.
local core, lib = ...

local schedule = {}
lib.schedule = schedule
lib.moec.schedule = lib.strict(schedule, "moec.schedule")

local function span(what, from, to, steps)
  lib.check_type(what .. ": the first value", from, "number")
  lib.check_type(what .. ": the last value", to, "number")
  lib.check_type(what .. ": the number of steps", steps, "integer")
  lib.at_least(what .. ": the number of steps", steps, 1)
end

-- A schedule is a plain function, which a script may call, too.
local function by_step(value)
  return function(step)
    lib.check_type("the step of a schedule", step, "number")
    return value(step)
  end
end

function schedule.constant(value)
  lib.check_type("schedule.constant", value, "number")
  return function()
    return value
  end
end

-- From `from` at step 0 to `to` at step `steps`, in equal steps; `to` after that.
function schedule.linear(from, to, steps)
  span("schedule.linear", from, to, steps)
  return by_step(function(step)
    return step >= steps and to or from + (to - from) * (step / steps)
  end)
end

-- The same in equal factors: from * (to/from)^(step/steps).
function schedule.exponential(from, to, steps)
  span("schedule.exponential", from, to, steps)
  if not (from > 0 and to > 0) then
    lib.fail("schedule.exponential: from %s to %s, expected positive values", tostring(from), tostring(to))
  end
  return by_step(function(step)
    return step >= steps and to or from * (to / from) ^ (step / steps)
  end)
end

-- ---------------------------------------------------------------- learning rates

-- Warm-up: the update number (from 1) over the warm-up, times the peak; then decay(steps since the warm-up).
local function warmed(o, decay)
  return by_step(function(step)
    if step < o.warmup then
      return o.peak * (step + 1) / o.warmup
    end
    return decay(step - o.warmup)
  end)
end

local function decaying(what, given, shape)
  local o = lib.options(what, given,
    { peak = "number", warmup = "integer?", total = "integer", final = "number?", power = "number?" })
  o.warmup, o.final, o.power = o.warmup or 0, o.final or 0, o.power or 1
  lib.at_least(what .. ": warmup", o.warmup, 0)
  lib.at_least(what .. ": total", o.total, o.warmup + 1)
  return warmed(o, function(step)
    local left = math.max(0, 1 - step / (o.total - o.warmup))
    return o.final + (o.peak - o.final) * shape(left, o)
  end)
end

-- From the peak to `final` (0) as (share of steps left)^power (1).
function schedule.polynomial(given)
  return (decaying("polynomial", given, function(left, o)
    return left ^ o.power
  end))
end

-- From the peak to `final` (0) along half a cosine.
function schedule.cosine(given)
  return (decaying("cosine", given, function(left)
    return 0.5 - 0.5 * math.cos(math.pi * left)
  end))
end

-- peak * sqrt(warmup / update).
function schedule.inverse_sqrt(given)
  local o = lib.options("inverse_sqrt", given, { peak = "number", warmup = "integer" })
  lib.at_least("inverse_sqrt: warmup", o.warmup, 1)
  return warmed(o, function(step)
    return o.peak * math.sqrt(o.warmup / (step + o.warmup + 1))
  end)
end

-- A number, or a function of the step.
function lib.as_schedule(what, value)
  if type(value) == "function" then
    return value
  end
  lib.check_type(what, value, "number")
  return schedule.constant(value)
end
