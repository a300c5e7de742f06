-- StableMoE: a router that sees the token's id alone learns the gate's choice for the first tenth of training; then it is
-- frozen and decides.
local moec = require "moec"

local c = moec.gpt.config {
  first = 20000, word_d = 50, balance = 0.3, distill = 0.3, capacity = 0.0, groups = 64, sublayers = 1,
  tiny = { first = 10, word_d = 16, groups = 2 },
  small = { first = 150, groups = 4 },
}

return moec.gpt.model {
  name = "gpt-stable",
  config = c,
  experts = function(_, x, b)
    return moec.gpt.residual_experts(c, x, b, c.sublayers)
  end,
  phases = moec.phase.stable {
    first = c.first,
    gate = moec.gate.stable {
      vocab = c.vocab, d = c.word_d, balance = c.balance, distill = c.distill, capacity = c.capacity, groups = c.groups,
    },
  },
}
