-- Experts written in the script: one definition for the lone expert of the shared phase and for packed rows.
-- RUN: %moec ir %s | FileCheck %s
local moec = require "moec"
local nn, op, gate, phase = moec.nn, moec.op, moec.gate, moec.phase
local c = moec.config { batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }
local function expert(x, e)
  local h = op.relu(e.linear(e.layer_norm(x), { out = 32 })) * e.param("scale", { 32 }, moec.init.ones())
  return e.linear(nn.dropout(h, 0.1), { out = 16, bias = false })
end
return moec.model {
  name = "m", task = "lm", config = c, steps = 20, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, expert = expert }), embed)
  end,
  phases = {
    { name = "shared", steps = 5, experts = 1 },
    { name = "many", enter = phase.diversify { mask = 0.1 }, gate = gate.switch {} },
  },
}
-- CHECK: table @many
-- CHECK-DAG: param @moe.layer_norm.g: f32[E,D]
-- CHECK-DAG: param @moe.linear.w: f32[E,32,D]
-- CHECK-DAG: param @moe.scale: f32[E,32]
-- CHECK-DAG: param @moe.linear_2.w: f32[E,16,32]
-- CHECK-LABEL: func @shared.train
-- The draw of the lone expert: element = token * C + column.
-- CHECK: uniform %token, %step {columns=32, tag=0x[[TAG:[0-9a-f]+]]}
-- CHECK-LABEL: func @many.train
-- CHECK: expand @moe.layer_norm.g, %off_2
-- CHECK: grouped_matmul %{{.*}}, @moe.linear.w, %off_2 {tb=1}
-- CHECK: expand @moe.scale, %off_2
-- The draw of a packed row: element = (token * E + expert) * C + column, token counted in the global batch.
-- CHECK: %[[LOCAL:.*]]: i32[N<%off_2>] = div %pair, %{{.*}}
-- CHECK: %[[COLUMN:.*]]: i32[N,1] = reshape %token {shape=[N,1]}
-- CHECK: %[[TOKEN:.*]]: i32[N<%off_2>,1] = gather_rows %[[COLUMN]], %[[LOCAL]]
-- CHECK: %[[BASE:.*]]: i32[N<%off_2>] = mul %[[LOCAL]], %{{.*}}
-- CHECK: %[[EXPERT:.*]]: i32[N<%off_2>] = sub %pair, %[[BASE]]
-- CHECK: %[[SCALED:.*]]: i32[N<%off_2>,1] = mul %[[TOKEN]], %{{.*}}
-- CHECK: %[[INDEX:.*]]: i32[N<%off_2>,1] = add %[[SCALED]], %{{.*}}
-- CHECK: uniform %[[INDEX]], %step {columns=32, tag=0x[[TAG]]}
-- CHECK: grouped_matmul %{{.*}}, @moe.linear_2.w, %off_2 {tb=1}
