-- One MoE layer between embedding and logits, small enough to compare every number of it: each phase is a gate with its
-- options, for make_layer_goldens.py. -D set=NAME: which of them.
local moec = require "moec"
local nn, gate, op, init = moec.nn, moec.gate, moec.op, moec.init

local c = moec.config { set = "evomoe", batch = 2, seq = 8, vocab = 12, d = 4, experts = 4, hidden = 5, tau = 0.7 }

local function cosine(x, g)
  local w = moec.param("w", { g.experts, c.d }, init.normal(0.02))
  local p = op.softmax(op.matmul(op.l2_normalize(x), op.l2_normalize(w), { tb = true }) * 10)
  local m = op.topk_mask(p, 2)
  local kept = p * m
  return kept / op.sum(kept, -1), m, { k = 2, losses = { balance = { gate.balance(p, m, g), 0.01 } } }
end

local function gshard(second, normalize, other)
  local o = { second = second, normalize = normalize, balance = 0.1, groups = 2 }
  for key, value in next, other or {} do
    o[key] = value
  end
  return gate.gshard(o)
end

local paper = gate.dts { threshold = 0.15, balance = 0.1 }
local code = gate.dts { threshold = 0.15, balance = 0.1, weight = "code" }
local fallback = gate.dts { threshold = 0.6, balance = 0.1 }
local stable = gate.stable {
  vocab = c.vocab, d = 5, balance = 0.3, distill = 0.3, capacity = 1.0, eval_capacity = 1.5, groups = 2,
}

local sets = {
  evomoe = {
    { "dts_paper", paper }, { "dts_code", code }, { "dts_fallback", fallback },
    { "top1_paper", paper.hard() }, { "top1_code", code.hard() },
    { "top1_tau", gate.dts({ balance = 0.1, eval_tau = 0.4 }).hard() },
  },
  top = {
    { "topk_one", gate.topk { k = 1, balance = 0.1 } },
    { "topk_two", gate.topk { k = 2, balance = 0.1, jitter = 0.1, z_loss = 0.01 } },
    { "switch", gate.switch { balance = 0.1 } },
    { "switch_capacity", gate.switch { balance = 0.1, capacity = 1.0, eval_capacity = 1.25, groups = 2 } },
    { "switch_jitter", gate.switch { balance = 0.1, jitter = 0.1, z_loss = 0.01 } },
    { "gshard_sampling_after", gshard("sampling", "after", { capacity = 0.75 }) },
    { "gshard_sampling_before", gshard("sampling", "before", { capacity = 1.0 }) },
    { "gshard_random_after", gshard("random", "after", { capacity = 0.75, priority = "probability" }) },
    { "gshard_random_before", gshard("random", "before", { capacity = 0.75, threshold = 0.8 }) },
    { "gshard_all_after", gshard("all", "after") },
    { "gshard_all_before", gshard("all", "before", { capacity = 0.5, eval_capacity = 0.75 }) },
    { "gshard_all_none", gshard("all", "none", { capacity = 1.0, z_loss = 0.01 }) },
  },
  others = {
    { "noisy_one", gate.noisy_topk { k = 1, importance = 0.1, load = 0.1 } },
    { "noisy_two", gate.noisy_topk { k = 2, importance = 0.1, load = 0.1 } },
    { "noisy_four", gate.noisy_topk { k = 4, importance = 0.1, load = 0.1, epsilon = 0.5 } },
    { "sigmoid_one", gate.sigmoid_topk { k = 1, rate = 0.125, balance = 0.1 } },
    { "sigmoid_two", gate.sigmoid_topk { k = 2, rate = 0.125, scale = 1.5 } },
    { "dselect", gate.dselect { k = 2, entropy = 1e-2 } },
    { "choice", gate.expert_choice { capacity = 1.5, groups = 2 } },
    { "hash", gate.hash { vocab = c.vocab } },
    { "cosine", cosine },
  },
  six_experts = {
    { "dselect_six", gate.dselect { k = 2, entropy = 1e-2, unreached = 1e-2, gamma = 2.0 } },
  },
  residual = {
    { "base", gate.base { groups = 2 } }, { "stable_distill", stable },
    { "stable_frozen", stable.second_stage(), freeze = { "*.router.*" } },
  },
}

local phases = {}
for i, entry in ipairs(sets[c.set]) do
  phases[i] = { name = entry[1], steps = 1, gate = entry[2], freeze = entry.freeze, values = { tau = c.tau } }
end

local function residual(x, e)
  local y = x
  for _ = 1, 2 do
    y = y + e.linear(op.gelu(e.linear(e.layer_norm(y), { out = c.hidden })), { out = c.d })
  end
  return y - x
end

local embed = nn.embedding { vocab = c.vocab, d = c.d }

return moec.model {
  name = "layer", task = "lm", config = c, phases = phases, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    local experts = c.set == "residual" and { expert = residual } or { hidden = c.hidden }
    experts.experts, experts.ids = c.experts, b.tokens
    local y = nn.moe(x, experts)
    return nn.tied_logits(x, embed) + nn.tied_logits(y, embed) -- a product of y alone: so y can be read
  end,
}
