-- RUN: not %moec ir %s -D case=1 2>&1 | FileCheck %s --check-prefix=UNKNOWN
-- RUN: not %moec ir %s -D case=2 2>&1 | FileCheck %s --check-prefix=TENSOR
-- RUN: not %moec ir %s -D case=3 2>&1 | FileCheck %s --check-prefix=SHAPE
-- RUN: not %moec ir %s -D case=4 2>&1 | FileCheck %s --check-prefix=ATTRIBUTE
-- RUN: not %moec ir %s -D case=5 2>&1 | FileCheck %s --check-prefix=OPERAND
-- RUN: not %moec ir %s -D case=6 2>&1 | FileCheck %s --check-prefix=MODULE
-- RUN: not %moec ir %s -D case=7 2>&1 | FileCheck %s --check-prefix=RESULT
-- RUN: not %moec ir %s -D case=8 2>&1 | FileCheck %s --check-prefix=NAME
-- RUN: not %moec ir %s -D case=9 2>&1 | FileCheck %s --check-prefix=RECORD
-- RUN: not %moec ir %s -D case=10 2>&1 | FileCheck %s --check-prefix=STEP
local moec = require "moec"
local nn, op = moec.nn, moec.op
local c = moec.config { case = 0, batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }
local cases = {
  function(x) return nn.ffn(x, { hiden = 32 }) end, -- UNKNOWN: error_option.lua:[[@LINE]]: nn.ffn: unknown option `hiden`, expected `hidden`
  function(x) return nn.dropout(x, x) end, -- TENSOR: error_option.lua:[[@LINE]]: nn.dropout: the probability: found tensor f32[N,D], expected a number
  function(x)
    return op.matmul(x, x) -- SHAPE: error_option.lua:[[@LINE]]: matmul: {{.*}}f32[N,D]
  end,
  function(x) return op.softmax(x, { axis = 0 }) end, -- ATTRIBUTE: error_option.lua:[[@LINE]]: op.softmax: unknown attribute axis, expected none
  function(x) return op.exp("x") + x end, -- OPERAND: error_option.lua:[[@LINE]]: op.exp: operand 1: found a string, expected a tensor
  function(x) return nn.atention(x) end, -- MODULE: error_option.lua:[[@LINE]]: moec.nn has no `atention`, the nearest is `attention`
  function(x) return op.reshape(x, { 2, 8, 16 }) end, -- RESULT: error_option.lua:{{[0-9]+}}: the result of forward is f32[2,8,16], expected scores of every token, f32[16,vocabulary]
  function(x) return moec.param("a b", { 3 }, moec.init.zeros()) + x end, -- NAME: error_option.lua:[[@LINE]]: moec.param: found "a b", expected a name
  function(x) return moec.gate.switch {}(x, {}) end, -- RECORD: error_option.lua:[[@LINE]]: gate.switch: the second argument: found a table, expected what nn.moe gives
  function() return moec.schedule.linear(1, 0, 3) "a" end, -- STEP: error_option.lua:[[@LINE]]: the step of a schedule: found "a", expected a number
}
return moec.model {
  name = "m", task = "lm", config = c, steps = 10, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = cases[c.case](embed(b.tokens))
    return c.case == 7 and x or nn.tied_logits(x, embed)
  end,
}
