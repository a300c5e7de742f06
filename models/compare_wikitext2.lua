-- The methods of routing beside each other on WikiText-2, for moec compare: a GPT of 4 layers, 2 of them with 8 experts,
-- every run with the same data, seeds and FLOPs that really run. The data, from the files of WikiText-2:
--   moec data --train wiki.train.tokens --valid wiki.valid.tokens --test wiki.test.tokens -o build/wikitext-2 --tokenizer=spm:4000
--   moec compare models/compare_wikitext2.lua --out build/compare-wikitext2
-- (--dry-run first: what runs, and for how long).
--
-- Lengths of phases are shares of the steps, so that every method goes through its whole schedule within the budget.
-- density: where a phase's cost lies on average between one expert per token (0) and as many as the router may select (1);
-- measured by one run of each, it decides only how long schedules are.
local moec = require "moec"

local phases = { shared_steps = 0.2, anneal_steps = 0.2, dense_steps = 0.2 }

-- EvoMoE with what an ablation leaves out set to nothing.
local function evomoe(name, left_out)
  local density = left_out.dense_steps ~= 0 and { dense = 0.9 } or {}
  return { name = name, model = "gpt_evomoe.lua", config = left_out, shares = phases, density = density }
end

return moec.compare {
  data = "../build/wikitext-2",
  config = {
    vocab = 4000, seq = 128, batch = 16, layers = 4, d = 128, heads = 4, experts = 8, moe_every = 2, dropout = 0.1,
    clip = 1.0, groups = 4,
  },
  shares = { warmup = 0.05 },
  runs = {
    { name = "dense", model = "gpt_dense.lua" },
    { name = "wider", model = "gpt_dense.lua", config = { wider = true } },
    { name = "switch", model = "gpt_switch.lua" },
    { name = "base", model = "gpt_base.lua" },
    { name = "hash", model = "gpt_hash.lua" },
    { name = "stable", model = "gpt_stable.lua", shares = { first = 0.1 } },
    { name = "dselect", model = "gpt_dselect.lua", density = { dselect = 0.23 } },
    evomoe("evomoe", {}),
    evomoe("evomoe-without-stage-1", { shared_steps = 0 }),
    evomoe("evomoe-without-stage-2", { dense_steps = 0 }),
    evomoe("evomoe-without-balance", { balance = 0.0 }),
  },
  seeds = { 1, 2, 3 },
  budget = { flops = 3e13 },
  search = { key = "lr", values = { 1e-3, 2e-3, 4e-3, 8e-3 }, budget = 0.25 },
  baseline = "dense",
  eval_every = 200,
  checkpoint_every = 500,
  parallel = 2,
}
