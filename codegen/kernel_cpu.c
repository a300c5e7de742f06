/* The CPU target: C with OpenMP over rows and simd over columns.
 *
 * Sums over rows go over blocks whose number depends on the static bound alone: each block adds its rows in order to a
 * partial sum of its own, then the partial sums are added in order. So results do not depend on the number of threads.
 * Pointers are not `restrict`: an output may stand in the place of an input (KernelOperand.in_place), and the simd
 * pragmas state what the compiler needs.
 */
#include "codegen/kernel_print.h"

enum {
  SERIAL_WORK = 16384,     /* operations below which threads cost more than they bring */
  STACK_BYTES = 128 << 10, /* of row buffers; larger ones are thread-local memory */
  FINISH_COLUMNS = 512     /* columns of a partial sum that one thread adds up at a time */
};

static int64_t cpu_buffer_limit(const KernelBody *body) {
  (void)body;
  return NO_BUFFER_LIMIT;
}

static CWords cpu_words(Arena *arena, const KernelBody *body) {
  (void)arena;
  (void)body;
  return (CWords){.one_thread = "", .call_arguments = "", .wide = ""};
}

static const char *cpu_call_template(Printer *p, uint32_t node) {
  (void)p;
  (void)node;
  return "";
}

static void declare_operands(Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->operands); i++) {
    const BodyOperand *o = &p->body->operands[i];
    if (o->role == OPERAND_TAG) {
      print_line(p, "const uint64_t %s = (uint64_t)launch->pointer[%u];", p->operand[i], i);
      continue;
    }
    const char *type = o->seed ? "uint64_t" : print_c_type(o->dtype);
    print_line(p, "%s%s *%s = launch->pointer[%u];%s", o->role == OPERAND_INPUT ? "const " : "", type, p->operand[i], i,
               print_comment(p, i));
  }
}

static void declare_buffers(Printer *p) {
  int64_t bytes = 0;
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (p->plan->keep[i] == KEEP_BUFFER)
      bytes += print_node(p, i)->columns * (int64_t)sizeof(float);
  const char *where = bytes > STACK_BYTES ? "static _Thread_local " : "";
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (p->plan->keep[i] == KEEP_BUFFER)
      print_line(p, "%s%s %s[%lld];", where, print_register_type(print_node(p, i)->dtype), p->row[i],
                 (long long)print_node(p, i)->columns);
}

/* " if (rows > n)" where a row has so little work that few rows are faster on one thread. */
static const char *parallel_condition(Printer *p, const char *modifier) {
  int64_t rows = SERIAL_WORK / body_row_cost(p->body);
  return rows ? arena_print(p->arena, " if (%srows > %lld)", modifier, (long long)rows) : "";
}

/* Rows of scalars only: vector code over rows. */
static bool rows_are_lanes(const KernelBody *body) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (body->nodes[i].kind == NODE_EXPERT)
      return false;
  return body_is_scalar(body) && body->block_rows == 0;
}

static void open_blocks(Printer *p) {
  long long block = (long long)p->body->block_rows;
  print_line(p, "const int64_t blocks = rows > 0 ? (rows + %lld) / %lld : 1;", block - 1, block);
  print_pragma(p, "#pragma omp parallel%s", parallel_condition(p, ""));
  print_line(p, "{");
  p->indent++;
  print_pragma(p, "#pragma omp for schedule(static)");
  print_line(p, "for (int64_t block = 0; block < blocks; block++) {");
  p->indent++;
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    if (!output_is_column_sum(p->body, i))
      continue;
    const char *partial = p->operand[p->body->outputs[i].scratch];
    if (output_columns(p->body, i) == 1) {
      print_line(p, "float %s = 0.0f;", p->sum[i]);
      continue;
    }
    print_line(p, "float *%s = %s + block * %lld;", p->sum[i], partial, (long long)output_columns(p->body, i));
    print_line(p, "for (int c = 0; c < %lld; c++)", (long long)output_columns(p->body, i));
    print_line(p, "  %s[c] = 0.0f;", p->sum[i]);
  }
  print_line(p, "const int64_t end = block * %lld + %lld < rows ? block * %lld + %lld : rows;", block, block, block,
             block);
  print_line(p, "for (int64_t r = block * %lld; r < end; r++) {", block);
}

static void cpu_open(Printer *p) {
  const KernelBody *body = p->body;
  print_line(p, "void %s(const moec_launch *launch) {", p->name);
  p->indent++;
  declare_operands(p);
  if (!body->one_row) {
    if (body->rows_per_live == 1)
      print_line(p, "const int64_t rows = launch->rows;");
    else
      print_line(p, "const int64_t rows = launch->rows * %lld;", (long long)body->rows_per_live);
    if (body->block_rows) {
      open_blocks(p);
    } else if (rows_are_lanes(body)) {
      print_pragma(p, "#pragma omp parallel for simd schedule(static)%s", parallel_condition(p, "parallel : "));
      print_line(p, "for (int64_t r = 0; r < rows; r++) {");
    } else {
      print_pragma(p, "#pragma omp parallel for schedule(static)%s", parallel_condition(p, ""));
      print_line(p, "for (int64_t r = 0; r < rows; r++) {");
    }
    p->indent++;
  }
  declare_buffers(p);
}

/* Adds up the blocks of one column sum and stores the result. */
static void finish_column_sum(Printer *p, uint32_t i) {
  const BodyOutput *o = &p->body->outputs[i];
  const char *partial = p->operand[o->scratch], *out = p->operand[o->operand];
  long long columns = (long long)output_columns(p->body, i);
  bool bf16 = p->body->operands[o->operand].dtype == DTYPE_BF16;
  print_pragma(p, "#pragma omp for schedule(static)");
  print_line(p, "for (int64_t from = 0; from < %lld; from += %d) {", columns, FINISH_COLUMNS);
  print_line(p, "  const int64_t to = from + %d < %lld ? from + %d : %lld;", FINISH_COLUMNS, columns, FINISH_COLUMNS,
             columns);
  print_line(p, "  moec_add_blocks(%s, blocks, %lld, from, to);", partial, columns);
  print_line(p, "  for (int64_t c = from; c < to; c++)");
  print_line(p, "    %s[c] = %s%s[c]%s;", out, bf16 ? "moec_to_bf16(" : "", partial, bf16 ? ")" : "");
  print_line(p, "}");
}

static void cpu_close(Printer *p) {
  if (!p->body->one_row) {
    p->indent--;
    print_line(p, "}");
  }
  if (p->body->block_rows) {
    for (uint32_t i = 0; i < vec_len(p->body->outputs); i++)
      if (output_is_column_sum(p->body, i) && output_columns(p->body, i) == 1)
        print_line(p, "%s[block] = %s;", p->operand[p->body->outputs[i].scratch], p->sum[i]);
    p->indent--;
    print_line(p, "}");
    for (uint32_t i = 0; i < vec_len(p->body->outputs); i++)
      if (output_is_column_sum(p->body, i))
        finish_column_sum(p, i);
    p->indent--;
    print_line(p, "}");
  }
  p->indent--;
  print_line(p, "}");
}

/* "reduction(+ : a, b) reduction(max : m)" */
static const char *reduction_clauses(Printer *p, const uint32_t *reductions) {
  static const struct {
    Op op;
    const char *clause;
  } kinds[] = {{OP_sum, "+"}, {OP_maximum, "max"}, {OP_minimum, "min"}};
  const char *text = "";
  for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
    const char *list = NULL;
    for (const uint32_t *i = reductions; *i != NO_NODE; i++)
      if (print_node(p, *i)->op == kinds[k].op)
        list = list ? arena_print(p->arena, "%s, %s", list, p->node[*i]) : p->node[*i];
    if (list)
      text = arena_print(p->arena, "%s reduction(%s : %s)", text, kinds[k].clause, list);
  }
  return text;
}

static void cpu_open_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  p->loop = (ColumnLoop){.width = 1, .stride = 1, .element = "c", .sum = "c"};
  bool alone = p->body->one_row && columns >= SERIAL_WORK && !body_reduces(p->body);
  if (alone)
    print_pragma(p, "#pragma omp parallel for simd schedule(static)");
  else
    print_pragma(p, "#pragma omp simd%s", reduction_clauses(p, reductions));
  print_line(p, "for (int64_t c = 0; c < %lld; c++) {", (long long)columns);
  p->indent++;
}

static void cpu_close_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  (void)columns;
  (void)reductions;
  p->indent--;
  print_line(p, "}");
}

static void cpu_wait(Printer *p) {
  (void)p;
}

const CStyle kernel_style_cpu = {
    .buffer_limit = cpu_buffer_limit,
    .words = cpu_words,
    .open = cpu_open,
    .close = cpu_close,
    .open_columns = cpu_open_columns,
    .close_columns = cpu_close_columns,
    .call_template = cpu_call_template,
    .wait = cpu_wait,
};
