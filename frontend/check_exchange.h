/* Tensors on their way between moec and a trainer it runs: safetensors files, f32 and i32 only. */
#ifndef MOEC_CHECK_EXCHANGE_H
#define MOEC_CHECK_EXCHANGE_H

#include <stdbool.h>

#include "ir/arena.h"

enum { EXCHANGE_MAX_RANK = 8 };

typedef struct ExchangeTensor {
  const char *name;
  int rank;
  int64_t dim[EXCHANGE_MAX_RANK];
  const float *f; /* exactly one of f and i is set */
  const int32_t *i;
} ExchangeTensor;

/* `tensors` is an arena vector of tensors with different names. */
void exchange_write(Arena *arena, const char *path, const ExchangeTensor *tensors);
/* An arena vector; bf16 is widened. A damaged file is a failure of the runtime's reader. */
ExchangeTensor *exchange_read(Arena *arena, const char *path);
const ExchangeTensor *exchange_find(const ExchangeTensor *tensors, const char *name); /* NULL when absent */
int64_t exchange_elements(const ExchangeTensor *tensor);

#endif
