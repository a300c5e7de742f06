/* A launch: its blocks, spread over the cores, in one order or in several.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"

enum { PARAMETERS = 256, SHUFFLES = 2 };

static uint32_t clock_last; /* the latest clock of any worker; atomic */

static Worker *worker_own(void) {
  if (!simulator_worker) {
    simulator_worker = calloc(1, sizeof *simulator_worker);
    if (!simulator_worker)
      abort();
  }
  return simulator_worker;
}

/* Block i of the launch: forward, backward, or a walk through all of them with a stride that has no divisor in common.
 */
static int64_t block_in_order(const Launch *launch, int64_t i, int64_t blocks) {
  if (launch->order == SIMULATOR_BACKWARD)
    return blocks - 1 - i;
  static const int64_t primes[] = {7919, 104729, 1299709};
  int64_t stride = primes[launch->seed % 3];
  return launch->order == SIMULATOR_FORWARD || blocks % stride == 0 ? i : (int64_t)(i * stride % blocks);
}

static void run_block(Launch *launch, int64_t number) {
  Worker *w = worker_own();
  w->launch = launch;
  if (w->clock < launch->clock_base)
    w->clock = launch->clock_base;
  w->block_number = (uint64_t)number;
  w->block = (Index3){(unsigned)(number % launch->grid.x), (unsigned)(number / launch->grid.x % launch->grid.y),
                      (unsigned)(number / ((int64_t)launch->grid.x * launch->grid.y))};
  if (!block_run(w))
    __atomic_store_n(&launch->failed, 1, __ATOMIC_RELAXED);
  uint32_t last = __atomic_load_n(&clock_last, __ATOMIC_RELAXED);
  while (last < w->clock &&
         !__atomic_compare_exchange_n(&clock_last, &last, w->clock, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
    ;
}

bool launch_run(Launch *launch) {
  int64_t blocks = (int64_t)launch->grid.x * launch->grid.y * launch->grid.z;
  launch->failed = 0;
  launch->clock_base = clock_last + 1;
  if (clock_last > UINT32_MAX / 2) {
    fprintf(stderr, "simulator: its clock has run out\n");
    exit(70);
  }
#pragma omp parallel for schedule(dynamic) if (blocks > 1)
  for (int64_t i = 0; i < blocks; i++)
    if (!__atomic_load_n(&launch->failed, __ATOMIC_RELAXED))
      run_block(launch, block_in_order(launch, i, blocks));
  return !launch->failed;
}

/* ---------------------------------------------------------------- for tests of single kernels */

static unsigned size_of(int64_t blocks) {
  return blocks ? (unsigned)blocks : 1;
}

static bool launch_open(Launch *launch, const SimulatorLaunch *from, int count) {
  int parameters;
  *launch = (Launch){.unit = from->unit,
                     .kernel = from->entry,
                     .grid = {size_of(from->blocks[0]), size_of(from->blocks[1]), size_of(from->blocks[2])},
                     .block = {(unsigned)from->threads, 1, 1},
                     .shared_bytes = from->shared_bytes};
  report_clear();
  launch->enter = unit_entry(from->unit, from->entry, &parameters);
  if (!launch->enter)
    report("the unit has no kernel %s", from->entry);
  else if (parameters != count)
    report("kernel %s has %d parameters, the launch gives %d", from->entry, parameters, count);
  else
    launch_check(launch);
  return !*simulator_error();
}

bool launch_check(const Launch *launch) {
  int64_t threads = (int64_t)launch->block.x * launch->block.y * launch->block.z;
  if (threads < 1 || threads > BLOCK_LANES)
    report("kernel %s: %lld threads in a block; 1 to %d are possible", launch->kernel, (long long)threads, BLOCK_LANES);
  else if (launch->grid.y > 65535 || launch->grid.z > 65535)
    report("kernel %s: a grid of %u x %u x %u blocks; the last two are at most 65535", launch->kernel, launch->grid.x,
           launch->grid.y, launch->grid.z);
  else if (launch->unit->static_bytes > SHARED_STATIC_BYTES)
    report("kernel %s: its unit has %lld bytes of variables in shared memory; %d are possible", launch->kernel,
           (long long)launch->unit->static_bytes, SHARED_STATIC_BYTES);
  else if (launch->unit->static_bytes + launch->shared_bytes > device_shared_limit())
    report("kernel %s: %lld bytes of shared memory; the device has %lld for a block", launch->kernel,
           (long long)(launch->unit->static_bytes + launch->shared_bytes), (long long)device_shared_limit());
  else
    return true;
  return false;
}

static bool run(Launch *launch, const uint64_t *parameters, int count, SimulatorOrder order, uint64_t seed) {
  uint64_t cells[PARAMETERS] = {0};
  void *pointers[PARAMETERS];
  memcpy(cells, parameters, (size_t)count * sizeof *cells);
  for (int i = 0; i < PARAMETERS; i++)
    pointers[i] = &cells[i];
  launch->parameters = pointers;
  launch->order = order;
  launch->seed = seed;
  return launch_run(launch);
}

bool simulator_run_once(const SimulatorLaunch *from, const uint64_t *parameters, int count, SimulatorOrder order,
                        uint64_t seed) {
  Launch launch;
  return launch_open(&launch, from, count) && run(&launch, parameters, count, order, seed);
}

bool simulator_run(const SimulatorLaunch *from, const uint64_t *parameters, int count) {
  Launch launch;
  if (!launch_open(&launch, from, count))
    return false;
  MemoryImage before, after;
  memory_keep(&before);
  bool good = run(&launch, parameters, count, SIMULATOR_FORWARD, 0);
  memory_keep(&after);
  for (int i = 0; i <= SHUFFLES && good; i++) {
    char where[100];
    memory_restore(&before);
    good = run(&launch, parameters, count, i ? SIMULATOR_SHUFFLED : SIMULATOR_BACKWARD, (uint64_t)i);
    if (good && !memory_equals(&after, where, sizeof where)) {
      report("kernel %s: %s differs between two orders of its threads", launch.kernel, where);
      good = false;
    }
  }
  memory_forget(&before);
  memory_forget(&after);
  return good;
}
