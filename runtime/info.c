/* The command `info`: what this trainer is. --ir, --plan, --c, --cuda, --ledger, --forecast print what it carries as it
 * stands; plan and forecast are those of the device that `train` takes, or that --device names. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/commands.h"
#include "runtime/error.h"
#include "runtime/evaluate.h"
#include "runtime/options.h"
#include "runtime/program.h"

static void print_run(const Program *p) {
  const PlanRun *run = &p->plan->run;
  printf("model       %s (task %s, target %s)\n", p->plan->module, p->plan->task, p->plan->target);
  printf("batch       %" PRId64 " sequences of %" PRId64 " tokens in %" PRId64 " micro-batches; vocabulary %" PRId64
         "; %" PRId64 " steps\n",
         run->batch, run->sequence, run->accumulate, run->vocabulary, run->steps);
}

static void print_tables(const Program *p) {
  for (int i = 0; i < p->plan->table_count; i++) {
    const PlanTable *table = &p->plan->tables[i];
    int64_t elements = 0, frozen = 0;
    for (int k = 0; k < table->param_count; k++) {
      elements += table->params[k].shape.elements;
      frozen += table->params[k].segment < 0 ? table->params[k].shape.elements : 0;
    }
    printf("table       %s: %d tensors, %" PRId64 " parameters (%" PRId64 " frozen)\n", table->name, table->param_count,
           elements, frozen);
  }
}

static void print_phases(const Program *p) {
  for (int i = 0; i < p->plan->phase_count; i++) {
    const PlanPhase *phase = &p->plan->phases[i];
    const PlanFunc *packed = program_func(p, i, "train.packed");
    const PlanFunc *train = packed ? packed : program_func(p, i, "train");
    printf("phase       %s: from step %" PRId64, phase->name, p->phase_start[i]);
    if (phase->steps > 0)
      printf(" for %" PRId64 " steps", phase->steps);
    printf(", table %s, %s%s", phase->table->name, phase->enter ? "enters by " : "no transition",
           phase->enter ? phase->enter->name : "");
    if (train)
      printf(", %d routed layers%s", routed_layers(train), packed ? ", versions packed and wide" : "");
    printf(" (%s)\n", phase->line);
  }
}

static void print_payload(const Program *p) {
  for (size_t i = 0; i < p->payload->count; i++) {
    const PayloadSection *section = &p->payload->sections[i];
    printf("carries     %-22s %10zu bytes  %016" PRIx64 "\n", section->name, section->size,
           payload_hash(section->data, section->size));
  }
  printf("ranks       dp:1,ep:1\n");
  printf("IR          %016" PRIx64 " before passes\n", p->ir_hash);
}

/* Where `train` runs unless it is told, or as --device says here. */
static void print_device(const Program *p) {
  const char *device = program_device(p),
             *problem = strcmp(device, "cuda") == 0 ? executor_no_gpu() : program_no_gpu(p);
  if (strcmp(device, "cuda") == 0 && !problem)
    printf("device      cuda: %s\n", executor_gpu());
  else if (strcmp(device, "cuda") == 0)
    printf("device      cuda, which cannot run here: %s\n", problem);
  else
    printf("device      cpu%s%s\n", problem ? ", since for --device=cuda " : "", problem ? problem : "");
}

/* `--ledger` prints the decisions; the passes are in them. */
int trainer_info(int argc, char **argv) {
  const char *device = NULL;
  bool ir = false, plan = false, c = false, cuda = false, ledger = false, passes = false, forecast = false;
  const Option options[] = {{"--ir", OPTION_FLAG, &ir, 0},
                            {"--passes", OPTION_FLAG, &passes, 0},
                            {"--plan", OPTION_FLAG, &plan, 0},
                            {"--c", OPTION_FLAG, &c, 0},
                            {"--cuda", OPTION_FLAG, &cuda, 0},
                            {"--ledger", OPTION_FLAG, &ledger, 0},
                            {"--forecast", OPTION_FLAG, &forecast, 0},
                            {"--device", OPTION_TEXT, &device, 0}};
  options_parse("info", argc, argv, options, sizeof options / sizeof *options, NULL);
  Program *p = program_open("info", device);
  bool gpu = strcmp(program_device(p), "cuda") == 0;
  const char *plan_section = gpu ? SECTION_PLAN_CUDA : SECTION_PLAN_CPU,
             *forecast_section = gpu ? SECTION_FORECAST_CUDA : SECTION_FORECAST_CPU;
  const struct {
    bool wanted;
    const char *section;
  } dumps[] = {{ir, SECTION_IR},
               {passes, program_passes_section(p)},
               {plan, plan_section},
               {c, SECTION_C},
               {cuda, SECTION_CUDA},
               {ledger, SECTION_LEDGER},
               {forecast, forecast_section}};
  bool dumped = false;
  for (size_t i = 0; i < sizeof dumps / sizeof *dumps; i++) {
    if (!dumps[i].wanted)
      continue;
    const PayloadSection *section = payload_find(p->payload, dumps[i].section);
    if (!section)
      runtime_fail(FAIL_USER, "this trainer carries no %s", dumps[i].section);
    fwrite(section->data, 1, section->size, stdout);
    if (section->size && section->data[section->size - 1] != '\n')
      putchar('\n');
    dumped = true;
  }
  if (dumped)
    return 0;
  print_run(p);
  print_device(p);
  print_tables(p);
  print_phases(p);
  print_payload(p);
  return 0;
}
