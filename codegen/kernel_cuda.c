/* The CUDA target: a team of threads per row, compiled by NVRTC.
 *
 * Rows of few columns belong to a warp, wider ones to a block, rows of scalars to a thread; column c is always handled
 * by thread c % team. Vectors kept between loops stand in registers, those that other threads read in shared memory.
 * Sums over rows: block b adds the rows of its fixed stretch to its own partial sum; a second kernel, NAME_finish, adds
 * the partial sums in order. Nothing is atomic, so results do not depend on timing.
 */
#include "codegen/kernel_print.h"

enum {
  WARP = 32,
  BLOCK_THREADS = 128, /* of several teams */
  REGISTERS = 16,      /* elements of one vector that a thread keeps */
  SHARED_BYTES = 48 << 10,
  FINISH_THREADS = 256
};

/* ---------------------------------------------------------------- geometry */

static int64_t widest(const KernelBody *body) {
  int64_t columns = 1;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    const Node *n = &body->nodes[i];
    int64_t own = n->kind == NODE_PRODUCT && n->count > n->columns ? n->count : n->columns;
    columns = own > columns ? own : columns;
  }
  return columns;
}

/* Rows of scalars, one thread each. */
static bool is_thread_per_row(const KernelBody *body) {
  return body_is_scalar(body) && !body->one_row && !body->block_rows;
}

/* One row whose columns have nothing to do with each other: spread over blocks. */
static bool is_spread(const KernelBody *body) {
  return body->one_row && !body_reduces(body) && !body_is_scalar(body);
}

static int team_size(const KernelBody *body) {
  int64_t columns = widest(body);
  if (is_thread_per_row(body))
    return 1;
  if (is_spread(body))
    return FINISH_THREADS;
  return columns <= 512 ? WARP : columns <= 2048 ? 128 : columns <= 8192 ? 256 : 512;
}

static int team_count(const KernelBody *body) {
  int team = team_size(body);
  bool alone = body->block_rows || body->one_row;
  return team > WARP || alone ? 1 : BLOCK_THREADS / team;
}

KernelGeometry kernel_body_geometry(const KernelBody *body) {
  KernelGeometry g = {.threads = team_size(body) * team_count(body),
                      .rows_per_block = body->block_rows ? body->block_rows : team_count(body),
                      .rows_per_entry = body->rows_per_live};
  if (is_spread(body)) {
    g.columns_per_block = FINISH_THREADS;
    g.columns = widest(body);
  }
  for (uint32_t i = 0; i < vec_len(body->outputs); i++)
    if (output_is_column_sum(body, i) && output_columns(body, i) > g.finish_columns)
      g.finish_columns = output_columns(body, i);
  return g;
}

/* ---------------------------------------------------------------- the style */

static int64_t cuda_buffer_limit(const KernelBody *body) {
  return (int64_t)REGISTERS * team_size(body);
}

static CWords cuda_words(Arena *arena, const KernelBody *body) {
  return (CWords){.buffer_element = "k",
                  .one_thread = is_thread_per_row(body) ? "" : "if (lane == 0) ",
                  .call_arguments = ", lane",
                  .call_template = arena_print(arena, "<%d>", team_size(body))};
}

static void print_signature(Printer *p, const char *suffix, int threads) {
  print_line(p, "extern \"C\" __global__ void __launch_bounds__(%d)", threads);
  print_line(p, "%s%s(", p->name, suffix);
  for (uint32_t i = 0; i < vec_len(p->body->operands); i++) {
    const BodyOperand *o = &p->body->operands[i];
    if (o->role == OPERAND_TAG) {
      print_line(p, "    uint64_t %s,", p->operand[i]);
      continue;
    }
    print_line(p, "    %s%s *%s,%s", o->role == OPERAND_INPUT ? "const " : "",
               o->seed ? "uint64_t" : print_c_type(o->dtype), p->operand[i], print_comment(p, i));
  }
  print_line(p, "    const int32_t *live, int64_t bound) {");
  p->indent++;
}

static void print_rows(Printer *p) {
  const char *factor =
      p->body->rows_per_live == 1 ? "" : arena_print(p->arena, " * %lld", (long long)p->body->rows_per_live);
  print_line(p, "const int64_t rows = (live ? *live : bound)%s;", factor);
  if (p->body->block_rows)
    print_line(p, "const int64_t blocks = rows > 0 ? (rows + %lld) / %lld : 1;", (long long)p->body->block_rows - 1,
               (long long)p->body->block_rows);
}

static bool has_shared(const Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (p->plan->keep[i] == KEEP_BUFFER && p->plan->shared[i])
      return true;
  return false;
}

static void declare_shared(Printer *p) {
  int teams = team_count(p->body);
  int64_t bytes = 0;
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    if (p->plan->keep[i] != KEEP_BUFFER || !p->plan->shared[i])
      continue;
    const char *type = print_register_type(print_node(p, i)->dtype);
    long long columns = (long long)print_node(p, i)->columns;
    bytes += columns * teams * (int64_t)sizeof(float);
    if (teams == 1) {
      print_line(p, "__shared__ %s %s[%lld];", type, p->row[i], columns);
    } else {
      print_line(p, "__shared__ %s %s_of_team[%d][%lld];", type, p->row[i], teams, columns);
      print_line(p, "%s *%s = %s_of_team[threadIdx.x / %d];", type, p->row[i], p->row[i], team_size(p->body));
    }
  }
  if (bytes > SHARED_BYTES)
    ir_bug("kernel %s needs %lld bytes of shared memory", p->name, (long long)bytes);
}

static void declare_registers(Printer *p) {
  int team = team_size(p->body);
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (p->plan->keep[i] == KEEP_BUFFER && !p->plan->shared[i])
      print_line(p, "%s %s[%lld];", print_register_type(print_node(p, i)->dtype), p->row[i],
                 (long long)((print_node(p, i)->columns + team - 1) / team));
}

static void open_blocks(Printer *p) {
  long long block = (long long)p->body->block_rows;
  print_line(p, "for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {");
  p->indent++;
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    if (!output_is_column_sum(p->body, i))
      continue;
    long long columns = (long long)output_columns(p->body, i);
    if (columns == 1) {
      print_line(p, "float %s = 0.0f;", p->sum[i]);
      continue;
    }
    print_line(p, "float *%s = %s + block * %lld;", p->sum[i], p->operand[p->body->outputs[i].scratch], columns);
    print_line(p, "for (int c = lane; c < %lld; c += %d)", columns, team_size(p->body));
    print_line(p, "  %s[c] = 0.0f;", p->sum[i]);
  }
  print_line(p, "const int64_t end = block * %lld + %lld < rows ? block * %lld + %lld : rows;", block, block, block,
             block);
  print_line(p, "for (int64_t r = block * %lld; r < end; r++) {", block);
  p->indent++;
}

static void cuda_open(Printer *p) {
  const KernelBody *body = p->body;
  int team = team_size(body), teams = team_count(body);
  print_signature(p, "", team * teams);
  if (is_spread(body))
    print_line(p, "const int lane = blockIdx.x * %d + threadIdx.x;", team);
  else if (!is_thread_per_row(body))
    print_line(p, "const int lane = threadIdx.x%s;", teams > 1 ? arena_print(p->arena, " %% %d", team) : "");
  if (!body->one_row)
    print_rows(p);
  declare_shared(p);
  if (body->block_rows) {
    open_blocks(p);
  } else if (!body->one_row) {
    const char *own = teams == 1  ? ""
                      : team == 1 ? arena_print(p->arena, " * %d + threadIdx.x", teams)
                                  : arena_print(p->arena, " * %d + threadIdx.x / %d", teams, team);
    const char *step = teams == 1 ? "" : arena_print(p->arena, " * %d", teams);
    print_line(p, "for (int64_t r = (int64_t)blockIdx.x%s; r < rows; r += (int64_t)gridDim.x%s) {", own, step);
    p->indent++;
  }
  declare_registers(p);
}

static void cuda_wait(Printer *p) {
  print_line(p, "moec_team_wait<%d>();", team_size(p->body));
}

/* A thread per column: the sum of all blocks, in order. */
static void print_finish(Printer *p) {
  print_line(p, "%s", "");
  print_signature(p, "_finish", FINISH_THREADS);
  print_rows(p);
  print_line(p, "const int64_t from = (int64_t)blockIdx.x * %d + threadIdx.x, stride = (int64_t)gridDim.x * %d;",
             FINISH_THREADS, FINISH_THREADS);
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    if (!output_is_column_sum(p->body, i))
      continue;
    const BodyOutput *o = &p->body->outputs[i];
    long long columns = (long long)output_columns(p->body, i);
    bool bf16 = p->body->operands[o->operand].dtype == DTYPE_BF16;
    print_line(p, "for (int64_t c = from; c < %lld; c += stride) {", columns);
    print_line(p, "  float total = 0.0f;");
    print_line(p, "  for (int64_t block = 0; block < blocks; block++)");
    print_line(p, "    total += %s[block * %lld + c];", p->operand[o->scratch], columns);
    print_line(p, "  %s[c] = %s;", p->operand[o->operand], bf16 ? "moec_to_bf16(total)" : "total");
    print_line(p, "}");
  }
  p->indent--;
  print_line(p, "}");
}

static void cuda_close(Printer *p) {
  if (has_shared(p) && !p->body->one_row) /* the next row's vectors take the place of this one's */
    cuda_wait(p);
  if (!p->body->one_row) {
    p->indent--;
    print_line(p, "}");
  }
  if (p->body->block_rows) {
    for (uint32_t i = 0; i < vec_len(p->body->outputs); i++)
      if (output_is_column_sum(p->body, i) && output_columns(p->body, i) == 1)
        print_line(p, "if (lane == 0)\n%*s%s[block] = %s;", 2 * p->indent + 2, "",
                   p->operand[p->body->outputs[i].scratch], p->sum[i]);
    p->indent--;
    print_line(p, "}");
  }
  p->indent--;
  print_line(p, "}");
  if (p->body->block_rows)
    print_finish(p);
}

/* Loops short enough for registers are unrolled, so that k is a constant. */
static bool is_unrolled(const KernelBody *body, int64_t columns) {
  return columns <= (int64_t)REGISTERS * team_size(body) && !is_spread(body);
}

static void cuda_open_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  (void)reductions;
  int team = team_size(p->body);
  if (is_unrolled(p->body, columns)) {
    print_pragma(p, "#pragma unroll");
    print_line(p, "for (int k = 0; k < %lld; k++) {", (long long)((columns + team - 1) / team));
    p->indent++;
    print_line(p, "const int c = lane + k * %d;", team);
    if (columns % team != 0) {
      print_line(p, "if (c < %lld) {", (long long)columns);
      p->indent++;
    }
    return;
  }
  const char *step =
      is_spread(p->body) ? arena_print(p->arena, "gridDim.x * %d", team) : arena_print(p->arena, "%d", team);
  print_line(p, "for (int c = lane; c < %lld; c += %s) {", (long long)columns, step);
  p->indent++;
}

static void cuda_close_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  int team = team_size(p->body);
  p->indent--;
  print_line(p, "}");
  if (is_unrolled(p->body, columns) && columns % team != 0) {
    p->indent--;
    print_line(p, "}");
  }
  for (const uint32_t *i = reductions; *i != NO_NODE; i++) {
    Op op = print_node(p, *i)->op;
    print_line(p, "%s = moec_team_%s<%d>(%s);", p->node[*i],
               op == OP_sum       ? "sum"
               : op == OP_maximum ? "max"
                                  : "min",
               team, p->node[*i]);
  }
}

const CStyle kernel_style_cuda = {
    .buffer_limit = cuda_buffer_limit,
    .words = cuda_words,
    .open = cuda_open,
    .close = cuda_close,
    .open_columns = cuda_open_columns,
    .close_columns = cuda_close_columns,
    .wait = cuda_wait,
};
