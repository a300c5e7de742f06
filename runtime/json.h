/* JSON: a strict reader into a tree, and a growing text to write into.
 *
 * In: the headers of safetensors files, state.json, meta.json, encoder.json. Out: trees that live as long as the
 * process. Numbers keep their text, so 64-bit integers and doubles come back exactly. Written here because the trainer
 * is one file and Debian's cJSON exists as a shared library only.
 */
#ifndef MOEC_RUNTIME_JSON_H
#define MOEC_RUNTIME_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum JsonKind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct Json {
  JsonKind kind;
  const char *key;    /* of a member of an object */
  const char *string; /* a string, UTF-8, terminated; or the text of a number */
  struct Json *first; /* of an array or object, in the order of the text */
  struct Json *next;  /* the sibling */
} Json;

/* NULL with a message in `error` (what is wrong and at which byte) when the text is not one JSON value. */
Json *json_parse(const char *text, size_t size, char *error, size_t error_size);

/* The member; NULL when absent or when `object` is no object. */
const Json *json_member(const Json *object, const char *key);
/* False when `value` is NULL, of another kind, or does not fit. */
bool json_integer(const Json *value, int64_t *number);
bool json_unsigned(const Json *value, uint64_t *number);
bool json_double(const Json *value, double *number);

/* Text that grows. */
typedef struct Text {
  char *data; /* terminated; NULL while empty */
  size_t size, capacity;
} Text;

void text_append(Text *text, const void *bytes, size_t size);
void text_format(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_json_string(Text *text, const char *string); /* quoted and escaped; the string is UTF-8 */
void text_json_float(Text *text, float value);   /* nine digits, which give the same float; null when not finite */
void text_json_double(Text *text, double value); /* seventeen digits; null when not finite */
void text_free(Text *text);

#endif
