/* Text to token ids and back: bytes, GPT-2's byte-level BPE, SentencePiece.
 *
 * A tokenizer directory (of a data directory, copied into every run) holds tokenizer.json: kind, vocabulary and hash,
 * and the model's own files: encoder.json and vocab.bpe, or sentencepiece.model. The hash names the tokenizer in token
 * files and checkpoints.
 *
 * SentencePiece works on lines: every line is encoded by itself, followed by the token of the line end (the piece "\n"
 * or <0x0A>, or else the end-of-sentence token), so that text comes back with its lines. Its shim is looked for in the
 * payload of the trainer, or beside the executable as libmoec_sentencepiece.so.
 *
 * A file that is missing or damaged is FAIL_USER; a missing library FAIL_ENVIRONMENT.
 */
#ifndef MOEC_TOKENIZER_H
#define MOEC_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/files.h"

#define TOKENIZER_SHIM_FILE "libmoec_sentencepiece.so"
#define TOKENIZER_SHIM_SECTION "sentencepiece_shim.so"

typedef struct TokenList {
  int32_t *ids;
  size_t count, capacity;
} TokenList;

void token_list_add(TokenList *list, int32_t id);

typedef struct Tokenizer Tokenizer;

/* The bytes of the shim that the trainer carries; without this call it is looked for beside the executable. */
void tokenizer_set_shim(const void *library, size_t size);

Tokenizer *tokenizer_open(const char *directory); /* what tokenizer_save wrote; its hash is checked */
/* NULL: no library is missing for tokenizer_open. Else which, as a message. */
const char *tokenizer_lacks(const char *directory);
Tokenizer *tokenizer_make(const char *specification); /* "bytes", "gpt2:DIR", "spm:FILE.model" */
Tokenizer *tokenizer_train(int64_t vocabulary, const Bytes *texts, size_t count); /* "spm:8000" */
void tokenizer_save(const Tokenizer *tokenizer, const char *directory);
void tokenizer_close(Tokenizer *tokenizer);

const char *tokenizer_kind(const Tokenizer *tokenizer); /* "bytes", "gpt2", "spm" */
int64_t tokenizer_vocabulary(const Tokenizer *tokenizer);
uint64_t tokenizer_hash(const Tokenizer *tokenizer);
int32_t tokenizer_separator(const Tokenizer *tokenizer); /* stands between documents; -1: there is none */
int32_t tokenizer_start(const Tokenizer *tokenizer);     /* what an empty prompt begins with */

/* Appends. `name` stands in the message when the text is not UTF-8 and the tokenizer needs that (spm). */
void tokenizer_encode(Tokenizer *tokenizer, const char *name, const char *text, size_t size, TokenList *list);
/* Release with free(data). */
Bytes tokenizer_decode(Tokenizer *tokenizer, const int32_t *ids, size_t count);

/* GPT-2's BPE (tokenizer_gpt2.c). */
typedef struct Gpt2 Gpt2;
Gpt2 *gpt2_new(const char *encoder_path, Bytes encoder, const char *merges_path, Bytes merges);
int64_t gpt2_vocabulary(const Gpt2 *gpt2);
int32_t gpt2_separator(const Gpt2 *gpt2); /* <|endoftext|>, or -1 */
void gpt2_encode(const Gpt2 *gpt2, const char *text, size_t size, TokenList *list);
Bytes gpt2_decode(const Gpt2 *gpt2, const int32_t *ids, size_t count);

#endif
