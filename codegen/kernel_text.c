/* The parts of a statement of a row kernel's text: numbers, expressions, addresses, of which kernel_print.c makes
 * statements and loops; and what a kernel's text says of its first user. */
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

static bool is_number(const Printer *p, uint32_t node, double least) {
  const Node *n = print_node(p, node);
  return n->kind == NODE_CONST && (n->number >= least || n->number <= -least);
}

/* Whether every reader of the node, or of its square, adds a number near 1 to it: then how exact it is near 0 does not
 * show. So GELU and its gradient read their hyperbolic tangent. */
static bool is_added_to_one(const Printer *p, uint32_t node, bool squared) {
  const KernelBody *body = p->body;
  for (uint32_t i = 0; i < vec_len(body->outputs); i++)
    if (body->outputs[i].node == node)
      return false;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    const Node *user = &body->nodes[i];
    bool reads = user->row_node == node || user->column_node == node, alone = user->kind == NODE_MATH;
    for (int k = 0; k < user->input_count; k++) {
      reads |= user->input[k] == node;
      alone &= user->input[k] == node;
    }
    if (!reads)
      continue;
    bool sum = user->kind == NODE_MATH && (user->op == OP_add || user->op == OP_sub) &&
               (is_number(p, user->input[0], 0.5) || is_number(p, user->input[1], 0.5));
    bool square = user->op == OP_mul && alone && !squared && is_added_to_one(p, i, true);
    if (!sum && !square)
      return false;
  }
  return true;
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
  else if (n->op == OP_tanh && p->style != &kernel_style_cpu &&
           is_added_to_one(p, (uint32_t)(n - p->body->nodes), false))
    text = "moec_tanh_near_one($0)";
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

/* ---------------------------------------------------------------- comments for the reader */

const char *print_comment(Printer *p, uint32_t operand) {
  const BodyOperand *o = &p->body->operands[operand];
  if (!p->names || o->value == NO_VALUE)
    return "";
  const Value *v = &p->body->f->values[o->value];
  const char *sigil = v->kind == VALUE_PARAMETER ? "@" : "%";
  return arena_print(p->arena, " /* %s %s%s */", type_text(p->body->f, v->type), sigil,
                     v->kind == VALUE_PARAMETER ? v->parameter : v->name);
}

static void add_symbols(Arena *arena, SymbolId **symbols, Type type) {
  for (int d = 0; d < type.rank; d++)
    for (int i = 0; i < type.dim[d].symbol_count; i++) {
      bool known = false;
      for (uint32_t k = 0; k < vec_len(*symbols); k++)
        known |= (*symbols)[k] == type.dim[d].symbol[i];
      if (!known)
        vec_push(arena, *symbols, type.dim[d].symbol[i]);
    }
}

/* "N=512 D=64": what the types of the instructions mean. */
static const char *symbols_text(const Func *f, uint32_t first, uint32_t last) {
  const Module *m = f->module;
  SymbolId *symbols = NULL;
  const char *text = "";
  for (uint32_t i = first; i <= last; i++) {
    for (int k = 0; k < f->insts[i].output_count; k++)
      add_symbols(m->arena, &symbols, f->values[f->insts[i].output[k]].type);
    for (int k = 0; k < f->insts[i].input_count; k++)
      add_symbols(m->arena, &symbols, f->values[f->insts[i].input[k]].type);
  }
  for (uint32_t k = 0; k < vec_len(symbols); k++)
    text =
        arena_print(m->arena, "%s %s=%lld", text, m->symbols[symbols[k]].name, (long long)m->symbols[symbols[k]].value);
  return text;
}

static const char *value_text(const Func *f, ValueId v) {
  const Value *value = &f->values[v];
  bool parameter = value->kind == VALUE_PARAMETER;
  return arena_print(f->module->arena, "%s%s", parameter ? "@" : "%", parameter ? value->parameter : value->name);
}

void kernel_print_use(FILE *out, const Func *f, uint32_t first, uint32_t last) {
  const char *symbols = symbols_text(f, first, last);
  fprintf(out, "/* First used in @%s%s%s:\n", f->name, symbols[0] ? "," : "", symbols);
  for (uint32_t i = first; i <= last; i++) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; k < inst->output_count; k++)
      fprintf(out, "%s%s: %s", k ? ", " : " *   ", value_text(f, inst->output[k]),
              type_text(f, f->values[inst->output[k]].type));
    fprintf(out, " = %s", op_info[inst->op].name);
    for (int k = 0; k < inst->input_count; k++)
      fprintf(out, "%s%s", k ? ", " : " ", value_text(f, inst->input[k]));
    if (inst->loc.file)
      fprintf(out, "   # %s:%d", inst->loc.file, inst->loc.line);
    fputc('\n', out);
  }
  fputs(" */\n", out);
}
