/* What pass narrow_rows does to a value that is stored: pass recompute prices with it. */
#ifndef MOEC_NARROW_ROWS_H
#define MOEC_NARROW_ROWS_H

#include "passes/pass.h"

/* Whether the value would be rounded to bf16, if row ops alone read it. */
bool narrow_rows_takes(const Func *f, const Rates *rates, ValueId v);

#endif
