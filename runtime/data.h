/* Token files and the batches made of them.
 *
 * A data directory holds train.bin, valid.bin, test.bin (a split may be missing), meta.json and tokenizer/. A token
 * file is a header of 64 bytes, little endian:
 *
 *    0  "MOECTOKN"          24  u64 number of tokens
 *    8  u32 version 1       32  u64 hash of the tokenizer
 *   12  u32 bytes per token 40  u64 checksum
 *   16  u32 vocabulary      48  zeros
 *   20  u32 zero            64  the tokens, u16 or u32
 *
 * The checksum (runtime/checksum.h) is of the whole file, with zeros in the checksum's own place.
 *
 * Training order: epoch e cuts the stream into `windows` windows of `sequence` tokens, from an offset drawn from (seed,
 * e), and visits them in a permutation of (seed, e). Sequence number i of a run (step * batch + index) is window
 * i % windows of epoch i / windows: a function of (seed, step), without state. A window reads sequence + 1 tokens; its
 * targets are the tokens one further.
 *
 * Evaluation: windows one after the other without overlap; every token but the first is a target exactly once; the last
 * window may be shorter, and what is left of the micro-batch is dead (live 0, weight 0).
 */
#ifndef MOEC_RUNTIME_DATA_H
#define MOEC_RUNTIME_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/files.h"

typedef struct TokenFile {
  const char *path;
  Mapping mapping;
  int width; /* bytes per token */
  int64_t count;
  int64_t vocabulary;
  uint64_t tokenizer_hash;
} TokenFile;

void token_file_write(const char *path, const int32_t *tokens, int64_t count, int64_t vocabulary, uint64_t hash);
/* DIR/SPLIT.bin, read once for its checksum. Missing, damaged, truncated: FAIL_USER. */
TokenFile *token_file_open(const char *directory, const char *split);
char *token_file_path(const char *directory, const char *split);
/* FAIL_USER when the ids do not fit a model of `vocabulary` ids, or fewer than `least` tokens are there. */
void token_file_check(const TokenFile *file, int64_t vocabulary, int64_t least);
/* FAIL_USER when the id there is not below the file's vocabulary. */
int32_t token_file_at(const TokenFile *file, int64_t index);

typedef struct DataOrder {
  uint64_t seed;
  int64_t sequence;
  int64_t windows; /* per epoch */
  int64_t slack;   /* the offset of an epoch is 0..slack */
} DataOrder;

DataOrder data_order(const TokenFile *file, int64_t sequence, uint64_t seed);
int64_t data_order_start(const DataOrder *order, int64_t index); /* first token of sequence number `index` */

/* The arguments of a function that take data (docs/plan.md); NULL where it has none of that name. */
typedef struct Batch {
  int64_t rows, segments; /* N and S of the function */
  int32_t *tokens, *targets, *position, *off, *token;
  float *weight, *live;
} Batch;

/* Micro-batch `micro` of `accumulate` of update number `step` (from 0), `sequences` of them in the whole batch. */
void batch_fill_training(const Batch *batch, const TokenFile *file, const DataOrder *order, int64_t step,
                         int64_t sequences, int64_t micro, int64_t accumulate);
/* Targets from number `first` (0-based) on; returns how many it took: 0 when none is left. */
int64_t batch_fill_evaluation(const Batch *batch, const TokenFile *file, int64_t sequence, int64_t first);
/* One segment of `count` tokens from the caller; the rest is dead. */
void batch_fill_prompt(const Batch *batch, const int32_t *tokens, int64_t count);

#endif
