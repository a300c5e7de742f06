/* Reading, evaluating and lowering the cases (cases.h). */
#include "tests/kernels/cases.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/rows.h"

static uint64_t random_state;

static double random_number(double low, double high) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return low + (high - low) * (double)(random_state >> 11) / 9007199254740992.0;
}

static char *read_text(Arena *arena, const char *path) {
  FILE *in = fopen(path, "r");
  if (!in) {
    perror(path);
    exit(1);
  }
  char *text = arena_alloc(arena, 1 << 16);
  size_t length = fread(text, 1, (1 << 16) - 1, in);
  text[length] = 0;
  fclose(in);
  return text;
}

static int64_t bound_of_name(const char *name) {
  const char *number = strrchr(name, '_');
  return number ? atoll(number + 1) : 4;
}

static void fill_offsets(Tensor *t, int64_t rows) {
  int64_t groups = t->dim[0] - 1, end = 0;
  for (int64_t g = 0; g <= groups; g++) {
    t->i[g] = (int32_t)end;
    end += g == 1 ? 0 : rows / (groups + 1); /* group 1 is empty, the last rows are dead */
  }
}

static void bind_arguments(Arena *arena, const Func *f, EvalEnvironment *env) {
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    const Value *value = &f->values[v];
    if (value->kind != VALUE_ARGUMENT)
      continue;
    Tensor *t = tensor_of_type(arena, f->module, value->type);
    int64_t count = type_elements(f->module, value->type);
    if (strcmp(value->name, "off") == 0) {
      for (ValueId r = 0; r < vec_len(f->values); r++)
        if (f->values[r].type.extent == v)
          fill_offsets(t, dim_value(f->module, f->values[r].type.dim[0]));
    } else if (t->i) {
      for (int64_t i = 0; i < count; i++)
        t->i[i] = (int32_t)random_number(0, (double)bound_of_name(value->name));
    } else {
      for (int64_t i = 0; i < count; i++)
        t->f[i] = (float)(value->type.rank ? random_number(-2, 2) : random_number(0.5, 1.5));
    }
    eval_bind_argument(env, value->name, t);
  }
}

static int64_t *make_layout(Arena *arena, const Func *f, int64_t padding) {
  int64_t *ld = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *ld);
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    RowShape shape = row_shape(f->module, f->values[v].type);
    ld[v] = shape.columns + (f->values[v].type.rank == 2 && shape.rows > 1 ? padding : 0);
  }
  return ld;
}

static uint32_t *find_last_uses(Arena *arena, const Func *f) {
  uint32_t *last = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *last);
  for (uint32_t i = 0; i < vec_len(f->insts); i++)
    for (int k = 0; k < f->insts[i].input_count; k++)
      last[f->insts[i].input[k]] = i;
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    last[f->results[i].value] = UINT32_MAX;
  return last;
}

static void lower_case(Arena *arena, KernelSet *set, KernelCase *c) {
  const Func *f = c->func;
  ValueLayout layout = {.ld = c->ld, .last_use = find_last_uses(arena, f)};
  uint32_t *uses = row_count_uses(f, arena);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    if (row_op(f, &f->insts[i]))
      vec_push(arena, c->launches, (Launch){i, i, kernel_lower(set, f, i, i, &layout)});
    if (f->insts[i].group == NO_GROUP || (i > 0 && f->insts[i - 1].group == f->insts[i].group))
      continue;
    uint32_t last = i, *insts = NULL;
    for (; last < vec_len(f->insts) && f->insts[last].group == f->insts[i].group; last++)
      vec_push(arena, insts, last);
    const char *refusal = row_group_refusal(f, insts, vec_len(insts), uses);
    if (refusal) {
      printf("FAILED: %s: group %u is refused: %s\n", c->name, f->insts[i].group, refusal);
      exit(1);
    }
    vec_push(arena, c->launches, (Launch){i, last - 1, kernel_lower(set, f, i, last - 1, &layout)});
  }
}

static int is_case(const struct dirent *entry) {
  size_t length = strlen(entry->d_name);
  return length > 3 && strcmp(entry->d_name + length - 3, ".ir") == 0;
}

KernelCase *cases_load(Arena *arena, KernelSet *set, int64_t padding) {
  const char *elsewhere = getenv("MOEC_CASES"); /* where the sources are not */
  const char *directory = elsewhere ? elsewhere : arena_copy(arena, __FILE__, strlen(__FILE__) - 2); /* .../cases[.c] */
  struct dirent **entries;
  int count = scandir(directory, &entries, is_case, alphasort);
  if (count <= 0) {
    perror(directory);
    exit(1);
  }
  KernelCase *cases = NULL;
  random_state = 1;
  for (int i = 0; i < count; i++) {
    const char *path = arena_print(arena, "%s/%s", directory, entries[i]->d_name);
    Module *m = module_parse(arena, path, read_text(arena, path));
    module_verify(m, NULL);
    EvalEnvironment *env = eval_environment_new(arena, CASE_SEED);
    KernelCase c = {.name = arena_print(arena, "%.*s", (int)strlen(entries[i]->d_name) - 3, entries[i]->d_name),
                    .func = module_find_func(m, "f")};
    bind_arguments(arena, c.func, env);
    c.run = eval_func(c.func, env, arena);
    c.ld = make_layout(arena, c.func, padding);
    lower_case(arena, set, &c);
    vec_push(arena, cases, c);
    free(entries[i]);
  }
  free(entries);
  return cases;
}
