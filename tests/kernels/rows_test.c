/* Which instructions may become one row kernel, and the reasons for those that may not. */
#include <stdio.h>
#include <string.h>

#include "ir/rows.h"

typedef struct GroupCase {
  const char *name;
  const char *body;    /* of a function with the arguments below; all of it is the group */
  const char *results; /* labels of what is returned */
  const char *refusal; /* a part of the reason; NULL: accepted */
} GroupCase;

static const char head[] =
    "module test task=lm stage=fused\n"
    "run steps=0 batch=0 accumulate=0 sequence=0 vocabulary=0\n"
    "sym N=8 D=4 E=2 M=3\n"
    "func @f (%x: f32[N,D], %y: f32[N,D], %g: f32[D], %s: f32[], %w: f32[E,D], %big: f32[N,M,D],\n"
    "  %ids: i32[N], %table: f32[N,D], %packed: f32[N<%off>,D], %off: i32[E+1], %pair: i32[N<%off>],\n"
    "  %slot: i32[M,1], %gate: f32[M,E], %wide: f32[N,128], %wbig: f32[128,D]) {\n";

static const GroupCase cases[] = {
    {"a chain",
     "%a: f32[N,D] = add %x, %y\n%b: f32[N,D] = mul %a, %g\n%c: f32[N,1] = sum %b {axis=1}\n"
     "%d: f32[N,D] = sub %b, %c\n",
     "d=%d", NULL},
    {"a sum over rows at the end", "%a: f32[N,D] = mul %x, %y\n%b: f32[1,D] = sum %a {axis=0}\n", "b=%b", NULL},
    {"a sum over rows that is used", "%b: f32[1,D] = sum %x {axis=0}\n%a: f32[N,D] = mul %x, %b\n", "a=%a",
     "b is a sum over rows"},
    {"two row spaces", "%a: f32[N,D] = mul %x, %y\n%b: f32[N,M,D] = mul %big, %g\n", "a=%a, b=%b", "rows"},
    {"a scalar within", "%a: f32[] = mul %s, %s\n%b: f32[N,D] = mul %x, %a\n", "b=%b", NULL},
    {"a scalar needed outside", "%a: f32[] = mul %s, %s\n%b: f32[N,D] = mul %x, %a\n", "a=%a, b=%b",
     "a is a scalar that is also needed"},
    {"a scalar whose view is needed outside",
     "%a: f32[] = mul %s, %s\n%v: f32[1] = reshape %a {shape=[1]}\n%b: f32[N,D] = mul %x, %a\n", "v=%v, b=%b",
     "a is a scalar that is also needed"},
    {"the gate's product", "%z: f32[N,E] = matmul %x, %w {tb=1}\n%p: f32[N,E] = softmax %z\n", "p=%p", NULL},
    {"too wide a product", "%z: f32[N,128] = matmul %x, %wbig {tb=1}\n%p: f32[N,128] = softmax %z\n", "p=%p",
     "z (matmul) is no row operation"},
    {"a table that the group makes", "%a: f32[N,D] = mul %x, %y\n%b: f32[N,D] = gather_rows %a, %ids\n", "b=%b",
     "a would have to be in memory"},
    {"regrouped columns",
     "%a: f32[N,128] = neg %wide\n%v: f32[N,32,4] = reshape %a {shape=[N,32,4]}\n%b: f32[N,32,4] = mul %v, %g\n",
     "b=%b", "rows"},
    {"a view at the edge", "%a: f32[N,D] = mul %x, %y\n%v: f32[32] = reshape %a {shape=[32]}\n", "v=%v", NULL},
    {"a slice of what is computed",
     "%a: f32[N,D] = mul %x, %y\n%l: f32[N,2], %r: f32[N,2] = split %a {parts=2}\n%b: f32[N,2] = add %l, %r\n", "b=%b",
     "l is a slice"},
    {"a weighted combine",
     "%wp: f32[N<%off>,1] = pack %gate, %pair, %slot\n%ow: f32[N<%off>,D] = mul %packed, %wp\n"
     "%c: f32[M,D] = combine %ow, %slot, %pair\n%d: f32[M,D] = neg %c\n",
     "d=%d", NULL},
    {"packed rows needed elsewhere",
     "%wp: f32[N<%off>,1] = pack %gate, %pair, %slot\n%ow: f32[N<%off>,D] = mul %packed, %wp\n"
     "%c: f32[M,D] = combine %ow, %slot, %pair\n",
     "c=%c, ow=%ow", "rows"},
    {"a reduction at a token's slots",
     "%m: f32[N<%off>,1] = sum %packed {axis=1}\n%u: f32[M,E] = unpack %m, %slot, %pair {columns=E}\n", "u=%u", "rows"},
};

int main(void) {
  int failures = 0;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Arena *arena = arena_new();
    const char *text = arena_print(arena, "%s%s  return %s\n}\n", head, cases[i].body, cases[i].results);
    Func *f = module_find_func(module_parse(arena, cases[i].name, text), "f");
    uint32_t *insts = NULL;
    for (uint32_t k = 0; k < vec_len(f->insts); k++)
      vec_push(arena, insts, k);
    const char *got = row_group_refusal(f, insts, vec_len(insts), row_count_uses(f, arena)), *want = cases[i].refusal;
    if (want ? !got || !strstr(got, want) : got != NULL) {
      failures++;
      printf("FAILED: %s: %s, expected %s\n", cases[i].name, got ? got : "accepted", want ? want : "accepted");
    }
    arena_free(arena);
  }
  printf("%zu groups, %d failures\n", sizeof cases / sizeof cases[0], failures);
  return failures != 0;
}
