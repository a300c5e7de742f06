/* See data.h. */
#include "runtime/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/checksum.h"
#include "runtime/error.h"

enum { TOKEN_FILE_VERSION = 1, TOKEN_FILE_HEADER = 64 };
static const char magic[8] = {'M', 'O', 'E', 'C', 'T', 'O', 'K', 'N'};

typedef struct TokenFileHeader {
  char magic[8];
  uint32_t version, width, vocabulary, zero;
  uint64_t count, tokenizer_hash, checksum;
  uint8_t zeros[16];
} TokenFileHeader;
_Static_assert(sizeof(TokenFileHeader) == TOKEN_FILE_HEADER, "the header has 64 bytes");

char *token_file_path(const char *directory, const char *split) {
  return string_format("%s/%s.bin", directory, split);
}

enum { TOKEN_BLOCK = 1 << 16 };

static int64_t block_length(int64_t left) {
  return left < TOKEN_BLOCK ? left : TOKEN_BLOCK;
}

/* The tokens of a block as they stand in the file; valid until the next call. */
static const void *stored_block(const int32_t *tokens, int64_t count, int width) {
  static uint16_t narrow[TOKEN_BLOCK];
  if (width == 4)
    return tokens;
  for (int64_t i = 0; i < count; i++)
    narrow[i] = (uint16_t)tokens[i];
  return narrow;
}

void token_file_write(const char *path, const int32_t *tokens, int64_t count, int64_t vocabulary, uint64_t hash) {
  int width = vocabulary <= 65536 ? 2 : 4;
  TokenFileHeader header = {.version = TOKEN_FILE_VERSION,
                            .width = (uint32_t)width,
                            .vocabulary = (uint32_t)vocabulary,
                            .count = (uint64_t)count,
                            .tokenizer_hash = hash};
  memcpy(header.magic, magic, sizeof magic);
  Checksum sum = checksum_start();
  checksum_add(&sum, &header, sizeof header);
  for (int64_t at = 0; at < count; at += TOKEN_BLOCK)
    checksum_add(&sum, stored_block(tokens + at, block_length(count - at), width),
                 (size_t)(block_length(count - at) * width));
  header.checksum = checksum_end(&sum);
  int descriptor = file_create(path);
  file_write(descriptor, path, &header, sizeof header);
  for (int64_t at = 0; at < count; at += TOKEN_BLOCK)
    file_write(descriptor, path, stored_block(tokens + at, block_length(count - at), width),
               (size_t)(block_length(count - at) * width));
  file_close_durable(descriptor, path);
}

TokenFile *token_file_open(const char *directory, const char *split) {
  char *path = token_file_path(directory, split);
  if (directory_exists(directory) && !file_exists(path))
    runtime_fail(FAIL_USER, "%s: no %s data there (expected %s.bin, made by 'moec data')", directory, split, split);
  Mapping mapping = file_map("token file", path);
  TokenFileHeader header;
  if (mapping.size < sizeof header)
    runtime_fail(FAIL_USER, "%s: not a token file: %zu bytes, shorter than its header", path, mapping.size);
  memcpy(&header, mapping.data, sizeof header);
  if (memcmp(header.magic, magic, sizeof magic) != 0)
    runtime_fail(FAIL_USER, "%s: not a token file: it does not begin with MOECTOKN", path);
  if (header.version != TOKEN_FILE_VERSION)
    runtime_fail(FAIL_USER, "%s: token file of version %u, expected %d", path, header.version, TOKEN_FILE_VERSION);
  if ((header.width != 2 && header.width != 4) || header.vocabulary == 0)
    runtime_fail(FAIL_USER, "%s: damaged header: %u bytes per token, vocabulary %u", path, header.width,
                 header.vocabulary);
  uint64_t held = (mapping.size - sizeof header) / header.width;
  if (header.count != held || (mapping.size - sizeof header) % header.width != 0)
    runtime_fail(FAIL_USER, "%s: %s: the header promises %llu tokens, the file holds %llu", path,
                 header.count > held ? "truncated" : "damaged", (unsigned long long)header.count,
                 (unsigned long long)held);
  TokenFileHeader unsummed = header;
  unsummed.checksum = 0;
  Checksum sum = checksum_start();
  checksum_add(&sum, &unsummed, sizeof unsummed);
  checksum_add(&sum, mapping.data + sizeof header, mapping.size - sizeof header);
  uint64_t found = checksum_end(&sum);
  if (found != header.checksum)
    runtime_fail(
        FAIL_USER,
        "%s: damaged: its content has the checksum %016llx, its header says %016llx; 'moec data' makes it anew", path,
        (unsigned long long)found, (unsigned long long)header.checksum);
  TokenFile *file = runtime_allocate(1, sizeof *file);
  *file =
      (TokenFile){path, mapping, (int)header.width, (int64_t)header.count, header.vocabulary, header.tokenizer_hash};
  return file;
}

void token_file_check(const TokenFile *file, int64_t vocabulary, int64_t least) {
  if (file->vocabulary > vocabulary)
    runtime_fail(FAIL_USER, "%s: wrong vocabulary: the data has %lld ids, the model %lld", file->path,
                 (long long)file->vocabulary, (long long)vocabulary);
  if (file->count < least)
    runtime_fail(FAIL_USER, "%s: too short: %lld tokens, at least %lld needed", file->path, (long long)file->count,
                 (long long)least);
}

int32_t token_file_at(const TokenFile *file, int64_t index) {
  const uint8_t *tokens = file->mapping.data + TOKEN_FILE_HEADER;
  uint32_t id;
  if (file->width == 2) {
    uint16_t narrow;
    memcpy(&narrow, tokens + 2 * index, 2);
    id = narrow;
  } else {
    memcpy(&id, tokens + 4 * index, 4);
  }
  if (id >= file->vocabulary)
    runtime_fail(FAIL_USER, "%s: damaged: token %lld has id %u, the vocabulary is %lld", file->path, (long long)index,
                 id, (long long)file->vocabulary);
  return (int32_t)id;
}

/* ---------------------------------------------------------------- order */

static uint64_t mix(uint64_t x) { /* splitmix64's finaliser */
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

static uint64_t key_of(const DataOrder *order, int64_t epoch, uint64_t use) {
  return mix(mix(order->seed + 0x9E3779B97F4A7C15u) + (uint64_t)epoch * 0x9E3779B97F4A7C15u + use);
}

/* A permutation of 0..n-1: a Feistel network of six rounds over the next power of four, walked along its cycle until
 * it falls below n (fewer than four steps on average). */
static uint64_t permute(uint64_t index, uint64_t n, uint64_t key) {
  int half = 1;
  while (half < 31 && (uint64_t)1 << (2 * half) < n)
    half++;
  uint64_t mask = ((uint64_t)1 << half) - 1;
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint64_t round = 0; round < 6; round++) {
      uint64_t next = left ^ (mix(key + (round << 56) + right) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= n);
  return index;
}

/* `windows` is the same in every epoch: one less than fit where two or more do, so that any offset below `sequence`
 * leaves room. */
DataOrder data_order(const TokenFile *file, int64_t sequence, uint64_t seed) {
  token_file_check(file, INT64_MAX, sequence + 1);
  int64_t windows = file->count / sequence - 1;
  if (windows < 1)
    windows = 1;
  int64_t slack = file->count - 1 - windows * sequence;
  return (DataOrder){seed, sequence, windows, slack < sequence ? slack : sequence - 1};
}

int64_t data_order_start(const DataOrder *order, int64_t index) {
  int64_t epoch = index / order->windows;
  uint64_t offset = key_of(order, epoch, 1) % (uint64_t)(order->slack + 1);
  uint64_t window = permute((uint64_t)(index % order->windows), (uint64_t)order->windows, key_of(order, epoch, 2));
  return (int64_t)(offset + window * (uint64_t)order->sequence);
}

/* ---------------------------------------------------------------- batches */

/* Row `row` holds the token at position `position` of its segment. */
static void put_row(const Batch *batch, int64_t row, int32_t token, int32_t target, int64_t position, int64_t index,
                    float live) {
  if (batch->tokens)
    batch->tokens[row] = token;
  if (batch->targets)
    batch->targets[row] = target;
  if (batch->position)
    batch->position[row] = (int32_t)position;
  if (batch->token)
    batch->token[row] = (int32_t)index;
  if (batch->weight)
    batch->weight[row] = live;
  if (batch->live)
    batch->live[row] = live;
}

static void put_offset(const Batch *batch, int64_t segment, int64_t row) {
  if (batch->off)
    batch->off[segment] = (int32_t)row;
}

/* Ends the segments at `row`, marks the rows behind it dead. */
static void put_tail(const Batch *batch, int64_t segments_used, int64_t row) {
  for (int64_t s = segments_used; s <= batch->segments; s++)
    put_offset(batch, s, row);
  for (; row < batch->rows; row++)
    put_row(batch, row, 0, 0, 0, row, 0);
}

/* A segment of `length` tokens whose targets are in the file as well. */
static void put_window(const Batch *batch, const TokenFile *file, int64_t segment, int64_t row, int64_t start,
                       int64_t length, int64_t index) {
  put_offset(batch, segment, row);
  int32_t next = token_file_at(file, start);
  for (int64_t i = 0; i < length; i++) {
    int32_t token = next;
    next = token_file_at(file, start + i + 1);
    put_row(batch, row + i, token, next, i, index + i, 1);
  }
}

void batch_fill_training(const Batch *batch, const TokenFile *file, const DataOrder *order, int64_t step,
                         int64_t sequences, int64_t micro, int64_t accumulate) {
  int64_t count = sequences / accumulate, length = order->sequence;
  if (count * accumulate != sequences || count * length != batch->rows || count > batch->segments)
    runtime_fail(FAIL_BUG,
                 "the plan's micro-batch of %lld tokens and %lld segments does not hold 1/%lld of %lld sequences of "
                 "%lld tokens",
                 (long long)batch->rows, (long long)batch->segments, (long long)accumulate, (long long)sequences,
                 (long long)length);
  for (int64_t s = 0; s < count; s++) {
    int64_t in_batch = micro * count + s;
    int64_t start = data_order_start(order, step * sequences + in_batch);
    put_window(batch, file, s, s * length, start, length, in_batch * length);
  }
  put_tail(batch, count, count * length);
}

int64_t batch_fill_evaluation(const Batch *batch, const TokenFile *file, int64_t sequence, int64_t first) {
  int64_t row = 0, segment = 0, left = file->count - 1 - first;
  while (left > row && segment < batch->segments) {
    int64_t length = left - row < sequence ? left - row : sequence;
    if (row + length > batch->rows)
      break;
    put_window(batch, file, segment++, row, first + row, length, row);
    row += length;
  }
  put_tail(batch, segment, row);
  return row;
}

void batch_fill_prompt(const Batch *batch, const int32_t *tokens, int64_t count) {
  put_offset(batch, 0, 0);
  for (int64_t i = 0; i < count; i++)
    put_row(batch, i, tokens[i], 0, i, i, 1);
  put_tail(batch, 1, count);
}
