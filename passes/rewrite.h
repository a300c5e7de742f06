/* Copying a function forward. A pass begins with rewrite_begin, which empties the function; it then walks the old
 * instructions in order, copies, replaces (rewrite_map) or leaves out each, and ends with rewrite_end.
 *
 *   Rewrite r = rewrite_begin(f);
 *   for (uint32_t i = 0; i < vec_len(r.old.insts); i++)
 *     rewrite_copy(&r, i);
 *   rewrite_end(&r);
 *
 * Holds: arguments and parameters come first, in their old order; a copied value keeps its name and type (with the
 * extent mapped), a copied instruction its location, group and note. The Func itself stays where it is, because symbols
 * are scoped by its address. */
#ifndef MOEC_REWRITE_H
#define MOEC_REWRITE_H

#include "ir/ir.h"

typedef struct Rewrite {
  Func *f;      /* being written */
  Func old;     /* as it was; its vectors are not touched any more */
  ValueId *map; /* by old ValueId: the new one, NO_VALUE while it has none */
} Rewrite;

Rewrite rewrite_begin(Func *f);
/* Copies old instruction `index` with mapped operands; maps its outputs. Returns the index of the copy. */
uint32_t rewrite_copy(Rewrite *r, uint32_t index);
/* The new value of an old one; ir_bug when it has none (used before it is defined). */
ValueId rewrite_value(const Rewrite *r, ValueId old);
/* From now on the old value means `new_value`. */
void rewrite_map(Rewrite *r, ValueId old, ValueId new_value);
/* Copies the results. */
void rewrite_end(Rewrite *r);

#endif
