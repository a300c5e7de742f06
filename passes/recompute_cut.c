/* Which values of the forward part are kept for the backward part, and which are made again. See recompute.h.
 *
 * The choice is a minimum cut. Every forward value v is two nodes, in(v) and out(v); what ends on the sink's side is
 * needed behind the loss. The edges are
 *
 *   source -> in(v)    the price of running v's instruction again, as often as it will; unlimited where it must not
 *   in(v)  -> out(v)   the bytes of keeping v
 *   out(u) -> in(v)    unlimited, for every operand u of v: who runs v again needs u
 *   out(v) -> sink     unlimited, where the backward part reads v
 *
 * so that a cut pays, for each value needed, either its bytes or its price and its operands. Whole chains are priced at
 * once, and nothing runs again from a value that nobody keeps or makes. Of equal cuts the one nearest to the readers is
 * taken, which runs the least.
 *
 * Where time is what memory moves (Rates.gpu), keeping and reading cost, too. A third node, read(v), stands for v's
 * rows on their way from memory into row kernels of the backward part; its cost is paid once in a stretch of those,
 * whoever reads it there:
 *
 *   in(v) -> out(v)        besides, the write of v, where the forward part has no need of it in memory
 *   in(v) -> read(v)       its bytes, as often as there are such stretches
 *   read(v) -> in(w)       unlimited, for every row op w that reads v to run again
 *   read(v) -> sink        unlimited, where a row op of the backward part reads v
 *
 * A view's rows are those of what it views. Without that, a sum of all branches so far, made again from branches kept
 * in bf16, would seem to cost nothing; it costs the reads of all of them, in every layer.
 *
 * Under a policy with products, chains end at the borders of layers: the backward part of one layer runs that layer
 * again, not the ones before it. A layer is what reads the parameters of one scope ("h3.", the part of a name up to the
 * first component that ends in a digit); its border is the place between two scopes that the fewest bytes cross. */
#include "ir/rows.h"
#include "passes/narrow_rows.h"
#include "passes/recompute.h"
#include "passes/recompute_flow.h"

#include <math.h>
#include <string.h>

bool recompute_is_product(const Inst *inst) {
  return inst->op == OP_matmul || inst->op == OP_grouped_matmul || inst->op == OP_concat;
}

bool recompute_is_free(const Inst *inst) {
  return inst->op == OP_const || (op_info[inst->op].flags & FLAG_VIEW);
}

bool recompute_is_row_op(const Func *f, const Inst *inst) {
  return inst->op != OP_matmul && row_op(f, inst);
}

bool recompute_is_heavy(const Func *f, const Inst *inst) {
  return !recompute_is_free(inst) && !recompute_is_row_op(f, inst);
}

static const Inst *maker(const Func *f, ValueId v) {
  return f->values[v].kind == VALUE_RESULT ? &f->insts[f->values[v].inst] : NULL;
}

/* The value behind views. */
static ValueId root_of(const Func *f, ValueId v) {
  for (const Inst *inst; (inst = maker(f, v)) != NULL && (op_info[inst->op].flags & FLAG_VIEW);)
    v = inst->input[0];
  return v;
}

/* A value the forward part computes: no argument, no parameter, no constant. */
static bool is_computed(const Forward *forward, ValueId v) {
  const Value *value = &forward->f->values[v];
  return value->kind == VALUE_RESULT && value->inst < forward->count && forward->f->insts[value->inst].op != OP_const;
}

/* ---------------------------------------------------------------- prices */

static double typed_bytes(const Func *f, ValueId v) {
  return (double)type_bytes(f->module, f->values[v].type);
}

double recompute_bytes(const Forward *forward, ValueId v) {
  const double narrower = (double)dtype_size(DTYPE_BF16) / (double)dtype_size(DTYPE_F32);
  return typed_bytes(forward->f, v) * (narrow_rows_takes(forward->f, forward->rates, v) ? narrower : 1);
}

/* Operations for one element. */
static double weight_of(Op op) {
  switch (op) {
  case OP_exp:
  case OP_log:
  case OP_expm1:
  case OP_log1p:
  case OP_tanh:
  case OP_erf:
  case OP_sigmoid:
  case OP_cos:
  case OP_sin:
    return 16;
  case OP_softmax:
    return 24;
  case OP_div:
  case OP_sqrt:
  case OP_rsqrt:
    return 4;
  case OP_uniform: /* ten rounds of Philox: measured, more time than a float takes to memory and back */
    return 150;
  default:
    return 1;
  }
}

double recompute_flops(const Forward *forward, ValueId v) {
  const Inst *inst = maker(forward->f, v);
  return flop_rule[inst->op](forward->f, inst, -1).flops;
}

double recompute_time(const Forward *forward, ValueId v) {
  const Func *f = forward->f;
  const Inst *inst = maker(f, v);
  if (recompute_is_free(inst))
    return 0;
  const Work work = flop_rule[inst->op](f, inst, -1);
  if (recompute_is_product(inst))
    return 1e6 * (work.flops / forward->rates->again_product + work.bytes / forward->rates->again_memory);
  double bytes = forward->written[v] ? recompute_bytes(forward, v) : 0;
  if (op_info[inst->op].flags &
      FLAG_GATHER) /* other rows than the kernel's: not read there anyway, nor at memory's rate */
    bytes += typed_bytes(f, inst->op == OP_combine || inst->op == OP_unpack ? inst->input[0] : v);
  return 1e6 * (work.flops * weight_of(inst->op) / forward->rates->row + bytes / forward->rates->again_memory);
}

/* ---------------------------------------------------------------- the two parts */

/* The backward part begins behind everything that is a result and no gradient. An update's second part, which the
 * square of every gradient leads into, begins behind the norm: it may depend on all of it. */
static bool find_parts(Forward *forward) {
  const Func *f = forward->f;
  const ValueId norm = func_find_result(f, "grad_norm");
  bool gradients = false;
  for (uint32_t i = 0; i < vec_len(f->results); i++) {
    const Value *value = &f->values[f->results[i].value];
    const bool gradient = result_is_gradient(&f->results[i]);
    gradients |= gradient;
    if (!gradient && (norm == NO_VALUE || norm == f->results[i].value) && value->kind == VALUE_RESULT &&
        value->inst + 1 > forward->count)
      forward->count = value->inst + 1;
  }
  return gradients || norm != NO_VALUE;
}

static void find_readers(Forward *forward) {
  const Func *f = forward->f;
  for (uint32_t i = forward->count; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; k < inst->input_count; k++)
      if (is_computed(forward, inst->input[k])) {
        forward->read[inst->input[k]] = true;
        const bool written = !recompute_is_free(inst) && !recompute_is_row_op(f, inst);
        forward->written[inst->input[k]] |= written;
        if (forward->rates->gpu) /* the CPU's prices were fitted without what a view hides */
          forward->written[root_of(f, inst->input[k])] |= written;
      }
  }
}

/* By ValueId: the same bits however it is computed. Random draws, indices, and what selects or compares only them. */
static bool *find_exact(const Forward *forward) {
  const Func *f = forward->f;
  bool *exact = arena_alloc(forward->arena, vec_len(f->values) + 1);
  for (ValueId v = 0; v < vec_len(f->values); v++)
    exact[v] = f->values[v].kind == VALUE_ARGUMENT;
  for (uint32_t i = 0; i < forward->count; i++) {
    const Inst *inst = &f->insts[i];
    const bool whole = f->values[inst->output[0]].type.dtype == DTYPE_I32;
    bool all = whole || recompute_is_free(inst) || inst->op == OP_uniform || inst->op == OP_broadcast ||
               inst->op == OP_greater || inst->op == OP_greater_equal || inst->op == OP_equal || inst->op == OP_one_hot;
    for (int k = 0; k < inst->input_count; k++)
      all &= exact[inst->input[k]] || inst->op == OP_route; /* what is routed is kept */
    for (int k = 0; k < inst->output_count; k++)
      exact[inst->output[k]] = all;
  }
  return exact;
}

/* Why the instruction never runs again, whatever the policy. */
static const char *inst_fixed(const Forward *forward, const Inst *inst, const bool *exact) {
  if (inst->op == OP_route)
    return "a routing decision is never taken twice";
  if (op_info[inst->op].flags & FLAG_COMMUNICATES)
    return "an exchange runs again only if the policy names it";
  if (inst->op == OP_attention)
    return "attention is kept: its result is small beside the work";
  if ((op_info[inst->op].flags & FLAG_DECISION) && !exact[inst->output[0]])
    return "a decision about computed numbers is never taken twice";
  if (!recompute_is_free(inst) && !recompute_is_row_op(forward->f, inst) && !recompute_is_product(inst))
    return arena_print(forward->arena, "%s never runs again", op_info[inst->op].name);
  return NULL;
}

static void find_fixed(Forward *forward) {
  const Func *f = forward->f;
  const bool *exact = find_exact(forward);
  for (uint32_t i = 0; i < forward->count; i++) {
    const Inst *inst = &f->insts[i];
    const char *why = inst_fixed(forward, inst, exact);
    for (int k = 0; k < inst->output_count; k++)
      if (forward->fixed[inst->output[k]] == NULL)
        forward->fixed[inst->output[k]] = why;
  }
  for (uint32_t i = 0; i < forward->count; i++)
    if (f->insts[i].op == OP_route)
      forward->fixed[root_of(f, f->insts[i].input[0])] = "a routing decision is never taken twice";
}

/* ---------------------------------------------------------------- layers */

/* Length of the scope in a parameter's name: up to the first component that ends in a digit, else the first one. */
static size_t scope_length(const char *name) {
  const size_t first = strcspn(name, ".");
  size_t end = first;
  while (name[end] != '\0') {
    if (end > 0 && name[end - 1] >= '0' && name[end - 1] <= '9')
      return end;
    end += 1 + strcspn(name + end + 1, ".");
  }
  return first;
}

static bool same_scope(const char *a, const char *b) {
  const size_t length = scope_length(a);
  return length == scope_length(b) && memcmp(a, b, length) == 0;
}

/* A parameter the instruction reads, or NULL. */
static const char *parameter_of(const Func *f, const Inst *inst) {
  for (int k = 0; k < inst->input_count && !recompute_is_free(inst); k++) {
    const Value *value = &f->values[root_of(f, inst->input[k])];
    if (value->kind == VALUE_PARAMETER)
      return value->parameter;
  }
  return NULL;
}

/* By ValueId of a computed value that is no view: the last forward instruction that reads it or a view of it. */
static uint32_t *find_last_uses(const Forward *forward) {
  const Func *f = forward->f;
  uint32_t *last = arena_alloc(forward->arena, (vec_len(f->values) + 1) * sizeof *last);
  for (uint32_t i = 0; i < forward->count; i++)
    for (int k = 0; k < f->insts[i].input_count; k++)
      last[root_of(f, f->insts[i].input[k])] = i;
  return last;
}

/* By index of a forward instruction: the bytes made before it that it or something behind it reads. */
static double *find_crossing(const Forward *forward, const uint32_t *last) {
  const Func *f = forward->f;
  double *crossing = arena_alloc(forward->arena, (forward->count + 2) * sizeof *crossing);
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    if (!is_computed(forward, v) || root_of(f, v) != v || last[v] <= f->values[v].inst)
      continue;
    crossing[f->values[v].inst + 1] += recompute_bytes(forward, v);
    crossing[last[v] + 1] -= recompute_bytes(forward, v);
  }
  for (uint32_t i = 1; i <= forward->count; i++)
    crossing[i] += crossing[i - 1];
  return crossing;
}

static void mark_border(Forward *forward, const uint32_t *last, uint32_t at) {
  const Func *f = forward->f;
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (is_computed(forward, v) && root_of(f, v) == v && f->values[v].inst < at && last[v] >= at)
      forward->border[v] = true;
}

static void find_borders(Forward *forward) {
  const Func *f = forward->f;
  const uint32_t *last = find_last_uses(forward);
  const double *crossing = find_crossing(forward, last);
  const char *scope = NULL;
  uint32_t reader = 0, border = 0;
  for (uint32_t i = 0; i < forward->count; i++) {
    const char *parameter = parameter_of(f, &f->insts[i]);
    if (parameter == NULL)
      continue;
    if (scope != NULL && !same_scope(scope, parameter)) {
      border = reader + 1;
      for (uint32_t at = border; at <= i; at++)
        if (crossing[at] < crossing[border])
          border = at;
      mark_border(forward, last, border);
    }
    scope = parameter;
    reader = i;
  }
  for (ValueId v = 0; v < vec_len(f->values); v++)
    forward->last[v] = is_computed(forward, v) && f->values[v].inst >= border;
}

static void find_leaves(Forward *forward) {
  const Func *f = forward->f;
  bool *leaf = forward->leaf, *needed = arena_alloc(forward->arena, vec_len(f->values) + 1);
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    leaf[i] = true;
    for (int k = 0; k < inst->output_count; k++)
      leaf[i] &= !needed[inst->output[k]];
    const bool view = op_info[inst->op].flags & FLAG_VIEW;
    for (int k = 0; k < inst->input_count; k++)
      needed[inst->input[k]] |= !(view && leaf[i]);
  }
}

/* What something that is no row op makes or reads, or row ops on both sides of such a thing. */
static void find_stored(Forward *forward) {
  const Func *f = forward->f;
  uint32_t *stretch = arena_alloc(forward->arena, (forward->count + 1) * sizeof *stretch), now = 0;
  for (uint32_t i = 0; i < forward->count; i++) {
    const Inst *inst = &f->insts[i];
    const bool heavy = recompute_is_heavy(f, inst);
    stretch[i] = now += heavy;
    for (int k = 0; k < inst->output_count; k++)
      forward->stored[inst->output[k]] = heavy;
    for (int k = 0; k < inst->input_count && !recompute_is_free(inst); k++) {
      const ValueId v = root_of(f, inst->input[k]);
      if (is_computed(forward, v))
        forward->stored[v] |= heavy || stretch[f->values[v].inst] != now;
    }
  }
}

bool recompute_forward(Func *f, const Rates *rates, Forward *forward) {
  Arena *arena = f->module->arena;
  const size_t values = vec_len(f->values) + 1;
  *forward = (Forward){.f = f, .arena = arena, .rates = rates};
  if (!find_parts(forward))
    return false;
  forward->read = arena_alloc(arena, values);
  forward->written = arena_alloc(arena, values);
  forward->stored = arena_alloc(arena, values);
  forward->border = arena_alloc(arena, values);
  forward->last = arena_alloc(arena, values);
  forward->fixed = arena_alloc(arena, values * sizeof *forward->fixed);
  forward->leaf = arena_alloc(arena, vec_len(f->insts) + 1);
  find_readers(forward);
  find_stored(forward);
  find_fixed(forward);
  find_borders(forward);
  find_leaves(forward);
  return true;
}

/* ---------------------------------------------------------------- how often */

/* A run through the backward part as recompute.c writes it: which copies it makes, in which stretch. */
typedef struct Walk {
  const Forward *forward;
  Choice *choice;
  uint32_t *stretch; /* by ValueId: the stretch of its latest copy, from 1; 0: none */
  uint32_t *read;    /* by ValueId: the last stretch in which a row op read it from memory; 0: none */
  uint32_t now;
} Walk;

/* What is gathered is priced with the gather. */
static bool reads_rows(const Func *f, const Inst *inst, int operand) {
  const RowRead read = row_read(f, inst, operand);
  return recompute_is_row_op(f, inst) && read != ROW_READ_GATHER && read != ROW_READ_SLOTS && read != ROW_READ_NOTHING;
}

static void walk_read(Walk *w, ValueId v) {
  const ValueId root = root_of(w->forward->f, v);
  if (!is_computed(w->forward, root) || w->choice->fate[root] == FATE_AGAIN || w->read[v] == w->now)
    return;
  w->read[v] = w->now;
  w->choice->reads[v]++;
}

static void walk_operand(Walk *w, ValueId v) {
  const Func *f = w->forward->f;
  if (!is_computed(w->forward, v) || w->choice->fate[v] != FATE_AGAIN)
    return;
  const Inst *inst = maker(f, v);
  const bool heavy = recompute_is_heavy(f, inst);
  if (w->stretch[v] == w->now || (heavy && w->stretch[v] != 0))
    return;
  for (int k = 0; k < inst->input_count; k++) {
    walk_operand(w, inst->input[k]);
    if (reads_rows(f, inst, k))
      walk_read(w, inst->input[k]);
  }
  for (int k = 0; k < inst->output_count; k++) {
    w->stretch[inst->output[k]] = w->now;
    w->choice->times[inst->output[k]]++;
  }
  w->now += heavy;
}

static void count_times(const Forward *forward, Choice *choice) {
  const Func *f = forward->f;
  Walk w = {.forward = forward, .choice = choice, .now = 1};
  w.stretch = arena_alloc(forward->arena, (vec_len(f->values) + 1) * sizeof *w.stretch);
  w.read = arena_alloc(forward->arena, (vec_len(f->values) + 1) * sizeof *w.read);
  for (uint32_t i = forward->count; i < vec_len(f->insts); i++) {
    for (int k = 0; k < f->insts[i].input_count; k++) {
      walk_operand(&w, f->insts[i].input[k]);
      if (reads_rows(f, &f->insts[i], k))
        walk_read(&w, f->insts[i].input[k]);
    }
    w.now += recompute_is_heavy(f, &f->insts[i]) && !forward->leaf[i];
  }
}

/* ---------------------------------------------------------------- the cut */

enum {
  UNITS = 16,  /* capacities count sixteenths of a byte */
  LEAST = 256, /* bytes that one more instruction must free: a few numbers are not worth it */
  MOST_CUTS = 8,
};

static int64_t capacity(double bytes) {
  return (int64_t)(bytes * UNITS + 0.5);
}

static bool may_run(const Forward *forward, const Policy *policy, ValueId v) {
  const Inst *inst = maker(forward->f, v);
  if (forward->fixed[v] != NULL)
    return false;
  if (recompute_is_free(inst))
    return true;
  if (policy->none || (policy->products && forward->border[v]))
    return false;
  return !recompute_is_product(inst) || (policy->products && !forward->last[v]);
}

/* What time is worth more for a value made late. */
static double grade_of(const Forward *forward, const Policy *policy, ValueId v) {
  return policy->graded ? pow(GRADE, (double)forward->f->values[v].inst / forward->count) : 1;
}

/* What running v again once costs, in bytes. */
static double price_of(const Forward *forward, const Policy *policy, ValueId v) {
  const Value *value = &forward->f->values[v];
  if (recompute_is_free(&forward->f->insts[value->inst]))
    return 0;
  return LEAST + policy->price * grade_of(forward, policy, v) * recompute_time(forward, v);
}

/* What moving the value once costs, in bytes. */
static double price_of_move(const Forward *forward, const Policy *policy, ValueId v) {
  const double seconds = recompute_bytes(forward, v) / forward->rates->again_memory;
  return policy->price * grade_of(forward, policy, root_of(forward->f, v)) * 1e6 * seconds;
}

/* What keeping the value costs, in bytes. */
static double price_of_keeping(const Forward *forward, const Policy *policy, ValueId v) {
  const double write = forward->rates->gpu && !forward->stored[v] ? price_of_move(forward, policy, v) : 0;
  return recompute_bytes(forward, v) + write;
}

/* That `node` is on the sink's side means that v's rows are read from memory, unless they are made again. */
static void add_read(Flow *flow, const Forward *forward, ValueId v, uint32_t node) {
  if (is_computed(forward, root_of(forward->f, v)))
    flow_edge(flow, 2 * vec_len(forward->f->values) + 2 + v, node, FLOW_UNLIMITED);
}

static void add_reads(Flow *flow, const Forward *forward, const Policy *policy, const uint32_t *reads) {
  const Func *f = forward->f;
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    const ValueId root = root_of(f, v);
    if (is_computed(forward, root))
      flow_edge(flow, 2 * root, 2 * vec_len(f->values) + 2 + v, capacity(reads[v] * price_of_move(forward, policy, v)));
  }
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    const uint32_t node = i < forward->count ? 2 * inst->output[0] : flow->sink;
    if (i < forward->count && !may_run(forward, policy, inst->output[0]))
      continue;
    for (int k = 0; k < inst->input_count; k++)
      if (reads_rows(f, inst, k))
        add_read(flow, forward, inst->input[k], node);
  }
}

static void add_value(Flow *flow, const Forward *forward, const Policy *policy, const bool *result, uint32_t times,
                      ValueId v) {
  const Inst *inst = maker(forward->f, v);
  const uint32_t in = 2 * v, out = 2 * v + 1;
  const bool runs = may_run(forward, policy, v), view = op_info[inst->op].flags & FLAG_VIEW;
  flow_edge(flow, flow->source, in, runs ? capacity(times * price_of(forward, policy, v)) : FLOW_UNLIMITED);
  /* a view is not kept, what it views is; a result is kept anyway */
  flow_edge(flow, in, out, view ? FLOW_UNLIMITED : result[v] ? 0 : capacity(price_of_keeping(forward, policy, v)));
  if (forward->read[v])
    flow_edge(flow, out, flow->sink, FLOW_UNLIMITED);
  for (int k = 0; k < inst->input_count && runs; k++)
    if (is_computed(forward, inst->input[k]))
      flow_edge(flow, 2 * inst->input[k] + 1, in, FLOW_UNLIMITED);
}

/* The cheapest choice if every value ran again `times` times and its rows were read `reads` times. */
static Choice choose_at(const Forward *forward, const Policy *policy, const bool *result, const uint32_t *times,
                        const uint32_t *reads) {
  const uint32_t values = vec_len(forward->f->values);
  Flow flow = flow_new(forward->arena, 3 * values + 2, 2 * values, 2 * values + 1);
  for (ValueId v = 0; v < values; v++)
    if (is_computed(forward, v))
      add_value(&flow, forward, policy, result, times[v], v);
  if (forward->rates->gpu && !policy->none)
    add_reads(&flow, forward, policy, reads);
  const bool *behind = flow_cut(&flow);
  Choice choice = {.fate = arena_alloc(forward->arena, (values + 1) * sizeof *choice.fate),
                   .times = arena_alloc(forward->arena, (values + 1) * sizeof *choice.times),
                   .reads = arena_alloc(forward->arena, (values + 1) * sizeof *choice.reads)};
  for (ValueId v = 0; v < values; v++)
    if (is_computed(forward, v) && behind[2 * v + 1])
      choice.fate[v] = behind[2 * v] ? FATE_AGAIN : FATE_KEPT;
  return choice;
}

/* Sums up a choice whose times are counted; its price in bytes. */
static double sum_up(const Forward *forward, const Policy *policy, const bool *result, Choice *choice) {
  double price = 0;
  for (ValueId v = 0; v < vec_len(forward->f->values); v++) {
    if (choice->fate[v] == FATE_KEPT) {
      choice->kept += recompute_bytes(forward, v);
      price += result[v] ? 0 : price_of_keeping(forward, policy, v);
    } else if (choice->fate[v] == FATE_AGAIN && !(op_info[maker(forward->f, v)->op].flags & FLAG_VIEW)) {
      choice->flops += choice->times[v] * recompute_flops(forward, v);
      choice->microseconds += choice->times[v] * recompute_time(forward, v);
      choice->released += forward->read[v] ? recompute_bytes(forward, v) : 0;
      price += choice->times[v] * price_of(forward, policy, v);
    }
    if (forward->rates->gpu)
      price += choice->reads[v] * price_of_move(forward, policy, v);
  }
  return price;
}

/* How often a value runs again follows from the choice, and the choice from that: the first cut takes it to be once,
 * each further one the most that a choice before it came to, and the cheapest of them stands. */
Choice recompute_choose(const Forward *forward, const Policy *policy) {
  const Func *f = forward->f;
  const uint32_t values = vec_len(f->values);
  bool *result = arena_alloc(forward->arena, values + 1);
  uint32_t *times = arena_alloc(forward->arena, (values + 1) * sizeof *times);
  uint32_t *reads = arena_alloc(forward->arena, (values + 1) * sizeof *reads);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    result[f->results[i].value] = true;
  for (ValueId v = 0; v < values; v++)
    times[v] = reads[v] = 1;
  Choice best = {0};
  double least = INFINITY;
  bool more = true;
  for (int cut = 0; cut < MOST_CUTS && more; cut++) {
    Choice choice = choose_at(forward, policy, result, times, reads);
    count_times(forward, &choice);
    const double price = sum_up(forward, policy, result, &choice);
    if (price < least) {
      least = price;
      best = choice;
    }
    more = false;
    for (ValueId v = 0; v < values; v++) {
      more |= choice.times[v] > times[v] || (forward->rates->gpu && choice.reads[v] > reads[v]);
      times[v] = choice.times[v] > times[v] ? choice.times[v] : times[v];
      reads[v] = choice.reads[v] > reads[v] ? choice.reads[v] : reads[v];
    }
  }
  return best;
}
