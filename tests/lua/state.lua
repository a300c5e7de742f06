-- State: a parameter that the optimiser leaves alone and that a gate moves itself.
-- RUN: %moec ir %s | FileCheck %s
-- RUN: %moec ir %s -D accumulate=2 | FileCheck %s --check-prefix=MEAN
-- RUN: %moec check %s | FileCheck %s --check-prefix=SAME
-- RUN: %moec check %s -D accumulate=2 | FileCheck %s --check-prefix=SAME
-- RUN: not %moec ir %s -D mistake=twice 2>&1 | FileCheck %s --check-prefix=TWICE
-- RUN: not %moec ir %s -D mistake=shape 2>&1 | FileCheck %s --check-prefix=SHAPE
local moec = require "moec"
local nn, op = moec.nn, moec.op
local c = moec.config { batch = 2, seq = 8, accumulate = 1, mistake = "" }
local embed = nn.embedding { vocab = 32, d = 16 }
local function counting(x, g)
  local w = moec.param("w", { g.experts, 16 }, moec.init.normal(0.02))
  local seen = moec.state("seen", { g.experts }, moec.init.constant(1))
  local p = op.softmax(op.matmul(x, w, { tb = true }) - seen.value * 0.01)
  local m = op.topk_mask(p, 1)
  local load = op.reshape(op.sum(m, 0), { g.experts })
  seen:next(c.mistake == "shape" and p or seen.value * 0.5 + load)
  if c.mistake == "twice" then
    seen:next(load)
  end
  return p, m, { k = 1 }
end
return moec.model {
  name = "m", task = "lm", config = c, steps = 10, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, hidden = 32 }), embed)
  end,
  phases = { { name = "a", steps = 5, gate = counting }, { name = "b", gate = moec.gate.switch {} } },
}
-- A frozen parameter: no segment, drawn by @init, dropped where the next phase does not have it.
-- CHECK-LABEL: table @a
-- CHECK: param @moe.gate.seen: f32[4] frozen init=ones
-- CHECK-LABEL: table @b
-- CHECK-NOT: seen
-- CHECK-LABEL: func @a.train
-- CHECK: %[[NEXT:stop.*]]: f32[4] = stop
-- CHECK: return next @moe.gate.seen=%[[NEXT]]
-- CHECK-LABEL: func @a.eval
-- CHECK: sub
-- CHECK-NOT: next @
-- CHECK-LABEL: func @a.update
-- CHECK: return {{.*}}param @moe.gate.seen=@moe.gate.seen!next

-- MEAN-LABEL: func @a.update
-- MEAN: %[[HALF:.*]]: f32[] = const {value=0.5}
-- MEAN: %[[MEAN:.*]]: f32[4] = mul @moe.gate.seen!next, %[[HALF]]
-- MEAN: param @moe.gate.seen=%[[MEAN]]

-- SAME: results {{.*}}a.update {{[0-9]+}} 0
-- SAME-NOT: mistake:
-- TWICE: state.lua:20: state moe.gate.seen is given a next value twice
-- SHAPE: the next value of moe.gate.seen is f32[N,4], expected f32[4]
