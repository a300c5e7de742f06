/* Orders instructions so that less memory is live at once.
 *
 * In: any module; meant for the end of the pipeline, where groups are what will be kernels. Out: the same instructions
 * in another order, groups whole. Holds: bit-equal by construction: an instruction stays behind what it reads, and its
 * operands and attributes do not change.
 *
 * Units, groups and single instructions, may move one of two ways. Late: a unit that makes more bytes than it is the
 * last to read goes right before its first reader, so that what it makes lives shortest. Early: a unit that is the last
 * to read more than it makes goes right behind the last of its operands, so that what it reads dies soonest. An order
 * replaces the one that stands only if the peak of live bytes falls by a hundredth or more; the ledger tells what each
 * gives. Counted are the bytes of values that are neither arguments nor parameters; a view counts as what it views; an
 * elementwise kernel may write over what dies in it.
 *
 * Behind autodiff and recompute little is left to gain, since both place instructions where they are needed: on the
 * models at hand the order changes only where everything is kept (policy none) and many experts run. */
#include "ir/rows.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

#include <string.h>

enum { WORTH = 100 }; /* the peak must fall by one part in this many */

typedef struct Unit {
  uint32_t first, last; /* instructions, both included */
  double makes, frees;  /* bytes, in the order as it stands */
} Unit;

typedef struct Scene {
  const Func *f;
  Arena *arena;
  Unit *units;       /* arena vector */
  uint32_t *unit_of; /* by instruction */
  ValueId *root;     /* by ValueId: what its memory belongs to */
  bool *held;        /* by root: live to the end, or from the start: not counted */
} Scene;

/* ---------------------------------------------------------------- facts */

static double value_bytes(const Func *f, ValueId v) {
  return (double)type_bytes(f->module, f->values[v].type);
}

static void find_roots(Scene *s) {
  const Func *f = s->f;
  for (ValueId v = 0; v < vec_len(f->values); v++) {
    const Value *value = &f->values[v];
    const Inst *inst = value->kind == VALUE_RESULT ? &f->insts[value->inst] : NULL;
    const bool view = inst != NULL && (op_info[inst->op].flags & FLAG_VIEW);
    s->root[v] = view ? s->root[inst->input[0]] : v; /* what is viewed has a lower id */
    s->held[v] = inst == NULL || inst->op == OP_const;
  }
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    s->held[s->root[f->results[i].value]] = true; /* gradients and parameters stand in arenas of their own */
}

static void find_units(Scene *s) {
  const Func *f = s->f;
  for (uint32_t i = 0; i < vec_len(f->insts); i++) {
    const bool same = i > 0 && f->insts[i].group != NO_GROUP && f->insts[i].group == f->insts[i - 1].group;
    if (same)
      vec_last(s->units).last = i;
    else
      vec_push(s->arena, s->units, (Unit){.first = i, .last = i});
    s->unit_of[i] = vec_len(s->units) - 1;
  }
}

/* A kernel that makes every element from the same element of what it reads. */
static bool may_overwrite(const Scene *s, const Unit *unit) {
  bool all = true;
  for (uint32_t i = unit->first; i <= unit->last; i++)
    all &= (op_info[s->f->insts[i].op].flags & (FLAG_ELEMENTWISE | FLAG_VIEW)) != 0 ||
           row_is_column_sum(s->f, &s->f->insts[i]);
  return all;
}

/* By root: the place in `order` of the last unit that reads it. */
static void find_last_reads(const Scene *s, const uint32_t *order, uint32_t *last) {
  memset(last, 0, vec_len(s->f->values) * sizeof *last);
  for (uint32_t p = 0; p < vec_len(s->units); p++) {
    const Unit *unit = &s->units[order[p]];
    for (uint32_t i = unit->first; i <= unit->last; i++) {
      const Inst *inst = &s->f->insts[i];
      for (int k = 0; k < inst->output_count; k++)
        if (last[s->root[inst->output[k]]] < p)
          last[s->root[inst->output[k]]] = p;
      for (int k = 0; k < inst->input_count; k++)
        last[s->root[inst->input[k]]] = p;
    }
  }
}

/* What the unit at place p makes and lets die. Values that stay inside of a group never are in memory. */
static void count_unit(const Scene *s, Unit *unit, uint32_t p, const uint32_t *last, bool *dead) {
  const Func *f = s->f;
  unit->makes = unit->frees = 0;
  for (uint32_t i = unit->first; i <= unit->last; i++) {
    const Inst *inst = &f->insts[i];
    for (int k = 0; k < inst->output_count; k++) {
      const ValueId v = inst->output[k];
      const bool inside = unit->first != unit->last && last[v] == p;
      if (s->root[v] == v && !s->held[v] && !inside)
        unit->makes += value_bytes(f, v);
    }
    for (int k = 0; k < inst->input_count; k++) {
      const ValueId v = s->root[inst->input[k]];
      const uint32_t maker = f->values[v].kind == VALUE_RESULT ? f->values[v].inst : UINT32_MAX;
      if (s->held[v] || last[v] != p || dead[v] || (maker >= unit->first && maker <= unit->last))
        continue;
      dead[v] = true;
      unit->frees += value_bytes(f, v);
    }
  }
}

/* The peak of live bytes of an order; fills in what the units make and free. */
static double find_peak(Scene *s, const uint32_t *order) {
  uint32_t *last = arena_alloc(s->arena, (vec_len(s->f->values) + 1) * sizeof *last);
  bool *dead = arena_alloc(s->arena, vec_len(s->f->values) + 1);
  find_last_reads(s, order, last);
  double live = 0, peak = 0;
  for (uint32_t p = 0; p < vec_len(s->units); p++) {
    Unit *unit = &s->units[order[p]];
    count_unit(s, unit, p, last, dead);
    double shared = 0;
    if (may_overwrite(s, unit))
      shared = unit->makes < unit->frees ? unit->makes : unit->frees;
    if (live + unit->makes - shared > peak)
      peak = live + unit->makes - shared;
    live += unit->makes - unit->frees;
  }
  return peak;
}

/* ---------------------------------------------------------------- orders */

/* By unit: the units whose values it reads, its extents' among them; and the other way round. */
typedef struct Links {
  uint32_t **before, **behind; /* arena vectors */
} Links;

static void link_value(const Scene *s, Links *links, uint32_t unit, ValueId v) {
  const Value *value = &s->f->values[v];
  if (value->kind != VALUE_RESULT || s->unit_of[value->inst] == unit)
    return;
  const uint32_t maker = s->unit_of[value->inst];
  vec_push(s->arena, links->before[unit], maker);
  vec_push(s->arena, links->behind[maker], unit);
}

static Links find_links(const Scene *s) {
  const uint32_t units = vec_len(s->units);
  Links links = {arena_alloc(s->arena, (units + 1) * sizeof *links.before),
                 arena_alloc(s->arena, (units + 1) * sizeof *links.behind)};
  for (uint32_t u = 0; u < units; u++)
    for (uint32_t i = s->units[u].first; i <= s->units[u].last; i++) {
      const Inst *inst = &s->f->insts[i];
      for (int k = 0; k < inst->input_count; k++)
        link_value(s, &links, u, inst->input[k]);
      for (int k = 0; k < inst->output_count; k++)
        if (s->f->values[inst->output[k]].type.extent != NO_VALUE)
          link_value(s, &links, u, s->f->values[inst->output[k]].type.extent);
    }
  return links;
}

/* Moves units, from the last to the first, right before their first reader, those for which it pays; stable otherwise.
 */
static uint32_t *order_late(const Scene *s, const Links *links, const uint32_t *order) {
  const uint32_t units = vec_len(s->units);
  uint32_t *target = arena_alloc(s->arena, (units + 1) * sizeof *target);    /* by unit: the place it goes before */
  uint32_t **waiting = arena_alloc(s->arena, (units + 1) * sizeof *waiting); /* by place: who goes before it */
  for (uint32_t p = units; p-- > 0;) {
    const uint32_t u = order[p];
    uint32_t first = units;
    for (uint32_t i = 0; i < vec_len(links->behind[u]); i++)
      if (target[links->behind[u][i]] < first)
        first = target[links->behind[u][i]];
    target[u] = first < units && s->units[u].makes > s->units[u].frees ? first : p;
  }
  for (uint32_t p = 0; p < units; p++) /* in their old order, so that readers stay behind what they read */
    vec_push(s->arena, waiting[target[order[p]]], order[p]);
  uint32_t *late = NULL;
  for (uint32_t p = 0; p < units; p++)
    for (uint32_t i = 0; i < vec_len(waiting[p]); i++)
      vec_push(s->arena, late, waiting[p][i]);
  return late;
}

/* Moves units, from the first to the last, right behind the last of their operands, those for which it pays. */
static uint32_t *order_early(const Scene *s, const Links *links, const uint32_t *order) {
  const uint32_t units = vec_len(s->units);
  uint32_t *target = arena_alloc(s->arena, (units + 1) * sizeof *target); /* by unit: the place it goes behind */
  uint32_t **waiting = arena_alloc(s->arena, (units + 1) * sizeof *waiting);
  for (uint32_t p = 0; p < units; p++) {
    const uint32_t u = order[p];
    uint32_t last = 0;
    for (uint32_t i = 0; i < vec_len(links->before[u]); i++)
      if (target[links->before[u][i]] > last)
        last = target[links->before[u][i]];
    target[u] = vec_len(links->before[u]) > 0 && s->units[u].frees > s->units[u].makes ? last : p;
    vec_push(s->arena, waiting[target[u]], u);
  }
  uint32_t *early = NULL;
  for (uint32_t p = 0; p < units; p++) {
    for (uint32_t i = 0; i < vec_len(waiting[p]); i++)
      vec_push(s->arena, early, waiting[p][i]);
  }
  return early;
}

/* ---------------------------------------------------------------- the pass */

static Cost bytes_cost(double bytes) {
  Cost cost = NO_COST;
  cost.bytes = bytes;
  return cost;
}

typedef struct Candidate {
  const char *what;
  const uint32_t *order;
  double peak;
} Candidate;

static void decide_order(const PassContext *context, const Scene *s, const Candidate *candidates, int count,
                         int chosen) {
  Alternative *alternatives = NULL;
  for (int i = 0; i < count; i++) {
    if (i == chosen)
      continue;
    const char *lost = candidates[i].peak >= candidates[chosen].peak ? "no less is live at the peak"
                                                                     : "the peak falls by less than a hundredth";
    const Alternative a = {candidates[i].what, bytes_cost(candidates[i].peak), lost};
    vec_push(s->arena, alternatives, a);
  }
  const Site site = {.pass = context->pass, .function = s->f->name};
  decide(context->ledger, site, candidates[chosen].what, alternatives, bytes_cost(candidates[chosen].peak),
         "bytes live at the peak of the function");
}

static void write_order(Func *f, const Scene *s, const uint32_t *order) {
  const Unit *units = s->units;
  Rewrite r = rewrite_begin(f);
  for (uint32_t p = 0; p < vec_len(units); p++)
    for (uint32_t i = units[order[p]].first; i <= units[order[p]].last; i++)
      rewrite_copy(&r, i);
  rewrite_end(&r);
}

static bool schedule_func(const PassContext *context, Func *f) {
  Arena *arena = f->module->arena;
  Scene scene = {.f = f, .arena = arena}, *s = &scene;
  s->unit_of = arena_alloc(arena, (vec_len(f->insts) + 1) * sizeof *s->unit_of);
  s->root = arena_alloc(arena, (vec_len(f->values) + 1) * sizeof *s->root);
  s->held = arena_alloc(arena, vec_len(f->values) + 1);
  find_roots(s);
  find_units(s);
  if (vec_len(s->units) < 2)
    return false;
  uint32_t *given = NULL;
  for (uint32_t u = 0; u < vec_len(s->units); u++)
    vec_push(arena, given, u);
  const Links links = find_links(s);
  Candidate candidates[] = {{"the order as it stands", given, 0},
                            {"late: what makes more than it frees, before its reader", NULL, 0},
                            {"early: what frees more than it makes, behind its operands", NULL, 0}};
  enum { GIVEN, LATE, EARLY, COUNT };
  candidates[GIVEN].peak = find_peak(s, given);
  candidates[LATE].order = order_late(s, &links, given);
  candidates[EARLY].order = order_early(s, &links, given);
  candidates[LATE].peak = find_peak(s, candidates[LATE].order);
  candidates[EARLY].peak = find_peak(s, candidates[EARLY].order);
  int best = GIVEN;
  for (int i = LATE; i < COUNT; i++)
    if (candidates[i].peak < candidates[best].peak)
      best = i;
  if (candidates[best].peak > candidates[GIVEN].peak * (1 - 1.0 / WORTH))
    best = GIVEN;
  decide_order(context, s, candidates, COUNT, best);
  if (best != GIVEN)
    write_order(f, s, candidates[best].order);
  return best != GIVEN;
}

bool pass_schedule(PassContext *context) {
  bool changed = false;
  for (uint32_t i = 0; i < vec_len(context->module->funcs); i++)
    changed |= schedule_func(context, context->module->funcs[i]);
  return changed;
}
