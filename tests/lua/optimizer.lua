-- Adam over flat segments: decay by pattern, frozen parameters in none, clipping over the whole gradient, schedules.
-- RUN: %moec ir %s | FileCheck %s
local moec = require "moec"
local nn, optim, schedule = moec.nn, moec.optim, moec.schedule
local c = moec.config { batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }
return moec.model {
  name = "m", task = "lm", config = c, steps = 8, loss = { label_smoothing = 0.1 },
  optimizer = optim.adam {
    lr = optim.cosine { peak = 1, warmup = 2, total = 6, final = 0.5 },
    betas = { 0.9, 0.98 }, weight_decay = 0.1, no_decay = { "*.b", "*.g" }, clip = 1,
  },
  forward = function(b)
    local x = embed(b.tokens) + nn.positions(b.position, { max = 8, d = 16 })
    return nn.tied_logits(nn.layer_norm(x), embed)
  end,
  phases = {
    { name = "all", steps = 4, values = { a = 3, s = schedule.exponential(2.0, 0.5, 2) } },
    { name = "less", freeze = { "positions.*" } },
  },
}
-- CHECK: optimizer adam {beta1=0.9, beta2=0.98, eps=1e-08, weight_decay=0.1, clip=1}
-- CHECK-LABEL: table @all
-- CHECK: segment decay=0.1 birth=0
-- CHECK: segment decay=0 birth=0
-- CHECK: param @embedding.w: f32[V,D] segment=0
-- CHECK: param @layer_norm.g: f32[D] segment=1
-- CHECK-LABEL: table @less
-- CHECK: param @positions.w: f32[T,D] {{.*}}frozen
-- Warm-up to the peak, half a cosine, then the last value.
-- CHECK: schedule @lr 7 raw(0.5,1,1,0.926776707,0.75,0.573223293,0.5)
-- CHECK: schedule @all.a 1 {{.*}}3
-- CHECK: schedule @all.s 3 {{.*}}
-- CHECK-LABEL: func @all.train
-- CHECK-SAME: %tokens: i32[N]
-- CHECK: %inverse_targets: f32[], %a: f32[], %s: f32[]
-- Label smoothing in training only.
-- CHECK: const {value=0.9}
-- CHECK-LABEL: func @all.eval
-- CHECK-NOT: const {value=0.9}
-- CHECK-LABEL: func @all.sample
-- CHECK-LABEL: func @all_to_less
-- CHECK: param @positions.w=@all::positions.w
-- CHECK-NOT: {{[ ,]m}} @positions.w
-- CHECK-LABEL: func @all.update table=@all
-- CHECK: %[[SQ:.*]]: f32[] = reshape %{{.*}} {shape=[]}
-- CHECK: %[[SAFE:.*]]: f32[] = add %[[SQ]], %{{.*}}
-- CHECK: %[[RATIO:.*]]: f32[] = div %{{.*}}, %[[SAFE]]
-- CHECK: %[[SCALE:.*]]: f32[] = minimum %[[RATIO]], %{{.*}}
-- CHECK: mul %{{.*}}, %[[SCALE]]
-- log(0.9), and 1 - beta^t = -expm1(t log beta)
-- CHECK: %[[LOG:.*]]: f32[] = const {value=-0.10536051565782628}
-- CHECK: %[[TLOG:.*]]: f32[] = mul %t0, %[[LOG]]
-- CHECK: expm1 %[[TLOG]]
-- CHECK: return p0=%{{.*}}, m0=%{{.*}}, v0=%{{.*}}, p1=%{{.*}}, m1=%{{.*}}, v1=%{{.*}},
-- CHECK-NEXT: grad_norm=%[[SQ]]
