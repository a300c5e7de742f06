/* Grouped products for CUDA on the device simulator, against sums in double precision written out here.
 *
 * Two ways in: instances of codegen/cuda/grouped.cu with every tile, form and type, at sizes that end in the middle of
 * tiles, and what the lowering makes of an instruction. Rows behind the last group, and what lies between rows, hold
 * NaN in the operands and must stay unwritten in the result. The simulator runs each launch in several orders of blocks
 * and threads and wants the same bits of all. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/step_field.h"
#include "tests/simulator/simulator_kernel.h"

enum { MOST_GROUPS = 70, FORM_PRODUCT = 0, FORM_TRANSPOSED = 1, FORM_OUTER = 2 };

typedef struct Case {
  const char *name;
  int form;
  bool single, bf16, result_bf16;
  int groups;
  int rows_of[MOST_GROUPS]; /* of each group; repeated when there are more groups than numbers */
  int numbers;
  int m, n, k;             /* of c and the depth, as the form needs them */
  int gap_a, gap_b, gap_c; /* elements behind each row */
  int spare;               /* rows behind the last group */
  int tile_m, tile_n, warps_m, warps_n, depth, stages, blocks;
  bool wgmma; /* codegen/cuda/grouped_sm90.cu */
} Case;

#define SMALL .tile_m = 64, .tile_n = 64, .warps_m = 2, .warps_n = 2, .depth = 32, .stages = 4
#define MEDIUM .tile_m = 128, .tile_n = 128, .warps_m = 2, .warps_n = 2, .depth = 32, .stages = 4
#define LARGE .tile_m = 128, .tile_n = 256, .warps_m = 2, .warps_n = 4, .depth = 32, .stages = 4
#define DEEP .tile_m = 64, .tile_n = 64, .warps_m = 2, .warps_n = 1, .depth = 64, .stages = 3
#define WGMMA .tile_m = 128, .tile_n = 256, .stages = 4, .wgmma = true
#define F32 .tile_m = 64, .tile_n = 64
#define ROWS(...) .rows_of = {__VA_ARGS__}, .numbers = sizeof((int[]){__VA_ARGS__}) / sizeof(int)

static const Case cases[] = {
    {"product, empty groups and one row", 0, false, true, true, 6, ROWS(0, 70, 1, 0, 33, 0), .n = 72, .k = 40,
     .spare = 5, SMALL, .blocks = 3},
    {"product, f32 result, gaps", 0, false, true, false, 3, ROWS(5, 64, 17), .n = 136, .k = 96, .gap_a = 8, .gap_b = 16,
     .gap_c = 2, .spare = 3, SMALL, .blocks = 2},
    {"transposed", 1, false, true, true, 4, ROWS(65, 0, 9, 128), .n = 88, .k = 72, .spare = 9, SMALL, .blocks = 4},
    {"transposed, f32 result, medium tiles", 1, false, true, false, 2, ROWS(131, 20), .n = 160, .k = 64, .spare = 1,
     MEDIUM, .blocks = 5},
    {"product, large tiles", 0, false, true, true, 2, ROWS(140, 3), .n = 264, .k = 104, .spare = 2, LARGE, .blocks = 2},
    {"outer, large tiles", 2, false, true, false, 3, ROWS(37, 0, 65), .m = 136, .n = 264, .spare = 30, LARGE,
     .blocks = 2},
    {"outer, bf16 result", 2, false, true, true, 5, ROWS(0, 31, 32, 33, 1), .m = 72, .n = 40, .gap_a = 8, .gap_b = 8,
     .spare = 31, SMALL, .blocks = 4},
    {"outer, no rows at all", 2, false, true, false, 2, ROWS(0, 0), .m = 16, .n = 24, .spare = 8, SMALL, .blocks = 1},
    {"product, no rows at all", 0, false, true, true, 3, ROWS(0), .n = 16, .k = 16, .spare = 40, SMALL, .blocks = 2},
    {"product, deep stages", 0, false, true, true, 3, ROWS(30, 2, 68), .n = 64, .k = 136, .spare = 4, DEEP,
     .blocks = 2},
    {"outer, deep stages", 2, false, true, false, 3, ROWS(130, 0, 63), .m = 64, .n = 72, .spare = 3, DEEP, .blocks = 2},
    {"product, odd sizes", 0, false, true, true, 3, ROWS(20, 0, 50), .n = 35, .k = 21, .gap_a = 2, .gap_c = 1,
     .spare = 4, SMALL, .blocks = 2},
    {"transposed, odd sizes", 1, false, true, false, 2, ROWS(9, 66), .n = 67, .k = 13, .spare = 4, SMALL, .blocks = 2},
    {"outer, odd sizes", 2, false, true, true, 3, ROWS(19, 0, 41), .m = 33, .n = 27, .spare = 4, SMALL, .blocks = 2},
    {"product, one group", 0, true, true, true, 1, ROWS(77), .n = 48, .k = 56, .gap_b = 8, .spare = 60, SMALL,
     .blocks = 3},
    {"outer, one group", 2, true, true, false, 1, ROWS(45), .m = 40, .n = 48, .gap_c = 2, .spare = 60, SMALL,
     .blocks = 1},
    {"product, many groups", 0, false, true, true, 70, ROWS(3, 0, 1), .n = 16, .k = 8, .spare = 1, SMALL, .blocks = 7},
    {"wgmma product", 0, false, true, true, 4, ROWS(140, 0, 3, 64), .n = 264, .k = 104, .spare = 3, WGMMA, .blocks = 2},
    {"wgmma product, longer than the ring, gaps", 0, false, true, false, 3, ROWS(0, 200, 5), .n = 520, .k = 584,
     .gap_a = 8, .gap_c = 2, .spare = 30, WGMMA, .blocks = 3},
    {"wgmma transposed", 1, false, true, false, 3, ROWS(5, 65, 129), .n = 264, .k = 72, .spare = 1, WGMMA, .blocks = 2},
    {"wgmma transposed, odd columns", 1, false, true, true, 2, ROWS(30, 70), .n = 271, .k = 128, .spare = 9, WGMMA,
     .blocks = 1},
    {"wgmma outer", 2, false, true, false, 4, ROWS(37, 0, 128, 1), .m = 136, .n = 264, .spare = 30, WGMMA, .blocks = 3},
    {"wgmma outer, longer than the ring", 2, false, true, true, 3, ROWS(0, 401, 320), .m = 128, .n = 256, .spare = 2,
     WGMMA, .blocks = 1},
    {"wgmma product, one group", 0, true, true, true, 1, ROWS(77), .n = 264, .k = 56, .spare = 60, WGMMA, .blocks = 2},
    {"wgmma outer, one group", 2, true, true, false, 1, ROWS(77), .m = 72, .n = 264, .spare = 60, WGMMA, .blocks = 2},
    {"wgmma product, no rows at all", 0, false, true, true, 2, ROWS(0), .n = 256, .k = 64, .spare = 9, WGMMA,
     .blocks = 2},
    {"f32 product", 0, false, false, false, 5, ROWS(66, 0, 1, 20, 0), .n = 70, .k = 37, .gap_a = 1, .gap_c = 3,
     .spare = 6, F32, .blocks = 2},
    {"f32 transposed", 1, false, false, false, 3, ROWS(5, 70, 3), .n = 65, .k = 48, .spare = 6, F32, .blocks = 3},
    {"f32 outer", 2, false, false, false, 4, ROWS(17, 0, 70, 1), .m = 66, .n = 30, .spare = 6, F32, .blocks = 2},
};

/* ---------------------------------------------------------------- matrices */

typedef struct Matrix {
  void *data; /* of the simulator */
  bool bf16;
  int64_t rows, columns, ld;
} Matrix;

static uint16_t bf16_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static size_t matrix_bytes(const Matrix *x) {
  return (size_t)(x->rows * x->ld) * (x->bf16 ? 2 : 4);
}

static double matrix_get(const Matrix *x, int64_t row, int64_t column) {
  int64_t at = row * x->ld + column;
  if (!x->bf16)
    return ((const float *)x->data)[at];
  uint32_t bits = (uint32_t)((const uint16_t *)x->data)[at] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void matrix_set(Matrix *x, int64_t row, int64_t column, float value) {
  int64_t at = row * x->ld + column;
  if (x->bf16)
    ((uint16_t *)x->data)[at] = bf16_of(value);
  else
    ((float *)x->data)[at] = value;
}

static float next_random(void) {
  static uint32_t state = 12345;
  state = state * 1664525u + 1013904223u;
  return (float)(int32_t)(state >> 8) * 0x1p-23f - 1.0f;
}

/* Random numbers in the first `live` rows, NaN (which unwritten memory is) everywhere else. */
static Matrix matrix_random(bool bf16, int64_t rows, int64_t columns, int64_t gap, int64_t live) {
  Matrix x = {.bf16 = bf16, .rows = rows, .columns = columns, .ld = columns + gap};
  x.data = simulator_alloc(matrix_bytes(&x));
  simulator_mark_written(x.data, matrix_bytes(&x));
  memset(x.data, 0xff, matrix_bytes(&x));
  for (int64_t i = 0; i < live; i++)
    for (int64_t j = 0; j < columns; j++)
      matrix_set(&x, i, j, next_random());
  return x;
}

/* ---------------------------------------------------------------- a case in memory */

typedef struct Product {
  const Case *c;
  int32_t off[MOST_GROUPS + 1], *device_off;
  Matrix a, b, result;
} Product;

static Product product_make(const Case *c) {
  Product p = {.c = c};
  for (int g = 0; g < c->groups; g++)
    p.off[g + 1] = p.off[g] + c->rows_of[g % c->numbers];
  int64_t live = p.off[c->groups], rows = live + c->spare;
  p.device_off = simulator_copy(c->single ? &p.off[1] : p.off, (size_t)(c->single ? 1 : c->groups + 1) * sizeof *p.off);
  if (c->form == FORM_OUTER) {
    p.a = matrix_random(c->bf16, rows, c->m, c->gap_a, live);
    p.b = matrix_random(c->bf16, rows, c->n, c->gap_b, live);
    p.result = (Matrix){.bf16 = c->result_bf16, .rows = (int64_t)c->groups * c->m, .columns = c->n};
  } else {
    bool tb = c->form == FORM_TRANSPOSED;
    int64_t rows_b = (int64_t)c->groups * (tb ? c->n : c->k);
    p.a = matrix_random(c->bf16, rows, c->k, c->gap_a, live);
    p.b = matrix_random(c->bf16, rows_b, tb ? c->k : c->n, c->gap_b, rows_b);
    p.result = (Matrix){.bf16 = c->result_bf16, .rows = rows, .columns = c->n};
  }
  p.result.ld = c->n + c->gap_c;
  p.result.data = simulator_alloc(matrix_bytes(&p.result));
  return p;
}

static void product_free(Product *p) {
  simulator_free(p->device_off);
  simulator_free(p->a.data);
  simulator_free(p->b.data);
  simulator_free(p->result.data);
}

/* The sum for one element of c, row counted over all groups, and the sum of its terms' magnitudes. */
static double product_want(const Product *p, int group, int64_t row, int64_t column, double *magnitude) {
  const Case *c = p->c;
  bool outer = c->form == FORM_OUTER;
  int64_t begin = outer ? p->off[group] : 0, end = outer ? p->off[group + 1] : c->k;
  double sum = 0;
  *magnitude = 0;
  for (int64_t d = begin; d < end; d++) {
    double a = outer ? matrix_get(&p->a, d, row - (int64_t)group * c->m) : matrix_get(&p->a, row, d);
    double b = outer                        ? matrix_get(&p->b, d, column)
               : c->form == FORM_TRANSPOSED ? matrix_get(&p->b, (int64_t)group * c->n + column, d)
                                            : matrix_get(&p->b, (int64_t)group * c->k + d, column);
    sum += a * b;
    *magnitude += fabs(a * b);
  }
  return sum;
}

static int group_of(const Product *p, int64_t row) {
  if (p->c->form == FORM_OUTER)
    return (int)(row / p->c->m);
  int group = 0;
  while (p->off[group + 1] <= row)
    group++;
  return group;
}

/* Every element of c: right where it belongs to a group, untouched elsewhere. */
static bool product_check(const Product *p) {
  const Matrix *c = &p->result;
  int64_t live = p->c->form == FORM_OUTER ? c->rows : p->off[p->c->groups], size = c->bf16 ? 2 : 4;
  for (int64_t i = 0; i < c->rows; i++)
    for (int64_t j = 0; j < c->ld; j++) {
      int64_t at = (i * c->ld + j) * size;
      bool unwritten = simulator_unwritten(c->data, (size_t)at, (size_t)size) >= 0;
      bool inside = i < live && j < c->columns;
      if (unwritten == inside) {
        printf("%s: c[%lld][%lld] is %s\n", p->c->name, (long long)i, (long long)j, inside ? "unwritten" : "written");
        return false;
      }
      if (!inside)
        continue;
      double magnitude, want = product_want(p, group_of(p, i), i, j, &magnitude), got = matrix_get(c, i, j);
      double tolerance = 4e-6 * magnitude + (c->bf16 ? 0x1p-8 * fabs(want) : 0);
      if (!(fabs(got - want) <= tolerance)) {
        printf("%s: c[%lld][%lld] is %.9g, expected %.9g\n", p->c->name, (long long)i, (long long)j, got, want);
        return false;
      }
    }
  return true;
}

/* ---------------------------------------------------------------- running */

static bool product_run(Product *p, const Kernel *kernel, int64_t blocks, int threads, int64_t shared_bytes) {
  Arena *arena = arena_new();
  SimulatorUnit *unit = simulator_compile(arena_print(arena, "%s\n%s", kernel_prelude_cuda(), kernel_cuda(kernel)));
  arena_free(arena);
  if (!unit) {
    printf("%s: %s\n", p->c->name, simulator_error());
    return false;
  }
  SimulatorLaunch launch = {unit, kernel_name(kernel), {blocks}, threads, shared_bytes};
  void *maps = p->c->wgmma ? simulator_alloc((size_t)(2 * blocks + 1) * 128) : NULL;
  uint64_t parameters[] = {(uintptr_t)p->device_off, (uintptr_t)p->a.data, (uintptr_t)p->b.data,
                           (uintptr_t)p->result.data, (uintptr_t)maps};
  bool ran = simulator_run(&launch, parameters, p->c->wgmma ? 5 : 4);
  if (!ran)
    printf("%s: %s\n", p->c->name, simulator_error());
  simulator_free(maps);
  return ran && product_check(p);
}

static bool in_pieces(const Matrix *x) {
  return x->columns % 8 == 0 && x->ld % 8 == 0;
}

static Kernel *instance(Arena *arena, KernelSet *set, const Product *p) {
  const Case *c = p->c;
  int64_t group_b = (c->form == FORM_TRANSPOSED ? c->n : c->k) * p->b.ld;
  const CudaDefine all[] = {{"FORM", c->form},
                            {"GROUPS", c->groups},
                            {"SINGLE", c->single},
                            {"M", c->m},
                            {"N", c->n},
                            {"K", c->k},
                            {"LDA", p->a.ld},
                            {"LDB", p->b.ld},
                            {"LDC", p->result.ld},
                            {"GROUP_B", group_b},
                            {"GROUP_C", c->m * p->result.ld},
                            {"RESULT_BF16", c->result_bf16},
                            {"VECTOR_C", c->result_bf16 ? in_pieces(&p->result) : (c->n | p->result.ld) % 2 == 0},
                            {"TILE_M", c->tile_m},
                            {"TILE_N", c->tile_n},
                            {NULL, 0}};
  const CudaDefine f32[] = {{"OPERANDS_BF16", 0}, {NULL, 0}};
  const CudaDefine bf16[] = {{"OPERANDS_BF16", 1},
                             {"VECTOR_A", in_pieces(&p->a)},
                             {"VECTOR_B", in_pieces(&p->b)},
                             {"DEPTH", c->depth},
                             {"STAGES", c->stages},
                             {"WARPS_M", c->warps_m},
                             {"WARPS_N", c->warps_n},
                             {"BLOCKS", 1},
                             {NULL, 0}};
  const CudaDefine wgmma[] = {{"ROWS", p->a.rows}, {"STAGES", c->stages}, {NULL, 0}};
  CudaDefine *defines = NULL;
  for (const CudaDefine *d = all; d->name; d++)
    vec_push(arena, defines, *d);
  for (const CudaDefine *d = c->wgmma ? wgmma : c->bf16 ? bf16 : f32; d->name; d++)
    vec_push(arena, defines, *d);
  vec_push(arena, defines, ((CudaDefine){NULL, 0}));
  return kernel_from_template(set, c->wgmma ? "grouped_sm90" : "grouped", defines, c->wgmma ? "sm_90a" : NULL, NULL);
}

static bool run_instance(Arena *arena, const Case *c) {
  KernelSet set = {.arena = arena, .cuda = true};
  Product p = product_make(c);
  int threads = c->wgmma ? 384 : c->bf16 ? 32 * c->warps_m * c->warps_n : 256;
  int depth = c->wgmma ? 64 : c->depth;
  bool good = product_run(&p, instance(arena, &set, &p), c->blocks, threads,
                          (int64_t)c->stages * (c->tile_m + c->tile_n) * depth * 2 + (c->wgmma ? 1024 : 0));
  product_free(&p);
  return good;
}

/* ---------------------------------------------------------------- through the lowering */

typedef struct Lowered {
  const char *arguments, *instruction;
  Case c; /* what it must compute; tiles and blocks are the lowering's choice */
} Lowered;

static const Lowered lowered[] = {
    {"%x: bf16[100<%off>,48], %w: bf16[3,48,40], %off: i32[4]",
     "%c: bf16[100<%off>,40] = grouped_matmul %x, %w, %off",
     {"lowered grouped_matmul", 0, false, true, true, 3, ROWS(41, 0, 29), .n = 40, .k = 48, .spare = 30}},
    {"%x: bf16[300<%off>,24], %w: bf16[3,33,24], %off: i32[4]",
     "%c: f32[300<%off>,33] = grouped_matmul %x, %w, %off {tb=1, dtype=f32}",
     {"lowered grouped_matmul, transposed", 1, false, true, false, 3, ROWS(140, 0, 29), .n = 33, .k = 24,
      .spare = 131}},
    {"%x: f32[90<%off>,12], %y: f32[90<%off>,20], %off: i32[3]",
     "%c: f32[2,12,20] = grouped_outer %x, %y, %off",
     {"lowered grouped_outer, f32", 2, false, false, false, 2, ROWS(41, 30), .m = 12, .n = 20, .spare = 19}},
    {"%x: bf16[90<%off>,24], %y: bf16[24,40], %off: i32[3]",
     "%c: bf16[90<%off>,40] = matmul %x, %y",
     {"lowered ragged matmul", 0, true, true, true, 1, ROWS(50), .n = 40, .k = 24, .spare = 40}},
    {"%x: bf16[90<%off>,24], %y: bf16[40,24], %off: i32[3]",
     "%c: bf16[90<%off>,40] = matmul %x, %y {tb=1}",
     {"lowered ragged matmul, transposed", 1, true, true, true, 1, ROWS(50), .n = 40, .k = 24, .spare = 40}},
    {"%x: bf16[90<%off>,24], %y: bf16[90<%off>,40], %off: i32[3]",
     "%c: f32[24,40] = matmul %x, %y {ta=1, dtype=f32}",
     {"lowered ragged sum", 2, true, true, false, 1, ROWS(50), .m = 24, .n = 40, .spare = 40}},
};

static bool run_lowered(Arena *arena, const Lowered *test) {
  const char *text =
      arena_print(arena, "module test\nfunc @f (%s) {\n  %s\n  return c=%%c\n}\n", test->arguments, test->instruction);
  Plan *plan =
      plan_lower_cuda(module_parse(arena, test->c.name, text), false, (CudaOptions){.grouped = CUDA_KINDS_MMA});
  if (vec_len(plan->funcs[0].steps) != 1) {
    printf("%s: %u steps instead of one\n", test->c.name, vec_len(plan->funcs[0].steps));
    return false;
  }
  const Step *step = &plan->funcs[0].steps[0];
  Product p = product_make(&test->c);
  bool good = product_run(&p, step->kernel, step_field(step, "blocks"), (int)step_field(step, "threads"),
                          step_field(step, "shared"));
  product_free(&p);
  return good;
}

static bool chosen(int argc, char **argv, const char *name) {
  return argc < 2 || strstr(name, argv[1]);
}

/* Arguments: part of the names of the cases to run. */
int main(int argc, char **argv) {
  int run = 0, failed = 0, skipped = 0;
  bool hopper = simulator_runs("sm_90a");
  Arena *arena = arena_new();
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    if (!chosen(argc, argv, cases[i].name))
      continue;
    bool can = hopper || !cases[i].wgmma;
    run += can;
    skipped += !can;
    failed += can && !run_instance(arena, &cases[i]);
  }
  for (size_t i = 0; i < sizeof lowered / sizeof lowered[0]; i++)
    if (chosen(argc, argv, lowered[i].c.name)) {
      run++;
      failed += !run_lowered(arena, &lowered[i]);
    }
  printf("%d grouped products, %d failed, %d for sm_90a only and not run\n", run, failed, skipped);
  arena_free(arena);
  return failed != 0 || run == 0;
}
