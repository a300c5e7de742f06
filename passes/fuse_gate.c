/* Fuses a gate into one row kernel: the product x w^T with few columns, noise, softmax, threshold or top-k, up to the
 * masks and weights.
 *
 * In: any module. Out: stage FUSED; groups with notes, ledger decisions (fuse.h). Holds: bit-equal in the interpreter.
 *
 * A gate is found by its structure, not by name: a matrix product with at most ROW_PRODUCT_MAX columns from which a
 * decision (a comparison, an arg-max, a top-k, or one among the rows of a group, which stands behind the kernel)
 * follows along row ops of the same rows that are no wider. What these ops read and is itself made by such ops of the
 * same rows, as noise is, belongs to the gate too. */
#include "ir/rows.h"
#include "passes/fuse.h"

typedef struct Gate {
  const Func *f;
  bool *member;  /* by instruction */
  bool *decides; /* by instruction: a decision follows from it within the gate, or it is one */
} Gate;

static bool is_candidate(const Func *f, const Inst *inst) {
  if (inst->group != NO_GROUP || inst->op == OP_const || !row_op(f, inst))
    return false;
  for (int k = 0; k < inst->output_count; k++)
    if (row_shape(f->module, f->values[inst->output[k]].type).columns > ROW_PRODUCT_MAX)
      return false;
  return true;
}

static const Inst *definition(const Func *f, ValueId v) {
  return f->values[v].kind == VALUE_RESULT ? &f->insts[f->values[v].inst] : NULL;
}

/* Forward from the products; `product`: by instruction, the ones that count, NULL for all. */
static void find_followers(Gate *g, const bool *product) {
  const Func *f = g->f;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    if (!is_candidate(f, inst))
      continue;
    g->member[i] = inst->op == OP_matmul && (product == NULL || product[i]);
    for (int k = 0; k < inst->input_count && inst->op != OP_matmul && !g->member[i]; k++) {
      const Inst *maker = definition(f, inst->input[k]);
      g->member[i] = maker != NULL && g->member[maker - f->insts] && row_read(f, inst, k) == ROW_READ_ROW &&
                     row_space_equal(row_space(f, inst), row_space(f, maker));
    }
  }
}

/* A decision that is no row op, as one among rows, is made behind the kernel that feeds it. */
static void note_decision(Gate *g, const Inst *inst) {
  for (int k = 0; k < inst->input_count && (op_info[inst->op].flags & FLAG_DECISION); k++) {
    const Inst *maker = definition(g->f, inst->input[k]);
    if (maker != NULL && g->member[maker - g->f->insts])
      g->decides[maker - g->f->insts] = true;
  }
}

/* Backward: what feeds a member, and from which products a decision follows. */
static void find_feeders(Gate *g) {
  const Func *f = g->f;
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    if (!g->member[i]) {
      note_decision(g, inst);
      continue;
    }
    g->decides[i] |= (op_info[inst->op].flags & FLAG_DECISION) != 0;
    for (int k = 0; k < inst->input_count && inst->op != OP_matmul; k++) {
      const Inst *maker = definition(f, inst->input[k]);
      if (maker == NULL || !is_candidate(f, maker) || !row_space_equal(row_space(f, inst), row_space(f, maker)))
        continue;
      if (maker->op == OP_matmul && !g->member[maker - f->insts])
        continue;
      g->member[maker - f->insts] = true;
      g->decides[maker - f->insts] |= g->decides[i];
    }
  }
}

static Gate gate_new(const Func *f) {
  Arena *arena = f->module->arena;
  const uint32_t count = vec_len(f->insts);
  return (Gate){f, arena_alloc(arena, count + 1), arena_alloc(arena, count + 1)};
}

/* The products of gates, by instruction; NULL when there is none. */
static bool *find_gates(const Func *f) {
  bool *seed = arena_alloc(f->module->arena, vec_len(f->insts) + 1);
  bool any = false;
  Gate all = gate_new(f);
  find_followers(&all, NULL);
  find_feeders(&all);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    seed[i] = f->insts[i].op == OP_matmul && all.member[i] && all.decides[i];
    any |= seed[i];
  }
  return any ? seed : NULL;
}

bool pass_fuse_gate(PassContext *context) {
  Module *m = context->module;
  /* Wider than those of fuse_rows: rows of few columns cost little to read, write and keep. */
  const FuseLimits limits = fuse_limits(context, (FuseLimits){.operands = 32, .buffers = 12, .instructions = 160});
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++) {
    const bool *seed = find_gates(m->funcs[i]);
    if (seed == NULL)
      continue;
    Gate gate = gate_new(m->funcs[i]); /* other products are no part of it, however few their columns */
    find_followers(&gate, seed);
    find_feeders(&gate);
    changed |= fuse_func(context, m->funcs[i], gate.member, seed, limits);
  }
  return changed;
}
