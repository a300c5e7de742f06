/* The table of gradient cases: for every differentiable op, small functions over parameters. */
#ifndef MOEC_TESTS_GRADIENT_TEST_H
#define MOEC_TESTS_GRADIENT_TEST_H

#include "tests/eval/scene.h"

enum { MAX_GRAPH_OUTPUTS = 8 };

/* A function under construction; the loss is the sum of all outputs with fixed random weights. */
typedef struct Graph {
  Scene scene;
  ValueId outputs[MAX_GRAPH_OUTPUTS];
  int output_count;
} Graph;

typedef struct Shape {
  int rank;
  int64_t dim[MAX_RANK];
} Shape;

typedef struct GradientCase {
  Op op;
  const char *variant;
  void (*build)(Graph *g, const struct GradientCase *c);
  double low, high; /* of the parameters' elements */
  Shape a, b;       /* of the operands, where a builder takes them */
  int option;       /* what else a builder takes: an axis, a bit set of ta and tb, causal */
} GradientCase;

extern const GradientCase gradient_cases[];
extern const int gradient_case_count;

#endif
