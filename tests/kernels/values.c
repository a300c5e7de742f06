/* Values of the interpreter in the memory of kernels: see the header. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/kernels/values.h"

static uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)(x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static double from_bf16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

RowShape value_shape(const KernelCase *c, ValueId v) {
  return row_shape(c->func->module, c->func->values[v].type);
}

static int64_t row_distance(const KernelCase *c, ValueId v) {
  return c->func->values[v].type.rank < 2 ? 1 : c->ld[v];
}

size_t value_bytes(const KernelCase *c, ValueId v) {
  RowShape shape = value_shape(c, v);
  Type type = c->func->values[v].type;
  int64_t elements = (shape.rows - 1) * row_distance(c, v) + shape.columns;
  bool ragged_vector = type.rank == 1 && type.extent != NO_VALUE;
  return (size_t)(ragged_vector ? shape.rows : elements) * dtype_size(type.dtype);
}

int64_t value_index(const KernelCase *c, ValueId v, int64_t row, int64_t column) {
  return row * row_distance(c, v) + column;
}

void value_store(const KernelCase *c, ValueId v, void *to) {
  RowShape shape = value_shape(c, v);
  const Tensor *t = c->run->tensors[v];
  DType dtype = c->func->values[v].type.dtype;
  for (int64_t r = 0; r < shape.rows; r++)
    for (int64_t k = 0; k < shape.columns; k++) {
      int64_t at = value_index(c, v, r, k), from = r * shape.columns + k;
      if (dtype == DTYPE_I32)
        ((int32_t *)to)[at] = t->i[from];
      else if (dtype == DTYPE_F32)
        ((float *)to)[at] = (float)t->f[from];
      else
        ((uint16_t *)to)[at] = to_bf16((float)t->f[from]);
    }
}

static double element(const KernelCase *c, ValueId v, const void *data, int64_t at) {
  switch (c->func->values[v].type.dtype) {
  case DTYPE_I32:
    return ((const int32_t *)data)[at];
  case DTYPE_F32:
    return ((const float *)data)[at];
  default:
    return from_bf16(((const uint16_t *)data)[at]);
  }
}

static int64_t value_live_rows(const KernelCase *c, ValueId v) {
  RowShape shape = value_shape(c, v);
  const Tensor *t = c->run->tensors[v];
  Type type = c->func->values[v].type;
  if (!type.rank || (type.rank == 1 && type.extent == NO_VALUE))
    return 1;
  return t->live * (shape.rows / t->dim[0]);
}

int value_compare(const KernelCase *c, ValueId v, const void *got, double tolerance, unsigned char *expected,
                  char *message, size_t size) {
  RowShape shape = value_shape(c, v);
  const Tensor *t = c->run->tensors[v];
  size_t bytes = dtype_size(c->func->values[v].type.dtype);
  int64_t live = value_live_rows(c, v);
  *message = 0;
  for (int64_t r = 0; r < live; r++)
    for (int64_t k = 0; k < shape.columns; k++) {
      int64_t at = value_index(c, v, r, k), from = r * shape.columns + k;
      double want = t->f ? t->f[from] : t->i[from], is = element(c, v, got, at);
      memset(expected + (size_t)at * bytes, 1, bytes);
      bool same = (isnan(want) && isnan(is)) || fabs(is - want) <= tolerance * (1 + fabs(want)) || is == want;
      if (!same && !*message)
        snprintf(message, size, "row %lld column %lld is %.9g, expected %.9g", (long long)r, (long long)k, is, want);
    }
  return (int)(live * shape.columns);
}

double call_tolerance(const KernelCase *c, const KernelCall *call) {
  for (uint32_t i = 0; i < vec_len(call->operands); i++) {
    ValueId v = call->operands[i].value;
    if (v != NO_VALUE && c->func->values[v].type.dtype == DTYPE_BF16)
      return 4e-2;
  }
  return 2e-5;
}

int64_t call_live_rows(const KernelCase *c, const KernelCall *call) {
  if (call->extent == NO_VALUE)
    return call->rows;
  const Tensor *off = c->run->tensors[call->extent];
  return off->i[off->dim[0] - 1];
}
