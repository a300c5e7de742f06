/* From instructions to the body of a row kernel.
 *
 * In: adjacent instructions that row_group_refusal accepts. Out: nodes, operands and outputs (kernel_ir.h). Built from
 * the outputs backwards, so what nobody needs is not computed. Softmax, arg-max, pick and one-hot become reductions and
 * elementwise nodes here; gathers become loads whose row is a node.
 */
#include "codegen/kernel_ir.h"

#include <string.h>

typedef struct Made {
  ValueId value;
  uint32_t context, node;
} Made;

typedef struct Builder {
  Arena *arena;
  const Func *f;
  uint32_t first, last;
  const ValueLayout *layout;
  RowSpace space;
  KernelBody *body;
  Made *made; /* arena vector: values built so far */
  bool cuda;  /* several threads share a row */
} Builder;

static uint32_t build_value(Builder *b, ValueId v, uint32_t context);

bool node_is_whole(const Node *n) {
  return n->kind >= NODE_COMBINE;
}

bool node_is_vector(const Node *n) {
  return n->columns > 1;
}

bool body_is_scalar(const KernelBody *body) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (node_is_vector(&body->nodes[i]) || node_is_whole(&body->nodes[i]))
      return false;
  return true;
}

/* ---------------------------------------------------------------- values and operands */

static Type type_of(const Builder *b, ValueId v) {
  return b->f->values[v].type;
}

static RowShape shape_of(const Builder *b, ValueId v) {
  return row_shape(b->f->module, type_of(b, v));
}

/* Elements between rows. An index vector [n] read as n rows has them side by side. */
static int64_t row_stride(const Builder *b, ValueId v) {
  if (type_of(b, v).rank < 2)
    return 1;
  return b->layout->ld[v];
}

/* The instruction that makes v inside the kernel; a constant is one wherever it is made. NULL: v is in memory. */
static const Inst *maker(const Builder *b, ValueId v) {
  const Value *value = &b->f->values[v];
  if (value->kind != VALUE_RESULT)
    return NULL;
  const Inst *inst = &b->f->insts[value->inst];
  return inst->op == OP_const || (value->inst >= b->first && value->inst <= b->last) ? inst : NULL;
}

/* Behind reshapes and splits inside the kernel: the value whose elements v has. A view of a value in memory is in
 * memory itself, and stays. */
static ValueId root_of(const Builder *b, ValueId v) {
  ValueId root = v;
  const Inst *inst = maker(b, root);
  while (inst && (op_info[inst->op].flags & FLAG_VIEW)) {
    root = inst->input[0];
    inst = maker(b, root);
  }
  return inst ? root : v;
}

static bool is_internal(const Builder *b, ValueId v) {
  return maker(b, root_of(b, v)) != NULL && maker(b, root_of(b, v))->op != OP_reshape;
}

static int64_t alignment_of(const Builder *b, ValueId v) {
  int64_t offset = b->layout->offset ? b->layout->offset[v] : 0;
  return offset % VALUE_ALIGNMENT == 0 ? VALUE_ALIGNMENT : offset & -offset;
}

static uint32_t add_operand(Builder *b, BodyOperand operand) {
  operand.alignment = operand.value == NO_VALUE ? VALUE_ALIGNMENT : alignment_of(b, operand.value);
  vec_push(b->arena, b->body->operands, operand);
  return vec_len(b->body->operands) - 1;
}

static uint32_t input_operand(Builder *b, ValueId v) {
  for (uint32_t i = 0; i < vec_len(b->body->operands); i++)
    if (b->body->operands[i].role == OPERAND_INPUT && b->body->operands[i].value == v && !b->body->operands[i].seed)
      return i;
  return add_operand(b, (BodyOperand){.role = OPERAND_INPUT,
                                      .dtype = type_of(b, v).dtype,
                                      .value = v,
                                      .exact = true,
                                      .ld = row_stride(b, v),
                                      .columns = shape_of(b, v).columns});
}

static uint32_t seed_operand(Builder *b) {
  for (uint32_t i = 0; i < vec_len(b->body->operands); i++)
    if (b->body->operands[i].seed)
      return i;
  return add_operand(b, (BodyOperand){.role = OPERAND_INPUT, .value = NO_VALUE, .seed = true});
}

/* `v`: the draw it is for, for the reader. */
static uint32_t tag_operand(Builder *b, int64_t tag, ValueId v) {
  for (uint32_t i = 0; i < vec_len(b->body->operands); i++)
    if (b->body->operands[i].role == OPERAND_TAG && b->body->operands[i].tag == tag)
      return i;
  return add_operand(b, (BodyOperand){.role = OPERAND_TAG, .value = v, .tag = tag});
}

/* ---------------------------------------------------------------- nodes */

/* An empty node: everything that a kind does not use has one fixed value, so that equal nodes are equal bytes. */
static Node node_new(NodeKind kind, DType dtype, int64_t columns, uint32_t context) {
  Node n;
  memset(&n, 0, sizeof n);
  n.kind = kind;
  n.dtype = dtype;
  n.columns = columns;
  n.context = context;
  n.operand = n.tag_operand = NO_OPERAND;
  n.row_node = n.column_node = NO_NODE;
  n.value = NO_VALUE;
  return n;
}

static uint32_t node_add(Builder *b, Node n) {
  bool source = n.kind <= NODE_COLUMN;
  for (uint32_t i = 0; source && i < vec_len(b->body->nodes); i++)
    if (memcmp(&b->body->nodes[i], &n, sizeof n) == 0)
      return i;
  vec_push(b->arena, b->body->nodes, n);
  return vec_len(b->body->nodes) - 1;
}

static const Node *node_at(const Builder *b, uint32_t i) {
  return &b->body->nodes[i];
}

static uint32_t node_const(Builder *b, DType dtype, double number, uint32_t context) {
  Node n = node_new(NODE_CONST, dtype, 1, context);
  n.number = number;
  return node_add(b, n);
}

static uint32_t node_math(Builder *b, Op op, DType dtype, int64_t columns, int count, const uint32_t *input) {
  Node n = node_new(NODE_MATH, dtype, columns, node_at(b, input[0])->context);
  n.op = op;
  n.input_count = count;
  memcpy(n.input, input, (size_t)count * sizeof *input);
  return node_add(b, n);
}

static uint32_t node_math2(Builder *b, Op op, DType dtype, uint32_t x, uint32_t y) {
  int64_t columns = node_at(b, x)->columns > node_at(b, y)->columns ? node_at(b, x)->columns : node_at(b, y)->columns;
  return node_math(b, op, dtype, columns, 2, (uint32_t[]){x, y});
}

static uint32_t node_math3(Builder *b, Op op, DType dtype, uint32_t x, uint32_t y, uint32_t z) {
  int64_t columns = 1;
  for (int i = 0; i < 3; i++)
    if (node_at(b, (uint32_t[]){x, y, z}[i])->columns > columns)
      columns = node_at(b, (uint32_t[]){x, y, z}[i])->columns;
  return node_math(b, op, dtype, columns, 3, (uint32_t[]){x, y, z});
}

/* A reduction over columns; of a row scalar it is the scalar itself. */
static uint32_t node_reduce(Builder *b, Op op, uint32_t x) {
  if (!node_is_vector(node_at(b, x)))
    return x;
  Node n = node_new(NODE_REDUCE, node_at(b, x)->dtype == DTYPE_I32 ? DTYPE_I32 : DTYPE_F32, 1, 0);
  n.op = op;
  n.input_count = 1;
  n.input[0] = x;
  return node_add(b, n);
}

static uint32_t node_column(Builder *b, int64_t columns, uint32_t context) {
  if (columns == 1)
    return node_const(b, DTYPE_I32, 0, context);
  return node_add(b, node_new(NODE_COLUMN, DTYPE_I32, columns, context));
}

/* ---------------------------------------------------------------- reading operands */

/* The row of v that belongs to the row of an instruction over rows like `row_type`. */
static Node row_load(Builder *b, ValueId v, Type row_type, uint32_t context) {
  Node n = node_new(NODE_LOAD, type_of(b, v).dtype, shape_of(b, v).columns, context);
  n.operand = input_operand(b, v);
  n.address = row_address(b->f->module, row_type, type_of(b, v));
  n.ld = n.address.term_count ? row_stride(b, v) : 0;
  n.value = v;
  if (context || (!b->body->one_row && !row_address_is_same(n.address)))
    b->body->operands[n.operand].exact = false;
  return n;
}

static uint32_t load_row(Builder *b, ValueId v, Type row_type, uint32_t context) {
  return node_add(b, row_load(b, v, row_type, context));
}

/* A load whose row or column is a node. */
static uint32_t load_at(Builder *b, ValueId v, int64_t columns, uint32_t row, uint32_t column, uint32_t context) {
  Node n = node_new(NODE_LOAD, type_of(b, v).dtype, columns, context);
  n.operand = input_operand(b, v);
  n.row_node = row;
  n.column_node = column;
  n.ld = row == NO_NODE ? 0 : row_stride(b, v);
  n.value = v;
  b->body->operands[n.operand].exact = false;
  return node_add(b, n);
}

/* Operand k of an elementwise or row instruction. */
static uint32_t row_operand(Builder *b, const Inst *inst, int k, uint32_t context) {
  ValueId v = inst->input[k];
  if (is_internal(b, v))
    return build_value(b, root_of(b, v), context);
  Type row_type = inst->op == OP_sum ? type_of(b, v) : type_of(b, inst->output[0]);
  return load_row(b, v, row_type, context);
}

/* Element r of an index vector [n] or [n,1]. */
static uint32_t element_operand(Builder *b, ValueId v, uint32_t context) {
  if (is_internal(b, v))
    return build_value(b, root_of(b, v), context);
  Node n = node_new(NODE_LOAD, type_of(b, v).dtype, 1, context);
  n.operand = input_operand(b, v);
  if (b->space.rows > 1 || context)
    n.address = (RowAddress){1, {{1, 0, 1}}};
  n.ld = n.address.term_count ? row_stride(b, v) : 0;
  n.value = v;
  if (context)
    b->body->operands[n.operand].exact = false;
  return node_add(b, n);
}

/* ---------------------------------------------------------------- ops */

static uint32_t build_elementwise(Builder *b, const Inst *inst, uint32_t context) {
  Type out = type_of(b, inst->output[0]);
  int64_t columns = row_shape(b->f->module, out).columns;
  int count = inst->op == OP_broadcast ? 1 : inst->input_count;
  uint32_t input[3];
  for (int k = 0; k < count; k++)
    input[k] = row_operand(b, inst, k, context);
  const Node *x = node_at(b, input[0]);
  bool widens = inst->op == OP_cast && x->dtype == DTYPE_BF16 && out.dtype == DTYPE_F32; /* it is a float already */
  bool same = inst->op == OP_stop || inst->op == OP_broadcast || (inst->op == OP_cast && x->dtype == out.dtype);
  if ((same || widens) && x->columns == columns)
    return input[0];
  return node_math(b, inst->op, out.dtype, columns, count, input);
}

static uint32_t build_softmax(Builder *b, uint32_t x) {
  uint32_t largest = node_reduce(b, OP_maximum, x);
  uint32_t shifted = node_math2(b, OP_sub, DTYPE_F32, x, largest);
  uint32_t e = node_math(b, OP_exp, DTYPE_F32, node_at(b, x)->columns, 1, &shifted);
  uint32_t one = node_const(b, DTYPE_F32, 1, 0);
  uint32_t inverse = node_math2(b, OP_div, DTYPE_F32, one, node_reduce(b, OP_sum, e));
  return node_math2(b, OP_mul, DTYPE_F32, e, inverse);
}

/* The first column that holds the largest; where no column equals it (NaN), column 0. */
static uint32_t build_argmax(Builder *b, uint32_t x) {
  int64_t columns = node_at(b, x)->columns;
  uint32_t none = node_const(b, DTYPE_I32, (double)columns, 0);
  uint32_t is_largest = node_math2(b, OP_equal, DTYPE_F32, x, node_reduce(b, OP_maximum, x));
  uint32_t candidate = node_math3(b, OP_select, DTYPE_I32, is_largest, node_column(b, columns, 0), none);
  uint32_t found = node_reduce(b, OP_minimum, candidate);
  uint32_t valid = node_math2(b, OP_greater, DTYPE_F32, none, found);
  return node_math3(b, OP_select, DTYPE_I32, valid, found, node_const(b, DTYPE_I32, 0, 0));
}

static uint32_t build_pick(Builder *b, const Inst *inst, uint32_t context) {
  uint32_t index = element_operand(b, inst->input[1], context);
  if (is_internal(b, inst->input[0])) {
    uint32_t x = row_operand(b, inst, 0, context);
    uint32_t hit = node_math2(b, OP_equal, DTYPE_F32, node_column(b, node_at(b, x)->columns, context), index);
    uint32_t zero = node_const(b, DTYPE_F32, 0, context);
    return node_reduce(b, OP_sum, node_math3(b, OP_select, DTYPE_F32, hit, x, zero));
  }
  Node n = row_load(b, inst->input[0], type_of(b, inst->output[0]), context);
  n.columns = 1;
  n.column_node = index;
  if (b->body->one_row)
    b->body->operands[n.operand].exact = false;
  b->body->operands[n.operand].picked = true;
  return node_add(b, n);
}

static uint32_t build_uniform(Builder *b, const Inst *inst, uint32_t context) {
  Node n = node_new(NODE_UNIFORM, DTYPE_F32, shape_of(b, inst->output[0]).columns, context);
  n.input_count = 2;
  n.input[0] = element_operand(b, inst->input[0], context);
  n.input[1] = row_operand(b, inst, 1, context);
  n.tag_operand = tag_operand(b, inst_int(inst, ATTRIBUTE_tag, 0), inst->output[0]);
  n.operand = seed_operand(b);
  return node_add(b, n);
}

static uint32_t build_one_hot(Builder *b, const Inst *inst, uint32_t context) {
  uint32_t index = element_operand(b, inst->input[0], context);
  return node_math2(b, OP_equal, DTYPE_F32, node_column(b, shape_of(b, inst->output[0]).columns, context), index);
}

static uint32_t build_gather_rows(Builder *b, const Inst *inst, uint32_t context) {
  uint32_t row = element_operand(b, inst->input[1], context);
  return load_at(b, inst->input[0], shape_of(b, inst->output[0]).columns, row, NO_NODE, context);
}

static int64_t experts_of_pairs(const Builder *b, ValueId pair) {
  return row_shape(b->f->module, type_of(b, type_of(b, pair).extent)).columns - 1;
}

static uint32_t token_of_pair(Builder *b, uint32_t pair, int64_t experts) {
  if (experts == 1)
    return pair;
  return node_math2(b, OP_div, DTYPE_I32, pair, node_const(b, DTYPE_I32, (double)experts, node_at(b, pair)->context));
}

static uint32_t expert_of_pair(Builder *b, uint32_t pair, int64_t experts) {
  uint32_t first = node_math2(b, OP_mul, DTYPE_I32, token_of_pair(b, pair, experts),
                              node_const(b, DTYPE_I32, (double)experts, node_at(b, pair)->context));
  return node_math2(b, OP_sub, DTYPE_I32, pair, first);
}

static uint32_t build_dispatch(Builder *b, const Inst *inst, uint32_t context) {
  uint32_t pair = element_operand(b, inst->input[1], context);
  uint32_t token = token_of_pair(b, pair, experts_of_pairs(b, inst->input[1]));
  return load_at(b, inst->input[0], shape_of(b, inst->output[0]).columns, token, NO_NODE, context);
}

static uint32_t build_pack(Builder *b, const Inst *inst, uint32_t context) {
  int64_t experts = experts_of_pairs(b, inst->input[1]);
  uint32_t pair = element_operand(b, inst->input[1], context);
  if (row_stride(b, inst->input[0]) == experts) /* no gaps: the pair is the element */
    return load_at(b, inst->input[0], 1, NO_NODE, pair, context);
  return load_at(b, inst->input[0], 1, token_of_pair(b, pair, experts), expert_of_pair(b, pair, experts), context);
}

static uint32_t build_expand(Builder *b, const Inst *inst, uint32_t context) {
  Node n = node_new(NODE_EXPERT, DTYPE_I32, 1, context);
  n.operand = input_operand(b, inst->input[1]);
  n.count = shape_of(b, inst->input[1]).columns - 1;
  b->body->operands[n.operand].exact = false;
  uint32_t expert = node_add(b, n);
  return load_at(b, inst->input[0], shape_of(b, inst->output[0]).columns, expert, NO_NODE, context);
}

/* combine and unpack: the node stands before the nodes of its context. */
static uint32_t build_slots(Builder *b, const Inst *inst) {
  ValueId x = inst->input[0], slot = inst->input[1], pair = inst->input[2];
  Node n =
      node_new(inst->op == OP_combine ? NODE_COMBINE : NODE_UNPACK, DTYPE_F32, shape_of(b, inst->output[0]).columns, 0);
  n.operand = input_operand(b, slot);
  n.ld = row_stride(b, slot);
  n.count = shape_of(b, slot).columns;
  b->body->operands[n.operand].exact = false;
  uint32_t node = node_add(b, n), context = node + 1;
  uint32_t input[2];
  input[0] = is_internal(b, x) ? build_value(b, root_of(b, x), context) : load_row(b, x, type_of(b, x), context);
  int count = 1;
  if (inst->op == OP_unpack) {
    input[1] = expert_of_pair(b, element_operand(b, pair, context), n.columns);
    count = 2;
  }
  Node *slots = &b->body->nodes[node];
  slots->input_count = count;
  memcpy(slots->input, input, (size_t)count * sizeof *input);
  return node;
}

static uint32_t build_topk(Builder *b, const Inst *inst, uint32_t context) {
  uint32_t x = row_operand(b, inst, 0, context);
  if (!node_is_vector(node_at(b, x)))
    return node_const(b, DTYPE_F32, 1, context);
  Node n = node_new(NODE_TOPK, DTYPE_F32, node_at(b, x)->columns, 0);
  n.count = inst_int(inst, ATTRIBUTE_k, 1);
  n.input_count = 1;
  n.input[0] = x;
  return node_add(b, n);
}

static uint32_t build_product(Builder *b, const Inst *inst, uint32_t context) {
  uint32_t x = row_operand(b, inst, 0, context);
  Node n = node_new(NODE_PRODUCT, DTYPE_F32, shape_of(b, inst->output[0]).columns, 0);
  n.operand = input_operand(b, inst->input[1]);
  n.ld = row_stride(b, inst->input[1]);
  n.count = node_at(b, x)->columns;
  n.transposed = inst_int(inst, ATTRIBUTE_tb, 0) != 0;
  n.input_count = 1;
  n.input[0] = x;
  b->body->operands[n.operand].exact = false;
  return node_add(b, n);
}

/* Over a dim that is neither the first nor the last: rows r / inner * n * inner + r % inner + j * inner. */
static uint32_t build_rows_sum(Builder *b, const Inst *inst) {
  Type x = type_of(b, inst->input[0]);
  int64_t axis = inst_int(inst, ATTRIBUTE_axis, -1), inner = 1;
  for (int i = (int)(axis < 0 ? axis + x.rank : axis) + 1; i + 1 < x.rank; i++)
    inner *= dim_value(b->f->module, x.dim[i]);
  Node n = node_new(NODE_ROWS_SUM, DTYPE_F32, shape_of(b, inst->output[0]).columns, 0);
  n.operand = input_operand(b, inst->input[0]);
  n.ld = row_stride(b, inst->input[0]);
  n.count = shape_of(b, inst->input[0]).rows / shape_of(b, inst->output[0]).rows;
  n.stride = inner;
  n.address =
      inner == 1 ? (RowAddress){1, {{1, 0, n.count}}} : (RowAddress){2, {{inner, 0, n.count * inner}, {1, inner, 1}}};
  b->body->operands[n.operand].exact = false;
  return node_add(b, n);
}

static uint32_t build_column_sum(Builder *b, const Inst *inst) {
  ValueId v = inst->input[0];
  Type type = type_of(b, v);
  uint32_t x;
  if (is_internal(b, v) || type.rank <= 2) {
    x = row_operand(b, inst, 0, 0);
  } else { /* one row is all of [1..]: contiguous */
    int64_t columns = shape_of(b, inst->output[0]).rows * shape_of(b, inst->output[0]).columns;
    if (row_stride(b, v) != shape_of(b, v).columns)
      ir_bug("sum over dim 0 of %%%s: its rows have gaps", b->f->values[v].name);
    x = load_row(b, v, type, 0);
    Node *load = &b->body->nodes[x];
    load->columns = load->ld = columns;
  }
  Node n = node_new(NODE_COLUMN_SUM, DTYPE_F32, node_at(b, x)->columns, 0);
  n.input_count = 1;
  n.input[0] = x;
  return node_add(b, n);
}

static uint32_t build_total(Builder *b, const Inst *inst, uint32_t context) {
  if (row_is_column_sum(b->f, inst))
    return build_column_sum(b, inst);
  if (row_read(b->f, inst, 0) == ROW_READ_ROWS)
    return build_rows_sum(b, inst);
  return node_reduce(b, OP_sum, row_operand(b, inst, 0, context));
}

static uint32_t build_op(Builder *b, const Inst *inst, uint32_t context) {
  switch (inst->op) {
  case OP_const: {
    const Attr *dtype = inst_attr(inst, ATTRIBUTE_dtype);
    return node_const(b, dtype ? dtype->dtype : DTYPE_F32, inst_float(inst, ATTRIBUTE_value, 0), context);
  }
  case OP_iota:
    return b->space.rows == 1 ? node_const(b, DTYPE_I32, 0, context)
                              : node_add(b, node_new(NODE_ROW, DTYPE_I32, 1, context));
  case OP_uniform:
    return build_uniform(b, inst, context);
  case OP_one_hot:
    return build_one_hot(b, inst, context);
  case OP_sum:
    return build_total(b, inst, context);
  case OP_max:
    return node_reduce(b, OP_maximum, row_operand(b, inst, 0, context));
  case OP_argmax:
    return build_argmax(b, row_operand(b, inst, 0, context));
  case OP_softmax:
    return build_softmax(b, row_operand(b, inst, 0, context));
  case OP_topk_mask:
    return build_topk(b, inst, context);
  case OP_pick:
    return build_pick(b, inst, context);
  case OP_gather_rows:
    return build_gather_rows(b, inst, context);
  case OP_dispatch:
    return build_dispatch(b, inst, context);
  case OP_pack:
    return build_pack(b, inst, context);
  case OP_expand:
    return build_expand(b, inst, context);
  case OP_combine:
  case OP_unpack:
    return build_slots(b, inst);
  case OP_matmul:
    return build_product(b, inst, context);
  default:
    if (!(op_info[inst->op].flags & FLAG_ELEMENTWISE))
      ir_bug("%s: op %s in a row kernel", b->f->name, op_info[inst->op].name);
    return build_elementwise(b, inst, context);
  }
}

static uint32_t build_value(Builder *b, ValueId v, uint32_t context) {
  for (uint32_t i = 0; i < vec_len(b->made); i++)
    if (b->made[i].value == v && b->made[i].context == context)
      return b->made[i].node;
  uint32_t node = build_op(b, maker(b, v), context);
  Node *n = &b->body->nodes[node];
  if (n->value == NO_VALUE && n->kind != NODE_CONST && n->kind != NODE_COLUMN && n->kind != NODE_ROW)
    n->value = v;
  vec_push(b->arena, b->made, (Made){v, context, node});
  return node;
}

/* ---------------------------------------------------------------- outputs */

/* Whether v, or a view of it made in the kernel, is read behind the kernel. */
static bool needed_behind(const Builder *b, ValueId v) {
  if (b->layout->last_use[v] != 0 && b->layout->last_use[v] > b->last)
    return true;
  for (uint32_t i = b->first; i <= b->last; i++) {
    const Inst *inst = &b->f->insts[i];
    if (!(op_info[inst->op].flags & FLAG_VIEW) || inst->input[0] != v)
      continue;
    for (int k = 0; k < inst->output_count; k++)
      if (needed_behind(b, inst->output[k]))
        return true;
  }
  return false;
}

static void add_output(Builder *b, ValueId v) {
  uint32_t node = build_value(b, v, 0);
  const Node *n = node_at(b, node);
  bool column_sum = n->kind == NODE_COLUMN_SUM;
  BodyOutput output = {.node = node, .scratch = NO_OPERAND, .ld = column_sum ? 0 : row_stride(b, v)};
  output.operand = add_operand(b, (BodyOperand){.role = OPERAND_OUTPUT,
                                                .dtype = type_of(b, v).dtype,
                                                .value = v,
                                                .ld = output.ld,
                                                .columns = n->columns > 1 ? n->columns : shape_of(b, v).columns});
  vec_push(b->arena, b->body->outputs, output);
}

static void add_scratch(Builder *b, BodyOutput *output) {
  const Node *n = node_at(b, output->node);
  int64_t blocks = (b->body->rows + b->body->block_rows - 1) / b->body->block_rows;
  output->scratch = add_operand(b, (BodyOperand){.role = OPERAND_SCRATCH,
                                                 .dtype = DTYPE_F32,
                                                 .value = NO_VALUE,
                                                 .ld = n->columns,
                                                 .columns = n->columns,
                                                 .scratch_bytes = blocks * n->columns * (int64_t)sizeof(float)});
}

/* Inputs, outputs, scratch, tags, and the seed behind them all. */
static void sort_operands(Builder *b) {
  KernelBody *body = b->body;
  uint32_t count = vec_len(body->operands);
  uint32_t *to = arena_alloc(b->arena, (count + 1) * sizeof *to);
  BodyOperand *sorted = NULL;
  enum { SEED_KEY = OPERAND_TAG + 1 };
  for (int key = 0; key <= SEED_KEY; key++)
    for (uint32_t i = 0; i < count; i++) {
      const BodyOperand *o = &body->operands[i];
      if ((o->seed ? SEED_KEY : (int)o->role) != key)
        continue;
      to[i] = vec_len(sorted);
      vec_push(b->arena, sorted, *o);
    }
  body->operands = sorted;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    Node *n = &body->nodes[i];
    n->operand = n->operand == NO_OPERAND ? NO_OPERAND : to[n->operand];
    n->tag_operand = n->tag_operand == NO_OPERAND ? NO_OPERAND : to[n->tag_operand];
  }
  for (uint32_t i = 0; i < vec_len(body->outputs); i++) {
    body->outputs[i].operand = to[body->outputs[i].operand];
    if (body->outputs[i].scratch != NO_OPERAND)
      body->outputs[i].scratch = to[body->outputs[i].scratch];
  }
}

static void check_group(Arena *arena, const Func *f, uint32_t first, uint32_t last) {
  const char *reason = NULL;
  if (first == last) {
    reason = row_op(f, &f->insts[first]) ? NULL : "not a row op";
  } else {
    uint32_t *insts = arena_alloc(arena, (last - first + 1) * sizeof *insts);
    for (uint32_t i = first; i <= last; i++)
      insts[i - first] = i;
    reason = row_group_refusal(f, insts, last - first + 1, row_count_uses(f, arena));
  }
  if (reason)
    ir_bug("%s: %s (%s:%d) cannot be a row kernel: %s", f->name, f->values[f->insts[first].output[0]].name,
           f->insts[first].loc.file ? f->insts[first].loc.file : "?", f->insts[first].loc.line, reason);
}

/* Rows of a block of partial sums. Both counts follow from the static bound alone, so results do too. */
static int64_t rows_of_block(const KernelBody *body, bool cuda) {
  int64_t most = cuda ? kernel_cuda_blocks(body) : MAX_BLOCKS, block = (body->rows + most - 1) / most;
  return block < MIN_BLOCK_ROWS ? MIN_BLOCK_ROWS : block;
}

KernelBody *kernel_build(Arena *arena, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout,
                         bool cuda) {
  check_group(arena, f, first, last);
  uint32_t *insts = arena_alloc(arena, (last - first + 1) * sizeof *insts);
  for (uint32_t i = first; i <= last; i++)
    insts[i - first] = i;
  Builder builder = {.arena = arena, .f = f, .first = first, .last = last, .layout = layout, .cuda = cuda},
          *b = &builder;
  b->space = first == last ? row_space(f, &f->insts[first]) : row_group_space(f, insts, last - first + 1);
  b->body = arena_alloc(arena, sizeof *b->body);
  *b->body = (KernelBody){.f = f,
                          .first = first,
                          .last = last,
                          .rows = b->space.rows,
                          .one_row = b->space.rows == 1 && b->space.extent == NO_VALUE,
                          .rows_per_live = b->space.rows_per_entry,
                          .extent = b->space.extent,
                          .given_operand = NO_OPERAND};
  for (uint32_t i = first; i <= last; i++) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; !(op_info[inst->op].flags & FLAG_VIEW) && k < inst->output_count; k++)
      if (first == last || needed_behind(b, inst->output[k]))
        add_output(b, inst->output[k]);
  }
  if (!b->body->outputs)
    add_output(b, f->insts[last].output[0]);
  for (uint32_t i = 0; i < vec_len(b->body->outputs); i++)
    if (node_at(b, b->body->outputs[i].node)->kind == NODE_COLUMN_SUM) {
      b->body->one_row = false;
      b->body->block_rows = b->body->block_rows ? b->body->block_rows : rows_of_block(b->body, cuda);
      add_scratch(b, &b->body->outputs[i]);
    }
  for (uint32_t i = 0; i < vec_len(b->body->operands); i++)
    if (cuda && b->body->operands[i].picked && !kernel_cuda_waits(b->body))
      b->body->operands[i].exact = false; /* a thread of the row may store where another has yet to read */
  sort_operands(b);
  return b->body;
}
