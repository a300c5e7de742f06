/* What a trainer carries behind its own code: named sections of bytes.
 *
 * In: an executable file with a payload appended (written by the compiler). Out: pointers into the mapped file.
 *
 *   executable | section bytes, back to back | index | trailer
 *   index:   text, one line per section: "name offset size\n"; offset is absolute in the file, both decimal
 *   trailer: 32 bytes: "MOECPAY1", then little endian u64: offset of the index, its size, FNV-1a 64 of all bytes of the
 *            file before this number, so that a flipped bit anywhere is found before anything runs
 *
 * A missing or damaged payload ends the program with FAIL_USER and a message that says what is wrong.
 */
#ifndef MOEC_RUNTIME_PAYLOAD_H
#define MOEC_RUNTIME_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAYLOAD_TRAILER_SIZE = 32 };
#define PAYLOAD_MAGIC "MOECPAY1"

typedef struct PayloadSection {
  const char *name;
  const uint8_t *data; /* not terminated */
  size_t size;
} PayloadSection;

typedef struct Payload {
  const char *path; /* of the file, for messages */
  PayloadSection *sections;
  size_t count;
} Payload;

/* Maps `path`; NULL means the running executable. */
Payload *payload_open(const char *path);
/* Whether the file has a payload at its end at all (a trainer) or not (the bare runtime). */
bool payload_present(const char *path);

const PayloadSection *payload_find(const Payload *payload, const char *name);    /* NULL when absent */
const PayloadSection *payload_section(const Payload *payload, const char *name); /* absent: FAIL_BUG */

uint64_t payload_hash(const void *data, size_t size); /* FNV-1a 64 */
/* Of IR text without its comments: neither the script's path nor its line numbers make another model. */
uint64_t payload_ir_hash(const void *text, size_t size);

#endif
