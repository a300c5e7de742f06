/* Command lines: --name=value, --name value, -n value, flags without a value, words without a dash.
 *
 * An unknown option, a missing or superfluous value, or a number that is none ends the program with FAIL_USAGE.
 */
#ifndef MOEC_RUNTIME_OPTIONS_H
#define MOEC_RUNTIME_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum OptionKind { OPTION_FLAG, OPTION_TEXT, OPTION_LIST, OPTION_INTEGER, OPTION_NUMBER } OptionKind;

typedef struct OptionList {
  const char **words;
  int count;
} OptionList;

typedef struct Option {
  const char *name; /* "--steps" or "-n" */
  OptionKind kind;
  void *value;   /* bool, const char *, OptionList, int64_t or double: keeps what it held when the option is absent */
  int64_t least; /* of an integer */
} Option;

/* `command` begins the messages ("train"). `words`: the others, or NULL when none is allowed. */
void options_parse(const char *command, int argc, char **argv, const Option *options, int count, OptionList *words);

#endif
