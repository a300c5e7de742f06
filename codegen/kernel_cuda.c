/* The CUDA target: a team of threads per row, compiled by NVRTC.
 *
 * Rows of few columns belong to a warp, wider ones to a block, rows of scalars to a thread. A thread handles vectors of
 * up to 16 bytes of adjacent columns where addresses allow it, the same columns in all loops of the kernel. Vectors
 * kept between loops stand in registers, those that other threads read in shared memory. So many rows and blocks are
 * under way at a time that memory is the limit; a thread loads all it needs of a vector's columns before it stores any.
 *
 * Sums over rows: a team adds the rows of a fixed stretch, in order and in registers, to its own partial sum; a second
 * kernel, NAME_finish, adds the partial sums in a fixed order. Nothing is atomic, so results depend neither on timing
 * nor on the number of blocks that a launch has.
 */
#include "codegen/kernel_print.h"

enum {
  WARP = 32,
  WARP_COLUMNS = 384, /* most columns of a row that is reduced by a single warp */
  THREAD_COLUMNS = 8, /* columns of a thread in wider rows */
  MOST_TEAM = 512,    /* threads of a row, */
  WIDEST_TEAM = 1024, /* and of one that is read more than once, from the cache: few such rows at a time */
  WIDEST_COLUMNS = 16384,
  REGISTERS = 16,      /* columns of one vector that a thread keeps */
  BLOCK_THREADS = 128, /* of several teams that wait for each other, */
  FREE_THREADS = 256,  /* and of those that need not */
  STRIDED = 8,         /* columns that a thread takes at a time where addresses forbid vectors */
  MOST_VECTORS = 8,    /* of a thread that are loaded together in a loop over rows that end in part of one */
  STATIC_SHARED = 48 << 10,
  MOST_SHARED = 227 << 10, /* what a block may have on a GPU of compute capability 9.0; 8.0 has 163 KB */
  RESIDENT_THREADS = 512,  /* at least, on a processor: each may have 128 registers, and none needs to be spilled */
  FINISH_THREADS = 256,
  FINISH_COLUMNS = 32,    /* columns that a block of NAME_finish adds up at a time */
  MOST_BLOCKS = 16384,    /* what is beyond is taken by the same blocks: starting empty ones costs, too */
  PROCESSORS = 132,       /* of a GPU that kernels with sums over rows are cut for, */
  SUM_THREADS = 768,      /* threads of such a kernel on each, */
  SCALAR_SUM_BLOCKS = 16, /* and blocks, where nothing but scalars is summed */
  UNROLLED_SUMS = 4,      /* rows under way at a time, where a body is a sum over rows and little else, */
  UNROLLED_NODES = 12     /* of so few nodes */
};

/* ---------------------------------------------------------------- teams and columns */

/* Rows of scalars, one thread each. */
static bool is_thread_per_row(const KernelBody *body) {
  return body_is_scalar(body);
}

/* One row whose columns have nothing to do with each other: spread over blocks. */
static bool is_spread(const KernelBody *body) {
  return body->one_row && !body_reduces(body) && !body_is_scalar(body);
}

/* Whether a whole-row node alone reads the vector, from its row in memory. */
static bool is_read_whole(const KernelBody *body, uint32_t node) {
  const Node *n = &body->nodes[node];
  bool whole = n->kind == NODE_LOAD && n->dtype == DTYPE_F32;
  for (uint32_t i = 0; whole && i < vec_len(body->nodes); i++)
    for (int k = 0; k < body->nodes[i].input_count; k++)
      if (body->nodes[i].input[k] == node && body->nodes[i].kind != NODE_PRODUCT && body->nodes[i].kind != NODE_TOPK)
        whole = false;
  for (uint32_t i = 0; whole && i < vec_len(body->outputs); i++)
    whole = body->outputs[i].node != node;
  return whole;
}

/* Columns of the widest loop. */
static int64_t widest(const KernelBody *body) {
  int64_t columns = 1;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (body->nodes[i].columns > columns && !is_read_whole(body, i))
      columns = body->nodes[i].columns;
  return columns;
}

/* A vector of so many columns: its address and the distance of its rows. */
static bool is_aligned(const BodyOperand *o, int64_t ld, int width) {
  int64_t size = o->dtype == DTYPE_BF16 ? 2 : 4, unit = width * size < VALUE_ALIGNMENT ? width * size : VALUE_ALIGNMENT;
  return o->alignment % unit == 0 && ld * size % unit == 0;
}

/* Whether rows of so many columns begin where vectors do. */
static bool aligns_rows(const KernelBody *body, int64_t columns, int width) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++) {
    const Node *n = &body->nodes[i];
    if (n->columns == columns && (n->kind == NODE_LOAD || n->kind == NODE_ROWS_SUM) &&
        !is_aligned(&body->operands[n->operand], n->ld, width))
      return false;
  }
  for (uint32_t i = 0; i < vec_len(body->outputs); i++) {
    const BodyOutput *o = &body->outputs[i];
    if (body->nodes[o->node].columns == columns && !output_is_column_sum(body, i) &&
        !is_aligned(&body->operands[o->operand], o->ld, width))
      return false;
  }
  return true;
}

static bool has_bf16(const KernelBody *body, int64_t columns) {
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (body->nodes[i].columns == columns && body->nodes[i].kind == NODE_LOAD && body->nodes[i].dtype == DTYPE_BF16)
      return true;
  for (uint32_t i = 0; i < vec_len(body->outputs); i++)
    if (body->nodes[body->outputs[i].node].columns == columns &&
        body->operands[body->outputs[i].operand].dtype == DTYPE_BF16)
      return true;
  return false;
}

static bool allows_width(const KernelBody *body, int64_t columns, int width) {
  return columns % width == 0 && columns >= (int64_t)WARP * width && aligns_rows(body, columns, width);
}

/* Adjacent columns that a thread handles at a time. */
static int vector_width(const KernelBody *body, int64_t columns) {
  int width = is_spread(body) || columns == 1 ? 1 : has_bf16(body, columns) ? 8 : 4;
  while (width > 1 && !allows_width(body, columns, width))
    width /= 2;
  return width;
}

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* The same for rows that end in part of a vector, whose columns are taken one by one; not where whole rows are filled.
 */
static int part_width(const KernelBody *body, int64_t columns) {
  int width = has_bf16(body, columns) ? 8 : 4;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (node_is_whole(&body->nodes[i]))
      return 1;
  while (width > 1 && !aligns_rows(body, columns, width))
    width /= 2;
  return width;
}

static int team_size(const KernelBody *body) {
  int64_t columns = widest(body);
  if (is_thread_per_row(body))
    return 1;
  if (is_spread(body))
    return FREE_THREADS;
  bool together = body_reduces(body) || body->block_rows;
  if (together && columns <= WARP_COLUMNS)
    return WARP;
  if (body_reduces(body) && columns > WIDEST_COLUMNS)
    return WIDEST_TEAM;
  int64_t each = together ? THREAD_COLUMNS : vector_width(body, columns);
  int64_t threads = divide_up(columns, each * WARP) * WARP;
  return threads < MOST_TEAM ? (int)threads : MOST_TEAM;
}

static int team_count(const KernelBody *body) {
  int team = team_size(body);
  if (body->one_row)
    return 1;
  if (team == 1)
    return body->block_rows ? FREE_THREADS : BLOCK_THREADS;
  if (body_reduces(body) || body->block_rows)
    return team == WARP ? BLOCK_THREADS / WARP : 1;
  return team < FREE_THREADS ? FREE_THREADS / team : 1;
}

/* Sums over rows of so many columns that several blocks share a row. */
static bool is_sliced(const KernelBody *body) {
  int64_t columns = widest(body);
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (node_is_vector(&body->nodes[i]) && body->nodes[i].columns != columns)
      return false;
  return body->block_rows && !body_reduces(body) && columns > (int64_t)MOST_TEAM * vector_width(body, columns);
}

static int64_t slice_count(const KernelBody *body) {
  int64_t columns = widest(body);
  return is_sliced(body) ? divide_up(columns, (int64_t)team_size(body) * vector_width(body, columns)) : 1;
}

bool kernel_cuda_waits(const KernelBody *body) {
  return team_size(body) > WARP;
}

/* The same number of blocks for every processor; few where each has a partial sum of many columns. */
int64_t kernel_cuda_blocks(const KernelBody *body) {
  KernelBody summed = *body;
  summed.block_rows = 1;
  bool scalars = true;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    scalars &= body->nodes[i].kind != NODE_COLUMN_SUM || !node_is_vector(&body->nodes[i]);
  int64_t teams = SUM_THREADS / team_size(&summed);
  if (scalars)
    teams = team_size(&summed) == WARP ? SUM_THREADS / WARP : SCALAR_SUM_BLOCKS;
  else if (teams < 2)
    teams = 2;
  return divide_up(teams * PROCESSORS, slice_count(&summed));
}

/* Loops whose kept columns stand in registers: k is a constant. */
static bool is_unrolled(const KernelBody *body, int64_t columns) {
  return is_sliced(body) || (columns <= (int64_t)REGISTERS * team_size(body) && !is_spread(body));
}

/* Columns of a thread in an unrolled loop. */
static int64_t columns_of_thread(const KernelBody *body, int64_t columns) {
  int width = vector_width(body, columns);
  return is_sliced(body) ? width : divide_up(columns, (int64_t)team_size(body) * width) * width;
}

/* ---------------------------------------------------------------- geometry */

static int64_t shared_bytes(const KernelBody *body) {
  const LoopPlan *plan = kernel_schedule(body->f->module->arena, body, kernel_style_cuda.buffer_limit(body));
  int64_t columns = 0;
  for (uint32_t i = 0; i < vec_len(body->nodes); i++)
    if (plan->keep[i] == KEEP_BUFFER && plan->shared[i])
      columns += divide_up(body->nodes[i].columns, 4) * 4; /* each begins at 16 bytes */
  return columns * team_count(body) * (int64_t)sizeof(float);
}

KernelGeometry kernel_body_geometry(const KernelBody *body) {
  int64_t least = divide_up(body->rows, MOST_BLOCKS), teams = team_count(body);
  KernelGeometry g = {.threads = team_size(body) * (int)teams,
                      .rows_per_block = least > teams ? least : teams,
                      .rows_per_entry = body->rows_per_live};
  if (body->block_rows) {
    int64_t rows = body->block_rows * (team_size(body) == 1 ? 1 : teams) / slice_count(body);
    g.rows_per_block = rows > 0 ? rows : 1;
  }
  if (is_spread(body)) {
    int64_t columns = divide_up(widest(body), MOST_BLOCKS);
    g.columns_per_block = columns > FREE_THREADS ? columns : FREE_THREADS;
    g.columns = widest(body);
  }
  int64_t shared = shared_bytes(body);
  g.shared_bytes = shared > STATIC_SHARED ? shared : 0;
  for (uint32_t i = 0; i < vec_len(body->outputs); i++) {
    int64_t threads = divide_up(output_columns(body, i), FINISH_COLUMNS) * FINISH_THREADS;
    if (output_is_column_sum(body, i) && threads > g.finish_threads)
      g.finish_threads = threads;
  }
  return g;
}

/* ---------------------------------------------------------------- the style */

static int64_t cuda_buffer_limit(const KernelBody *body) {
  return (int64_t)REGISTERS * team_size(body);
}

static CWords cuda_words(Arena *arena, const KernelBody *body) {
  (void)arena;
  return (CWords){
      .one_thread = is_thread_per_row(body) ? "" : "if (lane == 0) ", .call_arguments = ", lane", .wide = "(int64_t)"};
}

/* The threads of the row; of a product also how many columns are read at a time. */
static const char *cuda_call_template(Printer *p, uint32_t node) {
  const Node *n = print_node(p, node);
  if (n->kind != NODE_PRODUCT)
    return arena_print(p->arena, "<%d>", team_size(p->body));
  const Node *x = print_node(p, n->input[0]);
  bool kept = p->plan->keep[n->input[0]] == KEEP_BUFFER;
  bool aligned = n->transposed && n->count % 4 == 0 && is_aligned(&p->body->operands[n->operand], n->ld, 4) &&
                 (kept || is_aligned(&p->body->operands[x->operand], x->ld, 4));
  return arena_print(p->arena, "<%d, %d>", team_size(p->body), aligned ? 4 : 1);
}

/* Rows are counted in 32 bits where that is enough. */
static const char *row_type(const KernelBody *body) {
  return body->rows < INT32_MAX / 2 ? "int" : "int64_t";
}

/* So are the columns of a spread row: a thread's last step goes as far behind them as the launch has threads. */
static const char *spread_type(const KernelBody *body) {
  return widest(body) < INT32_MAX - (int64_t)MOST_BLOCKS * FREE_THREADS ? "int" : "int64_t";
}

/* Of the kernel, or of the second one that finishes its sums over rows: each takes the operands it uses. */
static void print_signature(Printer *p, bool finish, int threads) {
  int together =
      threads <= BLOCK_THREADS ? RESIDENT_THREADS / BLOCK_THREADS : (RESIDENT_THREADS + threads - 1) / threads;
  print_line(p, "extern \"C\" __global__ void __launch_bounds__(%d, %d)", threads, together);
  print_line(p, "%s%s(", p->name, finish ? "_finish" : "");
  for (uint32_t i = 0; i < vec_len(p->body->operands); i++) {
    const BodyOperand *o = &p->body->operands[i];
    if (finish ? !operand_is_finished(p->body, i) : !operand_is_launched(p->body, i))
      continue;
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
  const char *type = row_type(p->body);
  const char *factor =
      p->body->rows_per_live == 1 ? "" : arena_print(p->arena, " * %lld", (long long)p->body->rows_per_live);
  print_line(p, "const %s rows = (%s)(live ? *live : bound)%s;", type, type, factor);
  if (p->body->block_rows)
    print_line(p, "const %s blocks = rows > 0 ? (rows + %lld) / %lld : 1;", type, (long long)p->body->block_rows - 1,
               (long long)p->body->block_rows);
}

static bool is_shared(const Printer *p, uint32_t node) {
  return p->plan->keep[node] == KEEP_BUFFER && p->plan->shared[node];
}

static bool has_shared(const Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (is_shared(p, i))
      return true;
  return false;
}

/* Rows in shared memory, each 16-byte aligned: declared ones, or parts of the launch's dynamic memory. */
static void declare_shared(Printer *p) {
  int teams = team_count(p->body);
  int64_t bytes = shared_bytes(p->body), from = 0;
  if (bytes > MOST_SHARED)
    ir_fail(p->body->f->insts[p->body->last].loc,
            "a row of this operation needs %lld bytes of a GPU's shared memory, which has %d: make it narrower",
            (long long)bytes, MOST_SHARED);
  if (bytes > STATIC_SHARED)
    print_line(p, "extern __shared__ __align__(16) float moec_shared[];");
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++) {
    if (!is_shared(p, i))
      continue;
    const char *type = print_register_type(print_node(p, i)->dtype);
    long long columns = (long long)divide_up(print_node(p, i)->columns, 4) * 4;
    const char *team =
        teams == 1 ? "" : arena_print(p->arena, " + threadIdx.x / %d * %lld", team_size(p->body), columns);
    if (bytes > STATIC_SHARED)
      print_line(p, "%s *%s = (%s *)moec_shared + %lld%s;", type, p->row[i], type, (long long)from, team);
    else if (teams == 1)
      print_line(p, "__shared__ __align__(16) %s %s[%lld];", type, p->row[i], columns);
    else
      print_line(p, "__shared__ __align__(16) %s %s_of_team[%lld];\n%*s%s *%s = %s_of_team%s;", type, p->row[i],
                 columns * teams, 2 * p->indent, "", type, p->row[i], p->row[i], team);
    from += columns * teams;
  }
}

static void declare_registers(Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->nodes); i++)
    if (p->plan->keep[i] == KEEP_BUFFER && !p->plan->shared[i])
      print_line(p, "%s %s[%lld];", print_register_type(print_node(p, i)->dtype), p->row[i],
                 (long long)columns_of_thread(p->body, print_node(p, i)->columns));
}

/* ---------------------------------------------------------------- sums over rows */

/* A block's sums: scalars and registers, or its partial sum in memory where a thread has too many columns. */
static void declare_sums(Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    if (!output_is_column_sum(p->body, i))
      continue;
    int64_t columns = output_columns(p->body, i);
    if (columns == 1) {
      print_line(p, "float %s = 0.0f;", p->sum[i]);
    } else if (is_unrolled(p->body, columns)) {
      print_line(p, "float %s[%lld] = {};", p->sum[i], (long long)columns_of_thread(p->body, columns));
    } else {
      print_line(p, "float *%s = %s + (int64_t)block * %lld;", p->sum[i], p->operand[p->body->outputs[i].scratch],
                 (long long)columns);
      kernel_style_cuda.open_columns(p, columns, (const uint32_t[]){NO_NODE});
      print_open_elements(p);
      print_line(p, "%s[c] = 0.0f;", p->sum[i]);
      print_close_elements(p);
      kernel_style_cuda.close_columns(p, columns, (const uint32_t[]){NO_NODE});
    }
  }
}

/* The sums of a block go to its place among the partial sums. */
static void store_sums(Printer *p) {
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    if (!output_is_column_sum(p->body, i))
      continue;
    const char *partial = p->operand[p->body->outputs[i].scratch];
    int64_t columns = output_columns(p->body, i);
    if (columns == 1 && is_thread_per_row(p->body)) {
      print_line(p, "%s = moec_team_sum<%d>(%s);", p->sum[i], FREE_THREADS, p->sum[i]);
      print_line(p, "if (threadIdx.x == 0)\n%*s%s[block] = %s;", 2 * p->indent + 2, "", partial, p->sum[i]);
    } else if (columns == 1) {
      print_line(p, "if (lane == 0)\n%*s%s[block] = %s;", 2 * p->indent + 2, "", partial, p->sum[i]);
    } else if (is_unrolled(p->body, columns)) {
      kernel_style_cuda.open_columns(p, columns, (const uint32_t[]){NO_NODE});
      print_open_elements(p);
      print_line(p, "%s[(int64_t)block * %lld + c] = %s[%s];", partial, (long long)columns, p->sum[i], p->loop.sum);
      print_close_elements(p);
      kernel_style_cuda.close_columns(p, columns, (const uint32_t[]){NO_NODE});
    }
  }
}

/* Whether rows are independent of each other but for sums of their columns, and cheap: several can be under way. */
static bool is_plain_sum(const KernelBody *body) {
  for (uint32_t i = 0; i < vec_len(body->outputs); i++)
    if (!output_is_column_sum(body, i))
      return false;
  return !body_reduces(body) && vec_len(body->nodes) <= UNROLLED_NODES;
}

static void open_blocks(Printer *p) {
  const KernelBody *body = p->body;
  const char *type = row_type(body);
  long long rows = (long long)body->block_rows, slices = (long long)slice_count(body);
  int team = team_size(body), teams = team == 1 ? 1 : team_count(body);
  if (slices > 1) {
    print_line(p, "for (%s piece = blockIdx.x; piece < blocks * %lld; piece += gridDim.x) {", type, slices);
    p->indent++;
    print_line(p, "const %s block = piece / %lld; /* a stretch of rows, of which this is a slice */", type, slices);
    print_line(p, "const int lane = (int)(piece %% %lld) * %d + threadIdx.x;", slices, team);
  } else {
    const char *own = teams == 1 ? "" : arena_print(p->arena, " * %d + threadIdx.x / %d", teams, team);
    const char *step = teams == 1 ? "" : arena_print(p->arena, " * %d", teams);
    print_line(p, "for (%s block = blockIdx.x%s; block < blocks; block += gridDim.x%s) {", type, own, step);
    p->indent++;
  }
  declare_sums(p);
  print_line(p, "const %s end = block * %lld + %lld < rows ? block * %lld + %lld : rows;", type, rows, rows, rows,
             rows);
  if (is_plain_sum(body))
    print_pragma(p, "#pragma unroll %d", UNROLLED_SUMS);
  if (team == 1)
    print_line(p, "for (%s r = block * %lld + threadIdx.x; r < end; r += %d) {", type, rows, FREE_THREADS);
  else
    print_line(p, "for (%s r = block * %lld; r < end; r++) {", type, rows);
  p->indent++;
}

/* The partial sums of all blocks, in a fixed order. */
static void print_finish(Printer *p) {
  print_line(p, "%s", "");
  print_signature(p, true, FINISH_THREADS);
  print_rows(p);
  for (uint32_t i = 0; i < vec_len(p->body->outputs); i++) {
    if (!output_is_column_sum(p->body, i))
      continue;
    const BodyOutput *o = &p->body->outputs[i];
    int64_t columns = output_columns(p->body, i);
    int at_once = 1;
    while (at_once < FINISH_COLUMNS && at_once < columns)
      at_once *= 2;
    print_line(p, "moec_finish_sum<%d>(%s, blocks, %lld, %s);", at_once, p->operand[o->scratch], (long long)columns,
               p->operand[o->operand]);
  }
  p->indent--;
  print_line(p, "}");
}

/* ---------------------------------------------------------------- the function */

static void open_rows(Printer *p) {
  const KernelBody *body = p->body;
  int team = team_size(body), teams = team_count(body);
  const char *own = teams == 1  ? ""
                    : team == 1 ? arena_print(p->arena, " * %d + threadIdx.x", teams)
                                : arena_print(p->arena, " * %d + threadIdx.x / %d", teams, team);
  const char *step = teams == 1 ? "" : arena_print(p->arena, " * %d", teams);
  print_line(p, "for (%s r = blockIdx.x%s; r < rows; r += gridDim.x%s) {", row_type(body), own, step);
  p->indent++;
}

static void cuda_open(Printer *p) {
  const KernelBody *body = p->body;
  int team = team_size(body), teams = team_count(body);
  print_signature(p, false, team * teams);
  if (is_spread(body))
    print_line(p, "const %s lane = blockIdx.x * %d + threadIdx.x;", spread_type(body), team);
  else if (!is_thread_per_row(body) && slice_count(body) == 1)
    print_line(p, "const int lane = threadIdx.x%s;", teams > 1 ? arena_print(p->arena, " %% %d", team) : "");
  if (!body->one_row)
    print_rows(p);
  declare_shared(p);
  if (body->block_rows)
    open_blocks(p);
  else if (!body->one_row)
    open_rows(p);
  declare_registers(p);
}

static void cuda_wait(Printer *p) {
  print_line(p, "moec_team_wait<%d>();", team_size(p->body));
}

static void cuda_close(Printer *p) {
  if (has_shared(p) && !p->body->one_row) /* the next row's vectors take the place of this one's */
    cuda_wait(p);
  if (!p->body->one_row) {
    p->indent--;
    print_line(p, "}");
  }
  if (p->body->block_rows) {
    store_sums(p);
    p->indent--;
    print_line(p, "}");
  }
  p->indent--;
  print_line(p, "}");
  if (p->body->block_rows)
    print_finish(p);
}

/* ---------------------------------------------------------------- loops over columns */

static void open_unrolled(Printer *p, int64_t columns) {
  int team = team_size(p->body), width = vector_width(p->body, columns);
  int64_t count = columns_of_thread(p->body, columns) / width;
  const char *column = width == 1 ? "c" : "c0";
  const char *first = count == 1 ? "lane" : arena_print(p->arena, "lane + k * %d", team);
  if (width > 1)
    first = arena_print(p->arena, count == 1 ? "%s * %d" : "(%s) * %d", first, width);
  if (count > 1)
    print_pragma(p, "#pragma unroll");
  print_line(p, count > 1 ? "for (int k = 0; k < %lld; k++) {" : "{", (long long)count);
  p->indent++;
  print_line(p, "const int %s = %s;", column, first);
  if (columns % ((int64_t)team * width) != 0) {
    print_line(p, "if (%s < %lld) {", column, (long long)columns);
    p->indent++;
  }
  const char *element = width == 1  ? (count == 1 ? "0" : "k")
                        : count > 1 ? arena_print(p->arena, "k * %d + i", width)
                                    : "i";
  p->loop = (ColumnLoop){.width = width, .stride = 1, .element = element, .sum = element};
}

static void open_long(Printer *p, int64_t columns) {
  int64_t team = team_size(p->body);
  int width = vector_width(p->body, columns);
  p->loop = (ColumnLoop){.width = width, .stride = 1, .element = "c", .sum = "c"};
  if (is_spread(p->body)) {
    print_line(p, "for (%s c = lane; c < %lld; c += gridDim.x * %lld) {", spread_type(p->body), (long long)columns,
               (long long)team);
  } else if (width == 1 && part_width(p->body, columns) > 1 && columns > part_width(p->body, columns)) {
    width = part_width(p->body, columns);
    p->loop.width = width;
    p->loop.rest = columns % width;
    if (columns >= 2 * width * team) /* so many loads are under way together */
      print_pragma(p, "#pragma unroll %lld",
                   (long long)(columns / (width * team) < MOST_VECTORS ? columns / (width * team) : MOST_VECTORS));
    print_line(p, "for (int c0 = lane * %d; c0 < %lld; c0 += %lld) {", width, (long long)(columns - p->loop.rest),
               (long long)(width * team));
  } else if (width == 1) {
    p->loop.width = STRIDED;
    p->loop.stride = team;
    p->loop.guard = columns;
    print_line(p, "for (int c0 = lane; c0 < %lld; c0 += %lld) {", (long long)columns, (long long)(STRIDED * team));
  } else {
    print_line(p, "for (int c0 = lane * %d; c0 < %lld; c0 += %lld) {", width, (long long)columns,
               (long long)(width * team));
  }
  p->indent++;
}

static void cuda_open_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  (void)reductions;
  if (is_unrolled(p->body, columns))
    open_unrolled(p, columns);
  else
    open_long(p, columns);
}

/* Behind the loop over vectors the columns that are left, one for each of the first threads. */
static void cuda_open_rest(Printer *p, int64_t columns) {
  const int64_t rest = p->loop.rest;
  p->indent--;
  print_line(p, "}");
  print_line(p, "if (lane < %lld) {", (long long)rest);
  p->indent++;
  print_line(p, "const int c = %lld + lane;", (long long)(columns - rest));
  p->loop = (ColumnLoop){.width = 1, .stride = 1, .element = "c", .sum = "c"};
}

static void cuda_close_columns(Printer *p, int64_t columns, const uint32_t *reductions) {
  int64_t team = team_size(p->body);
  p->indent--;
  print_line(p, "}");
  if (is_unrolled(p->body, columns) && columns % (team * vector_width(p->body, columns)) != 0) {
    p->indent--;
    print_line(p, "}");
  }
  for (const uint32_t *i = reductions; *i != NO_NODE; i++) {
    Op op = print_node(p, *i)->op;
    print_line(p, "%s = moec_team_%s<%lld>(%s);", p->node[*i],
               op == OP_sum       ? "sum"
               : op == OP_maximum ? "max"
                                  : "min",
               (long long)team, p->node[*i]);
  }
}

const CStyle kernel_style_cuda = {
    .buffer_limit = cuda_buffer_limit,
    .words = cuda_words,
    .open = cuda_open,
    .close = cuda_close,
    .open_columns = cuda_open_columns,
    .open_rest = cuda_open_rest,
    .close_columns = cuda_close_columns,
    .call_template = cuda_call_template,
    .wait = cuda_wait,
};
