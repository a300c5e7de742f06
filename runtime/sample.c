/* The command `sample`: continues a prompt with the parameters of a checkpoint and the run's own tokenizer.
 *
 * Every token is one run of @P.sample on the last `sequence` tokens. Draws come from a generator seeded by --seed, so
 * the same command prints the same text.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint.h"
#include "runtime/commands.h"
#include "runtime/cpu/cpu.h"
#include "runtime/error.h"
#include "runtime/options.h"
#include "runtime/tokenizer.h"
#include "runtime/tuning.h"
#include "runtime/unicode.h"

typedef struct SampleOptions {
  const char *checkpoint, *prompt, *device, *cpu; /* device, cpu: NULL when not given */
  int64_t count, top_k, seed;
  double temperature;
} SampleOptions;

typedef struct Candidate {
  double weight; /* the logit, then the unnormalised probability */
  int32_t id;
} Candidate;

/* splitmix64; uniform in [0,1). */
static double draw(uint64_t *state) {
  uint64_t x = *state += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}

static int by_weight(const void *a, const void *b) {
  const Candidate *x = a, *y = b;
  if (x->weight != y->weight)
    return x->weight > y->weight ? -1 : 1;
  return x->id < y->id ? -1 : 1;
}

/* `candidates` holds `count` logits. Temperature 0: the largest. */
static int32_t choose(Candidate *candidates, int64_t count, const SampleOptions *options, uint64_t *random) {
  qsort(candidates, (size_t)count, sizeof *candidates, by_weight);
  if (options->temperature <= 0)
    return candidates[0].id;
  if (options->top_k > 0 && options->top_k < count)
    count = options->top_k;
  double largest = candidates[0].weight, sum = 0;
  for (int64_t i = 0; i < count; i++)
    sum += candidates[i].weight = exp((candidates[i].weight - largest) / options->temperature);
  double left = draw(random) * sum;
  for (int64_t i = 0; i < count; i++)
    if ((left -= candidates[i].weight) < 0)
      return candidates[i].id;
  return candidates[0].id;
}

static int32_t next_token(Program *p, const PlanFunc *func, const TokenList *tokens, int64_t step,
                          const SampleOptions *options, Candidate *candidates, int64_t vocabulary, uint64_t *random) {
  Batch batch = program_batch(p, func);
  int64_t window = p->plan->run.sequence < batch.rows ? p->plan->run.sequence : batch.rows;
  int64_t length = (int64_t)tokens->count < window ? (int64_t)tokens->count : window;
  batch_fill_prompt(&batch, tokens->ids + tokens->count - length, length);
  program_fill(p, func, step);
  program_set_float(p, func, "inverse_targets", 1);
  int32_t *last = executor_argument(p->executor, func, "last");
  if (last)
    *last = (int32_t)(length - 1);
  executor_run(p->executor, func);
  const float *logits = executor_result(p->executor, func, "logits");
  if (!logits)
    runtime_fail(FAIL_BUG, "function %s gives no logits", func->name);
  for (int64_t i = 0; i < vocabulary; i++) {
    if (!isfinite(logits[i]))
      runtime_fail(FAIL_USER, "the checkpoint gives logits that are not finite");
    candidates[i] = (Candidate){(double)logits[i], (int32_t)i};
  }
  return choose(candidates, vocabulary, options, random);
}

/* Prints what the decoded text has beyond `printed`, but no UTF-8 sequence that may yet go on: neither its first bytes
 * nor the U+FFFD that SentencePiece writes for them. */
static size_t print_new(Tokenizer *tokenizer, const TokenList *tokens, size_t from, size_t printed, bool all) {
  Bytes text = tokenizer_decode(tokenizer, tokens->ids + from, tokens->count - from);
  size_t end = text.size, length;
  bool valid = true;
  while (!all && end >= 3 && memcmp(text.data + end - 3, "\xEF\xBF\xBD", 3) == 0)
    end -= 3;
  for (size_t tail = 1; !all && tail <= 3 && tail <= text.size; tail++) {
    if (((unsigned char)text.data[text.size - tail] & 0xC0) != 0xC0)
      continue;
    unicode_decode(text.data + text.size - tail, tail, &length, &valid);
    if (!valid)
      end = text.size - tail;
    break;
  }
  if (end > printed) {
    fwrite(text.data + printed, 1, end - printed, stdout);
    fflush(stdout);
    printed = end;
  }
  free(text.data);
  return printed;
}

static SampleOptions parse(int argc, char **argv) {
  SampleOptions o = {.prompt = "", .count = 100, .top_k = 0, .seed = 1, .temperature = 1};
  const Option options[] = {{"--checkpoint", OPTION_TEXT, &o.checkpoint, 0},
                            {"--prompt", OPTION_TEXT, &o.prompt, 0},
                            {"-n", OPTION_INTEGER, &o.count, 0},
                            {"--top-k", OPTION_INTEGER, &o.top_k, 0},
                            {"--temperature", OPTION_NUMBER, &o.temperature, 0},
                            {"--seed", OPTION_INTEGER, &o.seed, 0},
                            {"--device", OPTION_TEXT, &o.device, 0},
                            {"--cpu", OPTION_TEXT, &o.cpu, 0}};
  options_parse("sample", argc, argv, options, sizeof options / sizeof *options, NULL);
  if (!o.checkpoint)
    runtime_fail(FAIL_USAGE, "sample: --checkpoint C is missing");
  return o;
}

static Tokenizer *open_tokenizer(const char *checkpoint, const CheckpointState *state) {
  char *run = checkpoint_run(checkpoint), *directory = string_format("%s/tokenizer", run);
  Tokenizer *tokenizer = tokenizer_open(directory);
  if (tokenizer_hash(tokenizer) != state->tokenizer_hash)
    runtime_fail(FAIL_USER, "%s: not the tokenizer of this checkpoint's data", directory);
  free(run);
  free(directory);
  return tokenizer;
}

int trainer_sample(int argc, char **argv) {
  SampleOptions options = parse(argc, argv);
  cpu_choose("sample", options.cpu);
  Program *p = program_open("sample", options.device);
  char *checkpoint = checkpoint_find(options.checkpoint);
  CheckpointState state = checkpoint_read_state(checkpoint);
  Tokenizer *tokenizer = open_tokenizer(checkpoint, &state);
  program_start(p, state.seed);
  tuning_take_choices(p, checkpoint_run(checkpoint));
  checkpoint_load(checkpoint, p, &state, false);
  const PlanFunc *func = program_func(p, p->phase, "sample");
  if (!func)
    runtime_fail(FAIL_BUG, "phase %s has no function sample", p->plan->phases[p->phase].name);
  int64_t vocabulary = tokenizer_vocabulary(tokenizer);
  if (vocabulary > p->plan->run.vocabulary)
    runtime_fail(FAIL_USER, "the tokenizer has %lld ids, the model %lld", (long long)vocabulary,
                 (long long)p->plan->run.vocabulary);
  TokenList tokens = {0};
  uint64_t random = (uint64_t)options.seed;
  Candidate *candidates = runtime_allocate((size_t)vocabulary, sizeof *candidates);
  tokenizer_encode(tokenizer, "--prompt", options.prompt, strlen(options.prompt), &tokens);
  size_t from = 0, printed = 0;
  if (tokens.count == 0) {
    token_list_add(&tokens, tokenizer_start(tokenizer));
    from = 1;
  }
  for (int64_t i = 0; i < options.count; i++) {
    printed = print_new(tokenizer, &tokens, from, printed, false);
    token_list_add(&tokens, next_token(p, func, &tokens, state.step, &options, candidates, vocabulary, &random));
  }
  print_new(tokenizer, &tokens, from, printed, true);
  putchar('\n');
  return 0;
}
