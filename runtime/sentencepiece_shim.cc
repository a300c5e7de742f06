// See sentencepiece_shim.h. The one C++ file of the house outside its tests.
#include "runtime/sentencepiece_shim.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

struct SentencePieceModel {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

class Sentences : public sentencepiece::SentenceIterator {
public:
  Sentences(SentencePieceNext next, void *context) : next_(next), context_(context) {
    Next();
  }
  bool done() const override {
    return done_;
  }
  void Next() override {
    const char *text;
    size_t size;
    done_ = !next_(context_, &text, &size);
    if (!done_)
      value_.assign(text, size);
  }
  const std::string &value() const override {
    return value_;
  }
  sentencepiece::util::Status status() const override {
    return sentencepiece::util::Status();
  }

private:
  SentencePieceNext next_;
  void *context_;
  bool done_ = false;
  std::string value_;
};

bool report(const char *what, char *error, size_t error_size) {
  std::snprintf(error, error_size, "%s", what);
  return false;
}

bool report(const sentencepiece::util::Status &status, char *error, size_t error_size) {
  return report(status.ToString().c_str(), error, error_size);
}

char *copy_bytes(const void *bytes, size_t size) {
  char *copy = static_cast<char *>(std::malloc(size + 1));
  if (!copy)
    throw std::bad_alloc();
  std::memcpy(copy, bytes, size);
  copy[size] = 0;
  return copy;
}

} // namespace

bool moec_sentencepiece_train(int vocabulary, SentencePieceNext next, void *context, char **model, size_t *model_size,
                              char *error, size_t error_size) try {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocabulary)},
      {"num_threads", "1"},
      {"input_sentence_size", "0"}, // all
      {"max_sentence_length", "1073741824"},
      {"character_coverage", "0.99995"}, // rarer characters are spelt in bytes
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"minloglevel", "2"}, // errors only
  };
  Sentences sentences(next, context);
  std::string serialized;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &sentences, &serialized);
  if (!status.ok())
    return report(status, error, error_size);
  *model = copy_bytes(serialized.data(), serialized.size());
  *model_size = serialized.size();
  return true;
} catch (const std::exception &exception) {
  return report(exception.what(), error, error_size);
}

SentencePieceModel *moec_sentencepiece_load(const void *model, size_t size, SentencePieceFacts *facts, char *error,
                                            size_t error_size) try {
  auto loaded = std::make_unique<SentencePieceModel>();
  auto &processor = loaded->processor;
  const auto status = processor.LoadFromSerializedProto(std::string(static_cast<const char *>(model), size));
  if (!status.ok()) {
    report(status, error, error_size);
    return nullptr;
  }
  facts->vocabulary = processor.GetPieceSize();
  facts->unknown = processor.unk_id();
  facts->begin = processor.bos_id();
  facts->end = processor.eos_id();
  facts->newline = -1;
  for (const char *piece : {"\n", "<0x0A>"}) {
    const int id = processor.PieceToId(piece);
    if (facts->newline < 0 && id != processor.unk_id() && processor.IdToPiece(id) == piece)
      facts->newline = id;
  }
  return loaded.release();
} catch (const std::exception &exception) {
  report(exception.what(), error, error_size);
  return nullptr;
}

bool moec_sentencepiece_encode(SentencePieceModel *model, const char *text, size_t size, int32_t **ids, size_t *count,
                               char *error, size_t error_size) try {
  std::vector<int> pieces;
  const auto status = model->processor.Encode(absl::string_view(text, size), &pieces);
  if (!status.ok())
    return report(status, error, error_size);
  *ids = reinterpret_cast<int32_t *>(copy_bytes(pieces.data(), pieces.size() * sizeof(int32_t)));
  *count = pieces.size();
  return true;
} catch (const std::exception &exception) {
  return report(exception.what(), error, error_size);
}

bool moec_sentencepiece_decode(SentencePieceModel *model, const int32_t *ids, size_t count, char **text, size_t *size,
                               char *error, size_t error_size) try {
  std::string decoded;
  const auto status = model->processor.Decode(std::vector<int>(ids, ids + count), &decoded);
  if (!status.ok())
    return report(status, error, error_size);
  *text = copy_bytes(decoded.data(), decoded.size());
  *size = decoded.size();
  return true;
} catch (const std::exception &exception) {
  return report(exception.what(), error, error_size);
}

void moec_sentencepiece_free(void *memory) {
  std::free(memory);
}
