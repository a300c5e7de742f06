/* Row kernels as epilogues of products for CUDA: what follows a product, element by element, is done by the kernel that
 * makes it, before its rows go to memory.
 *
 * In: the instructions of a row kernel behind a product of packed rows. Out: a text for codegen/cuda/grouped_tiles.cu,
 *
 *   #define EPILOGUE_PARAMETERS , const float *epilogue_b1, ...       of the kernel, behind the product's own
 *   #define EPILOGUE_OPERANDS epilogue_b1, ...
 *   struct Epilogue { ... };                                  them
 *   epilogue_apply(of, given, r, group, c0, first_of_row)     8 columns from c0 of row r, which is of group `group`
 *
 * where `given` are the product's elements in bf16, and `first_of_row` is true for one call in each row. Holds: the
 * same arithmetic as the row kernel's, of the product rounded to bf16. The kernel must be of the product's rows and
 * columns alone: no sums over either, no random draws, no rows but the own one, that of the group, or one for all.
 */
#include "codegen/kernel_print.h"

enum { WIDTH = 8 };

static int64_t columns_of(const KernelBody *body, ValueId product) {
  const Value *v = &body->f->values[product];
  return row_shape(body->f->module, v->type).columns;
}

/* Whether rows of the operand are whole vectors of WIDTH elements. */
static bool in_vectors(const BodyOperand *o, int64_t ld) {
  int64_t size = (int64_t)dtype_size(o->dtype);
  return o->alignment % VALUE_ALIGNMENT == 0 && ld * size % VALUE_ALIGNMENT == 0;
}

static const char *load_refusal(const KernelBody *body, const Node *n) {
  bool by_row = n->row_node == NO_NODE && (row_address_is_same(n->address) || n->address.term_count == 0);
  if (!node_is_vector(n))
    return NULL;
  if (!by_row && (n->row_node == NO_NODE || body->nodes[n->row_node].kind != NODE_EXPERT))
    return "it reads other rows than its own";
  return in_vectors(&body->operands[n->operand], n->ld) ? NULL : "rows of an operand are not whole pieces of 16 bytes";
}

static const char *node_refusal(const KernelBody *body, const Node *n, ValueId product, ValueId off) {
  const BodyOperand *o = n->operand == NO_OPERAND ? NULL : &body->operands[n->operand];
  if (n->context)
    return "it gathers packed rows";
  if (node_is_vector(n) && n->columns != columns_of(body, product))
    return "it has rows of other columns than the product's";
  switch (n->kind) {
  case NODE_CONST:
  case NODE_MATH:
    return NULL;
  case NODE_EXPERT:
    return o->value == off ? NULL : "it asks for the expert of other rows";
  case NODE_LOAD:
    if (o->value == product)
      return node_is_vector(n) && n->row_node == NO_NODE && row_address_is_same(n->address)
                 ? NULL
                 : "it reads other rows of the product than its own";
    return load_refusal(body, n);
  case NODE_UNIFORM:
    return "it draws random numbers";
  default:
    return "it sums over columns or rows";
  }
}

static const char *body_refusal(const KernelBody *body, ValueId product, ValueId off) {
  if (body->extent != off || body->rows_per_live != 1 || body->one_row || body->block_rows)
    return "it is not a kernel of the product's rows";
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    const char *refusal = node_refusal(body, &body->nodes[i], product, off);
    if (refusal)
      return refusal;
  }
  bool stores = false;
  for (uint32_t i = 0; i < vec_len(body->outputs); i++) {
    const BodyOutput *o = &body->outputs[i];
    bool vector = node_is_vector(&body->nodes[o->node]);
    if (vector && !in_vectors(&body->operands[o->operand], o->ld))
      return "rows of a result are not whole pieces of 16 bytes";
    stores |= vector;
  }
  return stores ? NULL : "it makes no rows of the product's columns";
}

/* ---------------------------------------------------------------- the text */

static bool is_parameter(const KernelBody *body, uint32_t operand) {
  if (operand == body->given_operand)
    return false;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (body->nodes[i].operand == operand && body->nodes[i].kind != NODE_EXPERT)
      return true;
  return body->operands[operand].role == OPERAND_OUTPUT;
}

static int64_t epilogue_buffer_limit(const KernelBody *body) {
  (void)body;
  return NO_BUFFER_LIMIT;
}

static CWords epilogue_words(Arena *arena, const KernelBody *body) {
  (void)arena;
  (void)body;
  return (CWords){.one_thread = "if (first_of_row) ", .call_arguments = "", .wide = "(int64_t)", .expert = "group"};
}

static const char *parameter_text(Printer *p, uint32_t i, const char *prefix) {
  const BodyOperand *o = &p->body->operands[i];
  return arena_print(p->arena, "%s%s *%s%s", o->role == OPERAND_INPUT ? "const " : "", print_c_type(o->dtype), prefix,
                     p->operand[i]);
}

static void epilogue_open(Printer *p) {
  const KernelBody *body = p->body;
  const char *parameters = "", *operands = "";
  for (uint32_t i = 0; i < vec_len(body->operands); i++)
    if (is_parameter(body, i)) {
      parameters = arena_print(p->arena, "%s, %s", parameters, parameter_text(p, i, "epilogue_"));
      operands = arena_print(p->arena, "%s%sepilogue_%s", operands, operands[0] ? ", " : "", p->operand[i]);
    }
  print_line(p, "#define EPILOGUE_PARAMETERS %s", parameters);
  print_line(p, "#define EPILOGUE_OPERANDS %s", operands);
  print_line(p, "struct Epilogue {");
  for (uint32_t i = 0; i < vec_len(body->operands); i++)
    if (is_parameter(body, i))
      print_line(p, "  %s;%s", parameter_text(p, i, ""), print_comment(p, i));
  print_line(p, "};");
  print_line(p,
             "MOEC_INLINE void epilogue_apply(const Epilogue &of, const moec_vector<uint16_t, %d> &given, int32_t r,",
             WIDTH);
  print_line(p, "                                int32_t group, int32_t c0, bool first_of_row) {");
  p->indent++;
  for (uint32_t i = 0; i < vec_len(body->operands); i++)
    if (is_parameter(body, i))
      print_line(p, "%s = of.%s;", parameter_text(p, i, ""), p->operand[i]);
}

static void epilogue_close(Printer *p) {
  p->indent--;
  print_line(p, "}");
}

static void epilogue_open_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  (void)columns;
  (void)reductions;
  p->loop = (ColumnLoop){.width = WIDTH, .stride = 1, .element = "i", .sum = "i"};
}

static void epilogue_close_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  (void)p;
  (void)columns;
  (void)reductions;
}

static const CStyle style_epilogue = {
    .buffer_limit = epilogue_buffer_limit,
    .words = epilogue_words,
    .open = epilogue_open,
    .close = epilogue_close,
    .open_columns = epilogue_open_columns,
    .close_columns = epilogue_close_columns,
};

KernelEpilogue kernel_epilogue(KernelSet *set, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout,
                               ValueId product, ValueId off) {
  KernelBody *body = kernel_build(set->arena, f, first, last, layout, true);
  KernelEpilogue epilogue = {.refusal = body_refusal(body, product, off)};
  for (uint32_t i = 0; i < vec_len(body->operands); i++)
    if (body->operands[i].role == OPERAND_INPUT && body->operands[i].value == product)
      body->given_operand = i;
  if (!epilogue.refusal && body->given_operand == NO_OPERAND)
    epilogue.refusal = "it does not read the product";
  if (epilogue.refusal)
    return epilogue;
  const LoopPlan *plan = kernel_schedule(set->arena, body, NO_BUFFER_LIMIT);
  for (uint32_t i = 0; i < vec_len(body->operands); i++) {
    const BodyOperand *o = &body->operands[i];
    if (is_parameter(body, i)) /* scalars of a row are read where other columns are made, too */
      vec_push(set->arena, epilogue.operands,
               (KernelOperand){.role = o->role, .value = o->value, .in_place = plan->in_place[i] && o->columns > 1});
  }
  epilogue.text = kernel_print(set->arena, &style_epilogue, body, "epilogue", true);
  epilogue.key = kernel_print(set->arena, &style_epilogue, body, "epilogue", false);
  return epilogue;
}
