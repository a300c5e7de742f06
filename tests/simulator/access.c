/* Every memory access of emitted code, as the compiler's instrumentation announces it.
 *
 * An access lies on the lane's own stack, in a shared variable of the unit, in one allocation of device memory, or
 * (reads only) among the unit's constants: anything else is a fault. Shadow cells remember who wrote and read last and
 * when. Two accesses are ordered when a barrier of the block lies between them, or a wait of the warp that both belong
 * to.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"
#include "tests/simulator/shadow.h"

enum { MANY = 0xffff, MANY_OF_WARP = 0x8000, IN_FLIGHT = 0x8000 };

/* ---------------------------------------------------------------- who may access what */

static bool is_ordered(const Worker *w, uint32_t at, int of_warp, const Lane *lane) {
  return at < w->block_waited_at ||
         (of_warp == lane->index / WARP_LANES && at < w->warp[lane->index / WARP_LANES].waited_at);
}

typedef struct Conflict {
  const char *what; /* NULL: none */
  bool other_block;
  int lane; /* -1: several */
} Conflict;

static Conflict conflict_with_write(const Worker *w, const ShadowCell *cell, const Lane *lane, bool write) {
  int writer = cell->writer & ~IN_FLIGHT;
  if (cell->write_block != w->block_number)
    return (Conflict){write ? "writes what a thread of another block writes"
                            : "reads what a thread of another block writes",
                      true, writer};
  if (cell->writer & IN_FLIGHT)
    return (Conflict){"accesses what an asynchronous copy has not delivered (no moec_copy_wait)", false, writer};
  if (writer != lane->index && !is_ordered(w, cell->written_at, writer / WARP_LANES, lane))
    return (Conflict){write ? "writes without a barrier what another thread has written"
                            : "reads without a barrier what another thread has written",
                      false, writer};
  return (Conflict){NULL};
}

static Conflict conflict_with_read(const Worker *w, const ShadowCell *cell, const Lane *lane) {
  if (cell->read_block != w->block_number)
    return (Conflict){"writes what a thread of another block reads", true, -1};
  static const char what[] = "writes without a barrier what another thread has read";
  if (cell->reader == MANY)
    return cell->read_at < w->block_waited_at ? (Conflict){NULL} : (Conflict){what, false, -1};
  bool many = cell->reader & MANY_OF_WARP;
  int reader = cell->reader & ~MANY_OF_WARP, warp = many ? reader : reader / WARP_LANES;
  if ((many || reader != lane->index) && !is_ordered(w, cell->read_at, warp, lane))
    return (Conflict){what, false, many ? -1 : reader};
  return (Conflict){NULL};
}

static void note_read(const Worker *w, ShadowCell *cell, const Lane *lane) {
  int warp = lane->index / WARP_LANES, reader = lane->index;
  if (cell->read_at >= w->block_waited_at && cell->read_block == w->block_number && cell->reader != lane->index) {
    bool many = cell->reader & MANY_OF_WARP;
    int other_warp = many ? cell->reader & ~MANY_OF_WARP : cell->reader / WARP_LANES;
    reader = cell->reader == MANY || other_warp != warp ? MANY
             : cell->read_at >= w->warp[warp].waited_at ? MANY_OF_WARP | warp
                                                        : reader;
  }
  cell->read_at = w->clock;
  cell->read_block = (uint32_t)w->block_number;
  cell->reader = (uint16_t)reader;
}

static Conflict cell_access(const Worker *w, ShadowCell *cell, const Lane *lane, bool write, uint32_t since) {
  Conflict conflict = {NULL};
  if (!write && cell->read_at == w->clock && cell->reader == lane->index && cell->written_at < since)
    return conflict; /* once more */
  if (cell->written_at >= since)
    conflict = conflict_with_write(w, cell, lane, write);
  if (!conflict.what && write && cell->read_at >= since)
    conflict = conflict_with_read(w, cell, lane);
  if (conflict.what)
    return conflict;
  if (write) {
    cell->written_at = w->clock;
    cell->write_block = (uint32_t)w->block_number;
    cell->writer = (uint16_t)lane->index;
  } else if (cell->reader != lane->index || cell->read_at != w->clock) {
    note_read(w, cell, lane);
  }
  return conflict;
}

static _Noreturn void fail_conflict(const Conflict *conflict, const char *memory, const void *site) {
  if (conflict->lane >= 0)
    lane_fail(site, "%s: it %s (thread %d)", memory, conflict->what, conflict->lane);
  lane_fail(site, "%s: it %s", memory, conflict->what);
}

/* ---------------------------------------------------------------- shared memory */

static const SharedVariable *variable_at(const Worker *w, int64_t at, size_t bytes) {
  const SimulatorUnit *unit = w->launch->unit;
  for (int i = 0; i < unit->variable_count; i++) {
    const SharedVariable *v = &unit->variables[i];
    int64_t size = v->dynamic ? w->launch->shared_bytes : v->bytes;
    if (at >= v->at && at + (int64_t)bytes <= v->at + size)
      return v;
  }
  return NULL;
}

static void shared_check(Worker *w, Lane *lane, int64_t at, size_t bytes, bool write, const void *site) {
  const SharedVariable *v = variable_at(w, at, bytes);
  if (!v)
    lane_fail(site, "%zu bytes outside of every variable in shared memory", bytes);
  const int64_t from = at - w->launch->unit->shared_from;
  for (int64_t i = from / SHADOW_BYTES; i <= (from + (int64_t)bytes - 1) / SHADOW_BYTES; i++) {
    ShadowCell *cell = &w->shadow[i];
    if (!write && cell->written_at < w->block_began_at)
      lane_fail(site, "%s, byte %lld: it reads shared memory that nobody has written", v->name,
                (long long)(i * SHADOW_BYTES - (v->at - w->launch->unit->shared_from)));
    Conflict conflict = cell_access(w, cell, lane, write, w->block_began_at);
    if (conflict.what) {
      char memory[200];
      snprintf(memory, sizeof memory, "%s, byte %lld", v->name,
               (long long)(i * SHADOW_BYTES - (v->at - w->launch->unit->shared_from)));
      fail_conflict(&conflict, memory, site);
    }
  }
}

static bool is_shared(const Worker *w, const char *at) {
  const SimulatorUnit *unit = w->launch->unit;
  return at >= w->anchor + unit->shared_from && at < w->anchor + unit->shared_to;
}

void access_depart(Lane *lane, void *to, size_t bytes, const void *site) {
  Worker *w = simulator_worker;
  if (!is_shared(w, to))
    lane_fail(site, "an asynchronous copy to an address that is not in shared memory");
  int64_t at = (char *)to - w->anchor;
  shared_check(w, lane, at, bytes, true, site);
  memset(to, NAN_BYTE, bytes); /* what it held is lost */
  ShadowCell *cell = w->shadow + (at - w->launch->unit->shared_from) / SHADOW_BYTES;
  for (size_t i = 0; i < bytes / SHADOW_BYTES; i++)
    cell[i].writer |= IN_FLIGHT;
}

void access_land(Lane *lane, void *to, size_t bytes) {
  Worker *w = simulator_worker;
  ShadowCell *cell = w->shadow + ((char *)to - w->anchor - w->launch->unit->shared_from) / SHADOW_BYTES;
  for (size_t i = 0; i < bytes / SHADOW_BYTES; i++) {
    cell[i].writer = (uint16_t)lane->index;
    cell[i].written_at = w->clock;
  }
}

void access_begin_block(Worker *w) {
  const SimulatorUnit *unit = w->launch->unit;
  int64_t bytes = unit->shared_to - unit->shared_from;
  if (bytes > w->shadow_bytes) {
    free(w->shadow);
    w->shadow = calloc((size_t)bytes / SHADOW_BYTES + 1, sizeof *w->shadow);
    w->shadow_bytes = bytes;
  }
  w->anchor = unit->anchor();
  w->block_began_at = w->block_waited_at = ++w->clock;
  for (int i = 0; i < unit->variable_count; i++) {
    const SharedVariable *v = &unit->variables[i];
    memset(w->anchor + v->at, NAN_BYTE, (size_t)(v->dynamic ? w->launch->shared_bytes : v->bytes));
  }
}

/* ---------------------------------------------------------------- all memory */

static _Noreturn void fail_outside(const char *at, size_t bytes, bool write, const void *site) {
  const Allocation *near = memory_near(at);
  if (!near)
    lane_fail(site, "it %s %zu bytes at %p, where nothing is", write ? "writes" : "reads", bytes, (const void *)at);
  long long distance = (long long)(at - near->at);
  lane_fail(site, "it %s %zu bytes at byte %lld of an allocation of %zu bytes", write ? "writes" : "reads", bytes,
            distance, near->bytes);
}

static void global_check(Worker *w, Lane *lane, const char *at, size_t bytes, bool write, const void *site) {
  Allocation *a = memory_find(at, bytes, &w->allocation);
  if (!a) {
    const SimulatorUnit *unit = w->launch->unit;
    if (!write && at >= unit->text_from && at < unit->text_to)
      return;
    fail_outside(at, bytes, write, site);
  }
  size_t from = (size_t)(at - a->at);
  if (write)
    memset(a->written + from, 1, bytes);
  for (size_t i = from / SHADOW_BYTES; i <= (from + bytes - 1) / SHADOW_BYTES; i++) {
    Conflict conflict = cell_access(w, &a->shadow[i], lane, write, w->launch->clock_base);
    if (conflict.what) {
      char memory[100];
      snprintf(memory, sizeof memory, "byte %zu of an allocation of %zu bytes", i * SHADOW_BYTES, a->bytes);
      fail_conflict(&conflict, memory, site);
    }
  }
}

void access_check(Lane *lane, const void *at, size_t bytes, bool write, const void *site) {
  Worker *w = simulator_worker;
  const char *address = at;
  if (address >= lane->stack && address < lane->stack + STACK_BYTES)
    return;
  if (is_shared(w, address))
    shared_check(w, lane, address - w->anchor, bytes, write, site);
  else
    global_check(w, lane, address, bytes, write, site);
}

void access_check_aligned(const void *at, size_t alignment, const void *site) {
  if ((uintptr_t)at % alignment != 0)
    lane_fail(site, "the address of %zu bytes is not a multiple of %zu", alignment, alignment);
}

/* ---------------------------------------------------------------- what the instrumentation calls */

static inline void access_announced(const void *at, size_t bytes, bool write, bool aligned, const void *site) {
  if (aligned && (uintptr_t)at % bytes != 0)
    access_check_aligned(at, bytes, site);
  access_check(simulator_worker->current, at, bytes, write, site);
}

#define SITE __builtin_return_address(0)
#define ACCESS(bytes)                                                                                                  \
  void __tsan_read##bytes(const void *at);                                                                             \
  void __tsan_read##bytes(const void *at) {                                                                            \
    access_announced(at, bytes, false, true, SITE);                                                                    \
  }                                                                                                                    \
  void __tsan_write##bytes(const void *at);                                                                            \
  void __tsan_write##bytes(const void *at) {                                                                           \
    access_announced(at, bytes, true, true, SITE);                                                                     \
  }                                                                                                                    \
  void __tsan_unaligned_read##bytes(const void *at);                                                                   \
  void __tsan_unaligned_read##bytes(const void *at) {                                                                  \
    access_announced(at, bytes, false, false, SITE);                                                                   \
  }                                                                                                                    \
  void __tsan_unaligned_write##bytes(const void *at);                                                                  \
  void __tsan_unaligned_write##bytes(const void *at) {                                                                 \
    access_announced(at, bytes, true, false, SITE);                                                                    \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_read_range(const void *at, size_t bytes);
void __tsan_read_range(const void *at, size_t bytes) {
  access_announced(at, bytes, false, false, SITE);
}
void __tsan_write_range(const void *at, size_t bytes);
void __tsan_write_range(const void *at, size_t bytes) {
  access_announced(at, bytes, true, false, SITE);
}

void __ubsan_handle_out_of_bounds(const void *data, size_t index);
void __ubsan_handle_out_of_bounds(const void *data, size_t index) {
  (void)data;
  lane_fail(SITE, "index %lld is outside of the array", (long long)index);
}
