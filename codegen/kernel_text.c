/* The parts of a statement of a row kernel's text: numbers, expressions, addresses. kernel_print.c makes statements and
 * loops of them. */
#include "codegen/kernel_print.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- expressions */

const char *print_number(Printer *p, DType dtype, double number) {
  if (dtype == DTYPE_I32)
    return arena_print(p->arena, number < 0 ? "(%d)" : "%d", (int)number);
  if (isnan(number))
    return "MOEC_NAN";
  if (isinf(number) || isinf((float)number))
    return number < 0 ? "(-MOEC_INFINITY)" : "MOEC_INFINITY";
  char text[40];
  snprintf(text, sizeof text, "%.9g", (double)(float)number);
  const char *point = strpbrk(text, ".e") ? "" : ".0";
  return arena_print(p->arena, signbit(number) ? "(%s%sf)" : "%s%sf", text, point);
}

/* What stands for node i in an expression. */
const char *print_reference(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  switch (n->kind) {
  case NODE_CONST:
    return print_number(p, n->dtype, n->number);
  case NODE_ROW:
    return n->context ? "(int32_t)q" : "(int32_t)r";
  case NODE_COLUMN:
    return "c";
  default:
    return p->node[i];
  }
}

static const char *const math_text[OP_COUNT] = {
    [OP_add] = "$0 + $1",
    [OP_sub] = "$0 - $1",
    [OP_mul] = "$0 * $1",
    [OP_div] = "$0 / $1",
    [OP_maximum] = "$0 > $1 ? $0 : $1",
    [OP_minimum] = "$0 < $1 ? $0 : $1",
    [OP_greater] = "$0 > $1 ? 1.0f : 0.0f",
    [OP_greater_equal] = "$0 >= $1 ? 1.0f : 0.0f",
    [OP_equal] = "$0 == $1 ? 1.0f : 0.0f",
    [OP_select] = "$0 != 0.0f ? $1 : $2",
    [OP_neg] = "-$0",
    [OP_abs] = "moec_abs($0)",
    [OP_exp] = "moec_exp($0)",
    [OP_log] = "moec_log($0)",
    [OP_expm1] = "moec_expm1($0)",
    [OP_log1p] = "moec_log1p($0)",
    [OP_sqrt] = "moec_sqrt($0)",
    [OP_rsqrt] = "moec_rsqrt($0)",
    [OP_tanh] = "moec_tanh($0)",
    [OP_erf] = "moec_erf($0)",
    [OP_sigmoid] = "moec_sigmoid($0)",
    [OP_cos] = "moec_cos($0)",
    [OP_sin] = "moec_sin($0)",
    [OP_stop] = "$0",
    [OP_broadcast] = "$0",
};

static const char *cast_text(DType from, DType to) {
  if (to == DTYPE_BF16)
    return from == DTYPE_I32 ? "moec_round_bf16((float)$0)" : "moec_round_bf16($0)";
  if (to == DTYPE_I32)
    return from == DTYPE_I32 ? "$0" : "(int32_t)$0";
  return from == DTYPE_I32 ? "(float)$0" : "$0";
}

/* Whether a select of vectors goes by a condition of the whole row: the row's mask is made once, ahead of the loops. */
bool print_is_choice_of_row(const Printer *p, const Node *n) {
  if (n->kind != NODE_MATH || n->op != OP_select || n->dtype == DTYPE_I32 || !node_is_vector(n))
    return false;
  const Node *condition = print_node(p, n->input[0]);
  return !node_is_vector(condition) && condition->kind != NODE_CONST && condition->kind != NODE_ROW;
}

static const char *math_format(const Printer *p, const Node *n) {
  DType from = print_node(p, n->input[0])->dtype;
  const char *text = math_text[n->op];
  if (n->op == OP_cast)
    text = cast_text(from, n->dtype);
  else if (print_is_choice_of_row(p, n))
    text = "moec_choose($0_mask, $1, $2)";
  else if (n->op == OP_div && n->dtype == DTYPE_I32)
    text = "moec_floor_div($0, $1)";
  else if (n->op == OP_abs && n->dtype == DTYPE_I32)
    text = "$0 < 0 ? -$0 : $0";
  if (!text)
    ir_bug("no text for op %s in a row kernel", op_info[n->op].name);
  return text;
}

const char *print_math(Printer *p, const Node *n) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  for (const char *at = math_format(p, n); *at; at++)
    if (*at == '$')
      fputs(print_reference(p, n->input[*++at - '0']), out);
    else
      fputc(*at, out);
  fclose(out);
  char *copy = arena_copy(p->arena, text, size);
  free(text);
  return copy;
}

/* ---------------------------------------------------------------- addresses */

/* "r", "(r / 8)", "(r % 8)", "(r / 8 % 4 * 2 + r % 2)"; NULL when it is 0. */
const char *print_row_index(Printer *p, RowAddress a, const char *row) {
  const char *sum = NULL;
  for (int i = a.term_count - 1; i >= 0; i--) {
    RowTerm t = a.term[i];
    const char *text = row;
    if (t.divide != 1)
      text = arena_print(p->arena, "%s / %lld", text, (long long)t.divide);
    if (t.modulo)
      text = arena_print(p->arena, "%s %% %lld", text, (long long)t.modulo);
    if (t.stride != 1)
      text = arena_print(p->arena, "%s * %lld", text, (long long)t.stride);
    sum = sum ? arena_print(p->arena, "%s + %s", sum, text) : text;
  }
  return sum && sum != row ? arena_print(p->arena, "(%s)", sum) : sum;
}

/* Whether index * ld may be too large for an index of 32 bits that has no type of its own. */
static bool is_wide(const Printer *p, const char *index, int64_t ld) {
  if (index[0] == 'q' || strncmp(index, "(int64_t)", 9) == 0)
    return false;
  return strcmp(index, "r") != 0 || p->body->rows > INT32_MAX / ld;
}

/* "(index * ld)" as " + index * ld", or nothing when it is 0. */
const char *print_offset(Printer *p, const char *index, int64_t ld) {
  if (!index || ld == 0)
    return "";
  if (ld == 1)
    return arena_print(p->arena, " + %s", index);
  return arena_print(p->arena, " + %s%s * %lld", is_wide(p, index, ld) ? p->words.wide : "", index, (long long)ld);
}

const char *print_load_offset(Printer *p, const Node *n) {
  if (n->row_node != NO_NODE)
    return print_offset(p, arena_print(p->arena, "(int64_t)%s", print_reference(p, n->row_node)), n->ld);
  return print_offset(p, print_row_index(p, n->address, n->context ? "q" : "r"), n->ld);
}

const char *print_convert_load(Printer *p, DType dtype, const char *element) {
  return dtype == DTYPE_BF16 ? arena_print(p->arena, "moec_from_bf16(%s)", element) : element;
}

/* What is stored of an output's node. What was cast to bf16, or loaded as such, is not rounded again. */
const char *print_convert_store(Printer *p, const BodyOutput *o) {
  const Node *n = print_node(p, o->node);
  const char *value = print_reference(p, o->node);
  if (p->body->operands[o->operand].dtype != DTYPE_BF16)
    return value;
  bool rounded = n->kind == NODE_LOAD || (n->kind == NODE_MATH && n->op == OP_cast);
  return arena_print(p->arena, "%s(%s)", rounded ? "moec_bf16_bits" : "moec_to_bf16", value);
}
