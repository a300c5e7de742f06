-- A GPT whose every second FFN is a Mixture of Experts, trained as EvoMoE does (arXiv 2112.14397): one shared expert,
-- diversified into many, gated densely with falling temperature, then Top-1. The defaults are the paper's GPT: 354.82M
-- dense parameters, 1610.6M weights of experts.
local moec = require "moec"
local nn, gate, optim, phase, init = moec.nn, moec.gate, moec.optim, moec.phase, moec.init

local c = moec.config {
  vocab = 50257, seq = 1024, batch = 64, accumulate = 1, layers = 24, d = 1024, heads = 16, dropout = 0.1,
  precision = "f32", -- or "bf16": matrix products take bf16 operands
  experts = 16, moe_every = 2, moe_layers = "", threshold = 0.001, weight = "paper", balance = 0.1, mask = 0.1, moments = "copy",
  lr = 2.5e-4, warmup = 10000, weight_decay = 0.1, clip = 0.0,
  shared_steps = 10000, anneal_steps = 5000, dense_steps = 5000, steps = 200000,
  tau_max = 2.0, tau_min = 0.3, curve = "linear",
  sizes = {
    -- For tests: seconds.
    tiny = {
      vocab = 512, seq = 64, batch = 8, layers = 2, d = 64, heads = 4, experts = 4, lr = 2e-3, warmup = 5,
      shared_steps = 10, anneal_steps = 10, dense_steps = 10, steps = 30,
    },
    -- For benchmarks.
    small = {
      vocab = 4096, seq = 256, batch = 16, layers = 4, d = 384, heads = 6, dropout = 0.0, experts = 8, lr = 6e-4,
      warmup = 100, shared_steps = 400, anneal_steps = 300, dense_steps = 300, steps = 1500,
    },
    -- For a few megabytes of text and a few minutes on two cores.
    demo = {
      vocab = 4000, seq = 128, batch = 16, layers = 4, d = 256, heads = 4, dropout = 0.0, experts = 8, lr = 1.5e-3,
      warmup = 50, clip = 1.0, shared_steps = 350, anneal_steps = 180, dense_steps = 200, steps = 1000,
    },
  },
}

-- The last product before a residual starts smaller, as in GPT-2, so that the sum of all layers keeps its scale.
local before_residual = init.normal(0.02 / math.sqrt(2 * c.layers))
local embed = nn.embedding { vocab = c.vocab, d = c.d }

local function block(x, b, i)
  local attention = { heads = c.heads, causal = true, segments = b.off, out_init = before_residual }
  x = x + nn.dropout(nn.attention(nn.layer_norm(x), attention), c.dropout)
  local h = nn.layer_norm(x)
  if moec.gpt.has_experts(c, i) then
    h = nn.moe(h, { experts = c.experts, hidden = 4 * c.d, ids = b.tokens, out_init = before_residual })
  else
    h = nn.ffn(h, { hidden = 4 * c.d, out_init = before_residual })
  end
  return x + nn.dropout(h, c.dropout)
end

return moec.model {
  name = "gpt-evomoe",
  task = "lm",
  config = c,
  forward = function(b)
    local x = embed(b.tokens) + nn.positions(b.position, { max = c.seq, d = c.d })
    x = nn.dropout(x, c.dropout)
    for i = 1, c.layers do
      x = moec.scope("h" .. i, block, x, b, i)
    end
    return nn.tied_logits(nn.layer_norm(x), embed)
  end,
  steps = c.steps,
  precision = c.precision,
  optimizer = optim.adam {
    lr = optim.polynomial { peak = c.lr, warmup = c.warmup, total = c.steps },
    betas = { 0.9, 0.98 },
    weight_decay = c.weight_decay,
    clip = c.clip,
  },
  phases = phase.evomoe {
    shared = c.shared_steps,
    anneal = c.anneal_steps,
    dense = c.dense_steps,
    tau = { c.tau_max, c.tau_min },
    curve = c.curve,
    gate = gate.dts { threshold = c.threshold, weight = c.weight, balance = c.balance },
    mask = c.mask,
    moments = c.moments,
  },
}
