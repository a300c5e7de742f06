/* The body of a row kernel: an SSA program over one row (codegen/kernel_*.c only).
 *
 * kernel_build.c makes it from instructions, kernel_schedule.c decides in which loop each node is computed and what is
 * kept between loops, kernel_print.c prints it. A node is a row scalar (columns 1) or a vector over columns. Loops over
 * columns come in levels: a row reduction over a vector of level L is a scalar of level L + 1.
 *
 * Nodes of context 0 belong to the kernel's row. The nodes that a combine or unpack evaluates at the packed rows of a
 * token belong to that node's context; they are row scalars and vectors, never reductions.
 */
#ifndef MOEC_KERNEL_IR_H
#define MOEC_KERNEL_IR_H

#include "codegen/kernel.h"
#include "ir/rows.h"

#define NO_NODE UINT32_MAX
#define NO_OPERAND UINT32_MAX
#define NO_BUFFER_LIMIT INT64_MAX

typedef enum NodeKind {
  NODE_CONST,      /* number */
  NODE_LOAD,       /* of an operand: row by address or row_node; column: c of a vector, else column_node or 0 */
  NODE_ROW,        /* i32: the row */
  NODE_COLUMN,     /* i32: the column c */
  NODE_MATH,       /* op of the inputs, element by element */
  NODE_UNIFORM,    /* a random draw; inputs index, step; operands seed and tag_operand */
  NODE_EXPERT,     /* i32: the expert whose packed rows hold the row; operand: offsets */
  NODE_REDUCE,     /* op (sum, maximum, minimum) over the columns of the input */
  NODE_COLUMN_SUM, /* sum of the input over rows */
  /* those that fill a buffer of a whole row at once */
  NODE_COMBINE,  /* sum of the input, of this node's context, over the slots of the row */
  NODE_UNPACK,   /* the input placed at column input 1, both of this node's context, for every slot; else 0 */
  NODE_ROWS_SUM, /* sum of `count` rows of the operand from `address` on, `stride` rows apart */
  NODE_TOPK,     /* 1 at the `count` largest of the input, else 0 */
  NODE_PRODUCT   /* input (a row of `count` columns) times the operand [count,columns], or transposed */
} NodeKind;

typedef struct Node {
  NodeKind kind;
  Op op;
  DType dtype; /* bf16 is computed as float and rounded by casts and stores */
  int64_t columns;
  uint32_t context; /* 0, or 1 + the combine or unpack */
  uint32_t input[3];
  int input_count;
  uint32_t operand, tag_operand;
  RowAddress address;
  uint32_t row_node, column_node;
  int64_t ld;
  int64_t count, stride;
  bool transposed;
  double number;
  ValueId value; /* what the reader calls it; NO_VALUE for parts of a decomposed op */
} Node;

typedef struct BodyOperand {
  OperandRole role;
  DType dtype;
  ValueId value;
  bool seed;
  bool exact;        /* input: read at the kernel's own row only; vectors in column order, scalars anywhere in it */
  bool picked;       /* input: such a scalar is read, on a GPU by every thread of the row */
  int64_t alignment; /* bytes: of the address of its first element, at most VALUE_ALIGNMENT */
  int64_t ld, columns;
  int64_t scratch_bytes;
  int64_t tag;
} BodyOperand;

typedef struct BodyOutput {
  uint32_t node, operand;
  int64_t ld;
  uint32_t scratch; /* of a column sum: the operand with the partial sums */
} BodyOutput;

typedef struct KernelBody {
  const Func *f; /* of the first user: names, shapes and lines for the reader */
  uint32_t first, last;
  Node *nodes;           /* arena vectors */
  BodyOperand *operands; /* in the order of the kernel's pointers */
  BodyOutput *outputs;
  int64_t rows;           /* static bound */
  bool one_row;           /* no loop */
  int64_t rows_per_live;  /* rows of one live entry of dim 0 */
  ValueId extent;         /* offsets whose last entry counts the live entries, or NO_VALUE */
  int64_t block_rows;     /* rows of a block of partial sums; 0: the kernel has no column sums */
  uint32_t given_operand; /* whose columns the text's surroundings have in `given` (kernel_epilogue.c), or NO_OPERAND */
} KernelBody;

enum { MAX_BLOCKS = 128, MIN_BLOCK_ROWS = 16 };

/* kernel_build.c; `cuda`: the blocks of partial sums suit a GPU. */
KernelBody *kernel_build(Arena *arena, const Func *f, uint32_t first, uint32_t last, const ValueLayout *layout,
                         bool cuda);
/* kernel_cuda.c: into how many blocks of rows sums over the rows of the body are cut on a GPU. */
int64_t kernel_cuda_blocks(const KernelBody *body);
/* kernel_cuda.c: whether the threads of a row wait for all of them between levels. */
bool kernel_cuda_waits(const KernelBody *body);
bool node_is_whole(const Node *n);           /* fills a buffer of a whole row */
bool node_is_vector(const Node *n);          /* more than one column */
bool body_is_scalar(const KernelBody *body); /* has row scalars only */

/* kernel_schedule.c. How a vector that a later loop needs comes there. */
typedef enum Keep {
  KEEP_NOTHING, /* it is not needed later, or computed again */
  KEEP_BUFFER,  /* in a buffer of its columns */
  KEEP_OUTPUT   /* read back from the output it was stored to */
} Keep;

typedef struct LoopPlan {
  int levels;       /* number of levels */
  int64_t *columns; /* arena vector: the distinct numbers of columns of vectors, each a loop per level */
  int *level;     /* by node: the level at which it is known; of a vector, the level of the first loop that needs it */
  Keep *keep;     /* by node */
  bool *shared;   /* by node: its buffer is read at columns other than the one at hand */
  bool *root;     /* by node: a reduction, a column sum or a store needs it in the loop of its level */
  bool *in_place; /* by operand: see KernelOperand */
} LoopPlan;

/* buffer_limit: the most columns of a buffer in registers, which the thread of a column alone reads; a wider vector is
 * computed again instead. NO_BUFFER_LIMIT: buffers are memory. A node that fills a whole row fills that of its output
 * where it has one and cannot be made in registers, not a buffer. */
LoopPlan *kernel_schedule(Arena *arena, const KernelBody *body, int64_t buffer_limit);
/* By node: whether the loop of a level over a number of columns computes or reads it. */
bool *schedule_loop_nodes(Arena *arena, const KernelBody *body, const LoopPlan *plan, int level, int64_t columns);
/* The level behind whose loops a reduction or whole-row node is complete; of others their level. */
int schedule_making_level(const KernelBody *body, const LoopPlan *plan, uint32_t node);

#endif
