-- What routing.jsonl shows of a layer beside the load of its experts. All of it follows from rows of the gate, [N,E], so
-- it is computed in the gate's kernel and leaves it as a few sums over the tokens; the trainer knows how many of them are
-- live and makes means and differences. A token that selected nothing, as every dead one, adds 0 to all sums.
local core, lib = ...
local op = lib.op

local TINY <const>, NEVER <const> = 1e-30, -1e30 -- below every positive weight that matters, below every weight

-- -sum over experts of q log q, q the selected weights of a token as shares of their sum.
local function entropy(selected, total)
  local q = selected / op.maximum(total, TINY)
  return -op.sum(q * op.log(op.maximum(q, TINY)), -1)
end

-- (the smallest selected weight - the largest other one) / the largest weight; 0 where all or none are selected.
local function margin(weight, mask, count, experts)
  local selected = -op.max(op.select(mask, -weight, NEVER), -1)
  local other = op.max(op.select(mask, NEVER, weight), -1)
  local largest = op.maximum(op.max(weight, -1), TINY)
  return op.select(count * (experts - count), (selected - other) / largest, 0)
end

-- By name, sums over the tokens, each of one number: `reached` is the number of tokens with an expert, `dropped_pairs` that
-- of the pairs which a capacity cut. `weight`, `mask`: what the gate gave, the mask 0 for dead tokens; `selected`: the
-- weight where the mask is; `chosen`: the mask before the cut, nil where the gate has none. It is subtracted from first,
-- so that all of this stands in the kernel behind the cut.
function lib.diagnose(c, experts, weight, mask, selected, chosen)
  local count, total = op.sum(mask, -1), op.sum(selected, -1)
  local rows = {
    entropy = entropy(selected, total),
    kept_weight = total,
    margin = margin(weight, mask, count, experts),
    reached = op.max(mask, -1),
    dropped_pairs = chosen and op.sum((chosen - mask) * c.live_column(), -1),
  }
  local sums = {}
  for _, name in ipairs(lib.sorted_keys(rows)) do
    sums[name] = op.sum(rows[name], 0)
  end
  return sums
end
