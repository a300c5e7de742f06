/* A number among the words of a plan's step: "threads", "shared", "m". */
#ifndef MOEC_TESTS_CUDA_STEP_FIELD_H
#define MOEC_TESTS_CUDA_STEP_FIELD_H

#include <stdlib.h>
#include <string.h>

#include "codegen/plan.h"

/* 0 where the step does not say. */
static inline int64_t step_field(const Step *s, const char *key) {
  for (uint32_t i = 0; i < vec_len(s->fields); i++) {
    const Field *f = &s->fields[i];
    if (f->key && strcmp(f->key, key) == 0)
      return f->kind == FIELD_WORD ? strtoll(f->word, NULL, 10) : f->number;
  }
  return 0;
}

#endif
