-- moec.init: how parameters start. An initialisation has a text for the reader and a function that draws rows.
-- The draws of a parameter depend on its name and the seed only: index = flat row, step 0, stream = its name.
local core, lib = ...
local op = lib.op

local init = {}
lib.init = init
lib.moec.init = lib.strict(init, "moec.init")

local function number(what, value, least)
  lib.check_type(what, value, "number")
  return lib.at_least(what, value, least)
end

-- Uniform numbers for a parameter of these dims: [product of all but the last, last].
function lib.parameter_uniform(dims, step, stream)
  local rows = dims[2] and dims[1] or 1
  for i = 2, #dims - 1 do
    rows = rows * dims[i]
  end
  return op.uniform(op.iota(rows), step, { columns = dims[#dims], tag = core.tag(stream) })
end

function lib.parameter_normal(dims, step, stream)
  local u1 = lib.parameter_uniform(dims, step, stream)
  return lib.normal_from(u1, lib.parameter_uniform(dims, step, stream .. "#2"))
end

local function short(value)
  return string.format("%.6g", value)
end

function init.normal(deviation)
  number("init.normal: deviation", deviation, 0)
  return {
    kind = "init",
    text = "normal(" .. short(deviation) .. ")",
    draw = function(name, dims)
      return op.reshape(lib.parameter_normal(dims, op.const(0, "i32"), name) * deviation, dims)
    end,
  }
end

-- Uniform in (-bound, bound).
function init.uniform(bound)
  number("init.uniform: bound", bound, 0)
  return {
    kind = "init",
    text = "uniform(" .. short(bound) .. ")",
    draw = function(name, dims)
      return op.reshape((lib.parameter_uniform(dims, op.const(0, "i32"), name) - 0.5) * (2 * bound), dims)
    end,
  }
end

-- Rows at right angles, each as long as `gain`: the orthogonal factor of a matrix of normal numbers, towards which
-- x <- 1.5 x - 0.5 x x^T x goes from singular values below the square root of 3.
function init.orthogonal(gain)
  number("init.orthogonal: gain", gain, 0)
  local ITERATIONS <const> = 16
  return {
    kind = "init",
    text = "orthogonal(" .. short(gain) .. ")",
    draw = function(name, dims)
      local rows, columns = core.number(dims[1]), core.number(dims[#dims])
      if #dims ~= 2 or rows > columns then
        lib.fail("init.orthogonal: %s has %d dims of %d rows, expected a matrix of at most as many rows as columns", name,
          #dims, rows)
      end
      local x = lib.parameter_normal(dims, op.const(0, "i32"), name) * (1 / (math.sqrt(rows) + math.sqrt(columns)))
      for _ = 1, ITERATIONS do
        x = x * 1.5 - op.matmul(op.matmul(x, x, { tb = true }), x) * 0.5
      end
      return op.reshape(x * gain, dims)
    end,
  }
end

function init.constant(value)
  lib.check_type("init.constant", value, "number")
  return {
    kind = "init",
    text = value == 0 and "zeros" or value == 1 and "ones" or "constant(" .. short(value) .. ")",
    draw = function(_, dims)
      return op.broadcast(op.const(value), dims)
    end,
  }
end

function init.zeros()
  return init.constant(0)
end

function init.ones()
  return init.constant(1)
end
