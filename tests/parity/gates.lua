-- Every gate of the library in the GPT of models/, for make_gate_goldens.py: -D gate=NAME and what the gate asks.
local moec = require "moec"
local gate = moec.gate

local c = moec.gpt.config {
  gate = "switch", k = 2, balance = 0.01, capacity = 0.0, eval_capacity = 0.0, groups = 2, second = "all",
  normalize = "after", priority = "token", importance = 0.01, load = 0.01, rate = 0.01, scale = 1.5, gamma = 1.0,
  entropy = 1e-4, unreached = 1e-3, table = "random", first = 8, word_d = 8, distill = 0.3, gate_init = 0.1, sublayers = 2,
}

local make = {
  switch = function(init)
    return gate.switch { balance = c.balance, capacity = c.capacity, eval_capacity = c.eval_capacity, groups = c.groups,
      init = init }
  end,
  gshard = function(init)
    return gate.gshard { balance = c.balance, capacity = c.capacity, eval_capacity = c.eval_capacity, groups = c.groups,
      second = c.second, normalize = c.normalize, priority = c.priority, init = init }
  end,
  noisy = function(init)
    return gate.noisy_topk { k = c.k, importance = c.importance, load = c.load, init = init }
  end,
  sigmoid = function(init)
    return gate.sigmoid_topk { k = c.k, rate = c.rate, scale = c.scale, init = init }
  end,
  dselect = function()
    return gate.dselect { k = c.k, gamma = c.gamma, entropy = c.entropy, unreached = c.unreached }
  end,
  choice = function(init)
    return gate.expert_choice { capacity = c.capacity, groups = c.groups, init = init }
  end,
  hash = function()
    return gate.hash { vocab = c.vocab, table = c.table }
  end,
  base = function()
    return gate.base { groups = c.groups }
  end,
}

local phases
if c.gate == "stable" then
  phases = moec.phase.stable {
    first = c.first,
    gate = gate.stable { vocab = c.vocab, d = c.word_d, balance = c.balance, distill = c.distill },
  }
else
  phases = { { name = c.gate, gate = make[c.gate](moec.init.normal(c.gate_init)) } }
end

local function residual(_, x, b)
  return moec.gpt.residual_experts(c, x, b, c.sublayers)
end

return moec.gpt.model {
  name = "gates",
  config = c,
  phases = phases,
  experts = (c.gate == "base" or c.gate == "stable") and residual or nil,
}
