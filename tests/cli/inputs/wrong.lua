local moec = require "moec"
local nn, op = moec.nn, moec.op
local c = moec.config { case = "", batch = 2, seq = 8, layers = 2, rate = 0.5 }
local embed = nn.embedding { vocab = 32, d = 16 }
local reach = {
  io = function() return io.open("/etc/passwd") end,
  os = function() return os.execute("true") end,
  load = function() return load("return 1") end,
  loadfile = function() return loadfile("/etc/passwd") end,
  dofile = function() return dofile("/etc/passwd") end,
  debug = function() return debug.getinfo(1) end,
  package = function() return package.loadlib("a", "b") end,
  coroutine = function() return coroutine.wrap(print) end,
  pcall = function() return pcall(print) end,
  setmetatable = function() return setmetatable({}, { __gc = print }) end,
  dump = function() return string.dump(print) end,
  require = function() return require "os" end,
  rep = function() return ("x"):rep(1 << 40) end,
  error = function() error { "a table" } end,
}
local wrong = {
  shape = function(x) return op.matmul(x, x) end,
  key = function(x) return nn.ffn(x, { hiden = 32 }) end,
  op = function(x) return op.sofmax(x) end,
  huge = function(x) return nn.linear(x, { out = 1 << 50 }) end,
  zero = function(x) return nn.linear(x, { out = 0 }) end,
}
if reach[c.case] then reach[c.case]() end
return moec.model {
  name = "wrong", task = "lm", config = c, steps = 2,
  forward = function(b) return nn.tied_logits((wrong[c.case] or embed)(wrong[c.case] and embed(b.tokens) or b.tokens), embed) end,
  optimizer = moec.optim.adam { lr = 1e-3 }, phases = { { name = "p" } },
}
