/* The two ways to compute a pair (cuda_epilogue.h), as a choice of the plan.
 *
 * In: a pair whose instructions all stand before the steps that follow. Out: option `separate`, the product and the
 * kernel; option `epilogue`, the product with the epilogue, a kernel for what else the pair's kernel gives, and a cast
 * of column sums that the library gives in bf16. The first is what runs where nothing was timed: the epilogue, but for
 * the gradient of GELU, whose epilogue reads a second matrix where the product alone could be busy.
 */
#include "codegen/cuda_epilogue.h"
#include "ir/rows.h"

static KernelCall *pair_kernel(Lower *l, const CudaPair *pair) {
  ValueLayout layout = {.ld = l->ld, .offset = l->offset, .last_use = l->last_use};
  return kernel_lower(l->kernels, l->func, pair->first, pair->last, &layout);
}

/* The operand of the kernel that is this value, or NULL. */
static const KernelOperand *find_operand(const KernelCall *call, ValueId v) {
  for (uint32_t i = 0; i < vec_len(call->operands); i++)
    if (call->operands[i].value == v && v != NO_VALUE)
      return &call->operands[i];
  return NULL;
}

/* The product alone stands where the kernel then writes over it, if the kernel can; nobody else reads it. */
static void share_place(Lower *l, const CudaPair *pair, const KernelCall *call) {
  const ValueId product = l->func->insts[pair->product].output[0];
  const KernelOperand *from = find_operand(call, product);
  const ValueId targets[] = {pair->aux, pair->result};
  for (int i = 0; i < 2; i++) {
    const KernelOperand *to = find_operand(call, targets[i]);
    if (from && to && to->role == OPERAND_OUTPUT && from->in_place && to->in_place &&
        lower_type(l, product).dtype == lower_type(l, targets[i]).dtype && l->ld[product] == l->ld[targets[i]]) {
      l->plan->values[product].place = l->plan->values[targets[i]].place;
      return;
    }
  }
  l->plan->storages[lower_place(l, product).storage].scratch = true;
}

static void lower_separate(Lower *l, const CudaPair *pair) {
  const KernelCall *call = pair_kernel(l, pair);
  if (pair->epilogue != EPILOGUE_BGRADB)
    share_place(l, pair, call);
  lower_matmul(l, pair->product);
  cuda_row_kernel(l, call, pair->first, pair->last);
}

/* ---------------------------------------------------------------- the rest of the kernel */

/* Instructions of the function's kernel as a function of their own. */
typedef struct Part {
  Func *f;
  ValueId *of;   /* by the function's ValueId: the part's, NO_VALUE: none */
  ValueId *from; /* arena vector, by the part's ValueId: the function's */
} Part;

static Part begin_part(Lower *l) {
  Part p = {.f = arena_alloc(l->arena, sizeof *p.f)};
  const size_t bytes = (vec_len(l->func->values) + 1) * sizeof *p.of;
  *p.f = *l->func; /* the index of names repairs itself */
  p.f->values = NULL;
  p.f->insts = NULL;
  p.f->results = NULL;
  p.of = arena_alloc(l->arena, bytes);
  for (uint32_t v = 0; v < vec_len(l->func->values); v++)
    p.of[v] = NO_VALUE;
  return p;
}

static void map_value(Lower *l, Part *p, ValueId v, ValueId own) {
  p->of[v] = own;
  while (vec_len(p->from) < own)
    vec_push(l->arena, p->from, NO_VALUE);
  vec_push(l->arena, p->from, v);
}

static void copy_inst(Lower *l, Part *p, uint32_t index);

/* An operand from outside: an argument, but constants come along. */
static void copy_operand(Lower *l, Part *p, ValueId v) {
  const Value *value = &l->func->values[v];
  if (p->of[v] != NO_VALUE)
    return;
  if (value->kind == VALUE_RESULT && l->func->insts[value->inst].op == OP_const)
    copy_inst(l, p, value->inst);
  else
    map_value(l, p, v, func_add_argument(p->f, arena_print(l->arena, "from_%u", v), value->type));
}

static void copy_inst(Lower *l, Part *p, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId *input = arena_alloc(l->arena, (inst->input_count + 1u) * sizeof *input);
  for (int i = 0; i < inst->input_count; i++)
    input[i] = p->of[inst->input[i]];
  const Inst *copy = build_inst(p->f, inst->op, inst->loc, input, inst->input_count, inst->attr, inst->attr_count);
  for (int i = 0; i < inst->output_count; i++) {
    map_value(l, p, inst->output[i], copy->output[i]);
    value_rename(p->f, copy->output[i], l->func->values[inst->output[i]].name);
  }
}

/* Launches the part's instructions from number `first` on, which give `results` (the function's values). */
static void launch_part(Lower *l, Part *p, uint32_t first, const ValueId *results, const CudaPair *pair) {
  const uint32_t values = vec_len(p->f->values);
  int64_t *ld = arena_alloc(l->arena, (values + 1) * sizeof *ld),
          *offset = arena_alloc(l->arena, (values + 1) * sizeof *offset);
  uint32_t *last_use = arena_alloc(l->arena, (values + 1) * sizeof *last_use);
  for (uint32_t v = 0; v < values; v++) {
    ld[v] = p->from[v] == NO_VALUE ? type_columns(l->module, p->f->values[v].type) : l->ld[p->from[v]];
    offset[v] = p->from[v] == NO_VALUE ? 0 : l->offset[p->from[v]];
  }
  for (uint32_t i = 0; i < vec_len(results); i++)
    last_use[p->of[results[i]]] = UINT32_MAX;
  ValueLayout layout = {.ld = ld, .offset = offset, .last_use = last_use};
  KernelCall *call = kernel_lower(l->kernels, p->f, first, vec_len(p->f->insts) - 1, &layout);
  for (uint32_t i = 0; i < vec_len(call->operands); i++)
    if (call->operands[i].value != NO_VALUE)
      call->operands[i].value = p->from[call->operands[i].value];
  cuda_row_kernel(l, call, pair->first, pair->last);
}

/* By instruction of the kernel, counted from its first: whether a result of the rest follows from it, otherwise than by
 * way of what the product with its epilogue gives. */
static bool *find_needed(Lower *l, const CudaPair *pair) {
  const Func *f = l->func;
  bool *needed = arena_alloc(l->arena, pair->last - pair->first + 1);
  for (uint32_t i = 0; i < vec_len(pair->rest); i++)
    needed[f->values[pair->rest[i]].inst - pair->first] = true;
  for (uint32_t k = pair->last + 1; k-- > pair->first;)
    for (int i = 0; needed[k - pair->first] && i < f->insts[k].input_count; i++) {
      const Value *value = &f->values[f->insts[k].input[i]];
      if (value->kind == VALUE_RESULT && value->inst >= pair->first && value->inst < k &&
          f->insts[k].input[i] != pair->result)
        needed[value->inst - pair->first] = true;
    }
  return needed;
}

static void lower_rest(Lower *l, const CudaPair *pair) {
  Part part = begin_part(l);
  const bool *needed = find_needed(l, pair);
  for (uint32_t k = pair->first; k <= pair->last; k++)
    for (int i = 0; needed[k - pair->first] && i < l->func->insts[k].input_count; i++) {
      const Value *value = &l->func->values[l->func->insts[k].input[i]];
      if (value->kind != VALUE_RESULT || value->inst < pair->first || value->inst > pair->last ||
          l->func->insts[k].input[i] == pair->result)
        copy_operand(l, &part, l->func->insts[k].input[i]);
    }
  const uint32_t first = vec_len(part.f->insts);
  for (uint32_t k = pair->first; k <= pair->last; k++)
    if (needed[k - pair->first])
      copy_inst(l, &part, k);
  launch_part(l, &part, first, pair->rest, pair);
}

/* ---------------------------------------------------------------- the product */

/* The bias in the type of the result. */
static Place bias_place(Lower *l, const CudaPair *pair) {
  const DType type = lower_type(l, pair->result).dtype;
  if (lower_type(l, pair->bias).dtype == type)
    return lower_place(l, pair->bias);
  const Value *parameter = &l->func->values[cuda_copied_parameter(l->func, pair->bias)];
  const Param *p = table_find_param(parameter->table, parameter->parameter);
  Storage copy = {.space = SPACE_PARAM_BF16,
                  .offset = p->offset * (int64_t)dtype_size(type),
                  .bytes = type_elements(l->module, p->type) * (int64_t)dtype_size(type),
                  .value = NO_VALUE};
  return (Place){.storage = lower_storage(l, copy)};
}

static void written(Step *s, ValueId v) {
  vec_last(s->fields).value = v;
}

static void step_epilogue(Lower *l, Step *s, const CudaPair *pair, Place bias) {
  static const char *const names[] = {[EPILOGUE_SUM] = "none",
                                      [EPILOGUE_BIAS] = "bias",
                                      [EPILOGUE_GELU_BIAS] = "gelu_bias",
                                      [EPILOGUE_GELU_AUX_BIAS] = "gelu_aux_bias",
                                      [EPILOGUE_DGELU] = "dgelu",
                                      [EPILOGUE_DGELU_BGRAD] = "dgelu_bgrad",
                                      [EPILOGUE_BGRADB] = "bgradb"};
  if (pair->residual != NO_VALUE) {
    step_read(l, s, "add", lower_place(l, pair->residual));
    step_number(l, s, "ldadd", l->ld[pair->residual]);
  }
  step_word(l, s, "epilogue", names[pair->epilogue]);
  if (pair->epilogue == EPILOGUE_DGELU_BGRAD || pair->epilogue == EPILOGUE_BGRADB) {
    step_write(l, s, "bias", bias);
    written(s, pair->bias);
  } else if (pair->bias != NO_VALUE) {
    step_read(l, s, "bias", bias);
  }
  if (pair->aux != NO_VALUE) {
    if (pair->epilogue == EPILOGUE_GELU_AUX_BIAS) {
      step_write(l, s, "aux", lower_place(l, pair->aux));
      written(s, pair->aux);
    } else {
      step_read(l, s, "aux", lower_place(l, pair->aux));
    }
    step_number(l, s, "ldaux", l->ld[pair->aux]);
  }
}

/* The sums that the library gives in bf16, in f32. */
static void widen_sums(Lower *l, const CudaPair *pair, Place from) {
  enum { THREADS = 256 };
  const CudaDefine none[] = {{NULL, 0}};
  const int64_t count = type_elements(l->module, lower_type(l, pair->bias));
  CudaGeometry geometry = {.blocks = {(count + THREADS - 1) / THREADS}, .threads = THREADS};
  Step s = cuda_launch(l, pair->last, cuda_template(l, "widen", none, NULL), "", geometry);
  cuda_read(l, &s, from);
  cuda_write(l, &s, lower_place(l, pair->bias));
  cuda_number(l, &s, count);
  step_end(l, &s);
}

static void lower_with_epilogue(Lower *l, const CudaPair *pair) {
  const Type type = lower_type(l, pair->result);
  const bool sums = pair->epilogue == EPILOGUE_DGELU_BGRAD || pair->epilogue == EPILOGUE_BGRADB;
  const bool narrow = sums && type.dtype == DTYPE_BF16 && lower_type(l, pair->bias).dtype == DTYPE_F32;
  Place bias = {.storage = NO_STORAGE};
  if (narrow) {
    const int64_t bytes = type_columns(l->module, type) * (int64_t)dtype_size(type.dtype);
    bias.storage = lower_storage(l, (Storage){.bytes = bytes, .value = NO_VALUE, .scratch = true});
  } else if (pair->bias != NO_VALUE) {
    bias = sums ? lower_place(l, pair->bias) : bias_place(l, pair);
  }
  Step s = lower_operands(l, pair->product);
  if (pair->epilogue != EPILOGUE_BGRADB) { /* else its result is the product's own */
    s.first_inst = pair->first;
    s.last_inst = pair->last;
  }
  step_write(l, &s, "c", lower_place(l, pair->result));
  written(&s, pair->result);
  step_number(l, &s, "ldc", l->ld[pair->result]);
  step_number(l, &s, "beta", pair->residual != NO_VALUE);
  step_word(l, &s, "type", dtype_name(lower_type(l, l->func->insts[pair->product].input[0]).dtype));
  step_word(l, &s, "ctype", dtype_name(type.dtype));
  step_epilogue(l, &s, pair, bias);
  step_end(l, &s);
  if (narrow)
    widen_sums(l, pair, bias);
  if (vec_len(pair->rest))
    lower_rest(l, pair);
}

static void lower_pair(Lower *l, const CudaPair *pair) {
  const bool gradient = pair->epilogue == EPILOGUE_DGELU || pair->epilogue == EPILOGUE_DGELU_BGRAD;
  cuda_choice_begin(l);
  for (int i = 0; i < 2; i++) {
    const bool separate = gradient == (i == 0);
    cuda_option(l, separate ? "separate" : "epilogue");
    if (separate)
      lower_separate(l, pair);
    else
      lower_with_epilogue(l, pair);
  }
  cuda_choice_end(l);
  if (pair->epilogue != EPILOGUE_BGRADB) /* its own result is not there with the epilogue */
    l->plan->values[l->func->insts[pair->product].output[0]].place.storage = NO_STORAGE;
}

void cuda_find_pairs(Lower *l) {
  l->pairs = epilogue_pairs(l);
}

bool cuda_lower_paired(Lower *l, uint32_t inst) {
  const CudaPair *pair = l->pairs ? l->pairs[inst] : NULL;
  if (pair && inst == (pair->product > pair->first ? pair->product : pair->first))
    lower_pair(l, pair);
  return pair != NULL;
}
