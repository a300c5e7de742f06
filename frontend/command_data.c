/* moec data: text files in, a data directory out (runtime/data.h): train.bin, valid.bin, test.bin, meta.json,
 * tokenizer/.
 *
 * Either FILE... are cut into blocks, at line ends where there are any, and evenly spread blocks go to valid and test;
 * or --train, --valid and --test name the files of each split. A tokenizer made on the spot (spm:SIZE) sees the train
 * split only. The same text and options give the same bytes.
 *
 * meta.json also holds, per split, the perplexity of the unigram distribution of the train split (counts plus one):
 * what a model that knows nothing of context reaches on it.
 *
 * The directory appears whole or not at all.
 */
#define _GNU_SOURCE 1 /* renameat2 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/data.h"
#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/json.h"
#include "runtime/options.h"
#include "runtime/tokenizer.h"

enum { SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST, SPLIT_COUNT };
static const char *const split_name[SPLIT_COUNT] = {"train", "valid", "test"};

/* Pieces of text in the order of the split; a document is a file, or what a block cuts out of one. */
typedef struct Split {
  Bytes *texts;
  const char **names; /* of the files, for messages */
  bool *ends;         /* the text ends its file: the separator follows */
  size_t count;
  TokenList tokens;
  double perplexity; /* NAN: no target */
} Split;

static void split_add(Split *split, Bytes text, const char *name, bool ends) {
  size_t count = split->count + 1;
  split->texts = realloc(split->texts, count * sizeof *split->texts);
  split->names = realloc(split->names, count * sizeof *split->names);
  split->ends = realloc(split->ends, count * sizeof *split->ends);
  if (!split->texts || !split->names || !split->ends)
    runtime_fail(FAIL_ENVIRONMENT, "no memory for %zu pieces of text", count);
  split->texts[split->count] = text;
  split->names[split->count] = name;
  split->ends[split->count] = ends;
  split->count++;
}

/* Where to cut the text near `at`: at the next line end within `reach`, or else behind the next space, or else between
 * two characters. */
static size_t cut_position(Bytes text, size_t at, size_t reach) {
  if (at >= text.size)
    return text.size;
  size_t length = text.size - at < reach ? text.size - at : reach;
  const char *stop = memchr(text.data + at, '\n', length);
  if (!stop)
    stop = memchr(text.data + at, ' ', length);
  if (stop)
    return (size_t)(stop - text.data) + 1;
  while (at < text.size && ((unsigned char)text.data[at] & 0xC0) == 0x80)
    at++;
  return at;
}

/* At least five blocks for the smaller held-out share, so that it samples the whole file. Block i goes to the split
 * whose share has come due; test runs half a period before valid. */
static void cut(Bytes text, const char *name, double valid, double test, Split *splits) {
  double least = valid > 0 && (test <= 0 || valid < test) ? valid : test;
  size_t blocks = least > 0 ? (size_t)ceil(5 / least) : 1;
  if (blocks > text.size)
    blocks = 1;
  double due[SPLIT_COUNT] = {0, 0, 0.5};
  size_t start = 0;
  for (size_t block = 0; block < blocks; block++) {
    int to = SPLIT_TRAIN;
    due[SPLIT_VALID] += valid;
    due[SPLIT_TEST] += test;
    for (int split = SPLIT_VALID; split <= SPLIT_TEST && to == SPLIT_TRAIN; split++)
      if (due[split] >= 1 - 1e-9)
        to = split;
    if (to != SPLIT_TRAIN)
      due[to] -= 1;
    size_t end =
        block + 1 == blocks ? text.size : cut_position(text, text.size / blocks * (block + 1), text.size / blocks);
    if (end > start)
      split_add(&splits[to], (Bytes){text.data + start, end - start}, name, end == text.size);
    start = end;
  }
}

static void read_files(OptionList files, Split *split) {
  for (int i = 0; i < files.count; i++)
    split_add(split, file_read("text", files.words[i]), files.words[i], true);
}

/* "0.05": a share of the text; anything else: a file. */
static double take_share(OptionList *list, double otherwise) {
  if (list->count == 0)
    return otherwise;
  char *end;
  double share = strtod(list->words[0], &end);
  if (*end || end == list->words[0])
    return -1;
  if (list->count > 1 || !(share >= 0 && share < 0.5))
    runtime_fail(FAIL_USAGE, "data: a held-out share is given once, from 0 to below 0.5, not %s", list->words[0]);
  return share;
}

static void read_splits(OptionList words, OptionList files[SPLIT_COUNT], Split *splits) {
  if (files[SPLIT_TRAIN].count > 0) {
    if (words.count > 0)
      runtime_fail(FAIL_USAGE, "data: '%s': either files to be split, or --train FILE and --valid FILE",
                   words.words[0]);
    for (int split = 0; split < SPLIT_COUNT; split++)
      read_files(files[split], &splits[split]);
    return;
  }
  if (words.count == 0)
    runtime_fail(FAIL_USAGE, "data: no text file is named (moec data FILE... -o DIR)");
  double valid = take_share(&files[SPLIT_VALID], 0.05), test = take_share(&files[SPLIT_TEST], 0.05);
  if (valid < 0 || test < 0)
    runtime_fail(FAIL_USAGE, "data: --valid FILE and --test FILE go with --train FILE");
  for (int i = 0; i < words.count; i++)
    cut(file_read("text", words.words[i]), words.words[i], valid, test, splits);
}

static Tokenizer *make_tokenizer(const char *specification, const Split *train) {
  if (strncmp(specification, "spm:", 4) == 0) {
    char *end;
    long long size = strtoll(specification + 4, &end, 10);
    if (end != specification + 4 && *end == 0)
      return tokenizer_train(size, train->texts, train->count);
  }
  return tokenizer_make(specification);
}

static void encode(Tokenizer *tokenizer, Split *split) {
  int32_t separator = tokenizer_separator(tokenizer);
  for (size_t i = 0; i < split->count; i++) {
    tokenizer_encode(tokenizer, split->names[i], split->texts[i].data, split->texts[i].size, &split->tokens);
    if (separator >= 0 && split->ends[i])
      token_list_add(&split->tokens, separator);
  }
}

static void measure(Split *splits, int64_t vocabulary) {
  int64_t *count = runtime_allocate((size_t)vocabulary, sizeof *count);
  const TokenList *train = &splits[SPLIT_TRAIN].tokens;
  for (size_t i = 0; i < train->count; i++)
    count[train->ids[i]]++;
  double total = (double)train->count + (double)vocabulary;
  for (int split = 0; split < SPLIT_COUNT; split++) {
    const TokenList *tokens = &splits[split].tokens;
    double bits = 0;
    for (size_t i = 1; i < tokens->count; i++) /* the targets: every token but the first */
      bits -= log(((double)count[tokens->ids[i]] + 1) / total);
    splits[split].perplexity = tokens->count > 1 ? exp(bits / (double)(tokens->count - 1)) : NAN;
  }
  free(count);
}

static size_t text_size(const Split *split) {
  size_t size = 0;
  for (size_t i = 0; i < split->count; i++)
    size += split->texts[i].size;
  return size;
}

static void write_splits(const char *directory, const char *specification, const Tokenizer *tokenizer,
                         const Split *splits) {
  Text meta = {0};
  text_format(&meta, "{\"format\":1,\"task\":\"lm\",\"tokenizer\":");
  text_json_string(&meta, specification);
  text_format(&meta, ",\"tokenizer_hash\":\"%016llx\",\"vocabulary\":%lld,\"splits\":{",
              (unsigned long long)tokenizer_hash(tokenizer), (long long)tokenizer_vocabulary(tokenizer));
  for (int i = 0; i < SPLIT_COUNT; i++) {
    const Split *split = &splits[i];
    char *path = token_file_path(directory, split_name[i]);
    if (split->tokens.count > 0)
      token_file_write(path, split->tokens.ids, (int64_t)split->tokens.count, tokenizer_vocabulary(tokenizer),
                       tokenizer_hash(tokenizer));
    text_format(&meta, "%s\"%s\":{\"tokens\":%zu,\"bytes\":%zu,\"unigram_ppl\":", i ? "," : "", split_name[i],
                split->tokens.count, text_size(split));
    text_json_double(&meta, split->perplexity);
    text_append(&meta, "}", 1);
    free(path);
  }
  text_format(&meta, "}}\n");
  char *path = string_format("%s/meta.json", directory);
  file_replace(path, meta.data, meta.size);
  directory_sync(directory);
  text_free(&meta);
  free(path);
}

static void print_splits(const char *specification, const Tokenizer *tokenizer, const Split *splits) {
  printf("tokenizer  %s, vocabulary %lld\n", specification, (long long)tokenizer_vocabulary(tokenizer));
  for (int i = 0; i < SPLIT_COUNT; i++) {
    printf("%-9s  %10zu tokens  %11zu bytes", split_name[i], splits[i].tokens.count, text_size(&splits[i]));
    if (isfinite(splits[i].perplexity))
      printf("  unigram perplexity %.2f", splits[i].perplexity);
    printf("\n");
  }
}

/* ---------------------------------------------------------------- the directory */

/* A data directory appears whole or not at all: it is written beside as DIR.partial and renamed, and what a failure
 * leaves of it is removed. */
static char *partial; /* NULL: nothing is half written */

/* The files of a data directory, except tokenizer/; whatever else is in a directory is the user's. */
static bool is_data_file(const char *name) {
  for (int i = 0; i < SPLIT_COUNT; i++)
    if (strncmp(name, split_name[i], strlen(split_name[i])) == 0 && strcmp(name + strlen(split_name[i]), ".bin") == 0)
      return true;
  return strcmp(name, "meta.json") == 0 || strcmp(name, "meta.json.partial") == 0;
}

/* Only these may be replaced. */
static bool holds_only_data(const char *path) {
  DIR *directory = opendir(path);
  bool only = directory != NULL;
  for (struct dirent *entry; directory && (entry = readdir(directory));)
    only = only && (entry->d_name[0] == '.' ? strspn(entry->d_name, ".") == strlen(entry->d_name)
                                            : is_data_file(entry->d_name) || strcmp(entry->d_name, "tokenizer") == 0);
  if (directory)
    closedir(directory);
  return only;
}

static void remove_data(const char *path) {
  char *tokenizer = string_format("%s/tokenizer", path);
  directory_remove(tokenizer);
  directory_remove(path);
  free(tokenizer);
}

/* At exit; errors of its own would hide the one that is reported already. */
static void remove_partial(void) {
  if (!partial)
    return;
  const char *const places[] = {"tokenizer/", ""};
  for (int i = 0; i < 2; i++) {
    char *path = string_format("%s/%s", partial, places[i]);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
      unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory)
      closedir(directory);
    rmdir(path);
  }
}

static void make_partial(const char *directory) {
  char *parent = string_format("%s", directory), *slash = strrchr(parent, '/');
  if (slash && slash != parent) {
    *slash = 0;
    directory_create(parent);
  }
  free(parent);
  partial = string_format("%s.partial", directory);
  if (directory_exists(partial) && holds_only_data(partial)) /* of a moec data that was killed */
    remove_data(partial);
  atexit(remove_partial);
  if (mkdir(partial, 0777) != 0) {
    char *path = partial;
    partial = NULL; /* not ours */
    runtime_fail(FAIL_ENVIRONMENT, "cannot make directory %s: %s", path, strerror(errno));
  }
}

static void publish(const char *directory) {
  bool exists = directory_exists(directory);
  if (renameat2(AT_FDCWD, partial, AT_FDCWD, directory, exists ? RENAME_EXCHANGE : 0) != 0)
    runtime_fail(FAIL_ENVIRONMENT, "cannot rename %s to %s: %s", partial, directory, strerror(errno));
  char *old = partial;
  partial = NULL;
  if (exists)
    remove_data(old);
  free(old);
}

/* The path as it will be made: links followed where they exist, no slash at the end. Refuses what must not be lost. */
static char *output_path(const char *given) {
  char *path = realpath(given, NULL);
  if (!path)
    path = string_format("%s", given);
  for (size_t end = strlen(path); end > 1 && path[end - 1] == '/';)
    path[--end] = 0;
  if (access(path, F_OK) == 0 && !directory_exists(path))
    runtime_fail(FAIL_ENVIRONMENT, "cannot make directory %s: a file of that name exists", path);
  if (directory_exists(path) && !holds_only_data(path))
    runtime_fail(FAIL_USER, "%s holds other files than those of a data directory: name a new directory", path);
  return path;
}

static void print_help(void) {
  puts("moec data FILE... -o DIR         tokenise text into train, valid and test token files (\"-\": standard input)\n"
       "moec data --train FILE --valid FILE [--test FILE] -o DIR      the same from files of each split\n"
       "\n"
       "  -o DIR                  the data directory to write\n"
       "  --tokenizer=KIND        spm:SIZE (SentencePiece BPE, trained on the train split; default spm:8000),\n"
       "                          spm:FILE.model, gpt2:DIR (encoder.json and vocab.bpe), bytes\n"
       "  --task=lm               what the text is for\n"
       "  --valid=0.05 --test=0.05   shares that are held out, in blocks spread evenly over each file");
}

int command_data(int argc, char **argv) {
  const char *directory = NULL, *specification = "spm:8000", *task = "lm";
  OptionList words = {0}, files[SPLIT_COUNT] = {{0}};
  bool help = false;
  const Option options[] = {
      {"-o", OPTION_TEXT, &directory, 0},
      {"--tokenizer", OPTION_TEXT, &specification, 0},
      {"--task", OPTION_TEXT, &task, 0},
      {"--train", OPTION_LIST, &files[SPLIT_TRAIN], 0},
      {"--valid", OPTION_LIST, &files[SPLIT_VALID], 0},
      {"--test", OPTION_LIST, &files[SPLIT_TEST], 0},
      {"--help", OPTION_FLAG, &help, 0},
  };
  runtime_program = "moec";
  options_parse("data", argc, argv, options, sizeof options / sizeof *options, &words);
  if (help) {
    print_help();
    return 0;
  }
  if (!directory)
    runtime_fail(FAIL_USAGE, "data: -o DIR is missing");
  if (strcmp(task, "lm") != 0)
    runtime_fail(FAIL_USAGE,
                 strcmp(task, "mlm") == 0 || strcmp(task, "mt") == 0 || strcmp(task, "classify") == 0
                     ? "data: --task=%s is not supported yet, only --task=lm"
                     : "data: unknown task '%s', expected lm",
                 task);
  char *path = output_path(directory);
  Split splits[SPLIT_COUNT] = {0};
  read_splits(words, files, splits);
  if (text_size(&splits[SPLIT_TRAIN]) == 0)
    runtime_fail(FAIL_USER, "data: no text for the train split");
  Tokenizer *tokenizer = make_tokenizer(specification, &splits[SPLIT_TRAIN]);
  for (int split = 0; split < SPLIT_COUNT; split++)
    encode(tokenizer, &splits[split]);
  measure(splits, tokenizer_vocabulary(tokenizer));
  make_partial(path);
  tokenizer_save(tokenizer, string_format("%s/tokenizer", partial));
  write_splits(partial, specification, tokenizer, splits);
  publish(path);
  print_splits(specification, tokenizer, splits);
  free(path);
  return 0;
}
