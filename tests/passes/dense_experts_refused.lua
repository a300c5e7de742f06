-- Why a layer stays packed, in the ledger: something beside the bias behind the second product, weights that are not one
-- matrix, a bound that only the packed form can check. The one layer that is left is made wide.
-- RUN: %moec explain %s --dense_experts:crossover=1.5 | FileCheck %s
-- RUN: %moec ir %s --dense_experts:crossover=1.5 --after=dense_experts | FileCheck %s --check-prefix=IR
-- RUN: %moec ir %s --no-dense_experts --after=all | FileCheck %s --check-prefix=NONE
-- A gate of one expert can never pay.
-- RUN: %moec explain %root/models/gpt_evomoe.lua -D size=tiny | FileCheck %s --check-prefix=TOP1
local moec = require "moec"
local nn, op, gate, phase = moec.nn, moec.op, moec.gate, moec.phase
local c = moec.config { batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }

local function promised(x, g)
  local w = moec.param("w", { g.experts, 16 }, moec.init.normal(0.02))
  local p = op.softmax(op.matmul(x, w, { tb = true }))
  return p, op.greater(p, 0.25), { k = 3 }
end

local function behind(x, e)
  return nn.dropout(e.linear(x, { out = 16 }), 0.1)
end

local function stored_otherwise(x, e)
  return e.linear(op.relu(e.linear(x, { out = 8 })), { out = 16 })
end

return moec.model {
  name = "m", task = "lm", config = c, steps = 20, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    x = x + nn.moe(x, { experts = 4, expert = behind })
    x = x + nn.moe(x, { experts = 4, expert = stored_otherwise })
    x = x + nn.moe(x, { experts = 4, hidden = 8, gate = promised })
    x = x + nn.moe(x, { experts = 4, hidden = 8 })
    return nn.tied_logits(x, embed)
  end,
  phases = {
    { name = "start", steps = 5, experts = 1 },
    { name = "many", enter = phase.diversify { mask = 0.1 }, gate = gate.topk { k = 2 } },
  },
}
-- CHECK: decision 1 dense_experts @many.train {{.*}}dense_experts_refused.lua:31
-- CHECK: chosen: packed rows only
-- CHECK: instead: one wide FFN of all experts: {{.*}} (select) stands between the second product and combine, where only the expert's bias may
-- CHECK: decision 2 dense_experts @many.train {{.*}}:32
-- CHECK: instead: one wide FFN of all experts: {{.*}} reads weights [E,D,F]
-- CHECK: decision 3 dense_experts @many.train {{.*}}:33
-- CHECK: instead: one wide FFN of all experts: that a token selects at most 3 of 4 experts must be checked at run time
-- CHECK: decision 4 dense_experts @many.train {{.*}}:34
-- CHECK-NEXT: values: %combine_4{{$}}
-- CHECK-NEXT: chosen: two versions, packed and wide
-- CHECK-NEXT: reason: {{.*}} wide is faster above 1.5 (as given) of 4 experts per token
-- CHECK-NEXT: instead: packed rows only {{.*}}: a token selects at most 2
-- IR: phase @many {{.*}} crossover=1.5
-- IR: func @start.train table
-- IR: func @many.train.packed
-- IR-COUNT-4: = combine
-- IR: func @many.train.wide
-- IR-COUNT-3: = combine
-- IR-NOT: = combine
-- IR: func @many.eval
-- NONE-NOT: crossover
-- NONE: func @many.train table
-- NONE-NOT: func @many.train.wide
-- TOP1: decision 1 dense_experts @dense.train
-- TOP1: chosen: two versions, packed and wide
-- TOP1: decision 2 dense_experts @top1.train
-- TOP1: chosen: packed rows only
-- TOP1: reason: {{.*}} wide is faster above {{.*}} of 4 experts per token
-- TOP1: instead: a second version with one wide FFN {{.*}}: a token selects at most 1
