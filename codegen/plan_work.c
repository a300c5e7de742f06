/* FLOPs, bytes and seconds of a plan's steps. See plan_work.h.
 *
 * In: a function's plan, for either target, and rates. Out: sums by what the steps are there for. Holds: what a step
 * reads and writes is taken from its fields and from the types of the values that stand there, not from the
 * instructions it came from, but for templates, whose launches share the operands of their instruction: there the first
 * launch of an instruction counts them all. */
#include "codegen/plan_work.h"

#include <string.h>

#include "ir/rows.h"

const char *const work_kind_name[WORK_KIND_COUNT] = {
    [WORK_PRODUCT] = "products",   [WORK_GROUPED] = "grouped products",    [WORK_ATTENTION] = "attention",
    [WORK_ADAM] = "Adam",          [WORK_GRADIENT_NORM] = "gradient norm", [WORK_GATE] = "gate and routing",
    [WORK_LOSS] = "cross-entropy", [WORK_EMBEDDING] = "embedding",         [WORK_NORM] = "layer norm, residual",
    [WORK_MOVE] = "MoE moves",     [WORK_COLUMNS] = "GELU, bias, ...",     [WORK_OTHER] = "other"};

enum { NARROW = ROW_PRODUCT_MAX }; /* rows of so few columns are a gate's */

/* What a step runs on, which says at which rate. */
typedef enum Engine { ENGINE_PRODUCT, ENGINE_GROUPED, ENGINE_ATTENTION, ENGINE_ATTENTION_GRAD, ENGINE_ROW } Engine;

typedef struct StepWork {
  WorkKind kind;
  Engine engine;
  bool bf16;
  double flops, bytes;
} StepWork;

typedef struct Reader {
  const FuncPlan *plan;
  const Func *f;
  double live_rows;
} Reader;

/* ---------------------------------------------------------------- values and fields */

static double value_bytes(const Reader *r, ValueId v) {
  const Type t = r->f->values[v].type;
  double bytes = (double)type_bytes(r->f->module, t);
  if (t.extent != NO_VALUE && bytes > 0)
    bytes *= r->live_rows / (double)dim_value(r->f->module, t.dim[0]);
  return bytes;
}

static const Field *find_field(const Step *s, const char *key) {
  for (uint32_t i = 0; i < vec_len(s->fields); i++)
    if (s->fields[i].key && strcmp(s->fields[i].key, key) == 0)
      return &s->fields[i];
  return NULL;
}

/* The number under the key; a count that is in memory: the live rows; none: 0. */
static double number_of(const Reader *r, const Step *s, const char *key) {
  const Field *field = find_field(s, key);
  if (!field)
    return 0;
  return field->kind == FIELD_COUNT ? r->live_rows : (double)field->number;
}

static bool is_word(const Step *s, const char *key, const char *word) {
  const Field *field = find_field(s, key);
  return field && field->word && strcmp(field->word, word) == 0;
}

static double element_bytes(const Step *s, const char *key) {
  return (double)dtype_size(is_word(s, key, "bf16") ? DTYPE_BF16 : DTYPE_F32);
}

static Work inst_work(const Reader *r, uint32_t inst) {
  return flop_rule[r->f->insts[inst].op](r->f, &r->f->insts[inst], r->live_rows);
}

/* ---------------------------------------------------------------- row kernels */

/* Of the rows of v that the instruction takes, those that it gathers. */
static double gathered_bytes(const Reader *r, const Inst *inst, ValueId v) {
  const Type t = r->f->values[v].type, out = r->f->values[inst->output[0]].type;
  const double row = (double)row_shape(r->f->module, t).columns * (double)dtype_size(t.dtype);
  const double columns = (double)row_shape(r->f->module, out).columns * (double)dtype_size(out.dtype);
  return inst->op == OP_expand || columns == 0 ? value_bytes(r, v) : value_bytes(r, inst->output[0]) / columns * row;
}

/* Of an operand that the step reads: all of it, unless every instruction that reads it gathers. */
static double read_bytes(const Reader *r, const Step *s, ValueId v) {
  double gathered = 0;
  bool all = s->first_inst == NO_INST;
  for (uint32_t i = s->first_inst; !all && i <= s->last_inst; i++) {
    const Inst *inst = &r->f->insts[i];
    for (int k = 0; k < inst->input_count; k++) {
      const RowRead read = inst->input[k] == v ? row_read(r->f, inst, k) : ROW_READ_NOTHING;
      all |= read != ROW_READ_NOTHING && read != ROW_READ_GATHER;
      if (read == ROW_READ_GATHER)
        gathered = gathered_bytes(r, inst, v);
    }
  }
  return all || gathered == 0 ? value_bytes(r, v) : gathered;
}

/* Values and scratch; the seed, tags and counts are nothing. */
static double field_bytes(const Reader *r, const Step *s, const Field *field) {
  if (field->kind != FIELD_READ && field->kind != FIELD_WRITE)
    return 0;
  const Storage *storage = &r->plan->storages[field->place.storage];
  if (field->value == NO_VALUE)
    return storage->scratch ? (double)(storage->bytes - field->place.offset) : 0;
  return field->kind == FIELD_READ ? read_bytes(r, s, field->value) : value_bytes(r, field->value);
}

static double fields_bytes(const Reader *r, const Step *s) {
  double bytes = 0;
  for (uint32_t i = 0; i < vec_len(s->fields); i++)
    bytes += field_bytes(r, s, &s->fields[i]);
  return bytes;
}

static int64_t columns_read(const Reader *r, const Inst *inst) {
  return row_shape(r->f->module, r->f->values[inst->input[0]].type).columns;
}

static bool is_wide(const Reader *r, const Inst *inst) {
  const Type t = r->f->values[inst->output[0]].type;
  return type_elements(r->f->module, t) > 1 && row_shape(r->f->module, t).columns > NARROW;
}

/* Which kinds of work the instruction belongs to, as a bit set. */
static unsigned inst_kinds(const Reader *r, const Inst *inst) {
  const bool narrow = inst->input_count > 0 && columns_read(r, inst) <= NARROW;
  switch (inst->op) {
  case OP_matmul:
    return 1u << WORK_GATE;
  case OP_max:
  case OP_softmax:
  case OP_pick:
  case OP_topk_mask:
    return narrow ? 1u << WORK_GATE : 1u << WORK_LOSS;
  case OP_unpack:
    return 1u << WORK_GATE;
  case OP_gather_rows:
    return r->f->values[inst->input[0]].kind == VALUE_PARAMETER ? 1u << WORK_EMBEDDING : 1u << WORK_MOVE;
  case OP_sum:
    return row_is_column_sum(r->f, inst) || narrow ? 1u << WORK_OTHER : 1u << WORK_NORM;
  case OP_dispatch:
  case OP_combine:
  case OP_pack:
    return 1u << WORK_MOVE;
  default:
    return is_wide(r, inst) ? 1u << WORK_COLUMNS : 1u << WORK_OTHER;
  }
}

static WorkKind row_kind(const Reader *r, const Step *s) {
  unsigned kinds = 0;
  bool sums = false, dispatches = false;
  for (uint32_t i = s->first_inst; i <= s->last_inst; i++) {
    const Inst *inst = &r->f->insts[i];
    if (inst->op == OP_const || (op_info[inst->op].flags & FLAG_VIEW))
      continue;
    kinds |= inst_kinds(r, inst);
    sums |= inst->op == OP_sum;
    dispatches |= inst->op == OP_dispatch;
  }
  if (func_is_update(r->f))
    return sums || !(kinds & 1u << WORK_COLUMNS) ? WORK_GRADIENT_NORM : WORK_ADAM;
  if (dispatches && kinds & 1u << WORK_NORM) /* the gradient of a combine: rows, and their products with the outputs */
    return WORK_MOVE;
  for (WorkKind kind = 0; kind < WORK_KIND_COUNT; kind++)
    if (kinds >> kind & 1)
      return kind;
  return WORK_OTHER;
}

static StepWork row_work(const Reader *r, const Step *s) {
  StepWork work = {.kind = row_kind(r, s), .engine = ENGINE_ROW, .bytes = fields_bytes(r, s)};
  for (uint32_t i = s->first_inst; i <= s->last_inst; i++)
    work.flops += inst_work(r, i).flops;
  return work;
}

/* A second launch of a kernel adds up partial sums. */
static bool is_finish(const Step *s) {
  const char *name = s->fields[0].word, *suffix = "_finish";
  return name && strlen(name) > strlen(suffix) && strcmp(name + strlen(name) - strlen(suffix), suffix) == 0;
}

/* ---------------------------------------------------------------- products and templates */

static StepWork gemm_work(const Reader *r, const Step *s) {
  const double m = number_of(r, s, "m"), n = number_of(r, s, "n"), k = number_of(r, s, "k");
  const double in = element_bytes(s, "type"), out = find_field(s, "ctype") ? element_bytes(s, "ctype") : in;
  const double matrices = 1 + number_of(r, s, "beta") + (find_field(s, "aux") != NULL);
  const double vectors = find_field(s, "bias") ? n : 0;
  return (StepWork){.kind = WORK_PRODUCT,
                    .engine = ENGINE_PRODUCT,
                    .bf16 = is_word(s, "type", "bf16"),
                    .flops = 2 * m * n * k,
                    .bytes = in * (m * k + k * n) + out * (matrices * m * n + vectors)};
}

static bool is_grouped(Op op) {
  return op == OP_grouped_matmul || op == OP_grouped_outer || op == OP_matmul;
}

/* The grouped product that the step's instructions are, or are the epilogue of: then the last that they read. */
static uint32_t product_of(const Reader *r, const Step *s) {
  uint32_t product = is_grouped(r->f->insts[s->first_inst].op) ? s->first_inst : NO_INST;
  for (uint32_t i = s->first_inst; product != s->first_inst && i <= s->last_inst; i++)
    for (int k = 0; k < r->f->insts[i].input_count; k++) {
      const Value *v = &r->f->values[r->f->insts[i].input[k]];
      if (v->kind == VALUE_RESULT && v->inst < s->first_inst && r->f->insts[v->inst].op == OP_grouped_matmul &&
          (product == NO_INST || v->inst > product))
        product = v->inst;
    }
  if (product == NO_INST)
    ir_bug("%s: a grouped product without a product", r->f->name);
  return product;
}

static StepWork grouped_work(const Reader *r, const Step *s) {
  const uint32_t product = product_of(r, s);
  const Inst *inst = &r->f->insts[product];
  const Work own = inst_work(r, product);
  StepWork work = {.kind = WORK_GROUPED,
                   .engine = ENGINE_GROUPED,
                   .bf16 = r->f->values[inst->input[0]].type.dtype == DTYPE_BF16,
                   .flops = own.flops,
                   .bytes = own.bytes};
  if (product == s->first_inst)
    return work;
  work.bytes -= value_bytes(r, inst->output[0]); /* it stands among the fields where it is stored */
  for (uint32_t i = 0; i < vec_len(s->fields); i++)
    if ((s->fields[i].kind == FIELD_READ || s->fields[i].kind == FIELD_WRITE) && s->fields[i].value != NO_VALUE)
      work.bytes += field_bytes(r, s, &s->fields[i]);
  return work;
}

static WorkKind op_kind(Op op) {
  switch (op) {
  case OP_attention:
  case OP_attention_grad:
    return WORK_ATTENTION;
  case OP_scatter_rows:
    return WORK_EMBEDDING;
  case OP_segment_sum:
    return WORK_MOVE;
  case OP_route:
  case OP_rank_rows:
  case OP_balanced_assignment:
    return WORK_GATE;
  case OP_grouped_matmul:
  case OP_grouped_outer:
    return WORK_GROUPED;
  default:
    return WORK_OTHER;
  }
}

/* An instruction that is a step, or several of them: the first counts. */
static StepWork op_work(const Reader *r, const Step *s, bool first) {
  const Inst *inst = &r->f->insts[s->first_inst];
  const Work own = inst_work(r, s->first_inst);
  StepWork work = {.kind = op_kind(inst->op), .engine = ENGINE_ROW};
  if (work.kind == WORK_ATTENTION)
    work.engine = inst->op == OP_attention ? ENGINE_ATTENTION : ENGINE_ATTENTION_GRAD;
  if (work.kind == WORK_GROUPED) {
    work.engine = ENGINE_GROUPED;
    work.bf16 = r->f->values[inst->input[0]].type.dtype == DTYPE_BF16;
  }
  if (first) {
    work.flops = own.flops;
    work.bytes = own.bytes;
  }
  return work;
}

/* Read and written: as much as the smaller of the two places has. */
static StepWork copy_work(const Reader *r, const Step *s) {
  double least = 0;
  for (uint32_t i = 0; i < vec_len(s->fields); i++) {
    if (s->fields[i].kind != FIELD_READ && s->fields[i].kind != FIELD_WRITE)
      continue;
    const double bytes = (double)r->plan->storages[s->fields[i].place.storage].bytes;
    least = least == 0 || bytes < least ? bytes : least;
  }
  return (StepWork){.kind = WORK_OTHER, .engine = ENGINE_ROW, .bytes = 2 * least};
}

static StepWork template_work(const Reader *r, const Step *s, bool first) {
  const char *name = kernel_template(s->kernel);
  if (strcmp(name, "copy") == 0)
    return copy_work(r, s);
  if (strcmp(name, "fill") == 0 || strcmp(name, "widen") == 0)
    return (StepWork){.kind = WORK_OTHER, .engine = ENGINE_ROW};
  if (strncmp(name, "grouped", strlen("grouped")) == 0)
    return grouped_work(r, s);
  return op_work(r, s, first);
}

/* ---------------------------------------------------------------- steps */

/* Whether the step before is of the same instruction and the same way of doing it. */
static bool is_first(const FuncPlan *plan, uint32_t index) {
  const Step *s = &plan->steps[index];
  for (uint32_t i = index; i-- > 0;) {
    const Step *before = &plan->steps[i];
    if (before->first_inst != s->first_inst)
      return true;
    if (before->choice == s->choice && before->option == s->option && before->keyword == s->keyword &&
        (!before->kernel || !kernel_template(before->kernel) || strcmp(kernel_template(before->kernel), "copy") != 0))
      return false;
  }
  return true;
}

static StepWork step_work(const Reader *r, uint32_t index) {
  const Step *s = &r->plan->steps[index];
  if (strcmp(s->keyword, "gemm") == 0)
    return gemm_work(r, s);
  if (strcmp(s->keyword, "copy") == 0)
    return copy_work(r, s);
  if (strcmp(s->keyword, "fill") == 0)
    return (StepWork){.kind = WORK_OTHER, .engine = ENGINE_ROW};
  if (strcmp(s->keyword, "memset") == 0)
    return (StepWork){.kind = WORK_OTHER, .engine = ENGINE_ROW, .bytes = number_of(r, s, "bytes")};
  if (!s->kernel)
    return op_work(r, s, is_first(r->plan, index));
  if (kernel_template(s->kernel))
    return template_work(r, s, is_first(r->plan, index));
  StepWork work = row_work(r, s);
  if (is_finish(s))
    work.flops = 0;
  return work;
}

static double rate_of(const Rates *rates, const StepWork *work) {
  switch (work->engine) {
  case ENGINE_PRODUCT:
    return work->bf16 ? rates->product_bf16 : rates->product_f32;
  case ENGINE_GROUPED:
    return work->bf16 ? rates->grouped_bf16 : rates->grouped_f32;
  case ENGINE_ATTENTION:
    return rates->attention;
  case ENGINE_ATTENTION_GRAD:
    return rates->attention_grad;
  case ENGINE_ROW:
    break;
  }
  return rates->row;
}

static double seconds_of(const Rates *rates, const StepWork *work) {
  const double computing = work->flops / rate_of(rates, work), moving = work->bytes / rates->memory;
  return computing > moving ? computing : moving;
}

static void sum_add(WorkSum *sum, const WorkSum *other, double times) {
  sum->launches += times * other->launches;
  sum->flops += times * other->flops;
  sum->bytes += times * other->bytes;
  sum->seconds += times * other->seconds;
  sum->bound += times * other->bound;
}

void work_add(FuncWork *sum, const FuncWork *work, double times) {
  for (int kind = 0; kind < WORK_KIND_COUNT; kind++)
    sum_add(&sum->kind[kind], &work->kind[kind], times);
  sum_add(&sum->all, &work->all, times);
}

/* Steps from..end. */
static FuncWork steps_work(const Reader *r, const Rates *rates, uint32_t from, uint32_t end) {
  FuncWork sum = {0};
  for (uint32_t i = from; i < end; i++) {
    const StepWork work = step_work(r, i);
    const WorkSum one = {.launches = 1,
                         .flops = work.flops,
                         .bytes = work.bytes,
                         .seconds = seconds_of(rates, &work),
                         .bound = rates->bound ? seconds_of(rates->bound, &work) : 0};
    sum_add(&sum.kind[work.kind], &one, 1);
    sum_add(&sum.all, &one, 1);
  }
  return sum;
}

/* The end of the steps from `from` on that are of the same choice; with `option`, of the same way of doing it. */
static uint32_t end_of(const FuncPlan *plan, uint32_t from, bool option) {
  const Step *s = &plan->steps[from];
  uint32_t end = from + 1;
  while (s->choice && end < vec_len(plan->steps) && plan->steps[end].choice == s->choice &&
         (!option || strcmp(plan->steps[end].option, s->option) == 0))
    end++;
  return end;
}

FuncWork plan_func_work(const FuncPlan *plan, const Rates *rates, double live_rows) {
  const Reader r = {plan, plan->func, live_rows};
  FuncWork sum = {0};
  for (uint32_t i = 0; i < vec_len(plan->steps);) {
    const uint32_t end = end_of(plan, i, false);
    FuncWork best = {0};
    for (uint32_t from = i; from < end;) {
      const uint32_t to = end_of(plan, from, true);
      const FuncWork way = steps_work(&r, rates, from, to);
      if (from == i || way.all.seconds < best.all.seconds)
        best = way;
      from = to;
    }
    work_add(&sum, &best, 1);
    i = end;
  }
  return sum;
}
