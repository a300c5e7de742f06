/* One block: its threads as coroutines of this worker, which run in turn until each waits or has ended.
 *
 * A lane goes on until it needs others: all threads of the block (barrier) or the lanes of a mask (a meeting of the
 * warp, whose last lane computes the results of all). When no lane can go on and not all have ended, the block is
 * divergent.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/simulator/private.h"

_Thread_local Worker *simulator_worker;

/* ---------------------------------------------------------------- switching stacks */

/* Saves the registers that a call keeps on this stack, its pointer in *from, and goes on with the stack `to`. */
void simulator_switch(void **from, void *to);
__asm__(".text\n"
        ".hidden simulator_switch\n"
        ".globl simulator_switch\n"
        ".type simulator_switch, @function\n"
        "simulator_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size simulator_switch, .-simulator_switch\n");

static void lane_leave(Worker *w) {
  simulator_switch(&w->current->stack_pointer, w->scheduler);
}

static void lane_main(void) {
  Worker *w = simulator_worker;
  w->launch->enter(w->launch->parameters);
  w->current->state = LANE_ENDED;
  lane_leave(w);
  abort(); /* an ended lane is not resumed */
}

/* The stack of a lane that has not begun: six registers, where to return to, and what that would return to. */
static void lane_prepare(Lane *lane) {
  void **top = (void **)(void *)(lane->stack + STACK_BYTES - 64);
  *--top = NULL;
  *--top = (void *)(uintptr_t)lane_main;
  top -= 6;
  memset(top, 0, 6 * sizeof *top);
  lane->stack_pointer = top;
  lane->state = LANE_READY;
  lane->copy_count = lane->copy_group = 0;
}

static void lane_resume(Worker *w, Lane *lane) {
  w->current = lane;
  simulator_switch(&w->scheduler, lane->stack_pointer);
}

void lane_suspend(Worker *w) {
  lane_leave(w);
}

/* ---------------------------------------------------------------- faults */

static void block_report(Worker *w, const Lane *lane, const void *site, const char *what) {
  char place[400] = "";
  if (site)
    report_site(w->launch->unit, site, place, sizeof place);
  report("kernel %s, block (%u,%u,%u), thread %d: %s%s%s", w->launch->kernel, w->block.x, w->block.y, w->block.z,
         lane->index, what, *place ? "\n  at " : "", place);
  w->failed = true;
}

void lane_fail(const void *site, const char *format, ...) {
  char what[500];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  Worker *w = simulator_worker;
  block_report(w, w->current, site, what);
  lane_leave(w);
  abort(); /* the lanes of an abandoned block are not resumed */
}

static const char *waits_at(const Lane *lane, char *text, size_t size) {
  if (lane->state == LANE_ENDED)
    snprintf(text, size, "has ended");
  else if (lane->state == LANE_AT_BARRIER)
    snprintf(text, size, "waits at barrier %d", lane->barrier);
  else
    snprintf(text, size, "waits at a %s in line %d", lane->state == LANE_AT_BLOCK_WAIT ? "barrier" : "warp function",
             lane->line);
  return text;
}

/* Nobody can go on: names a lane that waits and one that stands elsewhere. */
static void block_report_divergence(Worker *w) {
  static const LaneState waits[] = {LANE_AT_WARP, LANE_AT_BARRIER, LANE_AT_BLOCK_WAIT};
  const Lane *waiting = NULL, *other = NULL;
  for (size_t s = 0; s < sizeof waits / sizeof waits[0]; s++)
    for (int i = 0; i < w->lanes && !waiting; i++)
      if (w->lane[i].state == waits[s])
        waiting = &w->lane[i];
  int first = waiting->state == LANE_AT_WARP ? waiting->index / WARP_LANES * WARP_LANES : 0;
  for (int i = first; i < w->lanes && !other; i++)
    if (w->lane[i].state != waiting->state || w->lane[i].line != waiting->line)
      other = &w->lane[i];
  char here[100], there[100] = "is not in the block", what[300];
  waits_at(waiting, here, sizeof here);
  if (other)
    waits_at(other, there, sizeof there);
  snprintf(what, sizeof what, "divergent: it %s while thread %d %s", here, other ? other->index : w->lanes, there);
  block_report(w, waiting, NULL, what);
}

/* ---------------------------------------------------------------- barriers */

void simulator_block_wait(int line);
void simulator_block_wait(int line) {
  Worker *w = simulator_worker;
  w->current->state = LANE_AT_BLOCK_WAIT;
  w->current->line = line;
  lane_suspend(w);
}

/* All lanes stand at a barrier: they pass when it is one and the same. */
static bool block_release(Worker *w) {
  for (int i = 0; i < w->lanes; i++)
    if (w->lane[i].state != LANE_AT_BLOCK_WAIT || w->lane[i].line != w->lane[0].line)
      return false;
  for (int i = 0; i < w->lanes; i++)
    w->lane[i].state = LANE_READY;
  w->block_waited_at = ++w->clock;
  return true;
}

/* A barrier with a number, of `threads` threads, of which some only arrive and go on. It orders nobody's accesses here:
 * what needs that waits for the block. */
void simulator_barrier(int barrier, int threads, int waits);
void simulator_barrier(int barrier, int threads, int waits) {
  Worker *w = simulator_worker;
  Lane *own = w->current;
  if (barrier < 1 || barrier >= BLOCK_BARRIERS)
    lane_fail(__builtin_return_address(0), "barrier %d: a block has 1 to %d", barrier, BLOCK_BARRIERS - 1);
  if (++w->arrived[barrier] < threads) {
    own->state = waits ? LANE_AT_BARRIER : LANE_READY;
    own->barrier = barrier;
    if (waits)
      lane_suspend(w);
    return;
  }
  w->arrived[barrier] = 0;
  for (int i = 0; i < w->lanes; i++)
    if (w->lane[i].state == LANE_AT_BARRIER && w->lane[i].barrier == barrier)
      w->lane[i].state = LANE_READY;
}

/* All lanes have ended: nobody may have arrived at a barrier for which none has waited. */
static bool block_ended(Worker *w) {
  for (int i = 1; i < BLOCK_BARRIERS; i++)
    if (w->arrived[i]) {
      char what[100];
      snprintf(what, sizeof what, "%d threads have arrived at barrier %d, and the block has ended", w->arrived[i], i);
      block_report(w, &w->lane[0], NULL, what);
      return false;
    }
  return true;
}

/* ---------------------------------------------------------------- the block */

static uint64_t random_next(uint64_t *state) { /* splitmix64 */
  uint64_t x = *state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static void order_lanes(const Worker *w, uint64_t *state, uint16_t *order) {
  for (int i = 0; i < w->lanes; i++)
    order[i] = (uint16_t)(w->launch->order == SIMULATOR_BACKWARD ? w->lanes - 1 - i : i);
  if (w->launch->order != SIMULATOR_SHUFFLED)
    return;
  for (int i = w->lanes - 1; i > 0; i--) {
    int other = (int)(random_next(state) % (uint64_t)(i + 1));
    uint16_t kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
}

static Index3 index_of(int64_t number, Index3 size) {
  return (Index3){(unsigned)(number % size.x), (unsigned)(number / size.x % size.y),
                  (unsigned)(number / ((int64_t)size.x * size.y))};
}

/* Stacks, each with a page below it that may not be touched. */
static void worker_allocate(Worker *w) {
  const size_t page = 4096, each = STACK_BYTES + page;
  char *stacks =
      mmap(NULL, each * BLOCK_LANES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  w->lane = calloc(BLOCK_LANES, sizeof *w->lane);
  if (stacks == MAP_FAILED || !w->lane) {
    fprintf(stderr, "simulator: no memory for %d stacks\n", BLOCK_LANES);
    exit(3);
  }
  for (int i = 0; i < BLOCK_LANES; i++) {
    mprotect(stacks + each * (size_t)i, page, PROT_NONE);
    w->lane[i].stack = stacks + each * (size_t)i + page;
    w->lane[i].index = i;
  }
}

bool block_run(Worker *w) {
  if (!w->lane)
    worker_allocate(w);
  w->failed = false;
  memset(w->warp, 0, sizeof w->warp);
  memset(w->arrived, 0, sizeof w->arrived);
  access_begin_block(w);
  w->lanes = (int)(w->launch->block.x * w->launch->block.y * w->launch->block.z);
  uint64_t random = w->launch->seed * 1000003 + w->block_number;
  uint16_t order[BLOCK_LANES];
  order_lanes(w, &random, order);
  for (int i = 0; i < w->lanes; i++) {
    w->lane[i].thread = index_of(i, w->launch->block);
    lane_prepare(&w->lane[i]);
  }
  for (;;) {
    bool moved = false;
    int ended = 0;
    for (int i = 0; i < w->lanes && !w->failed; i++) {
      Lane *lane = &w->lane[order[i]];
      if (lane->state == LANE_READY) {
        lane_resume(w, lane);
        moved = true;
      }
      ended += lane->state == LANE_ENDED;
    }
    if (w->failed)
      return false;
    if (ended == w->lanes)
      return block_ended(w);
    if (!moved && !block_release(w)) {
      block_report_divergence(w);
      return false;
    }
    if (w->launch->order == SIMULATOR_SHUFFLED)
      order_lanes(w, &random, order);
  }
}

/* ---------------------------------------------------------------- where a thread stands */

Index3 simulator_thread_index(void);
Index3 simulator_thread_index(void) {
  return simulator_worker->current->thread;
}
Index3 simulator_block_index(void);
Index3 simulator_block_index(void) {
  return simulator_worker->block;
}
Index3 simulator_block_size(void);
Index3 simulator_block_size(void) {
  return simulator_worker->launch->block;
}
Index3 simulator_grid_size(void);
Index3 simulator_grid_size(void) {
  return simulator_worker->launch->grid;
}
