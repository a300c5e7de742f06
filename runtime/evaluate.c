/* See evaluate.h; and the command `eval`. */
#include "runtime/evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint.h"
#include "runtime/commands.h"
#include "runtime/cpu/cpu.h"
#include "runtime/error.h"
#include "runtime/options.h"
#include "runtime/tuning.h"

int routed_layers(const PlanFunc *func) {
  int layers = 0;
  for (int i = 0; i < func->result_count; i++)
    layers += strncmp(func->results[i].label, "load.", 5) == 0;
  return layers;
}

/* Sum of the cross-entropy over the split by `func`; adds the selected pairs to *pairs. */
static double run_over(Program *p, const PlanFunc *func, const TokenFile *file, int64_t step, double *pairs) {
  int64_t first = 0, taken;
  double sum = 0;
  bool routed = plan_result(func, "pairs", NULL) != NULL;
  for (;; first += taken) {
    Batch batch = program_batch(p, func);
    taken = batch_fill_evaluation(&batch, file, p->plan->run.sequence, first);
    if (taken == 0)
      break;
    program_fill(p, func, step);
    program_set_float(p, func, "inverse_targets", 1);
    executor_run(p->executor, func);
    sum += (double)executor_scalar(p->executor, func, "ce");
    if (routed)
      *pairs += (double)executor_scalar(p->executor, func, "pairs");
  }
  if (first != file->count - 1)
    runtime_fail(FAIL_BUG, "evaluation took %" PRId64 " of %" PRId64 " targets of %s", first, file->count - 1,
                 file->path);
  return sum;
}

Evaluation evaluate(Program *p, const TokenFile *file, int64_t step) {
  token_file_check(file, p->plan->run.vocabulary, 2);
  const PlanFunc *own = program_func(p, p->phase, "eval"), *gate = program_func(p, p->phase, "eval_gate");
  if (!own)
    runtime_fail(FAIL_BUG, "phase %s has no function eval", p->plan->phases[p->phase].name);
  double pairs = 0, unused = 0;
  Evaluation e = {file->count - 1, 0, NAN, NAN};
  e.ce = run_over(p, own, file, step, &pairs) / (double)e.targets;
  if (gate)
    e.ce_gate = run_over(p, gate, file, step, &unused) / (double)e.targets;
  int layers = routed_layers(own);
  if (layers > 0)
    e.experts = pairs / ((double)e.targets * layers);
  return e;
}

void evaluation_print(Text *line, const Program *p, const Evaluation *e, const char *split, int64_t step) {
  text_format(line, "{\"step\":%" PRId64 ",\"phase\":", step);
  text_json_string(line, p->plan->phases[p->phase].name);
  text_format(line, ",\"split\":\"%s\",\"ce\":", split);
  text_json_double(line, e->ce);
  text_format(line, ",\"ppl\":");
  text_json_double(line, exp(e->ce));
  if (!isnan(e->ce_gate) || program_func(p, p->phase, "eval_gate")) {
    text_format(line, ",\"ppl_gate\":");
    text_json_double(line, exp(e->ce_gate));
  }
  text_format(line, ",\"tokens\":%" PRId64, e->targets);
  if (!isnan(e->experts)) {
    text_format(line, ",\"experts_per_token\":");
    text_json_double(line, e->experts);
  }
  text_format(line, "}");
}

int trainer_eval(int argc, char **argv) {
  const char *data = NULL, *checkpoint = NULL, *split = NULL, *device = NULL, *cpu = NULL;
  const Option options[] = {{"--data", OPTION_TEXT, &data, 0},
                            {"--checkpoint", OPTION_TEXT, &checkpoint, 0},
                            {"--split", OPTION_TEXT, &split, 0},
                            {"--device", OPTION_TEXT, &device, 0},
                            {"--cpu", OPTION_TEXT, &cpu, 0}};
  options_parse("eval", argc, argv, options, sizeof options / sizeof *options, NULL);
  if (!data || !checkpoint)
    runtime_fail(FAIL_USAGE, "eval: %s is missing", data ? "--checkpoint C" : "--data D");
  static const char *const all[] = {"valid", "test", "train"};
  for (int i = 0; split && strcmp(split, all[i]) != 0; i++)
    if (i == 2)
      runtime_fail(FAIL_USAGE, "eval: --split=%s: expected valid, test or train", split);
  cpu_choose("eval", cpu);
  Program *p = program_open("eval", device);
  char *path = checkpoint_find(checkpoint);
  CheckpointState state = checkpoint_read_state(path);
  program_start(p, state.seed);
  tuning_take_choices(p, checkpoint_run(path));
  checkpoint_load(path, p, &state, false);
  for (int i = 0; i < 2; i++) {
    const char *name = split ? split : all[i];
    char *file_path = token_file_path(data, name);
    bool absent = !split && i > 0 && !file_exists(file_path);
    free(file_path);
    if (absent || (split && i > 0))
      continue;
    TokenFile *file = token_file_open(data, name);
    if (file->tokenizer_hash != state.tokenizer_hash)
      runtime_fail(FAIL_USER, "%s: made by another tokenizer than the data of this checkpoint", file->path);
    Evaluation e = evaluate(p, file, state.step);
    Text line = {0};
    evaluation_print(&line, p, &e, name, state.step);
    puts(line.data);
    text_free(&line);
  }
  return 0;
}
