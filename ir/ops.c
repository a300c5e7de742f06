/* The op table and the attribute table as data, made from ops.def and MOEC_ATTRS. */
#include <string.h>

#include "ir/internal.h"

const OpInfo op_info[OP_COUNT] = {
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flop, eval, lower, doc)                \
  {#name, min, max, outputs, attributes, flags, stages, doc},
#include "ir/ops.def"
};

const char *const attr_name[ATTRIBUTE_COUNT] = {
#define X(name, kind) #name,
    MOEC_ATTRS(X)
#undef X
};

const AttrKind attr_kind[ATTRIBUTE_COUNT] = {
#define X(name, kind) kind,
    MOEC_ATTRS(X)
#undef X
};

Op op_from_name(const char *name) {
  for (int op = 0; op < OP_COUNT; op++)
    if (strcmp(op_info[op].name, name) == 0)
      return (Op)op;
  return OP_COUNT;
}

AttrName attr_from_name(const char *name) {
  for (int a = 0; a < ATTRIBUTE_COUNT; a++)
    if (strcmp(attr_name[a], name) == 0)
      return (AttrName)a;
  return ATTRIBUTE_COUNT;
}

AttrUse op_attr_use(Op op, AttrName name) {
  size_t length = strlen(attr_name[name]);
  for (const char *word = op_info[op].attributes; *word;) {
    size_t word_length = strcspn(word, " ");
    bool optional = word[word_length - 1] == '?';
    if (word_length - optional == length && strncmp(word, attr_name[name], length) == 0)
      return optional ? ATTR_USE_OPTIONAL : ATTR_USE_REQUIRED;
    word += word_length + strspn(word + word_length, " ");
  }
  return ATTR_USE_NONE;
}
