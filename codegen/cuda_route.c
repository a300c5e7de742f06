/* Lowering for CUDA of packed routing, of choices among rows and of the sums over rows chosen by indices.
 *
 * In: route, rank_rows, balanced_assignment, scatter_rows, segment_sum. Out: launches of the templates of those names,
 * and of scan_counts, which makes first places of counts. The templates' heads say what each launch takes; sizes here
 * follow from static bounds.
 */
#include "codegen/cuda_lower.h"

enum {
  THREADS = 256, /* of every launch but scan_counts' */
  SCAN_THREADS = 1024,
  MOST_PARTS = 128, /* of tokens or ids: about the multiprocessors of an H200, few enough to add up in one block */
  MOST_BINS = 1024, /* of scan_counts */
  MOST_BITS = 8,    /* of a digit of ids */
  BLOCK_ROWS = 128, /* segment_sum.cu */
  CODE_TOO_MANY_OF_TOKEN = 1,
  CODE_NO_ROW = 3
};

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

static int64_t int_bytes(int64_t count) {
  return count * (int64_t)dtype_size(DTYPE_I32);
}

static CudaGeometry blocks_of(int64_t blocks) {
  return (CudaGeometry){.blocks = {blocks}, .threads = THREADS};
}

/* Items are cut into equal parts of whole blocks of threads. */
static int64_t part_size(int64_t items) {
  int64_t tiles = divide_up(items, THREADS);
  return divide_up(tiles ? tiles : 1, MOST_PARTS) * THREADS;
}

static Place new_scratch(Lower *l, int64_t bytes) {
  return (Place){.storage = lower_storage(l, (Storage){.bytes = bytes, .value = NO_VALUE, .scratch = true})};
}

/* What the passes over items share: counts by bin and part, and the mistakes of the parts. */
typedef struct Parts {
  Place count, wrong;
  int64_t bins, parts;
} Parts;

static Parts parts_new(Lower *l, int64_t bins, int64_t parts) {
  return (Parts){new_scratch(l, int_bytes(bins * parts)), new_scratch(l, int_bytes(2 * parts)), bins, parts};
}

/* Appends the operands of scan_counts but the status cell. `off` NULL: only first places are wanted; `code` 0: nothing
 * is checked but the bound. */
static Step begin_scan(Lower *l, uint32_t index, const Parts *parts, const Place *off, int64_t bound, int64_t code) {
  CudaDefine none[] = {{NULL, 0}};
  CudaGeometry geometry = {.threads = SCAN_THREADS};
  Step s = cuda_launch(l, index, cuda_template(l, "scan_counts", none, NULL), "", geometry);
  cuda_write(l, &s, parts->count);
  if (code)
    cuda_read(l, &s, parts->wrong);
  else
    cuda_null(l, &s);
  if (off)
    cuda_write(l, &s, *off);
  else
    cuda_null(l, &s);
  cuda_number(l, &s, parts->bins);
  cuda_number(l, &s, parts->parts);
  cuda_number(l, &s, bound);
  cuda_number(l, &s, code);
  return s;
}

/* ---------------------------------------------------------------- route */

void lower_cuda_route(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  ValueId mask = inst->input[0], pair = inst->output[0], slot = inst->output[2];
  int64_t n = type_rows(l->module, lower_type(l, mask)), experts = type_columns(l->module, lower_type(l, mask));
  int64_t k = type_columns(l->module, lower_type(l, slot)), bound = type_elements(l->module, lower_type(l, pair));
  int64_t tokens = part_size(n), parts = n ? divide_up(n, tokens) : 1;
  if (experts > MOST_BINS)
    ir_fail(inst->loc, "route: %lld experts; the CUDA target takes at most %d (--target=cpu takes any number)",
            (long long)experts, MOST_BINS);
  CudaDefine defines[] = {{"N", n},           {"EXPERTS", experts}, {"K", k}, {"BOUND", bound}, {"LD", l->ld[mask]},
                          {"TOKENS", tokens}, {"PARTS", parts},     {NULL, 0}};
  Kernel *kernel = cuda_template(l, "route", defines, NULL);
  Parts counts = parts_new(l, experts, parts);
  Place off = lower_place(l, inst->output[1]);

  Step count = cuda_launch(l, index, kernel, "_count", blocks_of(parts));
  cuda_read(l, &count, lower_place(l, mask));
  cuda_write(l, &count, counts.count);
  cuda_write(l, &count, counts.wrong);
  step_end(l, &count);

  Step scan = begin_scan(l, index, &counts, &off, bound, CODE_TOO_MANY_OF_TOKEN);
  cuda_reports(l, &scan, "route");
  step_number(l, &scan, "n", n);
  step_number(l, &scan, "k", k);
  step_number(l, &scan, "bound", bound);
  step_end(l, &scan);

  Step place = cuda_launch(l, index, kernel, "_place", blocks_of(parts));
  cuda_read(l, &place, lower_place(l, mask));
  cuda_read(l, &place, counts.count);
  cuda_write(l, &place, lower_place(l, pair));
  cuda_write(l, &place, lower_place(l, slot));
  step_end(l, &place);
}

/* ---------------------------------------------------------------- choices within slices of the rows */

/* rank_rows: 1024 rows of a column and slice per block. */
void lower_cuda_rank_rows(Lower *l, uint32_t index) {
  enum { RANKED_ROWS = 1024 };
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0];
  int64_t slices = inst_int(inst, ATTRIBUTE_groups, 1), columns = type_columns(l->module, lower_type(l, x));
  int64_t rows = type_rows(l->module, lower_type(l, x)) / slices;
  CudaDefine defines[] = {{"ROWS", rows}, {"COLUMNS", columns}, {"LD", l->ld[x]}, {NULL, 0}};
  CudaGeometry geometry = {.blocks = {divide_up(rows, RANKED_ROWS), columns, slices}, .threads = THREADS};
  Step s = cuda_launch(l, index, cuda_template(l, "rank_rows", defines, NULL), "", geometry);
  cuda_read(l, &s, lower_place(l, x));
  cuda_write(l, &s, lower_place(l, inst->output[0]));
  step_end(l, &s);
}

/* A block per slice, with about four rows for a thread. */
void lower_cuda_balanced_assignment(Lower *l, uint32_t index) {
  enum { MOST_THREADS = 1024, THREAD_ROWS = 4 };
  const Inst *inst = &l->func->insts[index];
  ValueId x = inst->input[0];
  int64_t slices = inst_int(inst, ATTRIBUTE_groups, 1), experts = type_columns(l->module, lower_type(l, x));
  int64_t rows = type_rows(l->module, lower_type(l, x)) / slices;
  int threads = 64;
  while (threads < MOST_THREADS && THREAD_ROWS * threads < rows)
    threads *= 2;
  CudaDefine defines[] = {{"ROWS", rows}, {"EXPERTS", experts}, {"LD", l->ld[x]}, {"THREADS", threads}, {NULL, 0}};
  CudaGeometry geometry = {.blocks = {slices}, .threads = threads};
  Step s = cuda_launch(l, index, cuda_template(l, "balanced_assignment", defines, NULL), "", geometry);
  cuda_read(l, &s, lower_place(l, x));
  cuda_write(l, &s, lower_place(l, inst->output[0]));
  cuda_scratch(l, &s, slices * (2 * experts + 2) * rows * (int64_t)sizeof(double));
  step_end(l, &s);
}

/* ---------------------------------------------------------------- sums */

typedef struct Matrix {
  Place place;
  int64_t ld;
  DType type;
} Matrix;

static Matrix matrix_of(const Lower *l, ValueId v) {
  return (Matrix){lower_place(l, v), l->ld[v], lower_type(l, v).dtype};
}

static bool is_aligned(const Matrix *m, int64_t columns, int64_t vector) {
  int64_t size = (int64_t)dtype_size(m->type), piece = vector * size < 16 ? vector * size : 16;
  return columns % vector == 0 && m->ld * size % piece == 0 && m->place.offset % piece == 0;
}

/* Columns of a thread: 16 bytes of x where both matrices allow it. */
static int64_t vector_size(const Matrix *x, const Matrix *c, int64_t columns) {
  int64_t vector = 16 / (int64_t)dtype_size(x->type);
  while (vector > 1 && !(is_aligned(x, columns, vector) && is_aligned(c, columns, vector)))
    vector /= 2;
  return vector;
}

void lower_cuda_segment_sum(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  Matrix x = matrix_of(l, inst->input[0]), c = matrix_of(l, inst->output[0]);
  Place off = lower_place(l, inst->input[1]);
  Type type = lower_type(l, inst->input[0]);
  int64_t rows = type_rows(l->module, type), columns = type_columns(l->module, type);
  int64_t groups = type_rows(l->module, lower_type(l, inst->output[0])), vector = vector_size(&x, &c, columns);
  CudaDefine defines[] = {{"VECTOR", vector},
                          {"X_BF16", x.type == DTYPE_BF16},
                          {"C_BF16", c.type == DTYPE_BF16},
                          {"GROUPS", groups},
                          {"COLUMNS", columns},
                          {"LD_X", x.ld},
                          {"LD_C", c.ld},
                          {NULL, 0}};
  Kernel *kernel = cuda_template(l, "segment_sum", defines, NULL);
  int64_t blocks = divide_up(rows, BLOCK_ROWS);
  Place parts = new_scratch(l, (blocks + groups) * columns * (int64_t)sizeof(float));

  CudaGeometry geometry = {.blocks = {blocks, divide_up(columns, vector * THREADS)}, .threads = THREADS};
  Step sum = cuda_launch(l, index, kernel, "_parts", geometry);
  cuda_read(l, &sum, x.place);
  cuda_read(l, &sum, off);
  cuda_write(l, &sum, parts);
  step_end(l, &sum);

  geometry = (CudaGeometry){.blocks = {divide_up(columns, THREADS), groups}, .threads = THREADS};
  Step finish = cuda_launch(l, index, kernel, "_finish", geometry);
  cuda_read(l, &finish, parts);
  cuda_read(l, &finish, off);
  cuda_write(l, &finish, c.place);
  step_end(l, &finish);
}

/* ---------------------------------------------------------------- scatter_rows */

/* Ids and the places they come from, in the order of the digits so far. */
typedef struct Order {
  Place id, place;
} Order;

/* One digit: counts, first places, and the ids moved from one order to the other. */
static void sort_digit(Lower *l, uint32_t index, Kernel *kernel, const Parts *counts, const Order *from,
                       const Order *to, bool first, int64_t shift, int64_t n, int64_t rows) {
  Step count = cuda_launch(l, index, kernel, "_count", blocks_of(counts->parts));
  cuda_read(l, &count, from->id);
  cuda_write(l, &count, counts->count);
  if (first)
    cuda_write(l, &count, counts->wrong);
  else
    cuda_null(l, &count);
  cuda_number(l, &count, shift);
  step_end(l, &count);

  Step scan = begin_scan(l, index, counts, NULL, n, first ? CODE_NO_ROW : 0);
  cuda_reports(l, &scan, "scatter_rows");
  step_number(l, &scan, "n", n);
  step_number(l, &scan, "rows", rows);
  step_end(l, &scan);

  Step place = cuda_launch(l, index, kernel, "_place", blocks_of(counts->parts));
  cuda_read(l, &place, from->id);
  if (first)
    cuda_null(l, &place);
  else
    cuda_read(l, &place, from->place);
  cuda_read(l, &place, counts->count);
  cuda_write(l, &place, to->id);
  cuda_write(l, &place, to->place);
  cuda_number(l, &place, shift);
  step_end(l, &place);
}

/* Binary digits of `number`. */
static int64_t bit_length(int64_t number) {
  int64_t bits = 1;
  while (number >> bits)
    bits++;
  return bits;
}

void lower_cuda_scatter_rows(Lower *l, uint32_t index) {
  const Inst *inst = &l->func->insts[index];
  Type type = lower_type(l, inst->input[0]);
  if (type.extent != NO_VALUE)
    ir_fail(inst->loc, "scatter_rows: the rows of %%%s are ragged; it needs as many rows at every step",
            l->func->values[inst->input[0]].name);
  Order given = {.id = lower_contiguous(l, index, inst->input[1])};
  Matrix x = matrix_of(l, inst->input[0]), c = matrix_of(l, inst->output[0]);
  int64_t n = type_rows(l->module, type), columns = type_columns(l->module, type);
  int64_t rows = type_rows(l->module, lower_type(l, inst->output[0])), vector = vector_size(&x, &c, columns);
  int64_t digits = divide_up(bit_length(rows), MOST_BITS), bits = divide_up(bit_length(rows), digits);
  int64_t ids = part_size(n), parts = n ? divide_up(n, ids) : 1;
  CudaDefine defines[] = {{"VECTOR", vector},
                          {"X_BF16", x.type == DTYPE_BF16},
                          {"C_BF16", c.type == DTYPE_BF16},
                          {"N", n},
                          {"ROWS", rows},
                          {"COLUMNS", columns},
                          {"LD_X", x.ld},
                          {"BITS", bits},
                          {"IDS", ids},
                          {"PARTS", parts},
                          {NULL, 0}};
  Kernel *kernel = cuda_template(l, "scatter_rows", defines, NULL);
  Parts counts = parts_new(l, (int64_t)1 << bits, parts);
  Order orders[2];
  for (int i = 0; i < 2; i++)
    orders[i] = (Order){new_scratch(l, int_bytes(n)), new_scratch(l, int_bytes(n))};
  for (int64_t digit = 0; digit < digits; digit++)
    sort_digit(l, index, kernel, &counts, digit ? &orders[(digit + 1) % 2] : &given, &orders[digit % 2], digit == 0,
               digit * bits, n, rows);
  const Order *sorted = &orders[(digits + 1) % 2];

  Place first = new_scratch(l, int_bytes(rows + 1));
  Step begin = cuda_launch(l, index, kernel, "_first", blocks_of(divide_up(rows + 1, THREADS)));
  cuda_read(l, &begin, sorted->id);
  cuda_write(l, &begin, first);
  step_end(l, &begin);

  int64_t warps = rows * divide_up(columns, 32 * vector);
  Step sum = cuda_launch(l, index, kernel, "_sum", blocks_of(divide_up(warps, THREADS / 32)));
  cuda_read(l, &sum, x.place);
  cuda_read(l, &sum, sorted->place);
  cuda_read(l, &sum, first);
  cuda_write(l, &sum, c.place);
  step_end(l, &sum);
}
