/* See memory_record.h. */
#include "runtime/memory_record.h"

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/json.h"
#include "runtime/memory.h"

static const char peak_key[] = "arena_peak";

MemoryRecord memory_record_new(const char *run, const Plan *plan) {
  return (MemoryRecord){.path = string_format("%s/memory.json", run),
                        .peak = runtime_allocate((size_t)plan->phase_count, sizeof(int64_t))};
}

void memory_record_read(MemoryRecord *record, const Plan *plan) {
  if (!file_exists(record->path))
    return;
  char error[128];
  Bytes text = file_read("memory record", record->path);
  const Json *root = json_parse(text.data, text.size, error, sizeof error);
  if (!root)
    runtime_fail(FAIL_USER, "%s: damaged: %s; without this file the run goes on", record->path, error);
  for (int i = 0; i < plan->phase_count; i++) {
    const Json *phase = json_member(json_member(root, "phases"), plan->phases[i].name);
    if (phase && !json_integer(json_member(phase, peak_key), &record->peak[i]))
      runtime_fail(FAIL_USER, "%s: damaged: phase %s has no %s; without this file the run goes on", record->path,
                   plan->phases[i].name, peak_key);
  }
  free(text.data);
}

void memory_record_write(MemoryRecord *record, const Program *p) {
  const Plan *plan = p->plan;
  int64_t now = memory_peak(), *peak = &record->peak[p->phase];
  if (record->written && now <= *peak)
    return;
  *peak = now > *peak ? now : *peak;
  Text text = {0};
  const char *separator = "";
  text_format(&text, "{\"phases\":{");
  for (int i = 0; i < plan->phase_count; i++) {
    if (record->peak[i] == 0)
      continue;
    const PlanTable *table = plan->phases[i].table;
    int64_t arena = table->size * (int64_t)sizeof(float);
    text_format(&text, "%s\n", separator);
    text_json_string(&text, plan->phases[i].name);
    text_format(&text,
                ":{\"%s\":%" PRId64 ",\"parameters\":%" PRId64 ",\"gradients\":%" PRId64 ",\"moments\":%" PRId64
                ",\"accumulators\":%" PRId64 ",\"activations\":%" PRId64 "}",
                peak_key, record->peak[i], arena + arenas_copy_bytes(plan, table), table->gradient_bytes, 2 * arena,
                plan->run.accumulate > 1 ? arena : 0, plan->act);
    separator = ",";
  }
  text_format(&text, "}}\n");
  file_replace(record->path, text.data, text.size);
  text_free(&text);
  record->written = true;
}
