/* Token files and the order of the data: what training visits, what evaluation covers. */
#include "runtime/data.h"
#include "tests/runtime/check.h"

#include <unistd.h>

enum { COUNT = 1003, SEQUENCE = 16, VOCABULARY = 70000 };

static TokenFile *make_file(const char *directory, int64_t count, int64_t vocabulary) {
  int32_t *tokens = test_memory(4 * count);
  for (int64_t i = 0; i < count; i++)
    tokens[i] = (int32_t)(i * 61 % vocabulary); /* every position has its own id */
  char *path = token_file_path(directory, "train");
  token_file_write(path, tokens, count, vocabulary, 77);
  TokenFile *file = token_file_open(directory, "train");
  CHECK(file->count == count && file->vocabulary == vocabulary && file->tokenizer_hash == 77, "header");
  CHECK(file->width == (vocabulary <= 65536 ? 2 : 4), "bytes per token: %d", file->width);
  for (int64_t i = 0; i < count; i++)
    CHECK(token_file_at(file, i) == tokens[i], "token %lld", (long long)i);
  free(tokens);
  return file;
}

static Batch make_batch(int64_t rows, int64_t segments) {
  return (Batch){rows,
                 segments,
                 test_memory(4 * rows),
                 test_memory(4 * rows),
                 test_memory(4 * rows),
                 test_memory(4 * (segments + 1)),
                 test_memory(4 * rows),
                 test_memory(4 * rows),
                 test_memory(4 * rows)};
}

/* Every epoch visits each of its windows once; epochs and seeds differ; the order has no state. */
static void test_order(const TokenFile *file) {
  DataOrder order = data_order(file, SEQUENCE, 5), other = data_order(file, SEQUENCE, 6);
  CHECK(order.windows == COUNT / SEQUENCE - 1, "%lld windows", (long long)order.windows);
  int64_t previous[COUNT] = {0}, same = 0, same_seed = 0;
  for (int64_t epoch = 0; epoch < 4; epoch++) {
    bool seen[COUNT] = {false};
    int64_t offset = data_order_start(&order, epoch * order.windows) % SEQUENCE;
    for (int64_t i = 0; i < order.windows; i++) {
      int64_t start = data_order_start(&order, epoch * order.windows + i);
      CHECK(start % SEQUENCE == offset && start >= 0 && start + SEQUENCE < COUNT, "window at %lld", (long long)start);
      CHECK(!seen[start], "window at %lld twice", (long long)start);
      seen[start] = true;
      same += start == previous[i];
      same_seed += start == data_order_start(&other, epoch * order.windows + i);
      previous[i] = start;
    }
  }
  CHECK(same < 20 && same_seed < 20, "epochs or seeds alike: %lld, %lld", (long long)same, (long long)same_seed);
}

static void test_training_batches(const TokenFile *file) {
  enum { SEQUENCES = 6, ACCUMULATE = 3, STEP = 9 };
  DataOrder order = data_order(file, SEQUENCE, 5);
  for (int64_t micro = 0; micro < ACCUMULATE; micro++) {
    int64_t count = SEQUENCES / ACCUMULATE;
    Batch batch = make_batch(count * SEQUENCE, count + 1); /* one segment more than used: empty, at the end */
    batch_fill_training(&batch, file, &order, STEP, SEQUENCES, micro, ACCUMULATE);
    for (int64_t row = 0; row < batch.rows; row++) {
      int64_t sequence = micro * count + row / SEQUENCE, at = row % SEQUENCE;
      int64_t start = data_order_start(&order, STEP * SEQUENCES + sequence);
      CHECK(batch.tokens[row] == token_file_at(file, start + at), "token of row %lld", (long long)row);
      CHECK(batch.targets[row] == token_file_at(file, start + at + 1), "target of row %lld", (long long)row);
      CHECK(batch.position[row] == at && batch.token[row] == sequence * SEQUENCE + at, "row %lld", (long long)row);
      CHECK(batch.live[row] == 1 && batch.weight[row] == 1, "row %lld is dead", (long long)row);
    }
    CHECK(batch.off[0] == 0 && batch.off[1] == SEQUENCE && batch.off[2] == batch.rows && batch.off[3] == batch.rows,
          "offsets");
  }
}

/* Each target once, in order, whatever the length of the file; the tail is dead. */
static void test_evaluation(const char *directory) {
  for (int64_t count = 2; count < 200; count += count < 70 ? 1 : 13) {
    TokenFile *file = make_file(directory, count, 300);
    Batch batch = make_batch(3 * SEQUENCE, 3);
    int64_t first = 0, taken;
    for (; (taken = batch_fill_evaluation(&batch, file, SEQUENCE, first)) > 0; first += taken) {
      for (int64_t row = 0; row < batch.rows; row++) {
        bool live = row < taken;
        CHECK(batch.live[row] == live && batch.weight[row] == live, "row %lld of %lld", (long long)row,
              (long long)taken);
        CHECK(!live || batch.targets[row] == token_file_at(file, first + row + 1), "target %lld",
              (long long)(first + row));
        CHECK(!live || batch.tokens[row] == token_file_at(file, first + row), "token %lld", (long long)(first + row));
        CHECK(!live || batch.position[row] == row % SEQUENCE, "position %lld", (long long)row);
      }
      CHECK(batch.off[0] == 0 && batch.off[3] == taken, "offsets");
      for (int s = 0; s < 3; s++)
        CHECK(batch.off[s + 1] - batch.off[s] <= SEQUENCE && batch.off[s + 1] >= batch.off[s], "segment %d", s);
    }
    CHECK(first == count - 1, "%lld of %lld targets", (long long)first, (long long)count - 1);
    file_unmap(file->mapping);
  }
}

int main(void) {
  char directory[] = "data_test_XXXXXX";
  CHECK(mkdtemp(directory), "no directory");
  test_evaluation(directory);
  make_file(directory, COUNT, 65536);
  TokenFile *file = make_file(directory, COUNT, VOCABULARY);
  test_order(file);
  test_training_batches(file);
  TokenFile *shortest = make_file(directory, SEQUENCE + 1, 300); /* one window, no room for an offset */
  DataOrder order = data_order(shortest, SEQUENCE, 1);
  CHECK(order.windows == 1 && order.slack == 0 && data_order_start(&order, 12) == 0, "the shortest file");
  directory_remove(directory);
  puts("data: ok");
  return 0;
}
