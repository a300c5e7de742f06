-- DSelect-k, whose weights become exactly sparse, and expert choice, where experts take tokens.
local core, lib = ...
local op, context, gate = lib.op, lib.context, lib.gate

-- ---------------------------------------------------------------- DSelect-k (Hazimeh et al. 2021)

-- 0 up to -gamma/2, 1 from gamma/2 on, between them the cubic that joins both smoothly: -2 (t/gamma)^3 + 1.5 t/gamma + 0.5,
-- as u^2 (3 - 2u) of u = t/gamma + 0.5, which is 0 only where u is.
local function smooth_step(t, gamma)
  local u = op.minimum(op.maximum(t * (1 / gamma) + 0.5, 0), 1)
  return u * u * (3 - u * 2)
end

local function bits_of(experts)
  local bits = 0
  while 2 ^ bits < experts do
    bits = bits + 1
  end
  return bits
end

-- Bit number `bit` of `bits` of each expert's number, the highest first: 0 or 1, [1,E].
local function bit_row(g, bit, bits)
  local number = op.reshape(op.iota(g.expert_dim), { 1, g.expert_dim })
  local shifted = op.div(number, 2 ^ (bits - 1 - bit) | 0)
  return op.cast(shifted - op.div(shifted, 2) * 2, { dtype = "f32" })
end

-- Column `column` of x[N,C] as [N,1].
local function column_of(x, column)
  return op.pick(x, op.broadcast(op.const(column, "i32"), { core.dim(x, 0), 1 }))
end

-- x w^T + b with parameters NAME.w and NAME.b, both uniform in (-bound, bound).
local function dense(self, name, x, out, bound)
  local path, init = context.current.path, lib.init.uniform(bound)
  local w = context.param(path, name .. ".w", { out, core.dim(x, -1) }, init, self)
  return op.matmul(x, w, { tb = true }) + context.param(path, name .. ".b", { out }, init, self)
end

-- One selector: the product over bits of the step or its complement, by the bit of the expert's number; [N,E].
local function selector(step, complement, number, rows, bits)
  local r
  for bit = 1, bits do
    local column = number * bits + bit - 1
    local factor = column_of(step, column) * rows[bit] + column_of(complement, column) * (1 - rows[bit])
    r = r and r * factor or factor
  end
  return r
end

-- Sums over the tokens of the whole step, of which this run holds one micro-batch.
local function sum_of_step(x)
  return op.sum(lib.live_rows(op.sum(x, -1)), 0) * context.current.accumulate
end

local function dselect_apply(self, x, g)
  local o = self.options
  local bits, rows = bits_of(g.experts), {}
  for bit = 1, bits do
    rows[bit] = bit_row(g, bit - 1, bits)
  end
  local z = dense(self, "selector", x, o.k * bits, o.gamma / 100)
  local step, complement = smooth_step(z, o.gamma), smooth_step(-z, o.gamma)
  local share = op.softmax(dense(self, "mixture", x, o.k, 0.05))
  local weight, entropy, unreached
  for j = 0, o.k - 1 do
    local r = selector(step, complement, j, rows, bits)
    local part = r * column_of(share, j)
    weight = weight and weight + part or part
    if g.training then
      local spread = -r * op.log(r + 1e-6)
      local missing = 1 / op.sum(r, -1)
      entropy = entropy and entropy + spread or spread
      unreached = unreached and unreached + missing or missing
    end
  end
  local losses = {}
  if g.training and o.entropy > 0 then
    losses.entropy = { sum_of_step(entropy), o.entropy }
  end
  if g.training and 2 ^ bits ~= g.experts then
    losses.unreached = { sum_of_step(unreached), o.unreached }
  end
  return weight, op.greater(weight, 0), { k = g.experts, losses = losses }
end

-- k selectors; gamma: the width of the step; entropy: weight of the sum over the tokens of a step of the selectors'
-- entropies; unreached: of the sum of 1 / (the mass on experts that exist), where their number is no power of two.
function gate.dselect(given)
  local o = lib.options("gate.dselect", given or {},
    { k = "integer?", gamma = "number?", entropy = "number?", unreached = "number?" })
  o.k, o.gamma, o.entropy, o.unreached = o.k or 2, o.gamma or 1, o.entropy or 0, o.unreached or 1
  lib.at_least("gate.dselect: k", o.k, 1)
  lib.at_least("gate.dselect: entropy", o.entropy, 0)
  lib.positive("gate.dselect: gamma", o.gamma)
  return lib.make_gate("dselect", o, dselect_apply)
end

-- ---------------------------------------------------------------- expert choice (Zhou et al. 2022)

-- Every expert takes the tokens of its slice with the largest probability, as many as give each token `capacity` experts
-- in the mean. No loss is needed. What a token gets depends on all tokens of its slice, later ones of its text too:
-- perplexities of such a model are not those of a causal one.
local function expert_choice_apply(self, x, g)
  local o, what = self.options, "gate.expert_choice"
  local slices, rows = lib.slices(what, o.groups)
  local taken = math.max(1, math.floor(math.min(rows, o.capacity * rows / g.experts)))
  local p = core.rename(op.softmax(lib.gate_scores(self, x, g)), "p")
  local rank = op.rank_rows(lib.live_rows(p), { groups = slices })
  return p, op.greater(op.const(taken, "i32"), rank), { k = g.experts, rows = slices * taken * g.experts }
end

function gate.expert_choice(given)
  local o = lib.options("gate.expert_choice", given or {}, { capacity = "number?", groups = "integer?", init = "init?" })
  o.capacity = o.capacity or 2
  lib.positive("gate.expert_choice: the capacity", o.capacity)
  return lib.make_gate("expert_choice", o, expert_choice_apply)
end
