/* See tokenizer.h. */
#define _GNU_SOURCE 1 /* memfd_create */
#include "runtime/tokenizer.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/payload.h"
#include "runtime/sentencepiece_shim.h"
#include "runtime/unicode.h"

typedef enum Kind { KIND_BYTES, KIND_GPT2, KIND_SENTENCEPIECE, KIND_COUNT } Kind;

/* The files of each kind, in the order in which they are hashed. */
static const struct {
  const char *name;
  const char *files[2];
} kinds[KIND_COUNT] = {
    [KIND_BYTES] = {"bytes", {NULL, NULL}},
    [KIND_GPT2] = {"gpt2", {"encoder.json", "vocab.bpe"}},
    [KIND_SENTENCEPIECE] = {"spm", {"sentencepiece.model", NULL}},
};

struct Tokenizer {
  Kind kind;
  int64_t vocabulary;
  uint64_t hash;
  Bytes files[2];
  Gpt2 *gpt2;
  SentencePieceModel *model;
  SentencePieceFacts facts;
};

void token_list_add(TokenList *list, int32_t id) {
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? list->capacity * 2 : 1024;
    list->ids = realloc(list->ids, list->capacity * sizeof *list->ids);
    if (!list->ids)
      runtime_fail(FAIL_ENVIRONMENT, "no memory for %zu tokens", list->capacity);
  }
  list->ids[list->count++] = id;
}

/* ---------------------------------------------------------------- the shim */

static struct {
  const void *library;
  size_t size;
  typeof(&moec_sentencepiece_train) train;
  typeof(&moec_sentencepiece_load) load;
  typeof(&moec_sentencepiece_encode) encode;
  typeof(&moec_sentencepiece_decode) decode;
  typeof(&moec_sentencepiece_free) release;
} shim;

void tokenizer_set_shim(const void *library, size_t size) {
  shim.library = library;
  shim.size = size;
}

/* Where dlopen finds it: a file in memory with the carried bytes, or the file beside the executable. */
static char *shim_path(void) {
  if (shim.library) {
    int descriptor = memfd_create(TOKENIZER_SHIM_SECTION, MFD_CLOEXEC);
    if (descriptor < 0)
      runtime_fail(FAIL_ENVIRONMENT, "no memory for the SentencePiece shim");
    file_write(descriptor, TOKENIZER_SHIM_SECTION, shim.library, shim.size);
    return string_format("/proc/self/fd/%d", descriptor);
  }
  char self[4096];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0)
    runtime_fail(FAIL_ENVIRONMENT, "cannot find the path of the running program");
  self[length] = 0;
  *strrchr(self, '/') = 0;
  return string_format("%s/%s", self, TOKENIZER_SHIM_FILE);
}

static void *shim_symbol(void *library, const char *name) {
  void *symbol = dlsym(library, name);
  if (!symbol)
    runtime_fail(FAIL_BUG, "the SentencePiece shim has no %s", name);
  return symbol;
}

/* NULL: it is there from now on. Else why not. */
static const char *shim_load(void) {
  if (shim.load)
    return NULL;
  char *path = shim_path();
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return string_format("this tokenizer needs SentencePiece, which cannot be loaded (package libsentencepiece0): %s",
                         dlerror());
  shim.train = shim_symbol(library, "moec_sentencepiece_train");
  shim.load = shim_symbol(library, "moec_sentencepiece_load");
  shim.encode = shim_symbol(library, "moec_sentencepiece_encode");
  shim.decode = shim_symbol(library, "moec_sentencepiece_decode");
  shim.release = shim_symbol(library, "moec_sentencepiece_free");
  free(path);
  return NULL;
}

static void shim_open(void) {
  const char *error = shim_load();
  if (error)
    runtime_fail(FAIL_ENVIRONMENT, "%s", error);
}

/* ---------------------------------------------------------------- making */

/* From the kind and its files; `paths` stand in messages. */
static Tokenizer *tokenizer_new(Kind kind, const Bytes *files, char *const *paths) {
  Tokenizer *t = runtime_allocate(1, sizeof *t);
  t->kind = kind;
  t->hash = payload_hash(kinds[kind].name, strlen(kinds[kind].name));
  for (int i = 0; i < 2 && kinds[kind].files[i]; i++) {
    t->files[i] = files[i];
    t->hash = t->hash * 0x100000001B3u ^ payload_hash(files[i].data, files[i].size);
  }
  t->vocabulary = 256;
  if (kind == KIND_GPT2) {
    t->gpt2 = gpt2_new(paths[0], files[0], paths[1], files[1]);
    t->vocabulary = gpt2_vocabulary(t->gpt2);
  } else if (kind == KIND_SENTENCEPIECE) {
    char error[512];
    shim_open();
    t->model = shim.load(files[0].data, files[0].size, &t->facts, error, sizeof error);
    if (!t->model)
      runtime_fail(FAIL_USER, "%s: not a SentencePiece model: %s", paths[0], error);
    t->vocabulary = t->facts.vocabulary;
    if (t->facts.newline < 0)
      t->facts.newline = t->facts.end;
    if (t->facts.newline < 0)
      runtime_fail(FAIL_USER, "%s: the model has no token for a line end: neither \"\\n\", nor <0x0A>, nor </s>",
                   paths[0]);
  }
  return t;
}

static Tokenizer *tokenizer_load(Kind kind, const char *directory) {
  Bytes files[2] = {{0}};
  char *paths[2] = {NULL, NULL};
  for (int i = 0; i < 2 && kinds[kind].files[i]; i++) {
    paths[i] = string_format("%s/%s", directory, kinds[kind].files[i]);
    files[i] = file_read("tokenizer file", paths[i]);
  }
  return tokenizer_new(kind, files, paths);
}

Tokenizer *tokenizer_make(const char *specification) {
  const char *colon = strchr(specification, ':');
  if (strcmp(specification, "bytes") == 0)
    return tokenizer_load(KIND_BYTES, NULL);
  if (colon && strncmp(specification, "gpt2:", 5) == 0)
    return tokenizer_load(KIND_GPT2, colon + 1);
  if (colon && strncmp(specification, "spm:", 4) == 0) {
    char *path = string_format("%s", colon + 1);
    Bytes file = file_read("SentencePiece model", path);
    return tokenizer_new(KIND_SENTENCEPIECE, &file, &path);
  }
  runtime_fail(FAIL_USAGE, "--tokenizer=%s: expected spm:SIZE, spm:FILE.model, gpt2:DIR or bytes", specification);
}

const char *tokenizer_lacks(const char *directory) {
  char *model = string_format("%s/%s", directory, kinds[KIND_SENTENCEPIECE].files[0]);
  const char *error = file_exists(model) ? shim_load() : NULL;
  free(model);
  return error;
}

Tokenizer *tokenizer_open(const char *directory) {
  char *path = string_format("%s/tokenizer.json", directory), error[128];
  Bytes text = file_read("tokenizer", path);
  const Json *root = json_parse(text.data, text.size, error, sizeof error);
  if (!root)
    runtime_fail(FAIL_USER, "%s: damaged: %s", path, error);
  const Json *name = json_member(root, "kind"), *hash = json_member(root, "hash");
  Kind kind = 0;
  while (kind < KIND_COUNT && !(name && name->string && strcmp(kinds[kind].name, name->string) == 0))
    kind++;
  if (kind == KIND_COUNT || !hash || !hash->string)
    runtime_fail(FAIL_USER, "%s: damaged: no kind (bytes, gpt2 or spm) or no hash", path);
  Tokenizer *t = tokenizer_load(kind, directory);
  if (strtoull(hash->string, NULL, 16) != t->hash)
    runtime_fail(FAIL_USER, "%s: damaged: the files beside it are not those that it describes", directory);
  free(text.data);
  free(path);
  return t;
}

void tokenizer_save(const Tokenizer *t, const char *directory) {
  directory_create(directory);
  for (int i = 0; i < 2 && kinds[t->kind].files[i]; i++) {
    char *path = string_format("%s/%s", directory, kinds[t->kind].files[i]);
    file_replace(path, t->files[i].data, t->files[i].size);
    free(path);
  }
  char *path = string_format("%s/tokenizer.json", directory);
  Text text = {0};
  text_format(&text, "{\"kind\":\"%s\",\"vocabulary\":%lld,\"hash\":\"%016llx\"}\n", kinds[t->kind].name,
              (long long)t->vocabulary, (unsigned long long)t->hash);
  file_replace(path, text.data, text.size);
  text_free(&text);
  free(path);
}

void tokenizer_close(Tokenizer *t) {
  free(t->files[0].data);
  free(t->files[1].data);
  free(t);
}

const char *tokenizer_kind(const Tokenizer *t) {
  return kinds[t->kind].name;
}

int64_t tokenizer_vocabulary(const Tokenizer *t) {
  return t->vocabulary;
}

uint64_t tokenizer_hash(const Tokenizer *t) {
  return t->hash;
}

int32_t tokenizer_separator(const Tokenizer *t) {
  return t->kind == KIND_GPT2 ? gpt2_separator(t->gpt2) : t->kind == KIND_SENTENCEPIECE ? t->facts.end : -1;
}

int32_t tokenizer_start(const Tokenizer *t) {
  int32_t separator = tokenizer_separator(t);
  return t->kind == KIND_SENTENCEPIECE ? t->facts.newline : separator >= 0 ? separator : '\n';
}

/* ---------------------------------------------------------------- text */

/* The next line of `text` from *at on, without its line end; false at the end of the text. */
static bool next_line(Bytes text, size_t *at, const char **line, size_t *size, bool *ended) {
  if (*at >= text.size)
    return false;
  *line = text.data + *at;
  const char *stop = memchr(*line, '\n', text.size - *at);
  *ended = stop != NULL;
  *size = stop ? (size_t)(stop - *line) : text.size - *at;
  *at += *size + *ended;
  return true;
}

typedef struct Lines {
  const Bytes *texts;
  size_t count, index, at;
} Lines;

static bool next_sentence(void *context, const char **text, size_t *size) {
  Lines *lines = context;
  bool ended;
  while (lines->index < lines->count) {
    while (next_line(lines->texts[lines->index], &lines->at, text, size, &ended))
      if (*size > 0)
        return true;
    lines->index++;
    lines->at = 0;
  }
  return false;
}

Tokenizer *tokenizer_train(int64_t vocabulary, const Bytes *texts, size_t count) {
  Lines lines = {texts, count, 0, 0};
  Bytes model = {0};
  char error[512], *path = "the trained model";
  if (vocabulary < 260 || vocabulary > 1000000)
    runtime_fail(
        FAIL_USAGE,
        "--tokenizer=spm:%lld: a vocabulary of 260 to 1000000 expected (256 bytes and 3 control tokens are in it)",
        (long long)vocabulary);
  shim_open();
  if (!shim.train((int)vocabulary, next_sentence, &lines, &model.data, &model.size, error, sizeof error))
    runtime_fail(FAIL_USER, "SentencePiece cannot train %lld tokens on this text: %s", (long long)vocabulary, error);
  return tokenizer_new(KIND_SENTENCEPIECE, &model, &path);
}

static void require_utf8(const char *name, const char *text, size_t size) {
  size_t length;
  bool valid = true;
  for (size_t at = 0; at < size; at += length) {
    unicode_decode(text + at, size - at, &length, &valid);
    if (!valid)
      runtime_fail(FAIL_USER, "%s: not UTF-8 at byte %zu (0x%02X); SentencePiece reads UTF-8 only", name, at,
                   (unsigned char)text[at]);
  }
}

static void sentencepiece_encode(Tokenizer *t, Bytes text, TokenList *list) {
  const char *line;
  size_t size, at = 0;
  bool ended;
  char error[512];
  while (next_line(text, &at, &line, &size, &ended)) {
    int32_t *ids = NULL;
    size_t count = 0;
    if (size > 0 && !shim.encode(t->model, line, size, &ids, &count, error, sizeof error))
      runtime_fail(FAIL_ENVIRONMENT, "SentencePiece cannot encode a line of %zu bytes: %s", size, error);
    for (size_t i = 0; i < count; i++)
      token_list_add(list, ids[i]);
    if (ids)
      shim.release(ids);
    if (ended)
      token_list_add(list, t->facts.newline);
  }
}

void tokenizer_encode(Tokenizer *t, const char *name, const char *text, size_t size, TokenList *list) {
  if (t->kind == KIND_GPT2) {
    gpt2_encode(t->gpt2, text, size, list);
  } else if (t->kind == KIND_SENTENCEPIECE) {
    require_utf8(name, text, size);
    sentencepiece_encode(t, (Bytes){(char *)text, size}, list);
  } else {
    for (size_t i = 0; i < size; i++)
      token_list_add(list, (unsigned char)text[i]);
  }
}

/* Runs between line ends are decoded by themselves, as they were encoded. */
static Bytes sentencepiece_decode(Tokenizer *t, const int32_t *ids, size_t count) {
  Text out = {0};
  char error[512];
  text_append(&out, "", 0);
  for (size_t at = 0; at < count;) {
    size_t end = at;
    while (end < count && ids[end] != t->facts.newline)
      end++;
    char *text = NULL;
    size_t size = 0;
    if (end > at && !shim.decode(t->model, ids + at, end - at, &text, &size, error, sizeof error))
      runtime_fail(FAIL_ENVIRONMENT, "SentencePiece cannot decode: %s", error);
    text_append(&out, text, size);
    if (text)
      shim.release(text);
    if (end < count)
      text_append(&out, "\n", 1);
    at = end + 1;
  }
  return (Bytes){out.data, out.size};
}

Bytes tokenizer_decode(Tokenizer *t, const int32_t *ids, size_t count) {
  if (t->kind == KIND_GPT2)
    return gpt2_decode(t->gpt2, ids, count);
  if (t->kind == KIND_SENTENCEPIECE)
    return sentencepiece_decode(t, ids, count);
  Text out = {0};
  text_append(&out, "", 0);
  for (size_t i = 0; i < count; i++)
    text_append(&out, &(char){(char)ids[i]}, 1);
  return (Bytes){out.data, out.size};
}
