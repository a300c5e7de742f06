/* See options.h. */
#include "runtime/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"

static void list_add(OptionList *list, const char *word, int most) {
  if (!list->words)
    list->words = runtime_allocate((size_t)most, sizeof *list->words);
  list->words[list->count++] = word;
}

static void store(const char *command, const Option *option, const char *value, int most) {
  char *end;
  errno = 0;
  if (option->kind == OPTION_TEXT) {
    *(const char **)option->value = value;
  } else if (option->kind == OPTION_LIST) {
    list_add(option->value, value, most);
  } else if (option->kind == OPTION_INTEGER) {
    int64_t number = strtoll(value, &end, 10);
    if (errno || *end || end == value || number < option->least)
      runtime_fail(FAIL_USAGE, "%s: %s: '%s' is not a whole number of at least %lld", command, option->name, value,
                   (long long)option->least);
    *(int64_t *)option->value = number;
  } else {
    double number = strtod(value, &end);
    if (errno || *end || end == value || !(number >= 0))
      runtime_fail(FAIL_USAGE, "%s: %s: '%s' is not a number of at least 0", command, option->name, value);
    *(double *)option->value = number;
  }
}

void options_parse(const char *command, int argc, char **argv, const Option *options, int count, OptionList *words) {
  bool only_words = false;
  for (int i = 0; i < argc; i++) {
    const char *word = argv[i];
    if (!only_words && strcmp(word, "--") == 0) {
      only_words = true;
      continue;
    }
    if (only_words || word[0] != '-' || word[1] == 0) {
      if (!words)
        runtime_fail(FAIL_USAGE, "%s: '%s' is one word too many (--help lists the options)", command, word);
      list_add(words, word, argc);
      continue;
    }
    const char *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    const Option *option = options;
    while (option < options + count && !(strlen(option->name) == length && memcmp(option->name, word, length) == 0))
      option++;
    if (option == options + count)
      runtime_fail(FAIL_USAGE, "%s: unknown option '%.*s' (--help lists the options)", command, (int)length, word);
    if (option->kind == OPTION_FLAG) {
      if (equals)
        runtime_fail(FAIL_USAGE, "%s: %s takes no value", command, option->name);
      *(bool *)option->value = true;
      continue;
    }
    if (!equals && i + 1 == argc)
      runtime_fail(FAIL_USAGE, "%s: %s needs a value", command, option->name);
    store(command, option, equals ? equals + 1 : argv[++i], argc);
  }
}
