-- Names of parameters: scope.module.name; the second of a kind gets _2; a module value shares its parameters.
-- RUN: %moec ir %s | FileCheck %s
-- RUN: %moec ir %s > %t.1
-- RUN: %moec ir %s > %t.2
-- RUN: cmp %t.1 %t.2
local moec = require "moec"
local nn = moec.nn
local c = moec.config { batch = 2, seq = 8 }
local embed = nn.embedding { vocab = 32, d = 16 }
local shared = nn.linear { out = 16 }
local order = {}
for key in pairs { z = 1, a = 2, [3] = 3, m = 4, [1] = 5 } do
  order[#order + 1] = key
end
local function block(x)
  local o = x
  for _, key in ipairs(order) do
    o = o + nn.linear(x, { out = 16, bias = false, name = "k" .. key })
  end
  return shared(nn.layer_norm(nn.layer_norm(o)))
end
return moec.model {
  name = "m", task = "lm", config = c, steps = 10, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    x = moec.scope("h1", block, x)
    x = shared(nn.linear(x, { out = 16 }))
    return nn.tied_logits(moec.scope("h2", moec.scope, "inner", nn.layer_norm, x), embed)
  end,
}
-- CHECK: table @train
-- CHECK: @embedding.w
-- CHECK-NEXT: @h1.k1.w: f32[16,D]
-- CHECK-NEXT: @h1.k3.w
-- CHECK-NEXT: @h1.ka.w
-- CHECK-NEXT: @h1.km.w
-- CHECK-NEXT: @h1.kz.w
-- CHECK-NEXT: @h1.layer_norm.g
-- CHECK-NEXT: @h1.layer_norm.b
-- CHECK-NEXT: @h1.layer_norm_2.g
-- CHECK-NEXT: @h1.layer_norm_2.b
-- CHECK-NEXT: @linear.w
-- CHECK-NEXT: @linear.b
-- CHECK-NEXT: @linear_2.w
-- CHECK-NEXT: @linear_2.b
-- CHECK-NEXT: @h2.inner.layer_norm.g
-- CHECK-NEXT: @h2.inner.layer_norm.b
-- CHECK-NEXT: {{^}}}
