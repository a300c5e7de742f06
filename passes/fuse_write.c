/* Forming groups: writes the function in its new order and records what was decided. See fuse.h. */
#include "passes/fuse_private.h"
#include "passes/rewrite.h"

typedef struct Writer {
  Fuse *s;
  Rewrite rewrite;
  bool *written; /* by old instruction */
} Writer;

static bool is_view(const Inst *inst) {
  return op_info[inst->op].flags & FLAG_VIEW;
}

/* Instructions that are work: views cost nothing. */
static uint32_t count_work(const Fuse *s, const uint32_t *insts) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < vec_len(insts); i++)
    count += !is_view(&s->f->insts[insts[i]]);
  return count;
}

static bool has_seed(const Fuse *s, const Cluster *c) {
  if (s->seed == NULL)
    return true;
  for (uint32_t i = 0; i < vec_len(c->members); i++)
    if (s->seed[c->members[i]])
      return true;
  return false;
}

static bool becomes_group(const Fuse *s, const Cluster *c) {
  return !c->closed && has_seed(s, c) && count_work(s, c->members) > 1;
}

/* ---------------------------------------------------------------- ledger */

static Site site_of(const Fuse *s, const uint32_t *insts) {
  Site site = {.pass = s->context->pass, .function = s->f->name};
  for (uint32_t i = 0; i < vec_len(insts); i++) {
    const Inst *inst = &s->f->insts[insts[i]];
    if (site.loc.file == NULL)
      site.loc = inst->loc;
    for (int k = 0; k < inst->output_count; k++)
      vec_push(s->arena, site.values, s->f->values[inst->output[k]].name);
  }
  return site;
}

static Cost kernels_cost(double bytes, double launches) {
  Cost cost = NO_COST;
  cost.bytes = bytes;
  cost.launches = launches;
  return cost;
}

static double traffic_apart(const Fuse *s, const uint32_t *insts) {
  double bytes = 0;
  for (uint32_t i = 0; i < vec_len(insts); i++)
    bytes += fuse_traffic(s, &insts[i], 1);
  return bytes;
}

/* Records a group; returns the note that stands at its head. Called before the function is rewritten. */
static const char *decide_group(const Fuse *s, const Cluster *c) {
  const uint32_t work = count_work(s, c->members);
  const double together = fuse_traffic(s, c->members, vec_len(c->members)), apart = traffic_apart(s, c->members);
  const char *ops = fuse_op_list(s, c->members, vec_len(c->members));
  const char *saves = arena_print(s->arena, "%u launch%s, %s", work - 1, work == 2 ? "" : "es",
                                  fuse_bytes_text(s->arena, apart - together));
  Alternative *alternatives = NULL;
  const Alternative separate = {"a kernel for each instruction", kernels_cost(apart, work),
                                arena_print(s->arena, "%s more", saves)};
  vec_push(s->arena, alternatives, separate);
  const int number =
      decide(s->context->ledger, site_of(s, c->members), arena_print(s->arena, "one row kernel: %s", ops), alternatives,
             kernels_cost(together, 1), "the same rows, read and written once");
  return arena_print(s->arena, "fused: %s (decision %d: saves %s)", ops, number, saves);
}

/* A group that stands already is a gate's. */
static const char *pair_refusal(Fuse *s, uint32_t first, uint32_t second) {
  const char *reason = fuse_kernel_refusal(s);
  if (reason == NULL)
    reason = fuse_order_refusal(s, vec_last(s->trial));
  if (reason != NULL)
    return reason;
  if (s->clusters[second].closed)
    return "a gate's kernel begins with its product, which reads rows from memory";
  if (s->clusters[first].closed)
    return arena_print(s->arena, "a gate's kernel holds rows of at most %d columns", ROW_PRODUCT_MAX);
  return "the search was greedy: they could be joined only before others were";
}

/* Producer and consumer that stayed apart. */
static void decide_apart(Fuse *s, uint32_t first, uint32_t second) {
  const Cluster *a = &s->clusters[first], *b = &s->clusters[second];
  fuse_try_pair(s, first, second);
  const char *reason = pair_refusal(s, first, second);
  Alternative *alternatives = NULL;
  const Alternative together = {"one row kernel", kernels_cost(fuse_traffic(s, s->trial, vec_len(s->trial)), 1),
                                reason};
  vec_push(s->arena, alternatives, together);
  const double apart =
      fuse_traffic(s, a->members, vec_len(a->members)) + fuse_traffic(s, b->members, vec_len(b->members));
  const char *chosen =
      arena_print(s->arena, "two kernels: {%s} and {%s}", fuse_op_list(s, a->members, vec_len(a->members)),
                  fuse_op_list(s, b->members, vec_len(b->members)));
  Site site = site_of(s, s->trial);
  decide(s->context->ledger, site, chosen, alternatives, kernels_cost(apart, 2), reason);
}

/* Each pair of clusters, one of which reads what the other makes, once; not of two groups that stood already. */
static void decide_refusals(Fuse *s) {
  for (uint32_t c = 0; c < vec_len(s->clusters); c++) {
    const Cluster *reader = &s->clusters[c];
    uint32_t *told = NULL;
    for (uint32_t i = 0; i < vec_len(reader->members); i++) {
      const Inst *inst = &s->f->insts[reader->members[i]];
      for (int k = 0; k < inst->input_count; k++) {
        const uint32_t root = fuse_root(s, inst->input[k]);
        const uint32_t maker = root == UINT32_MAX ? NO_CLUSTER : s->cluster[root];
        bool known = maker == NO_CLUSTER || maker == c || (reader->closed && s->clusters[maker].closed) ||
                     !(has_seed(s, reader) || has_seed(s, &s->clusters[maker]));
        for (uint32_t t = 0; t < vec_len(told); t++)
          known |= told[t] == maker;
        if (known)
          continue;
        vec_push(s->arena, told, maker);
        decide_apart(s, maker, c);
      }
    }
  }
}

/* ---------------------------------------------------------------- the new order */

static void write_inst(Writer *w, uint32_t inst);

/* Constants and views in front of what reads them. */
static void write_floats(Writer *w, uint32_t inst) {
  const Inst *old = &w->rewrite.old.insts[inst];
  for (int k = 0; k < old->input_count; k++) {
    const Value *v = &w->rewrite.old.values[old->input[k]];
    if (v->kind == VALUE_RESULT && fuse_floats(w->s, v->inst))
      write_inst(w, v->inst);
  }
}

static void write_inst(Writer *w, uint32_t inst) {
  if (w->written[inst])
    return;
  write_floats(w, inst);
  rewrite_copy(&w->rewrite, inst);
  w->written[inst] = true;
}

static void write_cluster(Writer *w, const Cluster *c, const char *note) {
  Func *f = w->rewrite.f;
  uint32_t group = NO_GROUP;
  if (note != NULL) {
    group = vec_len(f->group_notes);
    vec_push(w->s->arena, f->group_notes, note);
  }
  for (uint32_t i = 0; i < vec_len(c->members); i++)
    write_floats(w, c->members[i]);
  for (uint32_t i = 0; i < vec_len(c->members); i++) {
    const uint32_t copy = rewrite_copy(&w->rewrite, c->members[i]);
    w->written[c->members[i]] = true;
    if (note != NULL)
      f->insts[copy].group = group;
  }
}

/* A constant, or a view of something that stands already. */
static bool float_is_ready(const Writer *w, uint32_t inst) {
  const Inst *old = &w->rewrite.old.insts[inst];
  for (int k = 0; k < old->input_count; k++)
    if (w->rewrite.map[old->input[k]] == NO_VALUE)
      return false;
  return true;
}

static void write_func(Fuse *s, const char *const *notes) {
  const uint32_t count = vec_len(s->f->insts);
  Writer w = {.s = s, .rewrite = rewrite_begin(s->f), .written = arena_alloc(s->arena, count + 1)};
  s->f = &w.rewrite.old; /* what the search found out is about the old function */
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t c = s->cluster[i];
    if (c != NO_CLUSTER && s->clusters[c].anchor == i)
      write_cluster(&w, &s->clusters[c], notes[c]);
    else if (c == NO_CLUSTER && (!fuse_floats(s, i) || float_is_ready(&w, i)))
      write_inst(&w, i);
  }
  for (uint32_t i = 0; i < count; i++)
    write_inst(&w, i); /* views that only results read */
  rewrite_end(&w.rewrite);
}

bool fuse_write(Fuse *s) {
  const char **notes = arena_alloc(s->arena, (vec_len(s->clusters) + 1) * sizeof *notes);
  bool any = false;
  for (uint32_t i = 0; i < vec_len(s->f->insts); i++) { /* in the order in which they will stand */
    const uint32_t c = s->cluster[i];
    if (c == NO_CLUSTER || s->clusters[c].anchor != i || !becomes_group(s, &s->clusters[c]))
      continue;
    notes[c] = decide_group(s, &s->clusters[c]);
    any = true;
  }
  decide_refusals(s);
  if (any)
    write_func(s, notes);
  return any;
}
