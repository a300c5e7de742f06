/* The C-style printer of kernel bodies and its two targets (codegen/kernel_*.c only).
 *
 * kernel_print.c prints what both targets share: names, addresses, expressions, the order of loops. A CStyle holds what
 * differs: the function's frame, the loop over columns, how a reduction ends, how threads wait for each other.
 */
#ifndef MOEC_KERNEL_PRINT_H
#define MOEC_KERNEL_PRINT_H

#include "codegen/kernel_ir.h"

typedef struct Printer Printer;

/* Words of a target that depend on the kernel. */
typedef struct CWords {
  const char *one_thread;     /* "if (lane == 0) " in front of a store of a scalar */
  const char *call_arguments; /* what the whole-row functions get behind their own: ", lane" */
  const char *wide;           /* in front of a row number whose product with a row's length needs 64 bits */
  const char *expert;         /* that of the row, where it is known; NULL: it is looked up */
} CWords;

/* How the loop over columns that is being printed goes. A loop may take `width` columns at a time: their loads stand in
 * front of a loop over i that computes one column each, their stores behind it. */
typedef struct ColumnLoop {
  int width;           /* 1: no loop over i */
  int64_t stride;      /* columns between those taken at a time; 1: side by side */
  int64_t guard;       /* columns of the row where a thread's last ones may lie behind them; 0: they cannot */
  int64_t rest;        /* columns that the loop leaves to another one behind it (open_rest) */
  const char *element; /* index of a kept vector's own column: "c", or "k * 4 + i" for one in registers */
  const char *sum;     /* index of a column sum's own column */
} ColumnLoop;

typedef struct CStyle {
  int64_t (*buffer_limit)(const KernelBody *body);
  CWords (*words)(Arena *arena, const KernelBody *body);
  void (*open)(Printer *p);  /* signature, operands, up to the inside of the loop over rows */
  void (*close)(Printer *p); /* ends the loop over rows, finishes column sums, ends the function */
  /* Loop over columns; fills p->loop. `reductions`: nodes it accumulates; ended by NO_NODE. */
  void (*open_columns)(Printer *p, int64_t columns, const uint32_t *reductions);
  /* Ends a loop that leaves columns and begins the one over these. */
  void (*open_rest)(Printer *p, int64_t columns);
  void (*close_columns)(Printer *p, int64_t columns, const uint32_t *reductions);
  /* Behind the name of the function of a whole-row node: "<32>". */
  const char *(*call_template)(Printer *p, uint32_t node);
  void (*wait)(Printer *p); /* until all threads of the row see what was stored in shared buffers */
} CStyle;
extern const CStyle kernel_style_cpu, kernel_style_cuda;

struct Printer {
  Arena *arena;
  FILE *out;
  const CStyle *style;
  CWords words;
  const KernelBody *body;
  const LoopPlan *plan;
  const char *name;
  bool names; /* the first user's names and lines, or none: the text that the hash is made of */
  int indent; /* in levels of two spaces */
  ColumnLoop loop;
  const char **operand;    /* by operand: its pointer's name */
  const char **node;       /* by node: of a scalar or of a vector's element */
  const char **row;        /* by vector load, buffer, filled row: the name of its row */
  const char **out_row;    /* by output: the name of its row */
  const char **vector;     /* by node that is loaded several columns at a time: their name */
  const char **out_vector; /* by output that is stored so */
  const char **sum;        /* by output that is a column sum: the name of the block's sum */
  const char **used;       /* arena vector of names taken */
};

/* The whole text of the kernel's function. */
char *kernel_print(Arena *arena, const CStyle *style, const KernelBody *body, const char *name, bool names);

/* kernel_text.c: parts of statements. */
const char *print_number(Printer *p, DType dtype, double number);
const char *print_reference(Printer *p, uint32_t i); /* what stands for a node in an expression */
const char *print_math(Printer *p, const Node *n);
bool print_is_choice_of_row(const Printer *p, const Node *n);
const char *print_row_index(Printer *p, RowAddress a, const char *row);
const char *print_offset(Printer *p, const char *index, int64_t ld);
const char *print_load_offset(Printer *p, const Node *n); /* of the row that a load reads */
const char *print_convert_load(Printer *p, DType dtype, const char *element);
const char *print_convert_store(Printer *p, const BodyOutput *o);
const char *print_comment(Printer *p, uint32_t operand); /* with its value's type and name */
/* A comment: the instructions that a kernel is first used for, with the sizes of their dims and their Lua lines. */
void kernel_print_use(FILE *out, const Func *f, uint32_t first, uint32_t last);

/* For the styles. */
void print_line(Printer *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
void print_pragma(Printer *p, const char *format, ...) __attribute__((format(printf, 2, 3))); /* at the margin */
const char *print_c_type(DType stored); /* "float", "int32_t", "uint16_t" */
const char *print_register_type(DType computed);
const Node *print_node(const Printer *p, uint32_t i);
bool body_reduces(const KernelBody *body); /* has reductions or whole-row nodes */
bool output_is_column_sum(const KernelBody *body, uint32_t output);
int64_t output_columns(const KernelBody *body, uint32_t output);
bool operand_is_finished(const KernelBody *body, uint32_t operand); /* a sum over rows ends in it: NAME_finish's */
bool operand_is_launched(const KernelBody *body, uint32_t operand); /* the kernel itself uses it */
void print_open_elements(Printer *p);                               /* the loop over i, where p->loop has one */
void print_close_elements(Printer *p);
int64_t body_row_cost(const KernelBody *body); /* operations per row, roughly */

/* kernel_cuda.c */
KernelGeometry kernel_body_geometry(const KernelBody *body);

#endif
