-- The baseline with a Switch gate: the same GPT, Top-1 from the first step, with a balance loss; without drops unless it is
-- given a capacity, the room of an expert as a multiple of its even share of a slice of the batch.
local moec = require "moec"
local nn, gate, optim, init = moec.nn, moec.gate, moec.optim, moec.init

local c = moec.config {
  vocab = 50257, seq = 1024, batch = 64, accumulate = 1, layers = 24, d = 1024, heads = 16, dropout = 0.1,
  precision = "f32", -- or "bf16": matrix products take bf16 operands
  experts = 16, moe_every = 2, moe_layers = "", balance = 0.01, jitter = 0.0, z_loss = 0.0,
  capacity = 0.0, eval_capacity = 0.0, groups = 64,
  lr = 2.5e-4, warmup = 10000, weight_decay = 0.1, clip = 0.0, steps = 200000,
  sizes = {
    tiny = {
      vocab = 512, seq = 64, batch = 8, layers = 2, d = 64, heads = 4, experts = 4, groups = 2, lr = 2e-3,
      warmup = 5, steps = 30,
    },
    small = {
      vocab = 4096, seq = 256, batch = 16, layers = 4, d = 384, heads = 6, dropout = 0.0, experts = 8, groups = 4,
      lr = 6e-4, warmup = 100, steps = 1500,
    },
    demo = {
      vocab = 4000, seq = 128, batch = 16, layers = 4, d = 256, heads = 4, dropout = 0.0, experts = 8, groups = 4,
      lr = 1.5e-3, warmup = 50, clip = 1.0, steps = 1000,
    },
  },
}

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
  name = "gpt-switch",
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
  phases = {
    {
      name = "switch",
      gate = gate.switch {
        balance = c.balance, jitter = c.jitter, z_loss = c.z_loss, capacity = c.capacity,
        eval_capacity = c.eval_capacity, groups = c.capacity > 0 and c.groups or nil,
      },
    },
  },
}
