-- moec.nn: modules. nn.KIND(x, options) makes the module's parameters in the current scope and applies it;
-- nn.KIND(options) gives a module value, and applying that twice shares its parameters. docs/names.md lists the
-- parameters and their initialisation.
local core, lib = ...
local op, context = lib.op, lib.context

local nn = {}
lib.nn = nn
lib.moec.nn = lib.strict(nn, "moec.nn")

local WEIGHT = lib.init.normal(0.02)
lib.default_weight = WEIGHT

local Module = {}
Module.__metatable = false

-- The value of the module's parameter `name`.
local function parameter(self, name, shape, init)
  return context.param(self.path, name, shape, init, self)
end

function Module:__call(...)
  context.get("nn." .. self.module)
  return context.within(self.path, self.apply, self, ...)
end

-- Registers nn[kind]; apply(self, tensors...) finds its checked options in self.options.
local function define(kind, spec, apply)
  spec.name = "string?"
  nn[kind] = function(...)
    local arguments = table.pack(...)
    local given = arguments[arguments.n]
    local is_options = arguments.n > 0 and type(given) == "table"
    local tensors = is_options and arguments.n - 1 or arguments.n
    for i = 1, tensors do
      lib.check_type("nn." .. kind .. ": argument " .. i, arguments[i], "tensor")
    end
    local options = lib.options("nn." .. kind, is_options and given or {}, spec)
    local self = setmetatable({
      kind = "module",
      module = kind,
      options = options,
      path = context.module_path(kind, options.name),
      apply = apply,
    }, Module)
    if tensors == 0 then
      return self
    end
    return self(table.unpack(arguments, 1, tensors))
  end
end
lib.define_module = define

local function need_rows(what, x)
  lib.check_type(what, x, "tensor")
  if #x:shape() ~= 2 then
    lib.fail("%s: found %s, expected rows, f32[N,D]", what, core.type(x))
  end
end
lib.need_rows = need_rows

-- ---------------------------------------------------------------- products

define("linear", { out = "integer", bias = "boolean?", init = "init?" }, function(self, x)
  local o = self.options
  need_rows("nn.linear", x)
  lib.at_least("nn.linear: out", o.out, 1)
  local y = op.matmul(x, parameter(self, "w", { o.out, core.dim(x, -1) }, o.init or WEIGHT), { tb = true })
  if o.bias == false then
    return y
  end
  return y + parameter(self, "b", { o.out }, lib.init.zeros())
end)

-- ---------------------------------------------------------------- rows by index

local function table_of(self, rows_name, rows)
  local o = self.options
  lib.at_least("nn." .. self.module .. ": d", o.d, 1)
  lib.at_least("nn." .. self.module .. ": " .. rows_name, rows, 1)
  local rows_dim = core.symbol(rows_name == "vocab" and "V" or "T", rows, "module")
  return parameter(self, "w", { rows_dim, core.symbol("D", o.d, "module") }, o.init or WEIGHT)
end

local function embedding_table(self)
  return table_of(self, "vocab", self.options.vocab)
end

define("embedding", { vocab = "integer", d = "integer", init = "init?" }, function(self, ids)
  return op.gather_rows(embedding_table(self), ids)
end)

-- The scores of every token of the vocabulary: x times the rows of the embedding. A sample wants one row only.
function nn.tied_logits(x, embedding)
  local c = context.get("nn.tied_logits")
  need_rows("nn.tied_logits", x)
  if type(embedding) ~= "table" or rawget(embedding, "module") ~= "embedding" then
    lib.fail("nn.tied_logits: found %s, expected the module value of an nn.embedding", lib.describe(embedding))
  end
  if c.last then
    x = op.gather_rows(x, c.last)
  end
  return core.rename(op.matmul(x, embedding_table(embedding), { tb = true }), "logits")
end

define("positions", { max = "integer", d = "integer", init = "init?" }, function(self, position)
  return op.gather_rows(table_of(self, "max", self.options.max), position)
end)

-- ---------------------------------------------------------------- the blocks of a transformer

define("layer_norm", { eps = "number?" }, function(self, x)
  need_rows("nn.layer_norm", x)
  local d = core.dim(x, -1)
  local gain, bias = parameter(self, "g", { d }, lib.init.ones()), parameter(self, "b", { d }, lib.init.zeros())
  return op.layer_norm(x, gain, bias, self.options.eps)
end)

local attention_options =
  { heads = "integer", causal = "boolean?", segments = "tensor", init = "init?", out_init = "init?" }

define("attention", attention_options, function(self, x)
  local o = self.options
  need_rows("nn.attention", x)
  local d = core.dim(x, -1)
  if o.heads < 1 or core.number(d) % o.heads ~= 0 then
    lib.fail("nn.attention: %d heads do not divide the %d columns of x", o.heads, core.number(d))
  end
  local weight, bias = parameter(self, "qkv.w", { d * 3, d }, o.init or WEIGHT), parameter(self, "qkv.b", { d * 3 }, lib.init.zeros())
  local q, k, v = op.split(op.matmul(x, weight, { tb = true }) + bias, { parts = 3 })
  local y = op.attention(q, k, v, o.segments, { heads = o.heads, causal = o.causal or false })
  local out = parameter(self, "out.w", { d, d }, o.out_init or o.init or WEIGHT)
  return op.matmul(y, out, { tb = true }) + parameter(self, "out.b", { d }, lib.init.zeros())
end)

-- x with each element set to 0 with probability p and the rest scaled by 1/(1-p), in training. p must be a number.
function nn.dropout(x, p, options)
  local c = context.get("nn.dropout")
  need_rows("nn.dropout", x)
  lib.check_type("nn.dropout: the probability", p, "number")
  if not (p >= 0 and p < 1) then
    lib.fail("nn.dropout: the probability is %s, expected one in [0,1)", tostring(p))
  end
  local path = context.module_path("dropout", lib.options("nn.dropout", options or {}, { name = "string?" }).name)
  if not c.training or p == 0 then
    return x
  end
  return context.within(path, function()
    local u = context.uniform("nn.dropout", core.dim(x, -1))
    return op.select(op.greater(u, p), x * (1 / (1 - p)), 0)
  end)
end

-- ---------------------------------------------------------------- the dense FFN: the MoE layer's expert, alone

function lib.activation(what, name)
  return lib.activations[lib.choice(what .. ": activation", name or "gelu", lib.sorted_keys(lib.activations))]
end

define("ffn", { hidden = "integer", activation = "string?", init = "init?", out_init = "init?" }, function(self, x)
  local o = self.options
  need_rows("nn.ffn", x)
  return lib.single_expert(self.path, o, 1)(x)
end)
