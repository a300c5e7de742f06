/* Reading and writing rates as JSON. See rates_file.h.
 *
 * In: {"name": "an A100", "product_bf16": 2.6e14, ...}. Out: Rates. Holds: what rates_json writes is read back the
 * same. */
#include "frontend/rates_file.h"

#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"
#include "runtime/files.h"

static double *field_of(Rates *rates, const RatesField *field) {
  return (double *)(void *)((char *)rates + field->offset);
}

static const RatesField *find_field(const char *name) {
  for (const RatesField *field = rates_fields; field->name; field++)
    if (strcmp(field->name, name) == 0)
      return field;
  return NULL;
}

static const char *field_names(Arena *arena) {
  const char *names = "name";
  for (const RatesField *field = rates_fields; field->name; field++)
    names = arena_print(arena, "%s, %s", names, field->name);
  return names;
}

static void read_member(Arena *arena, const char *path, Rates *rates, const cJSON *member) {
  if (strcmp(member->string, "name") == 0 && cJSON_IsString(member)) {
    rates->name = arena_intern(arena, member->valuestring);
    return;
  }
  const RatesField *field = find_field(member->string);
  if (!field)
    ir_fail((Loc){path, 0}, "\"%s\" is no rate, expected %s", member->string, field_names(arena));
  if (!cJSON_IsNumber(member) || !(member->valuedouble > 0))
    ir_fail((Loc){path, 0}, "\"%s\": expected a number greater than 0, of %s", member->string, field->unit);
  *field_of(rates, field) = member->valuedouble;
}

const Rates *rates_read(Arena *arena, const char *path, const Rates *otherwise) {
  Rates *rates = arena_alloc(arena, sizeof *rates);
  *rates = *otherwise;
  rates->name = path;
  rates->bound = NULL;
  Bytes bytes = file_read("the rates", path);
  cJSON *root = cJSON_Parse(bytes.data);
  if (!cJSON_IsObject(root))
    ir_fail((Loc){path, 0}, "expected a JSON object of rates: %s", field_names(arena));
  const cJSON *member;
  cJSON_ArrayForEach(member, root) read_member(arena, path, rates, member);
  cJSON_Delete(root);
  free(bytes.data);
  return rates;
}

cJSON *rates_json(const Rates *rates) {
  Rates copy = *rates;
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "name", rates->name);
  for (const RatesField *field = rates_fields; field->name; field++)
    cJSON_AddNumberToObject(json, field->name, *field_of(&copy, field));
  return json;
}
