/* What the files of the simulator share. A worker (one thread of the host) runs one block at a time; each thread of the
 * block is a lane: a coroutine with a stack of its own.
 */
#ifndef MOEC_TESTS_SIMULATOR_PRIVATE_H
#define MOEC_TESTS_SIMULATOR_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/simulator/simulator_kernel.h"

enum {
  WARP_LANES = 32,
  BLOCK_LANES = 1024,
  BLOCK_BARRIERS = 16,
  STACK_BYTES = 64 << 10,
  SHARED_STATIC_BYTES = 48 << 10, /* limit of variables in shared memory */
  SHARED_GUARD = 64,              /* bytes between two of them */
  NAN_BYTE = 0xff                 /* memory that nobody has written: NaN as f32, f64 and bf16 */
};

typedef struct Index3 {
  unsigned x, y, z;
} Index3;

/* ---------------------------------------------------------------- units (unit.c) */

/* A variable in shared memory: its place relative to the unit's anchor in the block of thread-local variables. */
typedef struct SharedVariable {
  const char *name;
  int64_t at, bytes;
  bool dynamic; /* of the size that the launch gives */
} SharedVariable;

struct SimulatorUnit {
  void *library;
  char *path;                      /* for addr2line */
  const char *source;              /* file of the text */
  const char *text_from, *text_to; /* constants of the unit in memory */
  SharedVariable *variables;
  int variable_count;
  int64_t shared_from, shared_to; /* relative to the anchor */
  int64_t static_bytes;
  char *(*anchor)(void);
};

/* Loads the shared object at `path`; NULL with simulator_error() set. */
SimulatorUnit *unit_load(const char *path);
/* The entry point of a kernel and the number of its parameters, or NULL. */
void (*unit_entry(const SimulatorUnit *unit, const char *name, int *parameters))(void **);

/* ---------------------------------------------------------------- the compiler (compile.c) */

/* Compiles `text` to a shared object in the cache and writes its path; false with *log set to what the compiler said.
 */
bool compile_unit(const char *text, char *path, size_t size, char **log);
/* Changes with what the simulator makes of a text. */
uint64_t compile_version(void);
/* The directory of the cache. */
const char *compile_cache(void);

/* ---------------------------------------------------------------- lanes and blocks (block.c) */

typedef enum LaneState { LANE_READY, LANE_AT_BLOCK_WAIT, LANE_AT_WARP, LANE_AT_BARRIER, LANE_ENDED } LaneState;
typedef enum MeetKind {
  MEET_WAIT,
  MEET_SHUFFLE,
  MEET_BALLOT,
  MEET_MMA,
  MEET_MATRIX,
  MEET_MATRIX_TRANSPOSED,
  MEET_KINDS
} MeetKind;

/* 16 bytes on their way from global to shared memory. */
typedef struct AsyncCopy {
  char *to;
  const char *from; /* NULL: zeros */
  int group;
} AsyncCopy;

typedef struct Lane {
  void *stack_pointer; /* while it does not run */
  char *stack;
  LaneState state;
  int index;   /* in the block */
  int line;    /* where it waits */
  int barrier; /* at which it waits, by number */
  Index3 thread;
  uint64_t value, result; /* of a meeting of the warp */
  unsigned choice;
  void *pointer[3];
  AsyncCopy *copies;
  int copy_count, copy_capacity, copy_group;
} Lane;

typedef struct Meeting { /* of the lanes of one mask, which is known by its lowest lane */
  unsigned mask, arrived;
  MeetKind kind;
  int line;
} Meeting;

typedef struct Warp {
  Meeting meeting[WARP_LANES];
  uint32_t waited_at; /* clock of the last wait of the warp */
} Warp;

struct ShadowCell;

typedef struct Launch {
  SimulatorUnit *unit;
  const char *kernel;
  void (*enter)(void **);
  void **parameters;
  Index3 grid, block;
  int64_t shared_bytes;
  SimulatorOrder order;
  uint64_t seed;
  uint32_t clock_base; /* what a cell of memory remembers from before is over */
  int failed;          /* atomic */
} Launch;

typedef struct Worker {
  Launch *launch;
  Index3 block;
  uint64_t block_number; /* in the grid, and in the pseudo-random order of this block's lanes */
  int lanes;
  Lane *lane; /* BLOCK_LANES of them */
  Warp warp[BLOCK_LANES / WARP_LANES];
  int arrived[BLOCK_BARRIERS]; /* threads, at barriers with a number */
  Lane *current;
  void *scheduler; /* its stack pointer */
  bool failed;     /* this block is abandoned */
  /* Time passes at barriers and warp waits; what lies before the last one is ordered. */
  uint32_t clock, block_began_at, block_waited_at;
  char *anchor;
  struct ShadowCell *shadow; /* of the unit's shared variables */
  int64_t shadow_bytes;
  int allocation; /* the one accessed last */
} Worker;

/* Every access asks for it: a fixed distance from the thread, not a call. */
extern _Thread_local Worker *simulator_worker __attribute__((tls_model("initial-exec")));

/* Runs one block on this worker: false when it broke a rule (reported). */
bool block_run(Worker *worker);
/* The running lane goes on only when something has changed its state. */
void lane_suspend(Worker *worker);
/* Reports a fault of the running lane and abandons the block. */
_Noreturn void lane_fail(const void *site, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---------------------------------------------------------------- the device (device.c) */

int device_arch(void);             /* 80: compute capability 8.0 */
int64_t device_shared_limit(void); /* bytes of shared memory that one block may have */

/* ---------------------------------------------------------------- launches (launch.c) */

/* Runs all blocks on the machine's cores: false when a rule was broken (reported). */
bool launch_run(Launch *launch);
/* False (reported) when the device cannot run it. */
bool launch_check(const Launch *launch);

/* ---------------------------------------------------------------- accesses (access.c) */

void access_begin_block(Worker *worker);
/* One access of `lane`, at `site` in the emitted code. */
void access_check(Lane *lane, const void *at, size_t bytes, bool write, const void *site);
void access_check_aligned(const void *at, size_t alignment, const void *site);
/* The shared bytes at `to` belong to a copy that has not landed; access_land: it has. */
void access_depart(Lane *lane, void *to, size_t bytes, const void *site);
void access_land(Lane *lane, void *to, size_t bytes);

/* ---------------------------------------------------------------- memory (memory.c) */

typedef struct Allocation {
  char *at;
  size_t bytes;
  unsigned char *written;    /* by byte: a kernel or the host has stored there */
  struct ShadowCell *shadow; /* who accessed it last */
} Allocation;

/* The allocation that holds [at, at + bytes), or NULL. `hint` is kept for the next call. */
Allocation *memory_find(const void *at, size_t bytes, int *hint);
/* The allocation that `at` lies in or is closest behind, for messages. */
const Allocation *memory_near(const void *at);

/* The bytes of all allocations, to run again from the same memory and to compare. */
typedef struct MemoryImage {
  int count;
  char **bytes; /* by allocation, or NULL */
} MemoryImage;

void memory_keep(MemoryImage *image);
void memory_restore(const MemoryImage *image);
bool memory_equals(const MemoryImage *image, char *where, size_t size); /* `where` is the first difference */
void memory_forget(MemoryImage *image);

/* ---------------------------------------------------------------- reports (report.c) */

/* Appends a message to the launch's report; the first stays in simulator_error(). */
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report_clear(void);
/* "file:line: text of the line" of an address in the unit's code. */
const char *report_site(const SimulatorUnit *unit, const void *site, char *text, size_t size);

#endif
