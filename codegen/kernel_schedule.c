/* Levels of loops over columns, and what is kept between them.
 *
 * In: a body. Out: for each node the level at which it is known, and for each vector that a later loop needs how it
 * comes there: cheap elementwise chains over operands in memory are computed again, others are kept in a buffer or
 * read back from the output that holds them. Holds: within one level all loops come before the whole-row nodes.
 */
#include "codegen/kernel_ir.h"

enum { RECOMPUTE_LIMIT = 4, TRANSCENDENTAL_COST = 16, DIVISION_COST = 3, RANDOM_COST = 64 };

static const Node *node_at(const KernelBody *body, uint32_t i) {
  return &body->nodes[i];
}

/* Known without a loop wherever it is needed. */
static bool is_source(const Node *n) {
  return n->kind <= NODE_COLUMN;
}

/* ---------------------------------------------------------------- levels */

static int level_of(const KernelBody *body, const int *level, const Node *n) {
  int result = 0;
  if (n->context)
    return 0;
  if (n->kind == NODE_LOAD) {
    if (n->row_node != NO_NODE && level[n->row_node] > result)
      result = level[n->row_node];
    if (n->column_node != NO_NODE && level[n->column_node] > result)
      result = level[n->column_node];
    return result;
  }
  for (int k = 0; k < n->input_count; k++)
    if (!node_at(body, n->input[k])->context && level[n->input[k]] > result)
      result = level[n->input[k]];
  return result + (n->kind == NODE_REDUCE || node_is_whole(n));
}

int schedule_making_level(const KernelBody *body, const LoopPlan *plan, uint32_t node) {
  const Node *n = node_at(body, node);
  return plan->level[node] - (n->kind == NODE_REDUCE || node_is_whole(n));
}

/* ---------------------------------------------------------------- what is kept */

static int own_cost(const Node *n) {
  if (n->kind == NODE_UNIFORM)
    return RANDOM_COST;
  if (n->kind != NODE_MATH)
    return 1;
  switch (n->op) {
  case OP_exp:
  case OP_log:
  case OP_expm1:
  case OP_log1p:
  case OP_tanh:
  case OP_erf:
  case OP_sigmoid:
  case OP_cos:
  case OP_sin:
    return TRANSCENDENTAL_COST;
  case OP_div:
  case OP_sqrt:
  case OP_rsqrt:
    return DIVISION_COST;
  default:
    return 1;
  }
}

/* Operations to compute the vector again from memory and what is kept, cut off above the limit. */
static int recompute_cost(const KernelBody *body, const LoopPlan *plan, uint32_t i, int so_far) {
  const Node *n = node_at(body, i);
  if (!node_is_vector(n))
    return so_far;
  if (plan->keep[i] != KEEP_NOTHING)
    return so_far + 1;
  so_far += own_cost(n);
  for (int k = 0; k < n->input_count && so_far <= RECOMPUTE_LIMIT; k++)
    so_far = recompute_cost(body, plan, n->input[k], so_far);
  return so_far;
}

static bool is_stored_exactly(const KernelBody *body, uint32_t node) {
  for (uint32_t i = 0; i < vec_len(body->outputs); i++)
    if (body->outputs[i].node == node && body->operands[body->outputs[i].operand].dtype == node_at(body, node)->dtype &&
        node_at(body, node)->dtype != DTYPE_BF16)
      return true;
  return false;
}

/* The node's vector must stand in a buffer, read at any column by a whole-row node. */
static void need_row(const KernelBody *body, LoopPlan *plan, uint32_t i) {
  const Node *n = node_at(body, i);
  if (n->kind == NODE_LOAD && n->dtype == DTYPE_F32)
    return; /* its row in memory serves */
  plan->keep[i] = KEEP_BUFFER;
  plan->shared[i] = true;
}

/* Whether the loop of the node's level begins from it: it is needed there for its own sake. */
static bool is_root(const KernelBody *body, const LoopPlan *plan, uint32_t i) {
  const Node *n = node_at(body, i);
  if (!node_is_vector(n) || n->context)
    return false;
  return plan->root[i] || (plan->keep[i] != KEEP_NOTHING && !node_is_whole(n));
}

static void mark_roots(const KernelBody *body, LoopPlan *plan) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    const Node *n = node_at(body, i);
    if (n->kind == NODE_REDUCE || n->kind == NODE_COLUMN_SUM)
      plan->root[n->input[0]] = true;
  }
  for (uint32_t i = 0; i < vec_len(body->outputs); i++) {
    uint32_t node = body->outputs[i].node;
    bool filled = node_is_whole(node_at(body, node)) && plan->keep[node] == KEEP_OUTPUT;
    plan->root[node] |= !filled && node_at(body, node)->kind != NODE_COLUMN_SUM;
  }
}

/* ---------------------------------------------------------------- loops */

static void need_in_loop(const KernelBody *body, const LoopPlan *plan, bool *need, uint32_t i, int level) {
  const Node *n = node_at(body, i);
  if (!node_is_vector(n) || need[i])
    return;
  need[i] = true;
  if (is_source(n) || node_is_whole(n) || (plan->keep[i] != KEEP_NOTHING && plan->level[i] < level))
    return;
  for (int k = 0; k < n->input_count; k++)
    need_in_loop(body, plan, need, n->input[k], level);
}

bool *schedule_loop_nodes(Arena *arena, const KernelBody *body, const LoopPlan *plan, int level, int64_t columns) {
  uint32_t count = vec_len(body->nodes);
  bool *need = arena_alloc(arena, count * sizeof *need + 1);
  for (uint32_t i = 0; i < count; i++)
    if (node_at(body, i)->columns == columns && plan->level[i] == level && is_root(body, plan, i))
      need_in_loop(body, plan, need, i, level);
  return need;
}

/* ---------------------------------------------------------------- storing in place of an input */

/* Where in the order of execution: scalars of a level, its loops, its whole-row nodes. */
static int scalar_time(int level) {
  return 3 * level;
}
static int loop_time(int level) {
  return 3 * level + 1;
}
static int whole_time(int level) {
  return 3 * level + 2;
}

static void read_at(int *last_read, const Node *n, int time) {
  if (n->operand != NO_OPERAND && last_read[n->operand] < time)
    last_read[n->operand] = time;
}

/* A scalar picked from a row that threads share is safe from the first of them that waits, at the level's end. */
static void find_last_reads(Arena *arena, const KernelBody *body, const LoopPlan *plan, bool shared, int *last_read) {
  uint32_t count = vec_len(body->nodes);
  for (uint32_t i = 0; i < count; i++) {
    const Node *n = node_at(body, i);
    int making = schedule_making_level(body, plan, i);
    bool picked = shared && n->operand != NO_OPERAND && body->operands[n->operand].picked;
    if (!node_is_vector(n))
      read_at(last_read, n, picked ? whole_time(plan->level[i]) : scalar_time(plan->level[i]));
    for (int k = 0; node_is_whole(n) && k < n->input_count; k++)
      read_at(last_read, node_at(body, n->input[k]), whole_time(making));
  }
  for (int level = 0; level < plan->levels; level++)
    for (uint32_t k = 0; k < vec_len(plan->columns); k++) {
      const bool *need = schedule_loop_nodes(arena, body, plan, level, plan->columns[k]);
      for (uint32_t i = 0; i < count; i++)
        if (need[i])
          read_at(last_read, node_at(body, i), loop_time(level));
    }
}

/* An output may take the place of an input when nothing of any row that only the kernel's own row reads is read behind
 * the store. scalars_alone: one thread reads and stores the scalars of a row; otherwise one stores what all read. */
static void decide_in_place(Arena *arena, const KernelBody *body, LoopPlan *plan, bool scalars_alone) {
  int *last_read = arena_alloc(arena, (vec_len(body->operands) + 1) * sizeof *last_read);
  find_last_reads(arena, body, plan, !scalars_alone, last_read);
  int latest = 0;
  for (uint32_t i = 0; i < vec_len(body->operands); i++) {
    plan->in_place[i] = body->operands[i].exact && body->operands[i].role == OPERAND_INPUT;
    if (plan->in_place[i] && last_read[i] > latest)
      latest = last_read[i];
  }
  for (uint32_t i = 0; i < vec_len(body->outputs); i++) {
    const BodyOutput *o = &body->outputs[i];
    const Node *n = node_at(body, o->node);
    int level = plan->level[o->node];
    int stored = node_is_vector(n) ? loop_time(level) : scalar_time(level);
    if (node_is_whole(n) && plan->keep[o->node] == KEEP_OUTPUT)
      stored = whole_time(schedule_making_level(body, plan, o->node)) - 1; /* reads and writes mix: not the same time */
    bool alone = node_is_vector(n) || scalars_alone;
    plan->in_place[o->operand] = n->kind != NODE_COLUMN_SUM && latest <= stored && alone;
  }
}

static void find_columns(Arena *arena, const KernelBody *body, LoopPlan *plan) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    bool known = !node_is_vector(node_at(body, i)) || node_at(body, i)->context;
    for (uint32_t k = 0; k < vec_len(plan->columns); k++)
      known |= plan->columns[k] == node_at(body, i)->columns;
    if (!known)
      vec_push(arena, plan->columns, node_at(body, i)->columns);
  }
}

/* Vectors are computed in the first loop that needs them. One that several loops need is kept there if it is dear to
 * compute again. Goes from users to inputs: nodes stand behind their inputs. */
static void place_vectors(Arena *arena, const KernelBody *body, LoopPlan *plan, int64_t buffer_limit) {
  uint32_t count = vec_len(body->nodes);
  uint64_t *loops = arena_alloc(arena, (count + 1) * sizeof *loops); /* by node: bit set of the levels that need it */
  if (plan->levels > 64)
    ir_bug("a row kernel of %d levels", plan->levels);
  for (uint32_t i = count; i-- > 0;) {
    const Node *n = node_at(body, i);
    if (!node_is_vector(n) || n->context || is_source(n) || node_is_whole(n) || n->kind == NODE_COLUMN_SUM)
      continue;
    if (is_root(body, plan, i) || loops[i] == 0)
      loops[i] |= 1ull << plan->level[i];
    int first = __builtin_ctzll(loops[i]);
    bool several = loops[i] != 1ull << first;
    if (several && plan->keep[i] == KEEP_NOTHING && recompute_cost(body, plan, i, 0) > RECOMPUTE_LIMIT) {
      bool in_registers = buffer_limit != NO_BUFFER_LIMIT && n->columns <= buffer_limit;
      if (is_stored_exactly(body, i) && !in_registers)
        plan->keep[i] = KEEP_OUTPUT;
      else if (n->columns <= buffer_limit)
        plan->keep[i] = KEEP_BUFFER;
    }
    plan->level[i] = first;
    if (plan->keep[i] != KEEP_NOTHING)
      loops[i] = 1ull << first;
    for (int k = 0; k < n->input_count; k++)
      loops[n->input[k]] |= loops[i];
  }
}

/* Whether each column of a whole-row node is made where it is read: by one thread, in a register. */
static bool is_made_in_place(const LoopPlan *plan, const Node *n, uint32_t i, int64_t buffer_limit) {
  bool own_columns = n->kind == NODE_COMBINE || n->kind == NODE_ROWS_SUM;
  return buffer_limit != NO_BUFFER_LIMIT && own_columns && node_is_vector(n) && n->columns <= buffer_limit &&
         !plan->shared[i];
}

LoopPlan *kernel_schedule(Arena *arena, const KernelBody *body, int64_t buffer_limit) {
  uint32_t count = vec_len(body->nodes);
  LoopPlan *plan = arena_alloc(arena, sizeof *plan);
  plan->level = arena_alloc(arena, (count + 1) * sizeof *plan->level);
  plan->keep = arena_alloc(arena, (count + 1) * sizeof *plan->keep);
  plan->shared = arena_alloc(arena, (count + 1) * sizeof *plan->shared);
  plan->root = arena_alloc(arena, (count + 1) * sizeof *plan->root);
  plan->in_place = arena_alloc(arena, (vec_len(body->operands) + 1) * sizeof *plan->in_place);
  find_columns(arena, body, plan);
  for (uint32_t i = 0; i < count; i++) {
    const Node *n = node_at(body, i);
    plan->level[i] = level_of(body, plan->level, n);
    if (plan->level[i] + 1 > plan->levels)
      plan->levels = plan->level[i] + 1;
    if (n->kind == NODE_TOPK || n->kind == NODE_PRODUCT)
      need_row(body, plan, n->input[0]);
  }
  for (uint32_t i = 0; i < count; i++) /* behind the inputs' needs, which ask for buffers */
    if (node_is_whole(node_at(body, i))) {
      bool in_place = is_made_in_place(plan, node_at(body, i), i, buffer_limit);
      bool output = !in_place && node_is_vector(node_at(body, i)) && is_stored_exactly(body, i);
      plan->keep[i] = output ? KEEP_OUTPUT : KEEP_BUFFER;
      plan->shared[i] = !in_place;
    }
  mark_roots(body, plan);
  place_vectors(arena, body, plan, buffer_limit);
  decide_in_place(arena, body, plan, buffer_limit == NO_BUFFER_LIMIT || body_is_scalar(body));
  return plan;
}
