-- DSelect-k: k selectors of log2(E) smooth bits each; dense at first, exactly sparse in the end.
local moec = require "moec"

local c = moec.gpt.config { k = 2, gamma = 1.0, entropy = 1e-6 }

return moec.gpt.model {
  name = "gpt-dselect",
  config = c,
  phases = {
    { name = "dselect", gate = moec.gate.dselect { k = c.k, gamma = c.gamma, entropy = c.entropy } },
  },
}
