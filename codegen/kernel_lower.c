/* Row kernels, from instructions to texts (kernel.h): one of each, named by what its body says.
 *
 * The name is made of the ops and a hash of the body printed without names, so the layers of a model, and models, share
 * kernels whose values are called differently.
 */
#include "codegen/kernel_print.h"

#include <string.h>

struct Kernel {
  const char *name;
  uint64_t hash; /* of the text without names */
  Arena *arena;
  const KernelBody *body; /* of its first user */
  const char *c, *cuda;   /* made when first asked for */
};

enum { HINT_OPS = 3 };

static uint64_t hash_text(const char *text) {
  uint64_t hash = 14695981039346656037u;
  for (; *text; text++)
    hash = (hash ^ (unsigned char)*text) * 1099511628211u;
  return hash;
}

/* "matmul_add_softmax": the first few ops, without views and constants. */
static const char *op_hint(Arena *arena, const Func *f, uint32_t first, uint32_t last) {
  const char *hint = NULL;
  int count = 0;
  Op previous = OP_COUNT;
  for (uint32_t i = first; i <= last && count < HINT_OPS; i++) {
    Op op = f->insts[i].op;
    bool silent = (op_info[op].flags & FLAG_VIEW) || (op == OP_const && first != last) || op == previous;
    if (silent)
      continue;
    previous = op;
    hint = hint ? arena_print(arena, "%s_%s", hint, op_info[op].name) : op_info[op].name;
    count++;
  }
  return hint ? hint : "row";
}

static Kernel *find_or_add(KernelSet *set, const KernelBody *body) {
  uint64_t hash = hash_text(kernel_print(set->arena, &kernel_style_cpu, body, "kernel", false));
  for (uint32_t i = 0; i < vec_len(set->kernels); i++)
    if (set->kernels[i]->hash == hash)
      return set->kernels[i];
  Kernel *k = arena_alloc(set->arena, sizeof *k);
  const char *hint = op_hint(set->arena, body->f, body->first, body->last);
  *k = (Kernel){.name = arena_print(set->arena, "moec_%s_%016llx", hint, (unsigned long long)hash),
                .hash = hash,
                .arena = set->arena,
                .body = body};
  vec_push(set->arena, set->kernels, k);
  return k;
}

KernelCall *kernel_lower(KernelSet *set, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout) {
  const KernelBody *body = kernel_build(set->arena, f, first, last, layout);
  const LoopPlan *plan = kernel_schedule(set->arena, body, kernel_style_cpu.buffer_limit(body));
  KernelCall *call = arena_alloc(set->arena, sizeof *call);
  *call =
      (KernelCall){.kernel = find_or_add(set, body), .rows = body->rows / body->rows_per_live, .extent = body->extent};
  for (uint32_t i = 0; i < vec_len(body->operands); i++) {
    const BodyOperand *o = &body->operands[i];
    vec_push(set->arena, call->operands,
             (KernelOperand){.role = o->role,
                             .value = o->role == OPERAND_TAG ? NO_VALUE : o->value,
                             .scratch_bytes = o->scratch_bytes,
                             .tag = o->tag,
                             .in_place = plan->in_place[i]});
  }
  return call;
}

const char *kernel_name(const Kernel *k) {
  return k->name;
}

const char *kernel_c(const Kernel *k) {
  Kernel *made = (Kernel *)k;
  if (!k->c)
    made->c = kernel_print(k->arena, &kernel_style_cpu, k->body, k->name, true);
  return k->c;
}

const char *kernel_cuda(const Kernel *k) {
  Kernel *made = (Kernel *)k;
  if (!k->cuda)
    made->cuda = kernel_print(k->arena, &kernel_style_cuda, k->body, k->name, true);
  return k->cuda;
}

KernelGeometry kernel_geometry(const Kernel *k) {
  return kernel_body_geometry(k->body);
}
