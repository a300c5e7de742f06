/* See refuse.h. */
#include "runtime/cuda/refuse.h"

#include "runtime/cuda/gpu.h"
#include "runtime/error.h"
#include "runtime/json.h"
#include "runtime/memory.h"

static const char *const columns[] = {"parameters",  "gradients", "moments", "accumulators",
                                      "activations", "total",     "entry"};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void add_phase(Text *text, const Json *phase) {
  const Json *name = json_member(phase, "name"), *memory = json_member(phase, "memory");
  text_format(text, "\n  %-12s", name && name->kind == JSON_STRING ? name->string : "-");
  for (int i = 0; i < COLUMNS; i++) {
    double bytes = 0;
    json_double(json_member(memory, columns[i]), &bytes);
    text_format(text, " %12.3f", bytes / 1e9);
  }
}

/* The forecast as a table; nothing where the trainer carries none. */
static void add_forecast(Text *text, const Payload *payload) {
  char error[128];
  const PayloadSection *section = payload ? payload_find(payload, "forecast.cuda.json") : NULL;
  const Json *phases =
      section ? json_member(json_parse((const char *)section->data, section->size, error, sizeof error), "phases")
              : NULL;
  if (!phases || phases->kind != JSON_ARRAY)
    return;
  text_format(text, "\nthe forecast, in GB (entry: both tables during the transition into the phase):\n  %-12s",
              "phase");
  for (int i = 0; i < COLUMNS; i++)
    text_format(text, " %12s", columns[i]);
  for (const Json *phase = phases->first; phase; phase = phase->next)
    add_phase(text, phase);
}

void refuse_memory(const Payload *payload, const char *need) {
  Text text = {0};
  int64_t total, available = cuda_gpu_available(&total);
  text_format(&text, "not enough memory on the GPU: %s, %.3f GB are held already, %.3f of its %.3f GB are free", need,
              (double)memory_held() / 1e9, (double)available / 1e9, (double)total / 1e9);
  add_forecast(&text, payload);
  text_format(&text,
              "\nwhat takes less: -D accumulate=N (more, smaller micro-batches), -D batch=N, or moec build with "
              "--memory=%.0fG or --recompute:policy=layer",
              (double)total / 1e9);
  runtime_fail(FAIL_ENVIRONMENT, "%s", text.data);
}
