/* Dead code elimination.
 *
 * In: any module. Out: the same without instructions whose outputs no result needs, directly or as the extent of a
 * ragged type. Holds: bit-equal results; arguments and parameters stay. */
#include "passes/pass.h"
#include "passes/rewrite.h"

static void mark(const Func *f, bool *live, ValueId v) {
  live[v] = true;
  const ValueId extent = f->values[v].type.extent;
  if (extent != NO_VALUE)
    live[extent] = true;
}

static bool inst_live(const Inst *inst, const bool *live) {
  for (int i = 0; i < inst->output_count; i++)
    if (live[inst->output[i]])
      return true;
  return false;
}

static bool dce_func(Func *f) {
  Arena *arena = f->module->arena;
  bool *live = arena_alloc(arena, vec_len(f->values) + 1);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    mark(f, live, f->results[i].value);
  uint32_t dead = 0;
  for (uint32_t i = vec_len(f->insts); i-- > 0;) {
    const Inst *inst = &f->insts[i];
    if (!inst_live(inst, live)) {
      dead++;
      continue;
    }
    for (int k = 0; k < inst->output_count; k++)
      mark(f, live, inst->output[k]); /* a dead output of a live instruction still names its extent */
    for (int k = 0; k < inst->input_count; k++)
      mark(f, live, inst->input[k]);
  }
  if (dead == 0)
    return false;
  Rewrite r = rewrite_begin(f);
  for (uint32_t i = 0; i < vec_len(r.old.insts); i++)
    if (inst_live(&r.old.insts[i], live))
      rewrite_copy(&r, i);
  rewrite_end(&r);
  return true;
}

bool pass_dce(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(context->module->funcs); i++)
    changed |= dce_func(context->module->funcs[i]);
  return changed;
}
