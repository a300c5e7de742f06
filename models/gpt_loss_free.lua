-- Sigmoid Top-k whose load is balanced by a bias on the choice instead of a loss.
local moec = require "moec"

local c = moec.gpt.config { k = 2, rate = 0.001, scale = 1.0 }

return moec.gpt.model {
  name = "gpt-loss-free",
  config = c,
  phases = {
    { name = "biased", gate = moec.gate.sigmoid_topk { k = c.k, rate = c.rate, scale = c.scale } },
  },
}
