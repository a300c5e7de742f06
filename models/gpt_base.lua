-- BASE: every expert takes as many tokens of a slice as any other, by auction; evaluation is greedy. The layer replaces
-- every second feed-forward layer or, with -D additional=true, stands once more in the middle of the dense model, as its
-- authors have it.
local moec = require "moec"

local c = moec.gpt.config {
  groups = 64, sublayers = 1, additional = false,
  tiny = { groups = 2 },
  small = { groups = 4 },
}

return moec.gpt.model {
  name = "gpt-base",
  config = c,
  additional = c.additional,
  experts = function(_, x, b)
    return moec.gpt.residual_experts(c, x, b, c.sublayers)
  end,
  phases = { { name = "base", gate = moec.gate.base { groups = c.groups } } },
}
