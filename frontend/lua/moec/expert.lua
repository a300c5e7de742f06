-- Experts: the FFN of two products, or a function(x, e) of the script. All experts of a layer share one definition;
-- their parameters have the number of experts as first dim. A lone expert (the shared phase, the dense FFN) works on
-- rows of tokens by plain products, under the same names; several work on packed rows by grouped products.
local core, lib = ...
local op, context = lib.op, lib.context

-- What differs between one expert and several: product(x, w[E,out,in]), product_back(x, w[E,in,out]), row(b[E,n]).
local single = {}

local function flat(w)
  return op.reshape(w, { core.dim(w, 1), core.dim(w, 2) })
end

function single.product(_, x, w)
  return op.matmul(x, flat(w), { tb = true })
end

function single.product_back(_, x, w)
  return op.matmul(x, flat(w))
end

function single.row(_, b)
  return b
end

local packed = {}

function packed.product(rows, x, w)
  return op.grouped_matmul(x, w, rows.off, { tb = true })
end

function packed.product_back(rows, x, w)
  return op.grouped_matmul(x, w, rows.off)
end

function packed.row(rows, b)
  return op.expand(b, rows.off)
end

-- ---------------------------------------------------------------- the FFN

local function ffn(path, options, experts, kind, rows)
  local what = options.what or "nn.ffn"
  local activation = lib.activation(what, options.activation)
  lib.at_least(what .. ": hidden", options.hidden, 1)
  return function(x)
    local e, f, d = experts, core.symbol("F", options.hidden, "module"), core.dim(x, -1)
    local function parameter(name, shape, init)
      return context.param(path, name, shape, init, options, true)
    end
    local w1 = parameter("w1", { e, f, d }, options.init or lib.default_weight)
    local b1 = parameter("b1", { e, f }, lib.init.zeros())
    local w2 = parameter("w2", { e, f, d }, options.out_init or options.init or lib.default_weight)
    local b2 = parameter("b2", { e, d }, lib.init.zeros())
    local h = activation(kind.product(rows, x, w1) + kind.row(rows, b1))
    return kind.product_back(rows, h, w2) + kind.row(rows, b2)
  end
end

-- ---------------------------------------------------------------- experts written in the script

-- The record `e`: linear, layer_norm and param with one set of parameters per expert.
local function expert_record(path, owner, experts, kind, rows)
  local e, counts = {}, {}
  local function module_path(name, given)
    if given then
      return context.join(path, context.check_name("option `name`", given))
    end
    counts[name] = (counts[name] or 0) + 1
    return context.join(path, counts[name] == 1 and name or name .. "_" .. counts[name])
  end
  local function parameter(at, name, shape, init)
    return context.param(at, name, { experts, table.unpack(shape) }, init, owner, true)
  end

  function e.linear(x, options)
    lib.need_rows("e.linear", x)
    local o = lib.options("e.linear", options,
      { out = "integer", bias = "boolean?", init = "init?", name = "string?" })
    local at = module_path("linear", o.name)
    lib.at_least("e.linear: out", o.out, 1)
    local y = kind.product(rows, x, parameter(at, "w", { o.out, core.dim(x, -1) }, o.init or lib.default_weight))
    if o.bias == false then
      return y
    end
    return y + kind.row(rows, parameter(at, "b", { o.out }, lib.init.zeros()))
  end

  function e.layer_norm(x, options)
    lib.need_rows("e.layer_norm", x)
    local o = lib.options("e.layer_norm", options or {}, { eps = "number?", name = "string?" })
    local at, d = module_path("layer_norm", o.name), core.dim(x, -1)
    local gain, bias = parameter(at, "g", { d }, lib.init.ones()), parameter(at, "b", { d }, lib.init.zeros())
    return op.layer_norm(x, kind.row(rows, gain), kind.row(rows, bias), o.eps)
  end

  -- A vector of n numbers per expert, beside every row of that expert.
  function e.param(name, shape, init)
    context.check_name("e.param", name)
    lib.check_type("e.param: the shape", shape, "table")
    lib.check_type("e.param: the third argument", init, "init")
    if #shape ~= 1 then
      lib.fail("e.param: %s has %d dims, expected one; matrices are e.linear", name, #shape)
    end
    lib.check_type("e.param: the dim of " .. name, shape[1], "integer")
    return kind.row(rows, parameter(path, name, shape, init))
  end

  return lib.strict(e, "the expert record")
end

local function written(path, options, experts, kind, rows)
  local e = expert_record(path, options, experts, kind, rows)
  return function(x)
    local y = core.call(nil, options.expert, x, e)
    lib.check_type(options.what .. ": the result of expert", y, "tensor")
    if not core.same_type(x, y) then
      lib.fail("%s: the expert gives %s, expected %s", options.what, core.type(y), core.type(x))
    end
    return y
  end
end

-- ---------------------------------------------------------------- both

local function make(path, options, experts, kind, rows)
  return (options.expert and written or ffn)(path, options, experts, kind, rows)
end

-- The expert of `options` (hidden or expert) as a function of rows of tokens.
function lib.single_expert(path, options, experts)
  return make(path, options, experts, single, {})
end

-- The experts as a function of packed rows; rows: { pair, off, slot }.
function lib.packed_experts(path, options, experts, rows)
  return make(path, options, experts, packed, rows)
end
