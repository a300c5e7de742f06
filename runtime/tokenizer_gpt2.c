/* GPT-2's byte-level BPE from its two files, encoder.json (string -> id) and vocab.bpe (merges, best first).
 *
 * Bytes appear in those files as printable characters: the printable ones of Latin-1 as themselves, the others as
 * U+0100, U+0101, ... in order. Text is cut into pieces by the pattern
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * and each piece, begun as its bytes, is merged: the pair of the best rank everywhere in the piece, until none is left.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/tokenizer.h"
#include "runtime/unicode.h"

typedef struct Merge {
  uint64_t pair; /* left id << 32 | right id, plus one; 0: empty */
  int32_t rank, result;
} Merge;

struct Gpt2 {
  int64_t vocabulary;
  const char **text; /* by id, as the files spell it */
  int32_t *slot;     /* hash table from that text to the id, -1: empty */
  size_t slots;      /* a power of two */
  Merge *merges;     /* hash table */
  size_t merge_slots;
  int32_t byte_id[256];
  int16_t code_byte[0x144]; /* from character to byte, -1: none */
  int32_t separator;
};

static uint64_t hash_text(const char *text, size_t size) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
  return hash ^ hash >> 29;
}

static int32_t *find_slot(const Gpt2 *g, const char *text, size_t size) {
  for (size_t i = hash_text(text, size);; i++) {
    int32_t *slot = &g->slot[i & (g->slots - 1)];
    if (*slot < 0 || (strlen(g->text[*slot]) == size && memcmp(g->text[*slot], text, size) == 0))
      return slot;
  }
}

static Merge *find_merge(const Gpt2 *g, int32_t left, int32_t right) {
  uint64_t pair = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
  for (uint64_t i = pair * 0x9E3779B97F4A7C15u >> 20;; i++) {
    Merge *merge = &g->merges[i & (g->merge_slots - 1)];
    if (merge->pair == 0 || merge->pair == pair)
      return merge;
  }
}

static size_t power_of_two(size_t least) {
  size_t size = 1;
  while (size < least)
    size *= 2;
  return size;
}

static void read_encoder(Gpt2 *g, const char *path, Bytes encoder) {
  char error[128];
  const Json *root = json_parse(encoder.data, encoder.size, error, sizeof error);
  if (!root)
    runtime_fail(FAIL_USER, "%s: not JSON: %s", path, error);
  if (root->kind != JSON_OBJECT)
    runtime_fail(FAIL_USER, "%s: expected an object of strings and ids", path);
  for (const Json *entry = root->first; entry; entry = entry->next)
    g->vocabulary++;
  g->text = runtime_allocate((size_t)g->vocabulary, sizeof *g->text);
  g->slots = power_of_two((size_t)g->vocabulary * 2 + 2);
  g->slot = runtime_allocate(g->slots, sizeof *g->slot);
  memset(g->slot, 0xFF, g->slots * sizeof *g->slot);
  for (const Json *entry = root->first; entry; entry = entry->next) {
    int64_t id;
    if (!json_integer(entry, &id) || id < 0 || id >= g->vocabulary || g->text[id])
      runtime_fail(FAIL_USER, "%s: the id of \"%s\" is not one of 0..%lld or stands there twice", path, entry->key,
                   (long long)g->vocabulary - 1);
    g->text[id] = entry->key;
    *find_slot(g, entry->key, strlen(entry->key)) = (int32_t)id;
  }
  g->separator = *find_slot(g, "<|endoftext|>", 13);
}

static void map_bytes(Gpt2 *g, const char *path) {
  memset(g->code_byte, 0xFF, sizeof g->code_byte);
  uint32_t next = 0x100;
  for (int byte = 0; byte < 256; byte++) {
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    uint32_t code = printable ? (uint32_t)byte : next++;
    g->code_byte[code] = (int16_t)byte;
    char text[2] = {(char)code, 0};
    size_t size = 1;
    if (code >= 0x80) {
      text[0] = (char)(0xC0 | code >> 6);
      text[1] = (char)(0x80 | (code & 0x3F));
      size = 2;
    }
    g->byte_id[byte] = *find_slot(g, text, size);
    if (g->byte_id[byte] < 0)
      runtime_fail(FAIL_USER, "%s: no token for byte 0x%02X", path, byte);
  }
}

/* A line "left right" of vocab.bpe. */
static void read_merge(Gpt2 *g, const char *path, int line, const char *text, size_t size, int32_t rank) {
  const char *space = memchr(text, ' ', size);
  char joined[1024];
  if (!space || size > sizeof joined)
    runtime_fail(FAIL_USER, "%s:%d: expected two tokens", path, line);
  size_t left = (size_t)(space - text), right = size - left - 1;
  memcpy(joined, text, left);
  memcpy(joined + left, space + 1, right);
  int32_t a = *find_slot(g, text, left), b = *find_slot(g, space + 1, right),
          result = *find_slot(g, joined, left + right);
  if (a < 0 || b < 0 || result < 0)
    runtime_fail(FAIL_USER, "%s:%d: '%.*s' merges tokens that encoder.json does not have", path, line, (int)size, text);
  Merge *merge = find_merge(g, a, b);
  if (merge->pair == 0)
    *merge = (Merge){((uint64_t)(uint32_t)a << 32 | (uint32_t)b) + 1, rank, result};
}

static void read_merges(Gpt2 *g, const char *path, Bytes merges) {
  size_t lines = 0;
  for (size_t i = 0; i < merges.size; i++)
    lines += merges.data[i] == '\n';
  g->merge_slots = power_of_two(lines * 2 + 4);
  g->merges = runtime_allocate(g->merge_slots, sizeof *g->merges);
  int32_t rank = 0;
  int line = 0;
  for (const char *at = merges.data, *end = merges.data + merges.size; at < end;) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t size = (size_t)((stop ? stop : end) - at);
    size_t content = size > 0 && at[size - 1] == '\r' ? size - 1 : size;
    line++;
    if (content > 0 && !(line == 1 && strncmp(at, "#version", 8) == 0))
      read_merge(g, path, line, at, content, rank++);
    at += size + 1;
  }
}

Gpt2 *gpt2_new(const char *encoder_path, Bytes encoder, const char *merges_path, Bytes merges) {
  Gpt2 *g = runtime_allocate(1, sizeof *g);
  read_encoder(g, encoder_path, encoder);
  map_bytes(g, encoder_path);
  read_merges(g, merges_path, merges);
  return g;
}

int64_t gpt2_vocabulary(const Gpt2 *g) {
  return g->vocabulary;
}

int32_t gpt2_separator(const Gpt2 *g) {
  return g->separator;
}

/* ---------------------------------------------------------------- the pattern */

typedef enum CharacterClass { CLASS_END, CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER, CLASS_OTHER } CharacterClass;

static CharacterClass class_at(const char *text, size_t size, size_t at, size_t *length) {
  *length = 0;
  if (at >= size)
    return CLASS_END;
  bool valid;
  uint32_t code = unicode_decode(text + at, size - at, length, &valid);
  if (!valid)
    return CLASS_OTHER;
  return unicode_is_space(code)    ? CLASS_SPACE
         : unicode_is_letter(code) ? CLASS_LETTER
         : unicode_is_number(code) ? CLASS_NUMBER
                                   : CLASS_OTHER;
}

static size_t contraction(const char *text, size_t size) {
  static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t length = strlen(endings[i]);
    if (length <= size && memcmp(text, endings[i], length) == 0)
      return length;
  }
  return 0;
}

/* Bytes of the piece that begins at `at` < size. */
static size_t piece_size(const char *text, size_t size, size_t at) {
  size_t length, ending = contraction(text + at, size - at);
  if (ending > 0)
    return ending;
  size_t end = at + (text[at] == ' ');
  CharacterClass class = class_at(text, size, end, &length);
  if (class == CLASS_LETTER || class == CLASS_NUMBER || class == CLASS_OTHER) {
    while (class_at(text, size, end, &length) == class)
      end += length;
    return end - at;
  }
  size_t last = at; /* the last space of the run: it goes to the next piece unless the text ends */
  for (end = at; class_at(text, size, end, &length) == CLASS_SPACE; end += length)
    last = end;
  return end < size && last > at ? last - at : end - at;
}

/* ---------------------------------------------------------------- merging */

static void encode_piece(const Gpt2 *g, const char *text, size_t size, TokenList *list) {
  size_t first = list->count;
  for (size_t i = 0; i < size; i++)
    token_list_add(list, g->byte_id[(unsigned char)text[i]]);
  int32_t *ids = list->ids + first;
  size_t count = size;
  for (;;) {
    const Merge *best = NULL;
    for (size_t i = 0; i + 1 < count; i++) {
      const Merge *merge = find_merge(g, ids[i], ids[i + 1]);
      if (merge->pair != 0 && (!best || merge->rank < best->rank))
        best = merge;
    }
    if (!best)
      break;
    int32_t left = (int32_t)((best->pair - 1) >> 32), right = (int32_t)(uint32_t)(best->pair - 1);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
      bool merges = i + 1 < count && ids[i] == left && ids[i + 1] == right;
      ids[kept++] = merges ? best->result : ids[i];
      i += merges;
    }
    count = kept;
  }
  list->count = first + count;
}

void gpt2_encode(const Gpt2 *g, const char *text, size_t size, TokenList *list) {
  for (size_t at = 0; at < size;) {
    size_t length = piece_size(text, size, at);
    encode_piece(g, text + at, length, list);
    at += length;
  }
}

Bytes gpt2_decode(const Gpt2 *g, const int32_t *ids, size_t count) {
  Text out = {0};
  text_append(&out, "", 0);
  for (size_t i = 0; i < count; i++) {
    const char *text = ids[i] >= 0 && ids[i] < g->vocabulary ? g->text[ids[i]] : "";
    size_t size = strlen(text), length;
    for (size_t at = 0; at < size; at += length) {
      bool valid;
      uint32_t code = unicode_decode(text + at, size - at, &length, &valid);
      char byte = code < 0x144 && g->code_byte[code] >= 0 ? (char)g->code_byte[code] : '?';
      text_append(&out, &byte, 1);
    }
  }
  return (Bytes){out.data, out.size};
}
