/* See measured.h.
 *
 * In: metrics.jsonl (a line per update), log.txt (machine, memory of each phase), tuning.json, model.ir of a run. Out:
 * sums by phase. FLOPs are cumulative in the lines: a phase's are the difference to the last line before it. A last
 * line without its end is that of a run that is under way or was killed, and left out.
 */
#include "frontend/measured.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/files.h"
#include "runtime/payload.h"

typedef struct Reader {
  Arena *arena;
  Measured *measured;
  const char *path;     /* of the file at hand */
  double flops, tokens; /* of the line before */
} Reader;

static _Noreturn void damaged(const Reader *r, int64_t line, const char *what) {
  ir_fail((Loc){r->path, (int)line}, "damaged: %s", what);
}

static double number_of(const Reader *r, int64_t line, const cJSON *object, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
  if (!cJSON_IsNumber(member))
    damaged(r, line, arena_print(r->arena, "no number \"%s\"", name));
  return member->valuedouble;
}

static const char *text_of(const Reader *r, int64_t line, const cJSON *object, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
  if (!cJSON_IsString(member))
    damaged(r, line, arena_print(r->arena, "no text \"%s\"", name));
  return member->valuestring;
}

static PhaseMeasured *find_phase(const Reader *r, int64_t line, const char *name) {
  for (uint32_t i = 0; i < vec_len(r->measured->phases); i++)
    if (strcmp(r->measured->phases[i].phase->name, name) == 0)
      return &r->measured->phases[i];
  damaged(r, line, arena_print(r->arena, "phase %s is none of the model's", name));
}

/* ---------------------------------------------------------------- metrics.jsonl */

static VersionMeasured *find_version(const Reader *r, PhaseMeasured *p, const char *name) {
  for (uint32_t i = 0; i < vec_len(p->versions); i++)
    if (strcmp(p->versions[i].name, name) == 0)
      return &p->versions[i];
  vec_push(r->arena, p->versions, (VersionMeasured){.name = arena_intern(r->arena, name)});
  return &vec_last(p->versions);
}

static void read_update(Reader *r, int64_t line, const cJSON *object) {
  PhaseMeasured *p = find_phase(r, line, text_of(r, line, object, "phase"));
  double experts = number_of(r, line, object, "experts_per_token"), rate = number_of(r, line, object, "tokens_per_s");
  double flops = number_of(r, line, object, "flops"), tokens = number_of(r, line, object, "tokens");
  p->last = (int64_t)number_of(r, line, object, "step");
  if (!p->first) {
    p->first = p->last;
    p->experts_low = p->experts_high = experts;
  }
  p->experts_low = fmin(p->experts_low, experts);
  p->experts_high = fmax(p->experts_high, experts);
  p->experts_sum += experts;
  p->flops += flops - r->flops;
  p->tokens += tokens - r->tokens;
  r->flops = flops;
  r->tokens = tokens;
  vec_push(r->arena, p->rates, rate);
  VersionMeasured *version = find_version(r, p, text_of(r, line, object, "version"));
  vec_push(r->arena, version->rates, rate);
}

static void read_metrics(Reader *r, char *text, int64_t line) {
  cJSON *object = cJSON_Parse(text);
  if (!cJSON_IsObject(object))
    damaged(r, line, "no JSON object");
  if (!cJSON_GetObjectItemCaseSensitive(object, "split")) /* else an evaluation */
    read_update(r, line, object);
  cJSON_Delete(object);
}

/* ---------------------------------------------------------------- log.txt */

/* The first line, "MODEL: MACHINE; steps ...", and at every phase's end "step N  PHASE  memory M bytes at most in
 * arenas". A phase that ran in several parts has several. */
static void read_log(Reader *r, char *text, int64_t line) {
  char *colon = strstr(text, ": "), *semicolon = strstr(text, "; steps ");
  if (line == 1 && colon && semicolon && colon < semicolon)
    r->measured->machine = arena_copy(r->arena, colon + 2, (size_t)(semicolon - colon - 2));
  char *memory = strstr(text, "  memory "), *name = strstr(text, "  ");
  if (strncmp(text, "step ", 5) != 0 || !memory || name >= memory || !strstr(memory, " bytes at most in arenas"))
    return;
  PhaseMeasured *p = find_phase(r, line, arena_copy(r->arena, name + 2, (size_t)(memory - name - 2)));
  int64_t bytes = strtoll(memory + strlen("  memory "), NULL, 10);
  p->memory = bytes > p->memory ? bytes : p->memory;
}

static void read_lines(Reader *r, const char *file, void (*read_line)(Reader *, char *, int64_t)) {
  r->path = arena_print(r->arena, "%s/%s", r->measured->run, file);
  Bytes bytes = file_read("the run's log", r->path);
  int64_t line = 1;
  char *at = bytes.data;
  for (char *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
    *end = 0;
    read_line(r, at, line++);
  }
  free(bytes.data);
}

/* ---------------------------------------------------------------- tuning.json */

/* On the run's GPU; the file may hold those of others. */
static void read_choice(Reader *r, const cJSON *choice, const char *kind) {
  if (!strstr(r->measured->machine, text_of(r, 0, choice, "gpu")))
    return;
  bool product = strcmp(kind, "product") == 0;
  ChoiceMeasured made = {.product = product,
                         .chosen = product ? NULL : arena_intern(r->arena, text_of(r, 0, choice, "algorithm")),
                         .among = arena_intern(r->arena, text_of(r, 0, choice, "shape")),
                         .seconds = number_of(r, 0, choice, "seconds"),
                         .candidates = number_of(r, 0, choice, "candidates")};
  vec_push(r->arena, r->measured->choices, made);
}

static void read_tuning(Reader *r) {
  r->path = arena_print(r->arena, "%s/tuning.json", r->measured->run);
  Bytes bytes = file_read("the run's tuning", r->path);
  cJSON *root = cJSON_Parse(bytes.data);
  const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices"), *choice;
  if (!cJSON_IsArray(choices))
    damaged(r, 0, "no list \"choices\"");
  cJSON_ArrayForEach(choice, choices) {
    const char *kind = text_of(r, 0, choice, "kind");
    if (strcmp(kind, "crossover") != 0) {
      read_choice(r, choice, kind);
      continue;
    }
    PhaseMeasured *p = find_phase(r, 0, text_of(r, 0, choice, "phase"));
    p->crossover = number_of(r, 0, choice, "experts_per_token");
    p->crossover_by = arena_intern(r->arena, text_of(r, 0, choice, "by"));
  }
  cJSON_Delete(root);
  free(bytes.data);
}

/* ---------------------------------------------------------------- all of it */

static void check_model(const Reader *r, const char *ir) {
  const char *path = arena_print(r->arena, "%s/model.ir", r->measured->run);
  Bytes text = file_read("the run's model", path);
  if (payload_ir_hash(text.data, text.size) != payload_ir_hash(ir, strlen(ir)))
    ir_fail((Loc){path, 0}, "the run is of another model: script, -D and seed must be those it was built with");
  free(text.data);
}

static int compare_rates(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void sort_rates(double *rates) {
  if (rates)
    qsort(rates, vec_len(rates), sizeof *rates, compare_rates);
}

Measured measured_read(const Module *module, const char *ir, const char *run) {
  Measured measured = {.run = run, .machine = "an unknown machine"};
  Reader reader = {.arena = module->arena, .measured = &measured};
  for (uint32_t i = 0; i < vec_len(module->phases); i++)
    vec_push(reader.arena, measured.phases, (PhaseMeasured){.phase = module->phases[i]});
  check_model(&reader, ir);
  read_lines(&reader, "metrics.jsonl", read_metrics);
  read_lines(&reader, "log.txt", read_log);
  read_tuning(&reader);
  for (uint32_t i = 0; i < vec_len(measured.phases); i++) {
    PhaseMeasured *p = &measured.phases[i];
    sort_rates(p->rates);
    for (uint32_t k = 0; k < vec_len(p->versions); k++)
      sort_rates(p->versions[k].rates);
  }
  return measured;
}
