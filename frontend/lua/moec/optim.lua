-- moec.optim: the optimiser and how it updates one table. Adam with decoupled weight decay:
--   m = beta1 m + (1-beta1) g,  v = beta2 v + (1-beta2) g^2,
--   p = p - lr (m / (1-beta1^t) / (sqrt(v / (1-beta2^t)) + eps) + decay p)
-- over the flat segments of a table; t is the segment's own count of updates. Clipping scales the whole gradient.
local core, lib = ...
local op = lib.op

local optim = {}
lib.optim = optim
lib.moec.optim = lib.strict(optim, "moec.optim")
for _, name in ipairs { "constant", "linear", "exponential", "polynomial", "cosine", "inverse_sqrt" } do
  optim[name] = lib.schedule[name]
end

local function in_unit(what, value)
  lib.check_type(what, value, "number")
  if not (value >= 0 and value < 1) then
    lib.fail("%s: found %s, expected a number in [0,1)", what, tostring(value))
  end
  return value
end

local adam_options = {
  lr = "any",
  betas = "table?",
  eps = "number?",
  weight_decay = "number?",
  no_decay = "table?",
  clip = "number?",
}

function optim.adam(given)
  local o = lib.options("optim.adam", given, adam_options)
  o.kind, o.line = "optimizer", core.line()
  o.lr = lib.as_schedule("optim.adam: lr", o.lr)
  local betas = o.betas or { 0.9, 0.999 }
  o.beta1, o.beta2 = in_unit("optim.adam: the first beta", betas[1]), in_unit("optim.adam: the second beta", betas[2])
  o.eps, o.weight_decay, o.clip = o.eps or 1e-8, o.weight_decay or 0, o.clip or 0
  lib.at_least("optim.adam: eps", o.eps, 0)
  lib.at_least("optim.adam: weight_decay", o.weight_decay, 0)
  lib.at_least("optim.adam: clip", o.clip, 0)
  o.no_decay = lib.patterns("optim.adam: no_decay", o.no_decay or {})
  o.text = string.format("adam {beta1=%.9g, beta2=%.9g, eps=%.9g, weight_decay=%.9g, clip=%.9g}", o.beta1, o.beta2,
    o.eps, o.weight_decay, o.clip)
  return o
end

function lib.patterns(what, list)
  for _, pattern in ipairs(list) do
    lib.check_type(what .. ": a pattern", pattern, "string")
  end
  if #list ~= #lib.sorted_keys(list) then
    lib.fail("%s: expected a list of patterns", what)
  end
  return list
end

-- ---------------------------------------------------------------- @TABLE.update

local ROW <const> = 512 -- elements: segments are padded to rows of it

-- 1 - beta^t, exact for small t.
local function correction(beta, t)
  if beta == 0 then
    return op.const(1)
  end
  return -op.expm1(t * math.log(beta))
end

-- The norm of all gradients, f32[].
local function gradient_norm(segments)
  local total
  for _, s in ipairs(segments) do
    local sum = op.sum(op.sum(s.g * s.g, -1), 0)
    total = total and total + sum or sum
  end
  return op.reshape(op.sqrt(total), { shape = {} })
end

local function update_segment(o, s, lr, scale)
  local g = scale and s.g * scale or s.g
  local m = s.m * o.beta1 + g * (1 - o.beta1)
  local v = s.v * o.beta2 + g * g * (1 - o.beta2)
  local step = (m / correction(o.beta1, s.t)) / (op.sqrt(v / correction(o.beta2, s.t)) + o.eps)
  if s.decay > 0 then
    step = step + s.p * s.decay
  end
  return s.p - step * lr, m, v
end

-- States become what the training function said, in the mean over its runs.
local function update_states(records, accumulate)
  for _, record in ipairs(records) do
    if record.advances then
      local sum = core.parameter(record.name, nil, "next")
      core.result("param @" .. record.name, accumulate == 1 and sum or sum * (1 / accumulate))
    end
  end
end

-- Builds @NAME.update; segments: a list of { size, decay }; records: the table's parameters.
function lib.build_update(o, name, segments, records, accumulate)
  core.begin(name .. ".update", name)
  local lr = core.argument("lr", "f32", {})
  for i, s in ipairs(segments) do
    s.t = core.argument("t" .. i - 1, "f32", {})
    for _, arena in ipairs { "p", "g", "m", "v" } do
      local flat = core.argument(arena .. i - 1, "f32", { s.size })
      s[arena] = op.reshape(flat, { s.size // ROW, ROW })
    end
  end
  local norm = #segments > 0 and gradient_norm(segments) or op.const(0)
  local scale = o.clip > 0 and op.minimum(o.clip / (norm + 1e-6), 1) or nil
  for i, s in ipairs(segments) do
    local p, m, v = update_segment(o, s, lr, scale)
    core.result("p" .. i - 1, op.reshape(p, { s.size }))
    core.result("m" .. i - 1, op.reshape(m, { s.size }))
    core.result("v" .. i - 1, op.reshape(v, { s.size }))
  end
  update_states(records, accumulate)
  core.result("grad_norm", norm)
  core.finish()
end
