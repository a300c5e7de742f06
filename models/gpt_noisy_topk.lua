-- Shazeer's noisy top-k: noise of a learned width on the scores, losses on importance and load.
local moec = require "moec"

local c = moec.gpt.config { k = 2, importance = 0.01, load = 0.01 }

return moec.gpt.model {
  name = "gpt-noisy-topk",
  config = c,
  phases = {
    { name = "noisy", gate = moec.gate.noisy_topk { k = c.k, importance = c.importance, load = c.load } },
  },
}
