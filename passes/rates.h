/* How fast a target is: the one place with the numbers that passes, ledger and forecast price with.
 *
 * A pass runs for one target and sees its rates (PassContext.rates). Those of the CPU were fitted to measured steps,
 * each to what it prices, and are kept as they are; those of a GPU are an H200's (rates.c says from where), for which
 * nothing has been measured yet. `--rates=FILE` replaces them.
 */
#ifndef MOEC_RATES_H
#define MOEC_RATES_H

#include <stdbool.h>

typedef struct Rates {
  const char *name;
  double product_f32, product_bf16;   /* FLOP per second of plain products, */
  double grouped_f32, grouped_bf16;   /* of products of packed rows, */
  double attention, attention_grad;   /* and of attention's, in the precision of the model */
  double row;                         /* operations of row kernels per second */
  double memory;                      /* bytes per second */
  double launch;                      /* seconds to start a kernel or product */
  double again_product, again_memory; /* the rates of product and memory by which running again is priced */
  double price; /* bytes of memory that a microsecond of running again must free, where none is asked for */
  bool gpu;     /* the target is CUDA; what memory moves is then priced as it is (recompute_cut.c, dense_cost.c) */
  const struct Rates *bound; /* what the hardware cannot exceed; NULL: not known */
} Rates;

extern const Rates rates_cpu, rates_cuda;

/* The numbers by name, for a file of them: "product_f32", ... */
typedef struct RatesField {
  const char *name, *unit;
  unsigned offset; /* of a double in Rates */
} RatesField;
extern const RatesField rates_fields[]; /* ends with a NULL name */

#endif
