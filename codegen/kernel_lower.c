/* Row kernels, from instructions to texts (kernel.h): one of each, named by what its body says.
 *
 * The name is made of the ops and a hash of the body printed without names, so the layers of a model, and models, share
 * kernels whose values are called differently.
 */
#include "codegen/kernel_print.h"

#include <stdlib.h>
#include <string.h>

struct Kernel {
  const char *name;
  uint64_t hash; /* of the text without names */
  Arena *arena;
  const KernelBody *body; /* of its first user; NULL: an instance of a template */
  const char *c, *cuda;   /* made when first asked for */
  const char *arch;
  const char *template;   /* of an instance: its name */
  const char *use, *text; /* of an instance: its first use, a comment (NULL: none yet); what stands behind that */
};

/* The texts of codegen/cuda, in the order of their names; made by the build. */
typedef struct CudaTemplate {
  const char *name, *text;
} CudaTemplate;
extern const CudaTemplate moec_cuda_templates[]; /* ends with a NULL name */

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

static Kernel *find_kernel(const KernelSet *set, uint64_t hash) {
  for (uint32_t i = 0; i < vec_len(set->kernels); i++)
    if (set->kernels[i]->hash == hash)
      return set->kernels[i];
  return NULL;
}

/* What the text in C does not say, and the text in CUDA goes by. */
static const char *alignment_text(Arena *arena, const KernelBody *body) {
  const char *text = "";
  for (uint32_t i = 0; i < vec_len(body->operands); i++)
    if (body->operands[i].alignment != VALUE_ALIGNMENT)
      text = arena_print(arena, "%s %u:%lld", text, i, (long long)body->operands[i].alignment);
  return text;
}

static Kernel *find_or_add(KernelSet *set, const KernelBody *body) {
  const char *text = kernel_print(set->arena, &kernel_style_cpu, body, "kernel", false);
  uint64_t hash = hash_text(arena_print(set->arena, "%s%s", text, alignment_text(set->arena, body)));
  Kernel *found = find_kernel(set, hash);
  if (found)
    return found;
  Kernel *k = arena_alloc(set->arena, sizeof *k);
  const char *hint = op_hint(set->arena, body->f, body->first, body->last);
  *k = (Kernel){.name = arena_print(set->arena, "moec_%s_%016llx", hint, (unsigned long long)hash),
                .hash = hash,
                .arena = set->arena,
                .body = body};
  vec_push(set->arena, set->kernels, k);
  return k;
}

static const char *template_text(const char *name) {
  for (const CudaTemplate *t = moec_cuda_templates; t->name; t++)
    if (strcmp(t->name, name) == 0)
      return t->text;
  ir_bug("there is no template codegen/cuda/%s.cu", name);
}

/* The text behind lines `//@use NAME` at its head, in whose places the texts of those names stand. */
static const char *expand_template(Arena *arena, const char *name) {
  static const char use[] = "//@use ";
  const char *text = template_text(name), *used = "";
  while (strncmp(text, use, sizeof use - 1) == 0) {
    text += sizeof use - 1;
    size_t length = strcspn(text, "\n");
    used = arena_print(arena, "%s%s", used, expand_template(arena, arena_copy(arena, text, length)));
    text += length + (text[length] == '\n');
  }
  return arena_print(arena, "%s%s", used, text);
}

Kernel *kernel_from_template(KernelSet *set, const char *name, const CudaDefine *defines, const char *arch,
                             const KernelEpilogue *epilogue) {
  const char *numbers = "", *text = expand_template(set->arena, name);
  for (const CudaDefine *d = defines; d->name; d++)
    numbers = arena_print(set->arena, "%s#define %s %lld\n", numbers, d->name, (long long)d->number);
  uint64_t hash = hash_text(
      arena_print(set->arena, "%s\n%s\n%s%s%s", name, arch ? arch : "", numbers, epilogue ? epilogue->key : "", text));
  Kernel *found = find_kernel(set, hash);
  if (found)
    return found;
  Kernel *k = arena_alloc(set->arena, sizeof *k);
  *k = (Kernel){
      .name = arena_print(set->arena, "moec_%s%s_%016llx", name, epilogue ? "_epilogue" : "", (unsigned long long)hash),
      .hash = hash,
      .arena = set->arena,
      .arch = arch,
      .template = arena_intern(set->arena, name)};
  /* what the user called things, in the epilogue, stands in front of the template's macros */
  k->text = arena_print(set->arena, "#define KERNEL %s\n#define KERNEL_FUNCTION(function) %s_##function\n%s%s%s",
                        k->name, k->name, epilogue ? epilogue->text : "", numbers, text);
  vec_push(set->arena, set->kernels, k);
  return k;
}

KernelCall *kernel_lower(KernelSet *set, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout) {
  const KernelBody *body = kernel_build(set->arena, f, first, last, layout, set->cuda);
  const CStyle *style = set->cuda ? &kernel_style_cuda : &kernel_style_cpu;
  const LoopPlan *plan = kernel_schedule(set->arena, body, style->buffer_limit(body));
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
                             .finish = operand_is_finished(body, i),
                             .in_place = plan->in_place[i]});
  }
  return call;
}

const char *kernel_name(const Kernel *k) {
  return k->name;
}

const char *kernel_template(const Kernel *k) {
  return k->template;
}

const char *kernel_arch(const Kernel *k) {
  return k->arch;
}

const char *kernel_c(const Kernel *k) {
  Kernel *made = (Kernel *)k;
  if (!k->body)
    ir_bug("kernel %s has no C: it is a template for CUDA", k->name);
  if (!k->c)
    made->c = kernel_print(k->arena, &kernel_style_cpu, k->body, k->name, true);
  return k->c;
}

void kernel_used_for(Kernel *k, const Func *f, uint32_t first, uint32_t last) {
  char *text = NULL;
  size_t size = 0;
  if (k->body || k->use)
    return;
  FILE *out = open_memstream(&text, &size);
  kernel_print_use(out, f, first, last);
  fclose(out);
  k->use = arena_copy(k->arena, text, size);
  free(text);
}

const char *kernel_cuda(const Kernel *k) {
  Kernel *made = (Kernel *)k;
  if (!k->cuda)
    made->cuda = k->body ? kernel_print(k->arena, &kernel_style_cuda, k->body, k->name, true)
                         : arena_print(k->arena, "%s%s", k->use ? k->use : "", k->text);
  return k->cuda;
}

KernelGeometry kernel_geometry(const Kernel *k) {
  if (!k->body)
    ir_bug("kernel %s is a template: its lowering knows its geometry", k->name);
  return kernel_body_geometry(k->body);
}
