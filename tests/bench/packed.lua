-- For packed.sh: MoE layers and as little else as a language model allows. The gate selects exactly k experts for every
-- token, but promises no less than all of them, so that every k has both versions, packed and wide. The shapes of a layer
-- are those of gpt_evomoe.lua at size=small.
local moec = require "moec"
local nn, op, optim = moec.nn, moec.op, moec.optim

local c = moec.config {
  vocab = 256, seq = 256, batch = 16, layers = 2, d = 384, experts = 8, k = 1, steps = 1000,
  precision = "f32",
}
local embed = nn.embedding { vocab = c.vocab, d = c.d }

local function exactly(x, g)
  local w = moec.param("w", { g.experts, c.d }, moec.init.normal(0.02))
  local p = op.softmax(op.matmul(x, w, { tb = true }))
  return p, op.topk_mask(p, c.k), { k = g.experts }
end

local function layer(x, b)
  return x + nn.moe(nn.layer_norm(x), { experts = c.experts, hidden = 4 * c.d, ids = b.tokens })
end

return moec.model {
  name = "packed",
  task = "lm",
  config = c,
  precision = c.precision,
  forward = function(b)
    local x = embed(b.tokens)
    for i = 1, c.layers do
      x = moec.scope("h" .. i, layer, x, b)
    end
    return nn.tied_logits(nn.layer_norm(x), embed)
  end,
  steps = c.steps,
  optimizer = optim.adam { lr = 1e-4 },
  phases = { { name = "train", gate = exactly } },
}
