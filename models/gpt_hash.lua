-- Hash layers: a table of token ids decides. `clustered` and `dispersed` group the tokens by the embedding of a dense
-- model, which is trained first for `dense_steps`; the other tables need none.
local moec = require "moec"
local phase, gate = moec.phase, moec.gate

local c = moec.gpt.config {
  table = "random", dense_steps = 20000, mask = 0.0,
  tiny = { dense_steps = 10 },
  small = { dense_steps = 300 },
}

local hash = { name = "hash", gate = gate.hash { vocab = c.vocab, table = c.table } }
local phases = { hash }
if c.table == "clustered" or c.table == "dispersed" then
  hash.enter = phase.diversify { mask = c.mask }
  phases = { { name = "dense", steps = c.dense_steps, experts = 1 }, hash }
end

return moec.gpt.model { name = "gpt-hash", config = c, phases = phases }
