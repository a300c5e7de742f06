-- moec.phase: phases of training, and how parameters pass from one to the next.
local core, lib = ...

local phase = {}
lib.phase = phase
lib.moec.phase = lib.strict(phase, "moec.phase")

-- One expert becomes many. mask: each weight of a matrix is set to 0 with this probability, for every expert on its own;
-- noise: normal noise of this standard deviation is added to it instead; neither: plain copies. Biases and other vectors
-- are copied. moments = "copy" keeps Adam's moments and counts (m is 0 where a weight was masked), "zero" restarts both.
function phase.diversify(given)
  local o = lib.options("phase.diversify", given or {}, { mask = "number?", noise = "number?", moments = "string?" })
  if o.mask and o.noise then
    lib.fail("phase.diversify: give mask or noise, not both")
  elseif o.mask and not (o.mask >= 0 and o.mask < 1) then
    lib.fail("phase.diversify: mask is %s, expected a probability in [0,1)", tostring(o.mask))
  end
  lib.at_least("phase.diversify: noise", o.noise or 0, 0)
  o.moments = lib.choice("phase.diversify: moments", o.moments or "copy", { "copy", "zero" })
  o.kind = "enter"
  return o
end

local evomoe_options = {
  shared = "integer",
  anneal = "integer",
  dense = "integer?",
  top1 = "integer?",
  tau = "table",
  curve = "string?",
  gate = "any",
  mask = "number?",
  noise = "number?",
  moments = "string?",
}

local function annealing(o)
  local from, to = o.tau[1], o.tau[2]
  lib.check_type("phase.evomoe: the first tau", from, "number")
  lib.check_type("phase.evomoe: the last tau", to, "number")
  if not (from > 0 and to > 0) then
    lib.fail("phase.evomoe: tau goes from %s to %s, expected positive numbers", tostring(from), tostring(to))
  end
  local curve = lib.choice("phase.evomoe: curve", o.curve or "linear", { "linear", "exponential" })
  return lib.schedule[curve](from, to, o.anneal)
end

-- StableMoE: `first` steps in which the gate's router is distilled; then it is frozen and decides.
function phase.stable(given)
  local o = lib.options("phase.stable", given, { first = "integer", second = "integer?", gate = "any" })
  lib.at_least("phase.stable: first", o.first, 1)
  if type(o.gate) ~= "table" or not lib.is_gate(o.gate) or not rawget(o.gate, "second_stage") then
    lib.fail("phase.stable: option `gate`: found %s, expected gate.stable {...}", lib.describe(o.gate))
  end
  return {
    { name = "distill", steps = o.first, gate = o.gate },
    { name = "frozen", steps = o.second, gate = o.gate.second_stage(), freeze = { "*.router.*" } },
  }
end

-- EvoMoE: `shared` steps with one expert and no gate; then it is diversified and the gate is dense for `dense` steps
-- (default: anneal) while tau goes from tau[1] to tau[2] in `anneal` steps of the gate's life; then the same gate is
-- hard. shared = 0 starts with many experts; dense = 0 goes to Top-1 at once.
function phase.evomoe(given)
  local o = lib.options("phase.evomoe", given, evomoe_options)
  if not lib.is_gate(o.gate) then
    lib.fail("phase.evomoe: option `gate`: found %s, expected a gate", lib.describe(o.gate))
  end
  lib.at_least("phase.evomoe: anneal", o.anneal, 1)
  o.dense = lib.at_least("phase.evomoe: dense", o.dense or o.anneal, 0)
  lib.at_least("phase.evomoe: shared", o.shared, 0)
  local tau = annealing(o)
  local enter = phase.diversify { mask = o.mask or (not o.noise and 0.1 or nil), noise = o.noise, moments = o.moments }
  local list = {}
  if o.shared > 0 then
    list[1] = { name = "shared", steps = o.shared, experts = 1 }
  end
  if o.dense > 0 then
    list[#list + 1] = { name = "dense", steps = o.dense, gate = o.gate, values = { tau = tau } }
  end
  list[#list + 1] = {
    name = "top1",
    steps = o.top1,
    gate = lib.hard_gate(o.gate),
    values = {
      tau = function(step)
        return (tau(step + o.dense))
      end,
    },
  }
  if o.shared > 0 then
    list[2].enter = enter
  end
  return list
end
