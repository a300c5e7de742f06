-- RUN: %moec ir %s | FileCheck %s
-- RUN: %moec ir %s -D jitter=0.01 -D z_loss=0.001 -D accumulate=2 | FileCheck %s --check-prefix=EXTRA
local moec = require "moec"
local nn, gate = moec.nn, moec.gate
local c = moec.config { batch = 2, seq = 8, accumulate = 1, jitter = 0.0, z_loss = 0.0 }
local embed = nn.embedding { vocab = 32, d = 16 }
return moec.model {
  name = "m", task = "lm", config = c, steps = 10, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    for i = 1, 2 do
      x = x + nn.moe(x, { experts = 4, hidden = 32 })
    end
    return nn.tied_logits(x, embed)
  end,
  phases = { { name = "switch", gate = gate.switch { jitter = c.jitter, z_loss = c.z_loss } } },
}
-- CHECK-LABEL: func @switch.train
-- CHECK-NOT: uniform
-- CHECK: %z: f32[N,E] = matmul %{{.*}}, @moe.gate.w {tb=1}
-- CHECK: %p: f32[N,E] = softmax %z
-- CHECK: %[[TOP:.*]]: f32[N,E] = topk_mask %p {k=1}
-- CHECK: %[[COUNT:.*]]: f32[1,E] = sum %{{.*}} {axis=0}
-- CHECK: %[[STOP:.*]]: f32[1,E] = stop %[[COUNT]]
-- CHECK: %[[F:.*]]: f32[1,E] = div %[[STOP]], %{{.*}}
-- CHECK: %[[SUM:.*]]: f32[1,E] = sum %{{.*}} {axis=0}
-- CHECK: %[[P:.*]]: f32[1,E] = div %[[SUM]], %{{.*}}
-- CHECK: %[[FP:.*]]: f32[1,E] = mul %[[F]], %[[P]]
-- CHECK: sum %[[FP]] {axis=-1}
-- CHECK: const {value=4}
-- CHECK: route %mask {k=1}
-- CHECK: matmul %{{.*}}, @moe_2.gate.w {tb=1}
-- The mean of two layers, weight 0.01.
-- CHECK: const {value=0.005}
-- CHECK: %aux: f32[] = mul
-- CHECK: return aux.balance=%aux, loss=%loss, ce=%ce, load.moe=%{{.*}}, routing.entropy.moe=
-- CHECK: load.moe_2=%{{.*}}, routing.entropy.moe_2=
-- CHECK: pairs=

-- EXTRA-LABEL: func @switch.train
-- EXTRA: %u: f32[N,D] = uniform %token, %step
-- EXTRA: const {value=0.02}
-- EXTRA: const {value=0.99}
-- The losses count as a share of the step's micro-batches: 0.01 / 2 layers / 2.
-- EXTRA: const {value=0.0025}
-- EXTRA: return aux.balance=%{{.*}}, aux.z=
-- EXTRA-LABEL: func @switch.eval
-- EXTRA-NOT: uniform
-- EXTRA-LABEL: func @switch.sample
