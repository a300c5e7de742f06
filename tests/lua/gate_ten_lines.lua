-- A gate of ten lines in a script gets what a built-in one gets: one kernel, gradients, packing; written like gate.switch
-- with jitter and capacity, it is compiled to the same steps and kernels.
-- RUN: %moec explain %s --all | FileCheck %s --check-prefix=FUSED
-- RUN: %moec check %s | FileCheck %s --check-prefix=SAME
-- RUN: %moec emit %s --what=plan --target=cpu | sed 's/ *#.*//' > %t.own
-- RUN: %moec emit %s -D own=false --what=plan --target=cpu | sed 's/ *#.*//' > %t.library
-- RUN: diff %t.own %t.library
-- RUN: grep -q rank_rows %t.own
local moec = require "moec"
local nn, op, gate = moec.nn, moec.op, moec.gate
local c = moec.config { batch = 4, seq = 8, d = 16, own = true }
local embed = nn.embedding { vocab = 32, d = c.d }

local function own(x, g)
  if g.training then
    x = x * (op.random_uniform(c.d) * 0.02 + 0.99)
  end
  local w = moec.param("w", { g.experts, c.d }, moec.init.normal(0.02))
  local z = op.matmul(x, w, { tb = true })
  local p = op.softmax(z)
  local m = op.topk_mask(p, 1)
  local kept = op.capacity(m, x:shape()[1] // g.experts)
  local losses = g.training and { balance = { gate.balance(p, m, g), 0.01 } } or {}
  return p, kept, { k = 1, losses = losses, chosen = m }
end

return moec.model {
  name = "m", task = "lm", config = c, steps = 5, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, hidden = 32 }), embed)
  end,
  phases = { { name = "p", gate = c.own and own or gate.switch { jitter = 0.01, capacity = 1.0 } } },
}
-- FUSED: fuse_gate  @p.train{{.*}}  {{.*}}gate_ten_lines.lua:{{[0-9]+}}
-- FUSED-NEXT: values:   %matmul, %softmax, %topk_mask
-- FUSED-NEXT: chosen:   one row kernel: matmul, softmax, topk_mask, {{.*}} (1 launch
-- FUSED-NEXT: reason:   the same rows, read and written once
-- FUSED: chosen:   two kernels: {matmul
-- FUSED-NEXT: reason:   rank_rows ({{.*}}gate_ten_lines.lua:{{[0-9]+}}) stands between and reads the first
-- SAME: gradients p.train {{.*}} 0
-- SAME: ops {{.*}}p.train
-- SAME-NOT: mistake:
