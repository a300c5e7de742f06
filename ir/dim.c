/* Dims and types: arithmetic, comparison, and their text.
 *
 * A dim is coefficient * monomial + plus. Invariants: symbols sorted by id, no zero powers, a plain number is all in
 * `coefficient`. Arithmetic keeps the symbolic form where the result has one and falls back to the number where a
 * module is at hand; no operation overflows: beyond 62 bits it is reported.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ir/internal.h"

/* Room for the text of every dim: four symbols of MAX_SYMBOL_NAME characters at this power. */
enum { MAX_POWER = 8, DIM_TEXT_BYTES = 4 * MAX_POWER * (MAX_SYMBOL_NAME + 1) + 64 };

static bool in_limit(__int128 n) {
  return n <= MAX_COEFFICIENT && n >= -MAX_COEFFICIENT;
}

/* ---------------------------------------------------------------- dims */

Dim dim_number(int64_t n) {
  return (Dim){.coefficient = n};
}

Dim dim_symbol(SymbolId s) {
  return (Dim){.coefficient = 1, .symbol_count = 1, .power = {1}, .symbol = {s}};
}

bool dim_evaluate(const Module *m, Dim d, int64_t *value) {
  __int128 numerator = d.coefficient, denominator = 1;
  for (int i = 0; i < d.symbol_count; i++) {
    if (d.symbol[i] >= vec_len(m->symbols))
      ir_bug("symbol %u of a dim does not exist", d.symbol[i]);
    int64_t base = m->symbols[d.symbol[i]].value;
    for (int p = d.power[i]; p > 0; p--)
      if (!in_limit(numerator *= base))
        return false;
    for (int p = d.power[i]; p < 0; p++)
      if (!in_limit(denominator *= base))
        return false;
  }
  if (denominator == 0 || numerator % denominator != 0)
    return false;
  __int128 result = numerator / denominator + d.plus;
  *value = (int64_t)result;
  return in_limit(result);
}

int64_t dim_value(const Module *m, Dim d) {
  int64_t value;
  if (!dim_evaluate(m, d, &value))
    ir_fail(no_loc, "the dim %s has no value: it does not divide or is too large", dim_text(m, d));
  return value;
}

bool dim_equal(const Module *m, Dim a, Dim b) {
  return dim_value(m, a) == dim_value(m, b);
}

/* Merges two sorted lists of symbols, adding powers (subtracting those of b when dividing). */
static bool merge_symbols(Dim a, Dim b, bool divide, Dim *result) {
  int i = 0, j = 0, count = 0;
  while (i < a.symbol_count || j < b.symbol_count) {
    bool take_a = i < a.symbol_count && (j == b.symbol_count || a.symbol[i] <= b.symbol[j]);
    bool take_b = j < b.symbol_count && (i == a.symbol_count || b.symbol[j] <= a.symbol[i]);
    SymbolId symbol = take_a ? a.symbol[i] : b.symbol[j];
    int power = (take_a ? a.power[i] : 0) + (take_b ? (divide ? -b.power[j] : b.power[j]) : 0);
    i += take_a, j += take_b;
    if (power == 0)
      continue;
    if (count == MAX_DIM_SYMBOLS || power > MAX_POWER || power < -MAX_POWER)
      return false;
    result->symbol[count] = symbol;
    result->power[count++] = (int8_t)power;
  }
  result->symbol_count = (uint8_t)count;
  return true;
}

bool dim_try_multiply(Dim a, Dim b, bool divide, Dim *result) {
  *result = (Dim){0};
  if (!divide && a.symbol_count == 0) {
    Dim t = a;
    a = b, b = t;
  }
  if (b.symbol_count == 0) { /* a number times (or into) a monomial plus a constant */
    __int128 n = b.coefficient, coefficient = a.coefficient, plus = a.plus;
    if (divide && (n == 0 || coefficient % n != 0 || plus % n != 0))
      return false;
    coefficient = divide ? coefficient / n : coefficient * n;
    plus = divide ? plus / n : plus * n;
    if (!in_limit(coefficient) || !in_limit(plus))
      return false;
    *result = a;
    result->coefficient = (int64_t)coefficient;
    result->plus = (int64_t)plus;
    if (coefficient == 0)
      *result = dim_number((int64_t)plus);
    return true;
  }
  if (a.plus != 0 || b.plus != 0)
    return false;
  __int128 coefficient = (__int128)a.coefficient * b.coefficient;
  if (divide) {
    if (a.coefficient % b.coefficient != 0)
      return false;
    coefficient = a.coefficient / b.coefficient;
  }
  result->coefficient = (int64_t)coefficient;
  return in_limit(coefficient) && merge_symbols(a, b, divide, result);
}

Dim dim_multiply(Dim a, Dim b) {
  Dim result;
  if (!dim_try_multiply(a, b, false, &result))
    ir_fail(no_loc, "a product of dims is too large or no monomial plus a constant");
  return result;
}

Dim dim_product(const Module *m, Dim a, Dim b) {
  Dim result;
  if (dim_try_multiply(a, b, false, &result))
    return result;
  __int128 value = (__int128)dim_value(m, a) * dim_value(m, b);
  if (!in_limit(value))
    ir_fail(no_loc, "the product of the dims %s and %s is too large", dim_text(m, a), dim_text(m, b));
  return dim_number((int64_t)value);
}

bool dim_divide(const Module *m, Dim a, Dim b, Dim *quotient) {
  int64_t x = dim_value(m, a), y = dim_value(m, b);
  if (y == 0 || x % y != 0)
    return false;
  if (!dim_try_multiply(a, b, true, quotient))
    *quotient = dim_number(x / y);
  return true;
}

Dim dim_add(const Module *m, Dim a, int64_t n) {
  __int128 sum = (__int128)(a.symbol_count ? a.plus : a.coefficient) + n;
  if (!in_limit(sum))
    ir_fail(no_loc, "the sum of the dim %s and %lld is too large", dim_text(m, a), (long long)n);
  if (a.symbol_count)
    a.plus = (int64_t)sum;
  else
    a.coefficient = (int64_t)sum;
  return a;
}

/* ---------------------------------------------------------------- types */

Type type_scalar(DType dtype) {
  return (Type){.dtype = dtype, .extent = NO_VALUE};
}

Type type_make(DType dtype, int rank, const Dim *dims) {
  if (rank < 0 || rank > MAX_RANK)
    ir_bug("a type of rank %d", rank);
  Type t = {.dtype = dtype, .rank = (uint8_t)rank, .extent = NO_VALUE};
  for (int i = 0; i < rank; i++)
    t.dim[i] = dims[i];
  return t;
}

const char *type_problem(const Module *m, Type t) {
  int64_t elements = 1;
  for (int i = 0; i < t.rank; i++) {
    int64_t n;
    if (!dim_evaluate(m, t.dim[i], &n))
      return arena_print(m->arena, "the dim %s does not divide or is too large", dim_text(m, t.dim[i]));
    if (n < 1)
      return arena_print(m->arena, "the dim %s is %lld, expected at least 1", dim_text(m, t.dim[i]), (long long)n);
    if (n > MAX_ELEMENTS / elements)
      return arena_print(m->arena, "more than 2^48 elements");
    elements *= n;
  }
  return NULL;
}

int64_t type_elements(const Module *m, Type t) {
  const char *problem = type_problem(m, t);
  if (problem)
    ir_fail(no_loc, "%s", problem);
  int64_t elements = 1;
  for (int i = 0; i < t.rank; i++)
    elements *= dim_value(m, t.dim[i]);
  return elements;
}

int64_t type_bytes(const Module *m, Type t) {
  return type_elements(m, t) * (int64_t)dtype_size(t.dtype);
}

bool type_equal(const Module *m, Type a, Type b) {
  if (a.dtype != b.dtype || a.rank != b.rank || a.extent != b.extent)
    return false;
  for (int i = 0; i < a.rank; i++)
    if (!dim_equal(m, a.dim[i], b.dim[i]))
      return false;
  return true;
}

size_t dtype_size(DType dtype) {
  return dtype == DTYPE_BF16 ? 2 : 4;
}

const char *dtype_name(DType dtype) {
  static const char *const names[DTYPE_COUNT] = {"f32", "bf16", "i32"};
  return names[dtype];
}

/* ---------------------------------------------------------------- text */

SymbolId symbol_lookup(const Module *m, const Func *f, const Table *table, const char *name) {
  const void *scopes[3] = {f, f ? f->table : table, m};
  for (int s = 0; s < 3; s++)
    for (SymbolId i = 0; scopes[s] && i < vec_len(m->symbols); i++)
      if (m->symbols[i].scope == scopes[s] && strcmp(m->symbols[i].name, name) == 0)
        return i;
  return UINT32_MAX;
}

static void append(char *text, size_t *used, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void append(char *text, size_t *used, const char *format, ...) {
  if (*used >= DIM_TEXT_BYTES)
    return;
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(text + *used, DIM_TEXT_BYTES - *used, format, arguments);
  va_end(arguments);
  *used += (size_t)n;
}

/* 0 for a symbol of the module, 1 for a table's, 2 for a function's: the order in which a text declares them, so that
 * a parsed dim prints its factors as it was written. */
static int scope_rank(const Module *m, const Symbol *symbol) {
  if (symbol->scope == m)
    return 0;
  for (uint32_t i = 0; i < vec_len(m->tables); i++)
    if (symbol->scope == m->tables[i])
      return 1;
  return 2;
}

/* Positions of the symbols of `d` in the order of their declarations. */
static void declaration_order(const Module *m, const Dim *d, int order[MAX_DIM_SYMBOLS]) {
  int rank[MAX_DIM_SYMBOLS];
  for (int i = 0; i < d->symbol_count; i++) {
    rank[i] = scope_rank(m, &m->symbols[d->symbol[i]]);
    int at = i;
    for (; at > 0 && rank[order[at - 1]] > rank[i]; at--)
      order[at] = order[at - 1];
    order[at] = i;
  }
}

/* "2*E*F/R+1": factors in the order of their declarations, divisors behind them. */
char *dim_text(const Module *m, Dim d) {
  char text[DIM_TEXT_BYTES] = "";
  size_t used = 0;
  bool has_factor = false;
  int order[MAX_DIM_SYMBOLS];
  declaration_order(m, &d, order);
  for (int i = 0; i < d.symbol_count; i++)
    has_factor |= d.power[i] > 0;
  if (d.coefficient != 1 || !has_factor)
    append(text, &used, "%lld", (long long)d.coefficient);
  for (int i = 0; i < d.symbol_count; i++)
    for (int p = d.power[order[i]]; p > 0; p--)
      append(text, &used, "%s%s", used ? "*" : "", m->symbols[d.symbol[order[i]]].name);
  for (int i = 0; i < d.symbol_count; i++)
    for (int p = d.power[order[i]]; p < 0; p++)
      append(text, &used, "/%s", m->symbols[d.symbol[order[i]]].name);
  if (d.plus != 0)
    append(text, &used, "%+lld", (long long)d.plus);
  return arena_copy(m->arena, text, strlen(text));
}

/* Every symbol of `d` replaced by the one its name means inside `f` or `table`. False when one has no such name there
 * or means another number. */
static bool resolve_dim(const Module *m, const Func *f, const Table *table, Dim d, Dim *resolved) {
  *resolved = dim_number(d.coefficient);
  for (int i = 0; i < d.symbol_count; i++) {
    const Symbol *symbol = &m->symbols[d.symbol[i]];
    SymbolId meant = symbol_lookup(m, f, table, symbol->name);
    if (meant == UINT32_MAX || m->symbols[meant].value != symbol->value)
      return false;
    for (int p = abs(d.power[i]); p > 0; p--) {
      Dim factor = *resolved;
      if (!dim_try_multiply(factor, dim_symbol(meant), d.power[i] < 0, resolved))
        return false;
    }
  }
  *resolved = dim_add(m, *resolved, d.plus);
  return true;
}

char *dim_text_in(const Module *m, const Func *f, const Table *table, Dim d) {
  Dim resolved;
  int64_t value;
  if (resolve_dim(m, f, table, d, &resolved))
    return dim_text(m, resolved);
  return dim_evaluate(m, d, &value) ? arena_print(m->arena, "%lld", (long long)value) : dim_text(m, d);
}

char *type_text_in(const Module *m, const Func *f, const Table *table, Type t) {
  char *text = arena_print(m->arena, "%s[", dtype_name(t.dtype));
  for (int i = 0; i < t.rank; i++) {
    const char *extent = "";
    if (i == 0 && t.extent != NO_VALUE)
      extent = arena_print(m->arena, "<%%%s>", f && t.extent < vec_len(f->values) ? f->values[t.extent].name : "?");
    text = arena_print(m->arena, "%s%s%s%s", text, i ? "," : "", dim_text_in(m, f, table, t.dim[i]), extent);
  }
  return arena_print(m->arena, "%s]", text);
}

char *type_text(const Func *f, Type t) {
  return type_text_in(f->module, f, f->table, t);
}
