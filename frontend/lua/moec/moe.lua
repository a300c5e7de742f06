-- nn.moe: a gate, packed rows, experts, and the sum of what the experts give, weighted:
--   route the mask, dispatch rows to experts, apply them, combine(mul(o, pack(w))).
-- A phase with one expert has no gate: the layer is the plain FFN on the same parameter names.
local core, lib = ...
local op, context = lib.op, lib.context

local moe_options = {
  experts = "integer",
  hidden = "integer?",
  expert = "function?",
  activation = "string?",
  gate = "any?",
  ids = "tensor?",
  init = "init?",
  out_init = "init?",
}

-- What a gate sees beside x.
local function gate_record(c, options, experts, expert_dim)
  return {
    kind = "gate_record",
    experts = experts,
    expert_dim = expert_dim,
    ids = options.ids,
    live = c.live,
    training = c.training,
    phase = c.phase.name,
    value = c.values,
  }
end

local function check_rows(what, t, n, experts)
  lib.check_type(what, t, "tensor")
  local shape = t:shape()
  if #shape ~= 2 or shape[1] ~= n or shape[2] ~= experts then
    lib.fail("%s is %s, expected f32[%d,%d]: a number for every token and expert", what, core.type(t), n, experts)
  end
end

local function check_losses(losses)
  lib.check_type("the gate's losses", losses, "table")
  for _, name in ipairs(lib.sorted_keys(losses)) do
    local loss = losses[name]
    context.check_name("the name of a gate's loss", name)
    if type(loss) ~= "table" or not core.is_tensor(loss[1]) or type(loss[2]) ~= "number" then
      lib.fail("the gate's loss %s: found %s, expected { tensor, weight }", name, lib.describe(loss))
    end
    for _, dim in ipairs(loss[1]:shape()) do
      if dim ~= 1 then
        lib.fail("the gate's loss %s is %s, expected one number", name, core.type(loss[1]))
      end
    end
  end
end

-- The gate's answer, checked: weight, mask, bounds.
local function ask_gate(c, path, gate, x, g)
  local weight, mask, bounds = context.within(context.join(path, "gate"), gate, x, g)
  local n = x:shape()[1]
  check_rows("the gate's weight", weight, n, g.experts)
  check_rows("the gate's mask", mask, n, g.experts)
  bounds = lib.options("the gate's third result", bounds or {}, { k = "integer?", rows = "integer?", losses = "table?",
    chosen = "tensor?", training_mask = "tensor?" })
  bounds.k = bounds.k or g.experts
  if bounds.k < 1 or bounds.k > g.experts then
    lib.fail("the gate's bound k is %d, expected 1 to %d, the number of experts", bounds.k, g.experts)
  end
  if bounds.training_mask then
    check_rows("the gate's training_mask", bounds.training_mask, n, g.experts)
  end
  if bounds.chosen then
    check_rows("the gate's chosen", bounds.chosen, n, g.experts)
  end
  check_losses(bounds.losses or {})
  return weight, mask, bounds
end

-- Auxiliary losses matter in training only.
local function note_losses(c, losses)
  for _, name in ipairs(c.training and lib.sorted_keys(losses) or {}) do
    c.losses[name] = c.losses[name] or {}
    table.insert(c.losses[name], { value = op.reshape(losses[name][1], { shape = {} }), weight = losses[name][2] })
  end
end

-- Inside an expert the rows are expert-token pairs: a draw's row is (the token's index in the global batch)*E + e.
local function with_pair_index(c, rows, experts, call)
  local outer, index = c.row_index, nil
  c.row_index = function()
    if not index then
      local local_token = op.div(rows.pair, experts)
      local column = op.reshape(c.token, { core.dim(c.token, 0), 1 })
      local token = op.gather_rows(column, local_token)
      local expert = rows.pair - local_token * experts
      index = token * experts + op.reshape(expert, { core.dim(rows.pair, 0), 1 })
    end
    return index
  end
  local y = call()
  c.row_index = outer
  return y
end

local function route(mask, bounds)
  local pair, off, slot = op.route(mask, { k = bounds.k, rows = bounds.rows })
  core.rename(pair, "pair")
  core.rename(off, "off")
  core.rename(slot, "slot")
  return { pair = pair, off = off, slot = slot }
end

local lowest = -1e30 -- below any weight

-- What the probe writes of a layer: each token's expert of the largest weight, -1 for none, and how many experts the
-- token gets: by the training gate without noise where that selects otherwise than the gate of evaluation.
local function note_probe(c, path, weight, mask, training_mask)
  local n = core.dim(mask, 0)
  local some = op.cast(op.max(mask, -1), "i32")
  local strongest = (op.argmax(op.select(mask, weight, lowest)) + 1) * some - 1
  local selected = op.sum(training_mask and training_mask * c.live_column() or mask, -1)
  core.result("expert." .. path, op.reshape(strongest, { n }))
  core.result("experts." .. path, op.reshape(op.cast(selected, "i32"), { n }))
end

local function many_experts(self, c, x, experts, expert_dim)
  local o = self.options
  local gate = o.gate or c.phase.gate
  if not gate then
    lib.fail("nn.moe has %d experts in phase %s, but neither the layer nor the phase names a gate", experts,
      c.phase.name)
  elseif not lib.is_gate(gate) then
    lib.fail("nn.moe: option `gate`: found %s, expected a gate", lib.describe(gate))
  end
  c.evaluates_dense = c.evaluates_dense or type(gate) == "table" and gate.evaluates_dense
  local weight, mask, bounds = ask_gate(c, self.path, gate, x, gate_record(c, o, experts, expert_dim))
  mask = core.rename(mask * c.live_column(), "mask")
  local selected = core.rename(op.select(mask, weight, 0), "w")
  local layer = { name = self.path, load = op.sum(mask, 0) }
  if c.diagnoses then
    layer.routing = lib.diagnose(c, experts, weight, mask, selected, bounds.chosen)
  end
  table.insert(c.layers, layer)
  if c.mode == "probe" then
    note_probe(c, self.path, weight, mask, bounds.training_mask)
  end
  local rows = route(mask, bounds)
  local packed = op.dispatch(x, rows.pair, rows.slot)
  local expert = lib.packed_experts(self.path, o, expert_dim, rows)
  local out = with_pair_index(c, rows, experts, function()
    return expert(packed)
  end)
  local y = op.combine(out * op.pack(selected, rows.pair, rows.slot), rows.slot, rows.pair)
  note_losses(c, bounds.losses or {})
  return y, op.sum(selected, -1)
end

local function one_expert(self, c, x, expert_dim)
  local y = lib.single_expert(self.path, self.options, expert_dim)(x)
  table.insert(c.layers, { name = self.path })
  return y, op.broadcast(op.const(1), { core.dim(x, 0), 1 })
end

lib.define_module("moe", moe_options, function(self, x)
  local c, o = context.current, self.options
  lib.need_rows("nn.moe", x)
  o.what = "nn.moe"
  if (o.hidden == nil) == (o.expert == nil) then
    lib.fail("nn.moe: give one of the options `hidden` and `expert`")
  end
  local experts = lib.at_least("nn.moe: experts", c.phase.experts or o.experts, 1)
  local expert_dim = core.symbol("E", experts, c.table)
  if experts == 1 then
    return one_expert(self, c, x, expert_dim)
  end
  return many_experts(self, c, x, experts, expert_dim)
end)
