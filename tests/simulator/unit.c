/* A compiled unit: its entry points and, from the symbol table of the shared object, its variables in shared memory.
 */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulator/private.h"

enum { DYNAMIC_BYTES = 232448 }; /* compile.sh */

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*size + 1);
  bool whole = fread(bytes, 1, *size, file) == *size;
  fclose(file);
  bytes[*size] = 0;
  if (whole)
    return bytes;
  free(bytes);
  return NULL;
}

static const ElfW(Shdr) * section_of_type(const char *image, unsigned type) {
  const ElfW(Ehdr) *head = (const void *)image;
  const ElfW(Shdr) *section = (const void *)(image + head->e_shoff);
  for (int i = 0; i < head->e_shnum; i++)
    if (section[i].sh_type == type)
      return &section[i];
  return NULL;
}

/* "row" of _ZZ6kernelE3row. */
static char *plain_name(const char *symbol) {
  for (const char *at = symbol; *at; at++) {
    char *name;
    if (*at >= '1' && *at <= '9' && (size_t)strtol(at, &name, 10) == strlen(name))
      return strdup(name);
  }
  return strdup(symbol);
}

/* Every thread-local symbol but the anchor is a variable; those of the size that
 * compile.sh gives to dynamic ones lie over each other. */
static bool read_variables(SimulatorUnit *unit, const char *image) {
  const ElfW(Shdr) *symbols = section_of_type(image, SHT_SYMTAB);
  const ElfW(Ehdr) *head = (const void *)image;
  const ElfW(Shdr) *sections = (const void *)(image + head->e_shoff);
  if (!symbols)
    return false;
  const ElfW(Sym) *symbol = (const void *)(image + symbols->sh_offset);
  const char *names = image + sections[symbols->sh_link].sh_offset;
  size_t count = symbols->sh_size / sizeof *symbol;
  int64_t anchor = -1;
  unit->variables = calloc(count, sizeof *unit->variables);
  for (size_t i = 0; i < count; i++) {
    if (ELF64_ST_TYPE(symbol[i].st_info) != STT_TLS || symbol[i].st_shndx == SHN_UNDEF)
      continue;
    const char *name = names + symbol[i].st_name;
    if (strcmp(name, "simulator_anchor") == 0) {
      anchor = (int64_t)symbol[i].st_value;
      continue;
    }
    unit->variables[unit->variable_count++] = (SharedVariable){
        plain_name(name), (int64_t)symbol[i].st_value, (int64_t)symbol[i].st_size, symbol[i].st_size == DYNAMIC_BYTES};
  }
  for (int i = 0; i < unit->variable_count; i++)
    unit->variables[i].at -= anchor;
  return anchor >= 0;
}

static int by_place(const void *a, const void *b) {
  const SharedVariable *x = a, *y = b;
  return x->at < y->at ? -1 : x->at > y->at;
}

/* Where shared memory lies; between two variables there must be a guard, or an access outside could go unseen. */
static void measure_variables(SimulatorUnit *unit) {
  qsort(unit->variables, (size_t)unit->variable_count, sizeof *unit->variables, by_place);
  for (int i = 0; i < unit->variable_count; i++) {
    const SharedVariable *v = &unit->variables[i];
    if (i == 0 || v->at < unit->shared_from)
      unit->shared_from = v->at;
    if (i == 0 || v->at + v->bytes > unit->shared_to)
      unit->shared_to = v->at + v->bytes;
    unit->static_bytes += v->dynamic ? 0 : v->bytes;
    if (i > 0 && !(v->dynamic && v[-1].dynamic) && v->at < v[-1].at + v[-1].bytes + SHARED_GUARD) {
      fprintf(stderr, "simulator: no guard between %s and %s\n", v[-1].name, v->name);
      exit(70);
    }
  }
}

static int find_segments(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  SimulatorUnit *unit = data;
  const char *anchor = (const char *)(uintptr_t)unit->anchor;
  const char *from = NULL, *to = NULL;
  bool own = false;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *part = &info->dlpi_phdr[i];
    if (part->p_type != PT_LOAD)
      continue;
    const char *begin = (const char *)info->dlpi_addr + part->p_vaddr, *end = begin + part->p_memsz;
    own |= anchor >= begin && anchor < end;
    from = !from || begin < from ? begin : from;
    to = end > to ? end : to;
  }
  unit->text_from = from;
  unit->text_to = to;
  return own;
}

void (*unit_entry(const SimulatorUnit *unit, const char *name, int *parameters))(void **) {
  char symbol[300];
  void (*enter)(void **) = NULL;
  snprintf(symbol, sizeof symbol, "simulator_parameters_%s", name);
  const int *count = dlsym(unit->library, symbol);
  snprintf(symbol, sizeof symbol, "simulator_enter_%s", name);
  *(void **)&enter = dlsym(unit->library, symbol);
  *parameters = count ? *count : 0;
  return count ? enter : NULL;
}

bool simulator_has_entry(const SimulatorUnit *unit, const char *entry) {
  int parameters;
  return unit_entry(unit, entry, &parameters) != NULL;
}

SimulatorUnit *unit_load(const char *path) {
  size_t size = 0;
  char *image = read_file(path, &size);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!image || !library) {
    report("%s: %s", path, library ? strerror(errno) : dlerror());
    free(image);
    return NULL;
  }
  SimulatorUnit *unit = calloc(1, sizeof *unit);
  unit->library = library;
  unit->path = strdup(path);
  *(void **)&unit->anchor = dlsym(library, "simulator_unit_anchor");
  unit->source = dlsym(library, "simulator_source_file");
  if (!unit->anchor || !unit->source || !read_variables(unit, image)) {
    report("%s: not a unit of the simulator", path);
    free(image);
    return NULL;
  }
  free(image);
  measure_variables(unit);
  dl_iterate_phdr(find_segments, unit);
  return unit;
}
