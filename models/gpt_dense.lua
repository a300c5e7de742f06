-- The dense baseline: the same GPT without experts, 354.82M parameters. -D wider=true widens every FFN by 7.4 %, to
-- the paper's "larger" transformer (370M, hidden 4400), which costs about what gating does.
local moec = require "moec"
local nn, optim, init = moec.nn, moec.optim, moec.init

local c = moec.config {
  vocab = 50257, seq = 1024, batch = 64, accumulate = 1, layers = 24, d = 1024, heads = 16, dropout = 0.1,
  precision = "f32", -- or "bf16": matrix products take bf16 operands
  wider = false, lr = 2.5e-4, warmup = 10000, weight_decay = 0.1, clip = 0.0, steps = 200000,
  sizes = {
    tiny = { vocab = 512, seq = 64, batch = 8, layers = 2, d = 64, heads = 4, lr = 2e-3, warmup = 5, steps = 30 },
    small = {
      vocab = 4096, seq = 256, batch = 16, layers = 4, d = 384, heads = 6, dropout = 0.0, lr = 6e-4, warmup = 100,
      steps = 1500,
    },
    demo = {
      vocab = 4000, seq = 128, batch = 16, layers = 4, d = 256, heads = 4, dropout = 0.0, lr = 1.5e-3, warmup = 50,
      clip = 1.0, steps = 1000,
    },
  },
}

local hidden = c.wider and math.floor(4 * c.d * 1.075 / 16) * 16 or 4 * c.d
local before_residual = init.normal(0.02 / math.sqrt(2 * c.layers))
local embed = nn.embedding { vocab = c.vocab, d = c.d }

local function block(x, b)
  local attention = { heads = c.heads, causal = true, segments = b.off, out_init = before_residual }
  x = x + nn.dropout(nn.attention(nn.layer_norm(x), attention), c.dropout)
  local h = nn.ffn(nn.layer_norm(x), { hidden = hidden, out_init = before_residual })
  return x + nn.dropout(h, c.dropout)
end

return moec.model {
  name = "gpt-dense",
  task = "lm",
  config = c,
  forward = function(b)
    local x = embed(b.tokens) + nn.positions(b.position, { max = c.seq, d = c.d })
    x = nn.dropout(x, c.dropout)
    for i = 1, c.layers do
      x = moec.scope("h" .. i, block, x, b)
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
}
