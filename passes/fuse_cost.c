/* Forming groups: limits, bytes, and how they are told. See fuse.h. */
#include "passes/fuse_private.h"

/* ---------------------------------------------------------------- what a set of instructions reads and writes */

/* Instructions, ascending. */
typedef struct Set {
  const uint32_t *insts;
  uint32_t count;
} Set;

static bool set_has(Set set, uint32_t inst) {
  uint32_t low = 0, high = set.count;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (set.insts[middle] == inst)
      return true;
    if (set.insts[middle] < inst)
      low = middle + 1;
    else
      high = middle;
  }
  return false;
}

static Set trial_set(const Fuse *s) {
  return (Set){s->trial, vec_len(s->trial)};
}

static bool is_view(const Inst *inst) {
  return op_info[inst->op].flags & FLAG_VIEW;
}

static bool makes_inside(const Fuse *s, Set set, ValueId v) {
  const uint32_t inst = fuse_definition(s, v);
  return inst != UINT32_MAX && set_has(set, inst);
}

/* Also when it is a result, which nobody reads. */
static bool read_outside(const Fuse *s, Set set, ValueId v) {
  uint32_t inside = 0;
  for (uint32_t i = 0; i < vec_len(s->readers[v]); i++)
    inside += set_has(set, s->readers[v][i]);
  return s->uses[v] > inside;
}

static bool contains(const ValueId *list, ValueId v) {
  for (uint32_t i = 0; i < vec_len(list); i++)
    if (list[i] == v)
      return true;
  return false;
}

static bool is_memory_operand(const Fuse *s, Set set, const Inst *inst, int k) {
  const uint32_t made = fuse_definition(s, inst->input[k]);
  if (made != UINT32_MAX && (set_has(set, made) || s->f->insts[made].op == OP_const))
    return false;
  return is_view(inst) || row_read(s->f, inst, k) != ROW_READ_NOTHING;
}

double fuse_value_bytes(const Fuse *s, ValueId v) {
  return (double)type_bytes(s->f->module, s->f->values[v].type);
}

double fuse_traffic(const Fuse *s, const uint32_t *insts, uint32_t count) {
  const Set set = {insts, count};
  ValueId *seen = NULL;
  double bytes = 0;
  for (uint32_t i = 0; i < count; i++) {
    const Inst *inst = &s->f->insts[insts[i]];
    for (int k = 0; k < inst->output_count; k++)
      if (read_outside(s, set, inst->output[k]) && (!is_view(inst) || count > 1))
        bytes += fuse_value_bytes(s, inst->output[k]);
    for (int k = 0; k < inst->input_count && !is_view(inst); k++) {
      const ValueId v = inst->input[k];
      if (!is_memory_operand(s, set, inst, k) || contains(seen, v))
        continue;
      vec_push(s->arena, seen, v);
      bytes += fuse_value_bytes(s, row_read(s->f, inst, k) == ROW_READ_GATHER ? inst->output[0] : v);
    }
  }
  return bytes;
}

double fuse_kept_bytes(const Fuse *s, uint32_t last) {
  const Set set = trial_set(s);
  ValueId *seen = NULL;
  double kept = 0;
  for (uint32_t i = 0; i < set.count; i++) {
    const Inst *inst = &s->f->insts[set.insts[i]];
    if (set.insts[i] == last)
      continue;
    for (int k = 0; k < inst->output_count; k++)
      if (!read_outside(s, set, inst->output[k]))
        kept -= fuse_value_bytes(s, inst->output[k]);
    for (int k = 0; k < inst->input_count; k++) {
      const ValueId v = inst->input[k];
      if (fuse_definition(s, v) == UINT32_MAX || !is_memory_operand(s, set, inst, k) || contains(seen, v))
        continue;
      vec_push(s->arena, seen, v);
      bool dies = s->uses[v] == vec_len(s->readers[v]); /* a result lives on anyway */
      for (uint32_t r = 0; dies && r < vec_len(s->readers[v]); r++)
        dies = s->readers[v][r] < last;
      kept += dies ? fuse_value_bytes(s, v) : 0;
    }
  }
  return kept;
}

/* ---------------------------------------------------------------- limits */

/* A column sum counts once: its partial sums take the place of its result until the last row. */
static int64_t count_operands(const Fuse *s) {
  const Set set = trial_set(s);
  ValueId *seen = NULL;
  int64_t count = 0;
  for (uint32_t i = 0; i < set.count; i++) {
    const Inst *inst = &s->f->insts[set.insts[i]];
    for (int k = 0; k < inst->output_count; k++)
      count += read_outside(s, set, inst->output[k]);
    for (int k = 0; k < inst->input_count; k++)
      if (is_memory_operand(s, set, inst, k) && !contains(seen, inst->input[k])) {
        vec_push(s->arena, seen, inst->input[k]);
        count++;
      }
  }
  return count;
}

/* How many loops over columns an op needs before its result is known, beyond those of its operands. */
static int loops_behind(const Inst *inst) {
  switch (inst->op) {
  case OP_softmax: /* its maximum, then its sum */
    return 2;
  case OP_sum:
  case OP_max:
  case OP_argmax:
  case OP_topk_mask:
  case OP_matmul:
  case OP_combine:
  case OP_unpack:
    return 1;
  default:
    return 0;
  }
}

static int64_t columns_of(const Fuse *s, ValueId v) {
  return row_shape(s->f->module, s->f->values[v].type).columns;
}

/* Vectors made in the trial that a later loop over columns reads than the one that makes them. */
static int64_t count_buffers(const Fuse *s) {
  const Set set = trial_set(s);
  int *level = arena_alloc(s->arena, set.count * sizeof *level);
  bool *kept = arena_alloc(s->arena, set.count * sizeof *kept);
  int64_t count = 0;
  for (uint32_t i = 0; i < set.count; i++) {
    const Inst *inst = &s->f->insts[set.insts[i]];
    int reads = 0;
    uint32_t *makers = NULL;
    for (int k = 0; k < inst->input_count; k++)
      for (uint32_t j = 0; j < i && makes_inside(s, set, inst->input[k]); j++)
        if (set.insts[j] == fuse_definition(s, inst->input[k])) {
          vec_push(s->arena, makers, j);
          reads = level[j] > reads ? level[j] : reads;
        }
    reads += inst->op == OP_softmax; /* reads its operand again behind the maximum */
    for (uint32_t j = 0; j < vec_len(makers); j++)
      kept[makers[j]] |= level[makers[j]] < reads;
    level[i] = reads + loops_behind(inst) - (inst->op == OP_softmax);
  }
  for (uint32_t i = 0; i < set.count; i++)
    count += kept[i] && columns_of(s, s->f->insts[set.insts[i]].output[0]) > 1;
  return count;
}

const char *fuse_limit_refusal(const Fuse *s) {
  const FuseLimits *limits = &s->limits;
  if (vec_len(s->trial) > limits->instructions)
    return arena_print(s->arena, "more than %lld instructions (option instructions)", (long long)limits->instructions);
  if (count_operands(s) > limits->operands)
    return arena_print(s->arena, "more than %lld operands in memory (option operands)", (long long)limits->operands);
  if (count_buffers(s) > limits->buffers)
    return arena_print(s->arena, "more than %lld rows kept between loops (option buffers)", (long long)limits->buffers);
  return NULL;
}

/* ---------------------------------------------------------------- words */

const char *fuse_op_list(const Fuse *s, const uint32_t *insts, uint32_t count) {
  enum { SHOWN = 10 };
  const char *text = "";
  uint32_t shown = 0, more = 0;
  for (uint32_t i = 0; i < count; i++) {
    const Inst *inst = &s->f->insts[insts[i]];
    if (is_view(inst))
      continue;
    if (shown++ < SHOWN)
      text = arena_print(s->arena, "%s%s%s", text, *text ? ", " : "", op_info[inst->op].name);
    else
      more++;
  }
  return more == 0 ? text : arena_print(s->arena, "%s, ... %u more", text, more);
}

const char *fuse_bytes_text(Arena *arena, double bytes) {
  static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
  size_t u = 0;
  while (bytes >= 999.5 && u + 1 < sizeof unit / sizeof *unit) {
    bytes /= 1000;
    u++;
  }
  return arena_print(arena, bytes < 9.95 && u > 0 ? "%.1f %s" : "%.0f %s", bytes, unit[u]);
}
