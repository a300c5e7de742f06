-- moec.gpt: the GPT that the gates of models/ are compared on. What its scripts differ in is the gate, its keys and its
-- phases; models/gpt_evomoe.lua and gpt_switch.lua write the same model out.
local core, lib = ...
local nn, init, context = lib.nn, lib.init, lib.context

local gpt = {}
lib.moec.gpt = lib.strict(gpt, "moec.gpt")

local function overlaid(a, b)
  local result = {}
  for _, from in ipairs { a, b } do
    for key, value in next, from do
      result[key] = value
    end
  end
  return result
end

-- The configuration of such a model: `own` keys with their defaults beside the common ones; own.tiny and own.small are
-- what a gate has different at these sizes.
function gpt.config(own)
  lib.check_type("moec.gpt.config", own, "table")
  for _, size in ipairs { "tiny", "small" } do
    lib.check_type("moec.gpt.config: " .. size, rawget(own, size) or {}, "table")
  end
  local keys = {
    vocab = 50257, seq = 1024, batch = 64, accumulate = 1, layers = 24, d = 1024, heads = 16, dropout = 0.1,
    precision = "f32", experts = 16, moe_every = 2, moe_layers = "", lr = 2.5e-4, warmup = 10000, weight_decay = 0.1,
    clip = 0.0, steps = 200000,
  }
  local tiny = {
    vocab = 512, seq = 64, batch = 8, layers = 2, d = 64, heads = 4, experts = 4, lr = 2e-3, warmup = 5, steps = 30,
  }
  local small = {
    vocab = 4096, seq = 256, batch = 16, layers = 4, d = 384, heads = 6, dropout = 0.0, experts = 8, lr = 6e-4,
    warmup = 100, steps = 1500,
  }
  local sizes = { tiny = overlaid(tiny, own.tiny or {}), small = overlaid(small, own.small or {}) }
  local all = overlaid(keys, own)
  all.tiny, all.small, all.sizes = nil, nil, sizes
  return lib.moec.config(all)
end

-- What the functions below take: a configuration of gpt.config, the residual stream, the batch record.
local function check_arguments(what, c, x, b)
  lib.check_type(what .. ": the configuration", c, "table")
  for _, key in ipairs { "layers", "d", "dropout", "experts" } do
    lib.check_type(what .. ": the configuration's " .. key, rawget(c, key), "number")
    lib.at_least(what .. ": the configuration's " .. key, c[key], 0)
  end
  lib.need_rows(what .. ": the second argument", x)
  lib.check_type(what .. ": the third argument", b, "table")
end

-- Whether block number i has the experts: every `moe_every`-th, or those that `moe_layers` names ("2,4").
function gpt.has_experts(c, i)
  lib.check_type("moec.gpt.has_experts: the number of the block", i, "integer")
  local named = rawget(c, "moe_layers")
  lib.check_type("moec.gpt.has_experts: config.moe_layers", named, "string")
  if named == "" then
    return i % c.moe_every == 0
  end
  local found = false
  for word in string.gmatch(named .. ",", "([^,]*),") do
    local number = math.tointeger(tonumber(word))
    if not number or number < 1 or number > c.layers then
      lib.fail("moe_layers = \"%s\": found `%s`, expected numbers of blocks, 1 to %d, with commas between", named, word,
        c.layers)
    end
    found = found or number == i
  end
  return found
end

local function attention_block(c, x, b)
  local out = init.normal(0.02 / math.sqrt(2 * c.layers))
  local attention = { heads = c.heads, causal = true, segments = b.off, out_init = out }
  return x + nn.dropout(nn.attention(nn.layer_norm(x), attention), c.dropout)
end

local function feed_forward(c, x)
  local out = init.normal(0.02 / math.sqrt(2 * c.layers))
  return x + nn.dropout(nn.ffn(nn.layer_norm(x), { hidden = 4 * c.d, out_init = out }), c.dropout)
end

-- The MoE layer in place of the feed-forward layer, with the gate of the phase.
function gpt.experts(c, x, b)
  check_arguments("moec.gpt.experts", c, x, b)
  local out = init.normal(0.02 / math.sqrt(2 * c.layers))
  local y = nn.moe(nn.layer_norm(x), { experts = c.experts, hidden = 4 * c.d, ids = b.tokens, out_init = out })
  return x + nn.dropout(y, c.dropout)
end

-- A layer of experts that are themselves residual (BASE, StableMoE): the gate sees x as it is, an expert is a stack of
-- `sublayers` blocks x + W2 gelu(W1 layer_norm(x)) that begin as the identity, and its weight mixes its output with x.
function gpt.residual_experts(c, x, b, sublayers)
  check_arguments("moec.gpt.residual_experts", c, x, b)
  lib.check_type("moec.gpt.residual_experts: the number of sublayers", sublayers, "integer")
  local function expert(input, e)
    local y = input
    for _ = 1, sublayers do
      local h = lib.op.gelu(e.linear(e.layer_norm(y), { out = 4 * c.d }))
      y = y + e.linear(h, { out = c.d, init = init.zeros() })
    end
    return y - input
  end
  return x + nn.moe(x, { experts = c.experts, expert = expert, ids = b.tokens })
end

local gpt_options = { name = "string", config = "table", phases = "table", experts = "function?", additional = "boolean?",
  diagnostics = "boolean?" }

-- experts(c, x, b): the MoE layer as a function of the residual stream (gpt.experts). It replaces the feed-forward layer
-- of the blocks that gpt.has_experts names; additional = true: it stands behind the middle block, which stays as it is.
function gpt.model(given)
  local o = lib.options("moec.gpt.model", given, gpt_options)
  local c, experts = o.config, o.experts or gpt.experts
  for _, key in ipairs { "vocab", "seq", "layers", "d", "heads", "experts", "moe_every", "steps" } do
    local what = "moec.gpt.model: config." .. key
    lib.check_type(what, rawget(c, key), "integer")
    lib.at_least(what, c[key], 1)
  end
  lib.check_type("moec.gpt.model: config.dropout", rawget(c, "dropout"), "number")
  local embed = nn.embedding { vocab = c.vocab, d = c.d }
  local function block(x, b, i)
    x = attention_block(c, x, b)
    if o.additional then
      x = feed_forward(c, x)
      return i == c.layers // 2 and experts(c, x, b) or x
    end
    return gpt.has_experts(c, i) and experts(c, x, b) or feed_forward(c, x)
  end
  return lib.moec.model {
    name = o.name, task = "lm", config = c, steps = c.steps, precision = c.precision, phases = o.phases,
    diagnostics = o.diagnostics,
    forward = function(b)
      local x = nn.dropout(embed(b.tokens) + nn.positions(b.position, { max = c.seq, d = c.d }), c.dropout)
      for i = 1, c.layers do
        x = lib.moec.scope("h" .. i, block, x, b, i)
      end
      return nn.tied_logits(nn.layer_norm(x), embed)
    end,
    optimizer = lib.optim.adam {
      lr = lib.optim.polynomial { peak = c.lr, warmup = c.warmup, total = c.steps },
      betas = { 0.9, 0.98 }, weight_decay = c.weight_decay, clip = c.clip,
    },
  }
end
