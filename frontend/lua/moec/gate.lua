-- moec.gate: what gates share, and the dense-to-sparse gate. A gate is a function gate(x, g) of ops that returns the
-- weight and the mask of every expert for every token, [N,E], and a table of bounds (k, rows) and losses. The built-in
-- ones are tables with `apply`; those that train densely also have `hard`, the form for the Top-1 phase, and evaluate
-- with Top-1. gate_top.lua, gate_select.lua and gate_assign.lua hold the others.
local core, lib = ...
local op, context = lib.op, lib.context

local gate = {}
lib.gate = gate
lib.moec.gate = lib.strict(gate, "moec.gate")

local Gate = {}
Gate.__metatable = false

local function check_record(what, g)
  lib.check_type(what, g, "gate_record")
end

function Gate:__call(x, g)
  local what = "gate." .. self.name
  context.get(what)
  lib.need_rows(what, x)
  check_record(what .. ": the second argument", g)
  return self.apply(self, x, g)
end

local function make(name, options, apply, extra)
  local self = setmetatable({ kind = "gate", name = name, options = options, apply = apply }, Gate)
  for key, value in next, extra or {} do
    self[key] = value
  end
  return self
end
lib.make_gate = make

-- z = x w^T, the scores; w: [E,D], no bias.
local function scores(self, x, g)
  local w = context.param(context.current.path, "w", { g.expert_dim, core.dim(x, -1) },
    self.options.init or lib.default_weight, self)
  return core.rename(op.matmul(x, w, { tb = true }), "z")
end
lib.gate_scores = scores

-- x where tokens are live, else 0: what dead tokens hold, even NaN, stops here.
local function live_rows(x)
  return op.select(context.current.live_column(), x, 0)
end
lib.live_rows = live_rows

-- The mean over live tokens of x[N,1].
function lib.live_mean(x)
  return op.sum(live_rows(x), 0) / context.current.live_count()
end

-- E * sum over experts of f * P: f the share of live tokens whose mask selects the expert, P the mean of p over live
-- tokens (EvoMoE Eq. 10 without its alpha; Switch Eq. 4). The mask is constant for differentiation.
function gate.balance(p, mask, g)
  local c = context.get("gate.balance")
  lib.check_type("gate.balance: p", p, "tensor")
  lib.check_type("gate.balance: the mask", mask, "tensor")
  check_record("gate.balance: the third argument", g)
  local f = op.stop(op.sum(mask * c.live_column(), 0)) / c.live_count()
  local mean = op.sum(live_rows(p), 0) / c.live_count()
  return op.sum(f * mean, -1) * g.experts
end

-- ---------------------------------------------------------------- Dense-to-Sparse (EvoMoE)

-- What passes the threshold, else the largest alone. The largest of E probabilities is at least 1/E, so the second half
-- is only there where the threshold can reach that.
local function threshold_mask(p, threshold, experts)
  local passes = op.greater(p, threshold)
  if threshold * experts < 0.99 then
    return passes
  end
  return op.maximum(passes, op.topk_mask(p, 1))
end

local function temperature(g)
  local tau = g.value.tau
  if not tau then
    lib.fail("gate.dts: phase %s has no schedule `tau`: give values = { tau = schedule... }", g.phase)
  end
  return tau
end

-- Training: p = softmax((z + gumbel) / tau), by threshold or, when hard, the largest. The weight is p itself (paper) or
-- softmax(z) (code), never renormalised.
local function dts_train(self, z, g)
  local o = self.options
  local p = core.rename(op.softmax((z + op.gumbel(g.expert_dim)) / temperature(g)), "p")
  local mask = self.is_hard and op.topk_mask(p, 1) or threshold_mask(p, o.threshold, g.experts)
  local weight = o.weight == "paper" and p or op.softmax(z)
  local balanced = o.weight == "paper" and p or weight * mask
  return weight, mask,
    { k = self.is_hard and 1 or g.experts, losses = { balance = { gate.balance(balanced, mask, g), o.balance } } }
end

-- The dense gate of training without its noise: what a dense phase's ppl_gate measures.
local function dts_evaluate_dense(self, z, g)
  local o = self.options
  local p = core.rename(op.softmax(z / temperature(g)), "p")
  local mask = threshold_mask(p, o.threshold, g.experts)
  return o.weight == "paper" and p or op.softmax(z), mask, { k = g.experts }
end

-- Evaluation: Top-1 without noise, with the weight of training at the current tau (paper) or at tau 1 (code).
local function dts_evaluate(self, z, g)
  local o = self.options
  local tau = o.eval_tau or (o.weight == "paper" and temperature(g) or 1)
  local p = core.rename(op.softmax(tau == 1 and z or z / tau), "p")
  local training_mask
  if context.current.mode == "probe" and self.evaluates_dense then
    training_mask = select(2, dts_evaluate_dense(self, z, g))
  end
  return p, op.topk_mask(p, 1), { k = 1, training_mask = training_mask }
end

local function dts_apply(self, x, g)
  local z = scores(self, x, g)
  if g.training then
    return dts_train(self, z, g)
  elseif context.current.mode == "eval_gate" then
    return dts_evaluate_dense(self, z, g)
  end
  return dts_evaluate(self, z, g)
end

local dts_options = {
  threshold = "number?",
  weight = "string?",
  balance = "number?",
  eval_tau = "number?",
  init = "init?",
}

local function dts(options, is_hard)
  return make("dts", options, dts_apply, {
    is_hard = is_hard,
    evaluates_dense = not is_hard,
    hard = function()
      return dts(options, true)
    end,
  })
end

function gate.dts(given)
  local o = lib.options("gate.dts", given or {}, dts_options)
  o.threshold = o.threshold or 0.001
  o.weight = lib.choice("gate.dts: weight", o.weight or "paper", { "paper", "code" })
  o.balance = o.balance or 0.1
  if not (o.threshold >= 0 and o.threshold < 1) then
    lib.fail("gate.dts: the threshold is %s, expected one in [0,1)", tostring(o.threshold))
  end
  lib.positive("gate.dts: eval_tau", o.eval_tau or 1)
  return dts(o, false)
end

-- ---------------------------------------------------------------- for phases and layers

function lib.is_gate(value)
  return type(value) == "function" or type(value) == "table" and rawget(value, "kind") == "gate"
end

function lib.hard_gate(given)
  if type(given) == "function" then
    lib.fail("a gate written as a function has no hard form: write the phases out and give the last one its own gate")
  end
  if not given.hard then
    lib.fail("gate.%s selects a fixed number of experts and has no hard form", given.name)
  end
  return given.hard()
end
