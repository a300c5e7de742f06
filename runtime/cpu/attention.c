/* Attention over segments: cuts the work into tasks and gives every thread its workspace.
 *
 * Forward: a task is some blocks of queries of one head of one segment. Backward: one head of one segment, because the
 * gradients of keys and values are summed over its queries in order. What a task computes does not depend on how the
 * work is cut, nor on the thread that runs it. Rows of no segment (the dead tail) get zeros. */
#include "runtime/cpu/attention.h"

#include <omp.h>
#include <stdlib.h>

#include "runtime/error.h"
#include "runtime/memory.h"

/* Kept between calls and grown as needed: fresh pages would cost more than the work on short segments. */
static struct {
  float *memory;
  int64_t bytes;
  AttentionTask *tasks;
  int64_t task_capacity;
} kept;

static const AttentionKernels *kernels(const CpuAttention *a) {
  if (a->type == PLAN_BF16 && cpu_level() == CPU_V4_BF16)
    return &attention_kernels_bf16;
  return cpu_level() >= CPU_V4 ? &attention_kernels_v4 : &attention_kernels_v3;
}

static int64_t blocks_of(int64_t length) {
  return (length + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
}

static int64_t longest_segment(const CpuAttention *a) {
  int64_t longest = 0;
  for (int64_t s = 0; s < a->segments; s++)
    if (a->off[s + 1] - a->off[s] > longest)
      longest = a->off[s + 1] - a->off[s];
  return longest;
}

/* Floats per thread, a multiple of a page of them. */
static int64_t reserve_workspace(const CpuAttention *a) {
  int64_t floats = (kernels(a)->workspace(longest_segment(a), a->head) + 1023) / 1024 * 1024;
  int64_t bytes = floats * (int64_t)sizeof(float) * omp_get_max_threads();
  if (bytes > kept.bytes) {
    memory_unmap(kept.memory, kept.bytes);
    kept.memory = memory_map("attention workspace", bytes);
    kept.bytes = bytes;
  }
  return floats;
}

static void add_task(int64_t index, AttentionTask task) {
  if (index == kept.task_capacity) {
    kept.task_capacity = kept.task_capacity ? 2 * kept.task_capacity : 256;
    kept.tasks = realloc(kept.tasks, (size_t)kept.task_capacity * sizeof *kept.tasks);
    if (!kept.tasks)
      runtime_fail(FAIL_ENVIRONMENT, "out of memory for %lld attention tasks", (long long)kept.task_capacity);
  }
  kept.tasks[index] = task;
}

/* Every head of every segment, each cut into up to `parts` runs of blocks; the last, longest runs first. */
static int64_t make_tasks(const CpuAttention *a, int64_t parts) {
  int64_t count = 0;
  for (int64_t s = 0; s < a->segments; s++) {
    int64_t length = a->off[s + 1] - a->off[s], blocks = blocks_of(length);
    int64_t cuts = parts < blocks ? parts : blocks;
    for (int64_t head = 0; head < a->heads; head++)
      for (int64_t cut = cuts - 1; cut >= 0; cut--)
        add_task(count++, (AttentionTask){.begin = a->off[s],
                                          .length = length,
                                          .head = head,
                                          .block_begin = blocks * cut / cuts,
                                          .block_end = blocks * (cut + 1) / cuts});
  }
  return count;
}

static int64_t filled_segments(const CpuAttention *a) {
  int64_t filled = 0;
  for (int64_t s = 0; s < a->segments; s++)
    filled += a->off[s + 1] > a->off[s];
  return filled;
}

static void run_tasks(const CpuAttention *a, int64_t count,
                      void (*run)(const CpuAttention *, const AttentionTask *, float *)) {
  int64_t floats = reserve_workspace(a);
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < count; i++)
    run(a, &kept.tasks[i], kept.memory + omp_get_thread_num() * floats);
}

static void clear_tail(const CpuAttention *a, CpuMatrix m) {
  int64_t used = a->off[a->segments];
  m.data = (char *)m.data + used * m.ld * (int64_t)plan_type_size(a->type);
  cpu_fill(a->n - used, a->heads * a->head, a->type, m, 0);
}

void cpu_attention(const CpuAttention *a) {
  int64_t pairs = filled_segments(a) * a->heads, wanted = 4 * (int64_t)omp_get_max_threads();
  run_tasks(a, make_tasks(a, pairs ? (wanted + pairs - 1) / pairs : 1), kernels(a)->forward);
  clear_tail(a, a->o);
  int64_t used = a->off[a->segments];
  cpu_fill(a->n - used, a->heads, PLAN_F32, (CpuMatrix){a->lse + used * a->heads, a->heads}, 0);
}

void cpu_attention_gradient(const CpuAttention *a) {
  run_tasks(a, make_tasks(a, 1), kernels(a)->gradient);
  clear_tail(a, a->dq);
  clear_tail(a, a->dk);
  clear_tail(a, a->dv);
}
