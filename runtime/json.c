/* See json.h. A recursive descent over the grammar of RFC 8259, no extensions: no trailing commas, no comments. */
#include "runtime/json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"

enum { MAX_DEPTH = 64 };

typedef struct Reader {
  const char *text;
  size_t size, at;
  char *error;
  size_t error_size;
} Reader;

static Json *parse_value(Reader *r, int depth);

static Json *broken(Reader *r, const char *what) {
  snprintf(r->error, r->error_size, "byte %zu: %s", r->at, what);
  return NULL;
}

static int peek(const Reader *r) {
  return r->at < r->size ? (unsigned char)r->text[r->at] : -1;
}

static void skip_space(Reader *r) {
  while (r->at < r->size && strchr(" \t\r\n", r->text[r->at]) && r->text[r->at])
    r->at++;
}

static bool accept_word(Reader *r, const char *word) {
  size_t length = strlen(word);
  if (r->size - r->at < length || memcmp(r->text + r->at, word, length) != 0)
    return false;
  r->at += length;
  return true;
}

static Json *json_new(JsonKind kind) {
  Json *value = runtime_allocate(1, sizeof(Json));
  value->kind = kind;
  return value;
}

static int hex4(Reader *r) {
  int code = 0;
  for (int i = 0; i < 4; i++, r->at++) {
    int c = peek(r);
    if (c >= '0' && c <= '9')
      code = code * 16 + c - '0';
    else if ((c | 32) >= 'a' && (c | 32) <= 'f')
      code = code * 16 + (c | 32) - 'a' + 10;
    else
      return -1;
  }
  return code;
}

static size_t put_utf8(char *out, uint32_t code) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (size_t i = length - 1; i > 0; i--, code >>= 6)
    out[i] = (char)(0x80 | (code & 0x3F));
  out[0] = (char)(lead[length] | code);
  return length;
}

/* Behind the backslash; writes the character. False: broken. */
static bool parse_escape(Reader *r, char *out, size_t *length) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  int c = peek(r);
  const char *found = c > 0 ? strchr(from, c) : NULL;
  r->at++;
  if (found) {
    out[(*length)++] = to[found - from];
    return true;
  }
  if (c != 'u')
    return false;
  int code = hex4(r);
  if (code >= 0xD800 && code < 0xDC00) {
    if (!accept_word(r, "\\u"))
      return false;
    int low = hex4(r);
    if (low < 0xDC00 || low > 0xDFFF)
      return false;
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  } else if (code <= 0 || (code >= 0xDC00 && code <= 0xDFFF)) {
    return false;
  }
  *length += put_utf8(out + *length, (uint32_t)code);
  return true;
}

/* At the opening quote. NUL characters are refused: strings are terminated. */
static const char *parse_string(Reader *r) {
  size_t end = ++r->at;
  while (end < r->size && r->text[end] != '"')
    end += r->text[end] == '\\' ? 2 : 1;
  if (end >= r->size) {
    broken(r, "a string that does not end");
    return NULL;
  }
  char *out = runtime_allocate(end - r->at + 1, 1);
  size_t length = 0;
  while (r->at < end) {
    unsigned char c = (unsigned char)r->text[r->at];
    if (c < 0x20) {
      broken(r, "a control character in a string");
      return NULL;
    }
    r->at++;
    if (c != '\\') {
      out[length++] = (char)c;
    } else if (!parse_escape(r, out, &length)) {
      broken(r, "a wrong escape in a string");
      return NULL;
    }
  }
  r->at = end + 1;
  return out;
}

static size_t skip_digits(Reader *r) {
  size_t start = r->at;
  while (peek(r) >= '0' && peek(r) <= '9')
    r->at++;
  return r->at - start;
}

static Json *parse_number(Reader *r) {
  size_t start = r->at;
  if (peek(r) == '-')
    r->at++;
  bool zero = peek(r) == '0';
  size_t digits = skip_digits(r);
  if (digits == 0 || (zero && digits > 1))
    return broken(r, "a number expected");
  if (peek(r) == '.') {
    r->at++;
    if (skip_digits(r) == 0)
      return broken(r, "digits expected behind the point");
  }
  if (peek(r) == 'e' || peek(r) == 'E') {
    r->at++;
    if (peek(r) == '+' || peek(r) == '-')
      r->at++;
    if (skip_digits(r) == 0)
      return broken(r, "digits expected in the exponent");
  }
  Json *value = json_new(JSON_NUMBER);
  char *copy = runtime_allocate(r->at - start + 1, 1);
  memcpy(copy, r->text + start, r->at - start);
  value->string = copy;
  return value;
}

/* At the bracket or brace. */
static Json *parse_container(Reader *r, int depth) {
  bool object = peek(r) == '{';
  int close = object ? '}' : ']';
  Json *container = json_new(object ? JSON_OBJECT : JSON_ARRAY);
  Json **tail = &container->first;
  r->at++;
  skip_space(r);
  if (peek(r) == close) {
    r->at++;
    return container;
  }
  for (;;) {
    const char *key = NULL;
    skip_space(r);
    if (object) {
      if (peek(r) != '"')
        return broken(r, "a member's name in quotes expected");
      if (!(key = parse_string(r)))
        return NULL;
      skip_space(r);
      if (peek(r) != ':')
        return broken(r, "':' expected");
      r->at++;
    }
    Json *member = parse_value(r, depth + 1);
    if (!member)
      return NULL;
    member->key = key;
    *tail = member;
    tail = &member->next;
    skip_space(r);
    int c = peek(r);
    if (c != ',' && c != close)
      return broken(r, object ? "',' or '}' expected" : "',' or ']' expected");
    r->at++;
    if (c == close)
      return container;
  }
}

static Json *parse_value(Reader *r, int depth) {
  if (depth > MAX_DEPTH)
    return broken(r, "nested too deeply");
  skip_space(r);
  int c = peek(r);
  if (c == '{' || c == '[')
    return parse_container(r, depth);
  if (c == '"') {
    const char *string = parse_string(r);
    if (!string)
      return NULL;
    Json *value = json_new(JSON_STRING);
    value->string = string;
    return value;
  }
  if (accept_word(r, "true"))
    return json_new(JSON_TRUE);
  if (accept_word(r, "false"))
    return json_new(JSON_FALSE);
  if (accept_word(r, "null"))
    return json_new(JSON_NULL);
  return parse_number(r);
}

Json *json_parse(const char *text, size_t size, char *error, size_t error_size) {
  Reader r = {text, size, 0, error, error_size};
  Json *value = parse_value(&r, 0);
  if (!value)
    return NULL;
  skip_space(&r);
  return r.at == size ? value : broken(&r, "something behind the end of the value");
}

const Json *json_member(const Json *object, const char *key) {
  if (!object || object->kind != JSON_OBJECT)
    return NULL;
  for (const Json *member = object->first; member; member = member->next)
    if (strcmp(member->key, key) == 0)
      return member;
  return NULL;
}

bool json_integer(const Json *value, int64_t *number) {
  if (!value || value->kind != JSON_NUMBER)
    return false;
  char *end;
  errno = 0;
  *number = strtoll(value->string, &end, 10);
  return errno == 0 && *end == 0;
}

bool json_unsigned(const Json *value, uint64_t *number) {
  if (!value || value->kind != JSON_NUMBER || value->string[0] == '-')
    return false;
  char *end;
  errno = 0;
  *number = strtoull(value->string, &end, 10);
  return errno == 0 && *end == 0;
}

bool json_double(const Json *value, double *number) {
  if (!value || value->kind != JSON_NUMBER)
    return false;
  *number = strtod(value->string, NULL);
  return isfinite(*number);
}

static void text_reserve(Text *text, size_t more) {
  if (text->size + more + 1 <= text->capacity)
    return;
  text->capacity = (text->size + more + 1) * 2;
  text->data = realloc(text->data, text->capacity);
  if (!text->data)
    runtime_fail(FAIL_ENVIRONMENT, "no memory for %zu bytes of text", text->capacity);
}

void text_append(Text *text, const void *bytes, size_t size) {
  text_reserve(text, size);
  if (size > 0)
    memcpy(text->data + text->size, bytes, size);
  text->size += size;
  text->data[text->size] = 0;
}

void text_format(Text *text, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  text_reserve(text, (size_t)length);
  vsnprintf(text->data + text->size, (size_t)length + 1, format, again);
  va_end(again);
  text->size += (size_t)length;
}

void text_json_string(Text *text, const char *string) {
  text_append(text, "\"", 1);
  for (const char *c = string; *c; c++) {
    if (*c == '"' || *c == '\\')
      text_format(text, "\\%c", *c);
    else if (*c == '\n')
      text_append(text, "\\n", 2);
    else if ((unsigned char)*c < 0x20)
      text_format(text, "\\u%04x", (unsigned char)*c);
    else
      text_append(text, c, 1);
  }
  text_append(text, "\"", 1);
}

void text_json_float(Text *text, float value) {
  if (isfinite(value))
    text_format(text, "%.9g", (double)value);
  else
    text_append(text, "null", 4);
}

void text_json_double(Text *text, double value) {
  if (isfinite(value))
    text_format(text, "%.17g", value);
  else
    text_append(text, "null", 4);
}

void text_free(Text *text) {
  free(text->data);
  *text = (Text){0};
}
