-- What the scripts of models/ leave out, in one small model for the parity test: experts written by hand with dropout
-- of their own, diversification by noise, a threshold above 1/E (so that the largest must stand in where nothing passes),
-- Top-2 with normalised weights, frozen and undecayed parameters, label smoothing, auxiliary losses summed over layers,
-- a cosine rate.
local moec = require "moec"
local nn, gate, optim, phase, schedule, op = moec.nn, moec.gate, moec.optim, moec.phase, moec.schedule, moec.op

local c = moec.config {
  vocab = 256, seq = 16, batch = 8, accumulate = 2, layers = 2, d = 32, heads = 4, dropout = 0.1, experts = 4,
  threshold = 0.3, balance = 0.05, noise = 0.01, lr = 0.004, final = 0.0005, warmup = 4, weight_decay = 0.2, clip = 1.0,
  shared_steps = 7, dense_steps = 7, steps = 21, tau_max = 2.0, tau_min = 0.5, anneal_steps = 6, smoothing = 0.1,
}

local embed = nn.embedding { vocab = c.vocab, d = c.d }

local function expert(x, e)
  local h = nn.dropout(op.relu(e.linear(x, { out = 4 * c.d })), c.dropout)
  return e.linear(h, { out = c.d })
end

local function block(x, b)
  x = x + nn.attention(nn.layer_norm(x), { heads = c.heads, causal = true, segments = b.off })
  return x + nn.moe(nn.layer_norm(x), { experts = c.experts, expert = expert })
end

return moec.model {
  name = "features",
  task = "lm",
  config = c,
  forward = function(b)
    local x = embed(b.tokens) + nn.positions(b.position, { max = c.seq, d = c.d })
    for i = 1, c.layers do
      x = moec.scope("h" .. i, block, x, b)
    end
    return nn.tied_logits(nn.layer_norm(x), embed)
  end,
  steps = c.steps,
  loss = { label_smoothing = c.smoothing, aux = "sum" },
  optimizer = optim.adam {
    lr = optim.cosine { peak = c.lr, warmup = c.warmup, total = c.steps, final = c.final },
    eps = 1e-6,
    weight_decay = c.weight_decay,
    no_decay = { "*.b", "*.g" },
    clip = c.clip,
  },
  phases = {
    { name = "shared", steps = c.shared_steps, experts = 1 },
    {
      name = "dense",
      steps = c.dense_steps,
      enter = phase.diversify { noise = c.noise },
      gate = gate.dts { threshold = c.threshold, balance = c.balance },
      values = { tau = schedule.exponential(c.tau_max, c.tau_min, c.anneal_steps) },
    },
    { name = "top2", gate = gate.topk { k = 2, balance = c.balance }, freeze = { "positions.w", "h1.attention.*" } },
  },
}
