/* Evaluation of the current parameters on a split: every token but the first is a target exactly once. */
#ifndef MOEC_EVALUATE_H
#define MOEC_EVALUATE_H

#include "runtime/json.h"
#include "runtime/program.h"

typedef struct Evaluation {
  int64_t targets;
  double ce;      /* mean over the targets, natural logarithm: ppl = exp(ce) */
  double ce_gate; /* with the gate as in training but without noise; NAN: the phase has no such function */
  double experts; /* per token, mean of the layers that route; NAN: none does */
} Evaluation;

/* FAIL_USER when the split does not fit the model or has no target. `step`: updates done. */
Evaluation evaluate(Program *program, const TokenFile *file, int64_t step);
/* The object of a line of metrics.jsonl, without a line end. */
void evaluation_print(Text *line, const Program *program, const Evaluation *evaluation, const char *split,
                      int64_t step);

/* Layers of `func` that route tokens: its results load.LAYER. */
int routed_layers(const PlanFunc *func);

#endif
