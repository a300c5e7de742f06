/* Every row op and several groups as CPU kernels against the f64 interpreter.
 *
 * The emitted C is compiled with the flags of the build for x86-64-v3 and, where the machine has it, -v4; every kernel
 * reads the interpreter's values (rounded to f32, dead rows NaN) and its outputs are compared with the interpreter's.
 * Also: one thread and three give the same bits; nothing outside of the live rows and columns is written; an output
 * that says it may stand in the place of an input gives the same bits there. `--print` shows the emitted C.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/kernel_abi.h"
#include "tests/kernels/cases.h"
#include "tests/kernels/values.h"

enum { GUARD = 64, UNTOUCHED = 0x7b };

static int failures, comparisons, in_place_runs;
static void (*set_threads)(int);

/* ---------------------------------------------------------------- memory of values */

typedef struct Memory {
  unsigned char *bytes; /* with GUARD bytes in front and behind */
  size_t size;          /* without them */
} Memory;

static Memory memory_new(size_t size) {
  Memory m = {malloc(size + 2 * GUARD), size};
  memset(m.bytes, UNTOUCHED, size + 2 * GUARD);
  return m;
}

static Memory memory_of_value(const KernelCase *c, ValueId v) {
  return memory_new(value_bytes(c, v));
}

/* ---------------------------------------------------------------- checks */

static void fail(const KernelCase *c, const Launch *l, ValueId v, const char *what) {
  failures++;
  printf("FAILED: %s: %s, %%%s: %s\n", c->name, kernel_name(l->call->kernel), c->func->values[v].name, what);
}

static void compare_output(const KernelCase *c, const Launch *l, ValueId v, Memory m) {
  unsigned char *expected = calloc(m.size, 1);
  char text[160];
  comparisons += value_compare(c, v, m.bytes + GUARD, call_tolerance(c, l->call), expected, text, sizeof text);
  if (*text)
    fail(c, l, v, text);
  for (size_t i = 0; i < m.size + 2 * GUARD; i++) {
    bool inside = i >= GUARD && i < GUARD + m.size && expected[i - GUARD];
    if (!inside && m.bytes[i] != UNTOUCHED) {
      fail(c, l, v, "written outside of its live rows and columns");
      break;
    }
  }
  free(expected);
}

/* ---------------------------------------------------------------- running */

static uint64_t seed = CASE_SEED;

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
      value_store(c, o->value, memory[i].bytes + GUARD);
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
  moec_launch launch = {.pointer = pointer, .rows = call_live_rows(c, l->call)};
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
  RowShape x = value_shape(c, a), y = value_shape(c, b);
  return x.rows == y.rows && x.columns == y.columns && c->ld[a] == c->ld[b] &&
         c->func->values[a].type.dtype == c->func->values[b].type.dtype;
}

/* Elements of the live rows, bit for bit. */
static bool same_elements(const KernelCase *c, ValueId v, Memory a, Memory b, int64_t rows) {
  RowShape shape = value_shape(c, v);
  size_t size = dtype_size(c->func->values[v].type.dtype);
  for (int64_t r = 0; r < rows; r++) {
    size_t at = GUARD + (size_t)value_index(c, v, r, 0) * size;
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
        int64_t rows = value_shape(c, out->value).rows == 1 ? 1 : call_live_rows(c, l->call);
        if (other->role == OPERAND_OUTPUT && value_shape(c, other->value).rows == value_shape(c, out->value).rows &&
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
