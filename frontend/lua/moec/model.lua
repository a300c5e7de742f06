-- moec.model and what follows from it: for every phase and mode a function, for every table its segments and update,
-- transitions, schedules. One table serves all neighbouring phases whose parameters are alike in every respect.
local core, lib = ...
local op, context = lib.op, lib.context

local model_options = {
  name = "string",
  task = "string",
  config = "table",
  forward = "function",
  steps = "integer?",
  precision = "string?",
  diagnostics = "boolean?",
  loss = "table?",
  optimizer = "optimizer",
  phases = "table?",
}

function lib.moec.model(given)
  local m = lib.options("moec.model", given, model_options)
  m.kind, m.line = "model", core.line()
  context.check_name("moec.model: name", m.name)
  lib.choice("moec.model: task", m.task, { "lm" })
  m.precision = lib.choice("moec.model: precision", m.precision or "f32", { "f32", "bf16" })
  m.loss = lib.options("moec.model: loss", m.loss or {}, { label_smoothing = "number?", aux = "string?" })
  m.loss.aux = lib.choice("moec.model: loss.aux", m.loss.aux or "mean", { "mean", "sum" })
  m.loss.label_smoothing = m.loss.label_smoothing or 0
  if not (m.loss.label_smoothing >= 0 and m.loss.label_smoothing < 1) then
    lib.fail("moec.model: label_smoothing is %s, expected a number in [0,1)", tostring(m.loss.label_smoothing))
  end
  m.diagnostics = m.diagnostics ~= false
  m.phases = m.phases or { { name = "train" } }
  return m
end

-- ---------------------------------------------------------------- sizes and phases

local function size_of(m, key, default)
  local value = rawget(m.config, key) or default
  if value == nil then
    lib.fail("moec.model: the configuration has no `%s`", key)
  end
  lib.check_type("moec.model: config." .. key, value, "integer")
  return lib.at_least("moec.model: config." .. key, math.tointeger(value), 1)
end

local function read_sizes(m)
  m.seq, m.batch, m.accumulate = size_of(m, "seq"), size_of(m, "batch"), size_of(m, "accumulate", 1)
  if m.batch % m.accumulate ~= 0 then
    lib.fail("moec.model: accumulate = %d does not divide batch = %d", m.accumulate, m.batch)
  end
  m.segments = m.batch // m.accumulate
  m.tokens = m.segments * m.seq
end

local phase_options = {
  name = "string",
  steps = "integer?",
  experts = "integer?",
  enter = "enter?",
  gate = "any?",
  values = "table?",
  freeze = "table?",
}

-- Names that phases may not have: they mean something else among the functions or arguments.
local reserved = { init = true, tokens = true, targets = true, weight = true, position = true, off = true, live = true,
  token = true, step = true, inverse_targets = true, last = true, lr = true }

local function read_phase(given, i, count, seen)
  local what = "phase " .. i
  local p = lib.options(what, given, phase_options)
  context.check_name(what .. ": name", p.name)
  if p.name:find("%.") or p.name:find("_to_") or p.name == "init" or seen[p.name] then
    lib.fail("%s: `%s` cannot be its name: it is taken, or holds a dot or _to_", what, p.name)
  end
  seen[p.name] = true
  what = "phase " .. p.name
  if not p.steps and i < count then
    lib.fail("%s: option `steps` is missing; only the last phase may be open", what)
  elseif p.gate ~= nil and not lib.is_gate(p.gate) then
    lib.fail("%s: option `gate`: found %s, expected a gate", what, lib.describe(p.gate))
  end
  lib.at_least(what .. ": steps", p.steps or 1, 1)
  lib.at_least(what .. ": experts", p.experts or 1, 1)
  p.freeze = lib.patterns(what .. ": freeze", p.freeze or {})
  p.schedules = {}
  for _, name in ipairs(lib.sorted_keys(p.values or {})) do
    context.check_name(what .. ": the name of a value", name)
    if reserved[name] then
      lib.fail("%s: a value cannot be called `%s`", what, name)
    end
    p.schedules[name] = lib.as_schedule(what .. ": value " .. name, p.values[name])
  end
  return p
end

-- The list of phases with their first steps; the run's steps.
local function read_phases(m)
  local phases, seen, start = {}, {}, 0
  if #m.phases == 0 then
    lib.fail("moec.model: `phases` is empty, expected a list of phases")
  end
  for i, given in ipairs(m.phases) do
    local p = read_phase(given, i, #m.phases, seen)
    p.number, p.start = i - 1, start
    start = start + (p.steps or 0)
    phases[i] = p
  end
  m.steps = m.steps or (phases[#phases].steps and start)
  if not m.steps then
    lib.fail("moec.model: option `steps` is missing; it says where the open phase %s ends", phases[#phases].name)
  end
  lib.at_least("moec.model: steps", m.steps, 1)
  return phases
end

-- ---------------------------------------------------------------- one function: a phase in a mode

local function once(make)
  local value
  return function()
    value = value or make()
    return value
  end
end

local function new_context(m, p, mode, collects)
  local sample, training = mode == "sample", mode == "train"
  local scope = sample and "function" or "module"
  local n = core.symbol("N", sample and m.seq or m.tokens, scope)
  local s = core.symbol("S", sample and 1 or m.segments, scope)
  local c = { rows = core.number(n), micro_tokens = m.tokens, accumulate = m.accumulate, phase = p, mode = mode,
    training = training, diagnoses = training and m.diagnostics, collects = collects, table = p.table, path = "",
    counts = {}, draws = {}, declared = {}, next_values = {}, losses = {}, layers = {}, values = {} }
  for key, count in next, context.outer_counts do
    c.counts[key] = count
  end
  local function argument(name, dtype, shape)
    c[name] = core.argument(name, dtype, shape)
  end
  argument("tokens", "i32", { n })
  local averages = mode ~= "sample" and mode ~= "probe"
  if not sample then
    argument("targets", "i32", { n })
  end
  if averages then
    argument("weight", "f32", { n })
  end
  argument("position", "i32", { n })
  argument("off", "i32", { s + 1 })
  argument("live", "f32", { n })
  if training then
    argument("token", "i32", { n })
    argument("step", "i32", {})
  end
  if sample then
    argument("last", "i32", { 1 })
  elseif averages then
    argument("inverse_targets", "f32", {})
  end
  for _, name in ipairs(lib.sorted_keys(p.schedules)) do
    c.values[name] = core.argument(name, "f32", {})
  end
  c.row_index = function()
    return c.token
  end
  c.live_column = once(function()
    return op.reshape(c.live, { n, 1 })
  end)
  c.live_count = once(function()
    return op.maximum(op.sum(c.live_column(), 0), 1)
  end)
  return c, n
end

local function scalar(x)
  return op.reshape(x, { shape = {} })
end

-- The sum over targets of weight * cross-entropy, times inverse_targets.
local function cross_entropy(m, c, logits, n)
  local weight = op.reshape(c.weight, { n, 1 })
  local nll = op.cross_entropy(logits, c.targets, c.training and m.loss.label_smoothing or 0)
  local total = op.sum(op.select(weight, nll, 0) * weight, 0)
  return core.rename(scalar(total) * c.inverse_targets, "ce")
end

local function times(x, factor)
  return factor == 1 and x or x * factor
end

-- The mean over layers (or the sum) of an auxiliary loss; and the same of its weighted values, as a share of the step.
local function auxiliary(m, terms)
  local share = m.loss.aux == "mean" and 1 / #terms or 1
  local sum, weighted
  for _, term in ipairs(terms) do
    sum = sum and sum + term.value or term.value
    if term.weight ~= 0 then
      local part = term.value * (term.weight * share / m.accumulate)
      weighted = weighted and weighted + part or part
    end
  end
  return core.rename(times(sum, share), "aux"), weighted
end

local function training_results(m, c, ce)
  local loss = ce
  for _, name in ipairs(lib.sorted_keys(c.losses)) do
    local value, weighted = auxiliary(m, c.losses[name])
    loss = weighted and loss + weighted or loss
    core.result("aux." .. name, value)
  end
  core.result("loss", loss == ce and ce or core.rename(loss, "loss"))
end

-- How many expert-token pairs were selected, where they went, and what the gates looked like.
local function routing_results(c)
  local pairs_sum
  for _, layer in ipairs(c.layers) do
    local selected
    if layer.load then
      core.result("load." .. layer.name, layer.load)
      for _, name in ipairs(lib.sorted_keys(layer.routing or {})) do
        core.result("routing." .. name .. "." .. layer.name, scalar(layer.routing[name]))
      end
      selected = scalar(op.sum(layer.load, -1))
    else
      selected = scalar(op.sum(c.live_column(), 0))
    end
    pairs_sum = pairs_sum and pairs_sum + selected or selected
  end
  if pairs_sum then
    core.result("pairs", pairs_sum)
  end
end

local function check_logits(m, c, logits, n)
  lib.check_type("the result of forward", logits, "tensor")
  local shape = logits:shape()
  local rows = core.number(n)
  if #shape ~= 2 or logits:dtype() ~= "f32" or shape[1] ~= rows and not (c.last and shape[1] == 1) then
    lib.fail("the result of forward is %s, expected scores of every token, f32[%d,vocabulary]", core.type(logits), rows)
  end
  if c.last and shape[1] ~= 1 then
    logits = op.gather_rows(logits, c.last)
  end
  m.vocabulary = m.vocabulary or shape[2]
  if m.vocabulary ~= shape[2] then
    lib.fail("forward gives %d scores in mode %s of phase %s, but %d before", shape[2], c.mode, c.phase.name,
      m.vocabulary)
  end
  return logits
end

-- The cross-entropy of every token; nn.moe adds what it chose for it.
local function probe_results(c, logits, n)
  core.result("token_loss", op.reshape(op.cross_entropy(logits, c.targets), { n }))
end

-- Builds @PHASE.MODE. Returns its context.
local function build_function(m, p, mode, collects)
  core.begin(p.name .. "." .. mode, p.table)
  local c, n = new_context(m, p, mode, collects)
  context.current = c
  local batch = { tokens = c.tokens, position = c.position, off = c.off, live = c.live, training = c.training }
  local logits = check_logits(m, c, core.call(nil, m.forward, batch), n)
  context.check_complete(c)
  if mode == "sample" then
    core.result("logits", logits)
  elseif mode == "probe" then
    probe_results(c, logits, n)
  else
    local ce = cross_entropy(m, c, logits, n)
    if c.training then
      training_results(m, c, ce)
    else
      core.result("targets", scalar(op.sum(op.reshape(c.weight, { n, 1 }), 0)))
    end
    core.result("ce", ce)
    routing_results(c)
  end
  context.current = nil
  core.finish()
  return c
end

-- ---------------------------------------------------------------- tables

-- Decay, freezing and birth of every parameter; the text in which two tables must agree to be one.
local function describe_table(m, p, before)
  for _, record in ipairs(p.order) do
    record.frozen = record.is_state or lib.matches_any(record.name, p.freeze)
    record.decay = lib.matches_any(record.name, m.optimizer.no_decay) and 0 or m.optimizer.weight_decay
  end
  lib.trace_origins(before, p, p.number)
  local parts = {}
  for _, record in ipairs(p.order) do
    parts[#parts + 1] = string.format("%s %s %s %s %s %s %s", record.name, context.shape_text(record.shape),
      record.init.text, record.decay, record.frozen, record.advances, record.birth)
  end
  p.signature = table.concat(parts, "\n")
end

-- Segments: parameters of one decay and one birth, in order of appearance; frozen ones are in none.
local function make_segments(p)
  local numbers, segments = {}, {}
  for _, record in ipairs(p.order) do
    if not record.frozen then
      local key = record.birth .. " " .. record.decay
      if not numbers[key] then
        numbers[key] = core.add_segment(p.table, record.decay, record.birth)
        segments[numbers[key] + 1] = { decay = record.decay }
      end
      core.set_segment(p.table, record.name, numbers[key])
    end
  end
  for i, size in ipairs(core.layout(p.table)) do
    segments[i].size = size
  end
  p.segments = segments
end

local function check_patterns(what, patterns, records)
  for _, pattern in ipairs(patterns) do
    local hit = false
    for _, record in ipairs(records) do
      hit = hit or lib.matches(record.name, pattern)
    end
    if not hit then
      lib.fail("%s: the pattern `%s` matches no parameter", what, pattern)
    end
  end
end

local function has_gates(c)
  for _, layer in ipairs(c.layers) do
    if layer.load then
      return true
    end
  end
  return false
end

-- Finds the phase's parameters by building its train function; shares the table of the phase before where it can.
local function build_phase(m, p, before)
  core.mark()
  p.table, p.params, p.order = p.name, {}, {}
  core.add_table(p.table)
  local c = build_function(m, p, "train", true)
  check_patterns("phase " .. p.name .. ": freeze", p.freeze, p.order)
  describe_table(m, p, before)
  if before and before.signature == p.signature then
    core.rollback()
    p.table, p.segments = before.table, before.segments
    build_function(m, p, "train", false)
  else
    p.owns_table = true
    make_segments(p)
  end
  build_function(m, p, "eval", false)
  if c.evaluates_dense then
    build_function(m, p, "eval_gate", false)
  end
  if has_gates(c) then
    build_function(m, p, "probe", false)
  end
  build_function(m, p, "sample", false)
end

local function build_tables(m, phases)
  local all = {}
  for _, p in ipairs(phases) do
    table.move(p.order, 1, #p.order, #all + 1, all)
    if p.owns_table then
      core.call(m.optimizer.line, lib.build_update, m.optimizer, p.table, p.segments, p.order, m.accumulate)
    end
  end
  check_patterns("optim.adam: no_decay", m.optimizer.no_decay, all)
end

local function build_schedules(m, phases)
  core.call(m.optimizer.line, core.schedule, "lr", m.optimizer.lr, m.steps)
  for _, p in ipairs(phases) do
    for _, name in ipairs(lib.sorted_keys(p.schedules)) do
      -- one value more than updates: the evaluation at the end of the phase takes it
      core.schedule(p.name .. "." .. name, p.schedules[name], (p.steps or math.max(1, m.steps - p.start)) + 1)
    end
  end
end

local function compile(m)
  read_sizes(m)
  local phases = read_phases(m)
  for i, p in ipairs(phases) do
    local before = phases[i - 1]
    build_phase(m, p, before)
    if p.owns_table and before then
      p.enter_name = lib.build_transition(before, p)
    end
    core.phase(p.name, p.steps or 0, p.table, p.enter_name, m.line)
  end
  lib.build_init(phases[1])
  build_tables(m, phases)
  build_schedules(m, phases)
  core.module { name = m.name, task = m.task, precision = m.precision, optimizer = m.optimizer.text, steps = m.steps,
    sequence_length = m.seq, batch = m.batch, accumulate = m.accumulate, vocabulary = m.vocabulary }
end

-- Makes the module from what the script returned; gives the configuration as JSON.
function lib.compile(m)
  if type(m) ~= "table" or rawget(m, "kind") ~= "model" then
    lib.fail("the script returns %s, expected moec.model {...}", lib.describe(m))
  elseif not lib.config_read and core.defines()[1] then
    lib.fail("-D %s: the script has no moec.config", core.defines()[1])
  end
  core.call(m.line, compile, m)
  return lib.json { model = m.name, task = m.task, config = m.config }
end

lib.strict(lib.moec, "moec")
