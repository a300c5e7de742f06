/* The steps of a plan: one table of keys per builtin says what its line must hold and where each value goes.
 *
 * In: the words of a line. Out: a PlanStep, and the spaces its places use. Every required key was given exactly once,
 * no other was. */
#include "runtime/plan_read.h"

#include <stdio.h>
#include <string.h>

#include "runtime/error.h"

typedef enum KeyKind { KEY_NUMBER, KEY_COUNT, KEY_PLACE, KEY_TYPE, KEY_VALUE, KEY_EPILOGUE } KeyKind;

typedef struct Key {
  const char *name;
  KeyKind kind;
  bool optional; /* types: f32 when absent; numbers and places: left as they are */
  size_t offset; /* into PlanStep */
} Key;

#define NUMBER(struct_name, field)                                                                                     \
  { #field, KEY_NUMBER, false, offsetof(PlanStep, struct_name.field) }
#define COUNT(struct_name, field)                                                                                      \
  { #field, KEY_COUNT, false, offsetof(PlanStep, struct_name.field) }
#define PLACE(struct_name, field)                                                                                      \
  { #field, KEY_PLACE, false, offsetof(PlanStep, struct_name.field) }
#define TYPE(struct_name, field)                                                                                       \
  { #field, KEY_TYPE, true, offsetof(PlanStep, struct_name.field) }

static const Key gemm_keys[] = {
    COUNT(gemm, m),    COUNT(gemm, n),     COUNT(gemm, k),   NUMBER(gemm, ta),  NUMBER(gemm, tb),
    PLACE(gemm, a),    NUMBER(gemm, lda),  PLACE(gemm, b),   NUMBER(gemm, ldb), PLACE(gemm, c),
    NUMBER(gemm, ldc), NUMBER(gemm, beta), TYPE(gemm, type), TYPE(gemm, ctype), {0}};

/* In a plan for CUDA m, n and k are numbers; read_cuda_step sees to it. */
static const Key cuda_gemm_keys[] = {COUNT(gemm, m),
                                     COUNT(gemm, n),
                                     COUNT(gemm, k),
                                     NUMBER(gemm, ta),
                                     NUMBER(gemm, tb),
                                     PLACE(gemm, a),
                                     NUMBER(gemm, lda),
                                     PLACE(gemm, b),
                                     NUMBER(gemm, ldb),
                                     PLACE(gemm, c),
                                     NUMBER(gemm, ldc),
                                     NUMBER(gemm, beta),
                                     TYPE(gemm, type),
                                     TYPE(gemm, ctype),
                                     {"epilogue", KEY_EPILOGUE, true, offsetof(PlanStep, gemm.epilogue)},
                                     {"bias", KEY_PLACE, true, offsetof(PlanStep, gemm.bias)},
                                     {"aux", KEY_PLACE, true, offsetof(PlanStep, gemm.aux)},
                                     {"ldaux", KEY_NUMBER, true, offsetof(PlanStep, gemm.ldaux)},
                                     {"add", KEY_PLACE, true, offsetof(PlanStep, gemm.add)},
                                     {"ldadd", KEY_NUMBER, true, offsetof(PlanStep, gemm.ldadd)},
                                     {0}};

static const Key grouped_gemm_keys[] = {NUMBER(grouped, groups), PLACE(grouped, off),
                                        NUMBER(grouped, rows),   NUMBER(grouped, n),
                                        NUMBER(grouped, k),      NUMBER(grouped, tb),
                                        PLACE(grouped, a),       NUMBER(grouped, lda),
                                        PLACE(grouped, b),       PLACE(grouped, c),
                                        NUMBER(grouped, ldc),    TYPE(grouped, type),
                                        TYPE(grouped, ctype),    {0}};

static const Key grouped_outer_keys[] = {NUMBER(grouped, groups),
                                         PLACE(grouped, off),
                                         NUMBER(grouped, rows),
                                         NUMBER(grouped, m),
                                         NUMBER(grouped, n),
                                         PLACE(grouped, a),
                                         NUMBER(grouped, lda),
                                         PLACE(grouped, b),
                                         NUMBER(grouped, ldb),
                                         PLACE(grouped, c),
                                         TYPE(grouped, type),
                                         TYPE(grouped, ctype),
                                         {0}};

#define ATTENTION_KEYS                                                                                                 \
  NUMBER(attention, n), NUMBER(attention, segments), NUMBER(attention, heads), NUMBER(attention, head),                \
      NUMBER(attention, causal), PLACE(attention, q), NUMBER(attention, ldq), PLACE(attention, k),                     \
      NUMBER(attention, ldk), PLACE(attention, v), NUMBER(attention, ldv), PLACE(attention, off), PLACE(attention, o), \
      NUMBER(attention, ldo), PLACE(attention, lse), TYPE(attention, type)

static const Key attention_keys[] = {ATTENTION_KEYS, {0}};

static const Key attention_grad_keys[] = {ATTENTION_KEYS,
                                          {"do", KEY_PLACE, false, offsetof(PlanStep, attention.dout)},
                                          NUMBER(attention, lddo),
                                          PLACE(attention, dq),
                                          NUMBER(attention, lddq),
                                          PLACE(attention, dk),
                                          NUMBER(attention, lddk),
                                          PLACE(attention, dv),
                                          NUMBER(attention, lddv),
                                          PLACE(attention, scratch),
                                          {0}};

static const Key route_keys[] = {NUMBER(route, n),
                                 NUMBER(route, experts),
                                 NUMBER(route, k),
                                 NUMBER(route, bound),
                                 PLACE(route, mask),
                                 NUMBER(route, ldm),
                                 PLACE(route, pair),
                                 PLACE(route, off),
                                 PLACE(route, slot),
                                 PLACE(route, scratch),
                                 {0}};

static const Key groups_keys[] = {
    NUMBER(groups, n),   NUMBER(groups, columns), NUMBER(groups, groups), PLACE(groups, x),
    NUMBER(groups, ldx), PLACE(groups, c),        PLACE(groups, scratch), {0}};

static const Key scatter_rows_keys[] = {NUMBER(scatter, n),
                                        NUMBER(scatter, d),
                                        NUMBER(scatter, rows),
                                        PLACE(scatter, ids),
                                        PLACE(scatter, x),
                                        NUMBER(scatter, ldx),
                                        PLACE(scatter, c),
                                        PLACE(scatter, scratch),
                                        TYPE(scatter, type),
                                        TYPE(scatter, ctype),
                                        {0}};

static const Key segment_sum_keys[] = {NUMBER(segment_sum, groups), PLACE(segment_sum, off),
                                       NUMBER(segment_sum, n),      PLACE(segment_sum, x),
                                       NUMBER(segment_sum, ldx),    PLACE(segment_sum, c),
                                       NUMBER(segment_sum, ldc),    TYPE(segment_sum, type),
                                       TYPE(segment_sum, ctype),    {0}};

static const Key copy_keys[] = {COUNT(copy, rows), NUMBER(copy, columns), TYPE(copy, type),  PLACE(copy, from),
                                NUMBER(copy, ldf), PLACE(copy, to),       NUMBER(copy, ldt), {0}};

static const Key fill_keys[] = {COUNT(copy, rows),
                                NUMBER(copy, columns),
                                TYPE(copy, type),
                                PLACE(copy, to),
                                NUMBER(copy, ldt),
                                {"value", KEY_VALUE, false, offsetof(PlanStep, copy.value)},
                                {0}};

static const struct {
  const char *name;
  const Key *keys;
} step_kinds[STEP_KIND_COUNT] = {
    [STEP_LAUNCH] = {"launch", NULL},
    [STEP_GEMM] = {"gemm", gemm_keys},
    [STEP_GROUPED_GEMM] = {"grouped_gemm", grouped_gemm_keys},
    [STEP_GROUPED_OUTER] = {"grouped_outer", grouped_outer_keys},
    [STEP_ATTENTION] = {"attention", attention_keys},
    [STEP_ATTENTION_GRAD] = {"attention_grad", attention_grad_keys},
    [STEP_ROUTE] = {"route", route_keys},
    [STEP_RANK_ROWS] = {"rank_rows", groups_keys},
    [STEP_BALANCED_ASSIGNMENT] = {"balanced_assignment", groups_keys},
    [STEP_SCATTER_ROWS] = {"scatter_rows", scatter_rows_keys},
    [STEP_SEGMENT_SUM] = {"segment_sum", segment_sum_keys},
    [STEP_COPY] = {"copy", copy_keys},
    [STEP_FILL] = {"fill", fill_keys},
    [STEP_MEMSET] = {"memset", NULL},
};

const char *plan_step_name(PlanStepKind kind) {
  return step_kinds[kind].name;
}

static PlanEpilogue parse_epilogue(const PlanReader *reader, const char *text) {
  static const char *const names[EPILOGUE_COUNT] = {"none",  "bias",        "gelu_bias", "gelu_aux_bias",
                                                    "dgelu", "dgelu_bgrad", "bgradb"};
  for (int i = 0; i < EPILOGUE_COUNT; i++)
    if (!strcmp(names[i], text))
      return (PlanEpilogue)i;
  plan_fail(reader, "no epilogue is called '%s'", text);
}

static void store_key(const PlanReader *reader, const Key *key, const char *text, PlanStep *step, unsigned *spaces) {
  void *field = (char *)step + key->offset;
  switch (key->kind) {
  case KEY_NUMBER:
    *(int64_t *)field = plan_parse_number(reader, key->name, text);
    break;
  case KEY_COUNT: {
    PlanCount count = plan_parse_count(reader, key->name, text);
    if (count.dynamic)
      *spaces |= 1u << count.place.space;
    *(PlanCount *)field = count;
    break;
  }
  case KEY_PLACE: {
    PlanPlace place = plan_parse_place(reader, key->name, text);
    *spaces |= 1u << place.space;
    *(PlanPlace *)field = place;
    break;
  }
  case KEY_TYPE:
    *(PlanType *)field = plan_parse_type(reader, text);
    break;
  case KEY_VALUE:
    *(double *)field = plan_parse_double(reader, key->name, text);
    break;
  case KEY_EPILOGUE:
    *(PlanEpilogue *)field = parse_epilogue(reader, text);
    break;
  }
}

static void read_keys(const PlanReader *reader, const Key *keys, PlanStep *step, unsigned *spaces) {
  uint64_t given = 0;
  for (int w = 1; w < reader->word_count; w++) {
    char *word = reader->words[w], *equals = strchr(word, '=');
    if (!equals)
      plan_fail(reader, "'%s': expected key=value", word);
    size_t length = (size_t)(equals - word);
    int k = 0;
    while (keys[k].name && (strncmp(keys[k].name, word, length) || keys[k].name[length]))
      k++;
    if (!keys[k].name)
      plan_fail(reader, "%s has no key '%.*s'", reader->words[0], (int)length, word);
    if (given >> k & 1)
      plan_fail(reader, "key '%s' is given twice", keys[k].name);
    given |= (uint64_t)1 << k;
    store_key(reader, &keys[k], equals + 1, step, spaces);
  }
  for (int k = 0; keys[k].name; k++)
    if (!keys[k].optional && !(given >> k & 1))
      plan_fail(reader, "%s lacks key '%s'", reader->words[0], keys[k].name);
}

static int kernel_index(Plan *plan, const char *name) {
  for (int i = 0; i < plan->kernel_count; i++)
    if (!strcmp(plan->kernels[i], name))
      return i;
  plan->kernels = runtime_grow(plan->kernels, plan->kernel_count, sizeof *plan->kernels);
  plan->kernels[plan->kernel_count] = name;
  return plan->kernel_count++;
}

static void read_launch(PlanReader *reader, StepLaunch *launch, unsigned *spaces) {
  launch->kernel = kernel_index(reader->plan, plan_word(reader, 1, "kernel"));
  launch->rows = plan_parse_count(reader, "rows", plan_key(reader, "rows"));
  if (launch->rows.dynamic)
    *spaces |= 1u << launch->rows.place.space;
  if (strncmp(plan_word(reader, 2, "rows="), "rows=", 5))
    plan_fail(reader, "'%s': expected rows=", reader->words[2]);
  launch->operand_count = reader->word_count - 3;
  launch->operands = runtime_allocate((size_t)launch->operand_count, sizeof *launch->operands);
  for (int i = 0; i < launch->operand_count; i++) {
    launch->operands[i] = plan_parse_place(reader, "operand", reader->words[i + 3]);
    if (launch->operands[i].space != SPACE_TAG)
      *spaces |= 1u << launch->operands[i].space;
  }
}

/* ---------------------------------------------------------------- CUDA */

/* "132" or "512,16,2". */
static void parse_blocks(const PlanReader *reader, const char *text, int64_t blocks[3]) {
  blocks[0] = blocks[1] = blocks[2] = 1;
  for (int i = 0; text; i++) {
    const char *comma = strchr(text, ',');
    char number[32] = "";
    size_t length = comma ? (size_t)(comma - text) : strlen(text);
    if (i == 3 || length >= sizeof number)
      plan_fail(reader, "blocks: at most three numbers, not '%s'", text);
    memcpy(number, text, length);
    blocks[i] = plan_parse_number(reader, "blocks", number);
    if (blocks[i] < 1)
      plan_fail(reader, "blocks: %lld is not a number of blocks", (long long)blocks[i]);
    text = comma ? comma + 1 : NULL;
  }
}

static PlanCheck parse_check(const PlanReader *reader, const char *text) {
  if (!strcmp(text, "route"))
    return CHECK_ROUTE;
  if (!strcmp(text, "scatter_rows"))
    return CHECK_SCATTER_ROWS;
  plan_fail(reader, "no check is called '%s'", text);
}

/* A word key=value of a launch; the keys may stand anywhere among the operands. */
static void read_launch_key(const PlanReader *reader, StepLaunch *launch, const char *word) {
  const struct {
    const char *name;
    int64_t *number;
  } numbers[] = {{"threads", &launch->threads}, {"shared", &launch->shared},  {"n", &launch->n}, {"k", &launch->k},
                 {"bound", &launch->bound},     {"rows", &launch->check_rows}};
  size_t length = strcspn(word, "=");
  const char *text = word + length + 1;
  if (length == 6 && !strncmp(word, "blocks", length)) {
    parse_blocks(reader, text, launch->blocks);
    return;
  }
  if (length == 5 && !strncmp(word, "check", length)) {
    launch->check = parse_check(reader, text);
    return;
  }
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
    if (!strncmp(numbers[i].name, word, length) && !numbers[i].name[length]) {
      *numbers[i].number = plan_parse_number(reader, numbers[i].name, text);
      return;
    }
  plan_fail(reader, "launch has no key '%.*s'", (int)length, word);
}

static void read_cuda_launch(PlanReader *reader, StepLaunch *launch, unsigned *spaces) {
  launch->kernel = kernel_index(reader->plan, plan_word(reader, 1, "kernel"));
  launch->operands = runtime_allocate((size_t)reader->word_count, sizeof *launch->operands);
  for (int w = 2; w < reader->word_count; w++) {
    if (strchr(reader->words[w], '=')) {
      read_launch_key(reader, launch, reader->words[w]);
      continue;
    }
    PlanPlace place = plan_parse_place(reader, "operand", reader->words[w]);
    launch->operands[launch->operand_count++] = place;
    if (place.space != SPACE_TAG && place.space != SPACE_NULL)
      *spaces |= 1u << place.space;
  }
  if (launch->blocks[0] < 1 || launch->threads < 1 || launch->threads > 1024 || launch->shared < 0)
    plan_fail(reader, "launch of %s: blocks=, and threads= of at most 1024 expected",
              reader->plan->kernels[launch->kernel]);
}

/* The places that the epilogue uses, and no others. */
static void check_epilogue(const PlanReader *reader, const StepGemm *s) {
  bool bias = s->epilogue != EPILOGUE_NONE && s->epilogue != EPILOGUE_DGELU;
  bool aux =
      s->epilogue == EPILOGUE_GELU_AUX_BIAS || s->epilogue == EPILOGUE_DGELU || s->epilogue == EPILOGUE_DGELU_BGRAD;
  if ((s->bias.space != SPACE_NULL) != bias || (s->aux.space != SPACE_NULL) != aux || (aux && s->ldaux < s->n.number))
    plan_fail(reader, "gemm: the epilogue wants%s bias= and%s aux= with ldaux= of at least n", bias ? "" : " no",
              aux ? "" : " no");
  if (s->add.space != SPACE_NULL && (s->beta != 1 || s->ldadd < s->n.number))
    plan_fail(reader, "gemm: add= wants beta=1 and ldadd= of at least n");
}

static void read_memset(PlanReader *reader, StepMemset *step, unsigned *spaces) {
  step->to = plan_parse_place(reader, "memset", plan_word(reader, 1, "place"));
  step->bytes = plan_parse_number(reader, "bytes", plan_key(reader, "bytes"));
  *spaces |= 1u << step->to.space;
  if (step->bytes < 0)
    plan_fail(reader, "memset of %lld bytes", (long long)step->bytes);
}

/* Takes the words choice= and option= out of the line. */
static void read_choice(PlanReader *reader, PlanStep *step) {
  const char *choice = plan_find_key(reader, "choice"), *option = plan_find_key(reader, "option");
  int kept = 0;
  if (!choice != !option)
    plan_fail(reader, "%s: choice= and option= belong together", reader->words[0]);
  if (!choice)
    return;
  step->choice = (int)plan_parse_number(reader, "choice", choice);
  step->option = option;
  if (step->choice < 1 || !*option)
    plan_fail(reader, "choice=%s option=%s: choices count from 1, options have names", choice, option);
  for (int w = 0; w < reader->word_count; w++)
    if (strncmp(reader->words[w], "choice=", 7) && strncmp(reader->words[w], "option=", 7))
      reader->words[kept++] = reader->words[w];
  reader->word_count = kept;
}

/* A step of a plan for CUDA; false: its kind belongs to the CPU's plan. */
static bool read_cuda_step(PlanReader *reader, PlanStep *step, unsigned *spaces) {
  switch (step->kind) {
  case STEP_LAUNCH:
    read_cuda_launch(reader, &step->launch, spaces);
    return true;
  case STEP_GEMM:
    step->gemm.bias.space = step->gemm.aux.space = step->gemm.add.space = SPACE_NULL;
    read_keys(reader, cuda_gemm_keys, step, spaces);
    if (step->gemm.m.dynamic || step->gemm.n.dynamic || step->gemm.k.dynamic)
      plan_fail(reader, "gemm: m, n and k are numbers in a plan for CUDA");
    check_epilogue(reader, &step->gemm);
    return true;
  case STEP_MEMSET:
    read_memset(reader, &step->memset, spaces);
    return true;
  default:
    return false;
  }
}

/* ---------------------------------------------------------------- any target */

/* Limits the builtins rely on. */
static void check_step(const PlanReader *reader, const PlanStep *step) {
  if (step->kind == STEP_ATTENTION || step->kind == STEP_ATTENTION_GRAD) {
    const StepAttention *a = &step->attention;
    if (a->n < 0 || a->segments < 1 || a->heads < 1 || a->head < 8 || a->head > 256 || a->head % 8)
      plan_fail(reader, "attention of n=%lld segments=%lld heads=%lld head=%lld: a head is a multiple of 8 up to 256",
                (long long)a->n, (long long)a->segments, (long long)a->heads, (long long)a->head);
  }
  if (step->kind == STEP_RANK_ROWS || step->kind == STEP_BALANCED_ASSIGNMENT) {
    const StepGroups *g = &step->groups;
    if (g->columns < 1 || g->groups < 1 || g->n < 1 || g->n % g->groups)
      plan_fail(reader, "%s of n=%lld columns=%lld groups=%lld: groups must divide n", plan_step_name(step->kind),
                (long long)g->n, (long long)g->columns, (long long)g->groups);
    if (step->kind == STEP_BALANCED_ASSIGNMENT && g->n / g->groups % g->columns)
      plan_fail(reader, "balanced_assignment: %lld experts do not divide slices of %lld rows", (long long)g->columns,
                (long long)(g->n / g->groups));
  }
  if (step->kind == STEP_ROUTE && (step->route.experts < 1 || step->route.k < 1 || step->route.n < 0))
    plan_fail(reader, "route needs experts and k of at least 1");
  if ((step->kind == STEP_GROUPED_GEMM || step->kind == STEP_GROUPED_OUTER) && step->grouped.groups < 1)
    plan_fail(reader, "a grouped product needs at least one group");
}

bool plan_read_step(PlanReader *reader, PlanStep *step, unsigned *spaces) {
  const char *keyword = reader->words[0];
  int kind = 0;
  while (kind < STEP_KIND_COUNT && strcmp(step_kinds[kind].name, keyword))
    kind++;
  if (kind == STEP_KIND_COUNT)
    return false;
  *step = (PlanStep){.kind = (PlanStepKind)kind, .line = reader->line, .comment = reader->comment};
  if (!strcmp(reader->plan->target, "cuda")) {
    read_choice(reader, step);
    return read_cuda_step(reader, step, spaces);
  }
  if (kind == STEP_MEMSET)
    return false;
  if (kind == STEP_LAUNCH)
    read_launch(reader, &step->launch, spaces);
  else
    read_keys(reader, step_kinds[kind].keys, step, spaces);
  check_step(reader, step);
  return true;
}

const char *plan_step_location(const PlanStep *step) {
  const char *colon = NULL; /* of the last word "file:digits" */
  for (const char *c = strchr(step->comment, ':'); c; c = strchr(c + 1, ':'))
    if (c > step->comment && c[-1] != ' ' && c[1] >= '0' && c[1] <= '9')
      colon = c;
  char *text = runtime_allocate(512, 1);
  if (!colon) {
    snprintf(text, 512, "plan line %d", step->line);
    return text;
  }
  const char *begin = colon, *end = colon + 1;
  while (begin > step->comment && begin[-1] != ' ')
    begin--;
  while (*end >= '0' && *end <= '9')
    end++;
  snprintf(text, 512, "%.*s", (int)(end - begin), begin);
  return text;
}
