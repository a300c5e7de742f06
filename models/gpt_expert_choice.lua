-- Expert choice: experts take tokens, `capacity` experts per token in the mean. What a token gets depends on all tokens of
-- its slice, so that perplexities are not those of a causal model: a baseline of its loads, not of its losses.
local moec = require "moec"

local c = moec.gpt.config {
  capacity = 2.0, groups = 64,
  tiny = { groups = 2 },
  small = { groups = 4 },
}

return moec.gpt.model {
  name = "gpt-expert-choice",
  config = c,
  phases = { { name = "choice", gate = moec.gate.expert_choice { capacity = c.capacity, groups = c.groups } } },
}
