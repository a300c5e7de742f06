-- Routing groups: what depends on the other tokens of a batch (capacity, balanced assignment, expert choice) acts on
-- `groups` equal slices of the global batch, a multiple of accumulate, fixed by the model.
local core, lib = ...
local op, context = lib.op, lib.context

-- The slices of the rows that this function holds, and the rows of one. Training and evaluation hold one micro-batch;
-- a sample, which may be shorter than a slice, is one slice where slices do not divide it.
function lib.slices(what, groups)
  local c = context.get(what)
  groups = groups or c.accumulate
  lib.check_type(what .. ": groups", groups, "integer")
  lib.at_least(what .. ": groups", groups, 1)
  if groups % c.accumulate ~= 0 or c.micro_tokens % (groups // c.accumulate) ~= 0 then
    lib.fail("%s: %d groups, expected a multiple of accumulate = %d that divides the batch of %d tokens", what, groups,
      c.accumulate, c.micro_tokens * c.accumulate)
  end
  local rows = c.micro_tokens * c.accumulate // groups
  if c.rows % rows ~= 0 then
    return 1, c.rows
  end
  return c.rows // rows, rows
end

-- Numbers that fall from token to token: N, N-1, ..., 1.
function lib.token_order()
  local c = context.current
  return c.rows - op.cast(op.iota(core.dim(c.tokens, 0)), { dtype = "f32" })
end

-- An expert takes at most `capacity` tokens of its slice: those of the largest priority, or the first ones. What is left
-- of the mask; dead tokens take no room. `priority`: positive numbers, [N,1] or [N,E].
function op.capacity(mask, capacity, options)
  local what = "op.capacity"
  local c = context.get(what)
  lib.check_type(what .. ": the mask", mask, "tensor")
  lib.check_type(what .. ": the capacity", capacity, "integer")
  lib.at_least(what .. ": the capacity", capacity, 1)
  local o = lib.options(what, options or {}, { groups = "integer?", priority = "tensor?" })
  local slices = lib.slices(what, o.groups)
  local queue = op.select(mask * c.live_column(), o.priority or lib.token_order(), 0)
  return mask * op.greater(op.const(capacity, "i32"), op.rank_rows(queue, { groups = slices }))
end

-- How many tokens an expert takes of a slice when each token has k choices and `factor` is the room beyond an even
-- share; EVO's top1gate.py and top2gate.py.
function lib.expert_capacity(what, factor, k, experts, groups)
  local _, rows = lib.slices(what, groups)
  local share = math.min(rows, factor * ((rows + experts - 1) // experts))
  return math.max(1, k * math.floor(share))
end
