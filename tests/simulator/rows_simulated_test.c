/* Every emitted row kernel of tests/kernels/cases as CUDA, run by the simulator against the f64 interpreter.
 *
 * Each kernel reads the interpreter's values, every operand an allocation of its own; its outputs are compared with the
 * interpreter's, nothing outside of the live rows and columns may be written, and an output that says it may stand in
 * the place of an input gives the same bits there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/values.h"
#include "tests/simulator/simulator_kernel.h"

enum { NAN_BYTE = 0xff };

static int failures, comparisons, launches, in_place_runs;

static void fail(const KernelCase *c, const Launch *l, const char *value, const char *what) {
  failures++;
  printf("FAILED: %s: %s, %%%s: %s\n", c->name, kernel_name(l->call->kernel), value, what);
}

static SimulatorUnit *compile(const Kernel *kernel) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  fprintf(out, "%s\n%s", kernel_prelude_cuda(), kernel_cuda(kernel));
  fclose(out);
  SimulatorUnit *unit = simulator_compile(text);
  if (!unit)
    printf("FAILED: %s does not compile: %.2000s\n", kernel_name(kernel), simulator_error());
  failures += !unit;
  free(text);
  return unit;
}

/* ---------------------------------------------------------------- one launch */

typedef struct Operands {
  const KernelCall *call;
  void **memory; /* by operand, or NULL; last that of the live count */
  uint64_t *parameter;
  int count; /* of the operands, the live count and the bound */
} Operands;

static Operands operands_open(const KernelCase *c, const KernelCall *call, int shared, int with) {
  int count = (int)vec_len(call->operands);
  Operands o = {call, calloc((size_t)count + 2, sizeof(void *)), calloc((size_t)count + 2, sizeof(uint64_t)),
                count + 2};
  const uint64_t seed = CASE_SEED;
  for (int i = 0; i < count; i++) {
    const KernelOperand *operand = &call->operands[i];
    if (operand->role == OPERAND_SCRATCH) {
      o.memory[i] = simulator_alloc((size_t)operand->scratch_bytes);
    } else if (operand->role == OPERAND_INPUT && operand->value == NO_VALUE) {
      o.memory[i] = simulator_copy(&seed, sizeof seed);
    } else if (operand->role != OPERAND_TAG && i != shared) {
      size_t bytes = value_bytes(c, operand->value);
      o.memory[i] = simulator_alloc(bytes);
      if (operand->role == OPERAND_INPUT)
        value_store(c, operand->value, o.memory[i]);
    }
    o.parameter[i] = operand->role == OPERAND_TAG ? (uint64_t)operand->tag : (uint64_t)(uintptr_t)o.memory[i];
  }
  if (shared >= 0)
    o.parameter[shared] = o.parameter[with];
  if (call->extent != NO_VALUE) {
    const int32_t live = (int32_t)call_live_rows(c, call);
    o.memory[count] = simulator_copy(&live, sizeof live);
    o.parameter[count] = (uint64_t)(uintptr_t)o.memory[count];
  }
  o.parameter[count + 1] = (uint64_t)call->rows;
  return o;
}

static void operands_close(Operands *o) {
  for (int i = 0; i < o->count; i++)
    simulator_free(o->memory[i]);
  free(o->memory);
  free(o->parameter);
}

static int64_t blocks_of(int64_t of, int64_t each) {
  return of > each ? (of + each - 1) / each : 1;
}

typedef enum Manner {
  MANNER_ALL_ORDERS, /* of threads */
  MANNER_ONCE,
  MANNER_FEW_BLOCKS /* once */
} Manner;

/* The kernel's own parameters, or those of its _finish; their number. */
static int take_parameters(const Operands *o, bool finish, uint64_t *parameter) {
  int taken = 0;
  for (int i = 0; i < o->count; i++) {
    const KernelOperand *operand = i < o->count - 2 ? &o->call->operands[i] : NULL;
    bool used = !operand || (finish ? operand->finish : !operand->finish || operand->role != OPERAND_OUTPUT);
    if (used)
      parameter[taken++] = o->parameter[i];
  }
  return taken;
}

static bool launch_in_manner(const SimulatorLaunch *launch, const Operands *o, bool finish, Manner manner) {
  uint64_t parameter[o->count];
  int count = take_parameters(o, finish, parameter);
  return manner == MANNER_ALL_ORDERS
             ? simulator_run(launch, parameter, count)
             : simulator_run_once(launch, parameter, count, SIMULATOR_SHUFFLED, (uint64_t)launches);
}

/* The kernel and its _finish. */
static bool run(const KernelCase *c, const Launch *l, SimulatorUnit *unit, const Operands *o, Manner manner) {
  const KernelCall *call = l->call;
  const KernelGeometry g = kernel_geometry(call->kernel);
  char finish[200];
  snprintf(finish, sizeof finish, "%s_finish", kernel_name(call->kernel));
  int64_t blocks = g.columns_per_block > 0 ? blocks_of(g.columns, g.columns_per_block)
                                           : blocks_of(call->rows * g.rows_per_entry, g.rows_per_block);
  SimulatorLaunch launch = {.unit = unit,
                            .entry = kernel_name(call->kernel),
                            .blocks = {manner == MANNER_FEW_BLOCKS && blocks > 2 ? 2 : blocks},
                            .threads = g.threads,
                            .shared_bytes = g.shared_bytes};
  bool good = launch_in_manner(&launch, o, false, manner);
  if (good && g.finish_threads > 0) {
    launch = (SimulatorLaunch){.unit = unit,
                               .entry = finish,
                               .blocks = {manner == MANNER_FEW_BLOCKS ? 1 : blocks_of(g.finish_threads, 256)},
                               .threads = 256};
    good = launch_in_manner(&launch, o, true, manner);
  }
  launches++;
  if (!good)
    fail(c, l, "", simulator_error());
  return good;
}

/* ---------------------------------------------------------------- checks */

static void compare_output(const KernelCase *c, const Launch *l, ValueId v, const unsigned char *got) {
  size_t bytes = value_bytes(c, v);
  unsigned char *expected = calloc(bytes + 1, 1);
  char text[200];
  comparisons += value_compare(c, v, got, call_tolerance(c, l->call), expected, text, sizeof text);
  if (*text)
    fail(c, l, c->func->values[v].name, text);
  for (size_t i = 0; i < bytes; i++)
    if (!expected[i] && got[i] != NAN_BYTE) {
      fail(c, l, c->func->values[v].name, "written outside of its live rows and columns");
      break;
    }
  free(expected);
}

static bool is_output(const KernelCall *call, int i) {
  return call->operands[i].role == OPERAND_OUTPUT;
}

static bool same_rows(const KernelCase *c, const KernelCall *call, ValueId v, const char *a, const char *b) {
  RowShape shape = value_shape(c, v);
  size_t size = dtype_size(c->func->values[v].type.dtype);
  int64_t rows = shape.rows == 1 ? 1 : call_live_rows(c, call);
  for (int64_t r = 0; r < rows; r++) {
    size_t at = (size_t)value_index(c, v, r, 0) * size;
    if (memcmp(a + at, b + at, (size_t)shape.columns * size) != 0)
      return false;
  }
  return true;
}

static bool may_share(const KernelCase *c, const KernelOperand *out, const KernelOperand *in) {
  if (out->role != OPERAND_OUTPUT || in->role != OPERAND_INPUT || in->value == NO_VALUE || !out->in_place ||
      !in->in_place)
    return false;
  RowShape x = value_shape(c, out->value), y = value_shape(c, in->value);
  return x.rows == y.rows && x.columns == y.columns && c->ld[out->value] == c->ld[in->value] &&
         c->func->values[out->value].type.dtype == c->func->values[in->value].type.dtype;
}

static void check_in_place(const KernelCase *c, const Launch *l, SimulatorUnit *unit, const Operands *apart) {
  const KernelCall *call = l->call;
  int count = (int)vec_len(call->operands);
  for (int o = 0; o < count; o++)
    for (int i = 0; i < count; i++) {
      if (!may_share(c, &call->operands[o], &call->operands[i]))
        continue;
      Operands shared = operands_open(c, call, o, i);
      in_place_runs++;
      ValueId v = call->operands[o].value;
      if (run(c, l, unit, &shared, MANNER_ONCE) && !same_rows(c, call, v, shared.memory[i], apart->memory[o]))
        fail(c, l, c->func->values[v].name, "differs when it stands in the place of an input");
      operands_close(&shared);
    }
}

static void check_launch(const KernelCase *c, const Launch *l, SimulatorUnit *unit) {
  const KernelCall *call = l->call;
  Operands o = operands_open(c, call, -1, -1), few = operands_open(c, call, -1, -1);
  if (run(c, l, unit, &o, MANNER_ALL_ORDERS) && run(c, l, unit, &few, MANNER_FEW_BLOCKS)) {
    for (int i = 0; i < o.count - 2; i++) {
      if (!is_output(call, i))
        continue;
      ValueId v = call->operands[i].value;
      compare_output(c, l, v, o.memory[i]);
      if (memcmp(o.memory[i], few.memory[i], value_bytes(c, v)) != 0)
        fail(c, l, c->func->values[v].name, "depends on the number of blocks");
    }
    check_in_place(c, l, unit, &o);
  }
  operands_close(&o);
  operands_close(&few);
}

/* ---------------------------------------------------------------- planted faults */

/* The kernel's text with `from` replaced by `to` (`all` of them, or the first); NULL: it has none. */
static char *replaced(const Kernel *kernel, const char *from, const char *to, bool all) {
  const char *code = kernel_cuda(kernel), *at = strstr(code, from);
  if (!at)
    return NULL;
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  fprintf(out, "%s\ntemplate <int TEAM> MOEC_INLINE void no_wait() {}\n", kernel_prelude_cuda());
  for (; at; at = all ? strstr(code, from) : NULL) {
    fprintf(out, "%.*s%s", (int)(at - code), code, to);
    code = at + strlen(from);
  }
  fputs(code, out);
  fclose(out);
  return text;
}

/* Whether a kernel with this text fails in any of its launches: refused by the simulator or with wrong results. */
static bool is_caught(const KernelCase *cases, const Kernel *kernel, const char *text) {
  SimulatorUnit *unit = simulator_compile(text);
  if (!unit) {
    printf("FAILED: a planted fault does not compile: %.500s\n", simulator_error());
    exit(1);
  }
  for (uint32_t i = 0; i < vec_len(cases); i++)
    for (uint32_t j = 0; j < vec_len(cases[i].launches); j++)
      if (!failures && cases[i].launches[j].call->kernel == kernel)
        check_launch(&cases[i], &cases[i].launches[j], unit);
  bool caught = failures > 0;
  failures = 0;
  return caught;
}

/* A row too many, an output that is not written, no barriers: each is found in emitted kernels. One barrier, at the end
 * of a row, may be one too many; where lane 0 alone uses what it wrote, so may two, hence a quarter may be missed. */
static int check_faults(const KernelCase *cases, const KernelSet *set) {
  static const struct {
    const char *from, *to;
    bool all;
  } faults[] = {
      {"r < rows", "r <= rows", false}, {"_row[c] = ", "_row[c] == ", true}, {"moec_team_wait<", "no_wait<", true}};
  int planted[3] = {0}, missed[3] = {0};
  for (uint32_t k = 0; k < vec_len(set->kernels); k++)
    for (int f = 0; f < 3; f++) {
      const Kernel *kernel = set->kernels[k];
      const char *first = strstr(kernel_cuda(kernel), faults[f].from);
      if (!first || (f < 2 && k % 8 != 0) || (f == 2 && !strstr(first + 1, faults[f].from)))
        continue;
      char *text = replaced(kernel, faults[f].from, faults[f].to, faults[f].all);
      planted[f]++;
      if (!is_caught(cases, kernel, text)) {
        missed[f]++;
        printf("MISSED: %s with %s\n", kernel_name(kernel), faults[f].to);
      }
      free(text);
    }
  printf("planted: %d rows too many, %d outputs not written, %d without barriers; missed %d, %d, %d\n", planted[0],
         planted[1], planted[2], missed[0], missed[1], missed[2]);
  return missed[0] || missed[1] || 4 * missed[2] > planted[2] || !planted[0] || !planted[1] || !planted[2];
}

/* `rows_simulated_test K N`: of the kernels those whose number is K modulo N. `rows_simulated_test faults`: planted
 * faults only; what the checks print of them is expected, MISSED is not. */
int main(int count, char **arguments) {
  uint32_t part = count == 3 ? (uint32_t)atoi(arguments[1]) : 0, parts = count == 3 ? (uint32_t)atoi(arguments[2]) : 1;
  Arena *arena = arena_new();
  KernelSet set = {.arena = arena, .cuda = true};
  KernelCase *cases = cases_load(arena, &set, 0);
  if (count == 2 && strcmp(arguments[1], "faults") == 0)
    return check_faults(cases, &set);
  KernelCase *padded = cases_load(arena, &set, 3); /* rows that are not aligned */
  for (uint32_t i = 0; i < vec_len(padded); i++)
    vec_push(arena, cases, padded[i]);
  for (uint32_t k = part; k < vec_len(set.kernels); k += parts) {
    SimulatorUnit *unit = compile(set.kernels[k]);
    for (uint32_t i = 0; unit && i < vec_len(cases); i++)
      for (uint32_t j = 0; j < vec_len(cases[i].launches); j++)
        if (cases[i].launches[j].call->kernel == set.kernels[k])
          check_launch(&cases[i], &cases[i].launches[j], unit);
  }
  printf("%u kernels, %d launches, %d in place, %d comparisons, %d failures\n", vec_len(set.kernels), launches,
         in_place_runs, comparisons, failures);
  return failures > 0;
}
