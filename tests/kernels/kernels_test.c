/* Every row op and several groups as CPU kernels against the f64 interpreter.
 *
 * The emitted C is compiled with the flags of the build for x86-64-v3 and, where the machine has it, -v4; every kernel
 * reads the interpreter's values (rounded to f32, dead rows NaN) and its outputs are compared with the interpreter's.
 * Also: one thread and three give the same bits; nothing outside of the live rows and columns is written; an output
 * that says it may stand in the place of an input gives the same bits there. `--print` shows the emitted C.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/rows.h"
#include "runtime/kernel_abi.h"
#include "tests/kernels/cases.h"

enum { GUARD = 64, UNTOUCHED = 0x7b };

static int failures, comparisons, in_place_runs;
static void (*set_threads)(int);

/* ---------------------------------------------------------------- memory of values */

typedef struct Memory {
  unsigned char *bytes; /* with GUARD bytes in front and behind */
  size_t size;          /* without them */
} Memory;

static uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)(x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static double from_bf16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static Memory memory_new(size_t size) {
  Memory m = {malloc(size + 2 * GUARD), size};
  memset(m.bytes, UNTOUCHED, size + 2 * GUARD);
  return m;
}

static RowShape shape_of(const KernelCase *c, ValueId v) {
  return row_shape(c->func->module, c->func->values[v].type);
}

static Memory memory_of_value(const KernelCase *c, ValueId v) {
  RowShape shape = shape_of(c, v);
  Type type = c->func->values[v].type;
  int64_t elements = (shape.rows - 1) * (type.rank < 2 ? 1 : c->ld[v]) + shape.columns;
  return memory_new((size_t)(type.rank == 1 && type.extent != NO_VALUE ? shape.rows : elements) *
                    dtype_size(type.dtype));
}

static int64_t element_index(const KernelCase *c, ValueId v, int64_t row, int64_t column) {
  return row * (c->func->values[v].type.rank < 2 ? 1 : c->ld[v]) + column;
}

static void fill_input(const KernelCase *c, ValueId v, Memory m) {
  RowShape shape = shape_of(c, v);
  const Tensor *t = c->run->tensors[v];
  DType dtype = c->func->values[v].type.dtype;
  for (int64_t r = 0; r < shape.rows; r++)
    for (int64_t k = 0; k < shape.columns; k++) {
      int64_t at = element_index(c, v, r, k), from = r * shape.columns + k;
      if (dtype == DTYPE_I32)
        ((int32_t *)(void *)(m.bytes + GUARD))[at] = t->i[from];
      else if (dtype == DTYPE_F32)
        ((float *)(void *)(m.bytes + GUARD))[at] = (float)t->f[from];
      else
        ((uint16_t *)(void *)(m.bytes + GUARD))[at] = to_bf16((float)t->f[from]);
    }
}

static double element(const KernelCase *c, ValueId v, Memory m, int64_t at) {
  const void *data = m.bytes + GUARD;
  switch (c->func->values[v].type.dtype) {
  case DTYPE_I32:
    return ((const int32_t *)data)[at];
  case DTYPE_F32:
    return ((const float *)data)[at];
  default:
    return from_bf16(((const uint16_t *)data)[at]);
  }
}

/* ---------------------------------------------------------------- checks */

static void fail(const KernelCase *c, const Launch *l, ValueId v, const char *what) {
  failures++;
  printf("FAILED: %s: %s, %%%s: %s\n", c->name, kernel_name(l->call->kernel), c->func->values[v].name, what);
}

static bool reads_bf16(const KernelCase *c, const Launch *l) {
  for (uint32_t i = 0; i < vec_len(l->call->operands); i++) {
    ValueId v = l->call->operands[i].value;
    if (v != NO_VALUE && c->func->values[v].type.dtype == DTYPE_BF16)
      return true;
  }
  return false;
}

static void compare_output(const KernelCase *c, const Launch *l, ValueId v, Memory m) {
  RowShape shape = shape_of(c, v);
  const Tensor *t = c->run->tensors[v];
  Type type = c->func->values[v].type;
  int64_t live = type.rank && type.dtype != DTYPE_COUNT
                     ? t->live * (shape.rows / (type.rank > 1 || type.extent != NO_VALUE ? t->dim[0] : 1))
                     : 1;
  if (type.rank == 1 && type.extent == NO_VALUE)
    live = 1;
  double tolerance = reads_bf16(c, l) ? 4e-2 : 2e-5;
  size_t size = dtype_size(type.dtype);
  unsigned char *written = calloc(m.size, 1);
  for (int64_t r = 0; r < live; r++)
    for (int64_t k = 0; k < shape.columns; k++) {
      int64_t at = element_index(c, v, r, k), from = r * shape.columns + k;
      double want = t->f ? t->f[from] : t->i[from], got = element(c, v, m, at);
      memset(written + (size_t)at * size, 1, size);
      bool same = (isnan(want) && isnan(got)) || fabs(got - want) <= tolerance * (1 + fabs(want)) || got == want;
      comparisons++;
      if (!same) {
        char text[160];
        snprintf(text, sizeof text, "row %lld column %lld is %.9g, expected %.9g", (long long)r, (long long)k, got,
                 want);
        fail(c, l, v, text);
        r = live;
        break;
      }
    }
  for (size_t i = 0; i < m.size + 2 * GUARD; i++) {
    bool inside = i >= GUARD && i < GUARD + m.size && written[i - GUARD];
    if (!inside && m.bytes[i] != UNTOUCHED) {
      fail(c, l, v, "written outside of its live rows and columns");
      break;
    }
  }
  free(written);
}

/* ---------------------------------------------------------------- running */

static uint64_t seed = CASE_SEED;

static int64_t live_rows(const KernelCase *c, const KernelCall *call) {
  if (call->extent == NO_VALUE)
    return call->rows;
  const Tensor *off = c->run->tensors[call->extent];
  return off->i[off->dim[0] - 1];
}

/* Runs with memory of their own for all operands; `shared`: an output that stands in the memory of input `with`. */
static Memory *run_kernel(const KernelCase *c, const Launch *l, moec_kernel kernel, int shared, int with) {
  uint32_t count = vec_len(l->call->operands);
  Memory *memory = calloc(count, sizeof *memory);
  void **pointer = calloc(count, sizeof *pointer);
  for (uint32_t i = 0; i < count; i++) {
    const KernelOperand *o = &l->call->operands[i];
    if (o->role == OPERAND_SCRATCH)
      memory[i] = memory_new((size_t)o->scratch_bytes);
    else if (o->value != NO_VALUE && (int)i != shared)
      memory[i] = memory_of_value(c, o->value);
    if (o->role == OPERAND_INPUT && o->value != NO_VALUE)
      fill_input(c, o->value, memory[i]);
    pointer[i] = memory[i].bytes + GUARD;
    if (o->role == OPERAND_TAG)
      pointer[i] = (void *)(uintptr_t)o->tag; /* the number itself */
    else if (o->role == OPERAND_INPUT && o->value == NO_VALUE)
      pointer[i] = &seed;
  }
  if (shared >= 0) {
    pointer[shared] = pointer[with];
    memory[shared] = memory[with];
    memory[with].bytes = NULL;
  }
  moec_launch launch = {.pointer = pointer, .rows = live_rows(c, l->call)};
  kernel(&launch);
  free(pointer);
  return memory;
}

static void free_memory(Memory *memory, const Launch *l) {
  for (uint32_t i = 0; i < vec_len(l->call->operands); i++)
    free(memory[i].bytes);
  free(memory);
}

static bool same_layout(const KernelCase *c, ValueId a, ValueId b) {
  RowShape x = shape_of(c, a), y = shape_of(c, b);
  return x.rows == y.rows && x.columns == y.columns && c->ld[a] == c->ld[b] &&
         c->func->values[a].type.dtype == c->func->values[b].type.dtype;
}

/* Elements of the live rows, bit for bit. */
static bool same_elements(const KernelCase *c, ValueId v, Memory a, Memory b, int64_t rows) {
  RowShape shape = shape_of(c, v);
  size_t size = dtype_size(c->func->values[v].type.dtype);
  for (int64_t r = 0; r < rows; r++) {
    size_t at = GUARD + (size_t)element_index(c, v, r, 0) * size;
    if (memcmp(a.bytes + at, b.bytes + at, (size_t)shape.columns * size) != 0)
      return false;
  }
  return true;
}

static void check_in_place(const KernelCase *c, const Launch *l, moec_kernel kernel, const Memory *apart) {
  uint32_t count = vec_len(l->call->operands);
  for (uint32_t o = 0; o < count; o++)
    for (uint32_t i = 0; i < count; i++) {
      const KernelOperand *out = &l->call->operands[o], *in = &l->call->operands[i];
      bool may = out->role == OPERAND_OUTPUT && in->role == OPERAND_INPUT && in->value != NO_VALUE && out->in_place &&
                 in->in_place && same_layout(c, out->value, in->value);
      if (!may)
        continue;
      Memory *memory = run_kernel(c, l, kernel, (int)o, (int)i);
      in_place_runs++;
      for (uint32_t k = 0; k < count; k++) {
        const KernelOperand *other = &l->call->operands[k];
        int64_t rows = shape_of(c, out->value).rows == 1 ? 1 : live_rows(c, l->call);
        if (other->role == OPERAND_OUTPUT && shape_of(c, other->value).rows == shape_of(c, out->value).rows &&
            !same_elements(c, other->value, memory[k], apart[k], rows))
          fail(c, l, other->value, "differs when an output stands in the place of an input");
      }
      free_memory(memory, l);
    }
}

static void check_launch(const KernelCase *c, const Launch *l, moec_kernel kernel) {
  set_threads(3);
  Memory *memory = run_kernel(c, l, kernel, -1, -1);
  set_threads(1);
  Memory *again = run_kernel(c, l, kernel, -1, -1);
  for (uint32_t i = 0; i < vec_len(l->call->operands); i++) {
    const KernelOperand *o = &l->call->operands[i];
    if (o->role != OPERAND_OUTPUT)
      continue;
    compare_output(c, l, o->value, memory[i]);
    if (memcmp(memory[i].bytes, again[i].bytes, memory[i].size + 2 * GUARD) != 0)
      fail(c, l, o->value, "one thread and three differ");
  }
  check_in_place(c, l, kernel, memory);
  free_memory(memory, l);
  free_memory(again, l);
}

/* ---------------------------------------------------------------- the program */

static void *compile(const KernelSet *set, const char *level) {
  char directory[] = "./moec-kernels-XXXXXX", command[1024];
  if (!mkdtemp(directory))
    exit(1);
  snprintf(command, sizeof command, "%s/kernels.c", directory);
  FILE *out = fopen(command, "w");
  if (!out)
    exit(1);
  fputs(kernel_prelude_c(), out);
  for (uint32_t i = 0; i < vec_len(set->kernels); i++)
    fputs(kernel_c(set->kernels[i]), out);
  fclose(out);
  snprintf(command, sizeof command,
           "cd %s && cc " KERNEL_C_FLAGS " -Wall -Wextra -Werror -march=x86-64-%s -shared kernels.c -o kernels.so",
           directory, level);
  if (system(command) != 0) {
    printf("FAILED: %s\n", command);
    exit(1);
  }
  snprintf(command, sizeof command, "%s/kernels.so", directory);
  void *library = dlopen(command, RTLD_NOW);
  if (!library) {
    printf("FAILED: %s\n", dlerror());
    exit(1);
  }
  snprintf(command, sizeof command, "rm -r %s", directory);
  if (system(command) != 0)
    failures++;
  return library;
}

static void run_all(Arena *arena, int64_t padding, const char *level) {
  KernelSet set = {.arena = arena};
  KernelCase *cases = cases_load(arena, &set, padding);
  void *library = compile(&set, level);
  *(void **)&set_threads = dlsym(library, "omp_set_num_threads");
  uint32_t launches = 0;
  for (uint32_t i = 0; i < vec_len(cases); i++)
    for (uint32_t k = 0; k < vec_len(cases[i].launches); k++, launches++) {
      const Launch *l = &cases[i].launches[k];
      moec_kernel kernel;
      *(void **)&kernel = dlsym(library, kernel_name(l->call->kernel));
      check_launch(&cases[i], l, kernel);
    }
  printf("x86-64-%s, padding %lld: %u launches of %u kernels\n", level, (long long)padding, launches,
         vec_len(set.kernels));
}

/* Every op that can stand in a row kernel must stand in a case. */
static void check_coverage(Arena *arena) {
  KernelSet set = {.arena = arena};
  KernelCase *cases = cases_load(arena, &set, 0);
  bool covered[OP_COUNT] = {false};
  for (uint32_t i = 0; i < vec_len(cases); i++)
    for (uint32_t k = 0; k < vec_len(cases[i].launches); k++)
      covered[cases[i].func->insts[cases[i].launches[k].first].op] = true;
  for (int op = 0; op < OP_COUNT; op++)
    if ((op_info[op].flags & (FLAG_ELEMENTWISE | FLAG_ROW | FLAG_GATHER)) && !covered[op]) {
      failures++;
      printf("FAILED: no case has op %s\n", op_info[op].name);
    }
}

int main(int count, char **arguments) {
  Arena *arena = arena_new();
  if (count > 1 && strcmp(arguments[1], "--print") == 0) {
    KernelSet set = {.arena = arena};
    cases_load(arena, &set, 0);
    for (uint32_t i = 0; i < vec_len(set.kernels); i++)
      printf("%s\n", kernel_c(set.kernels[i]));
    return 0;
  }
  check_coverage(arena);
  run_all(arena, 0, "v3");
  run_all(arena, 3, "v3");
  if (__builtin_cpu_supports("avx512vl"))
    run_all(arena, 0, "v4");
  printf("%d comparisons, %d runs in place, %d failures\n", comparisons, in_place_runs, failures);
  return failures ? 1 : 0;
}
