/* Lowering for CUDA: products with a ragged dim, as launches of codegen/cuda/grouped.cu or grouped_sm90.cu.
 *
 * In: grouped_matmul, grouped_outer, and matmul whose rows, or whose sum, stop at a live count (one group). Out: one
 * launch each, and for bf16 a decision between the two in the ledger. Holds: sizes of groups are read on the device;
 * tiles, threads and blocks follow from static bounds, and every number of blocks computes the same.
 */
#include "codegen/cuda_lower.h"
#include "passes/ledger.h"

enum { MULTIPROCESSORS = 132 /* of an H100 or H200 */, MOST_GROUPS = 1024 };
enum { DEPTH = 32, STAGES = 4 };

/* FORM of the template. */
typedef enum Form { FORM_PRODUCT, FORM_TRANSPOSED, FORM_OUTER } Form;

typedef struct Matrix {
  Place place;
  int64_t ld;
} Matrix;

typedef struct Product {
  Form form;
  bool single;    /* one group, whose rows are the last entry of `off`; else the groups between its entries */
  ValueId off;    /* offsets */
  int64_t groups; /* 1 when single */
  int64_t rows;   /* static bound of all groups together */
  int64_t m, n;   /* of c; m: FORM_OUTER only */
  int64_t k;      /* not of FORM_OUTER */
  Matrix a, b, c;
  DType operands, result;
} Product;

/* A block's tile. */
typedef struct Tiling {
  int m, n, warps_m, warps_n, blocks; /* blocks: at one time on a multiprocessor */
  double rate; /* estimated: of the first one's, by the bytes from memory and from shared memory for a product */
} Tiling;

/* All warps make 64 x 64, those of the last 32 x 32. */
static const Tiling bf16_tilings[] = {{128, 256, 2, 4, 1, 1}, {128, 128, 2, 2, 2, 0.9}, {64, 64, 2, 2, 4, 0.5}};
static const Tiling f32_tiling = {64, 64, 1, 8, 2, 1};

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* Tiles when all rows are live: a group's last tile is partly empty, so there may be one more for each group. */
static int64_t count_tiles(const Product *p, const Tiling *t, bool most) {
  int64_t down =
      p->form == FORM_OUTER ? p->groups * divide_up(p->m, t->m) : divide_up(p->rows, t->m) + (most ? p->groups - 1 : 0);
  return down * divide_up(p->n, t->n);
}

/* The one whose tiles on the busiest multiprocessor take the least time. */
static const Tiling *choose_tiling(const Product *p) {
  if (p->operands == DTYPE_F32)
    return &f32_tiling;
  const Tiling *best = NULL;
  double least = 0;
  for (size_t i = 0; i < sizeof bf16_tilings / sizeof bf16_tilings[0]; i++) {
    const Tiling *t = &bf16_tilings[i];
    double tiles = (double)divide_up(count_tiles(p, t, false), MULTIPROCESSORS), time = tiles * t->m * t->n / t->rate;
    if (!best || time < least) {
      best = t;
      least = time;
    }
  }
  return best;
}

/* Whether rows of `columns` elements can be accessed in pieces of `piece` elements of that many bytes in all. Storages
 * begin at multiples of 64 bytes, groups follow each other without gaps. */
static bool in_pieces(Matrix x, int64_t columns, int64_t piece, int64_t bytes) {
  return x.place.offset % bytes == 0 && x.ld % piece == 0 && columns % piece == 0;
}

static void add_define(Lower *l, CudaDefine **defines, const char *name, int64_t number) {
  vec_push(l->arena, *defines, ((CudaDefine){name, number}));
}

/* What both templates want to know. */
static CudaDefine *describe(Lower *l, const Product *p, const Tiling *t) {
  bool outer = p->form == FORM_OUTER, pairs = p->result == DTYPE_F32;
  CudaDefine *defines = NULL;
  add_define(l, &defines, "FORM", p->form);
  add_define(l, &defines, "GROUPS", p->groups);
  add_define(l, &defines, "SINGLE", p->single);
  if (outer)
    add_define(l, &defines, "M", p->m);
  add_define(l, &defines, "N", p->n);
  if (!outer)
    add_define(l, &defines, "K", p->k);
  add_define(l, &defines, "LDA", p->a.ld);
  add_define(l, &defines, "LDB", p->b.ld);
  add_define(l, &defines, "LDC", p->c.ld);
  add_define(l, &defines, outer ? "GROUP_C" : "GROUP_B", outer ? p->m * p->n : p->k * p->n);
  add_define(l, &defines, "RESULT_BF16", p->result == DTYPE_BF16);
  add_define(l, &defines, "VECTOR_C", in_pieces(p->c, p->n, pairs ? 2 : 8, pairs ? 8 : 16));
  add_define(l, &defines, "TILE_M", t->m);
  add_define(l, &defines, "TILE_N", t->n);
  return defines;
}

static Step begin_launch(Lower *l, uint32_t index, const Product *p, Kernel *kernel, CudaGeometry geometry) {
  Step s = cuda_launch(l, index, kernel, "", geometry);
  if (p->single)
    cuda_live(l, &s, p->off);
  else
    cuda_read(l, &s, lower_place(l, p->off));
  cuda_read(l, &s, p->a.place);
  cuda_read(l, &s, p->b.place);
  cuda_write(l, &s, p->c.place);
  return s;
}

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* ---------------------------------------------------------------- the portable kernel, codegen/cuda/grouped.cu */

static bool a_in_pieces(const Product *p) {
  return in_pieces(p->a, p->form == FORM_OUTER ? p->m : p->k, 8, 16);
}

static bool b_in_pieces(const Product *p) {
  return in_pieces(p->b, p->form == FORM_TRANSPOSED ? p->k : p->n, 8, 16);
}

static void launch_mma(Lower *l, uint32_t index, const Product *p) {
  const Tiling *t = choose_tiling(p);
  bool bf16 = p->operands == DTYPE_BF16;
  CudaDefine *defines = describe(l, p, t);
  add_define(l, &defines, "OPERANDS_BF16", bf16);
  if (bf16) {
    add_define(l, &defines, "VECTOR_A", a_in_pieces(p));
    add_define(l, &defines, "VECTOR_B", b_in_pieces(p));
    add_define(l, &defines, "DEPTH", DEPTH);
    add_define(l, &defines, "STAGES", STAGES);
    add_define(l, &defines, "WARPS_M", t->warps_m);
    add_define(l, &defines, "WARPS_N", t->warps_n);
    add_define(l, &defines, "BLOCKS", t->blocks);
  }
  add_define(l, &defines, NULL, 0);
  CudaGeometry geometry = {.blocks = {smaller(count_tiles(p, t, true), MULTIPROCESSORS * t->blocks)},
                           .threads = 32 * t->warps_m * t->warps_n};
  if (bf16)
    geometry.shared_bytes = (int64_t)STAGES * (t->m + t->n) * DEPTH * (int64_t)dtype_size(DTYPE_BF16);
  Step s = begin_launch(l, index, p, cuda_template(l, "grouped", defines, NULL), geometry);
  step_end(l, &s);
}

/* ---------------------------------------------------------------- Hopper's, codegen/cuda/grouped_sm90.cu */

enum { WGMMA_STAGES = 4, WGMMA_STAGE_BYTES = 49152, WGMMA_ALIGN = 1024, WGMMA_THREADS = 384, MAP_BYTES = 128 };
static const Tiling wgmma_tiling = {.m = 128, .n = 256};

/* NULL, or why it cannot be used. */
static const char *wgmma_obstacle(const Product *p) {
  if (p->n <= wgmma_tiling.n / 2)
    return "its tile of 256 columns is mostly wider than the result";
  if (!a_in_pieces(p) || !b_in_pieces(p))
    return "rows of an operand are not whole pieces of 16 bytes, which the copy engine wants";
  return NULL;
}

static void launch_wgmma(Lower *l, uint32_t index, const Product *p) {
  CudaDefine *defines = describe(l, p, &wgmma_tiling);
  add_define(l, &defines, "ROWS", p->rows);
  add_define(l, &defines, "STAGES", WGMMA_STAGES);
  add_define(l, &defines, NULL, 0);
  int64_t blocks = smaller(count_tiles(p, &wgmma_tiling, true), MULTIPROCESSORS);
  CudaGeometry geometry = {
      .blocks = {blocks}, .threads = WGMMA_THREADS, .shared_bytes = WGMMA_STAGES * WGMMA_STAGE_BYTES + WGMMA_ALIGN};
  Step s = begin_launch(l, index, p, cuda_template(l, "grouped_sm90", defines, "sm_90a"), geometry);
  cuda_scratch(l, &s, (2 * blocks + 1) * MAP_BYTES);
  step_end(l, &s);
}

/* ---------------------------------------------------------------- which */

static void record(Lower *l, uint32_t index, const Product *p, bool wgmma, const char *obstacle) {
  static const char portable[] = "the portable kernel (mma.sync, sm_80 and later)",
                    hopper[] = "the kernel for Hopper (wgmma and the copy engine, sm_90a only)";
  const Inst *inst = &l->func->insts[index];
  Site site = {.pass = "grouped", .function = l->func->name, .loc = inst->loc};
  vec_push(l->arena, site.values, l->func->values[inst->output[0]].name);
  Cost cost = NO_COST;
  cost.flops = 2.0 * (double)p->rows * (double)p->n * (double)(p->form == FORM_OUTER ? p->m : p->k);
  cost.launches = 1;
  Alternative other = {.what = wgmma ? portable : hopper, .cost = cost, .why_lost = obstacle};
  if (!obstacle)
    other.why_lost = wgmma ? "--grouped=wgmma" : "no GPU has compared the two yet; --grouped=wgmma chooses it";
  Alternative *alternatives = NULL;
  vec_push(l->arena, alternatives, other);
  decide(l->cuda->ledger, site, wgmma ? hopper : portable, alternatives, cost,
         wgmma                    ? "--grouped=wgmma"
         : l->cuda->grouped_wgmma ? "the other cannot be used"
                                  : "the default");
}

static void launch(Lower *l, uint32_t index, const Product *p) {
  if (p->groups > MOST_GROUPS)
    ir_fail(l->func->insts[index].loc, "a grouped product on CUDA has at most %d groups, this one has %lld",
            MOST_GROUPS, (long long)p->groups);
  bool bf16 = p->operands == DTYPE_BF16;
  const char *obstacle = bf16 ? wgmma_obstacle(p) : NULL;
  bool wgmma = bf16 && l->cuda->grouped_wgmma && !obstacle;
  if (bf16 && l->cuda->ledger)
    record(l, index, p, wgmma, obstacle);
  if (wgmma)
    launch_wgmma(l, index, p);
  else
    launch_mma(l, index, p);
}

static Matrix matrix(const Lower *l, ValueId v) {
  return (Matrix){lower_place(l, v), l->ld[v]};
}

void lower_cuda_grouped_matmul(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0], w = inst->input[1], y = inst->output[0];
  Type weights = lower_type(l, w);
  launch(l, index,
         &(Product){.form = inst_int(inst, ATTRIBUTE_tb, 0) ? FORM_TRANSPOSED : FORM_PRODUCT,
                    .off = inst->input[2],
                    .groups = dim_value(l->module, weights.dim[0]),
                    .rows = type_rows(l->module, lower_type(l, x)),
                    .n = type_columns(l->module, lower_type(l, y)),
                    .k = type_columns(l->module, lower_type(l, x)),
                    .a = matrix(l, x),
                    .b = {lower_contiguous(l, index, w), type_columns(l->module, weights)},
                    .c = matrix(l, y),
                    .operands = lower_type(l, x).dtype,
                    .result = lower_type(l, y).dtype});
}

void lower_cuda_grouped_outer(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId a = inst->input[0], b = inst->input[1], c = inst->output[0];
  launch(l, index,
         &(Product){.form = FORM_OUTER,
                    .off = inst->input[2],
                    .groups = dim_value(l->module, lower_type(l, c).dim[0]),
                    .rows = type_rows(l->module, lower_type(l, a)),
                    .m = type_columns(l->module, lower_type(l, a)),
                    .n = type_columns(l->module, lower_type(l, b)),
                    .a = matrix(l, a),
                    .b = matrix(l, b),
                    .c = matrix(l, c),
                    .operands = lower_type(l, a).dtype,
                    .result = lower_type(l, c).dtype});
}

void lower_cuda_ragged_matmul(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId a = inst->input[0], b = inst->input[1], c = inst->output[0];
  Type type_a = lower_type(l, a), type_b = lower_type(l, b), type_c = lower_type(l, c);
  bool ta = inst_int(inst, ATTRIBUTE_ta, 0), tb = inst_int(inst, ATTRIBUTE_tb, 0);
  ValueId extent = type_a.extent != NO_VALUE ? type_a.extent : type_b.extent;
  if (extent == NO_VALUE || (!ta && type_a.extent == NO_VALUE) || (type_b.extent != NO_VALUE && (tb || !ta)))
    ir_bug("%s: matmul %%%s: neither its rows nor its sum are ragged, or its columns are", l->func->name,
           l->func->values[c].name);
  if (ta && tb)
    ir_fail(inst->loc, "matmul: a sum over the live rows of %%%s needs the other operand as rows, not transposed (tb)",
            l->func->values[a].name);
  launch(l, index,
         &(Product){.form = ta   ? FORM_OUTER
                            : tb ? FORM_TRANSPOSED
                                 : FORM_PRODUCT,
                    .single = true,
                    .off = extent,
                    .groups = 1,
                    .rows = type_rows(l->module, type_a),
                    .m = ta ? type_rows(l->module, type_c) : 0,
                    .n = type_columns(l->module, type_c),
                    .k = ta ? 0 : type_columns(l->module, type_a),
                    .a = matrix(l, a),
                    .b = matrix(l, b),
                    .c = matrix(l, c),
                    .operands = type_a.dtype,
                    .result = type_c.dtype});
}
