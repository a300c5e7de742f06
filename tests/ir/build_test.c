/* What the text tests cannot reach: dims, names, parameters, layout, schedules, work, and the verifier's answers to
 * what only a broken pass can make. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ir/ir.h"

static int failures;

#define EXPECT(condition)                                                                                              \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                        \
      failures++;                                                                                                      \
    }                                                                                                                  \
  } while (0)

#define EXPECT_TEXT(found, expected) expect_text(__LINE__, found, expected)

static void expect_text(int line, const char *found, const char *expected) {
  if (strcmp(found, expected) == 0)
    return;
  fprintf(stderr, "%s:%d: found `%s`, expected `%s`\n", __FILE__, line, found, expected);
  failures++;
}

static const Loc loc = {"model.lua", 3};

/* A function of x: f32[N,D] and mask: f32[N,E] in a module with symbols, a table with w: f32[E,F,D] and b: f32[D]. */
typedef struct Fixture {
  Arena *arena;
  Module *m;
  Table *table;
  Func *f;
  Dim n, d, e, h;
  ValueId x, mask;
} Fixture;

static Fixture fixture(void) {
  Fixture s = {.arena = arena_new()};
  s.m = module_new(s.arena, "test");
  s.n = dim_symbol(module_add_symbol(s.m, s.m, "N", 64));
  s.d = dim_symbol(module_add_symbol(s.m, s.m, "D", 32));
  s.h = dim_symbol(module_add_symbol(s.m, s.m, "F", 128));
  s.table = module_add_table(s.m, "experts");
  s.e = dim_symbol(module_add_symbol(s.m, s.table, "E", 4));
  vec_push(s.arena, s.table->segments, (Segment){.weight_decay = 0.1});
  vec_push(s.arena, s.table->segments, (Segment){.birth = 1});
  table_add_param(s.table, s.m, (Param){"b", type_make(DTYPE_F32, 1, (Dim[]){s.d}), "zeros", 1, 0});
  table_add_param(s.table, s.m, (Param){"fixed", type_make(DTYPE_F32, 1, (Dim[]){s.d}), "zeros", -1, 0});
  table_add_param(s.table, s.m, (Param){"w", type_make(DTYPE_F32, 3, (Dim[]){s.e, s.h, s.d}), "zeros", 0, 0});
  table_add_param(s.table, s.m, (Param){"c", type_make(DTYPE_F32, 1, (Dim[]){dim_number(65)}), "zeros", 1, 0});
  table_layout(s.m, s.table);
  s.f = module_add_func(s.m, "train", s.table);
  s.x = func_add_argument(s.f, "x", type_make(DTYPE_F32, 2, (Dim[]){s.n, s.d}));
  s.mask = func_add_argument(s.f, "mask", type_make(DTYPE_F32, 2, (Dim[]){s.n, s.e}));
  return s;
}

/* The packed rows of `value` and what belongs to them. */
typedef struct Packed {
  ValueId pair, off, slot, rows;
} Packed;

static Packed pack_rows(Fixture *s, ValueId value) {
  Attr k = attr_int(ATTRIBUTE_k, 4);
  const Inst *route = build_inst(s->f, OP_route, loc, &s->mask, 1, &k, 1);
  Packed p = {route->output[0], route->output[1], route->output[2], NO_VALUE};
  p.rows = build(s->f, OP_dispatch, loc, (ValueId[]){value, p.pair, p.slot}, 3, NULL, 0);
  return p;
}

static void test_dims(void) {
  Fixture s = fixture();
  Dim q;
  EXPECT_TEXT(dim_text(s.m, dim_multiply(s.e, s.h)), "F*E"); /* the module's symbols come first */
  EXPECT_TEXT(dim_text(s.m, dim_add(s.m, s.e, 1)), "E+1");
  EXPECT_TEXT(dim_text(s.m, dim_multiply(dim_number(3), dim_add(s.m, s.d, -2))), "3*D-6");
  EXPECT_TEXT(dim_text(s.m, dim_product(s.m, dim_add(s.m, s.e, 1), s.d)), "160");
  EXPECT(dim_divide(s.m, dim_multiply(s.n, s.d), s.d, &q));
  EXPECT_TEXT(dim_text(s.m, q), "N");
  EXPECT(dim_divide(s.m, dim_multiply(s.n, s.d), s.h, &q));
  EXPECT_TEXT(dim_text(s.m, q), "N*D/F");
  EXPECT(dim_value(s.m, q) == 16);
  EXPECT(dim_divide(s.m, s.d, dim_number(2), &q) && dim_equal(s.m, q, dim_number(16)));
  EXPECT(!dim_divide(s.m, s.d, dim_number(3), &q));
  EXPECT(dim_equal(s.m, s.h, dim_multiply(s.d, s.e)));
  arena_free(s.arena);
}

static void test_names(void) {
  Fixture s = fixture();
  ValueId w = func_parameter(s.f, NULL, "w", SLOT_VALUE);
  EXPECT(w == func_parameter(s.f, s.table, "w", SLOT_VALUE));
  EXPECT(w != func_parameter(s.f, s.table, "w", SLOT_M));
  ValueId first = build1(s.f, OP_exp, loc, s.x), second = build1(s.f, OP_exp, loc, s.x);
  EXPECT_TEXT(s.f->values[first].name, "exp");
  EXPECT_TEXT(s.f->values[second].name, "exp_2");
  value_rename(s.f, first, "x");
  EXPECT_TEXT(s.f->values[first].name, "x_2");
  value_rename(s.f, second, "exp"); /* free again */
  EXPECT_TEXT(s.f->values[second].name, "exp");
  value_rename(s.f, second, "w"); /* a parameter is written @w and gives way */
  EXPECT_TEXT(s.f->values[second].name, "w");
  EXPECT(func_find_value(s.f, "w") == second);
  EXPECT(func_find_value(s.f, s.f->values[w].name) == w);
  EXPECT(func_find_value(s.f, "exp") == NO_VALUE);
  for (int i = 0; i < 5000; i++)
    build1(s.f, OP_neg, loc, s.x);
  EXPECT(w == func_parameter(s.f, NULL, "w", SLOT_VALUE));
  EXPECT(func_find_value(s.f, "neg_5000") == vec_len(s.f->values) - 1);
  arena_free(s.arena);
}

static void test_layout(void) {
  Fixture s = fixture();
  const Table *t = s.table;
  int64_t w = 4 * 128 * 32;
  EXPECT(t->segments[0].offset == 0 && t->segments[0].size == w);
  EXPECT(t->segments[1].offset == w && t->segments[1].size == 512);
  EXPECT(table_find_param(t, "w")->offset == 0);
  EXPECT(table_find_param(t, "b")->offset == w);
  EXPECT(table_find_param(t, "c")->offset == w + 64);
  EXPECT(table_find_param(t, "fixed")->offset == w + 512);
  EXPECT(t->size == w + 512 + 64);
  arena_free(s.arena);
}

static void test_many_parameters(void) {
  Fixture s = fixture();
  Type type = s.table->params[0].type;
  for (int i = 0; i < 5000; i++)
    table_add_param(s.table, s.f->module, (Param){.name = arena_print(s.arena, "p%d", i), .type = type});
  EXPECT(table_find_param(s.table, "w") == &s.table->params[2]);
  for (int i = 0; i < 5000; i++)
    EXPECT(table_find_param(s.table, arena_print(s.arena, "p%d", i)) == &vec_last(s.table->params) - 4999 + i);
  EXPECT(table_find_param(s.table, "p5000") == NULL && table_find_param(s.table, "p") == NULL);
  arena_free(s.arena);
}

static void test_short_forms(void) {
  Fixture s = fixture();
  Packed p = pack_rows(&s, s.x);
  ValueId row = build_sum(s.f, loc, s.x, 0);
  EXPECT_TEXT(type_text(s.f, s.f->values[row].type), "f32[1,D]");
  EXPECT(build_broadcast(s.f, loc, s.x, s.f->values[s.x].type) == s.x);
  ValueId ragged = build_broadcast(s.f, loc, row, s.f->values[p.rows].type);
  EXPECT_TEXT(type_text(s.f, s.f->values[ragged].type), "f32[N*E<%route_2>,D]");
  ValueId outer = build_matmul(s.f, loc, p.rows, ragged, true, false);
  EXPECT_TEXT(type_text(s.f, s.f->values[outer].type), "f32[D,D]");
  ValueId flat = build_reshape(s.f, loc, s.x, 1, (Dim[]){dim_multiply(s.n, s.d)});
  EXPECT_TEXT(type_text(s.f, s.f->values[flat].type), "f32[N*D]");
  func_add_result(s.f, "loss", build_const(s.f, loc, 1));
  module_verify(s.m, "test");
  arena_free(s.arena);
}

/* ---------------------------------------------------------------- schedules */

static const char *schedule_of(Arena *arena, float (*value)(int), int count) {
  Schedule s = {"s", NULL};
  for (int i = 0; i < count; i++)
    vec_push(arena, s.values, value(i));
  const char *text = schedule_text(arena, &s);
  const char *module = arena_print(arena, "module m\nschedule @s %d %s\n", count, text);
  const Module *m = module_parse(arena, "schedule", module);
  EXPECT(memcmp(m->schedules[0]->values, s.values, (size_t)count * sizeof(float)) == 0);
  return text;
}

static float constant(int i) {
  (void)i;
  return 0.25f;
}
static float falling(int i) {
  return (float)(2.0 + (0.3 - 2.0) * i / 5000);
}
static float warmup(int i) {
  double peak = 2.5e-4;
  return (float)(i < 10000 ? peak * (i + 1) / 10000 : peak * (200000 - i) / 190000);
}
static float cosine(int i) {
  return (float)(0.5e-3 * (1 + cos(3.14159265358979 * i / 20000)));
}
static float noise(int i) {
  return (float)sin(1e4 * i * i);
}

static void test_schedules(void) {
  Arena *arena = arena_new();
  EXPECT_TEXT(schedule_of(arena, constant, 100000), "linear(0.25,0,100000)");
  EXPECT_TEXT(schedule_of(arena, falling, 5000), "linear(2,-0.00034,5000)");
  EXPECT(strlen(schedule_of(arena, warmup, 200000)) < 200); /* two lines, whatever rounding does at their ends */
  EXPECT(strlen(schedule_of(arena, cosine, 20000)) < 20000 * 9);
  schedule_of(arena, noise, 1000);
  arena_free(arena);
}

/* ---------------------------------------------------------------- work */

static Work work_of(const Func *f, ValueId v, double live) {
  const Inst *inst = &f->insts[f->values[v].inst];
  return flop_rule[inst->op](f, inst, live);
}

static void test_work(void) {
  Fixture s = fixture();
  Packed p = pack_rows(&s, s.x);
  ValueId w = func_parameter(s.f, NULL, "w", SLOT_VALUE);
  Attr tb = attr_int(ATTRIBUTE_tb, 1);
  ValueId h = build(s.f, OP_grouped_matmul, loc, (ValueId[]){p.rows, w, p.off}, 3, &tb, 1);
  EXPECT(work_of(s.f, h, -1).macs == 256.0 * 32 * 128);
  EXPECT(work_of(s.f, h, 10).macs == 10.0 * 32 * 128 && work_of(s.f, h, 10).flops == 2 * 10.0 * 32 * 128);
  ValueId g = build(s.f, OP_grouped_outer, loc, (ValueId[]){h, p.rows, p.off}, 3, NULL, 0);
  EXPECT(work_of(s.f, g, 10).macs == 10.0 * 32 * 128);
  ValueId z = build_matmul(s.f, loc, s.x, s.x, false, true);
  EXPECT(work_of(s.f, z, -1).macs == 64.0 * 64 * 32);
  EXPECT(work_of(s.f, z, -1).bytes == 4.0 * (2 * 64 * 32 + 64 * 64));
  ValueId inner = build_matmul(s.f, loc, p.rows, p.rows, true, false);
  EXPECT(work_of(s.f, inner, 10).macs == 10.0 * 32 * 32);
  EXPECT(work_of(s.f, build1(s.f, OP_exp, loc, h), 10).flops == 10.0 * 128);

  ValueId seg = func_add_argument(s.f, "off", type_make(DTYPE_I32, 1, (Dim[]){dim_number(3)}));
  Attr attr[2] = {attr_int(ATTRIBUTE_heads, 2), attr_int(ATTRIBUTE_causal, 1)};
  ValueId o = build(s.f, OP_attention, loc, (ValueId[]){s.x, s.x, s.x, seg}, 4, attr, 2);
  EXPECT(work_of(s.f, o, -1).flops == 4 * (64.0 * 32 / 2) * 32); /* N*T/2 pairs of 2 segments of T = 32 */
  arena_free(s.arena);
}

/* ---------------------------------------------------------------- the verifier, on what a pass might break */

static void break_type(Fixture *s, ValueId y) {
  s->f->values[y].type.dtype = DTYPE_BF16;
}
static void break_order(Fixture *s, ValueId y) {
  s->f->insts[0].input[0] = y;
}
static void break_name(Fixture *s, ValueId y) {
  s->f->values[y].name = "x";
}
static void break_spelling(Fixture *s, ValueId y) {
  s->f->values[y].name = "a b";
}
static void break_definition(Fixture *s, ValueId y) {
  s->f->values[y].inst = 0;
}
static void break_group(Fixture *s, ValueId y) {
  vec_push(s->arena, s->f->group_notes, "fused: exp");
  s->f->insts[0].group = 1;
  s->f->insts[s->f->values[y].inst].group = 1;
}
static void break_note(Fixture *s, ValueId y) {
  s->f->insts[s->f->values[y].inst].note = "Fused";
}
static void break_stage(Fixture *s, ValueId y) {
  (void)y;
  s->f->insts[0].op = OP_attention_grad;
}
static void break_parameter(Fixture *s, ValueId y) {
  (void)y;
  s->f->values[func_parameter(s->f, NULL, "b", SLOT_VALUE)].type.dim[0] = s->n;
}
static void break_layout(Fixture *s, ValueId y) {
  (void)y;
  table_find_param(s->table, "b")->offset += 64;
}
static void break_result(Fixture *s, ValueId y) {
  func_add_result(s->f, "grad @w", y);
}
static void break_label(Fixture *s, ValueId y) {
  func_add_result(s->f, "y", s->x);
  (void)y;
}
static void break_extent(Fixture *s, ValueId y) {
  s->f->values[y].type.extent = s->x;
}

/* module_verify after a pass that did `damage` exits with 70 and says `message`. */
static void expect_bug(int line, void (*damage)(Fixture *, ValueId), const char *message) {
  int ends[2], status;
  if (pipe(ends) != 0)
    exit(1);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    Fixture s = fixture();
    build1(s.f, OP_exp, loc, s.x);
    build1(s.f, OP_neg, loc, s.x);
    ValueId y = build1(s.f, OP_exp, loc, s.x);
    value_rename(s.f, y, "y");
    func_add_result(s.f, "y", y);
    module_verify(s.m, "nothing");
    damage(&s, y);
    module_verify(s.m, "a pass");
    _exit(0);
  }
  close(ends[1]);
  char text[4096] = "";
  for (ssize_t n, used = 0; (n = read(ends[0], text + used, sizeof text - 1 - (size_t)used)) > 0;)
    used += n;
  close(ends[0]);
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 70 || !strstr(text, message)) {
    fprintf(stderr, "%s:%d: found `%s`, expected `%s`\n", __FILE__, line, text, message);
    failures++;
  }
}

static void test_verifier(void) {
  expect_bug(__LINE__, break_type, "after a pass: @train: %y is bf16[N,D], but exp gives f32[N,D]");
  expect_bug(__LINE__, break_order, "@train: exp: operand 1, %y, is not defined before its use");
  expect_bug(__LINE__, break_name, "@train: two values have the name %x");
  expect_bug(__LINE__, break_spelling, "@train: 'a b' is no name of a value");
  expect_bug(__LINE__, break_definition, "@train: exp: output 1 and its value do not point at each other");
  expect_bug(__LINE__, break_group, "@train: the instructions of group 1 are not adjacent");
  expect_bug(__LINE__, break_note, "@train: a note must read 'word: text', found 'Fused'");
  expect_bug(__LINE__, break_stage, "@train: op 'attention_grad' is not legal at stage graph");
  expect_bug(__LINE__, break_parameter, "@train: @b is used as f32[N], but is f32[D]");
  expect_bug(__LINE__, break_layout, "table @experts is not laid out as table_layout does");
  expect_bug(__LINE__, break_result, "@train: result grad @w is f32[N,D], expected f32[E,F,D]");
  expect_bug(__LINE__, break_label, "@train: result y is given twice");
  expect_bug(__LINE__, break_extent, "@train: %y: its extent %x is f32[N,D], expected offsets i32[groups+1]");
}

int main(void) {
  test_dims();
  test_names();
  test_layout();
  test_many_parameters();
  test_short_forms();
  test_schedules();
  test_work();
  test_verifier();
  if (failures)
    fprintf(stderr, "%d failures\n", failures);
  return failures != 0;
}
