/* safetensors files: 8 bytes little endian size of a JSON header, the header, the tensors back to back.
 *
 * In and out: named dense row-major tensors. What is written, the Python package reads, and the other way round. The
 * reader is strict: a header that is not exact JSON, an unknown type, sizes that do not fit, holes, overlaps, bytes
 * missing or left over end the program with FAIL_USER and a message that names the file and the tensor.
 */
#ifndef MOEC_SAFETENSORS_H
#define MOEC_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

typedef enum TensorType {
  TENSOR_F64,
  TENSOR_F32,
  TENSOR_F16,
  TENSOR_BF16,
  TENSOR_I64,
  TENSOR_I32,
  TENSOR_I16,
  TENSOR_I8,
  TENSOR_U64,
  TENSOR_U32,
  TENSOR_U16,
  TENSOR_U8,
  TENSOR_BOOL,
  TENSOR_TYPE_COUNT
} TensorType;

enum { TENSOR_MAX_RANK = 8 };

typedef struct Tensor {
  const char *name;
  TensorType type;
  int rank;
  int64_t dim[TENSOR_MAX_RANK];
  const void *data; /* of a reader: in the mapping, aligned as the file has it (8 bytes in files written here) */
} Tensor;

typedef struct Safetensors {
  const char *path;
  Tensor *tensors; /* in the order of their bytes */
  int count;
  const uint8_t *mapping;
  size_t size;
} Safetensors;

size_t tensor_type_size(TensorType type);
const char *tensor_type_name(TensorType type); /* "F32" */
int64_t tensor_elements(const Tensor *tensor);

/* Names must differ. The file is durable when this returns (not its directory). Returns the checksum of the file. */
uint64_t safetensors_write(const char *path, const Tensor *tensors, int count);

Safetensors *safetensors_open(const char *path);
const Tensor *safetensors_find(const Safetensors *file, const char *name); /* NULL when absent */
/* The checksum that safetensors_write returned, of the whole file. */
uint64_t safetensors_checksum(const Safetensors *file);
void safetensors_close(Safetensors *file);

#endif
