-- A gate by itself: token i has the embedding i, so that @embedding.w with @moe.gate.w as the unit matrix says what the
-- scores are. checks_test.py sets both. -D gate=NAME.
local moec = require "moec"
local nn, gate, phase, schedule, init = moec.nn, moec.gate, moec.phase, moec.schedule, moec.init

local c = moec.config {
  gate = "switch", batch = 2, seq = 8, vocab = 16, experts = 4, d = 4, k = 2, steps = 20,
  threshold = 0.001, weight = "paper", balance = 0.1, capacity = 0.0, second = "all", normalize = "after",
  importance = 0.01, load = 0.01, gamma = 1.0, entropy = 1e-6, table = "random", first = 10, word_d = 4, groups = 1,
  mask = 0.1, residual = false, layers = 1, accumulate = 1, diagnostics = true,
}

local dts = gate.dts { threshold = c.threshold, weight = c.weight, balance = c.balance }
local by_tau = { tau = schedule.linear(2.0, 0.3, 10) }
local phases = ({
  dts = function()
    return { { name = "dense", steps = 10, gate = dts, values = by_tau }, { name = "top1", gate = dts.hard(), values = by_tau } }
  end,
  evomoe = function()
    return phase.evomoe { shared = 5, anneal = 10, tau = { 2.0, 0.3 }, gate = dts, mask = c.mask }
  end,
  switch = function()
    return { { name = "p", gate = gate.switch { balance = c.balance, capacity = c.capacity, groups = c.groups } } }
  end,
  gshard = function()
    return { { name = "p", gate = gate.gshard { capacity = c.capacity, second = c.second, normalize = c.normalize } } }
  end,
  noisy = function()
    return { { name = "p", gate = gate.noisy_topk { k = c.k, importance = c.importance, load = c.load } } }
  end,
  sigmoid = function()
    return { { name = "p", gate = gate.sigmoid_topk { k = c.k, rate = 0.125 } } }
  end,
  dselect = function()
    return { { name = "p", gate = gate.dselect { k = c.k, gamma = c.gamma, entropy = c.entropy } } }
  end,
  choice = function()
    return { { name = "p", gate = gate.expert_choice { capacity = c.capacity, groups = c.groups } } }
  end,
  hash = function()
    local p = { name = "p", gate = gate.hash { vocab = c.vocab, table = c.table } }
    if c.table == "random" or c.table == "balanced" then
      return { p }
    end
    p.enter = phase.diversify { mask = 0.0 }
    return { { name = "dense", steps = 5, experts = 1 }, p }
  end,
  base = function()
    return { { name = "p", gate = gate.base { groups = c.groups } } }
  end,
  stable = function()
    return phase.stable { first = c.first, gate = gate.stable { vocab = c.vocab, d = c.word_d } }
  end,
})[c.gate]()

local embed = nn.embedding { vocab = c.vocab, d = c.d }

local function residual(x, e)
  local h = moec.op.gelu(e.linear(e.layer_norm(x), { out = 8 }))
  return e.linear(h, { out = c.d, init = init.zeros() })
end

return moec.model {
  name = "probe", task = "lm", config = c, steps = c.steps, phases = phases, diagnostics = c.diagnostics,
  optimizer = moec.optim.adam { lr = 0.01, weight_decay = 0.1 },
  forward = function(b)
    local x = embed(b.tokens)
    local expert = c.residual and { expert = residual } or { hidden = 8 }
    expert.experts, expert.ids = c.experts, b.tokens
    for i = 1, c.layers do
      x = x + moec.scope("h" .. i, nn.moe, x, expert)
    end
    return nn.tied_logits(x, embed)
  end,
}
