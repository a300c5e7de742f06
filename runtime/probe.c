/* See probe.h. */
#include "runtime/probe.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/tokenizer.h"
#include "runtime/unicode.h"

static const char expert_prefix[] = "expert.", experts_prefix[] = "experts.", loss_label[] = "token_loss";

bool probe_possible(const Program *p) {
  for (int i = 0; i < p->plan->phase_count; i++)
    if (program_func(p, i, "probe"))
      return true;
  return false;
}

/* ---------------------------------------------------------------- the first line */

/* How often every id below the vocabulary of the file occurs in it. */
static int64_t *count_ids(const TokenFile *file) {
  int64_t *counts = runtime_allocate((size_t)file->vocabulary, sizeof *counts);
  for (int64_t i = 0; i < file->count; i++)
    counts[token_file_at(file, i)]++;
  return counts;
}

/* A token as it reads inside a text: what a second one adds behind a first, since some tokenizers drop the space at
 * the beginning. Bytes that are no UTF-8 are written \xNN. */
static void append_piece(Text *line, Tokenizer *tokenizer, int32_t id) {
  Bytes one = tokenizer_decode(tokenizer, &id, 1), two = tokenizer_decode(tokenizer, (int32_t[]){id, id}, 2);
  bool inside = two.size >= one.size && memcmp(two.data, one.data, one.size) == 0;
  const char *text = inside ? two.data + one.size : one.data;
  size_t size = inside ? two.size - one.size : one.size, length;
  Text piece = {0};
  text_append(&piece, "", 0);
  for (size_t at = 0; at < size; at += length) {
    bool valid = true;
    unicode_decode(text + at, size - at, &length, &valid);
    if (valid && text[at] != 0)
      text_append(&piece, text + at, length);
    else
      text_format(&piece, "\\x%02X", (unsigned char)text[at]);
  }
  text_json_string(line, piece.data);
  text_free(&piece);
  free(one.data);
  free(two.data);
}

static void append_texts(Text *line, const Probe *probe, Log *log, const int32_t *tokens, int64_t count) {
  char *path = string_format("%s/tokenizer.json", probe->tokenizer);
  const char *lacks = tokenizer_lacks(probe->tokenizer);
  if (lacks) {
    log_note(log, "probe.jsonl holds no texts, ids alone: %s", lacks);
  } else if (file_exists(path)) {
    Tokenizer *tokenizer = tokenizer_open(probe->tokenizer);
    for (int64_t i = 0; i < count; i++) {
      text_format(line, i ? "," : ",\"text\":[");
      append_piece(line, tokenizer, tokens[i]);
    }
    text_append(line, "]", 1);
    tokenizer_close(tokenizer);
  }
  free(path);
}

static void append_frequencies(Text *line, const Probe *probe, const int32_t *tokens, int64_t count) {
  int64_t *counts = count_ids(probe->train);
  for (int64_t i = 0; i < count; i++) {
    int64_t occurrences = tokens[i] < probe->train->vocabulary ? counts[tokens[i]] : 0;
    text_format(line, "%s%.6g", i ? "," : ",\"frequency\":[", (double)occurrences / (double)probe->train->count);
  }
  text_append(line, "]", 1);
  free(counts);
}

void probe_begin(const Probe *probe, const Program *p, Log *log) {
  if (log->offset[LOG_PROBE] > 0)
    return;
  const PlanRun *run = &p->plan->run;
  int32_t *tokens = runtime_allocate((size_t)run->tokens, sizeof *tokens);
  Batch batch = {.rows = run->tokens, .segments = run->segments, .tokens = tokens};
  int64_t count = batch_fill_evaluation(&batch, probe->valid, run->sequence, 0);
  Text line = {0};
  text_format(&line, "{\"format\":1,\"tokens\":[");
  for (int64_t i = 0; i < count; i++)
    text_format(&line, "%s%" PRId32, i ? "," : "", tokens[i]);
  text_append(&line, "]", 1);
  append_texts(&line, probe, log, tokens, count);
  append_frequencies(&line, probe, tokens, count);
  text_format(&line, ",\"split\":\"valid\"}");
  log_line(log, LOG_PROBE, &line);
  text_free(&line);
  free(tokens);
}

/* ---------------------------------------------------------------- a probe */

/* The layers' lists of the results PREFIX.LAYER: i32, one number per token. */
static void append_layers(Text *line, const Program *p, const PlanFunc *func, const char *key, const char *prefix,
                          int64_t count) {
  const char *separator = "";
  text_format(line, ",\"%s\":{", key);
  for (int r = 0; r < func->result_count; r++) {
    const PlanResult *result = &func->results[r];
    if (strncmp(result->label, prefix, strlen(prefix)) != 0)
      continue;
    const int32_t *numbers = executor_result(p->executor, func, result->label);
    if (!numbers || result->type != PLAN_I32 || result->shape.elements < count)
      runtime_fail(FAIL_BUG, "result '%s' of %s is no list of numbers", result->label, func->name);
    text_format(line, "%s", separator);
    text_json_string(line, result->label + strlen(prefix));
    for (int64_t i = 0; i < count; i++)
      text_format(line, "%s%" PRId32, i ? "," : ":[", numbers[i]);
    text_append(line, "]", 1);
    separator = ",";
  }
  text_append(line, "}", 1);
}

static void append_losses(Text *line, const Program *p, const PlanFunc *func, int64_t count) {
  const float *losses = executor_result(p->executor, func, loss_label);
  if (!losses)
    runtime_fail(FAIL_BUG, "%s has no result '%s'", func->name, loss_label);
  for (int64_t i = 0; i < count; i++) {
    text_format(line, "%s", i ? "," : ",\"loss\":[");
    if (isfinite(losses[i]))
      text_format(line, "%.6g", (double)losses[i]);
    else
      text_append(line, "null", 4);
  }
  text_append(line, "]", 1);
}

bool probe_write(const Probe *probe, Program *p, Log *log, int64_t step) {
  const PlanFunc *func = program_func(p, p->phase, "probe");
  if (!func)
    return false;
  Batch batch = program_batch(p, func);
  int64_t count = batch_fill_evaluation(&batch, probe->valid, p->plan->run.sequence, 0);
  program_fill(p, func, step);
  executor_run(p->executor, func);
  Text line = {0};
  text_format(&line, "{\"step\":%" PRId64 ",\"phase\":", step);
  text_json_string(&line, p->plan->phases[p->phase].name);
  append_layers(&line, p, func, "expert", expert_prefix, count);
  append_layers(&line, p, func, "experts", experts_prefix, count);
  append_losses(&line, p, func, count);
  text_append(&line, "}", 1);
  log_line(log, LOG_PROBE, &line);
  text_free(&line);
  return true;
}
