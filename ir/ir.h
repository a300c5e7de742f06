/* The intermediate representation: straight-line SSA over typed tensors.
 *
 * A Module holds symbols, parameter tables, schedules, phases and functions. A Func is an array of instructions in
 * order; there is no control flow. Every value has one definition, a type and the Lua line that made it.
 *
 * Lifetimes: everything lives in one Arena per compilation and is never freed (law 5 of the design).
 * Errors: a user's mistake goes to ir_fail (one message, exit code 1); a broken invariant goes to ir_bug (exit code
 * 70).
 *
 * The language itself is described in docs/ir.md, the ops in ops.def (docs/ops.md is generated from it).
 */
#ifndef MOEC_IR_H
#define MOEC_IR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "ir/arena.h"

/* ---------------------------------------------------------------- types */

typedef enum DType { DTYPE_F32, DTYPE_BF16, DTYPE_I32, DTYPE_COUNT } DType;

typedef uint32_t SymbolId; /* index into Module.symbols */
typedef uint32_t ValueId;  /* index into Func.values */
#define NO_VALUE UINT32_MAX
#define NO_GROUP 0u

enum { MAX_RANK = 4, MAX_DIM_SYMBOLS = 4, MAX_OUTPUTS = 4 };

/* coefficient * product(symbol_i ^ power_i) + plus. A plain number has no symbols. Two dims are equal when their
 * values are: symbols are for the reader, every symbol has a number. Canonical: symbols sorted by id, no zero powers.
 */
typedef struct Dim {
  int64_t coefficient, plus;
  uint8_t symbol_count;
  int8_t power[MAX_DIM_SYMBOLS];
  SymbolId symbol[MAX_DIM_SYMBOLS];
} Dim;

/* Rank 0 is a scalar. `extent` is the offsets value (i32[G+1]) whose last entry is the number of live rows of dim 0, as
 * in f32[R<%off>,D]; NO_VALUE when all rows are live. Rank 1 [n] is one row of n columns. */
typedef struct Type {
  DType dtype;
  uint8_t rank;
  Dim dim[MAX_RANK];
  ValueId extent;
} Type;

/* Where a name is bound: numbers repeat under one name in different scopes (E=1 in @shared, E=16 in @experts). */
typedef struct Symbol {
  const char *name;
  int64_t value;
  const void *scope; /* the Module, Table or Func that declares it */
} Symbol;

/* A line of a script; file is NULL where there is none. */
typedef struct Loc {
  const char *file;
  int line;
} Loc;

/* ---------------------------------------------------------------- ops */

typedef enum Op {
#define OP(name, ...) OP_##name,
#include "ir/ops.def"
  OP_COUNT
} Op;

typedef enum AttrKind { ATTR_INT, ATTR_FLOAT, ATTR_DTYPE, ATTR_DIM, ATTR_SHAPE } AttrKind;

/* Every attribute name of the language with its one type. */
#define MOEC_ATTRS(X)                                                                                                  \
  X(axis, ATTR_INT)    /* reduced dim, negative counts from the end */                                                 \
  X(value, ATTR_FLOAT) /* of a constant */                                                                             \
  X(dtype, ATTR_DTYPE) /* of a cast or a constant; of a product or segment_sum: of its result */                       \
  X(size, ATTR_DIM)    /* length of an iota */                                                                         \
  X(columns, ATTR_DIM) /* columns of a one-hot, of random rows, of unpacked weights */                                 \
  X(rows, ATTR_DIM)    /* rows of a scatter's result, the bound of a route */                                          \
  X(shape, ATTR_SHAPE) /* of a reshape or broadcast */                                                                 \
  X(parts, ATTR_INT)   /* of a split */                                                                                \
  X(k, ATTR_INT)       /* of a top-k; of a route: the most experts a token may select */                               \
  X(ta, ATTR_INT)      /* 1: the first operand is transposed */                                                        \
  X(tb, ATTR_INT)      /* 1: the second operand is transposed */                                                       \
  X(groups, ATTR_INT)  /* equal slices of the rows, within each of which rows are ranked or assigned */                \
  X(heads, ATTR_INT)                                                                                                   \
  X(causal, ATTR_INT)                                                                                                  \
  X(tag, ATTR_INT) /* names a random stream, 32 bits; printed in hex */

typedef enum AttrName {
#define X(name, kind) ATTRIBUTE_##name,
  MOEC_ATTRS(X)
#undef X
      ATTRIBUTE_COUNT
} AttrName;

typedef struct Attr {
  AttrName name;
  union {
    int64_t i;
    double f;
    DType dtype;
    Dim dim;
    struct {
      uint8_t rank;
      Dim dim[MAX_RANK];
    } shape;
  };
} Attr;

/* Flags of an op (ops.def). */
enum {
  FLAG_ELEMENTWISE = 1 << 0, /* one result element from one element of each operand (after broadcasting) */
  FLAG_ROW = 1 << 1,    /* works within one row of its row space: reductions over the last dim, softmax, pick ... */
  FLAG_VIEW = 1 << 2,   /* the result is the operand's memory */
  FLAG_GATHER = 1 << 3, /* reads rows of an operand chosen by an index operand */
  FLAG_RANDOM = 1 << 4, /* a pure function of its operands and tag, but never folded */
  FLAG_NO_GRADIENT = 1 << 5,   /* the result is constant for differentiation */
  FLAG_GRADIENT_ONLY = 1 << 6, /* made by autodiff, has no gradient itself */
  FLAG_DECISION = 1 << 7,      /* discontinuous: recorded and replayed when runs are compared */
  FLAG_COMMUNICATES = 1 << 8
};

/* Stages of a module, in order. An op is legal in a set of stages (ops.def). */
typedef enum Stage { STAGE_GRAPH, STAGE_GRADIENT, STAGE_FUSED, STAGE_COUNT } Stage;

typedef struct OpInfo {
  const char *name;
  int min_inputs, max_inputs; /* max -1: any number */
  int outputs;                /* -1: given by attribute `parts` */
  const char *attributes;     /* "k tag?" names; `?` marks an optional one */
  unsigned flags;
  unsigned stages; /* bit set of Stage */
  const char *doc; /* one sentence with shapes */
} OpInfo;

extern const OpInfo op_info[OP_COUNT];
Op op_from_name(const char *name); /* OP_COUNT when there is none */

/* ---------------------------------------------------------------- module */

typedef enum ValueKind { VALUE_ARGUMENT, VALUE_PARAMETER, VALUE_RESULT } ValueKind;

/* Which of a parameter's tensors a reference means; moments occur in transitions only, the next value of a state (a
 * frozen parameter that training functions give a result "next @p") in updates only. */
typedef enum ParamSlot { SLOT_VALUE, SLOT_M, SLOT_V, SLOT_NEXT, SLOT_COUNT } ParamSlot;

typedef struct Value {
  const char *name; /* unique in its function, without % or @ */
  Type type;
  ValueKind kind;
  uint32_t inst;             /* VALUE_RESULT: the defining instruction */
  uint8_t output;            /* VALUE_RESULT: which of its outputs */
  ParamSlot slot;            /* VALUE_PARAMETER */
  const struct Table *table; /* VALUE_PARAMETER: whose parameter `parameter` is */
  const char *parameter;     /* VALUE_PARAMETER: its name */
} Value;

typedef struct Inst {
  Op op;
  uint16_t input_count, output_count, attr_count;
  ValueId *input;
  ValueId output[MAX_OUTPUTS];
  Attr *attr;
  Loc loc;
  uint32_t group;   /* NO_GROUP, or the group of instructions that become one kernel; a group's are adjacent */
  const char *note; /* "fused: ..." history printed behind the line, or NULL */
} Inst;

/* What a function returns: label is "loss", "ce", ... or "grad @p", "param @p", "m @p", "v @p", "next @p". */
typedef struct Result {
  const char *label;
  ValueId value;
} Result;

typedef struct Func {
  const char *name; /* "dense.train" */
  struct Module *module;
  struct Table *table; /* whose parameters @x means; NULL only in tests */
  Value *values;       /* arena vectors: length by vec_len() */
  Inst *insts;
  Result *results;
  const char **group_notes; /* index = group: history printed at the head of the group */
  struct NameIndex *index;  /* build.c: finds values by name; a cache that repairs itself */
} Func;

typedef struct Param {
  const char *name;
  Type type;
  const char *init; /* "normal(0.02)", for the reader; the @init function computes it */
  int segment;      /* index into Table.segments; -1: frozen */
  int64_t offset;   /* elements from the start of the arena, set by table_layout */
} Param;

/* Parameters that share decay and the step at which they were born: contiguous in every arena. */
typedef struct Segment {
  double weight_decay;
  int birth;      /* number of the phase whose entry made them: parameters of one birth share an Adam step count */
  int64_t offset; /* elements; multiple of 64 */
  int64_t size;   /* elements; multiple of SEGMENT_ROW */
} Segment;

enum { PARAM_ALIGN = 64, SEGMENT_ROW = 512 }; /* elements */

typedef struct Table {
  const char *name;
  Param *params;
  Segment *segments;
  int64_t size;               /* elements of one arena, frozen parameters last; set by table_layout */
  struct ParamIndex *by_name; /* private to table.c; parameters are added by table_add_param alone */
} Table;

/* One value per step of its phase (lr: of the run), f32. Beyond the end the last value holds. */
typedef struct Schedule {
  const char *name; /* "lr", "dense.tau" */
  float *values;
} Schedule;

typedef struct Phase {
  const char *name;
  int64_t steps; /* 0: to the end of the run */
  Table *table;
  const char *enter; /* name of the transition function, or NULL */
  double crossover;  /* experts per token above which @P.train.wide is faster than @P.train.packed; 0: one @P.train */
  Loc loc;
} Phase;

typedef struct Module {
  Arena *arena;
  const char *name;
  const char *task;
  Symbol *symbols;
  Table **tables;
  Schedule **schedules;
  Phase **phases;
  Func **funcs;
  const char *optimizer; /* "adam {beta1=0.9, ...}", for the reader; NULL when there is none */
  int64_t steps, sequence_length, batch, accumulate, vocabulary;
  DType precision; /* DTYPE_BF16: pass precision gives matrix products bf16 operands; else DTYPE_F32 */
  Stage stage;
} Module;

/* ---------------------------------------------------------------- errors (error.c) */

/* Message "file.lua:41: text" to the handler; the default handler prints it on standard error and exits with 1. */
_Noreturn void ir_fail(Loc loc, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A bug in moec: says so and exits with 70. */
_Noreturn void ir_bug(const char *format, ...) __attribute__((format(printf, 1, 2)));
typedef void (*ErrorHandler)(const char *message);
void ir_set_error_handler(ErrorHandler handler); /* must not return; NULL restores the default */
/* Where the mistake is when ir_fail gets no file; holds until the next mistake. No file takes it back. */
void ir_set_place(Loc place);

/* ---------------------------------------------------------------- building (build.c, dim.c) */

Module *module_new(Arena *arena, const char *name);
Table *module_add_table(Module *m, const char *name);
Func *module_add_func(Module *m, const char *name, Table *table);
Func *module_find_func(const Module *m, const char *name);   /* NULL when absent */
Table *module_find_table(const Module *m, const char *name); /* NULL when absent */
Param *table_add_param(Table *t, Module *m, Param p);
Param *table_find_param(const Table *t, const char *name);
/* Offsets of all parameters and segments: segment after segment, each parameter aligned to PARAM_ALIGN, each segment
 * padded to SEGMENT_ROW elements, frozen parameters last. The one place that fixes the layout of the flat arenas. */
void table_layout(Module *m, Table *t);
/* f32 or bf16: of every "grad @p" that functions of the table give and of g0, g1, ... that its update takes; f32 where
 * there are none. */
DType table_gradient_dtype(const Module *m, const Table *t);
/* Bytes of the arena of gradients in front of element `offset`. Behind the last segment, where frozen parameters
 * stand, are the next values of states, always f32. */
int64_t table_gradient_bytes(const Module *m, const Table *t, int64_t offset);

SymbolId module_add_symbol(Module *m, const void *scope, const char *name, int64_t value);

Dim dim_number(int64_t n);
Dim dim_symbol(SymbolId s);
Dim dim_multiply(Dim a, Dim b);
Dim dim_product(const Module *m, Dim a, Dim b); /* the same; a number where the product is no monomial plus constant */
bool dim_divide(const Module *m, Dim a, Dim b, Dim *quotient); /* false when the values do not divide */
Dim dim_add(const Module *m, Dim a, int64_t n);
int64_t dim_value(const Module *m, Dim d);
bool dim_equal(const Module *m, Dim a, Dim b); /* by value */

Type type_scalar(DType dtype);
Type type_make(DType dtype, int rank, const Dim *dims);
int64_t type_elements(const Module *m, Type t); /* of the static bound */
int64_t type_bytes(const Module *m, Type t);    /* of these */
bool type_equal(const Module *m, Type a, Type b);
size_t dtype_size(DType dtype);
const char *dtype_name(DType dtype);

ValueId func_add_argument(Func *f, const char *name, Type type);
/* The value that stands for parameter `name` of `table` (NULL: the function's own); the same id each time. */
ValueId func_parameter(Func *f, const Table *table, const char *name, ParamSlot slot);
void func_add_result(Func *f, const char *label, ValueId value);
ValueId func_find_value(const Func *f, const char *name); /* NO_VALUE when absent */
ValueId func_find_result(const Func *f, const char *label);
bool result_is_gradient(const Result *result); /* "grad @p" */
/* Whether it is @T.update of its table @T, whose arguments p0, g0, m0, v0, p1, ... are the segments of the arenas. */
bool func_is_update(const Func *f);
/* "g3" of an update: the gradients of segment 3. */
bool func_is_gradient_argument(const Func *f, const Value *value);

/* Appends an instruction; infers and checks types (ir_fail at `loc` when they do not fit). Returns its first output.
 * Names of outputs are made from the op's name ("matmul_3") and may be changed by value_rename. */
ValueId build(Func *f, Op op, Loc loc, const ValueId *input, int input_count, const Attr *attr, int attr_count);
Inst *build_inst(Func *f, Op op, Loc loc, const ValueId *input, int input_count, const Attr *attr, int attr_count);
void value_rename(Func *f, ValueId v, const char *name); /* makes it unique by a suffix where needed */

/* Short forms for C code that builds arithmetic (gradient rules, dense_experts). */
ValueId build1(Func *f, Op op, Loc loc, ValueId a);
ValueId build2(Func *f, Op op, Loc loc, ValueId a, ValueId b);
ValueId build_const(Func *f, Loc loc, double value);
ValueId build_sum(Func *f, Loc loc, ValueId a, int axis);
ValueId build_reshape(Func *f, Loc loc, ValueId a, int rank, const Dim *shape);
/* `a` broadcast to the given type (ragged when the type is); `a` itself when it has that shape already. */
ValueId build_broadcast(Func *f, Loc loc, ValueId a, Type like);
ValueId build_matmul(Func *f, Loc loc, ValueId a, ValueId b, bool ta, bool tb);

Attr attr_int(AttrName name, int64_t value);
Attr attr_float(AttrName name, double value);
Attr attr_dtype(DType value);
Attr attr_dim(AttrName name, Dim value);
Attr attr_shape(int rank, const Dim *shape);
const Attr *inst_attr(const Inst *inst, AttrName name); /* NULL when absent */
int64_t inst_int(const Inst *inst, AttrName name, int64_t otherwise);
double inst_float(const Inst *inst, AttrName name, double otherwise);
extern const char *const attr_name[ATTRIBUTE_COUNT];
extern const AttrKind attr_kind[ATTRIBUTE_COUNT];

/* ---------------------------------------------------------------- rules derived from ops.def */

/* shape.c: checks operands and attributes of `inst` and writes the types of its outputs. Returns NULL, or a message
 * in the module's arena that names both types and what was expected. */
typedef const char *(*ShapeRule)(const Func *f, const Inst *inst, Type *outputs);
extern const ShapeRule shape_rule[OP_COUNT];

/* flops.c: useful work of one execution at the static bounds (ragged rows: see `live_rows`). One multiply-add of a
 * product is 1 MAC = 2 FLOPs; elementwise work counts 1 FLOP per element and primitive. Attention counts causal pairs
 * at half. `live_rows` < 0 means the bound R; otherwise it replaces the rows of ragged dims. */
typedef struct Work {
  double macs, flops, bytes;
} Work;
typedef Work (*FlopRule)(const Func *f, const Inst *inst, double live_rows);
extern const FlopRule flop_rule[OP_COUNT];

/* gradient.c: given the gradients of the outputs, adds to those of the inputs. */
typedef struct Gradients {
  Func *f;
  ValueId *of;  /* arena vector by ValueId of the forward part: its gradient so far, or NO_VALUE */
  bool *wanted; /* by ValueId: some parameter reaches it */
} Gradients;
typedef void (*GradientRule)(Gradients *g, const Inst *inst);
extern const GradientRule
    gradient_rule[OP_COUNT]; /* NULL exactly for NO_GRADIENT and GRADIENT_ONLY ops and views of them */

/* ---------------------------------------------------------------- text (print.c, parse.c), checks (verify.c) */

void module_print(const Module *m, FILE *out);
void func_print(const Func *f, FILE *out);
char *type_text(const Func *f, Type t); /* "f32[N,D]" in the arena */
char *dim_text(const Module *m, Dim d);
char *schedule_text(Arena *arena, const Schedule *s); /* "linear(a,b,n);raw(v,v)", the runs of docs/plan.md */
/* print(parse(text)) == text for every text that print makes. Errors as "name:line: what, expected what" by ir_fail. */
Module *module_parse(Arena *arena, const char *name, const char *text);

/* Re-derives every type, checks SSA, groups, stage legality, results, table layout. ir_bug when `where` (a pass)
 * broke something; ir_fail when `where` is NULL (a user's text). */
void module_verify(const Module *m, const char *where);

#endif
