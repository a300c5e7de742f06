/* Printing the body of a row kernel as C-like text: what the targets share.
 *
 * In: a body. Out: one function. The order of the text is the order of execution: for each level the row scalars, then
 * one loop over columns for each number of columns, then the nodes that fill whole rows. Stores stand at the end of a
 * loop's body, behind all its loads.
 */
#include "codegen/kernel_print.h"

#include <ctype.h>
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
      "and",      "asm",      "auto",     "bool",      "break",     "c",         "case",        "catch",    "char",
      "class",    "const",    "continue", "default",   "delete",    "do",        "double",      "else",     "enum",
      "explicit", "export",   "extern",   "false",     "float",     "for",       "friend",      "goto",     "if",
      "inline",   "int",      "k",        "lane",      "launch",    "live",      "long",        "mutable",  "namespace",
      "new",      "not",      "operator", "or",        "private",   "protected", "public",      "q",        "r",
      "register", "return",   "rows",     "seed",      "short",     "signed",    "sizeof",      "static",   "struct",
      "switch",   "template", "this",     "throw",     "true",      "try",       "typedef",     "typename", "union",
      "unsigned", "using",    "virtual",  "void",      "volatile",  "while",     "xor",         "j",        "block",
      "blocks",   "end",      "bound",    "team",      "constexpr", "nullptr",   "typeof",      "restrict", "row",
      "from",     "stride",   "total",    "threadIdx", "blockIdx",  "gridDim",   "blockDim",    "warpSize", "to",
      "i",        "c0",       "piece",    "given",     "group",     "of",        "first_of_row"};
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
    if (node_is_vector(n) && (n->kind == NODE_LOAD || p->plan->keep[i] == KEEP_OUTPUT))
      p->vector[i] = take_name(p, base, "_v");
    if ((n->kind == NODE_LOAD && node_is_vector(n)) || is_kept_row(p, i))
      p->row[i] = take_name(p, base, n->kind == NODE_LOAD && is_kept_row(p, i) ? "_buffer" : "_row");
  }
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++)
    p->out_vector[i] = take_name(p, operand_base(p, p->body->outputs[i].operand), "_out_v");
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) { /* rows kept or filled in the memory of an output */
    uint32_t node = p->body->outputs[i].node;
    if (p->plan->keep[node] == KEEP_OUTPUT && !p->row[node])
      p->row[node] = p->out_row[i];
  }
}

/* ---------------------------------------------------------------- statements */

/* A row scalar of the kernel's row or of a slot context; for a vector load, the pointer to its row. */
static void print_scalar(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const char *type = print_register_type(n->dtype);
  if (n->kind == NODE_LOAD && node_is_vector(n)) {
    if (n->operand == p->body->given_operand)
      return;
    const char *row = is_kept_row(p, i) ? arena_print(p->arena, "%s_in", p->row[i]) : p->row[i];
    print_line(p, "const %s *%s = %s%s;", print_c_type(n->dtype), row, p->operand[n->operand], print_load_offset(p, n));
    return;
  }
  switch (n->kind) {
  case NODE_LOAD: {
    const char *column =
        n->column_node == NO_NODE ? "" : arena_print(p->arena, " + %s", print_reference(p, n->column_node));
    const char *index = arena_print(p->arena, "%s%s", print_load_offset(p, n), column);
    index = index[0] ? index + 3 : "0";
    const char *element = arena_print(p->arena, "%s[%s]", p->operand[n->operand], index);
    print_line(p, "const %s %s = %s;", type, p->node[i], print_convert_load(p, n->dtype, element));
    return;
  }
  case NODE_MATH:
    print_line(p, "const %s %s = %s;", type, p->node[i], print_math(p, n));
    return;
  case NODE_UNIFORM:
    print_line(p, "const float %s = moec_uniform(*seed, (uint64_t)%s, 0, (uint32_t)%s, (uint32_t)%s);", p->node[i],
               print_reference(p, n->input[0]), p->operand[n->tag_operand], print_reference(p, n->input[1]));
    return;
  case NODE_EXPERT:
    if (p->words.expert) {
      print_line(p, "const int32_t %s = %s;", p->node[i], p->words.expert);
      return;
    }
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
    if (print_is_choice_of_row(p, print_node(p, i)) && print_node(p, i)->input[0] == scalar) {
      print_line(p, "const int32_t %s_mask = %s != 0.0f ? -1 : 0;", p->node[scalar], p->node[scalar]);
      return;
    }
}

/* Whether a loop of the level reads the node from where it is kept. */
static bool is_read_back(const Printer *p, uint32_t i, int level) {
  const Node *n = print_node(p, i);
  return !n->context && p->plan->keep[i] != KEEP_NOTHING && (p->plan->level[i] < level || node_is_whole(n));
}

/* The index of the loop's column in the row that a node is kept in. */
static const char *kept_index(const Printer *p, uint32_t i) {
  return p->plan->keep[i] == KEEP_BUFFER && !p->plan->shared[i] ? p->loop.element : "c";
}

/* The row in memory that a loop of the level loads the node's columns from, or NULL. */
static const char *loaded_row(Printer *p, uint32_t i, int level) {
  const Node *n = print_node(p, i);
  if (n->kind == NODE_LOAD)
    return is_kept_row(p, i) ? arena_print(p->arena, "%s_in", p->row[i]) : p->row[i];
  return is_read_back(p, i, level) && p->plan->keep[i] == KEEP_OUTPUT ? p->row[i] : NULL;
}

/* One column of a row in memory. */
static const char *loaded_element(Printer *p, uint32_t i, const char *row) {
  return p->loop.width > 1 ? arena_print(p->arena, "%s.at[i]", p->vector[i]) : arena_print(p->arena, "%s[c]", row);
}

/* Where the loop takes several columns at a time: their loads. `need`: by node. */
static void print_loads(Printer *p, const bool *need, int level) {
  if (p->loop.width == 1)
    return;
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    const char *row = need[i] && node_is_vector(print_node(p, i)) ? loaded_row(p, i, level) : NULL;
    if (row && print_node(p, i)->kind == NODE_LOAD && print_node(p, i)->operand == p->body->given_operand)
      print_line(p, "const auto %s = given;", p->vector[i]);
    else if (row && p->loop.stride == 1)
      print_line(p, "const auto %s = moec_load<%d>(%s + c0);", p->vector[i], p->loop.width, row);
    else if (row)
      print_line(p, "const auto %s = moec_load_strided<%d, %lld>(%s + c0, %lld - c0);", p->vector[i], p->loop.width,
                 (long long)p->loop.stride, row, (long long)p->loop.guard);
  }
}

void print_open_elements(Printer *p) {
  if (p->loop.width == 1)
    return;
  print_pragma(p, "#pragma unroll");
  print_line(p, "for (int i = 0; i < %d; i++) {", p->loop.width);
  p->indent++;
  print_line(p, "const int c = c0 + i%s;",
             p->loop.stride == 1 ? "" : arena_print(p->arena, " * %lld", (long long)p->loop.stride));
  if (p->loop.stride > 1) {
    print_line(p, "if (c < %lld) {", (long long)p->loop.guard);
    p->indent++;
  }
}

void print_close_elements(Printer *p) {
  if (p->loop.width == 1)
    return;
  for (int open = p->loop.stride > 1 ? 2 : 1; open > 0; open--) {
    p->indent--;
    print_line(p, "}");
  }
}

/* One element of a vector in a loop over columns of the given level. */
static void print_element(Printer *p, uint32_t i, int level) {
  const Node *n = print_node(p, i);
  const char *type = print_register_type(n->dtype);
  if (n->kind == NODE_CONST || n->kind == NODE_COLUMN)
    return;
  const char *row = loaded_row(p, i, level);
  if (row) {
    const char *element = loaded_element(p, i, row);
    print_line(p, "const %s %s = %s;", type, p->node[i],
               n->kind == NODE_LOAD ? print_convert_load(p, n->dtype, element) : element);
  } else if (is_read_back(p, i, level)) {
    print_line(p, "const %s %s = %s[%s];", type, p->node[i], p->row[i], kept_index(p, i));
  } else if (n->kind == NODE_UNIFORM) {
    print_line(p, "const float %s = moec_uniform(*seed, (uint64_t)%s * %llu, (uint32_t)c, (uint32_t)%s, (uint32_t)%s);",
               p->node[i], print_reference(p, n->input[0]), (unsigned long long)n->columns, p->operand[n->tag_operand],
               print_reference(p, n->input[1]));
  } else {
    print_line(p, "const %s %s = %s;", type, p->node[i], print_math(p, n));
  }
}

static void print_accumulate(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const char *x = print_reference(p, n->input[0]), *name = p->node[i];
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
      print_line(p, "%s += %s;", p->sum[i], print_reference(p, n->input[0]));
      continue;
    }
    const char *index = p->body->one_row ? "" : print_offset(p, "r", o->ld);
    print_line(p, "%s%s[%s] = %s;", p->words.one_thread, p->operand[o->operand], index[0] ? index + 3 : "0",
               print_convert_store(p, o));
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

/* Whether the loop over so many columns of the level stores the output. */
static bool is_stored(const Printer *p, uint32_t output, int level, int64_t columns) {
  const BodyOutput *o = &p->body->outputs[output];
  const Node *n = print_node(p, o->node);
  return n->columns == columns && p->plan->level[o->node] == level && n->kind != NODE_COLUMN_SUM &&
         p->plan->root[o->node];
}

/* Where the loop takes several columns at a time: what they are stored from. */
static void declare_stores(Printer *p, int level, int64_t columns) {
  for (uint32_t i = 0; p->loop.width > 1 && i < vec_len(p->body->outputs); i++)
    if (is_stored(p, i, level, columns))
      print_line(p, "moec_vector<%s, %d> %s;", print_c_type(p->body->operands[p->body->outputs[i].operand].dtype),
                 p->loop.width, p->out_vector[i]);
}

static void print_stores(Printer *p, int level, int64_t columns) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (print_node(p, i)->columns == columns && p->plan->level[i] == level && is_kept_row(p, i) &&
        !node_is_whole(print_node(p, i)))
      print_line(p, "%s[%s] = %s;", p->row[i], kept_index(p, i), print_reference(p, i));
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    const BodyOutput *o = &p->body->outputs[i];
    const Node *n = print_node(p, o->node);
    if (n->kind == NODE_COLUMN_SUM && n->columns == columns && p->plan->level[o->node] == level)
      print_line(p, "%s[%s] += %s;", p->sum[i], p->loop.sum, print_reference(p, n->input[0]));
    else if (is_stored(p, i, level, columns) && p->loop.width > 1)
      print_line(p, "%s.at[i] = %s;", p->out_vector[i], print_convert_store(p, o));
    else if (is_stored(p, i, level, columns))
      print_line(p, "%s[c] = %s;", p->out_row[i], print_convert_store(p, o));
  }
}

static void print_vector_stores(Printer *p, int level, int64_t columns) {
  for (uint32_t i = 0; p->loop.width > 1 && i < vec_len(p->body->outputs); i++) {
    if (!is_stored(p, i, level, columns))
      continue;
    if (p->loop.stride == 1)
      print_line(p, "moec_store(%s + c0, %s);", p->out_row[i], p->out_vector[i]);
    else
      print_line(p, "moec_store_strided<%lld>(%s + c0, %s, %lld - c0);", (long long)p->loop.stride, p->out_row[i],
                 p->out_vector[i], (long long)p->loop.guard);
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
                                              : print_number(p, DTYPE_I32, (double)columns);
    print_line(p, "%s %s = %s;", print_register_type(n->dtype), p->node[*i], start);
  }
  p->style->open_columns(p, columns, reductions);
  for (bool again = true; again;) {
    print_loads(p, need, level);
    declare_stores(p, level, columns);
    print_open_elements(p);
    for (uint32_t i = first; i < count; i++)
      if (need[i])
        print_element(p, i, level);
    print_stores(p, level, columns);
    for (const uint32_t *i = reductions; *i != NO_NODE; i++)
      print_accumulate(p, *i);
    print_close_elements(p);
    print_vector_stores(p, level, columns);
    again = p->loop.rest > 0;
    if (again)
      p->style->open_rest(p, columns);
  }
  p->style->close_columns(p, columns, reductions);
  if (stores_shared(p, level, columns))
    p->style->wait(p);
}

/* ---------------------------------------------------------------- whole rows */

static const uint32_t no_reductions[] = {NO_NODE};

static void print_zero_row(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  if (!node_is_vector(n)) {
    print_line(p, "%s%s[0] = 0.0f;", p->words.one_thread, p->row[i]);
    return;
  }
  p->style->open_columns(p, n->columns, no_reductions);
  print_open_elements(p);
  print_line(p, "%s[%s] = 0.0f;", p->row[i], kept_index(p, i));
  print_close_elements(p);
  p->style->close_columns(p, n->columns, no_reductions);
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
  const char *row = p->body->one_row ? "" : print_offset(p, "r", n->ld);
  print_line(p, "const int64_t q = %s[%s%sj]; /* a packed row of this token */", p->operand[n->operand],
             row[0] ? row + 3 : "", row[0] ? " + " : "");
  print_line(p, "if (q < 0)");
  print_line(p, "  break;");
  print_context_scalars(p, i);
  if (vector) {
    uint32_t count = vec_len(p->body->nodes);
    bool *need = arena_alloc(p->arena, count * sizeof *need);
    for (uint32_t k = i + 1; k < count; k++)
      need[k] = print_node(p, k)->context == i + 1 && node_is_vector(print_node(p, k));
    p->style->open_columns(p, n->columns, no_reductions);
    print_loads(p, need, 0);
    print_open_elements(p);
    for (uint32_t k = i + 1; k < count; k++)
      if (need[k])
        print_element(p, k, 0);
    print_line(p, "%s[%s] += %s;", p->row[i], kept_index(p, i), print_reference(p, n->input[0]));
    print_close_elements(p);
    p->style->close_columns(p, n->columns, no_reductions);
  } else if (n->kind == NODE_COMBINE) {
    print_line(p, "%s%s[0] += %s;", p->words.one_thread, p->row[i], print_reference(p, n->input[0]));
  } else {
    print_line(p, "%s%s[%s] = %s;", p->words.one_thread, p->row[i], print_reference(p, n->input[1]),
               print_reference(p, n->input[0]));
  }
  close_block(p);
}

static void print_rows_sum(Printer *p, uint32_t i) {
  const Node *n = print_node(p, i);
  const char *first = print_row_index(p, n->address, "r"), *type = print_c_type(p->body->operands[n->operand].dtype);
  print_zero_row(p, i);
  open_block(p, arena_print(p->arena, "for (int64_t j = 0; j < %lld; j++)", (long long)n->count));
  const char *step = n->stride == 1 ? "j" : arena_print(p->arena, "j * %lld", (long long)n->stride);
  const char *index = p->body->one_row ? step : arena_print(p->arena, "%s + %s", first, step);
  print_line(p, "const %s *row = %s + (%s) * %lld;", type, p->operand[n->operand], index, (long long)n->ld);
  DType dtype = p->body->operands[n->operand].dtype;
  if (!node_is_vector(n)) {
    print_line(p, "%s%s[0] += %s;", p->words.one_thread, p->row[i], print_convert_load(p, dtype, "row[0]"));
    close_block(p);
    return;
  }
  p->style->open_columns(p, n->columns, no_reductions);
  if (p->loop.width > 1 && p->loop.stride == 1)
    print_line(p, "const auto row_v = moec_load<%d>(row + c0);", p->loop.width);
  print_open_elements(p);
  print_line(p, "%s[%s] += %s;", p->row[i], kept_index(p, i),
             print_convert_load(p, dtype, p->loop.width > 1 && p->loop.stride == 1 ? "row_v.at[i]" : "row[c]"));
  print_close_elements(p);
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
    print_line(p, "moec_topk_mask%s(%s, %lld, %lld, %s%s);", s->call_template(p, i), p->row[n->input[0]],
               (long long)n->columns, (long long)n->count, p->row[i], p->words.call_arguments);
    break;
  case NODE_PRODUCT:
    print_line(p, "moec_%s%s%s(%s, %s, %lld, %lld, %lld, %s%s);", n->transposed ? "matvec" : "vecmat",
               p->body->operands[n->operand].dtype == DTYPE_BF16 ? "_bf16" : "", s->call_template(p, i),
               p->row[n->input[0]], p->operand[n->operand], (long long)n->ld, (long long)n->columns,
               (long long)n->count, p->row[i], p->words.call_arguments);
    break;
  default:
    ir_bug("node kind %d fills no row", (int)n->kind);
  }
  if (p->plan->shared[i])
    s->wait(p);
}

/* ---------------------------------------------------------------- the function */

bool body_reduces(const KernelBody *body) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (body->nodes[i].kind == NODE_REDUCE || node_is_whole(&body->nodes[i]))
      return true;
  return false;
}

bool output_is_column_sum(const KernelBody *body, uint32_t output) {
  return body->outputs[output].scratch != NO_OPERAND;
}

int64_t output_columns(const KernelBody *body, uint32_t output) {
  return body->nodes[body->outputs[output].node].columns;
}

bool operand_is_finished(const KernelBody *body, uint32_t operand) {
  for (uint32_t i = 0; i < vec_len(body->outputs); i++)
    if (output_is_column_sum(body, i) && (body->outputs[i].operand == operand || body->outputs[i].scratch == operand))
      return true;
  return false;
}

bool operand_is_launched(const KernelBody *body, uint32_t operand) {
  return body->operands[operand].role != OPERAND_OUTPUT || !operand_is_finished(body, operand);
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
  p->vector = arena_alloc(arena, (nodes + 1) * sizeof *p->vector);
  p->out_vector = arena_alloc(arena, (outputs + 1) * sizeof *p->out_vector);
  name_operands(p);
  name_nodes(p);
  if (names)
    kernel_print_use(p->out, body->f, body->first, body->last);
  style->open(p);
  for (uint32_t i = 0; i < outputs; i++) {
    const BodyOutput *o = &body->outputs[i];
    if (o->scratch == NO_OPERAND && node_is_vector(print_node(p, o->node)))
      print_line(p, "%s *%s = %s%s;", print_c_type(body->operands[o->operand].dtype), p->out_row[i],
                 p->operand[o->operand], body->one_row ? "" : print_offset(p, "r", o->ld));
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
