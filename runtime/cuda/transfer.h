/* The copies between host and device around a function: its arguments and its results in `act`, those that lie close
 * together in one copy. What lies between them belongs to nobody at that moment.
 */
#ifndef MOEC_RUNTIME_CUDA_TRANSFER_H
#define MOEC_RUNTIME_CUDA_TRANSFER_H

#include "runtime/plan.h"

typedef struct Transfer {
  int64_t at, bytes; /* in `act` */
  int64_t host_at;   /* in the host's memory */
} Transfer;

typedef struct TransferList {
  Transfer *transfers;
  int count;
  int64_t bytes; /* that the host's memory needs, a multiple of 64 */
  char *host;    /* its memory, which the caller makes */
} TransferList;

TransferList transfer_arguments(const PlanFunc *func);
TransferList transfer_results(const PlanFunc *func); /* the plain ones; gradients and the like stay */

/* Where the byte at `offset` of `act` is on the host; NULL: in none of the transfers. */
void *transfer_find(const TransferList *list, int64_t offset);

#endif
