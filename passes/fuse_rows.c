/* Fuses chains of elementwise, row and gather ops over the same rows into one row kernel.
 *
 * In: any module; groups that are there stay as they are. Out: stage FUSED; groups with notes, ledger decisions
 * (fuse.h). Holds: bit-equal in the interpreter: instructions only move. */
#include "ir/rows.h"
#include "passes/fuse.h"

bool pass_fuse_rows(PassContext *context) {
  Module *m = context->module;
  const FuseLimits limits = fuse_limits(context, (FuseLimits){.operands = 24, .buffers = 12, .instructions = 96});
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(m->funcs); i++) {
    Func *f = m->funcs[i];
    bool *member = arena_alloc(m->arena, vec_len(f->insts) + 1);
    for (uint32_t k = 0; k < vec_len(f->insts); k++) {
      const Inst *inst = &f->insts[k];
      member[k] = inst->group == NO_GROUP && inst->op != OP_const && inst->op != OP_matmul && row_op(f, inst);
    }
    changed |= fuse_func(context, f, member, NULL, limits);
  }
  return changed;
}
