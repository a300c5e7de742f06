/* What the files of ir/ share among themselves and nobody else needs. */
#ifndef MOEC_IR_INTERNAL_H
#define MOEC_IR_INTERNAL_H

#include "ir/ir.h"

/* Limits that keep every product of sizes inside 64 bits and every list inside memory, whatever a text says. */
#define MAX_ELEMENTS ((int64_t)1 << 48)
#define MAX_COEFFICIENT ((int64_t)1 << 62)
enum { MAX_SYMBOLS = 4096, MAX_SYMBOL_NAME = 31, MAX_NAME = 255, MAX_INPUTS = 4096 };

static const Loc no_loc = {NULL, 0};

/* ops.c */
typedef enum AttrUse { ATTR_USE_NONE, ATTR_USE_OPTIONAL, ATTR_USE_REQUIRED } AttrUse;
AttrUse op_attr_use(Op op, AttrName name);
AttrName attr_from_name(const char *name); /* ATTRIBUTE_COUNT when there is none */

/* dim.c */
bool dim_evaluate(const Module *m, Dim d, int64_t *value);     /* false: does not divide, or beyond 62 bits */
bool dim_try_multiply(Dim a, Dim b, bool divide, Dim *result); /* false: the result is no monomial plus a constant */
/* NULL, or why the type cannot be: a dim below 1, too many elements. */
const char *type_problem(const Module *m, Type t);
/* What `name` means inside `f` (may be NULL) or else inside `table` (may be NULL): the innermost scope wins.
 * UINT32_MAX when there is none. */
SymbolId symbol_lookup(const Module *m, const Func *f, const Table *table, const char *name);
/* Text that means the same dim when it is read inside `f` or `table`: with names where they resolve to the same
 * number there, else the number. */
char *dim_text_in(const Module *m, const Func *f, const Table *table, Dim d);
char *type_text_in(const Module *m, const Func *f, const Table *table, Type t);

/* build.c */
/* Appends an instruction whose outputs have the given names (NULL: made from the op's). */
Inst *build_named(Func *f, Op op, Loc loc, const ValueId *input, int input_count, const Attr *attr, int attr_count,
                  const char *const *names);
/* NULL, or why the op cannot have this number of operands or these attributes. */
const char *inst_form_problem(const Module *m, Op op, int input_count, const Attr *attr, int attr_count);
/* "@w", "@shared::w", "@shared::w!m": how `f` writes a reference to a parameter. */
char *parameter_text(const Func *f, const Table *table, const char *name, ParamSlot slot);
bool name_is_valid(const char *name); /* letters, digits, _ . - and not empty */
void func_reindex(const Func *f);     /* forgets the name index, so that it is made from the values as they are */

/* table.c */
void table_place(const Module *m, Table *t); /* table_layout, for a copy too */

/* number.c */
char *number_text(Arena *a, double value); /* the fewest digits that read back to the same double; nan, inf, -inf */

/* print.c */
extern const char *const stage_name[STAGE_COUNT];

/* scan.c */
bool note_is_valid(const char *note); /* "word: text" on one line */

/* shape.c */
bool is_offsets(const Func *f, ValueId v); /* i32[groups+1], groups at least 1 */
int inst_output_count(const Inst *inst);   /* by op and attribute `parts` */

#endif
