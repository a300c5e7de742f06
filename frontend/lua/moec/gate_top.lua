-- The gates that take the largest scores of a token: Switch, Top-k, GShard's Top-2, noisy top-k, and the sigmoid Top-k
-- that a bias balances.
local core, lib = ...
local op, context, gate = lib.op, lib.context, lib.gate

local NEVER <const> = -1e30 -- a score that no other can be below

-- The mean over live tokens of logsumexp(z)^2, which keeps scores small (ST-MoE, Zoph et al. 2022).
function gate.z_loss(z)
  context.get("gate.z_loss")
  lib.check_type("gate.z_loss: the scores", z, "tensor")
  return lib.live_mean(op.square(op.logsumexp(z)))
end

-- Each number of what the router sees times a random one in (1 - jitter, 1 + jitter), in training.
local function jittered(x, jitter, g)
  if not g.training or jitter == 0 then
    return x
  end
  return x * (op.random_uniform(core.dim(x, -1)) * (2 * jitter) + (1 - jitter))
end

local function check_jitter(what, jitter)
  if not (jitter >= 0 and jitter < 1) then
    lib.fail("%s: the jitter is %s, expected one in [0,1)", what, tostring(jitter))
  end
end

-- The losses of training on scores z whose probabilities are p; `counted`: the mask whose tokens count.
local function usual_losses(o, z, p, counted, g)
  local losses = {}
  if g.training then
    losses.balance = { gate.balance(p, counted, g), o.balance }
    if o.z_loss > 0 then
      losses.z = { gate.z_loss(z), o.z_loss }
    end
  end
  return losses
end

local function check_k(what, k, experts)
  if k > experts then
    lib.fail("%s: k is %d, but there are %d experts", what, k, experts)
  end
end

-- Options of the gates that may drop: `capacity` is the room of an expert as a multiple of its even share, none by
-- default; `eval_capacity` that of evaluation, the same by default.
local function read_capacity(what, o)
  lib.at_least(what .. ": capacity", o.capacity or 1, 0)
  lib.at_least(what .. ": eval_capacity", o.eval_capacity or 1, 0)
  o.eval_capacity = o.eval_capacity or o.capacity
  return o
end
lib.read_capacity = read_capacity

-- The number of tokens an expert may take now, or nil.
local function capacity_of(self, k, g)
  local o = self.options
  local factor = g.training and o.capacity or not g.training and o.eval_capacity or 0
  return factor > 0 and lib.expert_capacity("gate." .. self.name, factor, k, g.experts, o.groups) or nil
end
lib.capacity_of = capacity_of

-- ---------------------------------------------------------------- Switch (Fedus et al. 2021)

-- The balance loss counts what is chosen, before anything is dropped; it stands behind what queues are made from, so that
-- those are part of the gate's kernel.
local function switch_apply(self, x, g)
  local o = self.options
  local z = lib.gate_scores(self, jittered(x, o.jitter, g), g)
  local p = core.rename(op.softmax(z), "p")
  local mask = op.topk_mask(p, 1)
  local capacity = capacity_of(self, 1, g)
  local kept = capacity and op.capacity(mask, capacity, { groups = o.groups }) or mask
  local losses = usual_losses(o, z, p, mask, g)
  return p, kept, { k = 1, losses = losses, chosen = capacity and mask }
end

function gate.switch(given)
  local o = read_capacity("gate.switch", lib.options("gate.switch", given or {}, { balance = "number?",
    jitter = "number?", z_loss = "number?", capacity = "number?", eval_capacity = "number?", groups = "integer?",
    init = "init?" }))
  o.balance, o.jitter, o.z_loss = o.balance or 0.01, o.jitter or 0, o.z_loss or 0
  lib.at_least("gate.switch: z_loss", o.z_loss, 0)
  check_jitter("gate.switch", o.jitter)
  return lib.make_gate("switch", o, switch_apply)
end

-- ---------------------------------------------------------------- Top-k

-- The k largest of softmax(z), dropless; with k > 1 their weights are divided by their sum unless normalize = false.
-- The balance loss counts first choices.
local function topk_apply(self, x, g)
  local o = self.options
  check_k("gate.topk", o.k, g.experts)
  local z = lib.gate_scores(self, jittered(x, o.jitter, g), g)
  local p = core.rename(op.softmax(z), "p")
  local mask = op.topk_mask(p, o.k)
  local weight = p
  if o.normalize then
    weight = p / op.sum(p * mask, -1)
  end
  local losses = usual_losses(o, z, p, g.training and op.topk_mask(p, 1), g)
  return weight, mask, { k = o.k, losses = losses }
end

function gate.topk(given)
  local o = lib.options("gate.topk", given or {},
    { k = "integer", balance = "number?", jitter = "number?", z_loss = "number?", normalize = "boolean?",
      init = "init?" })
  lib.at_least("gate.topk: k", o.k, 1)
  o.balance, o.jitter, o.z_loss = o.balance or 0.01, o.jitter or 0, o.z_loss or 0
  lib.at_least("gate.topk: z_loss", o.z_loss, 0)
  check_jitter("gate.topk", o.jitter)
  if o.normalize == nil then
    o.normalize = o.k > 1
  end
  return lib.make_gate("topk", o, topk_apply)
end

-- ---------------------------------------------------------------- GShard (Lepikhin et al. 2020)

-- The second expert of a token: the best of the others, with noise while it is sampled in training.
local function second_choice(self, z, first, g)
  if g.training and self.options.second == "sampling" then
    z = z + op.gumbel(g.expert_dim)
  end
  return op.topk_mask(op.select(first, NEVER, z), 1)
end

-- Where second choices wait behind all first ones: in the order of the tokens, or of their largest probability. A token's
-- largest probability is at least 1/E; a power of two below 1/E puts every second choice behind, exactly.
local function queue(self, p, first, second, g)
  if self.options.priority == "token" then
    local order = lib.token_order()
    return first * (order + context.current.rows) + second * order
  end
  local scale = 1
  while scale * g.experts >= 1 do
    scale = scale / 2
  end
  return (first + second * scale) * op.max(p, -1)
end

local function gshard_apply(self, x, g)
  local o = self.options
  check_k("gate.gshard", 2, g.experts)
  local z = lib.gate_scores(self, x, g)
  local p = core.rename(op.softmax(z), "p")
  local first = op.topk_mask(p, 1)
  local second = second_choice(self, z, first, g)
  local weight = p
  if o.normalize == "before" then
    weight = p / (op.sum(p * (first + second), -1) + 1e-9)
  end
  if g.training and o.second == "random" then
    local chance = op.sum(weight * second, -1) * (1 / o.threshold)
    second = second * op.greater(chance, op.random_uniform(1))
  end
  local mask = first + second
  local chosen = mask
  local capacity = capacity_of(self, 2, g)
  if capacity then
    mask = op.capacity(mask, capacity, { groups = o.groups, priority = queue(self, p, first, second, g) })
  end
  if o.normalize == "after" then
    weight = p / op.maximum(op.sum(p * mask, -1), 1.1920929e-7)
  end
  local losses = usual_losses(o, z, p, first, g)
  return weight, mask, { k = 2, losses = losses, chosen = capacity and chosen }
end

-- second: "sampling" adds Gumbel noise to the scores, "all" takes the second best, "random" keeps the second best with
-- probability weight/threshold; in evaluation, without noise, all three are "all".
function gate.gshard(given)
  local o = read_capacity("gate.gshard", lib.options("gate.gshard", given or {}, { balance = "number?",
    z_loss = "number?", second = "string?", threshold = "number?", normalize = "string?", priority = "string?",
    capacity = "number?", eval_capacity = "number?", groups = "integer?", init = "init?" }))
  o.balance, o.threshold, o.z_loss = o.balance or 0.01, o.threshold or 0.5, o.z_loss or 0
  lib.at_least("gate.gshard: z_loss", o.z_loss, 0)
  o.second = lib.choice("gate.gshard: second", o.second or "sampling", { "sampling", "all", "random" })
  o.normalize = lib.choice("gate.gshard: normalize", o.normalize or "after", { "after", "before", "none" })
  o.priority = lib.choice("gate.gshard: priority", o.priority or "token", { "token", "probability" })
  lib.positive("gate.gshard: the threshold", o.threshold)
  return lib.make_gate("gshard", o, gshard_apply)
end

-- ---------------------------------------------------------------- noisy top-k (Shazeer et al. 2017)

-- log(1 + e^x)
local function softplus(x)
  return op.maximum(x, 0) + op.log1p(op.exp(-op.abs(x)))
end

-- The squared coefficient of variation of what each expert got: variance / mean^2 of x[1,E].
local function variation(x, g)
  local mean = op.sum(x, -1) * (1 / g.experts)
  return op.sum(op.square(x - mean), -1) * (1 / g.experts) / (op.square(mean) + 1e-10)
end

-- The probability that a new draw of its noise would keep an expert among the k of a token: the normal distribution of
-- how far its clean score is above the k-th noisy score of the others.
local function chance_to_load(clean, noisy, deviation, mask)
  local next_best = op.max(op.select(mask, NEVER, noisy), -1)
  local last_taken = -op.max(op.select(mask, -noisy, NEVER), -1)
  local distance = (clean - op.select(mask, next_best, last_taken)) / deviation
  return (op.erf(distance * math.sqrt(0.5)) + 1) * 0.5
end

local function noisy_apply(self, x, g)
  local o = self.options
  check_k("gate.noisy_topk", o.k, g.experts)
  local clean, noisy, deviation = lib.gate_scores(self, x, g), nil, nil
  local w = context.param(context.current.path, "noise.w", { g.expert_dim, core.dim(x, -1) }, o.init, self)
  if g.training then
    deviation = softplus(op.matmul(x, w, { tb = true })) + o.epsilon
    noisy = clean + op.random_normal(g.expert_dim) * deviation
  end
  local h = noisy or clean
  local mask = op.topk_mask(h, o.k)
  local weight = op.softmax(op.select(mask, h, NEVER))
  local losses = {}
  if g.training then
    local chance = o.k < g.experts and chance_to_load(clean, noisy, deviation, mask) or mask
    losses.importance = { variation(op.sum(lib.live_rows(weight), 0), g), o.importance }
    losses.load_balance = { variation(op.sum(lib.live_rows(chance), 0), g), o.load }
  end
  return weight, mask, { k = o.k, losses = losses }
end

function gate.noisy_topk(given)
  local o = lib.options("gate.noisy_topk", given or {},
    { k = "integer?", importance = "number?", load = "number?", epsilon = "number?", init = "init?" })
  o.k, o.importance, o.load, o.epsilon = o.k or 2, o.importance or 0.01, o.load or 0.01, o.epsilon or 0.01
  o.init = o.init or lib.init.zeros()
  lib.at_least("gate.noisy_topk: k", o.k, 1)
  lib.positive("gate.noisy_topk: epsilon", o.epsilon)
  return lib.make_gate("noisy_topk", o, noisy_apply)
end

-- ---------------------------------------------------------------- sigmoid Top-k, balanced by a bias (Wang et al. 2024)

-- The bias takes part in the choice only. After every update it grows by `rate` where an expert got less than its share
-- of the tokens, and falls where it got more.
local function sigmoid_apply(self, x, g)
  local o, c = self.options, context.current
  check_k("gate.sigmoid_topk", o.k, g.experts)
  local bias = context.state(c.path, "bias", { g.expert_dim }, lib.init.zeros(), self)
  local p = core.rename(op.sigmoid(lib.gate_scores(self, x, g)), "p")
  local mask = op.topk_mask(p + bias.value, o.k)
  local load = op.sum(mask * c.live_column(), 0)
  local mean = op.sum(load, -1) * (1 / g.experts)
  local direction = op.greater(mean, load) - op.greater(load, mean)
  bias:next(bias.value + op.reshape(direction, { g.expert_dim }) * o.rate)
  local weight = p
  if o.normalize then
    weight = p / (op.sum(p * mask, -1) + 1e-20)
  end
  local losses = g.training and o.balance > 0 and { balance = { gate.balance(p, mask, g), o.balance } } or {}
  return weight * o.scale, mask, { k = o.k, losses = losses }
end

function gate.sigmoid_topk(given)
  local o = lib.options("gate.sigmoid_topk", given or {}, { k = "integer?", rate = "number?", normalize = "boolean?",
    scale = "number?", balance = "number?", init = "init?" })
  o.k, o.rate, o.scale, o.balance = o.k or 2, o.rate or 0.001, o.scale or 1, o.balance or 0
  lib.at_least("gate.sigmoid_topk: k", o.k, 1)
  lib.at_least("gate.sigmoid_topk: rate", o.rate, 0)
  if o.normalize == nil then
    o.normalize = o.k > 1
  end
  return lib.make_gate("sigmoid_topk", o, sigmoid_apply)
end
