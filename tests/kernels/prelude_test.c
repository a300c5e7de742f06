/* The elementary functions of prelude_cpu.h against the double ones of libm, over all magnitudes: within 2.5 ulp, with
 * NaN, infinities and zeros as IEEE asks. Sigmoid is held to that where its result is no subnormal, sine and cosine up
 * to |x| = 1e9. Random draws against published Philox numbers. */
#include <math.h>
#include <stdio.h>

#pragma GCC diagnostic ignored "-Wunknown-pragmas" /* simd: for kernels, which are compiled with OpenMP */
#include "codegen/prelude_cpu.h"

enum { STEP = 2011 }; /* between the bit patterns that are tried */

static int failures;

static double error_in_ulp(float got, double want) {
  if (isnan(want))
    return isnan(got) ? 0 : INFINITY;
  if (isinf((float)want) || isinf(got))
    return (float)want == got ? 0 : INFINITY;
  int exponent;
  frexp(want, &exponent);
  return fabs((double)got - want) / ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
}

static void check(const char *name, float (*function)(float), double (*reference)(double), float low, float high) {
  double worst = 0;
  float at = 0;
  for (uint64_t bits = 0; bits < 1ull << 32; bits += STEP) {
    float x = moec_float((uint32_t)bits);
    if (x < low || x > high)
      continue;
    double error = error_in_ulp(function(x), reference((double)x));
    if (error > worst) {
      worst = error;
      at = x;
    }
  }
  printf("%-8s %.3f ulp at %.9g\n", name, worst, (double)at);
  failures += worst > 2.5;
}

static void check_equal(const char *what, float got, float want) {
  if (got == want && signbit(got) == signbit(want))
    return;
  failures++;
  printf("FAILED: %s is %.9g, expected %.9g\n", what, (double)got, (double)want);
}

static double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}

#define WRAP(name)                                                                                                     \
  static float call_##name(float x) {                                                                                  \
    return moec_##name(x);                                                                                             \
  }
WRAP(exp)
WRAP(expm1)
WRAP(log)
WRAP(log1p)
WRAP(tanh)
WRAP(erf)
WRAP(sigmoid)
WRAP(cos)
WRAP(sin)

int main(void) {
  check("exp", call_exp, exp, -INFINITY, INFINITY);
  check("expm1", call_expm1, expm1, -INFINITY, INFINITY);
  check("log", call_log, log, -INFINITY, INFINITY);
  check("log1p", call_log1p, log1p, -INFINITY, INFINITY);
  check("tanh", call_tanh, tanh, -INFINITY, INFINITY);
  check("erf", call_erf, erf, -INFINITY, INFINITY);
  check("sigmoid", call_sigmoid, sigmoid, -87, INFINITY);
  check("cos", call_cos, cos, -1e9f, 1e9f);
  check("sin", call_sin, sin, -1e9f, 1e9f);
  check_equal("expm1(-0)", moec_expm1(-0.0f), -0.0f);
  check_equal("log1p(-0)", moec_log1p(-0.0f), -0.0f);
  check_equal("tanh(-0)", moec_tanh(-0.0f), -0.0f);
  check_equal("erf(-0)", moec_erf(-0.0f), -0.0f);
  check_equal("exp(-infinity)", moec_exp(-INFINITY), 0.0f);
  check_equal("log(0)", moec_log(0.0f), -INFINITY);
  check_equal("log1p(-1)", moec_log1p(-1.0f), -INFINITY);
  check_equal("bf16 of 1 + 2^-8, a tie", moec_round_bf16(1.00390625f), 1.0f);
  check_equal("bf16 of 1 + 3 * 2^-8, a tie", moec_round_bf16(1.01171875f), 1.015625f);
  failures += !isnan(moec_round_bf16(NAN));
  /* Known answers of Random123 (kat_vectors): the first word of philox4x32-10 is 6627e8d5 for counter 0 and key 0, and
   * 408f276d where all their bits are set. */
  check_equal("draw of zeros", moec_uniform(0, 0, 0, 0, 0), ((float)(0x6627e8d5u >> 9) + 0.5f) * 0x1p-23f);
  check_equal("draw of ones", moec_uniform(UINT64_MAX, UINT64_MAX, 0, UINT32_MAX, UINT32_MAX),
              ((float)(0x408f276du >> 9) + 0.5f) * 0x1p-23f);
  check_equal("a carry into the high word", moec_uniform(7, 0xffffffffu, 2, 3, 4),
              moec_uniform(7, 0x100000001u, 0, 3, 4));
  printf("%d failures\n", failures);
  return failures != 0;
}
