-- moec.op: every row of the op table, and the usual compositions of them. Reductions keep the reduced dim, size 1.
local core, lib = ...

local op = {}
for _, name in ipairs(lib.sorted_keys(lib.ops)) do
  op[name] = lib.ops[name]
end
lib.op = op
lib.moec.op = lib.strict(op, "moec.op")

local function tensor(what, value)
  lib.check_type(what, value, "tensor")
end

local function columns_of(x)
  return core.number(core.dim(x, -1))
end

function op.square(x)
  return x * x
end

function op.mean(x, axis)
  tensor("op.mean", x)
  lib.check_type("op.mean: axis", axis, "integer")
  if core.is_ragged(x) and (axis == 0 or axis == -#x:shape()) then
    lib.fail("op.mean: the number of live rows of %s is not known here, divide op.sum by it", core.type(x))
  end
  return op.sum(x, axis) * (1 / core.number(core.dim(x, axis)))
end

function op.relu(x)
  return (op.maximum(x, 0))
end

-- The tanh form of GELU, as in GPT-2.
function op.gelu(x)
  tensor("op.gelu", x)
  local inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
  return x * (op.tanh(inner) + 1) * 0.5
end

-- log(sum(exp(x))) over the last dim; the largest is taken out and is constant for differentiation.
function op.logsumexp(x)
  tensor("op.logsumexp", x)
  local largest = op.stop(op.max(x, -1))
  return op.log(op.sum(op.exp(x - largest), -1)) + largest
end

function op.log_softmax(x)
  return x - op.logsumexp(x)
end

-- x / max(|x|, 1e-12) over the last dim.
function op.l2_normalize(x)
  tensor("op.l2_normalize", x)
  return x * op.rsqrt(op.maximum(op.sum(x * x, -1), 1e-24))
end

function op.layer_norm(x, gain, bias, epsilon)
  tensor("op.layer_norm", x)
  local scale = 1 / columns_of(x)
  local centred = x - op.sum(x, -1) * scale
  local variance = op.sum(centred * centred, -1) * scale
  return centred * op.rsqrt(variance + (epsilon or 1e-5)) * gain + bias
end

-- -log softmax(logits)[target] of every row, [N,1]; label smoothing s spreads s evenly over all classes.
function op.cross_entropy(logits, target, smoothing)
  tensor("op.cross_entropy: logits", logits)
  local log_sum, hit = op.logsumexp(logits), op.pick(logits, target)
  smoothing = smoothing or 0
  if smoothing == 0 then
    return log_sum - hit
  end
  return log_sum - hit * (1 - smoothing) - op.sum(logits, -1) * (smoothing / columns_of(logits))
end

-- Random numbers: `columns` of them per token (per pair inside an expert), or per row of `index`. Training only.
function op.random_uniform(columns, index)
  return (lib.context.uniform("op.random_uniform", columns, index))
end

function op.gumbel(columns, index)
  local u = lib.context.uniform("op.gumbel", columns, index)
  return core.rename(-op.log(-op.log(u)), "gumbel")
end

-- Box-Muller of two uniform draws.
function lib.normal_from(u1, u2)
  return op.sqrt(op.log(u1) * -2) * op.cos(u2 * (2 * math.pi))
end

function op.random_normal(columns, index)
  local u1 = lib.context.uniform("op.random_normal", columns, index)
  return lib.normal_from(u1, lib.context.uniform("op.random_normal", columns, index))
end

lib.activations = { gelu = op.gelu, relu = op.relu }
