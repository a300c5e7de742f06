/* The three character classes that GPT-2's pre-tokeniser asks for. */
#ifndef MOEC_UNICODE_H
#define MOEC_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool unicode_is_letter(uint32_t code); /* category L */
bool unicode_is_number(uint32_t code); /* category N */
bool unicode_is_space(uint32_t code);  /* property White_Space */

/* The character at text[0..size), size > 0, and its length in bytes. A byte that begins no well-formed UTF-8 sequence
 * is one character of its own: U+FFFD, length 1, `*valid` false. */
uint32_t unicode_decode(const char *text, size_t size, size_t *length, bool *valid);

#endif
