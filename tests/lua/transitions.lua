-- From one expert to many: masked, noisy or plain copies; moments copied or restarted; vectors copied.
-- RUN: %moec ir %s | FileCheck %s --check-prefixes=ALL,MASK
-- RUN: %moec ir %s -D mask=0 -D noise=0.01 | FileCheck %s --check-prefixes=ALL,NOISE
-- RUN: %moec ir %s -D mask=0 | FileCheck %s --check-prefixes=ALL,COPY
-- RUN: %moec ir %s -D moments=zero | FileCheck %s --check-prefix=RESTART
local moec = require "moec"
local nn, gate, phase = moec.nn, moec.gate, moec.phase
local c = moec.config { batch = 2, seq = 8, mask = 0.1, noise = 0.0, moments = "copy" }
local embed = nn.embedding { vocab = 32, d = 16 }
local how = { mask = c.mask > 0 and c.mask or nil, noise = c.noise > 0 and c.noise or nil, moments = c.moments }
return moec.model {
  name = "m", task = "lm", config = c, steps = 20, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, hidden = 32 }), embed)
  end,
  phases = {
    { name = "shared", steps = 5, experts = 1 },
    { name = "many", enter = phase.diversify(how), gate = gate.switch {} },
  },
}
-- The gate is born in phase 1; with moments = "zero" the experts start counting there, too.
-- ALL-LABEL: table @many
-- ALL: segment decay=0 birth=0
-- ALL: segment decay=0 birth=1
-- ALL: param @embedding.w: f32[V,D] segment=0
-- ALL: param @moe.gate.w: f32[E,D] segment=1
-- ALL: param @moe.w1: f32[E,F,D] segment=0
-- RESTART-LABEL: table @many
-- RESTART: param @moe.w1: f32[E,F,D] segment=1
-- RESTART: param @moe.b1: f32[E,F] segment=1

-- ALL-LABEL: func @shared_to_many table=@many (%step: i32[])
-- Fresh parameters draw as in @init: at step 0 of their own stream.
-- ALL: %[[ZERO:.*]]: i32[] = const {value=0, dtype=i32}
-- ALL: uniform %{{.*}}, %[[ZERO]] {columns=D, tag=0x[[GATE:[0-9a-f]+]]}
-- ALL: %[[W1:.*]]: f32[E,F,D] = broadcast @shared::moe.w1 {shape=[E,F,D]}
-- MASK: %[[U:.*]]: f32[F*E,D] = uniform %{{.*}}, %step {columns=D, tag=0x[[TAG:[0-9a-f]+]]}
-- MASK: %[[U3:.*]]: f32[E,F,D] = reshape %[[U]]
-- MASK: %[[KEPT:.*]]: f32[E,F,D] = greater %[[U3]], %{{.*}}
-- MASK: %[[NEW:.*]]: f32[E,F,D] = select %[[KEPT]], %[[W1]], %{{.*}}
-- NOISE-COUNT-2: uniform %{{.*}}, %step {columns=D
-- NOISE: %[[SCALED:.*]]: f32[E,F,D] = mul %{{.*}}, %{{.*}}
-- NOISE: %[[NEW:.*]]: f32[E,F,D] = add %[[W1]], %[[SCALED]]
-- ALL: %[[M:.*]]: f32[E,F,D] = broadcast @shared::moe.w1!m
-- ALL: %[[V:.*]]: f32[E,F,D] = broadcast @shared::moe.w1!v
-- MASK: %[[MASKED:.*]]: f32[E,F,D] = select %[[KEPT]], %[[M]], %{{.*}}
-- ALL: %[[B1:.*]]: f32[E,F] = broadcast @shared::moe.b1 {shape=[E,F]}
-- ALL: return param @embedding.w=@shared::embedding.w, m @embedding.w=@shared::embedding.w!m,
-- MASK: param @moe.w1=%[[NEW]], m @moe.w1=%[[MASKED]], v @moe.w1=%[[V]],
-- MASK: param @moe.b1=%[[B1]],
-- NOISE: param @moe.w1=%[[NEW]], m @moe.w1=%[[M]], v @moe.w1=%[[V]],
-- NOISE: param @moe.b1=%[[B1]],
-- COPY: param @moe.w1=%[[W1]], m @moe.w1=%[[M]], v @moe.w1=%[[V]],
-- COPY: param @moe.b1=%[[B1]],
-- RESTART-LABEL: func @shared_to_many
-- RESTART-NOT: moe.w1!m
-- RESTART: v @embedding.w=@shared::embedding.w!v
