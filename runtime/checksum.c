/* See checksum.h. */
#include "runtime/checksum.h"

#include <string.h>

static const uint64_t prime = 0x9E3779B185EBCA87u;

Checksum checksum_start(void) {
  return (Checksum){{1, 2, 3, 4}, 0, {0}, 0};
}

static void checksum_block(Checksum *sum, const uint8_t *block) {
  for (int i = 0; i < 4; i++) {
    uint64_t word;
    memcpy(&word, block + 8 * i, 8);
    uint64_t lane = (sum->lane[i] ^ word) * prime;
    sum->lane[i] = (lane << 31 | lane >> 33) + word;
  }
}

void checksum_add(Checksum *sum, const void *bytes, size_t size) {
  const uint8_t *at = bytes;
  sum->total += size;
  while (size > 0) {
    if (sum->held == 0 && size >= 32) {
      for (; size >= 32; at += 32, size -= 32)
        checksum_block(sum, at);
      continue;
    }
    size_t take = 32 - sum->held < size ? 32 - sum->held : size;
    memcpy(sum->rest + sum->held, at, take);
    sum->held += take;
    at += take;
    size -= take;
    if (sum->held == 32) {
      checksum_block(sum, sum->rest);
      sum->held = 0;
    }
  }
}

uint64_t checksum_end(Checksum *sum) {
  uint8_t length[8];
  memcpy(length, &sum->total, 8);
  memset(sum->rest + sum->held, 0, 32 - sum->held);
  checksum_block(sum, sum->rest);
  uint64_t hash = sum->total;
  for (int i = 0; i < 4; i++) {
    hash = (hash ^ sum->lane[i]) * prime;
    hash ^= hash >> 32;
  }
  return hash;
}
