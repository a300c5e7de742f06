/* SentencePiece, whose library is C++ only, as C functions. sentencepiece_shim.cc is a shared library of its own,
 * opened at run time (tokenizer.c): without it, or without libsentencepiece, only what needs text fails.
 *
 * Every function that can fail returns false with a message in `error`. Memory that is handed out is released with
 * moec_sentencepiece_free.
 */
#ifndef MOEC_SENTENCEPIECE_SHIM_H
#define MOEC_SENTENCEPIECE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SentencePieceModel SentencePieceModel;

/* Gives the next sentence; false at the end. */
typedef bool (*SentencePieceNext)(void *context, const char **text, size_t *size);

typedef struct SentencePieceFacts {
  int vocabulary;
  int unknown, begin, end, newline; /* ids, -1: none. `newline`: the piece "\n" or the byte piece <0x0A> */
} SentencePieceFacts;

/* BPE over the sentences, one thread, all of them, byte fallback, text unchanged: the same text gives the same model.
 */
bool moec_sentencepiece_train(int vocabulary, SentencePieceNext next, void *context, char **model, size_t *model_size,
                              char *error, size_t error_size);
SentencePieceModel *moec_sentencepiece_load(const void *model, size_t size, SentencePieceFacts *facts, char *error,
                                            size_t error_size);
bool moec_sentencepiece_encode(SentencePieceModel *model, const char *text, size_t size, int32_t **ids, size_t *count,
                               char *error, size_t error_size);
bool moec_sentencepiece_decode(SentencePieceModel *model, const int32_t *ids, size_t count, char **text, size_t *size,
                               char *error, size_t error_size);
void moec_sentencepiece_free(void *memory);

#ifdef __cplusplus
}
#endif

#endif
