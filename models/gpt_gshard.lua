-- GShard's Top-2 in every second layer of the GPT: the second expert is sampled, takes what room first choices leave.
local moec = require "moec"

local c = moec.gpt.config {
  balance = 0.01, z_loss = 0.0, capacity = 1.0, eval_capacity = 0.0, groups = 64, second = "sampling", normalize = "after",
  priority = "token",
  tiny = { groups = 2 },
  small = { groups = 4 },
}

return moec.gpt.model {
  name = "gpt-gshard",
  config = c,
  phases = {
    {
      name = "gshard",
      gate = moec.gate.gshard {
        balance = c.balance, z_loss = c.z_loss, capacity = c.capacity, eval_capacity = c.eval_capacity, groups = c.groups,
        second = c.second, normalize = c.normalize, priority = c.priority,
      },
    },
  },
}
