/* Forming groups: the search. See fuse.h.
 *
 * The state is a partition of the groupable instructions into clusters, each anchored at the place of one member. Two
 * ways of merging keep every order of definitions and uses intact:
 *   sink:  the clusters go down to the instruction that joins them. Legal when nobody outside reads them before it.
 *   hoist: the instruction goes up to the cluster. Legal when all it reads besides is known there.
 * Instructions are visited in program order, so a cluster only ever has readers at or above its last member that were
 * visited, and checks by index are exact. Constants and views float: they are written wherever they are needed first.
 */
#include "passes/fuse_private.h"

#include <stdlib.h>

FuseLimits fuse_limits(const PassContext *context, FuseLimits otherwise) {
  return (FuseLimits){.operands = pass_setting_int(context, "operands", otherwise.operands),
                      .buffers = pass_setting_int(context, "buffers", otherwise.buffers),
                      .instructions = pass_setting_int(context, "instructions", otherwise.instructions)};
}

/* ---------------------------------------------------------------- facts */

static bool is_view(const Inst *inst) {
  return op_info[inst->op].flags & FLAG_VIEW;
}

bool fuse_floats(const Fuse *s, uint32_t inst) {
  const Inst *i = &s->f->insts[inst];
  return s->cluster[inst] == NO_CLUSTER && (i->op == OP_const || is_view(i));
}

bool fuse_in_trial(const Fuse *s, uint32_t inst) {
  return s->stamp[inst] == s->now;
}

uint32_t fuse_definition(const Fuse *s, ValueId v) {
  const Value *value = &s->f->values[v];
  return value->kind == VALUE_RESULT ? value->inst : UINT32_MAX;
}

uint32_t fuse_root(const Fuse *s, ValueId v) {
  uint32_t inst = fuse_definition(s, v);
  while (inst != UINT32_MAX && fuse_floats(s, inst) && is_view(&s->f->insts[inst]))
    inst = fuse_definition(s, s->f->insts[inst].input[0]);
  return inst;
}

/* ---------------------------------------------------------------- the trial */

static void trial_clear(Fuse *s) {
  s->now++;
  if (s->trial != NULL)
    vec_header(s->trial)->length = 0;
}

static void trial_add(Fuse *s, uint32_t inst) {
  if (fuse_in_trial(s, inst))
    return;
  s->stamp[inst] = s->now;
  vec_push(s->arena, s->trial, inst);
}

static void trial_add_cluster(Fuse *s, uint32_t c) {
  for (uint32_t i = 0; i < vec_len(s->clusters[c].members); i++)
    trial_add(s, s->clusters[c].members[i]);
}

static int by_index(const void *a, const void *b) {
  const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

/* Takes in the views that stand between members, and sorts. */
static void trial_close(Fuse *s) {
  const uint32_t count = vec_len(s->trial);
  for (uint32_t i = 0; i < count; i++) {
    const Inst *inst = &s->f->insts[s->trial[i]];
    for (int k = 0; k < inst->input_count; k++) {
      const uint32_t root = fuse_root(s, inst->input[k]);
      if (root == UINT32_MAX || !fuse_in_trial(s, root))
        continue;
      for (uint32_t v = fuse_definition(s, inst->input[k]); v != root; v = fuse_definition(s, s->f->insts[v].input[0]))
        trial_add(s, v);
    }
  }
  qsort(s->trial, vec_len(s->trial), sizeof *s->trial, by_index);
}

void fuse_try_pair(Fuse *s, uint32_t a, uint32_t b) {
  trial_clear(s);
  trial_add_cluster(s, a);
  trial_add_cluster(s, b);
  trial_close(s);
}

const char *fuse_kernel_refusal(const Fuse *s) {
  const char *limit = fuse_limit_refusal(s);
  return limit != NULL ? limit : row_group_refusal(s->f, s->trial, vec_len(s->trial), s->uses);
}

/* ---------------------------------------------------------------- order */

static const char *inst_text(const Fuse *s, uint32_t inst) {
  const Inst *i = &s->f->insts[inst];
  if (i->loc.file == NULL)
    return op_info[i->op].name;
  return arena_print(s->arena, "%s (%s:%d)", op_info[i->op].name, i->loc.file, i->loc.line);
}

/* Where an instruction will stand, as an index of the old order. */
static uint32_t place_of(const Fuse *s, uint32_t inst) {
  return s->cluster[inst] == NO_CLUSTER ? inst : s->clusters[s->cluster[inst]].anchor;
}

/* An instruction that will stand in front of `last`, outside of the trial, and reads v; UINT32_MAX when there is none.
 */
static uint32_t early_reader(const Fuse *s, ValueId v, uint32_t last) {
  for (uint32_t i = 0; i < vec_len(s->readers[v]); i++) {
    const uint32_t reader = s->readers[v][i];
    if (fuse_in_trial(s, reader))
      continue;
    if (!fuse_floats(s, reader)) {
      if (place_of(s, reader) < last)
        return reader;
      continue;
    }
    for (int k = 0; k < s->f->insts[reader].output_count; k++) {
      const uint32_t behind = early_reader(s, s->f->insts[reader].output[k], last);
      if (behind != UINT32_MAX)
        return behind;
    }
  }
  return UINT32_MAX;
}

/* Products that an operand may outlive freely: its memory is needed for a moment only. */
enum { NEAR = 2 };

const char *fuse_order_refusal(const Fuse *s, uint32_t last) {
  for (uint32_t i = 0; i < vec_len(s->trial); i++) {
    const Inst *inst = &s->f->insts[s->trial[i]];
    for (int k = 0; k < inst->output_count; k++) {
      const uint32_t reader = early_reader(s, inst->output[k], last);
      if (reader != UINT32_MAX)
        return arena_print(s->arena, "%s stands between and reads the first", inst_text(s, reader));
    }
  }
  if (s->heavy[last] <= s->heavy[s->trial[0] + 1] + NEAR)
    return NULL;
  const double kept = fuse_kept_bytes(s, last);
  if (kept > 0)
    return arena_print(s->arena, "operands would be kept across matrix products: %s more than is saved",
                       fuse_bytes_text(s->arena, kept));
  return NULL;
}

/* Where v is known in the old order: the anchor of the cluster that makes it. -1: from the start. */
static int64_t known_at(const Fuse *s, ValueId v) {
  const uint32_t root = fuse_root(s, v);
  if (root == UINT32_MAX || s->f->insts[root].op == OP_const)
    return -1;
  return place_of(s, root);
}

/* Whether the trial, cluster c and instruction `last`, can stand at c's place. What `last` makes is kept from there on:
 * across a product only where it is much less than what it would have to read again. */
static bool may_hoist(const Fuse *s, uint32_t c, uint32_t last) {
  enum { MUCH_LESS = 8 };
  const uint32_t anchor = s->clusters[c].anchor;
  double read = 0;
  for (uint32_t i = 0; i < vec_len(s->trial); i++) {
    const Inst *inst = &s->f->insts[s->trial[i]];
    for (int k = 0; k < inst->input_count && s->cluster[s->trial[i]] != c; k++) {
      const uint32_t root = fuse_root(s, inst->input[k]);
      if (root == UINT32_MAX)
        continue;
      if (!fuse_in_trial(s, root) && known_at(s, inst->input[k]) >= anchor)
        return false;
      read += fuse_in_trial(s, root) ? fuse_value_bytes(s, inst->input[k]) : 0;
    }
  }
  return s->heavy[last] == s->heavy[anchor + 1] || MUCH_LESS * fuse_value_bytes(s, s->f->insts[last].output[0]) <= read;
}

/* ---------------------------------------------------------------- merging */

/* The trial becomes one cluster. */
static void merge_trial(Fuse *s, uint32_t anchor) {
  const uint32_t number = vec_len(s->clusters);
  Cluster merged = {.anchor = anchor};
  for (uint32_t i = 0; i < vec_len(s->trial); i++) {
    const uint32_t inst = s->trial[i], old = s->cluster[inst];
    if (old != NO_CLUSTER)
      s->clusters[old].members = NULL;
    s->cluster[inst] = number;
    vec_push(s->arena, merged.members, inst);
  }
  vec_push(s->arena, s->clusters, merged);
}

/* Considers the cluster of `last` together with cluster c; merges where it can. */
static bool try_merge(Fuse *s, uint32_t c, uint32_t last) {
  if (s->clusters[c].closed)
    return false;
  fuse_try_pair(s, c, s->cluster[last]);
  if (fuse_kernel_refusal(s) != NULL)
    return false;
  if (fuse_order_refusal(s, last) == NULL) {
    merge_trial(s, last);
    return true;
  }
  if (vec_len(s->clusters[s->cluster[last]].members) != 1 || !may_hoist(s, c, last))
    return false;
  merge_trial(s, s->clusters[c].anchor);
  return true;
}

static double cluster_traffic(const Fuse *s, uint32_t c) {
  return fuse_traffic(s, s->clusters[c].members, vec_len(s->clusters[c].members));
}

/* The end of a cluster that changes sides with its last member: on a GPU, whose stored rows are bf16, with the casts
 * that only the moved ones read; else that member alone. Returns how many members stay. */
static uint32_t moving_end(const Fuse *s, const uint32_t *members) {
  uint32_t first = vec_len(members) - 1;
  while (s->context->rates->gpu && first > 0 && s->f->insts[members[first - 1]].op == OP_cast) {
    const ValueId v = s->f->insts[members[first - 1]].output[0];
    uint32_t reads = 0;
    for (uint32_t i = 0; i < vec_len(s->readers[v]); i++)
      for (uint32_t k = first; k < vec_len(members); k++)
        reads += s->readers[v][i] == members[k];
    if (reads == 0 || reads < s->uses[v])
      break;
    first--;
  }
  return first;
}

/* Where `maker`, the last of its cluster, is better off with its reader `last`, it changes sides. */
static void try_steal(Fuse *s, uint32_t maker, uint32_t last) {
  Cluster *from = &s->clusters[s->cluster[maker]];
  const uint32_t count = vec_len(from->members);
  if (from->closed || count < 2 || maker != from->anchor || from->members[count - 1] != maker)
    return;
  const uint32_t stay = moving_end(s, from->members);
  if (stay == 0)
    return;
  const double before = cluster_traffic(s, s->cluster[maker]) + cluster_traffic(s, s->cluster[last]);
  trial_clear(s);
  trial_add_cluster(s, s->cluster[last]);
  for (uint32_t i = stay; i < count; i++)
    trial_add(s, from->members[i]);
  trial_close(s);
  if (fuse_kernel_refusal(s) != NULL || fuse_order_refusal(s, last) != NULL ||
      fuse_traffic(s, from->members, stay) + fuse_traffic(s, s->trial, vec_len(s->trial)) >= before)
    return;
  Cluster rest = {.anchor = from->members[stay - 1]};
  for (uint32_t i = 0; i < stay; i++) {
    s->cluster[from->members[i]] = vec_len(s->clusters);
    vec_push(s->arena, rest.members, from->members[i]);
  }
  for (uint32_t i = stay; i < count; i++)
    s->cluster[from->members[i]] = NO_CLUSTER;
  from->members = NULL;
  vec_push(s->arena, s->clusters, rest);
  merge_trial(s, last);
  const Inst *inst = &s->f->insts[maker];
  for (int k = 0; k < inst->input_count; k++) { /* what it reads there may be better off here too */
    const uint32_t root = fuse_root(s, inst->input[k]);
    if (root != UINT32_MAX && s->cluster[root] != NO_CLUSTER && s->cluster[root] != s->cluster[last])
      try_steal(s, root, last);
  }
}

/* ---------------------------------------------------------------- the search */

enum { MANY = 4096 }; /* elements of a value that is worth reading once */

typedef struct Link {
  uint32_t maker; /* the instruction that makes an operand */
  double bytes;
} Link;

static int by_bytes(const void *a, const void *b) {
  const Link *x = a, *y = b;
  if (x->bytes != y->bytes)
    return x->bytes > y->bytes ? -1 : 1;
  return x->maker < y->maker ? -1 : x->maker > y->maker;
}

/* The makers of the operands of `inst` that are in clusters, the largest operand first. */
static Link *find_links(const Fuse *s, uint32_t inst) {
  Link *links = NULL;
  for (int k = 0; k < s->f->insts[inst].input_count; k++) {
    const ValueId v = s->f->insts[inst].input[k];
    const uint32_t root = fuse_root(s, v);
    if (root != UINT32_MAX && s->cluster[root] != NO_CLUSTER)
      vec_push(s->arena, links, (Link){root, fuse_value_bytes(s, v)});
  }
  if (links != NULL)
    qsort(links, vec_len(links), sizeof *links, by_bytes);
  return links;
}

/* All makers at once: one alone may be refused for the sake of a value that another one reads. */
static bool try_all(Fuse *s, const Link *links, uint32_t inst) {
  trial_clear(s);
  trial_add(s, inst);
  for (uint32_t i = 0; i < vec_len(links); i++) {
    const uint32_t c = s->cluster[links[i].maker];
    if (s->clusters[c].closed)
      return false;
    trial_add_cluster(s, c);
  }
  trial_close(s);
  if (fuse_kernel_refusal(s) != NULL || fuse_order_refusal(s, inst) != NULL)
    return false;
  merge_trial(s, inst);
  return true;
}

static void visit(Fuse *s, uint32_t inst) {
  Cluster own = {.anchor = inst};
  vec_push(s->arena, own.members, inst);
  s->cluster[inst] = vec_len(s->clusters);
  vec_push(s->arena, s->clusters, own);
  const Link *links = find_links(s, inst);
  if (vec_len(links) == 0 || (vec_len(links) > 1 && try_all(s, links, inst)))
    return;
  for (uint32_t i = 0; i < vec_len(links); i++)
    if (s->cluster[links[i].maker] != s->cluster[inst] && !try_merge(s, s->cluster[links[i].maker], inst) &&
        s->clusters[s->cluster[inst]].anchor == inst)
      try_steal(s, links[i].maker, inst);
}

/* Tries the makers of all operands of a cluster once more. */
static void join_makers(Fuse *s, uint32_t c) {
  for (uint32_t i = 0; i < vec_len(s->clusters[c].members); i++) {
    const Link *links = find_links(s, s->clusters[c].members[i]);
    for (uint32_t k = 0; k < vec_len(links); k++) {
      const uint32_t maker = s->cluster[links[k].maker];
      if (maker == c || s->clusters[maker].closed)
        continue;
      fuse_try_pair(s, maker, c);
      if (fuse_kernel_refusal(s) != NULL || fuse_order_refusal(s, vec_last(s->trial)) != NULL)
        continue;
      merge_trial(s, vec_last(s->trial));
      return;
    }
  }
}

/* Whether the trial is a kernel that moves fewer bytes than the two clusters it is made of. */
static bool pays(const Fuse *s, uint32_t a, uint32_t b) {
  return fuse_traffic(s, s->trial, vec_len(s->trial)) < cluster_traffic(s, a) + cluster_traffic(s, b);
}

/* Clusters that read the same value from memory, none of which reads what the other makes: one kernel reads it once. */
static void join_readers(Fuse *s, ValueId v) {
  uint32_t first = NO_CLUSTER;
  for (uint32_t i = 0; i < vec_len(s->readers[v]); i++) {
    const uint32_t reader = s->readers[v][i], second = s->cluster[reader];
    if (second == NO_CLUSTER || second == first || s->clusters[second].closed)
      continue;
    if (first != NO_CLUSTER) {
      fuse_try_pair(s, first, second);
      if (fuse_kernel_refusal(s) == NULL && fuse_order_refusal(s, vec_last(s->trial)) == NULL && pays(s, first, second))
        merge_trial(s, vec_last(s->trial));
    }
    first = s->cluster[reader];
  }
}

/* Groups that are there already stand as they are. */
static void close_old_groups(Fuse *s) {
  const Func *f = s->f;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    if (f->insts[i].group == NO_GROUP)
      continue;
    if (i == 0 || f->insts[i - 1].group != f->insts[i].group)
      vec_push(s->arena, s->clusters, (Cluster){.closed = true});
    Cluster *c = &vec_last(s->clusters);
    vec_push(s->arena, c->members, i);
    c->anchor = i;
    s->cluster[i] = vec_len(s->clusters) - 1;
  }
}

static void find_readers(Fuse *s) {
  const Func *f = s->f;
  s->readers = arena_alloc(s->arena, (vec_len(f->values) + 1) * sizeof *s->readers);
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; k < inst->input_count; k++)
      vec_push(s->arena, s->readers[inst->input[k]], i);
  }
}

bool fuse_func(const PassContext *context, Func *f, const bool *member, const bool *seed, FuseLimits limits) {
  Arena *arena = f->module->arena;
  const uint32_t count = vec_len(f->insts);
  Fuse fuse = {.context = context, .f = f, .arena = arena, .seed = seed, .limits = limits}, *s = &fuse;
  s->uses = row_count_uses(f, arena);
  s->heavy = arena_alloc(arena, (count + 1) * sizeof *s->heavy);
  s->stamp = arena_alloc(arena, (count + 1) * sizeof *s->stamp);
  s->cluster = arena_alloc(arena, (count + 1) * sizeof *s->cluster);
  find_readers(s);
  for (uint32_t i = 0; i < count; i++) {
    const Inst *inst = &f->insts[i];
    const bool light = inst->op == OP_const || is_view(inst) || (row_op(f, inst) && inst->op != OP_matmul);
    s->heavy[i + 1] = s->heavy[i] + !light;
    s->cluster[i] = NO_CLUSTER;
  }
  close_old_groups(s);
  for (uint32_t i = 0; i < count; i++)
    if (member[i] && s->cluster[i] == NO_CLUSTER)
      visit(s, i);
  for (uint32_t c = 0; c < vec_len(s->clusters); c++) /* a merged cluster comes up again at the end of the vector */
    if (!s->clusters[c].closed)
      join_makers(s, c);
  for (ValueId v = 0; v < vec_len(f->values); v++)
    if (type_elements(f->module, f->values[v].type) >= MANY)
      join_readers(s, v);
  return fuse_write(s);
}
