-- RUN: not %moec ir %s -D case=1 2>&1 | FileCheck %s --check-prefix=ENTER
-- RUN: not %moec ir %s -D case=2 2>&1 | FileCheck %s --check-prefix=TAU
-- RUN: not %moec ir %s -D case=3 2>&1 | FileCheck %s --check-prefix=GATE
-- RUN: not %moec ir %s -D case=4 2>&1 | FileCheck %s --check-prefix=FREEZE
-- RUN: not %moec ir %s -D case=5 2>&1 | FileCheck %s --check-prefix=STEPS
-- RUN: not %moec ir %s -D case=6 2>&1 | FileCheck %s --check-prefix=SHRINK
-- RUN: not %moec ir %s -D case=7 2>&1 | FileCheck %s --check-prefix=USELESS
-- RUN: not %moec ir %s -D case=8 2>&1 | FileCheck %s --check-prefix=MASK
-- RUN: not %moec ir %s -D case=9 2>&1 | FileCheck %s --check-prefix=BOUND
-- RUN: not %moec ir %s -D case=10 2>&1 | FileCheck %s --check-prefix=SCHEDULE
local moec = require "moec"
local nn, op, gate, phase = moec.nn, moec.op, moec.gate, moec.phase
local c = moec.config { case = 0, batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }
local dts, top = gate.dts {}, gate.topk { k = 1 }
local tau = { tau = 1 }
local function no_mask(x, g) return op.softmax(x), op.topk_mask(op.softmax(x), 1) end
local function bound(x, g)
  local p = op.softmax(op.matmul(x, moec.param("w", { g.experts, 16 }, moec.init.zeros()), { tb = true }))
  return p, op.topk_mask(p, 2), { k = 9 }
end
local cases = {
  { { name = "a", steps = 1, experts = 1 }, { name = "b", gate = top } },
  { { name = "a", gate = dts } },
  { { name = "a" } },
  { { name = "a", gate = top, freeze = { "nothing.*" } } },
  { { name = "a", experts = 1 }, { name = "b", gate = top } },
  { { name = "a", steps = 1, gate = top }, { name = "b", experts = 1 } },
  { { name = "a", steps = 1, gate = top }, { name = "b", gate = top, enter = phase.diversify {} } },
  { { name = "a", gate = no_mask } },
  { { name = "a", gate = bound } },
  { { name = "a", gate = dts, values = { tau = function(step) return 1 / (3 - step) end } } },
}
return moec.model {
  name = "m", task = "lm", config = c, steps = 10, optimizer = moec.optim.adam { lr = 1e-3 }, phases = cases[c.case],
  forward = function(b)
    local x = embed(b.tokens)
    x = x + nn.moe(x, { experts = 4, hidden = 32 })
    -- ENTER: error_phases.lua:[[@LINE-1]]: parameter moe.w1 grows from [1,32,16] to [4,32,16] in phase b: give it `enter = phase.diversify {...}`
    -- TAU: error_phases.lua:[[@LINE-2]]: gate.dts: phase a has no schedule `tau`
    -- GATE: error_phases.lua:[[@LINE-3]]: nn.moe has 4 experts in phase a, but neither the layer nor the phase names a gate
    -- SHRINK: error_phases.lua:[[@LINE-4]]: parameter moe.w1 is [4,32,16] in phase a and [1,32,16] in phase b: only one expert can become many
    -- MASK: error_phases.lua:[[@LINE-5]]: the gate's weight is f32[N,D], expected f32[16,4]: a number for every token and expert
    -- BOUND: error_phases.lua:[[@LINE-6]]: the gate's bound k is 9, expected 1 to 4, the number of experts
    return nn.tied_logits(x, embed)
  end,
}
-- FREEZE: error_phases.lua:{{[0-9]+}}: phase a: freeze: the pattern `nothing.*` matches no parameter
-- STEPS: error_phases.lua:{{[0-9]+}}: phase a: option `steps` is missing; only the last phase may be open
-- USELESS: error_phases.lua:{{[0-9]+}}: phase b has `enter`, but no expert parameter grows in it
-- SCHEDULE: error_phases.lua:{{[0-9]+}}: schedule a.tau gives inf at step 3, expected a finite number
