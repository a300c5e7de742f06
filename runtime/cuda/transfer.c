/* See transfer.h. */
#include "runtime/cuda/transfer.h"

#include <stdlib.h>

#include "runtime/error.h"

enum { GAP = 256, HOST_ALIGNMENT = 64 }; /* bytes: what may lie between two parts of one copy */

static int by_offset(const void *a, const void *b) {
  int64_t x = ((const Transfer *)a)->at, y = ((const Transfer *)b)->at;
  return (x > y) - (x < y);
}

static TransferList join(Transfer *parts, int count) {
  TransferList list = {.transfers = parts};
  qsort(parts, (size_t)count, sizeof *parts, by_offset);
  for (int i = 0; i < count; i++) {
    Transfer *last = list.count ? &parts[list.count - 1] : NULL;
    if (last && parts[i].at <= last->at + last->bytes + GAP) {
      int64_t end = parts[i].at + parts[i].bytes;
      if (end > last->at + last->bytes)
        last->bytes = end - last->at;
    } else {
      parts[list.count++] = parts[i];
    }
  }
  for (int i = 0; i < list.count; i++) {
    parts[i].host_at = list.bytes;
    list.bytes += (parts[i].bytes + HOST_ALIGNMENT - 1) / HOST_ALIGNMENT * HOST_ALIGNMENT;
  }
  return list;
}

TransferList transfer_arguments(const PlanFunc *func) {
  Transfer *parts = runtime_allocate((size_t)func->argument_count, sizeof *parts);
  int count = 0;
  for (int i = 0; i < func->argument_count; i++) {
    const PlanArgument *a = &func->arguments[i];
    if (a->at.space == SPACE_ACT && a->shape.elements > 0)
      parts[count++] = (Transfer){.at = a->at.offset, .bytes = a->shape.elements * (int64_t)plan_type_size(a->type)};
  }
  return join(parts, count);
}

TransferList transfer_results(const PlanFunc *func) {
  Transfer *parts = runtime_allocate((size_t)func->result_count, sizeof *parts);
  int count = 0;
  for (int i = 0; i < func->result_count; i++) {
    const PlanResult *r = &func->results[i];
    if (!r->parameter && r->at.space == SPACE_ACT && r->shape.elements > 0)
      parts[count++] = (Transfer){.at = r->at.offset, .bytes = r->shape.elements * (int64_t)plan_type_size(r->type)};
  }
  return join(parts, count);
}

void *transfer_find(const TransferList *list, int64_t offset) {
  for (int i = 0; i < list->count; i++) {
    const Transfer *t = &list->transfers[i];
    if (offset >= t->at && offset < t->at + t->bytes)
      return list->host + t->host_at + (offset - t->at);
  }
  return NULL;
}
