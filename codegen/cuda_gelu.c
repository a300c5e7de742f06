/* What GELU's gradient is computed from: product + bias, as the library's epilogues keep and read it.
 *
 * In: a function in which a kernel computes gelu(product + bias), and kernels of the backward part make product + bias
 * anew, from the product that is kept for them. Out: the same, but that the first kernel gives product + bias, in the
 * product's type, and the others read it. So nobody but the first kernel reads the product, and both can be one step
 * (cuda_epilogue.h); what is kept takes as many bytes as before.
 */
#include "codegen/cuda_epilogue.h"
#include "ir/rows.h"
#include "passes/rewrite.h"

/* A product whose sum with a bias is to be kept. */
typedef struct Kept {
  uint32_t sum;     /* the instruction in GELU's kernel that adds the bias */
  ValueId product;  /* what is kept now */
  ValueId new_kept; /* in the function that is written; NO_VALUE: not yet */
} Kept;

typedef struct Keeper {
  const Func *f;
  const uint32_t *uses;
  Kept **by_sum;   /* by instruction: what it is the sum of */
  Kept **by_again; /* by instruction: what it makes anew; of casts, what their only reader makes anew */
} Keeper;

static ValueId other_operand(const Inst *inst, ValueId v) {
  return inst->input[0] == v ? inst->input[1] : inst->input[0];
}

/* The only instruction that reads the value; UINT32_MAX: there are several, or none. */
static uint32_t only_reader(const Keeper *k, ValueId v) {
  uint32_t reader = UINT32_MAX;
  for (uint32_t i = k->f->values[v].inst + 1; k->uses[v] == 1 && i < vec_len(k->f->insts); i++)
    for (int o = 0; o < k->f->insts[i].input_count; o++)
      reader = k->f->insts[i].input[o] == v ? i : reader;
  return reader;
}

/* The instruction that adds `bias` to the product, given one that reads the product: itself, or the only reader of its
 * cast. UINT32_MAX: it does something else. */
static uint32_t find_sum(const Keeper *k, uint32_t reader, ValueId product, ValueId bias) {
  const Inst *inst = &k->f->insts[reader];
  ValueId term = product;
  if (inst->op == OP_cast) {
    term = inst->output[0];
    reader = only_reader(k, term);
  }
  if (reader == UINT32_MAX || k->f->insts[reader].op != OP_add || k->f->insts[reader].group == NO_GROUP ||
      (bias != NO_VALUE && other_operand(&k->f->insts[reader], term) != bias))
    return UINT32_MAX;
  return reader;
}

static bool leaves(const Keeper *k, const Samples *body, ValueId v) {
  uint32_t inside = 0;
  for (uint32_t i = body->first; i <= body->last; i++)
    for (int o = 0; o < k->f->insts[i].input_count; o++)
      inside += k->f->insts[i].input[o] == v;
  return inside < k->uses[v];
}

/* Whether the kernel gives gelu(what its instruction `sum` computes), in the type of the product. */
static bool gives_gelu(const Keeper *k, uint32_t sum, ValueId product, double (*room)[EPILOGUE_SAMPLES]) {
  uint32_t first = sum;
  while (first > 0 && k->f->insts[first - 1].group == k->f->insts[sum].group)
    first--;
  const Samples body = samples_take(k->f, first, kernel_end(k->f, first), room);
  double gelu[EPILOGUE_SAMPLES];
  samples_gelu(body.number[k->f->insts[sum].output[0]], gelu);
  for (uint32_t i = sum; i <= body.last; i++) {
    const ValueId v = k->f->insts[i].output[0];
    if (k->f->values[v].type.dtype == k->f->values[product].type.dtype && leaves(k, &body, v) &&
        samples_equal(body.number[v], gelu))
      return true;
  }
  return false;
}

/* Marks what is to be kept of the product, if its first reader leads to GELU and every other only makes the same sum.
 */
static bool find_kept(Keeper *k, uint32_t index, double (*room)[EPILOGUE_SAMPLES]) {
  Arena *arena = k->f->module->arena;
  const ValueId product = k->f->insts[index].output[0];
  uint32_t *sums = NULL, *readers = NULL;
  ValueId bias = NO_VALUE;
  for (uint32_t i = index + 1; i < vec_len(k->f->insts); i++)
    for (int o = 0; o < k->f->insts[i].input_count; o++) {
      if (k->f->insts[i].input[o] != product)
        continue;
      const uint32_t sum = find_sum(k, i, product, bias);
      if (sum == UINT32_MAX)
        return false;
      if (!sums) {
        const ValueId term = sum == i ? product : k->f->insts[i].output[0];
        bias = other_operand(&k->f->insts[sum], term);
        if (bias == term || row_shape(k->f->module, k->f->values[bias].type).rows != 1)
          return false;
      }
      vec_push(arena, sums, sum);
      vec_push(arena, readers, i);
    }
  if (vec_len(sums) < 2 || vec_len(sums) != k->uses[product] || !gives_gelu(k, sums[0], product, room))
    return false;
  Kept *kept = arena_alloc(arena, sizeof *kept);
  *kept = (Kept){.sum = sums[0], .product = product, .new_kept = NO_VALUE};
  k->by_sum[sums[0]] = kept;
  for (uint32_t i = 1; i < vec_len(sums); i++)
    k->by_again[sums[i]] = k->by_again[readers[i]] = kept;
  return true;
}

/* ---------------------------------------------------------------- writing */

static ValueId cast_value(Func *f, ValueId from, DType dtype, const Inst *like, const char *name) {
  const Attr attr = attr_dtype(dtype);
  Inst *cast = build_inst(f, OP_cast, like->loc, &from, 1, &attr, 1);
  cast->group = like->group;
  const ValueId made = cast->output[0];
  value_rename(f, made, name);
  return made;
}

static void write_inst(Rewrite *r, const Keeper *k, uint32_t index) {
  const Inst *inst = &r->old.insts[index];
  Kept *again = k->by_again[index], *kept = k->by_sum[index];
  const ValueId out = inst->output[0];
  if (again) { /* a cast in front of the sum goes with it */
    const DType dtype = r->old.values[again->product].type.dtype;
    if (inst->op == OP_add)
      rewrite_map(r, out,
                  dtype == DTYPE_F32 ? again->new_kept
                                     : cast_value(r->f, again->new_kept, DTYPE_F32, inst, r->old.values[out].name));
    return;
  }
  rewrite_copy(r, index);
  if (!kept)
    return;
  const DType dtype = r->old.values[kept->product].type.dtype;
  const char *name = arena_print(r->f->module->arena, "%s_kept", r->old.values[out].name);
  kept->new_kept =
      dtype == DTYPE_F32 ? rewrite_value(r, out) : cast_value(r->f, rewrite_value(r, out), dtype, inst, name);
}

const Func *cuda_with_gelu_kept(const Func *f) {
  Arena *arena = f->module->arena;
  Keeper k = {.f = f, .uses = row_count_uses(f, arena)};
  double(*room)[EPILOGUE_SAMPLES] = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *room);
  k.by_sum = arena_alloc(arena, (vec_len(f->insts) + 1) * sizeof *k.by_sum);
  k.by_again = arena_alloc(arena, (vec_len(f->insts) + 1) * sizeof *k.by_again);
  bool any = false;
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    if (is_plain_product(f, i) && f->values[f->insts[i].output[0]].type.extent == NO_VALUE)
      any |= find_kept(&k, i, room);
  if (!any)
    return f;
  Func *copy = arena_alloc(arena, sizeof *copy);
  *copy = *f; /* the index of names repairs itself */
  Rewrite r = rewrite_begin(copy);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    write_inst(&r, &k, i);
  rewrite_end(&r);
  return copy;
}
