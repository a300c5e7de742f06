/* Compiled units on disk, so that a second start compiles nothing.
 *
 * In $MOEC_CACHE, else $XDG_CACHE_HOME/moec, else ~/.cache/moec. An entry is KEY.cubin: one line "moec-cubin 1 KEY SIZE
 * HASH", then SIZE bytes; KEY is a hash of all that the bytes follow from. Entries are written beside and renamed. A
 * damaged one is reported and taken for absent; a cache that cannot be written is reported once.
 */
#ifndef MOEC_RUNTIME_CUDA_CACHE_H
#define MOEC_RUNTIME_CUDA_CACHE_H

#include "runtime/files.h"

/* Makes the directory; before the first use of the others, which are thread-safe. */
void cuda_cache_open(void);
Bytes cuda_cache_find(const char *key); /* data NULL: absent */
void cuda_cache_store(const char *key, Bytes image);

#endif
