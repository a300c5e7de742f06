/* Op by op: every value of a trainer against the interpreter's result of the trainer's own operands.
 *
 * Data movement, choices and integers are exact. An elementwise op is near in every element. A sum is near relative to
 * the sum of the magnitudes of its terms, which is the interpreter's result of the operands' magnitudes; so no
 * cancellation is taken for a mistake and no small element is hidden behind a large one.
 *
 * What a fused kernel holds in registers nobody sees. There the interpreter goes on with its own f64 numbers, and
 * beside them with samples that are rounded at random behind every op, as in stochastic arithmetic (Vignes 1974): how
 * far they part at the next value that is seen is what f32 rounding can do to it, and the trainer may be as far off.
 */
#include <math.h>

#include "frontend/check.h"

typedef enum Nearness {
  NEAR_EXACT,
  NEAR_ELEMENT, /* relative to the element */
  NEAR_TERMS,   /* relative to the same op of the operands' magnitudes */
  NEAR_ONE,     /* relative to 1 */
  NEAR_WHOLE    /* relative to the largest element */
} Nearness;

static const double tolerance[] = {
    [NEAR_EXACT] = 0, [NEAR_ELEMENT] = 2e-6, [NEAR_TERMS] = 4e-6, [NEAR_ONE] = 1e-6, [NEAR_WHOLE] = 2e-5};
static const double f32_rounding = 1.0 / (1 << 24), bf16_rounding = 1.0 / (1 << 8);

/* How many times the spread of the samples a value of the trainer may be off. */
static const double spread_factor = 16;

/* Largest distance by which operands may contradict a choice: those in registers are rounded. */
static const double choice_tolerance = 1e-5;

enum { SAMPLES = 4 };

typedef struct Replica {
  Arena *arena;    /* of one function */
  Arena *findings; /* of the check */
  CheckRow *row;
  bool misplaced;            /* an integer of the trainer is wrong */
  Tensor **given;            /* by ValueId: what the trainer computed, or NULL */
  Tensor **samples[SAMPLES]; /* by ValueId: NULL for values that no rounding reached since the trainer's last ones */
} Replica;

/* Integers are exact, whatever the op. */
static Nearness nearness(const Func *f, const Inst *inst, int output) {
  if (f->values[inst->output[output]].type.dtype == DTYPE_I32)
    return NEAR_EXACT;
  switch (inst->op) {
  case OP_add:
  case OP_sub:
  case OP_sum:
  case OP_matmul:
  case OP_grouped_matmul:
  case OP_grouped_outer:
  case OP_scatter_rows:
  case OP_combine:
  case OP_segment_sum:
    return NEAR_TERMS;
  case OP_attention:
    return output == 0 ? NEAR_TERMS : NEAR_WHOLE;
  case OP_attention_grad:
    return NEAR_WHOLE;
  case OP_mul:
  case OP_div:
  case OP_exp:
  case OP_log:
  case OP_expm1:
  case OP_log1p:
  case OP_sqrt:
  case OP_rsqrt:
  case OP_tanh:
  case OP_erf:
  case OP_sigmoid:
  case OP_softmax:
  case OP_cast:
    return NEAR_ELEMENT;
  case OP_cos:
  case OP_sin:
    return NEAR_ONE;
  default:
    return NEAR_EXACT;
  }
}

/* ---------------------------------------------------------------- the same op of other operands */

static Tensor *tensor_like(Arena *arena, const Tensor *t) {
  Tensor *like = tensor_new(arena, t->dtype, t->rank, t->dim);
  like->live = t->live;
  for (int64_t at = 0, count = tensor_live_elements(t); like->f && at < count; at++)
    like->f[at] = 0;
  return like;
}

/* Interprets `inst` as `op` with `inputs` in place of its operands, into `outputs`. */
static void interpret_with(Evaluation *run, const Inst *inst, Op op, Tensor *const *inputs, Tensor **outputs) {
  Inst other = *inst;
  other.op = op;
  Tensor **kept_inputs = arena_alloc(run->arena, (inst->input_count + 1u) * sizeof *kept_inputs);
  Tensor *kept_outputs[MAX_OUTPUTS];
  for (int k = 0; k < inst->input_count; k++)
    kept_inputs[k] = run->tensors[inst->input[k]];
  for (int k = 0; k < inst->input_count; k++)
    run->tensors[inst->input[k]] = inputs[k];
  for (int o = 0; o < inst->output_count; o++) {
    kept_outputs[o] = run->tensors[inst->output[o]];
    run->tensors[inst->output[o]] = outputs[o] = tensor_like(run->arena, kept_outputs[o]);
  }
  eval_rule[op](run, &other);
  for (int o = 0; o < inst->output_count; o++)
    run->tensors[inst->output[o]] = kept_outputs[o];
  for (int k = 0; k < inst->input_count; k++)
    run->tensors[inst->input[k]] = kept_inputs[k];
}

static Tensor *magnitudes(Arena *arena, const Tensor *t) {
  Tensor *m = tensor_like(arena, t);
  for (int64_t at = 0, count = tensor_live_elements(t); at < count; at++)
    m->f[at] = fabs(t->f[at]);
  return m;
}

/* The first output of the op with magnitudes in place of its operands; of attention, in place of what it averages. */
static Tensor *terms(Evaluation *run, const Inst *inst) {
  enum { AVERAGED = 2 };
  Tensor **inputs = arena_alloc(run->arena, (inst->input_count + 1u) * sizeof *inputs), *outputs[MAX_OUTPUTS];
  for (int k = 0; k < inst->input_count; k++) {
    inputs[k] = run->tensors[inst->input[k]];
    if (inputs[k]->f && (inst->op != OP_attention || k == AVERAGED))
      inputs[k] = magnitudes(run->arena, inputs[k]);
  }
  interpret_with(run, inst, inst->op == OP_sub ? OP_add : inst->op, inputs, outputs);
  return outputs[0];
}

static double largest_magnitude(const Tensor *t) {
  double most = 0;
  for (int64_t at = 0, count = tensor_live_elements(t); at < count; at++)
    if (isfinite(t->f[at]))
      most = fmax(most, fabs(t->f[at]));
  return most;
}

/* What the op itself may be off, as a multiple of the tolerance, by element. */
static Tensor *measure(Evaluation *run, const Inst *inst, const Tensor *expected, Nearness near) {
  if (near == NEAR_TERMS)
    return terms(run, inst);
  if (near == NEAR_ELEMENT)
    return magnitudes(run->arena, expected);
  Tensor *same = tensor_like(run->arena, expected);
  double value = near == NEAR_ONE ? 1 : largest_magnitude(expected);
  for (int64_t at = 0, count = tensor_live_elements(same); at < count; at++)
    same->f[at] = value;
  return same;
}

/* ---------------------------------------------------------------- samples */

/* In (-1, 1); the mixing function of SplitMix64. */
static double noise(uint64_t x) {
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (double)(int64_t)(x ^ (x >> 31)) / 9223372036854775808.0;
}

/* Moves every element by up to one rounding of its scale, up or down. */
static void round_at_random(Tensor *t, const Tensor *scale, double rounding, uint64_t stream) {
  const int64_t count = tensor_live_elements(t);
  for (int64_t at = 0; t->f && at < count; at++)
    t->f[at] += rounding * scale->f[at] * noise((stream << 40) + ((uint64_t)at + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

/* What one rounding of the op's only output is relative to: of two numbers it is the result, of many their size. */
static const Tensor *rounding_scale(Evaluation *run, const Inst *inst) {
  bool of_two = inst->op == OP_add || inst->op == OP_sub;
  return measure(run, inst, run->tensors[inst->output[0]], of_two ? NEAR_ELEMENT : nearness(run->func, inst, 0));
}

static bool reads_samples(const Replica *r, const Inst *inst) {
  for (int k = 0; k < inst->input_count; k++)
    if (r->samples[0][inst->input[k]])
      return true;
  return false;
}

/* The samples of the outputs from those of the operands. Choices have none: the trainer gives them all. */
static void make_samples(Replica *r, Evaluation *run, const Inst *inst) {
  bool rounds = inst->output_count == 1 && nearness(run->func, inst, 0) != NEAR_EXACT, reads = reads_samples(r, inst);
  if ((op_info[inst->op].flags & FLAG_DECISION) || (!reads && (!rounds || r->given[inst->output[0]])))
    return;
  Tensor **inputs = arena_alloc(run->arena, (inst->input_count + 1u) * sizeof *inputs), *outputs[MAX_OUTPUTS];
  const Tensor *scale = rounds ? rounding_scale(run, inst) : NULL;
  bool narrow = run->func->values[inst->output[0]].type.dtype == DTYPE_BF16;
  for (int s = 0; s < SAMPLES; s++) {
    for (int k = 0; k < inst->input_count; k++) {
      Tensor *sample = r->samples[s][inst->input[k]];
      inputs[k] = sample ? sample : run->tensors[inst->input[k]];
    }
    interpret_with(run, inst, inst->op, inputs, outputs);
    for (int o = 0; o < inst->output_count; o++) {
      if (rounds)
        round_at_random(outputs[o], scale, narrow ? bf16_rounding : f32_rounding,
                        (uint64_t)inst->output[o] * SAMPLES + (uint64_t)s);
      r->samples[s][inst->output[o]] = outputs[o]->f ? outputs[o] : NULL;
    }
  }
}

/* How far rounding carries a value: by row, the farthest any sample is off. NULL without samples. */
static Tensor *spread(const Replica *r, const Evaluation *run, ValueId v) {
  const Tensor *value = run->tensors[v];
  if (!r->samples[0][v])
    return NULL;
  Tensor *far = tensor_like(r->arena, value);
  int64_t columns = value->rank ? value->dim[value->rank - 1] : 1, count = tensor_live_elements(value);
  for (int64_t row = 0; row < count; row += columns) {
    double most = 0;
    for (int64_t at = row; at < row + columns && at < count; at++)
      for (int s = 0; s < SAMPLES; s++)
        most = fmax(most, fabs(r->samples[s][v]->f[at] - value->f[at]));
    for (int64_t at = row; at < row + columns && at < count; at++)
      far->f[at] = most;
  }
  return far;
}

/* ---------------------------------------------------------------- comparing */

static Deviation compare_output(const Replica *r, Evaluation *run, const Inst *inst, int output) {
  ValueId v = inst->output[output];
  const char *name = arena_print(r->findings, "%%%s", run->func->values[v].name);
  const Tensor *expected = run->tensors[v], *far = spread(r, run, v);
  bool narrow = run->func->values[v].type.dtype == DTYPE_BF16;
  Nearness near = nearness(run->func, inst, output);
  if (near == NEAR_EXACT && !far && !narrow)
    return compare_tensors(name, r->given[v], expected, NULL, 0);
  near = near == NEAR_EXACT ? NEAR_ELEMENT : near;
  /* attention rounds its weights, attention_grad these and the gradients of the scores, before their products */
  int roundings = inst->op == OP_attention || inst->op == OP_attention_grad ? 2 : 1;
  double allowed = tolerance[near] + (narrow ? roundings * bf16_rounding : 0);
  Tensor *scale = measure(run, inst, expected, near);
  for (int64_t at = 0, count = tensor_live_elements(scale); far && at < count; at++)
    scale->f[at] += spread_factor * far->f[at] / allowed;
  return compare_tensors(name, r->given[v], expected, scale, allowed);
}

static const char *describe(Arena *arena, const Func *f, const Inst *inst, ValueId v) {
  const char *text = arena_print(arena, "%s %s", op_info[inst->op].name, type_text(f, f->values[v].type));
  return inst->loc.file ? arena_print(arena, "%s %s:%d", text, inst->loc.file, inst->loc.line) : text;
}

/* A number of the script, which the trainer holds as f32. */
static void round_f32(Tensor *t) {
  for (int64_t at = 0, count = tensor_live_elements(t); t->f && at < count; at++)
    t->f[at] = (double)(float)t->f[at];
}

static void observe(void *context, Evaluation *run, uint32_t index) {
  Replica *r = context;
  const Inst *inst = &run->func->insts[index];
  if (inst->op == OP_const)
    round_f32(run->tensors[inst->output[0]]);
  make_samples(r, run, inst);
  for (int o = 0; o < inst->output_count; o++) {
    ValueId v = inst->output[o];
    if (!r->given[v])
      continue;
    Deviation d = compare_output(r, run, inst, o);
    d.detail = d.detail ? d.detail : describe(r->findings, run->func, inst, v);
    check_note(r->row, d);
    r->misplaced |= r->given[v]->i && deviation_is_mistake(&d);
  }
  for (int o = 0; o < inst->output_count; o++) {
    ValueId v = inst->output[o];
    if (!r->given[v] || (r->given[v]->i && r->misplaced)) /* wrong integers would lead out of bounds */
      continue;
    run->tensors[v] = r->given[v];
    for (int s = 0; s < SAMPLES; s++)
      r->samples[s][v] = NULL;
  }
}

bool check_ops(Check *check, CheckRow *row, const Func *f, Tensor **given, const EvalDecisions *decisions) {
  Replica r = {.arena = arena_new(), .findings = check->arena, .row = row, .given = given};
  for (int s = 0; s < SAMPLES; s++)
    r.samples[s] = arena_alloc(r.arena, (vec_len(f->values) + 1) * sizeof *r.samples[s]);
  EvalEnvironment *env = inputs_environment(check->inputs, f);
  EvalReplay replay = {.from = decisions, .tolerance = choice_tolerance};
  env->replay = &replay;
  env->observe = observe;
  env->observe_context = &r;
  eval_func(f, env, r.arena);
  env->replay = NULL;
  env->observe = NULL;
  note_conflicts(check, row, &replay);
  arena_free(r.arena);
  return !r.misplaced;
}
