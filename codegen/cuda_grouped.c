/* Lowering for CUDA: products with a ragged dim, as launches of codegen/cuda/grouped.cu or grouped_sm90.cu.
 *
 * In: grouped_matmul, grouped_outer, and matmul whose rows, or whose sum, stop at a live count (one group); and the row
 * kernel behind a grouped_matmul, where it can be its epilogue (kernel_epilogue.c). Out: one launch each; for bf16 a
 * choice of the plan between both kernels, and between a kernel with the epilogue and one with the row kernel behind
 * it. The product then stands where the row kernel does. What there is for bf16 stands in the ledger. Holds: sizes of
 * groups are read on the device; tiles, threads and blocks follow from static bounds, and every number of blocks
 * computes the same.
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

/* The row kernel behind a product. */
typedef struct Behind {
  uint32_t first, last; /* its instructions */
  KernelEpilogue epilogue;
  const KernelCall *call;
  bool stores; /* somebody else reads the product */
} Behind;

/* `behind`: as the epilogue; NULL: none. */
static Step begin_launch(Lower *l, uint32_t index, const Product *p, const Behind *behind, Kernel *kernel,
                         CudaGeometry geometry) {
  Step s = cuda_launch(l, index, kernel, "", geometry);
  if (p->single)
    cuda_live(l, &s, p->off);
  else
    cuda_read(l, &s, lower_place(l, p->off));
  cuda_read(l, &s, p->a.place);
  cuda_read(l, &s, p->b.place);
  if (behind && !behind->stores)
    cuda_null(l, &s);
  else
    cuda_write(l, &s, p->c.place);
  if (!behind)
    return s;
  vec_last(s.fields).value = l->func->insts[index].output[0];
  s.first_inst = behind->first;
  s.last_inst = behind->last;
  for (uint32_t i = 0; i < vec_len(behind->epilogue.operands); i++) {
    const KernelOperand *operand = &behind->epilogue.operands[i];
    if (operand->role == OPERAND_OUTPUT)
      cuda_write(l, &s, lower_place(l, operand->value));
    else
      cuda_read(l, &s, lower_place(l, operand->value));
    vec_last(s.fields).in_place = operand->in_place;
    vec_last(s.fields).value = operand->value;
  }
  return s;
}

static Kernel *instance(Lower *l, const char *name, CudaDefine *defines, const char *arch, const Behind *behind) {
  if (behind)
    add_define(l, &defines, "STORE_C", behind->stores);
  add_define(l, &defines, NULL, 0);
  return kernel_from_template(l->kernels, name, defines, arch, behind ? &behind->epilogue : NULL);
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

static void launch_mma(Lower *l, uint32_t index, const Product *p, const Behind *behind) {
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
  CudaGeometry geometry = {.blocks = {smaller(count_tiles(p, t, true), MULTIPROCESSORS * t->blocks)},
                           .threads = 32 * t->warps_m * t->warps_n};
  if (bf16)
    geometry.shared_bytes = (int64_t)STAGES * (t->m + t->n) * DEPTH * (int64_t)dtype_size(DTYPE_BF16);
  Step s = begin_launch(l, index, p, behind, instance(l, "grouped", defines, NULL, behind), geometry);
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

static void launch_wgmma(Lower *l, uint32_t index, const Product *p, const Behind *behind) {
  CudaDefine *defines = describe(l, p, &wgmma_tiling);
  add_define(l, &defines, "ROWS", p->rows);
  add_define(l, &defines, "STAGES", WGMMA_STAGES);
  int64_t blocks = smaller(count_tiles(p, &wgmma_tiling, true), MULTIPROCESSORS);
  CudaGeometry geometry = {
      .blocks = {blocks}, .threads = WGMMA_THREADS, .shared_bytes = WGMMA_STAGES * WGMMA_STAGE_BYTES + WGMMA_ALIGN};
  Step s = begin_launch(l, index, p, behind, instance(l, "grouped_sm90", defines, "sm_90a", behind), geometry);
  cuda_scratch(l, &s, (2 * blocks + 1) * MAP_BYTES);
  step_end(l, &s);
}

/* ---------------------------------------------------------------- the kernel behind a product */

static bool reads(const Inst *inst, ValueId v) {
  for (int k = 0; k < inst->input_count; k++)
    if (inst->input[k] == v)
      return true;
  return false;
}

/* The last grouped_matmul that insts first..last read, if nothing between it and them reads it; else NO_INST. */
static uint32_t product_before(const Func *f, uint32_t first, uint32_t last) {
  uint32_t product = NO_INST;
  for (uint32_t i = first; i <= last; i++)
    for (int k = 0; k < f->insts[i].input_count; k++) {
      const Value *v = &f->values[f->insts[i].input[k]];
      if (v->kind == VALUE_RESULT && v->inst < first && f->insts[v->inst].op == OP_grouped_matmul &&
          (product == NO_INST || v->inst > product))
        product = v->inst;
    }
  for (uint32_t i = product; product != NO_INST && i < first; i++)
    if (i > product && reads(&f->insts[i], f->insts[product].output[0]))
      return NO_INST;
  return product;
}

/* The row kernel of insts first..last as the epilogue of the product. */
static Behind behind_of(Lower *l, uint32_t product, uint32_t first, uint32_t last) {
  const Inst *inst = &l->func->insts[product];
  ValueId y = inst->output[0];
  ValueLayout layout = {.ld = l->ld, .offset = l->offset, .last_use = l->last_use};
  Matrix c = {l->plan->values[y].place, l->ld[y]};
  Behind behind = {.first = first, .last = last, .stores = l->keep_values || l->last_use[y] > last};
  if (lower_type(l, inst->input[0]).dtype != DTYPE_BF16 || lower_type(l, y).dtype != DTYPE_BF16)
    behind.epilogue.refusal = "it is for products of bf16";
  else if (!in_pieces(c, type_columns(l->module, lower_type(l, y)), 8, 16))
    behind.epilogue.refusal = "rows of the product are not whole pieces of 16 bytes";
  else
    behind.epilogue = kernel_epilogue(l->kernels, l->func, first, last, &layout, y, inst->input[2]);
  return behind;
}

/* The instructions that are one step with the one that reads v first, behind instruction `from`. */
static bool first_reader(const Lower *l, uint32_t from, ValueId v, uint32_t *first, uint32_t *last) {
  const Inst *insts = l->func->insts;
  uint32_t count = vec_len(insts), at = from + 1;
  while (at < count && !reads(&insts[at], v))
    at++;
  if (at == count || (insts[at].group == NO_GROUP && lower_rule[insts[at].op] != lower_row))
    return false;
  *first = *last = at;
  while (insts[at].group != NO_GROUP && *first > 0 && insts[*first - 1].group == insts[at].group)
    --*first;
  while (insts[at].group != NO_GROUP && *last + 1 < count && insts[*last + 1].group == insts[at].group)
    ++*last;
  return true;
}

/* ---------------------------------------------------------------- which */

typedef enum Kind { KIND_MMA, KIND_WGMMA, KINDS } Kind;

typedef struct Ways {
  bool kind[KINDS];
  const char *obstacle; /* of wgmma, or NULL */
} Ways;

static Ways find_ways(const Lower *l, const Product *p) {
  CudaKinds wanted = l->cuda->grouped;
  Ways ways = {.kind = {true}};
  if (p->operands != DTYPE_BF16)
    return ways;
  ways.obstacle = wgmma_obstacle(p);
  ways.kind[KIND_WGMMA] = !ways.obstacle && wanted != CUDA_KINDS_MMA;
  ways.kind[KIND_MMA] = ways.obstacle || wanted != CUDA_KINDS_WGMMA;
  return ways;
}

/* `epilogue_lost`: why the row kernel behind is no epilogue; NULL: it is one, or there is none. */
static void record(Lower *l, uint32_t index, const Product *p, const Ways *ways, const Behind *behind,
                   const char *epilogue_lost) {
  static const char portable[] = "the portable kernel (mma.sync, sm_80 and later)",
                    hopper[] = "the kernel for Hopper (wgmma and the copy engine, sm_90a only)",
                    two[] = "both kernels (mma.sync, and wgmma with the copy engine for sm_90a)";
  const Inst *inst = &l->func->insts[index];
  bool both = ways->kind[KIND_MMA] && ways->kind[KIND_WGMMA];
  Site site = {.pass = "grouped", .function = l->func->name, .loc = inst->loc};
  vec_push(l->arena, site.values, l->func->values[inst->output[0]].name);
  Cost cost = NO_COST;
  cost.flops = 2.0 * (double)p->rows * (double)p->n * (double)(p->form == FORM_OUTER ? p->m : p->k);
  cost.launches = 1;
  Alternative *alternatives = NULL;
  if (!ways->kind[KIND_MMA])
    vec_push(l->arena, alternatives, ((Alternative){portable, cost, "--grouped=wgmma"}));
  if (!ways->kind[KIND_WGMMA])
    vec_push(l->arena, alternatives, ((Alternative){hopper, cost, ways->obstacle ? ways->obstacle : "--grouped=mma"}));
  if (epilogue_lost)
    vec_push(l->arena, alternatives, ((Alternative){"the kernel behind it as its epilogue", cost, epilogue_lost}));
  const char *chosen = both ? two : ways->kind[KIND_MMA] ? portable : hopper;
  if (behind)
    chosen = arena_print(l->arena, "%s, each alone and with the kernel behind it as its epilogue", chosen);
  decide(l->cuda->ledger, site, chosen, alternatives, cost,
         both || behind           ? "the fastest on the GPU, timed in the first step there"
         : ways->obstacle         ? "the other cannot be used"
         : ways->kind[KIND_WGMMA] ? "--grouped=wgmma"
                                  : "--grouped=mma");
}

/* The steps of every way; `behind`: NULL where no row kernel belongs to the product. */
static void lower_ways(Lower *l, uint32_t index, const Product *p, const Ways *ways, const Behind *behind) {
  static const char *const names[KINDS] = {"mma", "wgmma"}, *const fused[KINDS] = {"mma-epilogue", "wgmma-epilogue"};
  void (*const launch[KINDS])(Lower *, uint32_t, const Product *, const Behind *) = {launch_mma, launch_wgmma};
  bool choice = behind || (ways->kind[KIND_MMA] && ways->kind[KIND_WGMMA]);
  if (choice)
    cuda_choice_begin(l);
  for (int kind = 0; kind < KINDS; kind++) {
    if (!ways->kind[kind])
      continue;
    if (choice)
      cuda_option(l, names[kind]);
    launch[kind](l, index, p, NULL);
    if (behind)
      cuda_row_kernel(l, behind->call, behind->first, behind->last);
  }
  for (int kind = 0; behind && kind < KINDS; kind++)
    if (ways->kind[kind]) {
      cuda_option(l, fused[kind]);
      launch[kind](l, index, p, behind);
    }
  if (choice)
    cuda_choice_end(l);
}

static void lower_product(Lower *l, uint32_t index, const Product *p, const Behind *behind, const char *epilogue_lost) {
  if (p->groups > MOST_GROUPS)
    ir_fail(l->func->insts[index].loc, "a grouped product on CUDA has at most %d groups, this one has %lld",
            MOST_GROUPS, (long long)p->groups);
  Ways ways = find_ways(l, p);
  if (p->operands == DTYPE_BF16 && l->cuda->ledger)
    record(l, index, p, &ways, behind, epilogue_lost);
  lower_ways(l, index, p, &ways, behind);
}

static Matrix matrix(const Lower *l, ValueId v) {
  return (Matrix){lower_place(l, v), l->ld[v]};
}

static Product product_of(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0], w = inst->input[1], y = inst->output[0];
  Type weights = lower_type(l, w);
  return (Product){.form = inst_int(inst, ATTRIBUTE_tb, 0) ? FORM_TRANSPOSED : FORM_PRODUCT,
                   .off = inst->input[2],
                   .groups = dim_value(l->module, weights.dim[0]),
                   .rows = type_rows(l->module, lower_type(l, x)),
                   .n = type_columns(l->module, lower_type(l, y)),
                   .k = type_columns(l->module, lower_type(l, x)),
                   .a = matrix(l, x),
                   .b = {lower_contiguous(l, index, w), type_columns(l->module, weights)},
                   .c = matrix(l, y),
                   .operands = lower_type(l, x).dtype,
                   .result = lower_type(l, y).dtype};
}

/* Where a row kernel behind it can be its epilogue, lower_cuda_epilogue lowers both. */
void lower_cuda_grouped_matmul(Lower *l, uint32_t index) {
  uint32_t first, last;
  const char *epilogue_lost = NULL;
  if (first_reader(l, index, l->func->insts[index].output[0], &first, &last) &&
      product_before(l->func, first, last) == index) {
    epilogue_lost = behind_of(l, index, first, last).epilogue.refusal;
    if (!epilogue_lost)
      return;
  }
  Product p = product_of(l, index);
  lower_product(l, index, &p, NULL, epilogue_lost);
}

bool lower_cuda_epilogue(Lower *l, uint32_t first, uint32_t last) {
  uint32_t product = product_before(l->func, first, last);
  if (product == NO_INST)
    return false;
  Behind behind = behind_of(l, product, first, last);
  if (behind.epilogue.refusal)
    return false;
  ValueLayout layout = {.ld = l->ld, .offset = l->offset, .last_use = l->last_use};
  behind.call = kernel_lower(l->kernels, l->func, first, last, &layout);
  Product p = product_of(l, product);
  lower_product(l, product, &p, &behind, NULL);
  return true;
}

void lower_cuda_grouped_outer(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId a = inst->input[0], b = inst->input[1], c = inst->output[0];
  lower_product(l, index,
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
                           .result = lower_type(l, c).dtype},
                NULL, NULL);
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
  lower_product(l, index,
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
                           .result = type_c.dtype},
                NULL, NULL);
}
