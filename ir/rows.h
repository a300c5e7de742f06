/* Row spaces: which instructions can stand in one row kernel, and how they address their operands.
 *
 * A row kernel is a loop over rows. A value of rank 2 is rows x columns; higher ranks collapse to (product of the
 * leading dims) x (last dim); a scalar is 1 x 1, a vector [n] is one row of n columns, a ragged vector [R<off>] is R
 * rows of one column. Fusion passes ask row_group_refusal before they form a group; codegen/kernel_build.c relies on
 * it.
 */
#ifndef MOEC_ROWS_H
#define MOEC_ROWS_H

#include "ir/ir.h"

typedef struct RowShape {
  int64_t rows, columns;
} RowShape;

/* What an instruction loops over. `extent`: offsets whose last entry counts the live entries of dim 0, each of which
 * is `rows_per_entry` rows (1 except for ragged values of rank 3 and 4). */
typedef struct RowSpace {
  int64_t rows, rows_per_entry;
  ValueId extent;
} RowSpace;

/* How an instruction reads an operand. */
typedef enum RowRead {
  ROW_READ_ROW,     /* the row of the operand that belongs to the row (row_address), all its columns or its only one */
  ROW_READ_ELEMENT, /* element r of an index vector [n] or [n,1] */
  ROW_READ_GATHER,  /* rows or elements chosen by data */
  ROW_READ_SLOTS,   /* a token's packed rows */
  ROW_READ_ROWS,    /* several rows, in order: a sum over a middle dim */
  ROW_READ_WHOLE,   /* every row reads all of it: offsets, the weights of a small product */
  ROW_READ_NOTHING  /* named for its type only */
} RowRead;

/* The operand's row of row r: sum over terms of (r / divide) % modulo * stride, modulo 0 meaning none. No terms: its
 * one row serves all. The same row is the one term {1, 0, 1}. */
typedef struct RowTerm {
  int64_t divide, modulo, stride;
} RowTerm;
typedef struct RowAddress {
  int term_count;
  RowTerm term[MAX_RANK];
} RowAddress;

enum { ROW_PRODUCT_MAX = 64 }; /* columns of a matrix product that may stand in a row kernel */

RowShape row_shape(const Module *m, Type t);
RowSpace row_space(const Func *f, const Inst *inst);
bool row_space_equal(RowSpace a, RowSpace b);
/* Elementwise, row, gather and column-sum ops, and matrix products x[N,D] w with at most ROW_PRODUCT_MAX columns. */
bool row_op(const Func *f, const Inst *inst);
RowRead row_read(const Func *f, const Inst *inst, int operand);
/* Of ROW_READ_ROW: where the operand's row stands, from the types of the instruction's rows and of the operand. */
RowAddress row_address(const Module *m, Type row_type, Type operand);
bool row_address_is_same(RowAddress a);
/* A sum over dim 0, which crosses rows: its result leaves the kernel at its end. */
bool row_is_column_sum(const Func *f, const Inst *inst);

/* How often each value is read, by ValueId; being a result counts as one read. */
uint32_t *row_count_uses(const Func *f, Arena *arena);

/* Whether the instructions can be one row kernel, given in the order in which they shall stand. NULL, or the reason why
 * not, in the module's arena: "softmax_3 has rows N, matmul_2 has rows R". */
const char *row_group_refusal(const Func *f, const uint32_t *insts, uint32_t count, const uint32_t *uses);
/* The space of the kernel's loop for such a group. */
RowSpace row_group_space(const Func *f, const uint32_t *insts, uint32_t count);

#endif
