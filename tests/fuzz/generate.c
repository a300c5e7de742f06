/* Small models made at random: layers of the library and ops of the table on whatever tensors there are, the attributes
 * right or odd. Most statements fit together, so that some models get through.
 */
#include "tests/fuzz/scripts.h"

#include <string.h>

#include "ir/ir.h"

typedef struct Writer {
  Arena *arena;
  Random *random;
  const char *text;
  uint32_t tensors; /* t1..tN exist; t0 is x */
} Writer;

#define PICK(w, ...)                                                                                                   \
  ((const char *const[]){__VA_ARGS__})[draw((w)->random, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))]

static bool one_in(Writer *w, uint32_t n) {
  return draw(w->random, n) == 0;
}

/* A number of columns that fits, most often. */
static const char *columns(Writer *w) {
  if (one_in(w, 60))
    return odd_value(w->random);
  return PICK(w, "16", "16", "16", "16", "16", "1", "32", "8");
}

static const char *number(Writer *w) {
  if (one_in(w, 60))
    return odd_value(w->random);
  return PICK(w, "0", "1", "2", "3", "4", "8", "16", "32", "-1", "0.1", "0.5", "1e-3", "10", "1000");
}

static const char *tensor(Writer *w) {
  if (one_in(w, 100))
    return odd_value(w->random);
  if (one_in(w, 30))
    return PICK(w, "b.tokens", "b.position", "b.off", "b.live");
  return arena_print(w->arena, "t%u", draw(w->random, w->tensors + 1));
}

static const char *shape(Writer *w) {
  return PICK(w, "{ 16, 16 }", "{ 32, 8 }", "{ 4, 4, 16 }", "{ 256 }", "{ 16, 1 }", "{ 1, 16 }", "{}",
              "{ 2, 2, 2, 32 }", "{ 1, 1, 16, 16 }", "{ 16, 2, 8 }", "{ 8, 32 }", "{ 16 }", "{ 0 }",
              "{ 1 << 40, 1 << 40 }", "{ 1, 2, 3, 4, 5 }");
}

static const char *attribute(Writer *w, const char *name) {
  if (one_in(w, 60))
    return odd_value(w->random);
  if (strcmp(name, "columns") == 0)
    return columns(w);
  if (strcmp(name, "shape") == 0)
    return shape(w);
  if (strcmp(name, "dtype") == 0)
    return PICK(w, "\"f32\"", "\"bf16\"", "\"i32\"");
  if (strcmp(name, "axis") == 0)
    return PICK(w, "-1", "-1", "-1", "0", "1", "-2", "2");
  if (strcmp(name, "causal") == 0 || strcmp(name, "ta") == 0 || strcmp(name, "tb") == 0)
    return PICK(w, "true", "false", "1");
  return PICK(w, "1", "2", "4", "16", "3", "2", "4", "17");
}

/* { axis = -1 } of an op's "axis k?". */
static const char *attributes(Writer *w, const OpInfo *info) {
  const char *text = "";
  for (const char *p = info->attributes; *p;) {
    size_t length = strcspn(p, " ?");
    const char *name = arena_copy(w->arena, p, length);
    p += length;
    if (!one_in(w, *p == '?' ? 2 : 20))
      text = arena_print(w->arena, "%s%s = %s, ", text, name, attribute(w, name));
    p += strspn(p, " ?");
  }
  return *text ? arena_print(w->arena, "{ %s}", text) : NULL;
}

static const char *op_call(Writer *w) {
  const OpInfo *info = &op_info[draw(w->random, OP_COUNT)];
  while (!(info->flags & FLAG_ELEMENTWISE) && !one_in(w, 3)) /* which most often fit */
    info = &op_info[draw(w->random, OP_COUNT)];
  int operands = info->max_inputs < 0 ? 1 + (int)draw(w->random, 3) : info->max_inputs;
  const char *text = arena_print(w->arena, "op.%s(", info->name), *separator = "";
  operands += one_in(w, 40) ? 1 : 0;
  for (int i = 0; i < operands; i++, separator = ", ")
    text = arena_print(w->arena, "%s%s%s", text, separator, one_in(w, 12) ? number(w) : tensor(w));
  const char *given = attributes(w, info);
  return arena_print(w->arena, "%s%s%s)", text, given ? separator : "", given ? given : "");
}

static const char *composed_call(Writer *w) {
  const char *x = tensor(w);
  switch (draw(w->random, 8)) {
  case 0:
    return arena_print(w->arena, "op.%s(%s)",
                       PICK(w, "gelu", "relu", "square", "logsumexp", "log_softmax", "l2_normalize"), x);
  case 1:
    return arena_print(w->arena, "op.mean(%s, %s)", x, PICK(w, "-1", "0", "1"));
  case 2:
    return arena_print(w->arena, "op.layer_norm(%s, %s, %s, %s)", x, tensor(w), number(w), number(w));
  case 3:
    return arena_print(w->arena, "op.cross_entropy(%s, %s, %s)", x, tensor(w), number(w));
  case 4:
    return arena_print(w->arena, "b.training and op.%s(%s, %s) or %s",
                       PICK(w, "random_uniform", "gumbel", "random_normal"), number(w),
                       PICK(w, "nil", "b.tokens", "t0"), tensor(w));
  case 5:
    return arena_print(w->arena, "moec.param(\"p%u\", %s, init.%s(%s))", w->tensors, shape(w),
                       PICK(w, "zeros", "ones", "normal", "uniform", "constant"), PICK(w, "", "0.02", number(w)));
  case 6:
    return arena_print(w->arena, "moec.scope(\"s\", function(x, ...) return %s end, %s, %s)", op_call(w), x, number(w));
  default:
    return arena_print(w->arena, "-%s", x);
  }
}

static const char *layer_call(Writer *w) {
  const char *x = tensor(w);
  switch (draw(w->random, 7)) {
  case 0:
    return arena_print(w->arena, "nn.linear(%s, { out = %s, bias = %s })", x, columns(w),
                       PICK(w, "true", "false", "nil"));
  case 1:
    return arena_print(w->arena, "nn.layer_norm(%s, { eps = %s })", x, PICK(w, "nil", "1e-5", number(w)));
  case 2:
    return arena_print(w->arena, "nn.attention(%s, { heads = %s, causal = %s, segments = %s })", x,
                       PICK(w, "1", "2", "4", number(w)), PICK(w, "true", "false"), one_in(w, 9) ? tensor(w) : "b.off");
  case 3:
    return arena_print(w->arena, "nn.dropout(%s, %s)", x, PICK(w, "0.5", "0.1", "0", number(w)));
  case 4:
    return arena_print(w->arena, "nn.ffn(%s, { hidden = %s, activation = %s })", x, columns(w),
                       PICK(w, "\"gelu\"", "\"relu\"", "nil", number(w)));
  case 5:
    return arena_print(w->arena, "nn.moe(%s, { experts = 4, hidden = %s, ids = %s })", x, columns(w),
                       PICK(w, "b.tokens", "nil", tensor(w)));
  default:
    return arena_print(w->arena, "nn.moe(%s, { experts = %s, expert = function(x, e) return %s end })", x,
                       PICK(w, "2", "4", number(w)),
                       PICK(w, "e.linear(x, { out = 16 })", "x", "op.relu(e.linear(x, { out = 16, bias = false }))",
                            "nn.dropout(x, 0.5)", "e.layer_norm(x)", "x * e.param(\"s\", { 16 }, init.ones())",
                            op_call(w)));
  }
}

static const char *expression(Writer *w) {
  switch (draw(w->random, 6)) {
  case 0:
    return arena_print(w->arena, "%s %s %s", tensor(w), PICK(w, "+", "-", "*", "/"),
                       one_in(w, 2) ? tensor(w) : number(w));
  case 1:
    return composed_call(w);
  case 2:
  case 3:
    return layer_call(w);
  default:
    return op_call(w);
  }
}

/* The given text, or now and then a number instead. */
static const char *mostly(Writer *w, const char *text) {
  return one_in(w, 15) ? number(w) : text;
}

static const char *gate_text(Writer *w) {
  switch (draw(w->random, 4)) {
  case 0:
    return arena_print(w->arena, "gate.switch { balance = %s, jitter = %s, z_loss = %s }", mostly(w, "0.01"),
                       mostly(w, PICK(w, "0", "0.1")), mostly(w, PICK(w, "0", "1e-3")));
  case 1:
    return arena_print(w->arena, "gate.topk { k = %s, balance = %s }", mostly(w, PICK(w, "1", "2", "4")),
                       mostly(w, "0.01"));
  default:
    return arena_print(w->arena, "gate.dts { threshold = %s, weight = \"%s\", balance = %s }",
                       mostly(w, PICK(w, "0.001", "0.3", "0")), PICK(w, "paper", "code"),
                       mostly(w, PICK(w, "0.1", "0")));
  }
}

static const char *phases(Writer *w) {
  switch (draw(w->random, 4)) {
  case 0:
    return "nil";
  case 1:
    return arena_print(w->arena, "phase.evomoe { shared = %s, anneal = %s, tau = { 2, %s }, gate = %s, %s = %s }",
                       mostly(w, PICK(w, "4", "0", "10")), mostly(w, "5"), mostly(w, "1"), gate_text(w),
                       PICK(w, "mask", "noise", "dense"), mostly(w, PICK(w, "nil", "0.1")));
  case 2:
    return arena_print(w->arena,
                       "{ { name = \"a\", steps = %s, experts = 1 }, { name = \"b\", gate = %s, values = { tau = %s }, "
                       "enter = phase.diversify { %s = %s } } }",
                       mostly(w, "7"), gate_text(w), mostly(w, "2.5"), PICK(w, "mask", "noise"),
                       mostly(w, PICK(w, "0.1", "0")));
  default:
    return arena_print(w->arena,
                       "{ { name = \"a\", gate = %s, values = { tau = schedule.%s(%s, %s, %s) }, freeze = { %s } } }",
                       gate_text(w), PICK(w, "linear", "exponential"), mostly(w, "2"), mostly(w, "1"), mostly(w, "5"),
                       PICK(w, "\"embed*\"", "", "\"*\""));
  }
}

static const char *optimizer(Writer *w) {
  const char *rate = PICK(w, "1e-3", "0.1", "0", number(w));
  if (one_in(w, 3))
    rate = arena_print(w->arena, "optim.%s { peak = %s, warmup = %s, total = %s }", PICK(w, "polynomial", "cosine"),
                       mostly(w, "0.01"), mostly(w, "5"), mostly(w, "20"));
  return arena_print(w->arena, "optim.adam { lr = %s, weight_decay = %s, clip = %s, betas = { %s, 0.99 } }", rate,
                     mostly(w, PICK(w, "0", "0.1")), mostly(w, PICK(w, "0", "1.0")), mostly(w, "0.9"));
}

FuzzScript script_generated(Arena *arena, Random *r) {
  Writer w = {.arena = arena, .random = r};
  w.text = arena_print(arena,
                       "local moec = require \"moec\"\n"
                       "local nn, op, gate, init, optim = moec.nn, moec.op, moec.gate, moec.init, moec.optim\n"
                       "local phase, schedule = moec.phase, moec.schedule\n"
                       "local c = moec.config { batch = %s, seq = 8, accumulate = %s }\n"
                       "local embed = nn.embedding { vocab = 32, d = 16 }\n"
                       "local function forward(b)\n  local x = embed(b.tokens)\n  local t0, e = x, nn\n",
                       one_in(&w, 10) ? number(&w) : "2", one_in(&w, 10) ? number(&w) : "1");
  if (!one_in(&w, 3)) { /* what phases and gates are about */
    w.text = arena_print(arena, "%s  local t1 = x + nn.moe(x, { experts = 4, hidden = 16, ids = b.tokens })\n", w.text);
    w.tensors = 1;
  }
  for (uint32_t count = w.tensors + draw(r, 6); w.tensors < count; w.tensors++)
    w.text = arena_print(arena, "%s  local t%u = %s\n", w.text, w.tensors + 1, expression(&w));
  const char *result = one_in(&w, 2) ? arena_print(arena, "x + op.sum(t%u, -1)", w.tensors) : tensor(&w);
  w.text =
      arena_print(arena,
                  "%s  return nn.tied_logits(%s, embed)\nend\n"
                  "return moec.model {\n  name = \"m\", task = \"lm\", config = c, forward = forward, steps = %s,\n"
                  "  precision = \"%s\", loss = { label_smoothing = %s, aux = \"%s\" },\n"
                  "  optimizer = %s,\n  phases = %s,\n}\n",
                  w.text, result, one_in(&w, 10) ? number(&w) : "20", PICK(&w, "f32", "bf16"),
                  mostly(&w, PICK(&w, "0", "0.1")), PICK(&w, "mean", "sum"), optimizer(&w), phases(&w));
  return (FuzzScript){.from = "generated", .text = w.text};
}
