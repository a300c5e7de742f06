/* See features.h. */
#include "runtime/cpu/features.h"

#include <string.h>

#include "runtime/files.h"

/* What a compiler may make of C without being asked for it by name, beyond x86-64. */
#define FEATURES(X)                                                                                                    \
  X("movbe")                                                                                                           \
  X("popcnt")                                                                                                          \
  X("lzcnt")                                                                                                           \
  X("bmi")                                                                                                             \
  X("bmi2")                                                                                                            \
  X("adx")                                                                                                             \
  X("tbm")                                                                                                             \
  X("sse3")                                                                                                            \
  X("ssse3")                                                                                                           \
  X("sse4.1")                                                                                                          \
  X("sse4.2")                                                                                                          \
  X("sse4a")                                                                                                           \
  X("aes")                                                                                                             \
  X("pclmul")                                                                                                          \
  X("sha")                                                                                                             \
  X("gfni")                                                                                                            \
  X("vaes")                                                                                                            \
  X("vpclmulqdq")                                                                                                      \
  X("f16c")                                                                                                            \
  X("fma")                                                                                                             \
  X("fma4")                                                                                                            \
  X("xop")                                                                                                             \
  X("avx")                                                                                                             \
  X("avx2")                                                                                                            \
  X("avxvnni")                                                                                                         \
  X("avx512f")                                                                                                         \
  X("avx512cd")                                                                                                        \
  X("avx512bw")                                                                                                        \
  X("avx512dq")                                                                                                        \
  X("avx512vl")                                                                                                        \
  X("avx512ifma")                                                                                                      \
  X("avx512vbmi")                                                                                                      \
  X("avx512vbmi2")                                                                                                     \
  X("avx512vnni")                                                                                                      \
  X("avx512bitalg")                                                                                                    \
  X("avx512vpopcntdq")                                                                                                 \
  X("avx512vp2intersect")                                                                                              \
  X("avx512bf16")                                                                                                      \
  X("avx512fp16")                                                                                                      \
  X("avx512er")                                                                                                        \
  X("avx512pf")                                                                                                        \
  X("avx5124fmaps")                                                                                                    \
  X("avx5124vnniw")

char *cpu_features(void) {
  char *text = string_format("%s", "");
#define ADD(name)                                                                                                      \
  if (__builtin_cpu_supports(name))                                                                                    \
    text = string_format("%s%s ", text, name);
  FEATURES(ADD)
  return text;
}

const char *cpu_lacks(const char *text, size_t size) {
  const char *own = string_format(" %s", cpu_features());
  for (const char *at = text, *end = text + size; at < end;) {
    const char *space = memchr(at, ' ', (size_t)(end - at));
    int length = (int)((space ? space : end) - at);
    const char *name = string_format("%.*s", length, at);
    if (!strstr(own, string_format(" %s ", name)))
      return name;
    at += length + 1;
  }
  return NULL;
}
