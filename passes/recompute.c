/* Recomputation: what the backward part reads of the forward part is kept in memory, or made again where it is needed.
 *
 * In: a module behind autodiff. Out: in every function with gradients, and in updates (whose second part begins behind
 * the norm of the gradient), values of the forward part that run again are
 * copied into the backward part, right before their use, as `NAME_again`; the backward part reads the copies, and the
 * originals die in the forward part. Holds: bit-equal in the interpreter, since a copy has the operands and attributes
 * of its original (random draws are pure functions of theirs); a routing decision, or any other comparison of computed
 * numbers, is never taken twice; which values run again is the cheapest choice under the policy (recompute_cut.c).
 *
 * Policies (option policy):
 *   none    everything the backward part reads is kept
 *   cheap   row ops run again (elementwise, row reductions, gathers) where the bytes they free are worth the time at
 * the target's rates (rates.h): of a GELU only its operand is kept, of a layer norm its operand and two numbers per
 * row. The default: measured on the CPU, it takes no longer than keeping everything; on a GPU, whose time is memory's,
 * it is what moves the least, and memory counts for little. Dropout masks may run again too, but ten rounds of Philox
 * are dearer than the mask's memory layer   of a layer its input, decisions and attention are kept; products run again
 * too Option prices overrides the price of single functions, as the search for --memory does: "NAME=BYTES,...", the
 * bytes that a microsecond of running again must free; with it, products may run again, and of equal layers the first
 * ones, whose values are kept longest, do so first.
 *
 * Two policies of systems with expert parallelism have nothing to act on with one rank and are refused: `exchanges`
 * keeps what the exchanges between ranks give, which come behind `dispatch` (packed rows go to their experts' ranks)
 * and in front of `combine` (they come back); `three_tensor` keeps of an MoE layer the rows sent, the rows received
 * and the experts' hidden rows, the three tensors between which only row ops and local products stand. Both belong
 * into `inst_fixed` of recompute_cut.c, as what a policy fixes, once pass shard inserts all_to_all.
 *
 * Where copies stand: those of row ops serve the readers up to the next matrix product of the backward chain and are
 * made anew behind it, so that fuse_rows puts them into the kernels there and none is carried across a product; those
 * of products serve all readers. The product of a weight's gradient that reads a copy waits until the row ops behind
 * it are done: one kernel then makes its operand and their gradient. */
#include "passes/recompute.h"
#include "ir/rows.h"
#include "passes/rewrite.h"

#include <stdlib.h>
#include <string.h>

enum { POLICY_COUNT = 3 };

static Policy policy_at(int i, const Rates *rates) {
  const Policy policies[POLICY_COUNT] = {
      {.name = "none", .none = true},
      {.name = "cheap", .price = rates->price},
      {.name = "layer", .products = true, .price = 1e-3},
  };
  return policies[i];
}

/* ---------------------------------------------------------------- options */

static Policy read_policy(const PassContext *context) {
  const char *name = pass_setting_text(context, "policy", "cheap");
  for (int i = 0; i < POLICY_COUNT; i++)
    if (strcmp(policy_at(i, context->rates).name, name) == 0)
      return policy_at(i, context->rates);
  if (strcmp(name, "exchanges") == 0 || strcmp(name, "three_tensor") == 0)
    ir_fail((Loc){0},
            "--recompute:policy=%s: it chooses what to keep around the exchanges between ranks, and one rank has no "
            "exchange; expected none, cheap or layer",
            name);
  ir_fail((Loc){0}, "--recompute:policy=%s: expected none, cheap or layer", name);
}

/* The policy of one function: the price that option prices gives it, if any. */
static Policy policy_of(const PassContext *context, const Func *f) {
  const Policy policy = read_policy(context);
  const size_t length = strlen(f->name);
  for (const char *at = pass_setting_text(context, "prices", ""); *at != '\0';
       at += strcspn(at, ","), at += *at == ',') {
    const char *equals = strchr(at, '=');
    char *end = NULL;
    const double price = equals ? strtod(equals + 1, &end) : 0;
    if (equals == NULL || end == equals + 1 || (*end != ',' && *end != '\0') || !(price > 0))
      ir_fail((Loc){0}, "--recompute:prices=%s: expected FUNCTION=BYTES,...", at);
    if ((size_t)(equals - at) == length && strncmp(at, f->name, length) == 0)
      return (Policy){.name = "memory", .products = true, .graded = true, .price = price};
  }
  return policy;
}

/* ---------------------------------------------------------------- ledger */

static Cost cost_of(double bytes, double flops, double microseconds) {
  Cost cost = NO_COST;
  cost.bytes = bytes;
  cost.flops = flops;
  cost.microseconds = microseconds;
  return cost;
}

/* The whole function: the chosen policy beside the others. */
static void decide_policy(const PassContext *context, const Forward *forward, const Policy *policy,
                          const Choice *choice) {
  Arena *arena = forward->arena;
  Alternative *alternatives = NULL;
  for (int i = 0; i < POLICY_COUNT; i++) {
    const Policy instead = policy_at(i, context->rates);
    if (strcmp(instead.name, policy->name) == 0)
      continue;
    const Choice other = recompute_choose(forward, &instead);
    const char *lost = other.kept > choice->kept ? "it keeps more" : "it frees less than its time is worth";
    const Alternative alternative = {arena_print(arena, "policy %s", instead.name),
                                     cost_of(other.kept, other.flops, other.microseconds), lost};
    vec_push(arena, alternatives, alternative);
  }
  const Site site = {.pass = context->pass, .function = forward->f->name};
  const char *reason = "the bytes kept for the second part of the function, and what runs again instead";
  if (policy->graded)
    reason = arena_print(
        arena, "--memory: what frees %.3g bytes per microsecond runs again, of values made late %d times that",
        policy->price, GRADE);
  decide(context->ledger, site, arena_print(arena, "policy %s", policy->name), alternatives,
         cost_of(choice->kept, choice->flops, choice->microseconds), reason);
}

/* How many instructions and microseconds running v again takes, chain included; `seen` marks what was counted. */
static void count_chain(const Forward *forward, const Choice *choice, ValueId v, bool *seen, int *insts, double *flops,
                        double *time) {
  const Value *value = &forward->f->values[v];
  if (value->kind != VALUE_RESULT || seen[v] || choice->fate[v] != FATE_AGAIN)
    return;
  seen[v] = true;
  const Inst *inst = &forward->f->insts[value->inst];
  *insts += !recompute_is_free(inst);
  *flops += recompute_flops(forward, v);
  *time += recompute_time(forward, v);
  for (int k = 0; k < inst->input_count; k++)
    count_chain(forward, choice, inst->input[k], seen, insts, flops, time);
}

static void decide_again(const PassContext *context, const Forward *forward, const Choice *choice, Site site,
                         ValueId v) {
  Arena *arena = forward->arena;
  bool *seen = arena_alloc(arena, vec_len(forward->f->values) + 1);
  int insts = 0;
  double flops = 0, time = 0;
  count_chain(forward, choice, v, seen, &insts, &flops, &time);
  Alternative *alternatives = NULL;
  const Alternative keep = {"kept in memory", cost_of(recompute_bytes(forward, v), 0, -1),
                            "its memory is worth more than the time"};
  vec_push(arena, alternatives, keep);
  decide(context->ledger, site, arena_print(arena, "%d instruction%s run again", insts, insts == 1 ? "" : "s"),
         alternatives, cost_of(0, flops, time), "made again from what is kept anyway");
}

static const char *kept_reason(const Forward *forward, const Policy *policy, ValueId v) {
  const Inst *inst = &forward->f->insts[forward->f->values[v].inst];
  if (forward->fixed[v] != NULL)
    return forward->fixed[v];
  if (policy->products && forward->border[v])
    return "it leads from one layer into the next";
  if (recompute_is_product(inst) && !policy->products)
    return "a matrix product, which only policy layer runs again";
  if (recompute_is_product(inst) && forward->last[v])
    return "made behind the last layer: the backward part begins with it";
  return "what it is made from takes as much memory, or its time is worth more";
}

static void decide_kept(const PassContext *context, const Forward *forward, const Policy *policy, Site site,
                        ValueId v) {
  const char *reason = kept_reason(forward, policy, v);
  Alternative *alternatives = NULL;
  const Alternative again = {"made again", cost_of(-1, recompute_flops(forward, v), recompute_time(forward, v)),
                             reason};
  vec_push(forward->arena, alternatives, again);
  decide(context->ledger, site, "kept in memory", alternatives, cost_of(recompute_bytes(forward, v), 0, -1), reason);
}

static void decide_values(const PassContext *context, const Forward *forward, const Policy *policy,
                          const Choice *choice) {
  const Func *f = forward->f;
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    const bool again = choice->fate[v] == FATE_AGAIN && forward->read[v];
    if (choice->fate[v] == FATE_UNUSED || (choice->fate[v] == FATE_AGAIN && !again))
      continue;
    const Inst *inst = &f->insts[f->values[v].inst];
    if (recompute_is_free(inst) || type_elements(f->module, f->values[v].type) == 1)
      continue;
    Site site = {.pass = context->pass, .function = f->name, .loc = inst->loc};
    vec_push(forward->arena, site.values, f->values[v].name);
    if (again)
      decide_again(context, forward, choice, site, v);
    else
      decide_kept(context, forward, policy, site, v);
  }
}

/* ---------------------------------------------------------------- writing */

typedef struct Copier {
  const Forward *forward;
  const Choice *choice;
  Rewrite rewrite;
  ValueId *copy;     /* by old ValueId: its latest copy, or NO_VALUE */
  uint32_t *stretch; /* by old ValueId: in which stretch it was made */
  uint32_t now;      /* stretches end at the matrix products of the backward chain */
  uint32_t *waiting; /* arena vector: old instructions that wait */
} Copier;

/* Views of what is kept need no copy. */
static bool is_copied(const Copier *c, ValueId v) {
  if (c->choice->fate[v] != FATE_AGAIN)
    return false;
  const Inst *inst = &c->rewrite.old.insts[c->rewrite.old.values[v].inst];
  return !(op_info[inst->op].flags & FLAG_VIEW) || is_copied(c, inst->input[0]);
}

static ValueId write_operand(Copier *c, ValueId old);

/* Writes old instruction `index` again; its outputs are copies from now on. */
static void write_copy(Copier *c, uint32_t index) {
  Func *f = c->rewrite.f;
  Inst inst = c->rewrite.old.insts[index];
  const ValueId *old_input = inst.input;
  inst.input = arena_alloc(c->forward->arena, (inst.input_count + 1u) * sizeof *inst.input);
  for (int k = 0; k < inst.input_count; k++)
    inst.input[k] = write_operand(c, old_input[k]);
  const uint32_t written = vec_len(f->insts);
  for (int k = 0; k < inst.output_count; k++) {
    const ValueId old = inst.output[k], new_value = vec_len(f->values);
    Value value = c->rewrite.old.values[old];
    const char *name = arena_print(c->forward->arena, "%s_again", value.name);
    value.inst = written;
    value.name = arena_print(c->forward->arena, "again.%u", new_value);
    if (value.type.extent != NO_VALUE)
      value.type.extent = rewrite_value(&c->rewrite, value.type.extent);
    vec_push(c->forward->arena, f->values, value);
    value_rename(f, new_value, name);
    c->copy[old] = inst.output[k] = new_value;
    c->stretch[old] = c->now;
  }
  vec_push(c->forward->arena, f->insts, inst);
  c->now += recompute_is_heavy(&c->rewrite.old, &inst);
}

/* What the backward part reads for an old value: the value itself, or a copy of it, made now if need be. */
static ValueId write_operand(Copier *c, ValueId old) {
  if (!is_copied(c, old))
    return rewrite_value(&c->rewrite, old);
  const uint32_t index = c->rewrite.old.values[old].inst;
  const bool heavy = recompute_is_heavy(&c->rewrite.old, &c->rewrite.old.insts[index]);
  if (c->copy[old] == NO_VALUE || (!heavy && c->stretch[old] != c->now))
    write_copy(c, index);
  return c->copy[old];
}

/* Copies a backward instruction with copies for the operands that run again. */
static void write_backward(Copier *c, uint32_t index) {
  const Inst *inst = &c->rewrite.old.insts[index];
  ValueId *original = arena_alloc(c->forward->arena, (inst->input_count + 1u) * sizeof *original);
  for (int k = 0; k < inst->input_count; k++)
    original[k] = c->rewrite.map[inst->input[k]];
  ValueId *operand = arena_alloc(c->forward->arena, (inst->input_count + 1u) * sizeof *operand);
  for (int k = 0; k < inst->input_count; k++)
    operand[k] = write_operand(c, inst->input[k]);
  for (int k = 0; k < inst->input_count; k++)
    rewrite_map(&c->rewrite, inst->input[k], operand[k]);
  rewrite_copy(&c->rewrite, index);
  for (int k = 0; k < inst->input_count; k++)
    rewrite_map(&c->rewrite, inst->input[k], original[k]);
}

static void write_waiting(Copier *c) {
  for (uint32_t i = 0; i < vec_len(c->waiting); i++)
    write_backward(c, c->waiting[i]);
  if (c->waiting != NULL)
    vec_header(c->waiting)->length = 0;
}

static bool has_to_wait(const Copier *c, uint32_t index) {
  const Inst *inst = &c->rewrite.old.insts[index];
  bool waits =
      recompute_is_heavy(&c->rewrite.old, inst) && vec_len(c->waiting) > 0; /* or it would part copy and reader */
  for (int k = 0; k < inst->input_count; k++) {
    const Value *value = &c->rewrite.old.values[inst->input[k]];
    waits |= recompute_is_heavy(&c->rewrite.old, inst) && is_copied(c, inst->input[k]);
    waits |= value->kind == VALUE_RESULT && c->rewrite.map[inst->input[k]] == NO_VALUE; /* a view of what waits */
  }
  return c->forward->leaf[index] && waits;
}

static void write_func(const Forward *forward, const Choice *choice) {
  Func *f = forward->f;
  const uint32_t values = vec_len(f->values);
  Copier c = {.forward = forward, .choice = choice};
  c.copy = arena_alloc(forward->arena, (values + 1) * sizeof *c.copy);
  c.stretch = arena_alloc(forward->arena, (values + 1) * sizeof *c.stretch);
  for (ValueId v = 0; v < values; v++)
    c.copy[v] = NO_VALUE;
  c.rewrite = rewrite_begin(f);
  for (uint32_t i = 0; i < vec_len(c.rewrite.old.insts); i++) {
    const Inst *inst = &c.rewrite.old.insts[i];
    if (i < forward->count) {
      rewrite_copy(&c.rewrite, i);
    } else if (has_to_wait(&c, i)) {
      vec_push(forward->arena, c.waiting, i);
    } else {
      const bool ends_stretch = recompute_is_heavy(&c.rewrite.old, inst) && !forward->leaf[i];
      if (ends_stretch)
        write_waiting(&c);
      write_backward(&c, i);
      c.now += ends_stretch;
    }
  }
  write_waiting(&c);
  rewrite_end(&c.rewrite);
}

static bool recompute_func(const PassContext *context, Func *f) {
  Forward forward;
  if (!recompute_forward(f, context->rates, &forward))
    return false;
  const Policy policy = policy_of(context, f);
  const Choice choice = recompute_choose(&forward, &policy);
  decide_policy(context, &forward, &policy, &choice);
  decide_values(context, &forward, &policy, &choice);
  bool any = false;
  for (ValueId v = 0; v < vec_len(f->values); v++)
    any |= choice.fate[v] == FATE_AGAIN && forward.read[v] && !recompute_is_free(&f->insts[f->values[v].inst]);
  if (any)
    write_func(&forward, &choice);
  return any;
}

bool pass_recompute(PassContext *context) {
  bool changed = false;
  read_policy(context); /* a wrong one is an error even where nothing can run again */
  for (uint32_t i = 0; i < vec_len(context->module->funcs); i++)
    changed |= recompute_func(context, context->module->funcs[i]);
  return changed;
}
