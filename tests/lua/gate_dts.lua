-- The Dense-to-Sparse gate: noise in training only, threshold while dense, Top-1 when hard and in evaluation.
-- RUN: %moec ir %s > %t.paper
-- RUN: FileCheck %s --check-prefixes=ALL,PAPER < %t.paper
-- RUN: %moec ir %s -D weight=code | FileCheck %s --check-prefixes=ALL,CODE
-- RUN: %moec ir %s -D threshold=0.5 | FileCheck %s --check-prefix=FALLBACK
-- RUN: %moec ir %s -D eval_tau=0.7 | FileCheck %s --check-prefix=EVALTAU
local moec = require "moec"
local nn, gate = moec.nn, moec.gate
local c = moec.config { batch = 2, seq = 8, weight = "paper", threshold = 0.001, eval_tau = 0.0 }
local embed = nn.embedding { vocab = 32, d = 16 }
return moec.model {
  name = "m", task = "lm", config = c, steps = 40, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, hidden = 32 }), embed)
  end,
  phases = moec.phase.evomoe {
    shared = 10, anneal = 10, dense = 5, tau = { 2.0, 1.0 },
    gate = gate.dts { threshold = c.threshold, weight = c.weight, eval_tau = c.eval_tau > 0 and c.eval_tau or nil },
  },
}
-- tau goes on falling in top1, where the dense phase is shorter than the annealing.
-- ALL: schedule @dense.tau 6 linear(2,-0.1,6)
-- ALL: schedule @top1.tau 6 linear(1.5,-0.1,6)
-- ALL: phase @shared steps=10 table=@shared
-- ALL: phase @dense steps=5 table=@dense enter=@shared_to_dense
-- ALL: phase @top1 steps=0 table=@dense

-- The shared phase has no gate: every live token goes to the one expert.
-- ALL-LABEL: func @shared.train
-- ALL-NOT: route
-- ALL: %[[PAIRS:.*]]: f32[1,1] = sum %{{.*}} {axis=0}
-- ALL: return {{.*}}, pairs=%

-- ALL-LABEL: func @dense.train
-- ALL-SAME: table=@dense
-- ALL: %z: f32[N,E] = matmul %{{.*}}, @moe.gate.w {tb=1}
-- ALL: %u: f32[N,E] = uniform %token, %step {columns=E, tag=0x[[TAG:[0-9a-f]+]]}
-- ALL: %gumbel: f32[N,E] = neg
-- ALL: %[[NOISY:.*]]: f32[N,E] = add %z, %gumbel
-- ALL: %[[COLD:.*]]: f32[N,E] = div %[[NOISY]], %tau
-- ALL: %p: f32[N,E] = softmax %[[COLD]]
-- ALL: %[[M:greater]]: f32[N,E] = greater %p
-- CODE: %[[Q:softmax]]: f32[N,E] = softmax %z
-- CODE: %[[KEPT:.*]]: f32[N,E] = mul %[[Q]], %[[M]]
-- PAPER: select %{{.*}}, %p, %{{.*}}
-- CODE: select %{{.*}}, %[[KEPT]], %{{.*}}
-- ALL: %mask: f32[N,E] = mul %[[M]], %{{.*}}
-- PAPER: %w: f32[N,E] = select %mask, %p, %{{.*}}
-- CODE: %w: f32[N,E] = select %mask, %[[Q]], %{{.*}}
-- ALL: %[[LOAD:.*]]: f32[1,E] = sum %mask {axis=0}
-- ALL: %pair: i32[N*E<%off_2>], %off_2: i32[E+1], %slot: i32[N,E] = route %mask {k=4}
-- ALL: %[[XS:.*]]: f32[N*E<%off_2>,D] = dispatch %{{.*}}, %pair, %slot
-- ALL: grouped_matmul %[[XS]], @moe.w1, %off_2 {tb=1}
-- ALL: expand @moe.b1, %off_2
-- ALL: grouped_matmul %{{.*}}, @moe.w2, %off_2
-- ALL: %[[W:.*]]: f32[N*E<%off_2>,1] = pack %w, %pair, %slot
-- ALL: %[[O:.*]]: f32[N*E<%off_2>,D] = mul %{{.*}}, %[[W]]
-- ALL: combine %[[O]], %slot, %pair
-- ALL: %loss: f32[] = add %ce, %{{.*}}
-- ALL: return aux.balance=%{{.*}}, loss=%loss, ce=%ce, load.moe=%[[LOAD]], routing.entropy.moe=%
-- ALL-NEXT: routing.kept_weight.moe=%{{.*}}, routing.margin.moe=%{{.*}}, routing.reached.moe=%{{.*}},
-- ALL-NEXT: pairs=%
-- FALLBACK-LABEL: func @dense.train
-- FALLBACK: %[[PASSES:.*]]: f32[N,E] = greater %p, %{{.*}}
-- FALLBACK: %[[FIRST:.*]]: f32[N,E] = topk_mask %p {k=1}
-- FALLBACK: maximum %[[PASSES]], %[[FIRST]]

-- ALL-LABEL: func @dense.eval table
-- ALL-NOT: uniform
-- PAPER: %[[COLD:.*]]: f32[N,E] = div %z, %tau
-- PAPER: %p: f32[N,E] = softmax %[[COLD]]
-- CODE: %p: f32[N,E] = softmax %z
-- ALL: %[[TOP:.*]]: f32[N,E] = topk_mask %p {k=1}
-- ALL: %w: f32[N,E] = select %mask, %p, %{{.*}}
-- ALL: route %mask {k=1}
-- ALL: return targets=%{{.*}}, ce=%ce
-- EVALTAU-LABEL: func @dense.eval table
-- EVALTAU: %[[TAU:.*]]: f32[] = const {value=0.7}
-- EVALTAU: div %z, %[[TAU]]

-- ALL-LABEL: func @dense.eval_gate
-- ALL-NOT: uniform
-- ALL: div %z, %tau
-- ALL: greater %p
-- CODE: %[[Q:.*]]: f32[N,E] = softmax %z
-- PAPER: %w: f32[N,E] = select %mask, %p, %{{.*}}
-- CODE: %w: f32[N,E] = select %mask, %[[Q]], %{{.*}}
-- ALL: route %mask {k=4}

-- ALL-LABEL: func @dense.sample
-- ALL: topk_mask
-- ALL: gather_rows %{{.*}}, %last
-- ALL: %logits: f32[1,V] = matmul

-- The hard gate keeps the noise, the parameters and the balance loss; its draws are those of the same stream.
-- ALL-LABEL: func @top1.train table=@dense
-- ALL: %u: f32[N,E] = uniform %token, %step {columns=E, tag=0x[[TAG]]}
-- ALL: %[[TOP:.*]]: f32[N,E] = topk_mask %p {k=1}
-- PAPER: %w: f32[N,E] = select %mask, %p, %{{.*}}
-- ALL: route %mask {k=1}
-- ALL: aux.balance=
-- ALL-NOT: func @top1.eval_gate
