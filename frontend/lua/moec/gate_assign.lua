-- Gates that assign tokens without learning the choice from the task: by a table of token ids (Hash), by a balanced
-- assignment (BASE), by a router that is distilled and then frozen (StableMoE).
local core, lib = ...
local op, context, gate = lib.op, lib.context, lib.gate

local function token_ids(what, g)
  if not g.ids then
    lib.fail("%s: it routes by token ids: give nn.moe the option `ids`", what)
  end
  return g.ids
end

-- ---------------------------------------------------------------- tables for Hash (Roller et al. 2021)

local function as_number(x)
  return op.cast(x, { dtype = "f32" })
end

local function random_experts(rows, experts)
  local u = op.uniform(op.iota(rows), op.const(0, "i32"), { columns = 1, tag = core.tag("gate.hash") })
  return as_number(op.cast(u * experts, { dtype = "i32" }))
end

-- Lloyd's algorithm on the rows of x[V,D] from evenly spaced ones; the cluster of every row, i32[V,1].
local function clusters_of(x, experts, iterations)
  local vocab = core.number(core.dim(x, 0))
  local centre = op.gather_rows(x, op.iota(experts) * (vocab // experts))
  local function nearest()
    local half_square = op.reshape(op.sum(centre * centre, -1) * 0.5, { 1, experts })
    return op.argmax(op.matmul(x, centre, { tb = true }) - half_square)
  end
  for _ = 1, iterations do
    local members = op.one_hot(nearest(), { columns = experts })
    local count = op.reshape(op.sum(members, 0), { experts, 1 })
    centre = op.select(count, op.matmul(members, x, { ta = true }) / op.maximum(count, 1), centre)
  end
  return nearest()
end

-- The members of a cluster one after another to all experts, each cluster from an expert of its own on.
local function dispersed(cluster, experts, vocab)
  local members = op.one_hot(cluster, { columns = experts })
  local place = op.rank_rows(members * (vocab - as_number(op.iota(vocab))), { groups = 1 })
  local own = op.cast(op.sum(members * as_number(place), -1), { dtype = "i32" }) + cluster
  return own - op.div(own, experts) * experts
end

-- The table of a hash gate: [V,1], the expert of every token id, the same for all layers. It is made where it first
-- occurs, by @init or by the transition into its phase, which knows the embedding trained before.
local function table_init(o, experts)
  local text = string.format("%s(%d)", o.table == "balanced" and "token_balance" or "hash_" .. o.table, experts)
  local function draw(_, _, before)
    if o.table == "random" or o.table == "balanced" then
      return random_experts(o.vocab, experts)
    elseif not before or not before.params[o.embedding] then
      lib.fail("gate.hash: table = \"%s\" clusters the parameter %s, which no earlier phase has", o.table, o.embedding)
    end
    local cluster = clusters_of(core.parameter(o.embedding, before.table), experts, o.iterations)
    return as_number(o.table == "dispersed" and dispersed(cluster, experts, o.vocab) or cluster)
  end
  return { kind = "init", text = text, draw = draw }
end

-- Weight 1, no parameters, no losses; the same in evaluation.
local function hash_apply(self, _, g)
  local o = self.options
  local ids = token_ids("gate.hash", g)
  local hash_table = context.state("", o.name, { o.vocab, 1 }, table_init(o, g.experts), self)
  local expert = op.cast(op.gather_rows(hash_table.value, ids), { dtype = "i32" })
  local mask = op.one_hot(expert, { columns = g.expert_dim })
  return mask, mask, { k = 1 }
end

-- table: "random"; "balanced": by frequency, most frequent token first to the expert that has least, counted by the
-- trainer on its training data at the start; "clustered": by k-means over the embedding of an earlier phase;
-- "dispersed": the members of each such cluster spread over all experts.
function gate.hash(given)
  local o = lib.options("gate.hash", given,
    { vocab = "integer", table = "string?", embedding = "string?", iterations = "integer?", name = "string?" })
  o.table = lib.choice("gate.hash: table", o.table or "random", { "random", "balanced", "clustered", "dispersed" })
  o.embedding, o.iterations, o.name = o.embedding or "embedding.w", o.iterations or 10, o.name or "hash_table"
  lib.at_least("gate.hash: vocab", o.vocab, 1)
  lib.at_least("gate.hash: iterations", o.iterations, 1)
  return lib.make_gate("hash", o, hash_apply)
end

-- ---------------------------------------------------------------- BASE (Lewis et al. 2021)

local function orthogonal(given)
  return given or lib.init.orthogonal(0.1)
end

-- In training every expert takes as many tokens of a slice as any other, by auction on the scores; in evaluation each
-- token goes to the expert of its largest score. The weight is the sigmoid of the score, which alone teaches the router.
local function base_apply(self, x, g)
  local z = lib.gate_scores(self, x, g)
  local weight = core.rename(op.sigmoid(z), "alpha")
  if g.training then
    local slices = lib.slices("gate.base", self.options.groups)
    return weight, op.balanced_assignment(op.stop(z), { groups = slices }), { k = 1 }
  end
  return weight, op.topk_mask(z, 1), { k = 1 }
end

function gate.base(given)
  local o = lib.options("gate.base", given or {}, { groups = "integer?", init = "init?" })
  o.init = orthogonal(o.init)
  return lib.make_gate("base", o, base_apply)
end

-- ---------------------------------------------------------------- StableMoE (Dai et al. 2022)

-- How far each expert's load is from the mean, times the scores of its tokens, per token. The load is constant.
local function stable_balance(mask, weight, g)
  local c = context.current
  local load = op.sum(mask * c.live_column(), 0)
  local excess = op.stop(load * g.experts / c.live_count() - 1)
  return op.sum(excess * op.sum(lib.live_rows(mask * weight), 0), -1) / c.live_count()
end

-- Stage 1: tokens go to the expert of the largest score, while a router that sees the token's id alone learns that
-- choice. Stage 2, and evaluation in both: that router decides; in stage 2 it is frozen (phase.stable).
local function stable_apply(self, x, g)
  local o, path = self.options, context.current.path
  local z = lib.gate_scores(self, x, g)
  local weight = core.rename(op.sigmoid(z), "alpha")
  local words = context.param(path, "router.words", { o.vocab, o.d }, lib.init.normal(1), self)
  local centres = context.param(path, "router.w", { g.expert_dim, o.d }, orthogonal(), self)
  local distilled = op.matmul(op.gather_rows(words, token_ids("gate.stable", g)), centres, { tb = true })
  local capacity = lib.capacity_of(self, 1, g)
  local function kept(mask)
    return capacity and op.capacity(mask, capacity, { groups = o.groups }) or mask
  end
  if not g.training or o.stage == 2 then
    local mask = op.topk_mask(distilled, 1)
    return weight, kept(mask), { k = 1, chosen = capacity and mask }
  end
  local target = op.argmax(z)
  local mask = op.one_hot(target, { columns = g.expert_dim })
  return weight, kept(mask), { k = 1, chosen = capacity and mask, losses = {
    balance = { stable_balance(mask, weight, g), o.balance },
    distill = { lib.live_mean(op.cross_entropy(distilled, target)), o.distill },
  } }
end

local function stable(options, stage)
  local o = {}
  for key, value in next, options do
    o[key] = value
  end
  o.stage = stage
  return lib.make_gate("stable", o, stable_apply, {
    second_stage = function()
      return stable(options, 2)
    end,
  })
end

function gate.stable(given)
  local o = lib.read_capacity("gate.stable", lib.options("gate.stable", given, { vocab = "integer", d = "integer?",
    balance = "number?", distill = "number?", capacity = "number?", eval_capacity = "number?", groups = "integer?",
    init = "init?" }))
  o.d, o.balance, o.distill, o.init = o.d or 50, o.balance or 0.3, o.distill or 0.3, orthogonal(o.init)
  lib.at_least("gate.stable: vocab", o.vocab, 1)
  lib.at_least("gate.stable: d", o.d, 1)
  return stable(o, 1)
end
