/* What a device does for the executor. Private to execute.c and the devices (runtime/cpu/device.c,
 * runtime/cuda/device.c).
 *
 * Addresses are the device's; the host follows them only where they are its own. Invariant: `base[space]` is the memory
 * of every space that is bound; a function whose spaces are not all bound does not run.
 */
#ifndef MOEC_RUNTIME_DEVICE_H
#define MOEC_RUNTIME_DEVICE_H

#include "runtime/execute.h"
#include "runtime/profile.h"

typedef struct Device {
  const char *name; /* as plan->target */
  /* Binds act, seed and status. */
  void (*open)(Executor *executor, const Payload *payload);
  void (*close)(Executor *executor);
  const char *(*level)(const Executor *executor);
  const char *(*library)(const Executor *executor);
  const char *(*start_note)(const Executor *executor); /* NULL: nothing to note */
  int (*threads)(const Executor *executor);

  /* Zeroed; too little of it: FAIL_ENVIRONMENT. `what` in the message: "gradients". */
  char *(*allocate)(Executor *executor, const char *what, int64_t bytes);
  void (*release)(Executor *executor, char *memory, int64_t bytes);
  int64_t (*available)(Executor *executor); /* bytes that can still be had */
  /* FAIL_ENVIRONMENT: not enough memory. `need`: "gradients need 6.4 GB". */
  void (*refuse)(const Executor *executor, const char *need);
  void (*read)(const Executor *executor, void *to, const char *from, int64_t bytes);
  void (*write)(Executor *executor, char *to, const void *from, int64_t bytes);
  /* sum[i] = first[i] + second[i]; `second` NULL: first[i] */
  void (*add)(Executor *executor, char *sum, const char *first, const char *second, int64_t count);

  void *(*argument)(Executor *executor, const PlanFunc *func, const PlanArgument *argument);
  /* Functions run in the order of their starts. `finish` waits for `func` alone; NULL: `start` has done it all. */
  void (*start)(Executor *executor, const PlanFunc *func);
  void (*finish)(Executor *executor, const PlanFunc *func);
  const void *(*result)(const Executor *executor, const PlanFunc *func, const PlanResult *result);
  const ProductChoice *(*choices)(const Executor *executor, int *count);
  void (*set_choices)(Executor *executor, const ProductChoice *choices, int count);

  bool host_memory; /* the host may read and write it in place */
} Device;

extern const Device device_cpu, device_cuda;

struct Executor {
  const Plan *plan;
  const Device *device;
  char *base[SPACE_COUNT];
  Arenas *arenas; /* of `table`, bound; NULL: none */
  const PlanTable *table;
  bool *started; /* by index in plan->funcs: not finished yet */
  uint64_t seed;
  Profile *profile; /* NULL: not profiling */
  char *gradient_sum;
  int64_t gradient_bytes; /* of gradient_sum */
  void *state;            /* the device's own */
};

/* The address of a place now; NULL only when its space is not bound. */
static inline void *device_address(const Executor *executor, PlanPlace place) {
  char *base = executor->base[place.space];
  return base ? base + place.offset : NULL;
}

/* What the user got wrong, with the numbers of the status cell (docs/plan.md). */
typedef enum Mistake { MISTAKE_EXPERTS = 1, MISTAKE_PAIRS = 2, MISTAKE_ID = 3 } Mistake;

typedef struct MistakeBounds { /* those of the step that the message needs */
  int64_t n, k, bound, rows;
} MistakeBounds;

/* FAIL_USER with the Lua line of the step. */
_Noreturn void device_fail_mistake(const PlanStep *step, Mistake mistake, int64_t first, int64_t second,
                                   MistakeBounds bounds);

#endif
