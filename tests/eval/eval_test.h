/* Checks on what a scene computes, and the groups of tests of this program. */
#ifndef MOEC_TESTS_EVAL_TEST_H
#define MOEC_TESTS_EVAL_TEST_H

#include "tests/eval/scene.h"

#define EXPECT_FLOATS(run, value, what, ...)                                                                           \
  expect_floats(run, value, what, (int64_t)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), FLOATS(__VA_ARGS__))
#define EXPECT_INTS(run, value, what, ...)                                                                             \
  expect_ints(run, value, what, (int64_t)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)), INTS(__VA_ARGS__))

/* The live elements are the given ones (to 1e-12; NaN equals NaN) and the dead ones NaN or INT32_MIN. */
void expect_floats(const Evaluation *run, ValueId value, const char *what, int64_t count, const double *expected);
void expect_ints(const Evaluation *run, ValueId value, const char *what, int64_t count, const int32_t *expected);
/* Running the scene ends in ir_fail with a message that starts with the scene's line and contains `text`. */
void expect_failure(Scene *s, const char *text);

Evaluation *scene_run(Scene *s);

void test_random(void);
void test_elementwise(void);
void test_rows(void);
void test_products(void);
void test_routing(void);
void test_groups(void);
void test_attention(void);
void test_decisions(void);

#endif
