/* The interpreter's values of a case as the kernels' memory has them: rounded to their dtype, rows apart by their ld.
 */
#ifndef MOEC_TESTS_KERNELS_VALUES_H
#define MOEC_TESTS_KERNELS_VALUES_H

#include "ir/rows.h"
#include "tests/kernels/cases.h"

RowShape value_shape(const KernelCase *c, ValueId v);
/* From the first element to the last. */
size_t value_bytes(const KernelCase *c, ValueId v);
/* Of an element, in elements. */
int64_t value_index(const KernelCase *c, ValueId v, int64_t row, int64_t column);
/* Writes the interpreter's value; what lies between its rows stays. */
void value_store(const KernelCase *c, ValueId v, void *to);

/* Compares the live rows with the interpreter's: `message` becomes the first difference or "", `expected` 1 at the
 * bytes of elements that there are. Returns the number of elements compared. */
int value_compare(const KernelCase *c, ValueId v, const void *got, double tolerance, unsigned char *expected,
                  char *message, size_t size);

/* Relative and absolute: more where bf16 is read. */
double call_tolerance(const KernelCase *c, const KernelCall *call);
int64_t call_live_rows(const KernelCase *c, const KernelCall *call);

#endif
