/* Reads a run directory for moec report. See report.h.
 *
 * A log's last line without its end is that of a run that is under way or was killed, and left out. A line that is
 * damaged is left out too, which is said once per file, with the first such line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/report.h"
#include "ir/ir.h"
#include "runtime/checkpoint.h"
#include "runtime/files.h"
#include "runtime/payload.h"
#include "runtime/program.h"

enum { MOST_EXPERTS = 65536 }; /* more in a log is damage */

typedef struct Reader {
  Arena *arena;
  Run *run;
  const char *path; /* of the file at hand */
  int damaged;      /* lines of it */
  double tokens;    /* cumulative, of the update before */
} Reader;

static void warn(Reader *r, const char *text) {
  fprintf(stderr, "%s\n", text);
  vec_push(r->arena, r->run->warnings, text);
}

/* NAN when absent, no number or beyond what any log holds. */
static double number_of(const cJSON *object, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(member) && fabs(member->valuedouble) < 1e40 ? member->valuedouble : NAN;
}

static double positive_of(const cJSON *object, const char *name) {
  double number = number_of(object, name);
  return number >= 0 ? number : NAN;
}

/* NULL when absent. */
static const char *text_of(const Reader *r, const cJSON *object, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsString(member) ? arena_intern(r->arena, member->valuestring) : NULL;
}

static double *numbers_of(const Reader *r, const cJSON *array) {
  double *numbers = NULL;
  const cJSON *item;
  cJSON_ArrayForEach(item, array) vec_push(r->arena, numbers, cJSON_IsNumber(item) ? item->valuedouble : NAN);
  return numbers;
}

static int *integers_of(const Reader *r, const cJSON *array) {
  int *numbers = NULL;
  const cJSON *item;
  cJSON_ArrayForEach(item, array) vec_push(r->arena, numbers, cJSON_IsNumber(item) ? item->valueint : -1);
  return numbers;
}

/* Every whole line to `read_line`, which returns what is wrong with it or NULL. */
static void read_lines(Reader *r, const char *file, const char *(*read_line)(Reader *, const cJSON *)) {
  r->path = arena_print(r->arena, "%s/%s", r->run->directory, file);
  r->damaged = 0;
  if (!file_exists(r->path))
    return;
  Bytes bytes = file_read("the run's log", r->path);
  int line = 1, first = 0;
  const char *first_problem = NULL;
  char *at = bytes.data;
  for (char *end; (end = memchr(at, '\n', (size_t)(bytes.data + bytes.size - at))); at = end + 1, line++) {
    *end = 0;
    cJSON *object = cJSON_ParseWithLength(at, (size_t)(end - at));
    const char *problem = cJSON_IsObject(object) ? read_line(r, object) : "no JSON object";
    if (problem && r->damaged++ == 0) {
      first = line;
      first_problem = problem;
    }
    cJSON_Delete(object);
  }
  free(bytes.data);
  if (r->damaged == 1)
    warn(r, arena_print(r->arena, "%s:%d: damaged: %s; the line is left out", r->path, first, first_problem));
  else if (r->damaged > 1)
    warn(r, arena_print(r->arena, "%s:%d: damaged: %s; this line and %d more are left out", r->path, first,
                        first_problem, r->damaged - 1));
}

/* ---------------------------------------------------------------- metrics.jsonl */

static RunPhase *phase_at(Reader *r, const char *name) {
  Run *run = r->run;
  for (uint32_t i = 0; i < vec_len(run->phases); i++)
    if (run->phases[i].name == name)
      return &run->phases[i];
  return NULL;
}

const RunPhase *report_phase(const Run *run, const char *name) {
  for (uint32_t i = 0; i < vec_len(run->phases); i++)
    if (strcmp(run->phases[i].name, name) == 0)
      return &run->phases[i];
  return NULL;
}

static const char *read_update(Reader *r, const cJSON *object, double step, const char *phase) {
  Run *run = r->run;
  Update u = {.step = step,
              .phase = phase,
              .version = text_of(r, object, "version"),
              .loss = number_of(object, "loss"),
              .ce = number_of(object, "ce"),
              .tau = positive_of(object, "tau"),
              .gradient_norm = number_of(object, "grad_norm"),
              .tokens_per_s = positive_of(object, "tokens_per_s"),
              .flops = positive_of(object, "flops"),
              .experts = positive_of(object, "experts_per_token")};
  double tokens = number_of(object, "tokens");
  u.seconds = (tokens - r->tokens) / u.tokens_per_s;
  if (isfinite(tokens))
    r->tokens = tokens;
  RunPhase *p = phase_at(r, phase);
  if (!p) {
    double before = vec_len(run->updates) ? vec_last(run->updates).flops : 0;
    vec_push(r->arena, run->phases,
             (RunPhase){.name = phase, .first = step, .flops_before = before, .memory = NAN, .crossover = NAN});
    p = &vec_last(run->phases);
  }
  p->last = step;
  vec_push(r->arena, run->updates, u);
  return NULL;
}

static const char *read_metrics(Reader *r, const cJSON *object) {
  double step = positive_of(object, "step");
  const char *phase = text_of(r, object, "phase"), *split = text_of(r, object, "split");
  if (!isfinite(step) || !phase)
    return "no \"step\" or no \"phase\"";
  if (!split)
    return read_update(r, object, step, phase);
  Run *run = r->run;
  vec_push(r->arena, run->evaluations,
           (Evaluation){.step = step,
                        .phase = phase,
                        .split = split,
                        .ppl = positive_of(object, "ppl"),
                        .ppl_gate = positive_of(object, "ppl_gate"),
                        .flops = vec_len(run->updates) ? vec_last(run->updates).flops : 0});
  return NULL;
}

/* ---------------------------------------------------------------- routing.jsonl */

static void know_layer(Reader *r, const char *layer) {
  for (uint32_t i = 0; i < vec_len(r->run->layers); i++)
    if (r->run->layers[i] == layer)
      return;
  vec_push(r->arena, r->run->layers, layer);
}

static const char *read_routing(Reader *r, const cJSON *object) {
  double step = positive_of(object, "step");
  const cJSON *load = cJSON_GetObjectItemCaseSensitive(object, "load"), *layer;
  const cJSON *more = cJSON_GetObjectItemCaseSensitive(object, "layers");
  if (!isfinite(step) || !cJSON_IsObject(load))
    return "no \"step\" or no \"load\"";
  cJSON_ArrayForEach(layer, load) {
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(more, layer->string);
    RoutingLine line = {.step = step,
                        .phase = text_of(r, object, "phase"),
                        .layer = arena_intern(r->arena, layer->string),
                        .load = numbers_of(r, layer),
                        .entropy = number_of(own, "entropy"),
                        .kept_weight = number_of(own, "kept_weight"),
                        .margin = number_of(own, "margin"),
                        .dropped = number_of(own, "dropped")};
    if (!line.load)
      return "a layer without loads";
    know_layer(r, line.layer);
    vec_push(r->arena, r->run->routing, line);
  }
  return NULL;
}

/* ---------------------------------------------------------------- probe.jsonl */

static const char *read_probe_header(Reader *r, const cJSON *object) {
  Probe *probe = &r->run->probe;
  const cJSON *text = cJSON_GetObjectItemCaseSensitive(object, "text"), *piece;
  probe->tokens = integers_of(r, cJSON_GetObjectItemCaseSensitive(object, "tokens"));
  probe->frequency = numbers_of(r, cJSON_GetObjectItemCaseSensitive(object, "frequency"));
  cJSON_ArrayForEach(piece, text)
      vec_push(r->arena, probe->text, cJSON_IsString(piece) ? arena_intern(r->arena, piece->valuestring) : "?");
  uint32_t count = vec_len(probe->tokens);
  if (vec_len(probe->frequency) != count)
    probe->frequency = NULL;
  if (vec_len(probe->text) != count)
    probe->text = NULL;
  return count ? NULL : "no probe tokens";
}

static const char *read_probe_layers(Reader *r, const cJSON *object, ProbeLine *line) {
  const cJSON *expert = cJSON_GetObjectItemCaseSensitive(object, "expert"), *layer;
  const cJSON *experts = cJSON_GetObjectItemCaseSensitive(object, "experts");
  cJSON_ArrayForEach(layer, expert) {
    ProbeLayer p = {.layer = arena_intern(r->arena, layer->string),
                    .expert = integers_of(r, layer),
                    .experts = integers_of(r, cJSON_GetObjectItemCaseSensitive(experts, layer->string))};
    if (vec_len(p.expert) != vec_len(r->run->probe.tokens))
      return "not one expert for every probe token";
    if (vec_len(p.experts) != vec_len(p.expert))
      p.experts = NULL;
    for (uint32_t t = 0; t < vec_len(p.expert); t++)
      if (p.expert[t] < -1 || p.expert[t] >= MOST_EXPERTS)
        return "an expert out of range";
    know_layer(r, p.layer);
    vec_push(r->arena, line->layers, p);
  }
  return NULL;
}

static const char *read_probe(Reader *r, const cJSON *object) {
  Probe *probe = &r->run->probe;
  if (cJSON_GetObjectItemCaseSensitive(object, "tokens"))
    return read_probe_header(r, object);
  if (!probe->tokens)
    return "a line before the probe tokens";
  ProbeLine line = {.step = positive_of(object, "step"), .phase = text_of(r, object, "phase")};
  if (!isfinite(line.step) || !line.phase)
    return "no \"step\" or no \"phase\"";
  line.loss = numbers_of(r, cJSON_GetObjectItemCaseSensitive(object, "loss"));
  if (vec_len(line.loss) != vec_len(probe->tokens))
    line.loss = NULL;
  const char *problem = read_probe_layers(r, object, &line);
  if (problem)
    return problem;
  if (line.layers || line.loss)
    vec_push(r->arena, probe->lines, line);
  return NULL;
}

/* ---------------------------------------------------------------- log.txt, tuning.json, memory.json, config.json */

/* "MODEL: MACHINE; steps ...", and at a phase's end "step N  PHASE  memory M bytes at most in arenas". */
static void read_log_line(Reader *r, const char *text, int line) {
  const char *colon = strstr(text, ": "), *semicolon = strstr(text, "; steps ");
  if (line == 1 && colon && semicolon && colon < semicolon)
    r->run->machine = arena_copy(r->arena, colon + 2, (size_t)(semicolon - colon - 2));
  const char *memory = strstr(text, "  memory "), *name = strstr(text, "  ");
  if (strncmp(text, "step ", 5) != 0 || !memory || name >= memory || !strstr(memory, " bytes at most in arenas"))
    return;
  char *phase = arena_copy(r->arena, name + 2, (size_t)(memory - name - 2));
  RunPhase *p = phase_at(r, arena_intern(r->arena, phase));
  if (p)
    p->memory = fmax(p->memory, strtod(memory + strlen("  memory "), NULL));
}

static void read_log(Reader *r) {
  char *path = arena_print(r->arena, "%s/log.txt", r->run->directory);
  if (!file_exists(path))
    return;
  Bytes bytes = file_read("the run's log", path);
  int line = 1;
  char *at = bytes.data;
  for (char *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
    *end = 0;
    read_log_line(r, at, line++);
  }
  free(bytes.data);
}

/* NULL, with a warning when the file is there and damaged. */
static cJSON *read_json(Reader *r, const char *file) {
  char *path = arena_print(r->arena, "%s/%s", r->run->directory, file);
  if (!file_exists(path))
    return NULL;
  Bytes bytes = file_read("the run's file", path);
  cJSON *root = cJSON_ParseWithLength(bytes.data, bytes.size);
  free(bytes.data);
  if (!root)
    warn(r, arena_print(r->arena, "%s: damaged: no JSON; the file is left out", path));
  return root;
}

static void read_tuning(Reader *r) {
  cJSON *root = read_json(r, "tuning.json");
  const cJSON *choice;
  cJSON_ArrayForEach(choice, cJSON_GetObjectItemCaseSensitive(root, "choices")) {
    const char *kind = text_of(r, choice, "kind"), *phase = text_of(r, choice, "phase");
    RunPhase *p = phase ? phase_at(r, phase) : NULL;
    if (!kind || strcmp(kind, "crossover") != 0 || !p)
      continue;
    p->crossover = number_of(choice, "experts_per_token");
    p->crossover_by = text_of(r, choice, "by");
  }
  cJSON_Delete(root);
}

static void read_memory(Reader *r) {
  cJSON *root = read_json(r, "memory.json"); /* lives as long as the process */
  const cJSON *phase;
  r->run->memory = cJSON_GetObjectItemCaseSensitive(root, "phases");
  cJSON_ArrayForEach(phase, r->run->memory) {
    RunPhase *p = phase_at(r, arena_intern(r->arena, phase->string));
    if (p)
      p->memory = fmax(p->memory, number_of(phase, "arena_peak"));
  }
}

static void read_config(Reader *r) {
  cJSON *root = read_json(r, "config.json");
  const char *model = text_of(r, root, "model");
  r->run->model = model ? model : "a model";
  r->run->config = cJSON_GetObjectItemCaseSensitive(root, "config"); /* lives as long as the process */
}

/* ---------------------------------------------------------------- the newest checkpoint, the trainer */

static double elements_of(const cJSON *tensor) {
  const cJSON *shape = cJSON_GetObjectItemCaseSensitive(tensor, "shape"), *dimension;
  double elements = cJSON_IsArray(shape) ? 1 : 0;
  cJSON_ArrayForEach(dimension, shape) elements *= dimension->valuedouble;
  return elements;
}

/* From the header of model.safetensors: its length in eight bytes, then JSON. */
static void count_parameters(Reader *r) {
  r->run->parameters = NAN;
  char *checkpoint = checkpoint_newest(r->run->directory);
  char *path = checkpoint ? arena_print(r->arena, "%s/model.safetensors", checkpoint) : NULL;
  if (!path || !file_exists(path))
    return;
  Mapping file = file_map("checkpoint", path);
  uint64_t size = 0;
  if (file.size >= sizeof size)
    memcpy(&size, file.data, sizeof size);
  cJSON *header = size && size <= file.size - sizeof size
                      ? cJSON_ParseWithLength((const char *)file.data + sizeof size, size)
                      : NULL;
  const cJSON *tensor;
  if (header)
    r->run->parameters = 0;
  else
    warn(r, arena_print(r->arena, "%s: damaged: no header; parameters are not counted", path));
  cJSON_ArrayForEach(tensor, header) r->run->parameters += elements_of(tensor);
  cJSON_Delete(header);
  file_unmap(file);
}

static cJSON *section_json(const Payload *payload, const char *name) {
  const PayloadSection *section = payload_find(payload, name);
  return section ? cJSON_ParseWithLength((const char *)section->data, section->size) : NULL;
}

/* The first trainer of the same model, the one that moec train left in the directory before those that were named. */
static void read_trainer(Reader *r, const char **trainers) {
  char *own = arena_print(r->arena, "%s/trainer", r->run->directory);
  char *ir_path = arena_print(r->arena, "%s/model.ir", r->run->directory);
  if (!file_exists(ir_path))
    return;
  Bytes ir = file_read("the run's model", ir_path);
  uint64_t hash = payload_ir_hash(ir.data, ir.size);
  free(ir.data);
  for (uint32_t i = 0; i <= vec_len(trainers) && !r->run->ledger; i++) {
    const char *path = i == 0 ? own : trainers[i - 1];
    if (i == 0 && (!file_exists(path) || !payload_present(path)))
      continue;
    Payload *payload = payload_open(path);
    const PayloadSection *model = payload_find(payload, SECTION_IR);
    if (!model || payload_ir_hash(model->data, model->size) != hash)
      continue;
    r->run->ledger = section_json(payload, SECTION_LEDGER);
    bool gpu = strncmp(r->run->machine, "cuda,", 5) == 0;
    cJSON *own_decisions = gpu ? cJSON_DetachItemFromObjectCaseSensitive(r->run->ledger, "cuda") : NULL;
    if (own_decisions) /* a trainer for both targets */
      r->run->ledger = own_decisions;
    r->run->forecast = section_json(payload, gpu ? SECTION_FORECAST_CUDA : SECTION_FORECAST_CPU);
  }
}

/* ---------------------------------------------------------------- all of it */

/* The last part of the path; the whole path when another run has that already. */
static const char *name_run(const Report *report, const char *directory) {
  size_t length = strlen(directory);
  while (length > 1 && directory[length - 1] == '/')
    length--;
  char *whole = arena_copy(report->arena, directory, length), *slash = strrchr(whole, '/');
  const char *name = slash && slash[1] ? slash + 1 : whole;
  for (uint32_t i = 0; i < vec_len(report->runs); i++)
    if (strcmp(report->runs[i].name, name) == 0)
      return whole;
  return name;
}

Run report_read(Report *report, const char *directory, const char **trainers) {
  Run run = {.directory = directory, .name = name_run(report, directory), .machine = "an unknown machine"};
  run.index = (int)vec_len(report->runs);
  Reader r = {.arena = report->arena, .run = &run};
  if (!directory_exists(directory))
    ir_fail((Loc){directory, 0}, "no such directory; a run directory was expected, as TRAINER train --out writes it");
  if (!file_exists(arena_print(r.arena, "%s/metrics.jsonl", directory)))
    ir_fail((Loc){directory, 0}, "no run directory: it holds no metrics.jsonl");
  read_config(&r);
  read_lines(&r, "metrics.jsonl", read_metrics);
  if (!run.updates)
    ir_fail((Loc){arena_print(r.arena, "%s/metrics.jsonl", directory), 0}, "no update is recorded: nothing to report");
  read_lines(&r, "routing.jsonl", read_routing);
  read_lines(&r, "probe.jsonl", read_probe);
  read_log(&r);
  read_tuning(&r);
  read_memory(&r);
  count_parameters(&r);
  read_trainer(&r, trainers);
  return run;
}
