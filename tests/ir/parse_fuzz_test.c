/* Wrong texts by the thousand: mutations of a text that uses the whole language. The parser and the verifier must
 * answer each with one message or take it, in bounded memory and time; and what they take must print, parse and print
 * again to the same text. parse_fuzz_test [MUTATIONS [SEED]] runs other ones than the test does. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

static const char original[] =
    "module m task=lm stage=fused\n"
    "run steps=9 batch=2 accumulate=1 sequence=8 vocabulary=16\n"
    "sym N=16 D=8 S=2\n"
    "optimizer adam {beta1=0.9}\n"
    "table @a {\n  sym E=1\n  segment decay=0.1 birth=0\n  param @w: f32[E,D,D] segment=0 init=normal(0.02)\n"
    "  param @s: f32[D] frozen\n}\n"
    "table @b {\n  sym E=4 F=2*D\n  segment decay=0 birth=1\n  param @w: f32[E,F,D] segment=0\n}\n"
    "schedule @lr 9 linear(0,0.5,6);raw(1,nan,-1e-3)\n"
    "phase @p steps=3 table=@a # m.lua:4\n"
    "phase @q steps=0 table=@b enter=@a_to_b\n"
    "func @q.train table=@b sym {R=N*E} (%x: f32[N,D], %seg: i32[S+1], %t: i32[N], %step: i32[],\n"
    "    %o: i32[E+1], %r: f32[R<%o>,D]) {\n"
    "  %u: f32[N,E] = uniform %t, %step {columns=E, tag=0x5a17}   # m.lua:17\n"
    "  %c: f32[] = const {value=0.25}\n"
    "  %m: f32[N,E] = greater %u, %c\n"
    "  %pair: i32[R<%off>], %off: i32[E+1], %slot: i32[N,E] = route %m {k=4}\n"
    "  group 3 { # fused: dispatch, mul (decision 1)\n"
    "    %xs: f32[R<%off>,D] = dispatch %x, %pair, %slot\n"
    "    %xx: f32[R<%off>,D] = mul %xs, %xs # m.lua:18 # recomputed: cheap\n"
    "  }\n"
    "  %h: f32[R<%off>,F] = grouped_matmul %xx, @w, %off {tb=1}\n"
    "  %dw: f32[E,F,D] = grouped_outer %h, %xs, %off\n"
    "  %att: f32[N,D], %lse: f32[N,2] = attention %x, %x, %x, %seg {heads=2, causal=1}\n"
    "  %y: f32[N,D] = combine %xs, %slot, %pair\n"
    "  %l: f32[N,4], %k: f32[N,4] = split %y {parts=2}\n"
    "  %z: f32[2,N*D/2] = reshape %att {shape=[2,N*D/2]}\n"
    "  %zz: f32[N,N] = matmul %x, %y {tb=1}\n"
    "  %b: bf16[N,N] = cast %zz {dtype=bf16}\n"
    "  %loss: f32[1,N] = sum %zz {axis=0}\n"
    "  return loss=%loss, grad @w=%dw, aux=%c\n"
    "}\n"
    "func @a_to_b table=@b () {\n"
    "  %d: f32[1,D,D] = mul @a::w!m, @a::w!v\n"
    "  return x=%d, param @w=@w\n"
    "}\n";

enum { ROOM = 1 << 14, MUTATIONS = 20000 };

static jmp_buf stopped;
static uint64_t random_state;

static uint32_t draw(uint32_t bound) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 33) % bound;
}

static void stop(const char *message) { /* the handler of ir_fail */
  if (!*message || strchr(message, '\n')) {
    fprintf(stderr, "not one message: %s\n", message);
    exit(1);
  }
  longjmp(stopped, 1);
}

/* Replaces `removed` characters at `at` by `text`. */
static void splice(char *buffer, size_t at, size_t removed, const char *text, size_t length) {
  size_t size = strlen(buffer);
  if (at + removed > size || size - removed + length >= ROOM)
    return;
  memmove(buffer + at + length, buffer + at + removed, size - at - removed + 1);
  memcpy(buffer + at, text, length);
}

static void mutate(char *buffer) {
  static const char *const words[] = {"4294967296",
                                      "-1",
                                      "0",
                                      "99999999999999999999",
                                      "%x",
                                      "@w",
                                      "<%off>",
                                      "E",
                                      "F*N/D+1",
                                      "f32[",
                                      "i32[N]",
                                      "#",
                                      "\n",
                                      "{",
                                      "}",
                                      "1e999",
                                      "nan",
                                      "-0",
                                      "281474976710656",
                                      "linear(0,0,33554432)",
                                      "group 65535 {",
                                      "::",
                                      "!m",
                                      "="};
  size_t size = strlen(buffer);
  if (size < 8)
    return;
  size_t at = draw((uint32_t)size), length = 1 + draw(12);
  switch (draw(5)) {
  case 0: /* a character */
    buffer[at] = (char)(draw(8) ? 32 + draw(95) : 1 + draw(255));
    break;
  case 1: /* a piece goes */
    splice(buffer, at, length, "", 0);
    break;
  case 2: { /* a word comes */
    const char *word = words[draw(sizeof words / sizeof *words)];
    splice(buffer, at, draw(2) ? 0 : length, word, strlen(word));
    break;
  }
  case 3: { /* a piece from elsewhere comes */
    size_t from = draw((uint32_t)size);
    char piece[64];
    length = 1 + draw(sizeof piece - 1);
    length = from + length > size ? size - from : length;
    memcpy(piece, buffer + from, length);
    splice(buffer, at, draw(2) ? 0 : length, piece, length);
    break;
  }
  default: /* a number changes */
    at += strcspn(buffer + at, "0123456789");
    if (buffer[at])
      buffer[at] = (char)('0' + draw(10));
  }
}

static char *print_text(const Module *m) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  module_print(m, out);
  fclose(out);
  return text;
}

/* Whether the text is taken. */
static bool try_text(const char *text) {
  Arena *volatile arena = arena_new();
  char *volatile first = NULL;
  volatile bool taken = false;
  if (setjmp(stopped) == 0) {
    const Module *m = module_parse(arena, "fuzz.ir", text);
    module_verify(m, NULL);
    taken = true;
    first = print_text(m);
    const Module *again = module_parse(arena, "again.ir", first);
    module_verify(again, NULL);
    char *second = print_text(again);
    if (strcmp(first, second) != 0) {
      fprintf(stderr, "a text that does not print again as it was:\n%s\nbecomes\n%s", first, second);
      exit(1);
    }
    free(second);
  } else if (taken) {
    fprintf(stderr, "a printed text that does not parse:\n%s", first ? first : text);
    exit(1);
  }
  free(first);
  arena_free(arena);
  return taken;
}

int main(int argc, char **argv) {
  static char buffer[ROOM];
  long mutations = argc > 1 ? atol(argv[1]) : MUTATIONS, taken = 0;
  random_state = argc > 2 ? (uint64_t)atol(argv[2]) : 1;
  if (!try_text(original)) {
    fprintf(stderr, "the original text is not taken\n");
    return 1;
  }
  ir_set_error_handler(stop);
  for (long i = 0; i < mutations; i++) {
    strcpy(buffer, original);
    for (uint32_t n = 1 + draw(4); n > 0; n--)
      mutate(buffer);
    taken += try_text(buffer);
  }
  printf("%ld mutations, %ld taken\n", mutations, taken);
  return 0;
}
