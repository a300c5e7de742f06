-- The function that the probe runs: in phases with gates, by the gate of evaluation; while gate.dts trains densely, the
-- number of experts is that of its training mask without noise.
-- RUN: %moec ir %s | FileCheck %s
local moec = require "moec"
local nn, gate, optim, phase = moec.nn, moec.gate, moec.optim, moec.phase
local c = moec.config { vocab = 32, seq = 8, batch = 2, d = 8 }
local embed = nn.embedding { vocab = c.vocab, d = c.d }
return moec.model {
  name = "probed", task = "lm", config = c,
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, hidden = 16, ids = b.tokens }), embed)
  end,
  steps = 12, loss = { label_smoothing = 0.1 }, optimizer = optim.adam { lr = 1e-3 },
  phases = phase.evomoe { shared = 4, anneal = 4, tau = { 2, 0.3 }, mask = 0.1, gate = gate.dts { threshold = 0.01 } },
}

-- CHECK-NOT: @shared.probe

-- CHECK-LABEL: func @dense.probe table=@dense (%tokens: i32[N], %targets: i32[N], %position: i32[N], %off: i32[S+1], %live: f32[N],
-- CHECK-NEXT: %tau: f32[]) {
-- CHECK-NOT: uniform
-- CHECK: %[[C:.*]]: f32[] = const {value=0.01}
-- CHECK: %[[DENSE:.*]]: f32[N,E] = greater %p_2, %[[C]]
-- CHECK: %[[TOP:.*]]: f32[N,E] = topk_mask %p {k=1}
-- CHECK: %mask: f32[N,E] = mul %[[TOP]], %[[LIVE:.*]]{{ *#}}
-- CHECK: %[[MAX:.*]]: f32[N,1] = max %mask
-- CHECK: %[[SOME:.*]]: i32[N,1] = cast %[[MAX]] {dtype=i32}
-- CHECK: %[[SCORE:.*]]: f32[N,E] = select %mask, %p
-- CHECK: %[[BEST:.*]]: i32[N,1] = argmax %[[SCORE]]
-- CHECK: add %[[BEST]]
-- CHECK: mul %{{.*}}, %[[SOME]]
-- CHECK: %[[EXPERT:.*]]: i32[N,1] = sub
-- CHECK: %[[COUNTED:.*]]: f32[N,E] = mul %[[DENSE]], %[[LIVE]]{{ *#}}
-- CHECK: %[[SUM:.*]]: f32[N,1] = sum %[[COUNTED]] {axis=-1}
-- CHECK: %[[E:.*]]: i32[N] = reshape %[[EXPERT]]
-- CHECK: %[[NUMBER:.*]]: i32[N,1] = cast %[[SUM]] {dtype=i32}
-- CHECK: %[[S:.*]]: i32[N] = reshape %[[NUMBER]]
-- CHECK: %[[LOSS:.*]]: f32[N] = reshape
-- CHECK: return expert.moe=%[[E]], experts.moe=%[[S]], token_loss=%[[LOSS]]

-- CHECK-LABEL: func @top1.probe
-- CHECK-NOT: greater
-- CHECK: sum %mask {axis=-1}
-- CHECK: return expert.moe=%{{.*}}, experts.moe=%{{.*}}, token_loss=%
