-- A gate written in the script; Top-2 of the library.
-- RUN: %moec ir %s | FileCheck %s
local moec = require "moec"
local nn, op, gate = moec.nn, moec.op, moec.gate
local c = moec.config { batch = 2, seq = 8, d = 16 }
local embed = nn.embedding { vocab = 32, d = c.d }
local function cosine(x, g)
  local w = moec.param("w", { g.experts, c.d }, moec.init.normal(0.02))
  local p = op.softmax(op.matmul(op.l2_normalize(x), op.l2_normalize(w), { tb = true }) * 10)
  local m = op.topk_mask(p, 2)
  local kept = p * m
  return kept / op.sum(kept, -1), m, { k = 2, losses = { balance = { gate.balance(p, m, g), 0.01 } } }
end
return moec.model {
  name = "m", task = "lm", config = c, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    local y, kept = nn.moe(x, { experts = 4, hidden = 32, ids = b.tokens })
    return nn.tied_logits(x + y * kept, embed)
  end,
  phases = { { name = "cosine", steps = 5, gate = cosine }, { name = "top2", steps = 6, gate = gate.topk { k = 2 } } },
}
-- CHECK: run steps=11
-- Both gates have the same parameter: one table.
-- CHECK: table @cosine
-- CHECK: param @moe.gate.w: f32[4,16] segment=0 init=normal(0.02)
-- CHECK: phase @cosine steps=5 table=@cosine
-- CHECK: phase @top2 steps=6 table=@cosine
-- CHECK-LABEL: func @cosine.train
-- CHECK: topk_mask %{{.*}} {k=2}        {{.*}}gate_custom.lua:10
-- CHECK: %mask: f32[N,4] = mul{{.*}}gate_custom.lua:18
-- CHECK: %pair: i32[2*N<%off_2>], %off_2: i32[5], %slot: i32[N,2] = route %mask {k=2}
-- CHECK-LABEL: func @top2.train
-- CHECK: %p: f32[N,4] = softmax
-- CHECK: %[[KEPT:.*]]: f32[N,4] = mul %p, %topk_mask
-- CHECK: %[[SUM:.*]]: f32[N,1] = sum %[[KEPT]] {axis=-1}
-- CHECK: div %p, %[[SUM]]
