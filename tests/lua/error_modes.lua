-- Every mode of a phase makes the same parameters.
-- RUN: not %moec ir %s -D case=1 2>&1 | FileCheck %s --check-prefix=MORE
-- RUN: not %moec ir %s -D case=2 2>&1 | FileCheck %s --check-prefix=LESS
-- RUN: not %moec ir %s -D case=3 2>&1 | FileCheck %s --check-prefix=OTHER
-- RUN: not %moec ir %s -D case=4 2>&1 | FileCheck %s --check-prefix=KEPT
-- RUN: not %moec ir %s -D case=5 2>&1 | FileCheck %s --check-prefix=TWICE
-- RUN: not %moec ir %s -D case=6 2>&1 | FileCheck %s --check-prefix=RANDOM
local moec = require "moec"
local nn, op = moec.nn, moec.op
local c = moec.config { case = 0, batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }
local kept
local function forward(b)
  local x = embed(b.tokens)
  if c.case == 1 and not b.training then
    x = nn.linear(x, { out = 16 }) -- MORE: error_modes.lua:[[@LINE]]: parameter linear.w is created in mode eval of phase train, but not in mode train
  elseif c.case == 2 and b.training then
    x = nn.linear(x, { out = 16 }) -- LESS: error_modes.lua:[[@LINE]]: parameter linear.w is created in mode train of phase train, but not in mode eval
  elseif c.case == 3 then
    moec.param("p", { b.training and 2 or 3 }, moec.init.zeros()) -- OTHER: error_modes.lua:[[@LINE]]: parameter p is [3] in mode eval of phase train, but [2] in mode train
  elseif c.case == 4 then
    kept = kept or x
    x = x + kept -- KEPT: error_modes.lua:[[@LINE]]: this tensor was made in another call of forward
  elseif c.case == 5 then
    nn.linear(x, { out = 16, name = "same" })
    nn.linear(x, { out = 16, name = "same" }) -- TWICE: error_modes.lua:[[@LINE]]: parameter same.w exists already, made in line [[@LINE-1]]
  elseif c.case == 6 then
    x = x + op.random_uniform(16) -- RANDOM: error_modes.lua:[[@LINE]]: op.random_uniform: random numbers are drawn in training only
  end
  return nn.tied_logits(x, embed)
end
return moec.model {
  name = "m", task = "lm", config = c, steps = 10, optimizer = moec.optim.adam { lr = 1e-3 }, forward = forward,
}
