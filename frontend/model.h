/* The way of a model script through the compiler, as far as a command needs it. A trainer for both targets has two
 * modules behind the passes: each target's passes price with its own rates (passes/rates.h). */
#ifndef MOEC_MODEL_H
#define MOEC_MODEL_H

#include "codegen/plan.h"
#include "frontend/options.h"

typedef struct Model {
  Arena *arena;
  const Options *options;
  Module *module; /* behind model_optimize that of the CPU, or of CUDA where that is the only target */
  const char *config_json;
  const char *graph_text; /* the IR before passes; NULL unless asked for, or needed for a second target */
  Ledger *ledger;         /* of `module` */
  Module *cuda_module;    /* behind model_lower_cuda; `module` where CUDA is the only target */
  Ledger *cuda_ledger;    /* of `cuda_module` */
  const Plan *plan;       /* for the CPU, behind model_lower */
  const Plan *cuda;       /* for CUDA, behind model_lower_cuda */
} Model;

/* Runs the script; a file FILE.ir is read as IR text instead. keep_text: also prints the IR. */
Model model_load(Arena *arena, const Options *options, bool keep_text);
void model_optimize(Model *m); /* passes; IR text is taken as it stands, moec opt runs passes on it */
void model_lower(Model *m);    /* plan; checks --memory */
/* The same for CUDA, behind passes of its own where the CPU is a target, too. */
void model_lower_cuda(Model *m);
/* The rates that the target's passes price with: --rates, or its own. */
const Rates *model_rates(const Options *options, PlanTarget target);
/* The decisions for all targets lowered so far: those of the first, with the other's as member "cuda"; malloc'ed. */
char *model_ledger_json(const Model *m);

/* Whether the model is IR text (FILE.ir), which is compiled as it stands. */
bool model_is_text(const Options *options);

/* The phase --phase names, or NULL when the option is absent; a name that is no phase is the user's mistake. */
const Phase *model_phase(const Model *m);
/* Whether a function belongs to the phase: its own, its table's update and the transition into it. NULL: every one. */
bool phase_has(const Phase *phase, const Func *f);

const char *module_text(const Module *m); /* in the module's arena */

/* Standard output, or the file of -o; close with output_close, which reports what could not be written. */
FILE *output_open(const Options *options);
void output_close(const Options *options, FILE *out);

#endif
