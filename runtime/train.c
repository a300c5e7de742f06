/* The command `train`: runs updates, evaluations, transitions and checkpoints in the order of the steps.
 *
 * In: the plan's phases, a data directory. Out: a run directory (design section 1). Holds: after update n everything on
 * disk is a function of (trainer, data, seed, n, conditions); the loop's state is `Trainer`, all of it in a checkpoint.
 *
 * At step n, in this order: evaluation, probe, checkpoint; then, before update n+1 of the next phase, the transition,
 * its evaluation and probe. So a checkpoint at a boundary holds the parameters before the transition, which a resume
 * runs again.
 *
 * A device that runs ahead never waits for the host within or between updates: the host reads what a micro-batch gave
 * while the update behind it runs, and writes an update's line while the next one's micro-batch runs. What happens
 * between updates finds everything done and written.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint.h"
#include "runtime/commands.h"
#include "runtime/cpu/cpu.h"
#include "runtime/error.h"
#include "runtime/evaluate.h"
#include "runtime/memory.h"
#include "runtime/memory_record.h"
#include "runtime/options.h"
#include "runtime/probe.h"
#include "runtime/step_sums.h"
#include "runtime/token_balance.h"
#include "runtime/tuning.h"

typedef struct TrainOptions {
  const char *data, *out, *device, *cpu, *tuning;
  int64_t steps, eval_every, checkpoint_every, routing_every, probe_every, seed; /* steps, seed: -1 when not given */
  double flops; /* the run ends at the first update whose FLOPs, all together, reach this; 0: no such end */
  bool resume, profile, tune;
} TrainOptions;

/* An update that may still run, and what its line says beside the norm of the gradient. */
typedef struct LastUpdate {
  const PlanFunc *func; /* NULL: it is done and written */
  int64_t step;         /* updates before it */
  const char *version;
  Sums sums;
  double flops, experts;
} LastUpdate;

typedef struct Trainer {
  TrainOptions options;
  Program *program;
  TokenFile *train, *valid;
  Probe probe;
  DataOrder order;
  Log *log;
  Text line;
  int64_t step, last; /* updates done; the last one */
  double flops;
  Tuning tuning;
  MemoryRecord memory;
  const char *version;
  double density; /* experts per token of the last update; negative: none in this phase yet */
  LastUpdate update;
  double clock;            /* when the update before this one was done, or this one began */
  double seconds_per_step; /* smoothed, for the time left */
  const char *checkpoint;  /* the last one written or read; NULL: none */
} Trainer;

static const char *phase_name(const Trainer *t) {
  return t->program->plan->phases[t->program->phase].name;
}

/* Whether the budget of FLOPs is used up. */
static bool is_spent(const Trainer *t) {
  return t->options.flops > 0 && t->flops >= t->options.flops;
}

/* Updates that are still to come; with a budget of FLOPs an estimate by those so far. */
static int64_t steps_left(const Trainer *t) {
  if (t->options.flops <= 0 || t->flops <= 0)
    return t->last - t->step;
  double left = (t->options.flops - t->flops) / (t->flops / (double)t->step);
  return left < 0 ? 0 : left < (double)(t->last - t->step) ? (int64_t)left + 1 : t->last - t->step;
}

/* ---------------------------------------------------------------- one update */

/* At the first update of a phase with two versions, with --tune: where they cost the same on this machine. */
static void tune_phase(Trainer *t) {
  TuningChoice *choice = tuning_find(&t->tuning, phase_name(t));
  if (!t->options.tune || !choice || choice->measured || t->density >= 0)
    return;
  bool found = tuning_measure(choice, t->program, t->train, &t->order, t->step);
  log_note(t->log,
           "step %" PRId64 "  %s  timed: packed %.4g s at %.2f experts per token, %.4g s at %.2f; wide %.4g s; %s %.2f",
           t->step, phase_name(t), choice->packed.seconds, choice->packed.experts, choice->thin.seconds,
           choice->thin.experts, choice->wide.seconds,
           found ? "wide is faster above" : "which shows no crossover: the cost model's stays,", choice->crossover);
  tuning_write(&t->tuning, t->options.out);
}

/* The one training function of the phase, or, where it has versions, the one for the density that the previous update
 * measured: wide above 1.05 times the crossover, packed below 0.95 times, otherwise as before. A phase begins packed.
 */
static const PlanFunc *choose_version(Trainer *t) {
  Program *p = t->program;
  const PlanFunc *single = program_func(p, p->phase, "train");
  const PlanFunc *packed = program_func(p, p->phase, "train.packed"), *wide = program_func(p, p->phase, "train.wide");
  if (single) {
    t->version = "single";
    return single;
  }
  const TuningChoice *choice = tuning_find(&t->tuning, phase_name(t));
  if (!packed || !wide || !choice)
    runtime_fail(FAIL_BUG, "phase %s has no function train", phase_name(t));
  bool was_wide = t->density >= 0 && strcmp(t->version, "wide") == 0;
  bool now_wide = t->density > 1.05 * choice->crossover || (was_wide && t->density >= 0.95 * choice->crossover);
  t->version = now_wide ? "wide" : "packed";
  return now_wide ? wide : packed;
}

static Batch start_micro_batch(Trainer *t, const PlanFunc *func, int64_t micro) {
  Program *p = t->program;
  const PlanRun *run = &p->plan->run;
  Batch batch = program_batch(p, func);
  batch_fill_training(&batch, t->train, &t->order, t->step, run->batch, micro, run->accumulate);
  program_fill(p, func, t->step);
  program_set_float(p, func, "inverse_targets", (float)(1.0 / (double)(run->batch * run->sequence)));
  executor_start(p->executor, func);
  return batch;
}

/* After `step` updates. */
static _Noreturn void diverged(Trainer *t, int64_t step, const char *what, double value) {
  log_end_line(t->log);
  log_sync(t->log);
  runtime_fail(FAIL_USER, "step %" PRId64 " (phase %s): %s is %f; training stops, the last checkpoint is %s", step,
               phase_name(t), what, value, t->checkpoint ? t->checkpoint : "not there yet");
}

static const PlanFunc *start_update(Trainer *t) {
  Program *p = t->program;
  char *name = string_format("%s.update", p->arenas->table->name);
  const PlanFunc *update = plan_func(p->plan, name);
  if (!update)
    runtime_fail(FAIL_BUG, "the plan has no function %s", name);
  free(name);
  program_fill(p, update, t->step);
  executor_start(p->executor, update);
  return update;
}

static void write_schedule(Text *line, const char *key, const PlanSchedule *schedule, int64_t step) {
  text_format(line, ",\"%s\":", key);
  if (schedule)
    text_json_float(line, plan_schedule_value(schedule, step));
  else
    text_append(line, "null", 4);
}

static void write_metrics(Trainer *t, const LastUpdate *u, float grad_norm, double seconds) {
  const Program *p = t->program;
  const Sums *sums = &u->sums;
  const PlanRun *run = &p->plan->run;
  int64_t per_step = run->batch * run->sequence;
  Text *line = &t->line;
  text_format(line, "{\"step\":%" PRId64 ",\"phase\":", u->step + 1);
  text_json_string(line, phase_name(t));
  text_format(line, ",\"loss\":");
  text_json_double(line, sums_find(sums, "loss", NAN));
  text_format(line, ",\"ce\":");
  text_json_double(line, sums_find(sums, "ce", NAN));
  write_schedule(line, "lr", plan_schedule(p->plan, "lr"), u->step);
  write_schedule(line, "tau", program_schedule(p, p->phase, "tau"), u->step - p->phase_start[p->phase]);
  text_format(line, ",\"grad_norm\":");
  text_json_float(line, grad_norm);
  text_format(line, ",\"tokens\":%" PRId64 ",\"tokens_per_s\":%.1f,\"flops\":", (u->step + 1) * per_step,
              (double)per_step / seconds);
  text_json_double(line, u->flops);
  text_format(line, ",\"experts_per_token\":");
  text_json_double(line, u->experts);
  text_format(line, ",\"version\":\"%s\"", u->version);
  sums_write_means(line, sums, run->accumulate);
  text_append(line, "}", 1);
  log_line(t->log, LOG_METRICS, line);
}

static void write_routing(Trainer *t, const LastUpdate *u) {
  Text *line = &t->line;
  if (routed_layers(u->sums.func) == 0 || u->step % t->options.routing_every != 0)
    return;
  text_format(line, "{\"step\":%" PRId64 ",\"phase\":", u->step + 1);
  text_json_string(line, phase_name(t));
  sums_write_routing(line, &u->sums);
  text_append(line, "}", 1);
  log_line(t->log, LOG_ROUTING, line);
}

static void show_progress(Trainer *t, const LastUpdate *u, double seconds) {
  const PlanRun *run = &t->program->plan->run;
  t->seconds_per_step = t->seconds_per_step > 0 ? 0.9 * t->seconds_per_step + 0.1 * seconds : seconds;
  int64_t steps = steps_left(t), left = (int64_t)(t->seconds_per_step * (double)steps);
  log_progress(
      t->log,
      "step %" PRId64 "/%" PRId64 "  %s  loss %.4f  %.2f experts/token  %.0f tokens/s  %" PRId64 ":%02d:%02d left",
      u->step + 1, t->step + steps, phase_name(t), sums_find(&u->sums, "loss", NAN), u->experts,
      (double)(run->batch * run->sequence) / t->seconds_per_step, left / 3600, (int)(left / 60 % 60), (int)(left % 60));
}

/* The last update is done, and its lines are written. */
static void finish_update(Trainer *t) {
  LastUpdate *u = &t->update;
  Executor *executor = t->program->executor;
  if (!u->func)
    return;
  executor_finish(executor, u->func);
  double now = log_seconds(), seconds = now - t->clock;
  float grad_norm = executor_scalar(executor, u->func, "grad_norm");
  if (!isfinite(grad_norm))
    diverged(t, u->step + 1, "the norm of the gradient", (double)grad_norm);
  write_metrics(t, u, grad_norm, seconds);
  write_routing(t, u);
  show_progress(t, u, seconds);
  sums_free(&u->sums);
  u->func = NULL;
  t->clock = now;
}

static void finish_micro_batch(Trainer *t, const PlanFunc *func, const Batch *batch, Sums *sums) {
  executor_finish(t->program->executor, func);
  sums_add(sums, t->program->executor, batch);
}

/* Runs the micro-batches of an update and starts the update. */
static const PlanFunc *run_micro_batches(Trainer *t, const PlanFunc *func, Sums *sums) {
  Executor *executor = t->program->executor;
  int64_t count = t->program->plan->run.accumulate;
  bool ahead = executor_runs_ahead(executor);
  Batch batch = {0};
  for (int64_t micro = 0; micro < count; micro++) {
    batch = start_micro_batch(t, func, micro);
    finish_update(t); /* the one before, while this micro-batch runs or is to run */
    if (!ahead || micro + 1 < count)
      finish_micro_batch(t, func, &batch, sums);
    executor_sum_gradients(executor, micro, count);
  }
  const PlanFunc *update = start_update(t);
  if (ahead)
    finish_micro_batch(t, func, &batch, sums);
  return update;
}

static void run_step(Trainer *t) {
  const PlanRun *run = &t->program->plan->run;
  Executor *executor = t->program->executor;
  tune_phase(t);
  if (!t->update.func)
    t->clock = log_seconds();
  const PlanFunc *func = choose_version(t);
  Sums sums = sums_new(func);
  const PlanFunc *update = run_micro_batches(t, func, &sums);
  tuning_keep(&t->tuning, executor, t->options.out, t->log);
  double loss = sums_find(&sums, "loss", NAN), pairs = sums_find(&sums, "pairs", 0);
  if (!isfinite(loss))
    diverged(t, t->step + 1, "the loss", loss);
  int layers = routed_layers(func);
  t->density = layers > 0 ? pairs / ((double)(run->batch * run->sequence) * layers) : 1;
  t->flops += update->flops + (double)run->accumulate * func->flops + pairs * func->flops_per_pair;
  t->update = (LastUpdate){update, t->step, t->version, sums, t->flops, t->density};
  t->step++;
  if (!executor_runs_ahead(executor))
    finish_update(t);
}

/* ---------------------------------------------------------------- between updates */

static void run_evaluation(Trainer *t) {
  Evaluation e = evaluate(t->program, t->valid, t->step);
  tuning_keep(&t->tuning, t->program->executor, t->options.out, t->log);
  evaluation_print(&t->line, t->program, &e, "valid", t->step);
  log_line(t->log, LOG_METRICS, &t->line);
  if (isnan(e.ce_gate))
    log_note(t->log, "step %" PRId64 "  %s  valid ppl %.3f", t->step, phase_name(t), exp(e.ce));
  else
    log_note(t->log, "step %" PRId64 "  %s  valid ppl %.3f  with the training gate %.3f", t->step, phase_name(t),
             exp(e.ce), exp(e.ce_gate));
}

/* With --probe-every: before the first update, so that what the first line lacks is said at once. */
static void begin_probe(const Trainer *t) {
  if (t->options.probe_every == 0)
    return;
  if (probe_possible(t->program))
    probe_begin(&t->probe, t->program, t->log);
  else
    log_note(t->log, "--probe-every=%" PRId64 ": no phase of this model has gates, there is nothing to probe",
             t->options.probe_every);
}

static void run_probe(Trainer *t) {
  if (t->options.probe_every > 0 && probe_write(&t->probe, t->program, t->log, t->step))
    tuning_keep(&t->tuning, t->program->executor, t->options.out, t->log);
}

static void conditions(const Trainer *t, CheckpointState *s) {
  const Program *p = t->program;
  s->device = executor_device(p->executor);
  s->cpu_level = executor_level(p->executor);
  s->library = executor_library(p->executor);
  s->threads = executor_threads(p->executor);
  s->data_ranks = s->expert_ranks = 1;
  s->passes = program_passes(p);
}

/* A checkpoint is something to go on from. The loss shows what the update before did, so the last update's parameters
 * are looked at here. */
static void check_parameters(Trainer *t) {
  Arenas *arenas = t->program->arenas;
  const float *values = arenas_read(arenas, ARENA_PARAM);
  for (int i = 0; i < arenas->table->param_count; i++) {
    const PlanParam *param = &arenas->table->params[i];
    for (int64_t k = 0; k < param->shape.elements; k++)
      if (!isfinite(values[param->offset + k]))
        diverged(t, t->step, string_format("element %" PRId64 " of parameter %s", k, param->name),
                 (double)values[param->offset + k]);
  }
}

static void run_checkpoint(Trainer *t) {
  const Program *p = t->program;
  check_parameters(t);
  CheckpointState s = {.step = t->step,
                       .phase = phase_name(t),
                       .next_phase = p->plan->phases[program_phase_at(p, t->step)].name,
                       .seed = p->seed,
                       .sequences = t->step * p->plan->run.batch,
                       .train_tokens = t->train->count,
                       .flops = t->flops,
                       .flops_budget = t->options.flops,
                       .version = t->version,
                       .density = t->density,
                       .ir_hash = p->ir_hash,
                       .tokenizer_hash = t->train->tokenizer_hash};
  conditions(t, &s);
  log_note(t->log, "step %" PRId64 "  %s  checkpoint step-%08" PRId64, t->step, s.phase, t->step);
  memcpy(s.log_offset, t->log->offset, sizeof s.log_offset);
  log_sync(t->log);
  memory_record_write(&t->memory, p);
  checkpoint_write(t->options.out, p, &s);
  t->checkpoint = checkpoint_newest(t->options.out);
}

/* At the end of a phase: the most it held, its transition included, beside what moec forecast says. */
static void note_memory(const Trainer *t) {
  log_note(t->log, "step %" PRId64 "  %s  memory %" PRId64 " bytes at most in arenas", t->step, phase_name(t),
           memory_peak());
  memory_peak_restart();
}

static void run_transition(Trainer *t) {
  note_memory(t);
  log_note(t->log, "step %" PRId64 "  phase %s ends, %s begins", t->step, phase_name(t),
           t->program->plan->phases[t->program->phase + 1].name);
  const PlanTable *before = t->program->arenas->table;
  program_transition(t->program, t->step);
  if (t->program->arenas->table != before)
    token_balance(t->program->arenas, before, t->train);
  t->density = -1;
  run_evaluation(t);
  run_probe(t);
}

static bool due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

static void train_loop(Trainer *t, bool resumed) {
  const Program *p = t->program;
  bool fresh = !resumed;
  for (;; fresh = true) {
    bool ends = t->step == t->last || is_spent(t), boundary = program_phase_at(p, t->step) != p->phase;
    bool start = t->step == 0 && !ends;
    if (fresh && !start) {
      bool evaluates = ends || boundary || due(t->step, t->options.eval_every),
           probes = ends || boundary || due(t->step, t->options.probe_every),
           writes = ends || boundary || due(t->step, t->options.checkpoint_every);
      if (evaluates || probes || writes)
        finish_update(t);
      if (evaluates)
        run_evaluation(t);
      if (probes)
        run_probe(t);
      if (writes)
        run_checkpoint(t);
    }
    if (ends) {
      note_memory(t);
      return;
    }
    if (boundary)
      run_transition(t);
    run_step(t);
  }
}

/* ---------------------------------------------------------------- starting */

/* The files of a run that do not change; config.json, which marks the directory as a run, comes last. */
static void write_constants(const Trainer *t) {
  const TrainOptions *o = &t->options;
  char *checkpoints = string_format("%s/checkpoints", o->out), *from = string_format("%s/tokenizer", o->data),
       *to = string_format("%s/tokenizer", o->out);
  directory_create(checkpoints);
  directory_copy(from, to);
  tuning_write(&t->tuning, o->out);
  const PayloadSection *ir = payload_section(t->program->payload, SECTION_IR),
                       *config = payload_section(t->program->payload, SECTION_CONFIG);
  const struct {
    const char *name;
    const void *data;
    size_t size;
  } files[] = {{SECTION_IR, ir->data, ir->size}, {SECTION_CONFIG, config->data, config->size}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char *path = string_format("%s/%s", o->out, files[i].name);
    file_replace(path, files[i].data, files[i].size);
    free(path);
  }
  free(checkpoints);
  free(from);
  free(to);
}

/* Of all phases that the run will come to, from `phase` on; -1: unknown to this trainer, which is said later. */
static void expect_memory(Trainer *t, int phase) {
  if (phase >= 0)
    program_expect_memory(t->program, phase, program_phase_at(t->program, t->last - 1));
}

static void start_fresh(Trainer *t) {
  static const int64_t nothing[LOG_COUNT];
  if (t->options.tuning)
    tuning_read(&t->tuning, t->options.tuning);
  program_start(t->program, t->options.seed < 0 ? 1 : (uint64_t)t->options.seed);
  tuning_start(&t->tuning, t->program->executor);
  expect_memory(t, 0);
  program_initialize(t->program); /* a machine that is too small leaves no run directory */
  token_balance(t->program->arenas, NULL, t->train);
  write_constants(t);
  t->log = log_open(t->options.out, nothing);
  t->version = "single";
  t->density = -1;
}

static void warn_text(Trainer *t, const char *what, const char *before, const char *now) {
  if (strcmp(before ? before : "-", now ? now : "-") != 0)
    log_note(t->log, "warning: the checkpoint was written with %s %s, this is %s: the bits will differ", what,
             before ? before : "-", now ? now : "-");
}

static void warn_conditions(Trainer *t, const CheckpointState *before) {
  CheckpointState now = {0};
  char threads[2][32];
  conditions(t, &now);
  snprintf(threads[0], sizeof threads[0], "%" PRId64, before->threads);
  snprintf(threads[1], sizeof threads[1], "%" PRId64, now.threads);
  warn_text(t, "device", before->device, now.device);
  warn_text(t, "CPU level", before->cpu_level, now.cpu_level);
  warn_text(t, "library", before->library, now.library);
  warn_text(t, "threads", threads[0], threads[1]);
  warn_text(t, "passes", before->passes, now.passes);
}

static void start_resumed(Trainer *t, const char *path) {
  Program *p = t->program;
  CheckpointState s = checkpoint_read_state(path);
  if (s.ir_hash != p->ir_hash)
    runtime_fail(FAIL_USER,
                 "%s: written by a trainer of another model (hash of the IR %016" PRIx64
                 ", this trainer's is %016" PRIx64 ")",
                 path, s.ir_hash, p->ir_hash);
  if (s.tokenizer_hash != t->train->tokenizer_hash || s.train_tokens != t->train->count)
    runtime_fail(FAIL_USER,
                 "%s: other data than the run's: %" PRId64 " tokens, the checkpoint has seen a file of %" PRId64,
                 t->train->path, t->train->count, s.train_tokens);
  if (t->options.seed >= 0 && (uint64_t)t->options.seed != s.seed)
    runtime_fail(FAIL_USER, "--seed=%" PRId64 ": the run's seed is %" PRIu64 " and cannot change", t->options.seed,
                 s.seed);
  program_start(p, s.seed);
  expect_memory(t, program_phase_named(p, s.phase));
  checkpoint_load(path, p, &s, true);
  tuning_read(&t->tuning, string_format("%s/tuning.json", t->options.out));
  tuning_start(&t->tuning, p->executor);
  memory_record_read(&t->memory, p->plan);
  t->log = log_open(t->options.out, s.log_offset);
  t->step = s.step;
  t->flops = s.flops;
  t->version = s.version;
  t->density = s.density;
  t->checkpoint = path;
  warn_conditions(t, &s);
}

/* Whether a checkpoint was found and resumed from. */
static bool start(Trainer *t) {
  const char *out = t->options.out;
  char *config = string_format("%s/%s", out, SECTION_CONFIG), *newest = checkpoint_newest(out);
  bool holds_run = newest || file_exists(config);
  if (t->options.resume && !directory_exists(out))
    runtime_fail(FAIL_USER, "--resume: no run directory %s", out);
  if (!t->options.resume && holds_run)
    runtime_fail(FAIL_USER, "%s holds a run already: --resume continues it, another --out begins a new one", out);
  free(config);
  if (newest) {
    start_resumed(t, newest);
    return true;
  }
  start_fresh(t);
  if (t->options.resume)
    log_note(t->log, "no checkpoint in %s yet: the run begins anew", out);
  return false;
}

static void open_data(Trainer *t) {
  const PlanRun *run = &t->program->plan->run;
  t->train = token_file_open(t->options.data, "train");
  t->valid = token_file_open(t->options.data, "valid");
  token_file_check(t->train, run->vocabulary, run->sequence + 1);
  token_file_check(t->valid, run->vocabulary, 2);
  t->probe = (Probe){t->train, t->valid, string_format("%s/tokenizer", t->options.data)};
  if (t->valid->tokenizer_hash != t->train->tokenizer_hash)
    runtime_fail(FAIL_USER, "%s: made by another tokenizer than %s", t->valid->path, t->train->path);
}

static TrainOptions parse(int argc, char **argv) {
  TrainOptions o = {.steps = -1, .eval_every = 500, .checkpoint_every = 1000, .routing_every = 10, .seed = -1};
  const Option options[] = {{"--data", OPTION_TEXT, &o.data, 0},
                            {"--out", OPTION_TEXT, &o.out, 0},
                            {"--device", OPTION_TEXT, &o.device, 0},
                            {"--cpu", OPTION_TEXT, &o.cpu, 0},
                            {"--steps", OPTION_INTEGER, &o.steps, 0},
                            {"--flops", OPTION_NUMBER, &o.flops, 0},
                            {"--eval-every", OPTION_INTEGER, &o.eval_every, 0},
                            {"--checkpoint-every", OPTION_INTEGER, &o.checkpoint_every, 0},
                            {"--routing-every", OPTION_INTEGER, &o.routing_every, 1},
                            {"--probe-every", OPTION_INTEGER, &o.probe_every, 0},
                            {"--seed", OPTION_INTEGER, &o.seed, 0},
                            {"--tune", OPTION_FLAG, &o.tune, 0},
                            {"--tuning", OPTION_TEXT, &o.tuning, 0},
                            {"--resume", OPTION_FLAG, &o.resume, 0},
                            {"--profile", OPTION_FLAG, &o.profile, 0}};
  options_parse("train", argc, argv, options, sizeof options / sizeof *options, NULL);
  if (o.resume && o.tuning)
    runtime_fail(FAIL_USAGE, "train: --tuning is for a new run; a resumed one keeps its own tuning.json");
  if (!o.data || !o.out)
    runtime_fail(FAIL_USAGE, "train: %s is missing", o.data ? "--out R" : "--data D");
  return o;
}

/* The first line of the log: what runs where. */
static void note_start(const Trainer *t) {
  const Program *p = t->program;
  const Executor *executor = p->executor;
  bool gpu = strcmp(executor_device(executor), "cuda") == 0;
  const char *end = t->last == INT64_MAX ? "" : string_format(" to %" PRId64, t->last);
  if (t->options.flops > 0)
    end = string_format("%s until %.4g FLOPs", end, t->options.flops);
  log_note(t->log, "%s: %s, %s%s, %s; steps %" PRId64 "%s, seed %" PRIu64, p->plan->module, executor_device(executor),
           executor_level(executor), gpu ? "" : string_format(", %d threads", executor_threads(executor)),
           executor_library(executor), t->step, end, p->seed);
  if (executor_start_note(executor))
    log_note(t->log, "%s", executor_start_note(executor));
  if (program_no_gpu(p))
    log_note(t->log, "on the CPU, since for --device=cuda %s", program_no_gpu(p));
}

int trainer_train(int argc, char **argv) {
  Trainer t = {
      .options = parse(argc, argv),
  };
  cpu_choose("train", t.options.cpu);
  t.program = program_open("train", t.options.device);
  const PlanRun *run = &t.program->plan->run;
  open_data(&t);
  t.tuning = tuning_new(t.program->plan);
  t.memory = memory_record_new(t.options.out, t.program->plan);
  t.last = t.options.steps >= 0 ? t.options.steps : t.options.flops > 0 ? INT64_MAX : run->steps;
  bool resumed = start(&t);
  t.order = data_order(t.train, run->sequence, t.program->seed);
  note_start(&t);
  if (t.train->vocabulary < run->vocabulary)
    log_note(t.log, "the data has %" PRId64 " token ids, the model %" PRId64 ": some are never used",
             t.train->vocabulary, run->vocabulary);
  if (resumed && is_spent(&t)) {
    log_note(t.log, "step %" PRId64 ": the budget of FLOPs is used up already", t.step);
    return 0;
  }
  if (t.step > t.last || (resumed && t.step == t.last)) {
    log_note(t.log, "step %" PRId64 " is done already", t.last);
    return 0;
  }
  begin_probe(&t);
  executor_set_profile(t.program->executor, t.options.profile);
  train_loop(&t, resumed);
  executor_print_profile(t.program->executor, stdout);
  return 0;
}
