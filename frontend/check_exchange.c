/* See check_exchange.h. This file alone knows the runtime's Tensor, which is another than the interpreter's. */
#include "frontend/check_exchange.h"

#include <string.h>

#include "runtime/safetensors.h"

int64_t exchange_elements(const ExchangeTensor *t) {
  int64_t elements = 1;
  for (int d = 0; d < t->rank; d++)
    elements *= t->dim[d];
  return elements;
}

void exchange_write(Arena *arena, const char *path, const ExchangeTensor *tensors) {
  Tensor *list = arena_alloc(arena, (vec_len(tensors) + 1) * sizeof *list);
  for (uint32_t i = 0; i < vec_len(tensors); i++) {
    const ExchangeTensor *t = &tensors[i];
    list[i] = (Tensor){.name = t->name, .type = t->f ? TENSOR_F32 : TENSOR_I32, .rank = t->rank};
    list[i].data = t->f ? (const void *)t->f : t->i;
    memcpy(list[i].dim, t->dim, sizeof t->dim);
  }
  safetensors_write(path, list, (int)vec_len(tensors));
}

static const float *widen(Arena *arena, const uint16_t *from, int64_t count) {
  float *to = arena_alloc(arena, (size_t)(count + 1) * sizeof *to);
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits = (uint32_t)from[i] << 16;
    memcpy(&to[i], &bits, sizeof bits);
  }
  return to;
}

ExchangeTensor *exchange_read(Arena *arena, const char *path) {
  const Safetensors *file = safetensors_open(path); /* stays open: the tensors lie in its mapping */
  ExchangeTensor *tensors = NULL;
  for (int i = 0; i < file->count; i++) {
    const Tensor *from = &file->tensors[i];
    ExchangeTensor t = {.name = from->name, .rank = from->rank};
    memcpy(t.dim, from->dim, sizeof t.dim);
    if (from->type == TENSOR_I32)
      t.i = from->data;
    else
      t.f = from->type == TENSOR_BF16 ? widen(arena, from->data, exchange_elements(&t)) : from->data;
    vec_push(arena, tensors, t);
  }
  return tensors;
}

const ExchangeTensor *exchange_find(const ExchangeTensor *tensors, const char *name) {
  for (uint32_t i = 0; i < vec_len(tensors); i++)
    if (strcmp(tensors[i].name, name) == 0)
      return &tensors[i];
  return NULL;
}
