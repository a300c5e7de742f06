/* Tokenizers on text made here: round trips, the pieces of GPT-2's pattern, SentencePiece trained twice alike. */
#include "runtime/json.h"
#include "runtime/tokenizer.h"
#include "tests/runtime/check.h"

#include <unistd.h>

static void expect(Tokenizer *t, const char *text, const int32_t *ids, size_t count) {
  TokenList list = {0};
  tokenizer_encode(t, "text", text, strlen(text), &list);
  CHECK(list.count == count, "'%s': %zu tokens, expected %zu", text, list.count, count);
  for (size_t i = 0; i < count; i++)
    CHECK(list.ids[i] == ids[i], "'%s': token %zu is %d, expected %d", text, i, list.ids[i], ids[i]);
  free(list.ids);
}

static void round_trip(Tokenizer *t, const char *text, size_t size) {
  TokenList list = {0};
  tokenizer_encode(t, "text", text, size, &list);
  for (size_t i = 0; i < list.count; i++)
    CHECK(list.ids[i] >= 0 && list.ids[i] < tokenizer_vocabulary(t), "id %d", list.ids[i]);
  Bytes back = tokenizer_decode(t, list.ids, list.count);
  CHECK(back.size == size && memcmp(back.data, text, size) == 0, "%s: '%.*s' comes back as '%.*s'", tokenizer_kind(t),
        (int)size, text, (int)back.size, back.data);
  free(back.data);
  free(list.ids);
}

/* What tokenizer_save wrote opens as the same tokenizer. */
static Tokenizer *reopen(const Tokenizer *t, const char *directory) {
  char *path = string_format("%s/%s", directory, tokenizer_kind(t));
  tokenizer_save(t, path);
  Tokenizer *again = tokenizer_open(path);
  CHECK(tokenizer_hash(again) == tokenizer_hash(t) && tokenizer_vocabulary(again) == tokenizer_vocabulary(t),
        "%s: another tokenizer after saving", tokenizer_kind(t));
  return again;
}

static void append_code(Text *text, unsigned code) {
  text_format(text, "\"\\u%04x\"", code);
}

/* encoder.json with the 256 bytes as ids 0..255, then four merges. */
static Tokenizer *make_gpt2(const char *directory) {
  static const char *const merged[] = {"ab", "\\u0120ab", "abab", "cc"};
  Text encoder = {0};
  unsigned next = 0x100;
  text_append(&encoder, "{", 1);
  for (unsigned byte = 0; byte < 256; byte++) {
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    append_code(&encoder, printable ? byte : next++);
    text_format(&encoder, ":%u,", byte);
  }
  for (int i = 0; i < 4; i++)
    text_format(&encoder, "\"%s\":%d,", merged[i], 256 + i);
  text_format(&encoder, "\"<|endoftext|>\":260}");
  char *encoder_path = string_format("%s/encoder.json", directory),
       *merges_path = string_format("%s/vocab.bpe", directory);
  file_replace(encoder_path, encoder.data, encoder.size);
  static const char merges[] = "#version: 0.2\na b\n\xC4\xA0 ab\nab ab\nc c\n";
  file_replace(merges_path, merges, sizeof merges - 1);
  char *specification = string_format("gpt2:%s", directory);
  return tokenizer_make(specification);
}

static void test_gpt2(const char *directory) {
  Tokenizer *t = reopen(make_gpt2(directory), directory);
  CHECK(tokenizer_separator(t) == 260, "separator %d", tokenizer_separator(t));
  expect(t, "abab ab", (int32_t[]){258, 257}, 2);
  expect(t, "ababab", (int32_t[]){258, 256}, 2);
  expect(t, "ccc", (int32_t[]){259, 'c'}, 2);
  expect(t, "a'sab", (int32_t[]){'a', '\'', 's', 256}, 4);          /* 's is a piece of its own */
  expect(t, "ab1cc", (int32_t[]){256, '1', 259}, 3);                /* letters | numbers | letters */
  expect(t, "c  ab", (int32_t[]){'c', ' ', 257}, 3);                /* the last space goes to the word */
  expect(t, "c\n\nab ", (int32_t[]){'c', '\n', '\n', 256, ' '}, 5); /* but only a space does */
  expect(t, "c-c", (int32_t[]){'c', '-', 'c'}, 3);
  static const char hard[] =
      "  I've  caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \xFF\xC3 \xC2\xA0 end \n\t ";
  round_trip(t, hard, sizeof hard - 1);
}

static Text make_text(void) {
  static const char *const words[] = {"the", "light", "darkness",    "water",        "And",
                                      "God", "said",  "caf\xC3\xA9", "Z\xC3\xBCrich"};
  Text text = {0};
  for (int i = 0; i < 4000; i++) {
    text_format(&text, "%s%s", words[random_between(0, 8)], random_between(0, 9) ? " " : ".\n");
    text_format(&text, "%c%c%c ", (int)random_between('a', 'z'), (int)random_between('a', 'z'),
                (int)random_between('a', 'z'));
  }
  return text;
}

static void test_sentencepiece(const char *directory) {
  const char *shim = getenv("MOEC_SHIM");
  Bytes library = file_read("shim", shim ? shim : "../" TOKENIZER_SHIM_FILE);
  tokenizer_set_shim(library.data, library.size);
  Text text = make_text();
  Bytes bytes = {text.data, text.size};
  Tokenizer *t = reopen(tokenizer_train(400, &bytes, 1), directory);
  CHECK(tokenizer_vocabulary(t) == 400, "vocabulary %lld", (long long)tokenizer_vocabulary(t));
  CHECK(tokenizer_hash(t) == tokenizer_hash(tokenizer_train(400, &bytes, 1)), "trained twice, two models");
  round_trip(t, text.data, text.size);
  static const char hard[] = "the light\n\n  two  spaces \n\tunseen \xE6\x97\xA5\xF0\x9F\x98\x80 9 ~\nno line end";
  round_trip(t, hard, sizeof hard - 1);
  round_trip(t, "", 0);
  TokenList list = {0};
  tokenizer_encode(t, "text", "the light\n", 10, &list);
  CHECK(list.count >= 2 && list.count < 10 && list.ids[list.count - 1] == tokenizer_start(t), "%zu tokens", list.count);
}

int main(void) {
  char directory[] = "tokenizer_test_XXXXXX";
  CHECK(mkdtemp(directory), "no directory");
  Tokenizer *bytes = reopen(tokenizer_make("bytes"), directory);
  round_trip(bytes, "\0\xFFz\n", 4);
  test_gpt2(directory);
  test_sentencepiece(directory);
  static const char *const kinds[] = {"bytes", "gpt2", "spm"};
  for (int i = 0; i < 3; i++)
    directory_remove(string_format("%s/%s", directory, kinds[i]));
  directory_remove(directory);
  puts("tokenizers: ok");
  return 0;
}
