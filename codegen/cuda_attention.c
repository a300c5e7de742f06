/* Lowering for CUDA: attention over segments and its gradient.
 *
 * In: attention, attention_grad. Out: one launch, and two; where both kinds of tensor cores' kernels can be used, as a
 * choice of the plan. Holds: a block's rows follow from the static bound; segments are looked up on the device. bf16
 * operands go to tensor cores, by mma.sync (codegen/cuda/attention.cu, attention_grad.cu) and by Hopper's wgmma
 * (attention_sm90.cu, attention_grad_queries_sm90.cu, attention_grad_keys_sm90.cu). f32, and heads that do not fit, go
 * to the plain kernels (attention_plain_forward.cu, attention_plain_grad.cu). What bf16 has stands in the ledger.
 */
#include "codegen/cuda_lower.h"
#include "passes/ledger.h"

typedef enum Means { PLAIN, MMA, WGMMA } Means;

enum { PLAIN_WARP_ROWS = 8, PLAIN_COLUMNS = 32, PLAIN_LARGEST_HEAD = 256, MMA_LARGEST_HEAD = 128 };
enum { WGMMA_COLUMNS = 64, WGMMA_BUFFERS = 4 };

typedef struct Matrix {
  Place place;
  int64_t ld;
} Matrix;

/* An instruction's sizes, and the templates' macros so far. */
typedef struct Attention {
  Lower *l;
  uint32_t index;
  const Inst *inst;
  DType type;
  int64_t n, segments, heads, head;
  bool causal;
  Place lse; /* of the gradient: without gaps */
  Means means;
  CudaDefine *defines; /* arena vector */
} Attention;

/* How a pass is launched. */
typedef struct Block {
  int threads;
  int64_t rows; /* of a block */
} Block;

static int64_t round_up(int64_t a, int64_t unit) {
  return (a + unit - 1) / unit * unit;
}

static Matrix matrix_of(const Attention *a, ValueId v) {
  return (Matrix){lower_place(a->l, v), a->l->ld[v]};
}

/* Whether rows and heads begin at multiples of 16 bytes; storages begin at multiples of 64. */
static bool is_aligned(Matrix m) {
  return m.ld % 8 == 0 && m.place.offset % 16 == 0;
}

static void define(Attention *a, const char *name, int64_t number) {
  vec_push(a->l->arena, a->defines, ((CudaDefine){name, number}));
}

static Kernel *instance(Attention *a, const char *name) {
  define(a, NULL, 0);
  return cuda_template(a->l, name, a->defines, a->means == WGMMA ? "sm_90a" : NULL);
}

/* ---------------------------------------------------------------- which */

/* NULL, or why tensor cores cannot be used. */
static const char *mma_obstacle(const Attention *a, const ValueId *matrices, int count) {
  if (a->head % 8 != 0 || a->head > MMA_LARGEST_HEAD)
    return arena_print(a->l->arena, "heads of %lld columns: expected a multiple of 8 up to %d", (long long)a->head,
                       MMA_LARGEST_HEAD);
  for (int i = 0; i < count; i++)
    if (!is_aligned(matrix_of(a, matrices[i])))
      return "rows of an operand do not begin at multiples of 16 bytes";
  return NULL;
}

static const char *wgmma_obstacle(const Attention *a) {
  return a->head == 64 || a->head == 128 ? NULL : "its tiles are for heads of 64 or 128 columns";
}

static const char *const means_name[] = {[MMA] = "mma", [WGMMA] = "wgmma"};

static void define_sizes(Attention *a, const ValueId *matrices, const char *const *strides, int count) {
  define(a, "N", a->n);
  define(a, "SEGMENTS", a->segments);
  define(a, "HEADS", a->heads);
  define(a, "HEAD", a->head);
  define(a, "CAUSAL", a->causal);
  if (a->means == PLAIN)
    define(a, "BF16", a->type == DTYPE_BF16);
  for (int i = 0; i < count; i++)
    define(a, strides[i], matrix_of(a, matrices[i]).ld);
}

/* What is lowered: the plain kernel, one of the others, or both. */
typedef struct Ways {
  Means means[2];
  int count;
} Ways;

static void record(const Attention *a, Ways ways, const char *mma_lost, const char *wgmma_lost) {
  static const char *const what[] = {"the plain kernel (no tensor cores)",
                                     "the portable kernel (mma.sync, sm_80 and later)",
                                     "the kernel for Hopper (wgmma, sm_90a only)"};
  bool both = ways.count == 2;
  Site site = {.pass = "attention", .function = a->l->func->name, .loc = a->inst->loc};
  vec_push(a->l->arena, site.values, a->l->func->values[a->inst->output[0]].name);
  Cost cost = NO_COST;
  cost.flops = flop_rule[a->inst->op](a->l->func, a->inst, -1).flops;
  cost.launches = a->inst->op == OP_attention ? 1 : 2;
  Alternative *alternatives = NULL;
  if (!both && ways.means[0] != MMA)
    vec_push(a->l->arena, alternatives, ((Alternative){what[MMA], cost, mma_lost ? mma_lost : "--attention=wgmma"}));
  if (!both && ways.means[0] != WGMMA)
    vec_push(a->l->arena, alternatives,
             ((Alternative){what[WGMMA], cost, wgmma_lost ? wgmma_lost : "--attention=mma"}));
  decide(a->l->cuda->ledger, site,
         both ? "both kernels for tensor cores (mma.sync, and wgmma for sm_90a)" : what[ways.means[0]], alternatives,
         cost,
         both                                      ? "the faster one on the GPU, timed in the first step there"
         : (ways.means[0] == WGMMA && !wgmma_lost) ? "--attention=wgmma"
         : (ways.means[0] == MMA && !wgmma_lost)   ? "--attention=mma"
                                                   : "the others cannot be used");
}

/* `matrices`: everything that the kernels read or write by rows of heads. */
static Ways find_ways(const Attention *a, const ValueId *matrices, int count) {
  const char *mma_lost = NULL, *wgmma_lost = NULL;
  CudaKinds kinds = a->l->cuda->attention;
  Ways ways = {.means = {PLAIN}, .count = 1};
  if (a->type == DTYPE_BF16) {
    mma_lost = mma_obstacle(a, matrices, count);
    wgmma_lost = mma_lost ? mma_lost : wgmma_obstacle(a);
    if (!mma_lost)
      ways.means[0] = kinds == CUDA_KINDS_WGMMA && !wgmma_lost ? WGMMA : MMA;
    if (kinds == CUDA_KINDS_BOTH && !wgmma_lost)
      ways = (Ways){.means = {MMA, WGMMA}, .count = 2};
    if (a->l->cuda->ledger)
      record(a, ways, mma_lost, wgmma_lost);
  }
  if (ways.means[0] == PLAIN && a->head > PLAIN_LARGEST_HEAD)
    ir_fail(a->inst->loc, "attention: heads of %lld columns, expected at most %d on CUDA", (long long)a->head,
            PLAIN_LARGEST_HEAD);
  return ways;
}

/* Steps of every way, as options of a choice where there are two. `a` is complete but for means and macros. */
static void lower_ways(Attention a, const ValueId *matrices, const char *const *strides, int count,
                       void (*lower)(Attention *)) {
  Ways ways = find_ways(&a, matrices, count);
  if (ways.count > 1)
    cuda_choice_begin(a.l);
  for (int i = 0; i < ways.count; i++) {
    Attention way = a;
    way.means = ways.means[i];
    define_sizes(&way, matrices, strides, count);
    if (ways.count > 1)
      cuda_option(a.l, means_name[way.means]);
    lower(&way);
  }
  if (ways.count > 1)
    cuda_choice_end(a.l);
}

/* ---------------------------------------------------------------- macros and sizes */

static Attention attention_of(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  Type q = lower_type(l, inst->input[0]);
  Attention a = {.l = l, .index = index, .inst = inst, .type = q.dtype};
  a.n = type_rows(l->module, q);
  a.segments = type_elements(l->module, lower_type(l, inst->input[3])) - 1;
  a.heads = inst_int(inst, ATTRIBUTE_heads, 1);
  a.head = type_columns(l->module, q) / a.heads;
  a.causal = inst_int(inst, ATTRIBUTE_causal, 0) != 0;
  return a;
}

/* row_tiles: 16-row tiles of a warp, of kernels on tensor cores. */
static Block define_block(Attention *a, int threads, int64_t row_tiles) {
  int64_t warp_rows = a->means == PLAIN ? PLAIN_WARP_ROWS : 16 * row_tiles;
  define(a, "THREADS", threads);
  define(a, "WARP_ROWS", warp_rows);
  if (a->means != PLAIN)
    define(a, "ROW_TILES", row_tiles);
  return (Block){threads, threads / 32 * warp_rows};
}

/* What one row of the tiles of mma.sync takes in shared memory (attention_tiles.cu), and a float row of the plain
 * kernels and of their scores (attention_plain.cu). */
static int64_t mma_width(const Attention *a) {
  return round_up(a->head, 16);
}
static int64_t mma_row_bytes(const Attention *a) {
  return 2 * (mma_width(a) + 8);
}
static int64_t plain_row_bytes(const Attention *a) {
  return 4 * (a->head | 1);
}
static const int64_t plain_score_bytes = 4 * (PLAIN_COLUMNS | 1);

static CudaGeometry geometry_of(const Attention *a, Block block, int64_t shared_bytes) {
  enum { MOST_BLOCKS = 65535 };
  int64_t blocks = round_up(a->n, block.rows) / block.rows;
  if (blocks > MOST_BLOCKS)
    ir_fail(a->inst->loc, "attention: %lld tokens at a time, expected at most %lld on CUDA", (long long)a->n,
            (long long)(MOST_BLOCKS * block.rows));
  return (CudaGeometry){.blocks = {a->heads, blocks}, .threads = block.threads, .shared_bytes = shared_bytes};
}

static void read_values(const Attention *a, Step *s, const ValueId *values, int count) {
  for (int i = 0; i < count; i++)
    cuda_read(a->l, s, lower_place(a->l, values[i]));
}

/* ---------------------------------------------------------------- forward */

static CudaGeometry forward_geometry(Attention *a) {
  if (a->means == PLAIN) {
    Block block = define_block(a, 128, 0);
    return geometry_of(a, block,
                       plain_row_bytes(a) * (block.rows + 2 * PLAIN_COLUMNS) + plain_score_bytes * block.rows);
  }
  if (a->means == WGMMA) {
    Block block = define_block(a, 256, 1);
    return geometry_of(a, block, 1024 + 2 * a->head * (block.rows + 2 * WGMMA_BUFFERS * WGMMA_COLUMNS));
  }
  /* what fits into 255 registers without a spill */
  int64_t width = mma_width(a), columns = width <= 96 ? 64 : 32;
  Block block = define_block(a, 128, 2);
  define(a, "COLUMNS", columns);
  define(a, "KEEP", width <= 64);
  return geometry_of(a, block, mma_row_bytes(a) * (block.rows + 4 * columns));
}

static void lower_forward(Attention *a) {
  static const char *const name[] = {
      [PLAIN] = "attention_plain_forward", [MMA] = "attention", [WGMMA] = "attention_sm90"};
  const Inst *inst = a->inst;
  CudaGeometry geometry = forward_geometry(a);
  Kernel *kernel = instance(a, name[a->means]);
  Step s = cuda_launch(a->l, a->index, kernel, "", geometry);
  read_values(a, &s, inst->input, 4);
  cuda_write(a->l, &s, lower_place(a->l, inst->output[0]));
  cuda_write(a->l, &s, lower_place(a->l, inst->output[1]));
  step_end(a->l, &s);
}

void lower_cuda_attention(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  const ValueId matrices[] = {inst->input[0], inst->input[1], inst->input[2], inst->output[0]};
  static const char *const strides[] = {"LD_Q", "LD_K", "LD_V", "LD_O"};
  lower_ways(attention_of(l, index), matrices, strides, 4, lower_forward);
}

/* ---------------------------------------------------------------- gradient */

/* The pass over queries, then the one over keys. */
typedef struct Passes {
  Kernel *kernel[2];
  const char *suffix[2]; /* of the entry point */
  CudaGeometry geometry[2];
  int64_t rounded; /* N up to whole blocks of the pass over queries */
} Passes;

static int64_t define_rounded(Attention *a, int64_t block_rows) {
  int64_t rounded = round_up(a->n, block_rows);
  define(a, "ROUNDED", rounded);
  return rounded;
}

/* One unit with both passes, whose blocks have the same rows. */
static Passes two_entries(Attention *a, Block block, const char *name, int64_t queries_bytes, int64_t keys_bytes) {
  Passes passes = {.suffix = {"_dq", "_dkv"},
                   .geometry = {geometry_of(a, block, queries_bytes), geometry_of(a, block, keys_bytes)},
                   .rounded = define_rounded(a, block.rows)};
  passes.kernel[0] = passes.kernel[1] = instance(a, name);
  return passes;
}

static Passes plain_passes(Attention *a) {
  Block block = define_block(a, 128, 0);
  int64_t bytes = 2 * plain_row_bytes(a) * (block.rows + PLAIN_COLUMNS) + plain_score_bytes * block.rows;
  return two_entries(a, block, "attention_plain_grad", bytes,
                     bytes + plain_score_bytes * block.rows + 8 * PLAIN_COLUMNS);
}

static Passes mma_passes(Attention *a) {
  /* the pass over keys has two sums of a warp's rows in its registers */
  int64_t width = mma_width(a), columns = width <= 32 ? 64 : 32;
  Block block = define_block(a, 128, width <= 64 ? 2 : 1);
  define(a, "QUERY_PASS_COLUMNS", columns);
  define(a, "KEY_PASS_COLUMNS", columns);
  define(a, "KEEP", width <= 96);
  int64_t bytes = 2 * mma_row_bytes(a) * (block.rows + 2 * columns);
  return two_entries(a, block, "attention_grad", bytes, bytes + 16 * columns);
}

static Attention with_own_defines(const Attention *a) {
  Attention own = *a;
  own.defines = NULL;
  for (uint32_t i = 0; i < vec_len(a->defines); i++)
    define(&own, a->defines[i].name, a->defines[i].number);
  return own;
}

/* Two units: one with two blocks of 256 threads on a multiprocessor, and one whose sums want more registers: 384
 * threads have 168 each, as many as heads of 64 need. */
static Passes wgmma_passes(const Attention *a) {
  Attention queries = with_own_defines(a), keys = with_own_defines(a);
  Block block = define_block(&queries, 256, 1), key_block = define_block(&keys, a->head == 64 ? 384 : 256, 1);
  Passes passes = {.suffix = {"", ""}, .rounded = define_rounded(&queries, block.rows)};
  define(&keys, "ROUNDED", passes.rounded);
  int64_t columns = 2 * WGMMA_BUFFERS * WGMMA_COLUMNS;
  passes.kernel[0] = instance(&queries, "attention_grad_queries_sm90");
  passes.kernel[1] = instance(&keys, "attention_grad_keys_sm90");
  passes.geometry[0] = geometry_of(a, block, 1024 + 2 * a->head * (2 * block.rows + columns));
  passes.geometry[1] = geometry_of(
      a, key_block, 1024 + 2 * a->head * (2 * key_block.rows + columns) + 8 * WGMMA_BUFFERS * WGMMA_COLUMNS);
  return passes;
}

static void lower_gradient(Attention *a) {
  Lower *l = a->l;
  const Inst *inst = a->inst;
  Passes passes = a->means == PLAIN ? plain_passes(a) : a->means == MMA ? mma_passes(a) : wgmma_passes(a);

  Step queries = cuda_launch(l, a->index, passes.kernel[0], passes.suffix[0], passes.geometry[0]);
  read_values(a, &queries, inst->input, 5);
  cuda_read(l, &queries, a->lse);
  cuda_read(l, &queries, lower_place(l, inst->input[6]));
  cuda_write(l, &queries, lower_place(l, inst->output[0]));
  cuda_scratch(l, &queries, 2 * a->heads * passes.rounded * (int64_t)sizeof(float));
  Place statistics = vec_last(queries.fields).place;
  step_end(l, &queries);

  Step keys = cuda_launch(l, a->index, passes.kernel[1], passes.suffix[1], passes.geometry[1]);
  read_values(a, &keys, inst->input, 4);
  cuda_read(l, &keys, lower_place(l, inst->input[6]));
  cuda_write(l, &keys, lower_place(l, inst->output[1]));
  cuda_write(l, &keys, lower_place(l, inst->output[2]));
  cuda_read(l, &keys, statistics);
  step_end(l, &keys);
}

void lower_cuda_attention_grad(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  const ValueId matrices[] = {inst->input[0], inst->input[1],  inst->input[2],  inst->input[4],
                              inst->input[6], inst->output[0], inst->output[1], inst->output[2]};
  static const char *const strides[] = {"LD_Q", "LD_K", "LD_V", "LD_O", "LD_DO", "LD_DQ", "LD_DK", "LD_DV"};
  Attention a = attention_of(l, index);
  a.lse = lower_contiguous(l, index, inst->input[5]);
  lower_ways(a, matrices, strides, 8, lower_gradient);
}
