/* Mutations of scripts: by token, so that most of what comes out is still Lua, and now and then by byte.
 *
 * In: the texts of models/ and tests/. Out: a text and -D overrides. Comments are dropped, and `print` becomes
 * `tostring`: what a script prints would stand between the messages that the test counts.
 */
#include "tests/fuzz/scripts.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORTEST = 60 }; /* tokens of a script worth changing: what is shorter shows one mistake, or never ends */

typedef struct Seed {
  const char *path;
  const char **tokens; /* arena vector; "\n" is a token */
  bool has_sizes, has_cases;
} Seed;

static Seed *seeds;         /* arena vector */
static const char **corpus; /* arena vector: the tokens of all seeds */

uint32_t draw(Random *r, uint32_t bound) {
  r->state = r->state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((r->state >> 33) % bound);
}

const char *odd_value(Random *r) {
  static const char *const values[] = {"nil",
                                       "true",
                                       "false",
                                       "0",
                                       "-1",
                                       "1",
                                       "2",
                                       "3",
                                       "0.5",
                                       "1.5",
                                       "64",
                                       "1000003",
                                       "-0.0",
                                       "0/0",
                                       "1/0",
                                       "1e308",
                                       "1e-320",
                                       "1 << 31",
                                       "1 << 32",
                                       "1 << 47",
                                       "1 << 62",
                                       "math.mininteger",
                                       "math.maxinteger",
                                       "2^53",
                                       "\"x\"",
                                       "\"\"",
                                       "\"3\"",
                                       "\"a b\"",
                                       "\"\\0\\n\\255\"",
                                       "(\"w\"):rep(200)",
                                       "{}",
                                       "{ 1, 2 }",
                                       "{ {} }",
                                       "{ [1.5] = 1 }",
                                       "{ [true] = 1 }",
                                       "{ x = 1, 2 }",
                                       "function() end",
                                       "function(...) return ... end",
                                       "error",
                                       "x",
                                       "b",
                                       "b.tokens",
                                       "b.off",
                                       "embed",
                                       "moec",
                                       "c",
                                       "x:shape()",
                                       "moec.op.exp(x)",
                                       "moec.init.zeros()",
                                       "moec.init.normal(0.02)",
                                       "moec.gate.switch {}",
                                       "moec.gate.dts",
                                       "moec.phase.diversify {}",
                                       "moec.optim.adam { lr = 0 }",
                                       "moec.schedule.linear(1, 0, 3)",
                                       "moec.nn.dropout(x, 0.5)"};
  return values[draw(r, sizeof values / sizeof *values)];
}

/* ---------------------------------------------------------------- tokens */

static size_t string_length(const char *p) {
  size_t length = 1;
  while (p[length] && p[length] != p[0] && p[length] != '\n')
    length += p[length] == '\\' && p[length + 1] ? 2 : 1;
  return length + (p[length] == p[0]);
}

static size_t token_length(const char *p) {
  static const char *const longer[] = {"...", "..", "==", "~=", "<=", ">=", "//", "<<", ">>", "::"};
  size_t length = 1;
  if (isalpha((unsigned char)*p) || *p == '_') {
    while (isalnum((unsigned char)p[length]) || p[length] == '_')
      length++;
  } else if (isdigit((unsigned char)*p)) {
    while (isalnum((unsigned char)p[length]) || (p[length] == '.' && p[length + 1] != '.') ||
           (p[length] == '-' && p[length - 1] == 'e'))
      length++;
  } else if (*p == '"' || *p == '\'') {
    length = string_length(p);
  } else {
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++)
      if (strncmp(p, longer[i], strlen(longer[i])) == 0)
        return strlen(longer[i]);
  }
  return length;
}

static const char **split_tokens(Arena *arena, const char *text) {
  const char **tokens = NULL;
  for (const char *p = text; *p;) {
    if (strncmp(p, "--", 2) == 0) {
      p += strcspn(p, "\n");
    } else if (*p == ' ' || *p == '\t') {
      p++;
    } else {
      size_t length = token_length(p);
      const char *token = arena_copy(arena, p, length);
      vec_push(arena, tokens, strcmp(token, "print") == 0 ? "tostring" : token);
      p += length;
    }
  }
  return tokens;
}

static const char *join_tokens(Arena *arena, const char *const *tokens) {
  char *text = NULL;
  for (uint32_t i = 0; i < vec_len(tokens); i++) {
    for (const char *p = tokens[i]; *p; p++)
      vec_push(arena, text, *p);
    vec_push(arena, text, ' ');
  }
  vec_push(arena, text, '\0');
  return text;
}

/* ---------------------------------------------------------------- seeds */

static bool load_file(Arena *arena, const char *root, const char *path) {
  FILE *in = fopen(arena_print(arena, "%s/%s", root, path), "rb");
  if (!in)
    return false;
  char *text = NULL;
  for (int c; (c = getc(in)) != EOF;)
    vec_push(arena, text, (char)c);
  vec_push(arena, text, '\0');
  fclose(in);
  Seed seed = {path, split_tokens(arena, text), strstr(text, "tiny =") != NULL, strstr(text, "case = 0") != NULL};
  if (vec_len(seed.tokens) < SHORTEST)
    return true;
  vec_push(arena, seeds, seed);
  for (uint32_t i = 0; i < vec_len(seed.tokens); i++)
    vec_push(arena, corpus, seed.tokens[i]);
  return true;
}

static int is_script(const struct dirent *entry) {
  const char *end = strrchr(entry->d_name, '.');
  return end && strcmp(end, ".lua") == 0;
}

static bool load_folder(Arena *arena, const char *root, const char *folder) {
  struct dirent **entries;
  int count = scandir(arena_print(arena, "%s/%s", root, folder), &entries, is_script, alphasort);
  bool good = count > 0;
  for (int i = 0; i < count; i++) {
    good = good && load_file(arena, root, arena_print(arena, "%s/%s", folder, entries[i]->d_name));
    free(entries[i]);
  }
  if (count >= 0)
    free(entries);
  return good;
}

bool scripts_load(Arena *arena) {
  static const char here[] = __FILE__;
  size_t length = (size_t)(strstr(here, "tests/fuzz/") - here);
  const char *root = length ? arena_copy(arena, here, length) : ".";
  return load_folder(arena, root, "models") && load_folder(arena, root, "tests/lua") &&
         load_folder(arena, root, "tests/parity");
}

/* ---------------------------------------------------------------- mutations */

/* Copies `tokens` with `removed` of them at `at` replaced by `count` others. */
static const char **splice(Arena *arena, const char **tokens, uint32_t at, uint32_t removed, const char *const *others,
                           uint32_t count) {
  const char **result = NULL;
  for (uint32_t i = 0; i < at; i++)
    vec_push(arena, result, tokens[i]);
  for (uint32_t i = 0; i < count; i++)
    vec_push(arena, result, others[i]);
  for (uint32_t i = at + removed; i < vec_len(tokens); i++)
    vec_push(arena, result, tokens[i]);
  return result;
}

typedef enum TokenClass { TOKEN_NAME, TOKEN_KEYWORD, TOKEN_NUMBER, TOKEN_STRING, TOKEN_OTHER } TokenClass;

static bool is_keyword(const char *token) {
  static const char *const words[] = {"and",      "break",  "do",   "else",  "elseif", "end",     "for",
                                      "function", "goto",   "if",   "in",    "local",  "not",     "or",
                                      "repeat",   "return", "then", "until", "while",  "tostring"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp(token, words[i]) == 0)
      return true;
  return false;
}

static TokenClass class_of(const char *token) {
  unsigned char first = (unsigned char)token[0];
  if (isalpha(first) || first == '_')
    return is_keyword(token) ? TOKEN_KEYWORD : TOKEN_NAME;
  return isdigit(first) ? TOKEN_NUMBER : first == '"' || first == '\'' ? TOKEN_STRING : TOKEN_OTHER;
}

/* The place of a token of that class; another one where the script has too few. */
static uint32_t find_token(Random *r, const char *const *tokens, TokenClass wanted) {
  uint32_t at = draw(r, vec_len(tokens));
  for (int tries = 0; tries < 50 && class_of(tokens[at]) != wanted; tries++)
    at = draw(r, vec_len(tokens));
  return at;
}

static const char **move_line(Arena *arena, Random *r, const char **tokens) {
  uint32_t first = draw(r, vec_len(tokens)), last = first, to = draw(r, vec_len(tokens));
  while (first > 0 && strcmp(tokens[first - 1], "\n") != 0)
    first--;
  while (last + 1 < vec_len(tokens) && strcmp(tokens[last], "\n") != 0)
    last++;
  while (to > 0 && strcmp(tokens[to - 1], "\n") != 0)
    to--;
  return draw(r, 2) ? splice(arena, tokens, first, last + 1 - first, NULL, 0)
                    : splice(arena, tokens, to, 0, tokens + first, last + 1 - first);
}

static const char *of_the_same_class(Random *r, const char *const *from, const char *token) {
  const char *other = from[draw(r, vec_len(from))];
  for (int tries = 0; tries < 50 && class_of(other) != class_of(token); tries++)
    other = from[draw(r, vec_len(from))];
  return other;
}

/* What most often leaves no Lua behind: tokens that go, come or come twice. */
static const char **break_tokens(Arena *arena, Random *r, const char **tokens) {
  uint32_t count = vec_len(tokens), at = draw(r, count), length = 1 + draw(r, 4);
  length = length > count - at ? count - at : length;
  const Seed *seed = &seeds[draw(r, vec_len(seeds))];
  uint32_t from = draw(r, vec_len(seed->tokens)), most = vec_len(seed->tokens) - from, n = 1 + draw(r, 16);
  switch (draw(r, 3)) {
  case 0:
    return splice(arena, tokens, at, length, NULL, 0);
  case 1: /* from another script */
    return splice(arena, tokens, at, draw(r, 2) ? 0 : length, seed->tokens + from, n < most ? n : most);
  default:
    return splice(arena, tokens, at, 0, tokens + at, length);
  }
}

static const char **mutate_tokens(Arena *arena, Random *r, const char **tokens) {
  uint32_t at = draw(r, vec_len(tokens));
  const char *word;
  switch (draw(r, 8)) {
  case 0:
    return break_tokens(arena, r, tokens);
  case 1: /* a line goes, or comes again somewhere */
    return move_line(arena, r, tokens);
  case 2: /* a value becomes another */
  case 3:
    at = find_token(r, tokens, TOKEN_NUMBER);
    word = of_the_same_class(r, corpus, tokens[at]);
    return splice(arena, tokens, at, 1, &word, 1);
  case 4: /* a name becomes another of the script, or of any */
  case 5:
    at = find_token(r, tokens, TOKEN_NAME);
    word = of_the_same_class(r, draw(r, 2) ? tokens : corpus, tokens[at]);
    return splice(arena, tokens, at, 1, &word, 1);
  default: /* a value or a name becomes something odd */
    at = find_token(r, tokens, draw(r, 3) ? TOKEN_NUMBER : draw(r, 2) ? TOKEN_NAME : TOKEN_STRING);
    word = odd_value(r);
    return splice(arena, tokens, at, 1, &word, 1);
  }
}

static const char *mutate_bytes(Arena *arena, Random *r, const char *text) {
  size_t length = strlen(text);
  char *bytes = arena_copy(arena, text, length);
  for (uint32_t n = 1 + draw(r, 3); n > 0; n--)
    bytes[draw(r, (uint32_t)length)] = (char)(1 + draw(r, 255));
  return bytes;
}

/* A key of the script's with a value that its author did not think of. */
static const char *odd_define(Arena *arena, Random *r, const Seed *seed) {
  static const char *const values[] = {"0",     "-1",  "1",    "2",        "7",     "0.5", "1e9", "4294967296",
                                       "true",  "x",   "",     "nan",      "1e400", "-0",  "16",  "9223372036854775807",
                                       "paper", "f32", "bf16", "size=tiny"};
  const char *key = of_the_same_class(r, seed->tokens, "word");
  return arena_print(arena, "%s=%s", key, values[draw(r, sizeof values / sizeof *values)]);
}

FuzzScript script_mutated(Arena *arena, Random *r) {
  const Seed *seed = &seeds[draw(r, vec_len(seeds))];
  FuzzScript script = {.from = seed->path};
  const char **tokens = seed->tokens;
  for (uint32_t n = draw(r, 16) ? 1 + draw(r, 3) : 0; n > 0 && vec_len(tokens); n--)
    tokens = mutate_tokens(arena, r, tokens);
  script.text = join_tokens(arena, tokens);
  if (draw(r, 12) == 0 && *script.text)
    script.text = mutate_bytes(arena, r, script.text);
  if (seed->has_sizes)
    vec_push(arena, script.defines, "size=tiny");
  if (seed->has_cases)
    vec_push(arena, script.defines, arena_print(arena, "case=%u", 1 + draw(r, 10)));
  if (draw(r, 5) == 0)
    vec_push(arena, script.defines, odd_define(arena, r, seed));
  return script;
}
