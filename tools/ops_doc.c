/* Prints docs/ops.md from the op table: `ops_doc > docs/ops.md`. */
#include <stdio.h>
#include <string.h>

#include "ir/ir.h"

typedef struct Row {
  const char *shape, *gradient, *flop, *lower;
} Row;

static const Row rows[OP_COUNT] = {
#define OP(name, min, max, outputs, attributes, flags, stages, shape, gradient, flop, eval, lower, doc)                \
  {#shape, #gradient, #flop, #lower},
#include "ir/ops.def"
};

static const char *const attr_text[] = {[ATTR_INT] = "integer",
                                        [ATTR_FLOAT] = "number",
                                        [ATTR_DTYPE] = "f32, bf16 or i32",
                                        [ATTR_DIM] = "dim",
                                        [ATTR_SHAPE] = "shape"};

static const struct {
  unsigned flag;
  const char *name, *meaning;
} flag_text[] = {
    {FLAG_ELEMENTWISE, "elementwise", "one result element from one element of each operand, after broadcasting"},
    {FLAG_ROW, "row", "works within one row: reductions over the last dim, softmax, pick, ..."},
    {FLAG_VIEW, "view", "the result is the operand's memory"},
    {FLAG_GATHER, "gather", "reads rows of an operand that an index operand chooses"},
    {FLAG_RANDOM, "random", "a pure function of operands and tag, but never folded"},
    {FLAG_NO_GRADIENT, "constant", "the result is constant for differentiation"},
    {FLAG_GRADIENT_ONLY, "gradient only", "made by autodiff"},
    {FLAG_DECISION, "decision", "discontinuous: recorded and replayed when runs are compared"},
    {FLAG_COMMUNICATES, "communicates", "exchanges data between ranks"}};

enum { FLAGS = sizeof flag_text / sizeof *flag_text };

/* A cell of a table: `|` would end it. */
static void put_cell(const char *text) {
  for (; *text; text++)
    printf("%s%c", *text == '|' ? "\\" : "", *text);
}

static void put_operands(const OpInfo *op) {
  if (op->max_inputs < 0)
    printf("%d or more", op->min_inputs);
  else if (op->max_inputs > op->min_inputs)
    printf("%d-%d", op->min_inputs, op->max_inputs);
  else
    printf("%d", op->min_inputs);
}

static void put_flags(const OpInfo *op) {
  const char *separator = "";
  for (int i = 0; i < FLAGS; i++) {
    if (!(op->flags & flag_text[i].flag))
      continue;
    printf("%s%s", separator, flag_text[i].name);
    separator = ", ";
  }
}

static void put_op(Op op) {
  const OpInfo *info = &op_info[op];
  printf("| `%s` | ", info->name);
  put_operands(info);
  printf(" | ");
  if (info->outputs < 0)
    printf("parts");
  else
    printf("%d", info->outputs);
  printf(" | %s | ", info->attributes);
  put_cell(info->doc);
  printf(" | ");
  put_flags(info);
  printf(" | %s | %s | %s | %s |\n", strcmp(rows[op].gradient, "none") ? "yes" : "", rows[op].shape, rows[op].flop,
         rows[op].lower);
}

int main(void) {
  printf(
      "# The ops\n\nMade from `ir/ops.def` by `tools/ops_doc.c`; do not edit. `docs/ir.md` defines the language.\n\n"
      "%d ops. An attribute with `?` is optional. Shapes broadcast as in NumPy; reductions keep the reduced dim with "
      "size 1;\na ragged operand `f32[R<%%off>,C]` makes the result ragged by the same offsets.\n\n",
      OP_COUNT);
  printf("| op | operands | outputs | attributes | meaning | flags | gradient | shape rule | FLOP rule | lowering |\n"
         "|---|---|---|---|---|---|---|---|---|---|\n");
  for (int op = 0; op < OP_COUNT; op++)
    put_op((Op)op);
  printf("\n## Attributes\n\n| attribute | kind |\n|---|---|\n");
  for (int a = 0; a < ATTRIBUTE_COUNT; a++)
    printf("| `%s` | %s |\n", attr_name[a], attr_text[attr_kind[a]]);
  printf("\n## Flags\n\n| flag | meaning |\n|---|---|\n");
  for (int i = 0; i < FLAGS; i++)
    printf("| %s | %s |\n", flag_text[i].name, flag_text[i].meaning);
  return ferror(stdout) != 0;
}
