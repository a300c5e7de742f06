/* From the specification to settings and jobs.
 *
 * The budget decides the steps. In steps, it is their number; in FLOPs, it is divided by what the forecast says of a
 * step, averaged over the phases. Every schedule gets that length (configuration key `steps`), and what is given as a
 * share of the steps follows it, so that every method sees its whole schedule within the budget.
 */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/compare.h"
#include "frontend/forecast.h"
#include "frontend/model.h"
#include "frontend/script.h"
#include "runtime/files.h"

/* ---------------------------------------------------------------- reading */

static const char *text_of(Arena *arena, const cJSON *object, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsString(member) ? arena_copy(arena, member->valuestring, strlen(member->valuestring)) : NULL;
}

static double number_of(const cJSON *object, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(member) ? member->valuedouble : 0;
}

static ConfigPair *pairs_of(Arena *arena, const cJSON *object, const char *name) {
  ConfigPair *pairs = NULL;
  const cJSON *entry;
  cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(object, name))
      vec_push(arena, pairs, (ConfigPair){text_of(arena, entry, "key"), text_of(arena, entry, "value")});
  return pairs;
}

static Share *shares_of(Arena *arena, const cJSON *object, const char *name) {
  Share *shares = NULL;
  const cJSON *entry;
  cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(object, name))
      vec_push(arena, shares, (Share){text_of(arena, entry, "key"), number_of(entry, "value")});
  return shares;
}

static Sweep sweep_of(Arena *arena, const cJSON *object, const char *values) {
  Sweep sweep = {.key = text_of(arena, object, "key")};
  const cJSON *entry;
  cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(object, values))
      vec_push(arena, sweep.values, arena_copy(arena, entry->valuestring, strlen(entry->valuestring)));
  return sweep;
}

/* Paths in a specification are relative to it. */
static const char *path_beside(Arena *arena, const char *spec, const char *path) {
  const char *slash = strrchr(spec, '/');
  if (!path || path[0] == '/' || !slash)
    return path;
  return arena_print(arena, "%.*s/%s", (int)(slash - spec), spec, path);
}

static CompareRun run_of(Arena *arena, const char *spec, const cJSON *json) {
  return (CompareRun){.name = text_of(arena, json, "name"),
                      .model = path_beside(arena, spec, text_of(arena, json, "model")),
                      .config = pairs_of(arena, json, "config"),
                      .shares = shares_of(arena, json, "shares"),
                      .density = shares_of(arena, json, "density")};
}

CompareSpec compare_read(Arena *arena, const char *path, const char *data) {
  cJSON *json = cJSON_Parse(script_read_compare(arena, path));
  if (!json)
    ir_bug("the specification's JSON cannot be read");
  const cJSON *budget = cJSON_GetObjectItemCaseSensitive(json, "budget"), *entry,
              *search = cJSON_GetObjectItemCaseSensitive(json, "search");
  CompareSpec spec = {.path = path,
                      .data = data ? data : path_beside(arena, path, text_of(arena, json, "data")),
                      .config = pairs_of(arena, json, "config"),
                      .shares = shares_of(arena, json, "shares"),
                      .steps = (int64_t)number_of(budget, "steps"),
                      .flops = number_of(budget, "flops"),
                      .baseline = text_of(arena, json, "baseline"),
                      .search_budget = number_of(search, "budget"),
                      .eval_every = (int64_t)number_of(json, "eval_every"),
                      .checkpoint_every = (int64_t)number_of(json, "checkpoint_every"),
                      .probe_every = (int64_t)number_of(json, "probe_every"),
                      .parallel = (int64_t)number_of(json, "parallel")};
  if (!spec.data)
    ir_fail((Loc){path, 0}, "moec.compare: option `data` is missing, and so is --data");
  cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(json, "runs"))
      vec_push(arena, spec.runs, run_of(arena, path, entry));
  cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(json, "seeds"))
      vec_push(arena, spec.seeds, (int64_t)entry->valuedouble);
  cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(json, "sweep"))
      vec_push(arena, spec.sweep, sweep_of(arena, entry, "value"));
  if (search)
    spec.search = sweep_of(arena, search, "values");
  cJSON_Delete(json);
  return spec;
}

/* ---------------------------------------------------------------- settings */

static void set_pair(Arena *arena, ConfigPair **pairs, const char *key, const char *value) {
  for (uint32_t i = 0; i < vec_len(*pairs); i++)
    if (strcmp((*pairs)[i].key, key) == 0) {
      (*pairs)[i].value = value;
      return;
    }
  vec_push(arena, *pairs, (ConfigPair){key, value});
}

static bool has_pair(const ConfigPair *pairs, const char *key) {
  for (uint32_t i = 0; i < vec_len(pairs); i++)
    if (strcmp(pairs[i].key, key) == 0)
      return true;
  return false;
}

static bool has_share(const Share *shares, const char *key) {
  for (uint32_t i = 0; i < vec_len(shares); i++)
    if (strcmp(shares[i].key, key) == 0)
      return true;
  return false;
}

static void set_share(Arena *arena, Share **shares, Share share) {
  for (uint32_t i = 0; i < vec_len(*shares); i++)
    if (strcmp((*shares)[i].key, share.key) == 0) {
      (*shares)[i] = share;
      return;
    }
  vec_push(arena, *shares, share);
}

static const char **defines_of(Arena *arena, const ConfigPair *pairs) {
  const char **defines = NULL;
  for (uint32_t i = 0; i < vec_len(pairs); i++)
    vec_push(arena, defines, arena_print(arena, "%s=%s", pairs[i].key, pairs[i].value));
  return defines;
}

/* The configuration that a run's model has by itself: which keys there are. */
static cJSON *model_config(const CompareRun *run) {
  Arena *arena = arena_new();
  Script script =
      script_compile(arena, &(ScriptOptions){.path = run->model, .defines = defines_of(arena, run->config)});
  cJSON *json = cJSON_Parse(script.config_json), *config = cJSON_DetachItemFromObjectCaseSensitive(json, "config");
  cJSON_Delete(json);
  arena_free(arena);
  return config;
}

/* `size` names a set of overrides and is no key of the configuration itself. */
static bool has_key(const cJSON *config, const char *key) {
  return strcmp(key, "size") == 0 || cJSON_GetObjectItemCaseSensitive(config, key);
}

/* What may stand in a directory's name. */
static const char *clean_label(Arena *arena, const char *label) {
  char *clean = arena_copy(arena, label, strlen(label));
  for (char *at = clean; *at; at++)
    if (!isalnum((unsigned char)*at) && !strchr("._=,+-", *at))
      *at = '_';
  return clean;
}

/* One setting for every choice of the values of the sweep from `at` on. */
static void add_settings(Compare *c, const cJSON *config, Setting base, uint32_t at) {
  while (at < vec_len(c->spec.sweep) &&
         (!has_key(config, c->spec.sweep[at].key) || has_pair(base.run->config, c->spec.sweep[at].key)))
    at++;
  if (at == vec_len(c->spec.sweep)) {
    base.label = *base.label ? clean_label(c->arena, base.label) : "base";
    vec_push(c->arena, c->settings, base);
    return;
  }
  const Sweep *sweep = &c->spec.sweep[at];
  for (uint32_t i = 0; i < vec_len(sweep->values); i++) {
    Setting setting = base;
    setting.config = NULL;
    for (uint32_t k = 0; k < vec_len(base.config); k++)
      vec_push(c->arena, setting.config, base.config[k]);
    set_pair(c->arena, &setting.config, sweep->key, sweep->values[i]);
    setting.label =
        arena_print(c->arena, "%s%s%s=%s", base.label, *base.label ? "," : "", sweep->key, sweep->values[i]);
    add_settings(c, config, setting, at + 1);
  }
}

static void make_run_settings(Compare *c, const CompareRun *run, const cJSON *config) {
  const CompareSpec *spec = &c->spec;
  if (!has_key(config, "steps"))
    ir_fail((Loc){spec->path, 0},
            "run %s: %s has no configuration key `steps`, by which the budget sets the length of its schedules",
            run->name, run->model);
  Setting base = {.run = run, .label = ""};
  for (uint32_t i = 0; i < vec_len(spec->config); i++)
    if (has_key(config, spec->config[i].key) && !has_share(run->shares, spec->config[i].key))
      set_pair(c->arena, &base.config, spec->config[i].key, spec->config[i].value);
  for (uint32_t i = 0; i < vec_len(run->config); i++)
    set_pair(c->arena, &base.config, run->config[i].key, run->config[i].value);
  for (uint32_t i = 0; i < vec_len(spec->shares); i++)
    if (has_key(config, spec->shares[i].key) && !has_pair(run->config, spec->shares[i].key))
      set_share(c->arena, &base.shares, spec->shares[i]);
  for (uint32_t i = 0; i < vec_len(run->shares); i++)
    if (!has_pair(run->config, run->shares[i].key))
      set_share(c->arena, &base.shares, run->shares[i]);
  base.searched = spec->search.key && has_key(config, spec->search.key) && !has_pair(run->config, spec->search.key);
  add_settings(c, config, base, 0);
}

/* What no model has is a slip of the pen. */
static void check_used(const Compare *c, cJSON **configs, const char *what, const char *key) {
  for (uint32_t i = 0; i < vec_len(c->spec.runs); i++)
    if (has_key(configs[i], key))
      return;
  ir_fail((Loc){c->spec.path, 0}, "moec.compare: %s: no model of the runs has a configuration key `%s`", what, key);
}

void compare_make_settings(Compare *c) {
  const CompareSpec *spec = &c->spec;
  cJSON **configs = NULL;
  for (uint32_t i = 0; i < vec_len(spec->runs); i++)
    vec_push(c->arena, configs, model_config(&spec->runs[i]));
  for (uint32_t i = 0; i < vec_len(spec->config); i++)
    check_used(c, configs, "config", spec->config[i].key);
  for (uint32_t i = 0; i < vec_len(spec->shares); i++)
    check_used(c, configs, "shares", spec->shares[i].key);
  for (uint32_t i = 0; i < vec_len(spec->sweep); i++)
    check_used(c, configs, "sweep", spec->sweep[i].key);
  if (spec->search.key)
    check_used(c, configs, "search", spec->search.key);
  for (uint32_t i = 0; i < vec_len(spec->runs); i++) {
    make_run_settings(c, &spec->runs[i], configs[i]);
    cJSON_Delete(configs[i]);
  }
}

/* ---------------------------------------------------------------- steps */

/* The setting's configuration with everything that depends on the steps. */
static ConfigPair *config_at(Compare *c, const Setting *setting, const char *tried, int64_t steps) {
  ConfigPair *config = NULL;
  for (uint32_t i = 0; i < vec_len(setting->config); i++)
    vec_push(c->arena, config, setting->config[i]);
  set_pair(c->arena, &config, "steps", arena_print(c->arena, "%lld", (long long)steps));
  for (uint32_t i = 0; i < vec_len(setting->shares); i++) {
    if (has_pair(setting->config, setting->shares[i].key))
      continue; /* swept, or set for all */
    double share = setting->shares[i].value;
    long long length = llround(share * (double)steps);
    if (share > 0 && length < 1)
      length = 1; /* short, but there: a phase of no steps is another schedule */
    set_pair(c->arena, &config, setting->shares[i].key, arena_print(c->arena, "%lld", length));
  }
  if (tried)
    set_pair(c->arena, &config, c->spec.search.key, tried);
  return config;
}

/* FLOPs of one step of each phase: between one expert per token and the router's bound, by the setting's density. */
static double *phase_costs(Compare *c, Setting *setting, ConfigPair *config) {
  Arena *arena = arena_new();
  const char **words = NULL;
  vec_push(arena, words, setting->run->model);
  vec_push(arena, words, "--target=cpu");
  const char **defines = defines_of(arena, config);
  for (uint32_t i = 0; i < vec_len(defines); i++) {
    vec_push(arena, words, "-D");
    vec_push(arena, words, defines[i]);
  }
  Options options = options_read(arena, COMMAND_FORECAST, (int)vec_len(words), (char **)(void *)words);
  Model model = model_load(arena, &options, false);
  model_optimize(&model);
  model_lower(&model);
  Forecast forecast = forecast_make(model.plan);
  const Module *m = model.module;
  double *costs = NULL;
  for (uint32_t i = 0; i < vec_len(forecast.phases); i++) {
    const PhaseForecast *phase = &forecast.phases[i];
    double density = 0;
    for (uint32_t k = 0; k < vec_len(setting->run->density); k++)
      if (strcmp(setting->run->density[k].key, phase->phase->name) == 0)
        density = setting->run->density[k].value;
    double token = phase->work.train + density * (phase->work.train_bound - phase->work.train);
    vec_push(c->arena, costs, token * (double)m->batch * (double)m->sequence_length);
    setting->parameters = (double)phase->parameters.total;
    setting->active = phase->parameters.active;
    setting->inference = phase->work.inference;
  }
  arena_free(arena);
  return costs;
}

/* FLOPs of so many steps. */
static double cost_of_steps(Compare *c, const Setting *setting, const ConfigPair *config, const double *costs,
                            int64_t steps) {
  Arena *arena = arena_new();
  Script script =
      script_compile(arena, &(ScriptOptions){.path = setting->run->model, .defines = defines_of(arena, config)});
  double cost = 0;
  int64_t left = steps;
  for (uint32_t i = 0; i < vec_len(script.module->phases); i++) {
    int64_t length = script.module->phases[i]->steps;
    if (!length || length > left)
      length = left;
    cost += (double)length * costs[i];
    left -= length;
  }
  for (uint32_t i = 0; i < vec_len(setting->run->density); i++) {
    bool known = false;
    for (uint32_t k = 0; k < vec_len(script.module->phases); k++)
      known |= strcmp(script.module->phases[k]->name, setting->run->density[i].key) == 0;
    if (!known)
      ir_fail((Loc){c->spec.path, 0}, "run %s: density: its model has no phase `%s`", setting->run->name,
              setting->run->density[i].key);
  }
  arena_free(arena);
  return cost;
}

enum { FIRST_GUESS = 1000, ROUNDS = 3 };

/* The steps at which the forecast reaches `flops`. The average cost of a step depends little on their number, so a few
 * rounds are enough. */
static int64_t steps_for(Compare *c, Setting *setting, const char *tried, const double *costs, double flops) {
  int64_t steps = FIRST_GUESS;
  for (int round = 0; round < ROUNDS; round++) {
    double cost = cost_of_steps(c, setting, config_at(c, setting, tried, steps), costs, steps);
    double wanted = flops / (cost / (double)steps);
    if (wanted > 1e9)
      ir_fail((Loc){c->spec.path, 0}, "run %s: the budget would take %.3g steps", setting->run->name, wanted);
    steps = wanted < 1 ? 1 : llround(wanted);
  }
  return steps;
}

/* ---------------------------------------------------------------- jobs */

static uint64_t hash_text(uint64_t hash, const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3;
  return (hash ^ 0xff) * 0x100000001b3; /* the text's end */
}

static const char *trainer_of(Compare *c, const Job *job) {
  Bytes script = file_read("the script", job->setting->run->model);
  uint64_t hash = hash_text(0xcbf29ce484222325, script.data, script.size);
  free(script.data);
  for (uint32_t i = 0; i < vec_len(job->defines); i++)
    hash = hash_text(hash, job->defines[i], strlen(job->defines[i]));
  hash = hash_text(hash, c->device ? c->device : "", c->device ? strlen(c->device) : 0);
  return arena_print(c->arena, "%s/trainers/%016llx", c->out, (unsigned long long)hash);
}

Job compare_job(Compare *c, Setting *setting, const char *tried, double budget) {
  const CompareSpec *spec = &c->spec;
  Job job = {.setting = setting, .tried = tried};
  const char *value = tried ? tried : setting->chosen;
  int64_t guess = spec->steps ? spec->steps : FIRST_GUESS;
  double *costs = phase_costs(c, setting, config_at(c, setting, value, guess));
  if (spec->steps) {
    job.steps = llround((double)spec->steps * budget);
    job.steps = job.steps < 1 ? 1 : job.steps;
  } else {
    job.flops = spec->flops * budget;
    job.steps = steps_for(c, setting, value, costs, job.flops);
  }
  ConfigPair *config = config_at(c, setting, value, job.steps);
  job.forecast = cost_of_steps(c, setting, config, costs, job.steps);
  job.defines = defines_of(c->arena, config);
  job.trainer = trainer_of(c, &job);
  return job;
}

Job compare_seed(Compare *c, Job job, int64_t seed) {
  const Setting *setting = job.setting;
  const char *search = "";
  if (job.tried)
    search = arena_print(c->arena, "/search/%s=%s", c->spec.search.key, clean_label(c->arena, job.tried));
  job.seed = seed;
  job.name = arena_print(c->arena, "%s/%s%s/seed-%lld", setting->run->name, setting->label, search, (long long)seed);
  job.directory = arena_print(c->arena, "%s/%s", c->out, job.name);
  return job;
}
