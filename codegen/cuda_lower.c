/* Lowering for CUDA: what its rules share, row kernels, plain products, copies and constants.
 *
 * In: instructions. Out: steps of the kinds launch and gemm (docs/plan.md, "The plan for CUDA"). Holds: the
 * geometry of a launch follows from static bounds; what a kernel reads and writes stands in its fields, so that
 * plan_memory sees it as it sees the CPU's.
 */
#include "codegen/cuda_lower.h"

#include <string.h>

enum {
  COPY_THREADS = 256,
  COPY_BLOCKS = 1056, /* 8 on each of an H200's 132 multiprocessors */
  FINISH_THREADS = 256,
  RAGGED_BLOCKS = 4224 /* 32 on each: two to four times what it runs at one time */
};

const LowerRule cuda_lower_rule[OP_COUNT] = {
    [OP_matmul] = lower_cuda_matmul,
    [OP_cast] = lower_cuda_cast,
    [OP_attention] = lower_cuda_attention,
    [OP_attention_grad] = lower_cuda_attention_grad,
    [OP_grouped_matmul] = lower_cuda_grouped_matmul,
    [OP_grouped_outer] = lower_cuda_grouped_outer,
    [OP_route] = lower_cuda_route,
    [OP_rank_rows] = lower_cuda_rank_rows,
    [OP_balanced_assignment] = lower_cuda_balanced_assignment,
    [OP_scatter_rows] = lower_cuda_scatter_rows,
    [OP_segment_sum] = lower_cuda_segment_sum,
};

void lower_cuda_missing(Lower *l, uint32_t inst) {
  ir_fail(l->func->insts[inst].loc, "op %s is not compiled for CUDA; --target=cpu builds a trainer for the CPU alone",
          op_info[l->func->insts[inst].op].name);
}

/* ---------------------------------------------------------------- launches */

Kernel *cuda_template(Lower *l, const char *name, const CudaDefine *defines, const char *arch) {
  return kernel_from_template(l->kernels, name, defines, arch, NULL);
}

/* "132" or "512,16". */
static const char *blocks_text(Arena *arena, const int64_t blocks[3]) {
  int dims = blocks[2] > 1 ? 3 : blocks[1] > 1 ? 2 : 1;
  const char *text = arena_print(arena, "%lld", (long long)(blocks[0] > 1 ? blocks[0] : 1));
  for (int i = 1; i < dims; i++)
    text = arena_print(arena, "%s,%lld", text, (long long)(blocks[i] > 1 ? blocks[i] : 1));
  return text;
}

static Step begin_launch(Lower *l, uint32_t first, uint32_t last, Kernel *kernel, const char *suffix,
                         CudaGeometry geometry) {
  enum { MOST_THREADS = 1024, MOST_BLOCKS_Y = 65535 };
  if (geometry.threads < 1 || geometry.threads > MOST_THREADS || geometry.blocks[0] > INT32_MAX ||
      geometry.blocks[1] > MOST_BLOCKS_Y || geometry.blocks[2] > MOST_BLOCKS_Y)
    ir_bug("%s: kernel %s%s cannot be launched with %s blocks of %d threads", l->func->name, kernel_name(kernel),
           suffix, blocks_text(l->arena, geometry.blocks), geometry.threads);
  if (first != NO_INST)
    kernel_used_for(kernel, l->func, first, last);
  Step s = step_begin("launch", first, last);
  s.kernel = kernel;
  step_word(l, &s, NULL, arena_print(l->arena, "%s%s", kernel_name(kernel), suffix));
  step_word(l, &s, "blocks", blocks_text(l->arena, geometry.blocks));
  step_number(l, &s, "threads", geometry.threads);
  if (geometry.shared_bytes)
    step_number(l, &s, "shared", geometry.shared_bytes);
  return s;
}

Step cuda_launch(Lower *l, uint32_t inst, Kernel *kernel, const char *suffix, CudaGeometry geometry) {
  return begin_launch(l, inst, inst, kernel, suffix, geometry);
}

/* Operands are values to a row kernel only; no other may be in place. */
static void no_value(Step *s) {
  vec_last(s->fields).value = NO_VALUE;
}

void cuda_read(Lower *l, Step *s, Place place) {
  step_read(l, s, NULL, place);
  no_value(s);
}

void cuda_write(Lower *l, Step *s, Place place) {
  step_write(l, s, NULL, place);
  no_value(s);
}

void cuda_scratch(Lower *l, Step *s, int64_t bytes) {
  step_scratch(l, s, NULL, bytes);
  no_value(s);
}

void cuda_number(Lower *l, Step *s, int64_t number) {
  if (number < 0)
    ir_bug("%s: operand %lld of a launch is negative", l->func->name, (long long)number);
  step_word(l, s, NULL, arena_print(l->arena, "tag:%lld", (long long)number));
}

void cuda_null(Lower *l, Step *s) {
  step_word(l, s, NULL, "null");
}

void cuda_live(Lower *l, Step *s, ValueId extent) {
  if (extent == NO_VALUE) {
    cuda_null(l, s);
    return;
  }
  Place place = lower_place(l, extent);
  place.offset += (type_elements(l->module, lower_type(l, extent)) - 1) * (int64_t)dtype_size(DTYPE_I32);
  cuda_read(l, s, place);
}

void cuda_reports(Lower *l, Step *s, const char *name) {
  Storage cell = {.space = SPACE_STATUS, .bytes = 4 * (int64_t)sizeof(int64_t), .value = NO_VALUE};
  cuda_write(l, s, (Place){.storage = lower_storage(l, cell)});
  cuda_number(l, s, vec_len(l->plan->steps));
  step_word(l, s, "check", name);
}

/* ---------------------------------------------------------------- choices */

void cuda_choice_begin(Lower *l) {
  if (l->option)
    ir_bug("%s: a choice within option %s of another", l->func->name, l->option);
  l->choices++;
}

void cuda_option(Lower *l, const char *name) {
  l->option = name;
}

void cuda_choice_end(Lower *l) {
  l->option = NULL;
}

/* ---------------------------------------------------------------- row kernels */

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* Of a ragged dim a small part may be live (16 experts, one of them chosen), and a block that finds nothing to do costs
 * time, too: a quarter of a million of them 100 microseconds. So there are no more than keep the machine busy to the
 * end; each takes rows in turn. */
static CudaGeometry row_geometry(const KernelCall *call) {
  KernelGeometry g = kernel_geometry(call->kernel);
  int64_t blocks = g.columns_per_block > 0 ? divide_up(g.columns, g.columns_per_block)
                                           : divide_up(call->rows * g.rows_per_entry, g.rows_per_block);
  if (call->extent != NO_VALUE && blocks > RAGGED_BLOCKS)
    blocks = RAGGED_BLOCKS;
  return (CudaGeometry){.blocks = {blocks}, .threads = g.threads, .shared_bytes = g.shared_bytes};
}

/* Appends the operand and returns its place; the scratch of `finish` is that of the main launch. */
static void row_operand(Lower *l, Step *s, const KernelOperand *operand, Place *scratch) {
  switch (operand->role) {
  case OPERAND_TAG:
    step_read(l, s, NULL, lower_tag(l, operand->tag));
    break;
  case OPERAND_SCRATCH:
    step_scratch(l, s, NULL, operand->scratch_bytes);
    *scratch = vec_last(s->fields).place;
    break;
  case OPERAND_INPUT:
    step_read(l, s, NULL, operand->value == NO_VALUE ? lower_seed(l) : lower_place(l, operand->value));
    break;
  case OPERAND_OUTPUT:
    step_write(l, s, NULL, lower_place(l, operand->value));
    break;
  }
  vec_last(s->fields).in_place = operand->in_place;
  vec_last(s->fields).value = operand->value;
}

static void row_counts(Lower *l, Step *s, const KernelCall *call) {
  cuda_live(l, s, call->extent);
  cuda_number(l, s, call->rows);
}

/* A second launch adds up the partial sums in the scratch of the first, in order. Neither has an operand it has no use
 * for: such an operand would keep memory alive. */
static void finish_launch(Lower *l, const KernelCall *call, const Place *scratch, uint32_t first, uint32_t last) {
  int64_t threads = kernel_geometry(call->kernel).finish_threads;
  CudaGeometry geometry = {.blocks = {divide_up(threads, FINISH_THREADS)}, .threads = FINISH_THREADS};
  Step s = begin_launch(l, first, last, call->kernel, "_finish", geometry);
  for (uint32_t i = 0; i < vec_len(call->operands); i++) {
    const KernelOperand *operand = &call->operands[i];
    Place unused;
    if (operand->finish && operand->role == OPERAND_SCRATCH)
      cuda_read(l, &s, scratch[i]);
    else if (operand->finish)
      row_operand(l, &s, operand, &unused);
  }
  row_counts(l, &s, call);
  step_end(l, &s);
}

void cuda_row_kernel(Lower *l, const KernelCall *call, uint32_t first, uint32_t last) {
  Place *scratch = arena_alloc(l->arena, (vec_len(call->operands) + 1) * sizeof *scratch);
  Step s = begin_launch(l, first, last, call->kernel, "", row_geometry(call));
  for (uint32_t i = 0; i < vec_len(call->operands); i++) {
    const KernelOperand *operand = &call->operands[i];
    if (!operand->finish || operand->role != OPERAND_OUTPUT)
      row_operand(l, &s, operand, &scratch[i]);
  }
  row_counts(l, &s, call);
  step_end(l, &s);
  if (kernel_geometry(call->kernel).finish_threads > 0)
    finish_launch(l, call, scratch, first, last);
}

/* A copy that is kept needs no step. */
void lower_cuda_cast(Lower *l, uint32_t index) {
  if (!cuda_is_copy(l->func, &l->func->insts[index]))
    lower_row(l, index);
}

/* ---------------------------------------------------------------- plain products */

void lower_cuda_matmul(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  bool ragged = lower_type(l, inst->input[0]).extent != NO_VALUE || lower_type(l, inst->input[1]).extent != NO_VALUE;
  if (ragged)
    lower_cuda_ragged_matmul(l, index);
  else
    lower_matmul(l, index);
}

/* ---------------------------------------------------------------- copies and constants */

/* The widest access that divides all of the numbers, which are bytes. */
static int64_t widest_word(const int64_t *bytes, int count) {
  int64_t word = 16;
  for (int i = 0; i < count; i++)
    while (bytes[i] % word != 0)
      word /= 2;
  return word;
}

void cuda_copy(Lower *l, uint32_t inst, Type type, Place from, int64_t ldf, Place to, int64_t ldt) {
  int64_t size = (int64_t)dtype_size(type.dtype), rows = type_rows(l->module, type);
  int64_t columns = type_columns(l->module, type) * size;
  /* arenas and what stands in them begin at multiples of 64 bytes */
  int64_t bytes[] = {columns, ldf * size, ldt * size, from.offset, to.offset};
  int64_t word = widest_word(bytes, sizeof bytes / sizeof bytes[0]);
  CudaDefine defines[] = {{"WORD", word}, {NULL, 0}};
  int64_t blocks = divide_up(rows * columns / word, COPY_THREADS);
  CudaGeometry geometry = {.blocks = {blocks < COPY_BLOCKS ? blocks : COPY_BLOCKS}, .threads = COPY_THREADS};
  Step s = cuda_launch(l, inst, cuda_template(l, "copy", defines, NULL), "", geometry);
  cuda_read(l, &s, from);
  cuda_write(l, &s, to);
  cuda_live(l, &s, type.rank <= 2 ? type.extent : NO_VALUE);
  cuda_number(l, &s, rows);
  cuda_number(l, &s, columns / word);
  cuda_number(l, &s, ldf * size / word);
  cuda_number(l, &s, ldt * size / word);
  step_end(l, &s);
}

/* The bits of a constant in its type. */
static uint32_t element_bits(DType dtype, double value) {
  if (dtype == DTYPE_I32)
    return (uint32_t)(int32_t)value;
  float number = (float)value;
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return dtype == DTYPE_BF16 ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : bits;
}

void cuda_fill(Lower *l, uint32_t inst, DType dtype, Place to, double value) {
  CudaDefine defines[] = {{"SIZE", (int64_t)dtype_size(dtype)}, {NULL, 0}};
  Step s = cuda_launch(l, inst, cuda_template(l, "fill", defines, NULL), "", (CudaGeometry){.threads = 1});
  cuda_write(l, &s, to);
  cuda_number(l, &s, element_bits(dtype, value));
  step_end(l, &s);
}
