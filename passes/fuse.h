/* Forming groups of instructions that become one row kernel: what fuse_gate and fuse_rows share.
 *
 * In: a function and which of its instructions may stand in a group. Out: the same instructions in another order, those
 * of a group adjacent and marked, each group with a note; a ledger decision for every group and for every producer and
 * consumer that stayed apart, with the reason. Holds: nothing is computed differently.
 *
 * The search is greedy, in the order of the program: an instruction joins the groups that make its operands, if all of
 * them can stand at its place (nothing between needs them before) and one row kernel can hold them (ir/rows.h). Where
 * that fails it joins a group at the group's place instead, if its other operands are known there. Moving never keeps
 * more bytes alive across a matrix product than it saves. */
#ifndef MOEC_FUSE_H
#define MOEC_FUSE_H

#include "passes/pass.h"

typedef struct FuseLimits {
  int64_t operands;     /* distinct values read from and written to memory */
  int64_t buffers;      /* rows kept between loops over columns */
  int64_t instructions; /* in one group */
} FuseLimits;

/* The limits of the running pass: --PASS:operands=24 ... or, where the command line says nothing, `otherwise`. */
FuseLimits fuse_limits(const PassContext *context, FuseLimits otherwise);
#define FUSE_OPTIONS "operands buffers instructions"

/* `member`: by instruction, whether it may be grouped; it must be a row_op outside of every group. `seed`: by
 * instruction, or NULL; only groups that hold a seed are formed then. Returns whether a group was formed. */
bool fuse_func(const PassContext *context, Func *f, const bool *member, const bool *seed, FuseLimits limits);

#endif
