/* The memory plan: where in the act arena every storage stands.
 *
 * In: the steps of a function and its storages. Out: first and last step of every storage, its kind and offset, the
 * size of the arena, and what is live at its peak. Offsets: the largest storage first, each into the smallest gap among
 * those that are live together with it. What a kernel makes element by element from an operand that dies there takes
 * over its bytes. Holds afterwards, checked in every build: storages that are live at the same
 * step share no byte, and no step reads what no earlier step wrote.
 */
#include "codegen/plan.h"

#include <stdlib.h>
#include <string.h>

#include "ir/rows.h"

enum { STORAGE_ALIGN = 64 }; /* a cache line, and a vector register */

const char *const storage_kind_name[STORAGE_KIND_COUNT] = {"arguments",       "results",          "saved for backward",
                                                           "forward interim", "backward interim", "scratch"};

static int64_t padded(int64_t bytes) {
  int64_t size = (bytes + STORAGE_ALIGN - 1) / STORAGE_ALIGN * STORAGE_ALIGN;
  return size ? size : STORAGE_ALIGN;
}

static bool in_act(const Storage *s) {
  return s->space == SPACE_ACT && s->first != NO_STEP;
}

/* ---------------------------------------------------------------- liveness */

/* The options of a choice are alternatives: its steps are one moment, that of the first of them. */
static uint32_t moment_of(const FuncPlan *plan, uint32_t step) {
  int choice = plan->steps[step].choice;
  while (choice && step > 0 && plan->steps[step - 1].choice == choice)
    step--;
  return step;
}

static uint32_t moment_end(const FuncPlan *plan, uint32_t moment) {
  uint32_t end = moment + 1;
  while (plan->steps[moment].choice && end < vec_len(plan->steps) &&
         plan->steps[end].choice == plan->steps[moment].choice)
    end++;
  return end;
}

static bool touches(const Field *field) {
  return field->kind == FIELD_READ || field->kind == FIELD_WRITE || field->kind == FIELD_COUNT;
}

static bool is_other_option(const FuncPlan *plan, uint32_t step, uint32_t other) {
  return moment_of(plan, step) == moment_of(plan, other) && plan->steps[step].choice &&
         strcmp(plan->steps[step].option, plan->steps[other].option) != 0;
}

/* written: by storage, the last step that wrote it, or NO_STEP. */
static void touch(FuncPlan *plan, uint32_t step, const Field *field, uint32_t *written) {
  uint32_t storage = field->place.storage, writer = written[storage], moment = moment_of(plan, step);
  Storage *s = &plan->storages[storage];
  bool given = s->argument || s->space != SPACE_ACT;
  if (field->kind != FIELD_WRITE && !given && (writer == NO_STEP || is_other_option(plan, step, writer)))
    ir_bug("%s: step %u (%s) reads %%%s, which no earlier step wrote", plan->func->name, step,
           plan->steps[step].keyword, s->value == NO_VALUE ? "scratch" : plan->func->values[s->value].name);
  if (field->kind == FIELD_WRITE)
    written[storage] = step;
  if (s->first == NO_STEP)
    s->first = moment;
  s->last = moment;
}

static void find_lives(Arena *arena, FuncPlan *plan) {
  uint32_t steps = vec_len(plan->steps), *written = arena_alloc(arena, (vec_len(plan->storages) + 1) * sizeof *written);
  for (uint32_t i = 0; i < vec_len(plan->storages); i++)
    written[i] = NO_STEP;
  for (uint32_t i = 0; i < steps; i++)
    for (int write = 0; write <= 1; write++) /* a step reads what those before it have left */
      for (uint32_t k = 0; k < vec_len(plan->steps[i].fields); k++)
        if (touches(&plan->steps[i].fields[k]) && (plan->steps[i].fields[k].kind == FIELD_WRITE) == write)
          touch(plan, i, &plan->steps[i].fields[k], written);
  for (uint32_t i = 0; i < vec_len(plan->storages); i++) {
    Storage *s = &plan->storages[i];
    if (s->argument) {
      s->first = 0;
      s->last = steps;
    } else if (s->result && s->first != NO_STEP) {
      s->last = steps;
    }
  }
}

static bool writes(const Step *step, uint32_t storage) {
  for (uint32_t k = 0; k < vec_len(step->fields); k++)
    if (step->fields[k].kind == FIELD_WRITE && step->fields[k].place.storage == storage)
      return true;
  return false;
}

/* Every option of a choice makes what is read behind it. */
static void check_options(const FuncPlan *plan, uint32_t moment) {
  uint32_t end = moment_end(plan, moment);
  for (uint32_t storage = 0; storage < vec_len(plan->storages); storage++) {
    const Storage *s = &plan->storages[storage];
    bool made = false;
    for (uint32_t i = moment; i < end; i++)
      made |= writes(&plan->steps[i], storage);
    for (uint32_t i = moment, next; made && s->last > moment && i < end; i = next) {
      bool by_option = false;
      for (next = i; next < end && !is_other_option(plan, next, i); next++)
        by_option |= writes(&plan->steps[next], storage);
      if (!by_option)
        ir_bug("%s: option %s of choice %d does not write what others do", plan->func->name, plan->steps[i].option,
               plan->steps[i].choice);
    }
  }
}

/* By step: whether a result that is no gradient needs it. What no such result needs is the backward part; in functions
 * without gradients everything is forward. */
static bool *find_forward(Arena *arena, const FuncPlan *plan) {
  const Func *f = plan->func;
  uint32_t insts = vec_len(f->insts), steps = vec_len(plan->steps);
  bool *needed = arena_alloc(arena, vec_len(f->values) + 1), *inst = arena_alloc(arena, insts + 1);
  bool *forward = arena_alloc(arena, steps + 2);
  for (uint32_t i = 0; i < vec_len(f->results); i++)
    needed[f->results[i].value] |= !result_is_gradient(&f->results[i]);
  for (uint32_t i = insts; i-- > 0;) {
    for (int k = 0; k < f->insts[i].output_count; k++)
      inst[i] |= needed[f->insts[i].output[k]];
    for (int k = 0; k < f->insts[i].input_count && inst[i]; k++)
      needed[f->insts[i].input[k]] = true;
  }
  for (uint32_t i = 0; i < steps; i++) {
    const Step *step = &plan->steps[i];
    forward[i] = plan->loss_inst == NO_INST;
    for (uint32_t k = step->first_inst; k != NO_INST && k <= step->last_inst; k++)
      forward[i] |= inst[k];
  }
  return forward;
}

static void find_kinds(Arena *arena, FuncPlan *plan) {
  const bool *forward = find_forward(arena, plan);
  for (uint32_t i = 0; i < vec_len(plan->storages); i++) {
    Storage *s = &plan->storages[i];
    if (s->argument)
      s->kind = STORAGE_ARGUMENT;
    else if (s->result)
      s->kind = STORAGE_RESULT;
    else if (s->scratch)
      s->kind = STORAGE_SCRATCH;
    else if (s->first == NO_STEP || forward[s->last])
      s->kind = STORAGE_FORWARD;
    else
      s->kind = forward[s->first] ? STORAGE_SAVED : STORAGE_BACKWARD;
  }
}

/* ---------------------------------------------------------------- sharing */

bool plan_may_overwrite(const FuncPlan *plan, const Field *old, const Field *made) {
  if (!old->in_place || !made->in_place)
    return false;
  const Func *f = plan->func;
  Type from = f->values[old->value].type, to = f->values[made->value].type;
  RowShape a = row_shape(f->module, from), b = row_shape(f->module, to);
  return from.dtype == to.dtype && a.rows == b.rows && a.columns == b.columns &&
         plan->values[old->value].ld == plan->values[made->value].ld;
}

/* Whether the step writes `made` element by element over `old`, which none of its other operands touches. */
static bool overwrites(const FuncPlan *plan, uint32_t step, uint32_t old, uint32_t made) {
  const Field *read = NULL, *write = NULL;
  for (uint32_t k = 0; k < vec_len(plan->steps[step].fields); k++) {
    const Field *field = &plan->steps[step].fields[k];
    if (!touches(field) || (field->place.storage != old && field->place.storage != made))
      continue;
    const Field **found = field->place.storage == old ? &read : &write;
    if (*found || field->place.offset != 0 || field->kind != (field->place.storage == old ? FIELD_READ : FIELD_WRITE))
      return false;
    *found = field;
  }
  return read && write && plan_may_overwrite(plan, read, write);
}

static bool touches_storage(const Step *step, uint32_t storage) {
  for (uint32_t k = 0; k < vec_len(step->fields); k++)
    if (touches(&step->fields[k]) && step->fields[k].place.storage == storage)
      return true;
  return false;
}

/* Whether in every option of the moment `old` is done with where `made` is written, or is overwritten by it. */
static bool may_take_over(const FuncPlan *plan, uint32_t moment, uint32_t old, uint32_t made) {
  bool written = false;
  for (uint32_t i = moment; i < moment_end(plan, moment); i++) {
    if (i > moment && is_other_option(plan, i, i - 1))
      written = false;
    bool touched = touches_storage(&plan->steps[i], old), write = writes(&plan->steps[i], made);
    if (touched && (written || (write && !overwrites(plan, i, old, made))))
      return false;
    written |= write;
  }
  return true;
}

/* Lets what `made` writes take over the bytes of an operand of the step that dies there, if one allows it. */
static void share_operand(FuncPlan *plan, uint32_t step, const Field *made, bool *taken) {
  uint32_t moment = moment_of(plan, step);
  Storage *s = &plan->storages[made->place.storage];
  if (!in_act(s) || s->first != moment || s->argument || s->shares != NO_STORAGE)
    return;
  for (uint32_t k = 0; k < vec_len(plan->steps[step].fields); k++) {
    const Field *read = &plan->steps[step].fields[k];
    const Storage *old = read->kind == FIELD_READ ? &plan->storages[read->place.storage] : NULL;
    if (!old || !in_act(old) || old->last != moment || old->argument || old->result || old->scratch ||
        old->bytes != s->bytes || taken[read->place.storage] ||
        !overwrites(plan, step, read->place.storage, made->place.storage) ||
        !may_take_over(plan, moment, read->place.storage, made->place.storage))
      continue;
    s->shares = read->place.storage;
    taken[read->place.storage] = true;
    return;
  }
}

static void share_storages(Arena *arena, FuncPlan *plan) {
  bool *taken = arena_alloc(arena, vec_len(plan->storages) + 1);
  for (uint32_t i = 0; i < vec_len(plan->steps); i++)
    for (uint32_t k = 0; k < vec_len(plan->steps[i].fields); k++)
      if (plan->steps[i].fields[k].kind == FIELD_WRITE && plan->steps[i].fields[k].in_place)
        share_operand(plan, i, &plan->steps[i].fields[k], taken);
}

static uint32_t first_owner(const FuncPlan *plan, uint32_t storage) {
  while (plan->storages[storage].shares != NO_STORAGE)
    storage = plan->storages[storage].shares;
  return storage;
}

/* ---------------------------------------------------------------- offsets */

typedef struct Block {
  int64_t size, offset;
  uint32_t first, last, storage;
} Block;

static int compare_sizes(const void *a, const void *b) {
  const Block *x = a, *y = b;
  if (x->size != y->size)
    return x->size > y->size ? -1 : 1;
  return x->storage < y->storage ? -1 : x->storage > y->storage;
}

static bool live_together(const Block *a, const Block *b) {
  return a->first <= b->last && b->first <= a->last;
}

/* The start of the smallest gap that holds `block` between the placed blocks live with it; placed: by offset. */
static int64_t best_gap(const Block *placed, uint32_t count, const Block *block) {
  int64_t end = 0, best = -1, best_size = INT64_MAX;
  for (uint32_t i = 0; i < count; i++) {
    if (!live_together(&placed[i], block))
      continue;
    int64_t gap = placed[i].offset - end;
    if (gap >= block->size && gap < best_size) {
      best = end;
      best_size = gap;
    }
    if (placed[i].offset + placed[i].size > end)
      end = placed[i].offset + placed[i].size;
  }
  return best >= 0 ? best : end;
}

static void insert_block(Block *placed, uint32_t count, Block block) {
  uint32_t low = 0, high = count;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (placed[middle].offset <= block.offset)
      low = middle + 1;
    else
      high = middle;
  }
  memmove(&placed[low + 1], &placed[low], (count - low) * sizeof *placed);
  placed[low] = block;
}

static void check_blocks(const FuncPlan *plan, const Block *placed, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t k = i + 1; k < count && placed[k].offset < placed[i].offset + placed[i].size; k++)
      if (live_together(&placed[i], &placed[k]))
        ir_bug("%s: the memory plan gives two live storages (%u and %u) the same bytes", plan->func->name,
               placed[i].storage, placed[k].storage);
}

/* One block per storage and all that take over its bytes; by the storage's index, unused ones of size 0. */
static Block *collect_blocks(Arena *arena, const FuncPlan *plan) {
  uint32_t storages = vec_len(plan->storages);
  Block *blocks = arena_alloc(arena, (storages + 1) * sizeof *blocks);
  for (uint32_t i = 0; i < storages; i++) {
    const Storage *s = &plan->storages[i];
    if (!in_act(s))
      continue;
    Block *block = &blocks[first_owner(plan, i)];
    if (s->shares == NO_STORAGE) {
      block->size = padded(s->bytes);
      block->first = s->first;
      block->storage = i;
    }
    if (s->last > block->last)
      block->last = s->last;
  }
  return blocks;
}

static void place_blocks(Arena *arena, FuncPlan *plan) {
  uint32_t storages = vec_len(plan->storages), count = 0;
  Block *blocks = collect_blocks(arena, plan);
  for (uint32_t i = 0; i < storages; i++)
    if (blocks[i].size)
      blocks[count++] = blocks[i];
  qsort(blocks, count, sizeof *blocks, compare_sizes);
  Block *placed = arena_alloc(arena, (count + 1) * sizeof *placed);
  for (uint32_t i = 0; i < count; i++) {
    Block block = blocks[i];
    block.offset = best_gap(placed, i, &block);
    plan->storages[block.storage].offset = block.offset;
    if (block.offset + block.size > plan->act)
      plan->act = block.offset + block.size;
    insert_block(placed, i, block);
  }
  check_blocks(plan, placed, count);
  for (uint32_t i = 0; i < storages; i++)
    if (plan->storages[i].shares != NO_STORAGE)
      plan->storages[i].offset = plan->storages[first_owner(plan, i)].offset;
}

/* ---------------------------------------------------------------- peak */

/* Bytes taken over count as the new owner's from the next step on. */
static uint32_t storage_first(const Storage *s) {
  return s->first + (s->shares != NO_STORAGE);
}

bool plan_is_live(const Storage *s, uint32_t step) {
  return in_act(s) && storage_first(s) <= step && step <= s->last;
}

/* Bytes of a storage of which `live_rows` of a ragged value's rows are in use; -1: all that are bound. */
static int64_t bytes_in_use(const FuncPlan *plan, const Storage *s, int64_t live_rows) {
  const Module *m = plan->func->module;
  if (s->value == NO_VALUE || live_rows < 0 || plan->func->values[s->value].type.extent == NO_VALUE)
    return padded(s->bytes);
  int64_t bound = dim_value(m, plan->func->values[s->value].type.dim[0]);
  return live_rows >= bound ? padded(s->bytes) : padded(s->bytes / bound * live_rows);
}

MemoryPeak plan_peak(Arena *arena, const FuncPlan *plan, int64_t live_rows) {
  MemoryPeak peak = {.step = NO_STEP};
  uint32_t steps = vec_len(plan->steps);
  int64_t(*change)[STORAGE_KIND_COUNT] = arena_alloc(arena, (steps + 2) * sizeof *change);
  for (uint32_t i = 0; i < vec_len(plan->storages); i++) {
    const Storage *s = &plan->storages[i];
    if (in_act(s)) {
      change[storage_first(s)][s->kind] += bytes_in_use(plan, s, live_rows);
      change[s->last + 1][s->kind] -= bytes_in_use(plan, s, live_rows);
    }
  }
  int64_t live[STORAGE_KIND_COUNT] = {0};
  for (uint32_t step = 0; step <= steps; step++) {
    int64_t total = 0;
    for (int kind = 0; kind < STORAGE_KIND_COUNT; kind++)
      total += live[kind] += change[step][kind];
    if (total > peak.live) {
      peak.step = step;
      peak.live = total;
      memcpy(peak.by_kind, live, sizeof live);
    }
  }
  return peak;
}

void plan_memory(Arena *arena, FuncPlan *plan) {
  find_lives(arena, plan);
  for (uint32_t i = 0; i < vec_len(plan->steps); i = moment_end(plan, i))
    if (plan->steps[i].choice)
      check_options(plan, i);
  find_kinds(arena, plan);
  share_storages(arena, plan);
  place_blocks(arena, plan);
  plan->peak = plan_peak(arena, plan, -1);
}
