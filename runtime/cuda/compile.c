/* See compile.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include "runtime/cuda/compile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/cache.h"
#include "runtime/cuda/libraries.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/payload.h"

/* What a cubin follows from beside its source, the architecture and NVRTC's version. */
static const char *const options[] = {"--std=c++17", "--diag-suppress=177"};
enum { OPTIONS = sizeof options / sizeof *options };

const char cuda_runtime_unit[] = "\n//@unit " CUDA_SUM_ARENAS "\n"
                                 "extern \"C\" __global__ void __launch_bounds__(256)\n" CUDA_SUM_ARENAS
                                 "(float *sum, const float *first, const float *second, long long count) {\n"
                                 "  long long i = (long long)blockIdx.x * 256 + threadIdx.x;\n"
                                 "  if (i < count)\n"
                                 "    sum[i] = first[i] + second[i];\n"
                                 "}\n";

static const char unit_mark[] = "//@unit ";

/* ---------------------------------------------------------------- the text */

/* The next line that begins with the mark, from a line's beginning on; NULL: none. */
static const char *next_unit(const char *from, const char *end) {
  size_t length = strlen(unit_mark);
  while (from < end) {
    if ((size_t)(end - from) >= length && memcmp(from, unit_mark, length) == 0)
      return from;
    const char *line_end = memchr(from, '\n', (size_t)(end - from));
    from = line_end ? line_end + 1 : end;
  }
  return NULL;
}

static CudaUnit read_unit(const char *begin, const char *end) {
  const char *line_end = memchr(begin, '\n', (size_t)(end - begin));
  char *line = string_format("%.*s", (int)((line_end ? line_end : end) - begin), begin + strlen(unit_mark)), *rest;
  CudaUnit unit = {.text = begin, .size = (size_t)(end - begin)};
  for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
    if (!unit.name)
      unit.name = word;
    else if (strncmp(word, "arch=", 5) == 0)
      unit.arch = word + 5;
  if (!unit.name)
    runtime_fail(FAIL_BUG, "section kernels.cu has a unit without a name");
  return unit;
}

CudaSource cuda_source_read(const char *text, size_t size) {
  const char *end = text + size, *unit = next_unit(text, end);
  CudaSource source = {.head = text, .head_size = unit ? (size_t)(unit - text) : size};
  for (const char *at = unit; at; at = next_unit(at + 1, end))
    source.count++;
  source.units = runtime_allocate((size_t)source.count, sizeof *source.units);
  for (int i = 0; i < source.count; i++) {
    const char *following = next_unit(unit + 1, end);
    source.units[i] = read_unit(unit, following ? following : end);
    unit = following;
  }
  return source;
}

int cuda_source_find(const CudaSource *source, const char *kernel) {
  int found = -1;
  size_t longest = 0;
  for (int i = 0; i < source->count; i++) {
    size_t length = strlen(source->units[i].name);
    bool holds = strncmp(source->units[i].name, kernel, length) == 0 && (kernel[length] == 0 || kernel[length] == '_');
    if (holds && length > longest) {
      found = i;
      longest = length;
    }
  }
  return found;
}

/* ---------------------------------------------------------------- NVRTC */

const char *cuda_compiler_version(void) {
  int major = 0, minor = 0;
  if (cuda.nvrtcVersion(&major, &minor) != NVRTC_SUCCESS)
    runtime_fail(FAIL_ENVIRONMENT, "libnvrtc.so.13 does not tell its version");
  return string_format("%d.%d", major, minor);
}

/* Head and unit, terminated. */
static Bytes unit_text(const CudaSource *source, const CudaUnit *unit) {
  Bytes text = {runtime_allocate(source->head_size + unit->size + 1, 1), source->head_size + unit->size};
  memcpy(text.data, source->head, source->head_size);
  memcpy(text.data + source->head_size, unit->text, unit->size);
  return text;
}

static _Noreturn void refused(nvrtcProgram program, const CudaUnit *unit, const char *arch, nvrtcResult result) {
  size_t size = 0;
  char *log = NULL;
  if (cuda.nvrtcGetProgramLogSize(program, &size) == NVRTC_SUCCESS) {
    log = runtime_allocate(size + 1, 1);
    cuda.nvrtcGetProgramLog(program, log);
  }
  if (result == NVRTC_ERROR_INVALID_OPTION)
    runtime_fail(FAIL_ENVIRONMENT, "NVRTC %s does not compile for %s: a newer one is needed", cuda_compiler_version(),
                 arch);
  runtime_fail(result == NVRTC_ERROR_COMPILATION ? FAIL_BUG : FAIL_ENVIRONMENT,
               "NVRTC does not compile kernel %s for %s: %s\n%.3000s", unit->name, arch,
               cuda.nvrtcGetErrorString(result), log ? log : "");
}

static Bytes compile_text(const CudaUnit *unit, const char *text, const char *arch) {
  nvrtcProgram program;
  const char *all[OPTIONS + 1];
  char *file = string_format("%s.cu", unit->name);
  nvrtcResult result = cuda.nvrtcCreateProgram(&program, text, file, 0, NULL, NULL);
  if (result != NVRTC_SUCCESS)
    runtime_fail(FAIL_ENVIRONMENT, "NVRTC takes no program: %s", cuda.nvrtcGetErrorString(result));
  memcpy(all, options, sizeof options);
  all[OPTIONS] = string_format("--gpu-architecture=%s", arch);
  result = cuda.nvrtcCompileProgram(program, OPTIONS + 1, all);
  Bytes cubin = {NULL, 0};
  if (result == NVRTC_SUCCESS)
    result = cuda.nvrtcGetCUBINSize(program, &cubin.size);
  if (result == NVRTC_SUCCESS) {
    cubin.data = runtime_allocate(cubin.size + 1, 1);
    result = cuda.nvrtcGetCUBIN(program, cubin.data);
  }
  if (result != NVRTC_SUCCESS)
    refused(program, unit, arch, result);
  cuda.nvrtcDestroyProgram(&program);
  free((char *)all[OPTIONS]);
  free(file);
  return cubin;
}

Bytes cuda_compile(const CudaSource *source, const CudaUnit *unit, const char *arch) {
  Bytes text = unit_text(source, unit), cubin = compile_text(unit, text.data, arch);
  free(text.data);
  return cubin;
}

/* The cubin does not follow from comments, where names and lines of the script stand. No string holds one. */
static void drop_comments(Bytes *text) {
  size_t kept = 0;
  for (size_t i = 0; i < text->size; i++) {
    bool opens = text->data[i] == '/' && text->data[i + 1] == '*';
    const char *end = opens ? strstr(text->data + i + 2, "*/") : NULL;
    if (end)
      i = (size_t)(end - text->data) + 1;
    else
      text->data[kept++] = text->data[i];
  }
  text->size = kept;
  text->data[kept] = 0;
}

/* Two hashes of everything the cubin follows from, 32 hex digits. */
static char *cache_key(const CudaSource *source, const CudaUnit *unit, const char *arch, const char *version) {
  Bytes text = unit_text(source, unit);
  drop_comments(&text);
  char *conditions = string_format("%s %s", arch, version);
  for (int i = 0; i < OPTIONS; i++) {
    char *longer = string_format("%s %s", conditions, options[i]);
    free(conditions);
    conditions = longer;
  }
  uint64_t parts[2] = {payload_hash(conditions, strlen(conditions)), payload_hash(text.data, text.size)};
  char *all = string_format("%s\n%s", conditions, text.data);
  char *key =
      string_format("%016" PRIx64 "%016" PRIx64, payload_hash(parts, sizeof parts), payload_hash(all, strlen(all)));
  free(conditions);
  free(all);
  free(text.data);
  return key;
}

/* ---------------------------------------------------------------- all units */

/* The line feed that ends the last line of the index; NULL: the section is damaged. */
static const char *index_end(Mapping container) {
  for (size_t i = 0; i + 1 < container.size; i++)
    if (container.data[i] == '\n' && container.data[i + 1] == '\n')
      return (const char *)container.data + i;
  return NULL;
}

/* The unit's bytes in the container; data NULL where it has none of that name. */
static Bytes find_precompiled(Mapping container, const char *name) {
  Bytes found = {NULL, 0};
  const char *text = (const char *)container.data, *end = text ? index_end(container) : NULL;
  if (!end)
    return found;
  size_t bytes = container.size - (size_t)(end + 2 - text), length = strlen(name);
  for (const char *line = text; line <= end; line = (const char *)memchr(line, '\n', (size_t)(end + 1 - line)) + 1) {
    unsigned long long offset, size;
    if (strncmp(line, name, length) != 0 || sscanf(line + length, " %llu %llu", &offset, &size) != 2)
      continue;
    if (offset > bytes || size > bytes - offset)
      runtime_fail(FAIL_BUG, "a section of cubins places kernel %s behind its end", name);
    found = (Bytes){runtime_allocate(size + 1, 1), size};
    memcpy(found.data, end + 2 + offset, size);
    return found;
  }
  return found;
}

static struct {
  int compiled, cached, carried;
  double seconds, opening; /* of all; of NVRTC and the cache's directory */
  double hashing, reading; /* of texts, and of files with theirs: sums over the threads */
} summary;

const char *cuda_load_summary(void) {
  return string_format(
      "%d kernels compiled in %.1f s, %d from the cache, %d carried (opening NVRTC %.0f ms, hashing %.0f "
      "ms, reading %.0f ms)",
      summary.compiled, summary.seconds, summary.cached, summary.carried, 1e3 * summary.opening, 1e3 * summary.hashing,
      1e3 * summary.reading);
}

/* What a unit took; `compiled` 0 where the cache had it. */
typedef struct UnitCost {
  int compiled;
  double hashing, reading;
} UnitCost;

static Bytes load_cached(const CudaSource *source, const CudaUnit *unit, const char *arch, const char *version,
                         UnitCost *cost) {
  double start = log_seconds();
  char *key = cache_key(source, unit, arch, version);
  double hashed = log_seconds();
  Bytes cubin = cuda_cache_find(key);
  *cost = (UnitCost){.hashing = hashed - start, .reading = log_seconds() - hashed};
  if (!cubin.data) {
    cubin = cuda_compile(source, unit, arch);
    cuda_cache_store(key, cubin);
    cost->compiled = 1;
  }
  free(key);
  return cubin;
}

Bytes *cuda_load_units(const CudaSource *source, const bool *wanted, const char *arch, Mapping container) {
  Bytes *images = runtime_allocate((size_t)source->count, sizeof *images);
  bool *missing = runtime_allocate((size_t)source->count, sizeof *missing);
  int count = 0, compiled = 0, carried = 0;
  double start = log_seconds(), opening = 0, hashing = 0, reading = 0;
  for (int i = 0; i < source->count; i++) {
    const CudaUnit *unit = &source->units[i];
    if (!wanted[i] || (unit->arch && strcmp(unit->arch, arch) != 0))
      continue;
    images[i] = find_precompiled(container, unit->name);
    missing[i] = !images[i].data;
    count += missing[i];
    carried += !missing[i];
  }
  if (count > 0) {
    double before = log_seconds();
    const char *problem = cuda_open(CUDA_NVRTC);
    if (problem)
      runtime_fail(FAIL_ENVIRONMENT, "%d kernels are to be compiled for %s, but %s", count, arch, problem);
    cuda_cache_open();
    const char *version = cuda_compiler_version();
    opening = log_seconds() - before;
#pragma omp parallel for schedule(dynamic) reduction(+ : compiled, hashing, reading)
    for (int i = 0; i < source->count; i++)
      if (missing[i]) {
        UnitCost cost;
        images[i] = load_cached(source, &source->units[i], arch, version, &cost);
        compiled += cost.compiled;
        hashing += cost.hashing;
        reading += cost.reading;
      }
  }
  free(missing);
  summary.compiled = compiled;
  summary.cached = count - compiled;
  summary.carried = carried;
  summary.seconds = log_seconds() - start;
  summary.opening = opening;
  summary.hashing = hashing;
  summary.reading = reading;
  return images;
}
