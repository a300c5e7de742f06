/* See safetensors.h. */
#include "runtime/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/checksum.h"
#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/json.h"

enum { MAX_HEADER = 100000000 }; /* the limit of the reference implementation */

static const struct {
  const char *name;
  size_t size;
} tensor_type[TENSOR_TYPE_COUNT] = {
    [TENSOR_F64] = {"F64", 8},   [TENSOR_F32] = {"F32", 4}, [TENSOR_F16] = {"F16", 2}, [TENSOR_BF16] = {"BF16", 2},
    [TENSOR_I64] = {"I64", 8},   [TENSOR_I32] = {"I32", 4}, [TENSOR_I16] = {"I16", 2}, [TENSOR_I8] = {"I8", 1},
    [TENSOR_U64] = {"U64", 8},   [TENSOR_U32] = {"U32", 4}, [TENSOR_U16] = {"U16", 2}, [TENSOR_U8] = {"U8", 1},
    [TENSOR_BOOL] = {"BOOL", 1},
};

size_t tensor_type_size(TensorType type) {
  return tensor_type[type].size;
}

const char *tensor_type_name(TensorType type) {
  return tensor_type[type].name;
}

int64_t tensor_elements(const Tensor *tensor) {
  int64_t elements = 1;
  for (int i = 0; i < tensor->rank; i++)
    elements *= tensor->dim[i];
  return elements;
}

/* ---------------------------------------------------------------- writing */

uint64_t safetensors_write(const char *path, const Tensor *tensors, int count) {
  Text header = {0};
  size_t offset = 0;
  text_append(&header, "{", 1);
  for (int i = 0; i < count; i++) {
    const Tensor *t = &tensors[i];
    size_t size = (size_t)tensor_elements(t) * tensor_type_size(t->type);
    text_append(&header, ",", i > 0);
    text_json_string(&header, t->name);
    text_format(&header, ":{\"dtype\":\"%s\",\"shape\":[", tensor_type_name(t->type));
    for (int d = 0; d < t->rank; d++)
      text_format(&header, "%s%lld", d ? "," : "", (long long)t->dim[d]);
    text_format(&header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + size);
    offset += size;
  }
  text_append(&header, "}", 1);
  while (header.size % 8 != 0)
    text_append(&header, " ", 1);

  int descriptor = file_create(path);
  Checksum sum = checksum_start();
  uint64_t header_size = header.size;
  file_write(descriptor, path, &header_size, 8);
  checksum_add(&sum, &header_size, 8);
  file_write(descriptor, path, header.data, header.size);
  checksum_add(&sum, header.data, header.size);
  for (int i = 0; i < count; i++) {
    size_t size = (size_t)tensor_elements(&tensors[i]) * tensor_type_size(tensors[i].type);
    file_write(descriptor, path, tensors[i].data, size);
    checksum_add(&sum, tensors[i].data, size);
  }
  file_close_durable(descriptor, path);
  text_free(&header);
  return checksum_end(&sum);
}

/* ---------------------------------------------------------------- reading */

static _Noreturn void damaged(const char *path, const char *tensor, const char *what) {
  if (tensor)
    runtime_fail(FAIL_USER, "%s: damaged safetensors file: tensor '%s': %s", path, tensor, what);
  runtime_fail(FAIL_USER, "%s: damaged safetensors file: %s", path, what);
}

static void read_shape(const char *path, Tensor *t, const Json *shape) {
  if (!shape || shape->kind != JSON_ARRAY)
    damaged(path, t->name, "no shape");
  int64_t elements = 1;
  for (const Json *dim = shape->first; dim; dim = dim->next) {
    int64_t size;
    if (t->rank == TENSOR_MAX_RANK)
      damaged(path, t->name, "more than 8 dimensions");
    if (!json_integer(dim, &size) || size < 0 || __builtin_mul_overflow(elements, size, &elements) ||
        elements > INT64_MAX / 8)
      damaged(path, t->name, "a dimension that is no size");
    t->dim[t->rank++] = size;
  }
}

/* One member of the header; `begin` and `end` relative to the first byte behind it. */
static Tensor read_tensor(const char *path, const Json *member, uint64_t body, uint64_t *begin) {
  Tensor t = {.name = member->key, .type = TENSOR_TYPE_COUNT};
  const Json *type = json_member(member, "dtype"), *offsets = json_member(member, "data_offsets");
  if (!type || type->kind != JSON_STRING)
    damaged(path, t.name, "no dtype");
  for (int i = 0; i < TENSOR_TYPE_COUNT; i++)
    if (strcmp(type->string, tensor_type[i].name) == 0)
      t.type = (TensorType)i;
  if (t.type == TENSOR_TYPE_COUNT)
    damaged(path, t.name, "a dtype that is not known");
  read_shape(path, &t, json_member(member, "shape"));
  uint64_t end;
  if (!offsets || offsets->kind != JSON_ARRAY || !json_unsigned(offsets->first, begin) ||
      !json_unsigned(offsets->first->next, &end) || offsets->first->next->next)
    damaged(path, t.name, "no pair of data_offsets");
  if (*begin > end || end > body)
    damaged(path, t.name, "its bytes lie beyond the end of the file");
  if (end - *begin != (uint64_t)tensor_elements(&t) * tensor_type_size(t.type))
    damaged(path, t.name, "its bytes do not fit its shape");
  return t;
}

static int compare_places(const void *a, const void *b) {
  const Tensor *x = a, *y = b;
  if (x->data != y->data)
    return (uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1;
  int64_t p = tensor_elements(x), q = tensor_elements(y); /* empty tensors stand before what begins where they are */
  return p != q ? (p < q ? -1 : 1) : strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void check_names(const Safetensors *file) {
  const char **names = runtime_allocate((size_t)file->count + 1, sizeof *names);
  for (int i = 0; i < file->count; i++)
    names[i] = file->tensors[i].name;
  qsort(names, (size_t)file->count, sizeof *names, compare_names);
  for (int i = 1; i < file->count; i++)
    if (strcmp(names[i - 1], names[i]) == 0)
      damaged(file->path, names[i], "stands in the header twice");
}

Safetensors *safetensors_open(const char *path) {
  Mapping mapping = file_map("safetensors file", path);
  uint64_t header_size;
  if (mapping.size < 8)
    damaged(path, NULL, "shorter than its first 8 bytes");
  memcpy(&header_size, mapping.data, 8);
  if (header_size > MAX_HEADER)
    damaged(path, NULL, "a header of more than 100 MB");
  if (header_size > mapping.size - 8)
    damaged(path, NULL, "the header does not end in the file");
  char error[128];
  const Json *header = json_parse((const char *)mapping.data + 8, header_size, error, sizeof error);
  if (!header)
    runtime_fail(FAIL_USER, "%s: damaged safetensors file: header: %s", path, error);
  if (header->kind != JSON_OBJECT)
    damaged(path, NULL, "the header is no object");

  Safetensors *file = runtime_allocate(1, sizeof *file);
  *file = (Safetensors){string_format("%s", path), NULL, 0, mapping.data, mapping.size};
  size_t members = 0;
  for (const Json *member = header->first; member; member = member->next)
    members++;
  file->tensors = runtime_allocate(members + 1, sizeof(Tensor));
  const uint8_t *body = mapping.data + 8 + header_size;
  for (const Json *member = header->first; member; member = member->next) {
    if (strcmp(member->key, "__metadata__") == 0)
      continue;
    uint64_t begin;
    Tensor tensor = read_tensor(path, member, mapping.size - 8 - header_size, &begin);
    tensor.data = body + begin;
    file->tensors[file->count++] = tensor;
  }
  check_names(file);
  qsort(file->tensors, (size_t)file->count, sizeof(Tensor), compare_places);
  const uint8_t *at = body;
  for (int i = 0; i < file->count; i++) {
    const Tensor *t = &file->tensors[i];
    if (t->data != at)
      damaged(path, t->name, "a hole or an overlap before it");
    at += (size_t)tensor_elements(t) * tensor_type_size(t->type);
  }
  if (at != mapping.data + mapping.size)
    damaged(path, NULL, "bytes behind the last tensor");
  return file;
}

const Tensor *safetensors_find(const Safetensors *file, const char *name) {
  for (int i = 0; i < file->count; i++)
    if (strcmp(file->tensors[i].name, name) == 0)
      return &file->tensors[i];
  return NULL;
}

uint64_t safetensors_checksum(const Safetensors *file) {
  Checksum sum = checksum_start();
  checksum_add(&sum, file->mapping, file->size);
  return checksum_end(&sum);
}

void safetensors_close(Safetensors *file) {
  file_unmap((Mapping){file->mapping, file->size});
}
