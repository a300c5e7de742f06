/* Printing the body of a row kernel as C-like text: what the targets share.
 *
 * In: a body. Out: one function. The order of the text is the order of execution: for each level the row scalars, then
 * one loop over columns for each number of columns, then the nodes that fill whole rows. Stores stand at the end of a
 * loop's body, behind all its loads.
 */
#include "codegen/kernel_print.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- lines */

void print_line(Printer *p, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(p->out, "%*s", 2 * p->indent, "");
  vfprintf(p->out, format, arguments);
  fputc('\n', p->out);
  va_end(arguments);
}

void print_pragma(Printer *p, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(p->out, format, arguments);
  fputc('\n', p->out);
  va_end(arguments);
}

const char *print_c_type(DType stored) {
  static const char *const text[DTYPE_COUNT] = {"float", "uint16_t", "int32_t"};
  return text[stored];
}

const char *print_register_type(DType computed) {
  return computed == DTYPE_I32 ? "int32_t" : "float";
}

const Node *print_node(const Printer *p, uint32_t i) {
  return &p->body->nodes[i];
}

/* ---------------------------------------------------------------- names */

static bool is_taken(const Printer *p, const char *name) {
  static const char *const words[] = {
      "and",      "asm",      "auto",     "bool",      "break",     "c",         "case",     "catch",    "char",
      "class",    "const",    "continue", "default",   "delete",    "do",        "double",   "else",     "enum",
      "explicit", "export",   "extern",   "false",     "float",     "for",       "friend",   "goto",     "if",
      "inline",   "int",      "k",        "lane",      "launch",    "live",      "long",     "mutable",  "namespace",
      "new",      "not",      "operator", "or",        "private",   "protected", "public",   "q",        "r",
      "register", "return",   "rows",     "seed",      "short",     "signed",    "sizeof",   "static",   "struct",
      "switch",   "template", "this",     "throw",     "true",      "try",       "typedef",  "typename", "union",
      "unsigned", "using",    "virtual",  "void",      "volatile",  "while",     "xor",      "j",        "block",
      "blocks",   "end",      "bound",    "team",      "constexpr", "nullptr",   "typeof",   "restrict", "row",
      "from",     "stride",   "total",    "threadIdx", "blockIdx",  "gridDim",   "blockDim", "warpSize", "to"};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    if (strcmp(words[i], name) == 0)
      return true;
  for (uint32_t i = 0; i < vec_len(p->used); i++)
    if (strcmp(p->used[i], name) == 0)
      return true;
  return false;
}

/* A free C identifier like `base` + `suffix`. */
static const char *take_name(Printer *p, const char *base, const char *suffix) {
  char *name = arena_print(p->arena, "%s%s%s", isdigit((unsigned char)base[0]) ? "_" : "", base, suffix);
  for (char *at = name; *at; at++)
    if (!isalnum((unsigned char)*at) && *at != '_')
      *at = '_';
  const char *free_name = name;
  for (int i = 2; is_taken(p, free_name); i++)
    free_name = arena_print(p->arena, "%s_%d", name, i);
  vec_push(p->arena, p->used, free_name);
  return free_name;
}

static const char *operand_base(Printer *p, uint32_t i) {
  const BodyOperand *o = &p->body->operands[i];
  if (p->names && o->value != NO_VALUE)
    return p->body->f->values[o->value].name;
  return arena_print(p->arena, "p%u", i);
}

static const char *node_base(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  if (p->names && n->value != NO_VALUE)
    return p->body->f->values[n->value].name;
  if (p->names && (n->kind == NODE_MATH || n->kind == NODE_REDUCE))
    return arena_print(p->arena, "%s_%u", op_info[n->op].name, i);
  if (p->names && n->kind == NODE_EXPERT)
    return "expert";
  return arena_print(p->arena, "v%u", i);
}

static void name_operands(Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->operands); i++) {
    const BodyOperand *o = &p->body->operands[i];
    if (o->seed)
      p->operand[i] = "seed";
    else if (o->role == OPERAND_INPUT)
      p->operand[i] = take_name(p, operand_base(p, i), "");
    else if (o->role == OPERAND_TAG)
      p->operand[i] = take_name(p, operand_base(p, i), "_tag");
  }
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    const BodyOutput *o = &p->body->outputs[i];
    const char *base = operand_base(p, o->operand);
    p->operand[o->operand] = take_name(p, base, "_out");
    if (o->scratch != NO_OPERAND) {
      p->operand[o->scratch] = take_name(p, base, "_partial");
      p->sum[i] = take_name(p, base, "_sum");
    } else {
      p->out_row[i] = take_name(p, base, "_out_row");
    }
  }
}

static bool is_kept_row(const Printer *p, uint32_t i) {
  return p->plan->keep[i] == KEEP_BUFFER;
}

static void name_nodes(Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    const Node *n = print_node(p, i);
    if (n->kind == NODE_CONST || n->kind == NODE_ROW || n->kind == NODE_COLUMN || n->kind == NODE_COLUMN_SUM)
      continue;
    const char *base = n->kind == NODE_LOAD ? operand_base(p, n->operand) : node_base(p, i);
    const char *suffix = n->kind != NODE_LOAD ? "" : node_is_vector(n) ? "_c" : "_r";
    p->node[i] = take_name(p, base, suffix);
    if ((n->kind == NODE_LOAD && node_is_vector(n)) || is_kept_row(p, i))
      p->row[i] = take_name(p, base, n->kind == NODE_LOAD && is_kept_row(p, i) ? "_buffer" : "_row");
  }
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) { /* rows kept or filled in the memory of an output */
    uint32_t node = p->body->outputs[i].node;
    if (p->plan->keep[node] == KEEP_OUTPUT && !p->row[node])
      p->row[node] = p->out_row[i];
  }
}

const char *print_comment(Printer *p, uint32_t operand) {
  const BodyOperand *o = &p->body->operands[operand];
  if (!p->names || o->value == NO_VALUE)
    return "";
  const Value *v = &p->body->f->values[o->value];
  const char *sigil = v->kind == VALUE_PARAMETER ? "@" : "%";
  return arena_print(p->arena, " /* %s %s%s */", type_text(p->body->f, v->type), sigil,
                     v->kind == VALUE_PARAMETER ? v->parameter : v->name);
}

/* ---------------------------------------------------------------- expressions */

static const char *number_text(Printer *p, DType dtype, double number) {
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
static const char *reference(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  switch (n->kind) {
  case NODE_CONST:
    return number_text(p, n->dtype, n->number);
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
static bool is_choice_of_row(const Printer *p, const Node *n) {
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
  else if (is_choice_of_row(p, n))
    text = "moec_choose($0_mask, $1, $2)";
  else if (n->op == OP_div && n->dtype == DTYPE_I32)
    text = "moec_floor_div($0, $1)";
  else if (n->op == OP_abs && n->dtype == DTYPE_I32)
    text = "$0 < 0 ? -$0 : $0";
  if (!text)
    ir_bug("no text for op %s in a row kernel", op_info[n->op].name);
  return text;
}

static const char *math_expression(Printer *p, const Node *n) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  for (const char *at = math_format(p, n); *at; at++)
    if (*at == '$')
      fputs(reference(p, n->input[*++at - '0']), out);
    else
      fputc(*at, out);
  fclose(out);
  char *copy = arena_copy(p->arena, text, size);
  free(text);
  return copy;
}

/* ---------------------------------------------------------------- addresses */

/* "r", "(r / 8)", "(r % 8)", "(r / 8 % 4 * 2 + r % 2)"; NULL when it is 0. */
static const char *row_index(Printer *p, RowAddress a, const char *row) {
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

/* "(index * ld)" as " + index * ld", or nothing when it is 0. */
static const char *offset_text(Printer *p, const char *index, int64_t ld) {
  if (!index || ld == 0)
    return "";
  if (ld == 1)
    return arena_print(p->arena, " + %s", index);
  return arena_print(p->arena, " + %s * %lld", index, (long long)ld);
}

static const char *load_row_offset(Printer *p, const Node *n) {
  if (n->row_node != NO_NODE)
    return offset_text(p, arena_print(p->arena, "(int64_t)%s", reference(p, n->row_node)), n->ld);
  return offset_text(p, row_index(p, n->address, n->context ? "q" : "r"), n->ld);
}

static const char *convert_load(Printer *p, DType dtype, const char *element) {
  return dtype == DTYPE_BF16 ? arena_print(p->arena, "moec_from_bf16(%s)", element) : element;
}

/* What is stored of an output's node. What was cast to bf16, or loaded as such, is not rounded again. */
static const char *convert_store(Printer *p, const BodyOutput *o) {
  const Node *n = print_node(p, o->node);
  const char *value = reference(p, o->node);
  if (p->body->operands[o->operand].dtype != DTYPE_BF16)
    return value;
  bool rounded = n->kind == NODE_LOAD || (n->kind == NODE_MATH && n->op == OP_cast);
  return arena_print(p->arena, "%s(%s)", rounded ? "moec_bf16_bits" : "moec_to_bf16", value);
}

/* ---------------------------------------------------------------- statements */

/* A row scalar of the kernel's row or of a slot context; for a vector load, the pointer to its row. */
static void print_scalar(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const char *type = print_register_type(n->dtype);
  if (n->kind == NODE_LOAD && node_is_vector(n)) {
    const char *row = is_kept_row(p, i) ? arena_print(p->arena, "%s_in", p->row[i]) : p->row[i];
    print_line(p, "const %s *%s = %s%s;", print_c_type(n->dtype), row, p->operand[n->operand], load_row_offset(p, n));
    return;
  }
  switch (n->kind) {
  case NODE_LOAD: {
    const char *column = n->column_node == NO_NODE ? "" : arena_print(p->arena, " + %s", reference(p, n->column_node));
    const char *index = arena_print(p->arena, "%s%s", load_row_offset(p, n), column);
    index = index[0] ? index + 3 : "0";
    const char *element = arena_print(p->arena, "%s[%s]", p->operand[n->operand], index);
    print_line(p, "const %s %s = %s;", type, p->node[i], convert_load(p, n->dtype, element));
    return;
  }
  case NODE_MATH:
    print_line(p, "const %s %s = %s;", type, p->node[i], math_expression(p, n));
    return;
  case NODE_UNIFORM:
    print_line(p, "const float %s = moec_uniform(*seed, (uint64_t)%s, 0, (uint32_t)%s, (uint32_t)%s);", p->node[i],
               reference(p, n->input[0]), p->operand[n->tag_operand], reference(p, n->input[1]));
    return;
  case NODE_EXPERT:
    print_line(p, "const int32_t %s = moec_expert_of_row(%s, %lld, %s);", p->node[i], p->operand[n->operand],
               (long long)n->count,
               n->context         ? "q"
               : p->body->one_row ? "0"
                                  : "r");
    return;
  default:
    if (node_is_whole(n))
      print_line(p, "const %s %s = %s[0];", type, p->node[i], p->row[i]);
  }
}

/* The mask of a row scalar that vectors are selected by. */
static void print_mask(Printer *p, uint32_t scalar) {
  for (uint32_t i = scalar + 1; i < vec_len(p->body->nodes); i++)
    if (is_choice_of_row(p, print_node(p, i)) && print_node(p, i)->input[0] == scalar) {
      print_line(p, "const int32_t %s_mask = %s != 0.0f ? -1 : 0;", p->node[scalar], p->node[scalar]);
      return;
    }
}

/* One element of a vector in a loop over columns of the given level. */
static void print_element(Printer *p, uint32_t i, int level) {
  const Node *n = print_node(p, i);
  const char *type = print_register_type(n->dtype);
  if (n->kind == NODE_CONST || n->kind == NODE_COLUMN)
    return;
  if (n->kind == NODE_LOAD) {
    const char *row = is_kept_row(p, i) ? arena_print(p->arena, "%s_in", p->row[i]) : p->row[i];
    print_line(p, "const %s %s = %s;", type, p->node[i],
               convert_load(p, n->dtype, arena_print(p->arena, "%s[c]", row)));
    return;
  }
  bool kept = !n->context && p->plan->keep[i] != KEEP_NOTHING && (p->plan->level[i] < level || node_is_whole(n));
  if (kept) {
    bool own = p->plan->keep[i] == KEEP_BUFFER && !p->plan->shared[i];
    print_line(p, "const %s %s = %s[%s];", type, p->node[i], p->row[i], own ? p->words.buffer_element : "c");
  } else if (n->kind == NODE_UNIFORM) {
    print_line(p, "const float %s = moec_uniform(*seed, (uint64_t)%s * %llu, (uint32_t)c, (uint32_t)%s, (uint32_t)%s);",
               p->node[i], reference(p, n->input[0]), (unsigned long long)n->columns, p->operand[n->tag_operand],
               reference(p, n->input[1]));
  } else {
    print_line(p, "const %s %s = %s;", type, p->node[i], math_expression(p, n));
  }
}

static void print_accumulate(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const char *x = reference(p, n->input[0]), *name = p->node[i];
  if (n->op == OP_sum)
    print_line(p, "%s += %s;", name, x);
  else
    print_line(p, "%s = %s %c %s ? %s : %s;", name, x, n->op == OP_maximum ? '>' : '<', name, x, name);
}

/* ---------------------------------------------------------------- levels */

static void print_scalars(Printer *p, int level) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    const Node *n = print_node(p, i);
    bool pointer = n->kind == NODE_LOAD && node_is_vector(n);
    if (!n->context && p->plan->level[i] == level && (pointer || !node_is_vector(n))) {
      print_scalar(p, i);
      print_mask(p, i);
    }
  }
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    const BodyOutput *o = &p->body->outputs[i];
    const Node *n = print_node(p, o->node);
    if (node_is_vector(n) || p->plan->level[o->node] != level)
      continue;
    if (n->kind == NODE_COLUMN_SUM) {
      print_line(p, "%s += %s;", p->sum[i], reference(p, n->input[0]));
      continue;
    }
    const char *index = p->body->one_row ? "" : offset_text(p, "r", o->ld);
    print_line(p, "%s%s[%s] = %s;", p->words.one_thread, p->operand[o->operand], index[0] ? index + 3 : "0",
               convert_store(p, o));
  }
}

/* What the loop of a level adds to: reductions of its vectors, ended by NO_NODE. */
static const uint32_t *loop_reductions(Printer *p, int level, int64_t columns) {
  uint32_t *reductions = NULL;
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    const Node *n = print_node(p, i);
    if (n->kind == NODE_REDUCE && schedule_making_level(p->body, p->plan, i) == level &&
        print_node(p, n->input[0])->columns == columns)
      vec_push(p->arena, reductions, i);
  }
  vec_push(p->arena, reductions, NO_NODE);
  return reductions;
}

static void print_stores(Printer *p, int level, int64_t columns) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (print_node(p, i)->columns == columns && p->plan->level[i] == level && is_kept_row(p, i) &&
        !node_is_whole(print_node(p, i)))
      print_line(p, "%s[%s] = %s;", p->row[i], p->plan->shared[i] ? "c" : p->words.buffer_element, reference(p, i));
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    const BodyOutput *o = &p->body->outputs[i];
    const Node *n = print_node(p, o->node);
    if (n->columns != columns || p->plan->level[o->node] != level)
      continue;
    if (n->kind == NODE_COLUMN_SUM)
      print_line(p, "%s[c] += %s;", p->sum[i], reference(p, n->input[0]));
    else if (p->plan->root[o->node])
      print_line(p, "%s[c] = %s;", p->out_row[i], convert_store(p, o));
  }
}

static bool stores_shared(const Printer *p, int level, int64_t columns) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (print_node(p, i)->columns == columns && p->plan->level[i] == level && p->plan->shared[i] &&
        !node_is_whole(print_node(p, i)))
      return true;
  return false;
}

static void print_loop(Printer *p, int level, int64_t columns) {
  const bool *need = schedule_loop_nodes(p->arena, p->body, p->plan, level, columns);
  uint32_t count = vec_len(p->body->nodes), first = 0;
  while (first < count && !need[first])
    first++;
  if (first == count)
    return;
  const uint32_t *reductions = loop_reductions(p, level, columns);
  for (const uint32_t *i = reductions; *i != NO_NODE; i++) {
    const Node *n = print_node(p, *i);
    const char *start = n->op == OP_sum       ? "0"
                        : n->op == OP_maximum ? "-MOEC_INFINITY"
                                              : number_text(p, DTYPE_I32, (double)columns);
    print_line(p, "%s %s = %s;", print_register_type(n->dtype), p->node[*i], start);
  }
  p->style->open_columns(p, columns, reductions);
  for (uint32_t i = first; i < count; i++)
    if (need[i])
      print_element(p, i, level);
  print_stores(p, level, columns);
  for (const uint32_t *i = reductions; *i != NO_NODE; i++)
    print_accumulate(p, *i);
  p->style->close_columns(p, columns, reductions);
  if (stores_shared(p, level, columns))
    p->style->wait(p);
}

/* ---------------------------------------------------------------- whole rows */

static const uint32_t no_reductions[] = {NO_NODE};

static void print_zero_row(Printer *p, uint32_t i) {
  if (node_is_vector(print_node(p, i)))
    p->style->open_columns(p, print_node(p, i)->columns, no_reductions);
  print_line(p, "%s%s[%s] = 0.0f;", node_is_vector(print_node(p, i)) ? "" : p->words.one_thread, p->row[i],
             node_is_vector(print_node(p, i)) ? "c" : "0");
  if (node_is_vector(print_node(p, i)))
    p->style->close_columns(p, print_node(p, i)->columns, no_reductions);
}

static void open_block(Printer *p, const char *head) {
  print_line(p, "%s {", head);
  p->indent++;
}

static void close_block(Printer *p) {
  p->indent--;
  print_line(p, "}");
}

/* Scalars and row pointers of a combine's or unpack's context. */
static void print_context_scalars(Printer *p, uint32_t slots) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    const Node *n = print_node(p, i);
    if (n->context == slots + 1 && (!node_is_vector(n) || n->kind == NODE_LOAD)) {
      print_scalar(p, i);
      print_mask(p, i);
    }
  }
}

static void print_slots(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  bool vector = n->kind == NODE_COMBINE && node_is_vector(n);
  print_zero_row(p, i);
  if (n->kind == NODE_UNPACK)
    p->style->wait(p);
  open_block(p, arena_print(p->arena, "for (int j = 0; j < %lld; j++)", (long long)n->count));
  const char *row = p->body->one_row ? "" : offset_text(p, "r", n->ld);
  print_line(p, "const int64_t q = %s[%s%sj]; /* a packed row of this token */", p->operand[n->operand],
             row[0] ? row + 3 : "", row[0] ? " + " : "");
  print_line(p, "if (q < 0)");
  print_line(p, "  break;");
  print_context_scalars(p, i);
  if (vector) {
    p->style->open_columns(p, n->columns, no_reductions);
    for (uint32_t k = i + 1; k < vec_len(p->body->nodes); k++)
      if (print_node(p, k)->context == i + 1 && node_is_vector(print_node(p, k)))
        print_element(p, k, 0);
    print_line(p, "%s[c] += %s;", p->row[i], reference(p, n->input[0]));
    p->style->close_columns(p, n->columns, no_reductions);
  } else if (n->kind == NODE_COMBINE) {
    print_line(p, "%s%s[0] += %s;", p->words.one_thread, p->row[i], reference(p, n->input[0]));
  } else {
    print_line(p, "%s%s[%s] = %s;", p->words.one_thread, p->row[i], reference(p, n->input[1]),
               reference(p, n->input[0]));
  }
  close_block(p);
}

static void print_rows_sum(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const char *first = row_index(p, n->address, "r"), *type = print_c_type(p->body->operands[n->operand].dtype);
  print_zero_row(p, i);
  open_block(p, arena_print(p->arena, "for (int64_t j = 0; j < %lld; j++)", (long long)n->count));
  const char *step = n->stride == 1 ? "j" : arena_print(p->arena, "j * %lld", (long long)n->stride);
  const char *index = p->body->one_row ? step : arena_print(p->arena, "%s + %s", first, step);
  print_line(p, "const %s *row = %s + (%s) * %lld;", type, p->operand[n->operand], index, (long long)n->ld);
  bool vector = node_is_vector(n);
  if (vector)
    p->style->open_columns(p, n->columns, no_reductions);
  print_line(p, "%s%s[%s] += %s;", vector ? "" : p->words.one_thread, p->row[i], vector ? "c" : "0",
             convert_load(p, p->body->operands[n->operand].dtype, vector ? "row[c]" : "row[0]"));
  if (vector)
    p->style->close_columns(p, n->columns, no_reductions);
  close_block(p);
}

static void print_whole(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const CStyle *s = p->style;
  switch (n->kind) {
  case NODE_COMBINE:
  case NODE_UNPACK:
    print_slots(p, i);
    break;
  case NODE_ROWS_SUM:
    print_rows_sum(p, i);
    break;
  case NODE_TOPK:
    print_line(p, "moec_topk_mask%s(%s, %lld, %lld, %s%s);", p->words.call_template, p->row[n->input[0]],
               (long long)n->columns, (long long)n->count, p->row[i], p->words.call_arguments);
    break;
  case NODE_PRODUCT:
    print_line(p, "moec_%s%s%s(%s, %s, %lld, %lld, %lld, %s%s);", n->transposed ? "matvec" : "vecmat",
               p->body->operands[n->operand].dtype == DTYPE_BF16 ? "_bf16" : "", p->words.call_template,
               p->row[n->input[0]], p->operand[n->operand], (long long)n->ld, (long long)n->columns,
               (long long)n->count, p->row[i], p->words.call_arguments);
    break;
  default:
    ir_bug("node kind %d fills no row", (int)n->kind);
  }
  s->wait(p);
}

/* ---------------------------------------------------------------- the function */

static void print_head(Printer *p) {
  if (!p->names)
    return;
  const Func *f = p->body->f;
  print_line(p, "/* First used in @%s:", f->name);
  for (uint32_t i = p->body->first; i <= p->body->last; i++) {
    const Inst *inst = &f->insts[i];
    const Value *v = &f->values[inst->output[0]];
    fprintf(p->out, " *   %%%s: %s = %s", v->name, type_text(f, v->type), op_info[inst->op].name);
    for (int k = 0; k < inst->input_count; k++) {
      const Value *x = &f->values[inst->input[k]];
      fprintf(p->out, "%s%s%s", k ? ", " : " ", x->kind == VALUE_PARAMETER ? "@" : "%",
              x->kind == VALUE_PARAMETER ? x->parameter : x->name);
    }
    if (inst->loc.file)
      fprintf(p->out, "   # %s:%d", inst->loc.file, inst->loc.line);
    fputc('\n', p->out);
  }
  print_line(p, " */");
}

bool body_reduces(const KernelBody *body) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (body->nodes[i].kind == NODE_REDUCE || node_is_whole(&body->nodes[i]))
      return true;
  return false;
}

bool body_is_scalar(const KernelBody *body) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (node_is_vector(&body->nodes[i]) || node_is_whole(&body->nodes[i]))
      return false;
  return true;
}

bool output_is_column_sum(const KernelBody *body, uint32_t output) {
  return body->outputs[output].scratch != NO_OPERAND;
}

int64_t output_columns(const KernelBody *body, uint32_t output) {
  return body->nodes[body->outputs[output].node].columns;
}

int64_t body_row_cost(const KernelBody *body) {
  int64_t cost = 0;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    const Node *n = &body->nodes[i];
    bool repeats = n->kind == NODE_COMBINE || n->kind == NODE_ROWS_SUM || n->kind == NODE_PRODUCT;
    bool dear = n->kind == NODE_UNIFORM || (n->kind == NODE_MATH && n->op >= OP_exp && n->op <= OP_sin);
    cost += n->columns * (repeats ? n->count : dear ? 8 : 1);
  }
  return cost;
}

char *kernel_print(Arena *arena, const CStyle *style, const KernelBody *body, const char *name, bool names) {
  char *text = NULL;
  size_t size = 0;
  uint32_t nodes = vec_len(body->nodes), outputs = vec_len(body->outputs);
  Printer printer = {.arena = arena, .style = style, .body = body, .name = name, .names = names}, *p = &printer;
  p->out = open_memstream(&text, &size);
  p->words = style->words(arena, body);
  p->plan = kernel_schedule(arena, body, style->buffer_limit(body));
  p->operand = arena_alloc(arena, (vec_len(body->operands) + 1) * sizeof *p->operand);
  p->node = arena_alloc(arena, (nodes + 1) * sizeof *p->node);
  p->row = arena_alloc(arena, (nodes + 1) * sizeof *p->row);
  p->out_row = arena_alloc(arena, (outputs + 1) * sizeof *p->out_row);
  p->sum = arena_alloc(arena, (outputs + 1) * sizeof *p->sum);
  name_operands(p);
  name_nodes(p);
  print_head(p);
  style->open(p);
  for (uint32_t i = 0; i < outputs; i++) {
    const BodyOutput *o = &body->outputs[i];
    if (o->scratch == NO_OPERAND && node_is_vector(print_node(p, o->node)))
      print_line(p, "%s *%s = %s%s;", print_c_type(body->operands[o->operand].dtype), p->out_row[i],
                 p->operand[o->operand], body->one_row ? "" : offset_text(p, "r", o->ld));
  }
  for (int level = 0; level < p->plan->levels; level++) {
    print_scalars(p, level);
    for (uint32_t k = 0; k < vec_len(p->plan->columns); k++)
      print_loop(p, level, p->plan->columns[k]);
    for (uint32_t i = 0; i < nodes; i++)
      if (node_is_whole(print_node(p, i)) && schedule_making_level(body, p->plan, i) == level)
        print_whole(p, i);
  }
  style->close(p);
  fclose(p->out);
  char *copy = arena_copy(arena, text, size);
  free(text);
  return copy;
}
