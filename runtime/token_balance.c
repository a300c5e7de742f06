/* See token_balance.h. Balanced assignment by frequency (Roller et al. 2021, 3.2): tokens from the most to the least
 * frequent, each to the expert that has the fewest occurrences so far; ties go to the lower id and the lower expert.
 * Tokens that never occur go to the expert that has the fewest tokens.
 */
#include "runtime/token_balance.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/error.h"

typedef struct TokenCount {
  int64_t count, id;
} TokenCount;

static int most_frequent_first(const void *a, const void *b) {
  const TokenCount *x = a, *y = b;
  if (x->count != y->count)
    return x->count > y->count ? -1 : 1;
  return x->id < y->id ? -1 : x->id > y->id;
}

static TokenCount *count_tokens(const TokenFile *tokens, int64_t vocabulary) {
  TokenCount *counts = runtime_allocate((size_t)vocabulary, sizeof *counts);
  for (int64_t v = 0; v < vocabulary; v++)
    counts[v].id = v;
  for (int64_t i = 0; i < tokens->count; i++) {
    int32_t id = token_file_at(tokens, i);
    if (id < vocabulary)
      counts[id].count++;
  }
  qsort(counts, (size_t)vocabulary, sizeof *counts, most_frequent_first);
  return counts;
}

static int64_t least_loaded(const int64_t *load, int64_t experts) {
  int64_t least = 0;
  for (int64_t e = 1; e < experts; e++)
    if (load[e] < load[least])
      least = e;
  return least;
}

static void fill(float *expert_of, int64_t vocabulary, int64_t experts, const TokenFile *tokens) {
  TokenCount *counts = count_tokens(tokens, vocabulary);
  int64_t *occurrences = runtime_allocate((size_t)experts, sizeof *occurrences);
  int64_t *kinds = runtime_allocate((size_t)experts, sizeof *kinds);
  for (int64_t i = 0; i < vocabulary; i++) {
    int64_t e = least_loaded(counts[i].count ? occurrences : kinds, experts);
    occurrences[e] += counts[i].count;
    kinds[e]++;
    expert_of[counts[i].id] = (float)e;
  }
  free(counts);
  free(occurrences);
  free(kinds);
}

void token_balance(Arenas *arenas, const PlanTable *before, const TokenFile *tokens) {
  float *values = NULL;
  for (int i = 0; i < arenas->table->param_count; i++) {
    const PlanParam *param = &arenas->table->params[i];
    long long experts;
    if (!param->init || sscanf(param->init, "token_balance(%lld)", &experts) != 1 || experts < 1 ||
        (before && plan_param(before, param->name)))
      continue;
    values = values ? values : arenas_write(arenas, ARENA_PARAM);
    fill(values + param->offset, param->shape.elements, experts, tokens);
  }
  if (values)
    arenas_settle(arenas);
}
