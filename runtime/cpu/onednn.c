/* The shim over oneDNN's C API. Majors 2 and 3 differ in three places only: how a memory descriptor is made (a struct
 * filled in, or an object), how a product's primitive descriptor is made, and the arguments of the sum post-op.
 *
 * In: shapes and pointers. Out: products done by the library. A status other than success is FAIL_ENVIRONMENT where the
 * CPU cannot do it (bf16 without AVX-512) and FAIL_BUG otherwise. */
#include "runtime/cpu/onednn.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/error.h"

/* Values of the library's enumerations, equal in both majors. */
enum {
  STATUS_UNIMPLEMENTED = 3,
  ENGINE_CPU = 1,
  STREAM_DEFAULT = 1,
  QUERY_IMPLEMENTATION = 8,
  ARGUMENT_SOURCE = 1,
  ARGUMENT_RESULT = 17,
  ARGUMENT_WEIGHTS = 33
};

typedef struct Version {
  int major, minor, patch; /* what the library's struct begins with */
} Version;

typedef struct ExecuteArgument {
  int argument;
  void *memory;
} ExecuteArgument;

typedef int64_t Dims[12]; /* DNNL_MAX_NDIMS */

/* A memory descriptor: in major 2 a struct of 696 bytes in `bytes`, in major 3 an object at `object`. */
typedef struct Descriptor {
  void *object;
  _Alignas(16) char bytes[2048];
} Descriptor;

typedef struct Operation { /* major 2's dnnl_matmul_desc_t, 2800 bytes */
  _Alignas(16) char bytes[16384];
} Operation;

static struct {
  const Version *(*version)(void);
  int (*engine_create)(void **, int, size_t);
  int (*stream_create)(void **, void *, unsigned);
  int (*stream_wait)(void *);
  int (*sgemm)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float,
               float *, int64_t);
  int (*memory_create)(void **, const void *, void *, void *);
  int (*memory_destroy)(void *);
  int (*attribute_create)(void **);
  int (*attribute_set_post_ops)(void *, const void *);
  int (*post_ops_create)(void **);
  int (*primitive_create)(void **, const void *);
  int (*primitive_execute)(const void *, void *, int, const ExecuteArgument *);
  int (*description_query)(const void *, int, int, void *);
  /* major 2 */
  int (*descriptor_init)(void *, int, const int64_t *, int, const int64_t *);
  int (*matmul_init)(void *, const void *, const void *, const void *, const void *);
  int (*description_create_2)(void **, const void *, const void *, void *, const void *);
  int (*append_sum_2)(void *, float);
  /* major 3 */
  int (*descriptor_create)(void **, int, const int64_t *, int, const int64_t *);
  int (*descriptor_destroy)(void *);
  int (*matmul_create)(void **, void *, const void *, const void *, const void *, const void *, const void *);
  int (*append_sum_3)(void *, float, int32_t, int);
} api;

static void *library, *engine, *stream;
static char library_name[64] = "none";

struct OnednnProduct {
  OnednnShape shape;
  void *primitive;
};

static OnednnProduct **products;
static int product_count;

static void check(int status, const char *what) {
  if (status)
    runtime_fail(FAIL_BUG, "%s: %s failed with status %d", library_name, what, status);
}

static void resolve(void *field, const char *name) {
  void *symbol = dlsym(library, name);
  if (!symbol)
    runtime_fail(FAIL_ENVIRONMENT, "%s has no function %s: it is too old or not oneDNN", library_name, name);
  memcpy(field, &symbol, sizeof symbol);
}

static void resolve_all(int major) {
  resolve(&api.engine_create, "dnnl_engine_create");
  resolve(&api.stream_create, "dnnl_stream_create");
  resolve(&api.stream_wait, "dnnl_stream_wait");
  resolve(&api.sgemm, "dnnl_sgemm");
  resolve(&api.memory_create, "dnnl_memory_create");
  resolve(&api.memory_destroy, "dnnl_memory_destroy");
  resolve(&api.attribute_create, "dnnl_primitive_attr_create");
  resolve(&api.attribute_set_post_ops, "dnnl_primitive_attr_set_post_ops");
  resolve(&api.post_ops_create, "dnnl_post_ops_create");
  resolve(&api.primitive_create, "dnnl_primitive_create");
  resolve(&api.primitive_execute, "dnnl_primitive_execute");
  resolve(&api.description_query, "dnnl_primitive_desc_query");
  if (major == 2) {
    resolve(&api.descriptor_init, "dnnl_memory_desc_init_by_strides");
    resolve(&api.matmul_init, "dnnl_matmul_desc_init");
    resolve(&api.description_create_2, "dnnl_primitive_desc_create");
    resolve(&api.append_sum_2, "dnnl_post_ops_append_sum");
  } else {
    resolve(&api.descriptor_create, "dnnl_memory_desc_create_with_strides");
    resolve(&api.descriptor_destroy, "dnnl_memory_desc_destroy");
    resolve(&api.matmul_create, "dnnl_matmul_primitive_desc_create");
    resolve(&api.append_sum_3, "dnnl_post_ops_append_sum");
  }
}

void onednn_open(void) {
  if (library)
    return;
  const char *chosen = getenv("MOEC_ONEDNN"); /* a path, where the system's search does not find it */
  const char *const names[] = {chosen ? chosen : "libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"};
  for (int i = 0; i < (chosen ? 1 : 3) && !library; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!library)
    runtime_fail(FAIL_ENVIRONMENT,
                 "oneDNN was not found (%s): the CPU's matrix products need it. On Debian: apt install libdnnl2",
                 dlerror());
  snprintf(library_name, sizeof library_name, "oneDNN");
  resolve(&api.version, "dnnl_version");
  const Version *version = api.version();
  snprintf(library_name, sizeof library_name, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
  if (version->major != 2 && version->major != 3)
    runtime_fail(FAIL_ENVIRONMENT, "%s: this trainer knows majors 2 and 3", library_name);
  resolve_all(version->major);
  check(api.engine_create(&engine, ENGINE_CPU, 0), "dnnl_engine_create");
  check(api.stream_create(&stream, engine, STREAM_DEFAULT), "dnnl_stream_create");
}

const char *onednn_name(void) {
  return library_name;
}

void onednn_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                  int64_t ldb, float beta, float *c, int64_t ldc) {
  check(api.sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, lda, b, ldb, beta, c, ldc), "dnnl_sgemm");
}

/* Fills `descriptor` and returns what the API takes for it. */
static void *describe(Descriptor *descriptor, int64_t rows, int64_t columns, const int64_t *stride, int64_t type) {
  Dims dims = {rows, columns}, strides = {stride[0], stride[1]};
  if (api.descriptor_create) {
    check(api.descriptor_create(&descriptor->object, 2, dims, (int)type, strides), "making a memory descriptor");
    return descriptor->object;
  }
  check(api.descriptor_init(descriptor->bytes, 2, dims, (int)type, strides), "making a memory descriptor");
  return descriptor->bytes;
}

static void release(Descriptor *descriptor) {
  if (api.descriptor_destroy)
    api.descriptor_destroy(descriptor->object);
}

static void *sum_attribute(int64_t ctype) {
  void *attribute, *post_ops;
  check(api.attribute_create(&attribute), "dnnl_primitive_attr_create");
  check(api.post_ops_create(&post_ops), "dnnl_post_ops_create");
  if (api.append_sum_3)
    check(api.append_sum_3(post_ops, 1, 0, (int)ctype), "dnnl_post_ops_append_sum");
  else
    check(api.append_sum_2(post_ops, 1), "dnnl_post_ops_append_sum");
  check(api.attribute_set_post_ops(attribute, post_ops), "dnnl_primitive_attr_set_post_ops");
  return attribute;
}

/* The library's reference loops are a hundred times slower than its kernels: worth a line, once per shape. */
static void report_reference(const void *description, const OnednnShape *s) {
  const char *implementation = NULL;
  if (!api.description_query(description, QUERY_IMPLEMENTATION, 0, &implementation) && implementation &&
      !strncmp(implementation, "ref", 3))
    fprintf(stderr, "trainer: %s has no fast code on this CPU for a %s product with n=%lld: it will be slow\n",
            library_name, s->type == ONEDNN_BF16 ? "bf16" : "f32", (long long)s->n);
}

static void make_primitive(OnednnProduct *product) {
  static Descriptor a, b, c;
  static Operation operation;
  const OnednnShape *s = &product->shape;
  void *ma = describe(&a, s->m, s->k, s->a_stride, s->type);
  void *mb = describe(&b, s->k, s->n, s->b_stride, s->type);
  void *mc = describe(&c, s->m, s->n, s->c_stride, s->ctype);
  void *attribute = s->beta ? sum_attribute(s->ctype) : NULL, *description = NULL;
  int status;
  if (api.matmul_create) {
    status = api.matmul_create(&description, engine, ma, mb, NULL, mc, attribute);
  } else {
    status = api.matmul_init(operation.bytes, ma, mb, NULL, mc);
    if (!status)
      status = api.description_create_2(&description, operation.bytes, attribute, engine, NULL);
  }
  if (status == STATUS_UNIMPLEMENTED && s->type == ONEDNN_BF16)
    runtime_fail(FAIL_ENVIRONMENT, "%s has no bf16 products on this CPU: build the model with precision = \"f32\"",
                 library_name);
  check(status, "describing a product");
  report_reference(description, s);
  check(api.primitive_create(&product->primitive, description), "making a product");
  release(&a);
  release(&b);
  release(&c);
}

OnednnProduct *onednn_product(const OnednnShape *shape) {
  for (int i = 0; i < product_count; i++)
    if (!memcmp(&products[i]->shape, shape, sizeof *shape))
      return products[i];
  if (product_count == 0 || (product_count >= 8 && (product_count & (product_count - 1)) == 0)) {
    products = realloc(products, (product_count < 8 ? 8 : 2 * (size_t)product_count) * sizeof *products);
    if (!products)
      runtime_fail(FAIL_ENVIRONMENT, "out of memory for products");
  }
  OnednnProduct *product = runtime_allocate(1, sizeof *product);
  product->shape = *shape;
  make_primitive(product);
  return products[product_count++] = product;
}

static void *attach(int64_t rows, int64_t columns, const int64_t *stride, int64_t type, const void *data) {
  Descriptor descriptor;
  void *memory;
  check(api.memory_create(&memory, describe(&descriptor, rows, columns, stride, type), engine, (void *)data),
        "dnnl_memory_create");
  release(&descriptor);
  return memory;
}

void onednn_execute(OnednnProduct *product, int64_t m, int64_t k, const void *a, const void *b, void *c) {
  const OnednnShape *s = &product->shape;
  ExecuteArgument arguments[3] = {{ARGUMENT_SOURCE, attach(m, k, s->a_stride, s->type, a)},
                                  {ARGUMENT_WEIGHTS, attach(k, s->n, s->b_stride, s->type, b)},
                                  {ARGUMENT_RESULT, attach(m, s->n, s->c_stride, s->ctype, c)}};
  check(api.primitive_execute(product->primitive, stream, 3, arguments), "a product");
  check(api.stream_wait(stream), "dnnl_stream_wait");
  for (int i = 0; i < 3; i++)
    api.memory_destroy(arguments[i].memory);
}
