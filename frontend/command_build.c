/* moec build: a model script becomes a trainer.
 *
 * In: a script. Out: one executable: the runtime with the plan, the kernels' source and objects, the IR before and
 * behind the passes, the ledger and the forecast (design section 7).
 */
#include "frontend/command_build.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/compile.h"
#include "codegen/package.h"
#include "frontend/commands.h"
#include "frontend/forecast.h"
#include "frontend/model.h"
#include "runtime/cpu/features.h"
#include "runtime/cuda/compile.h"
#include "runtime/files.h"
#include "runtime/payload.h"
#include "runtime/tokenizer.h"

extern const unsigned char moec_shim_start[], moec_shim_end[]; /* opens SentencePiece for the trainer */

static void add_text(Arena *arena, PackageSection **sections, const char *name, const char *text) {
  vec_push(arena, *sections, (PackageSection){name, text, strlen(text)});
}

static const char *plan_text(const Plan *plan) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out)
    environment_fail("out of memory");
  plan_print(plan, out);
  if (fclose(out) != 0)
    environment_fail("out of memory");
  return text;
}

static void add_kernels(Arena *arena, PackageSection **sections, const Model *model) {
  CompiledKernels levels[] = {{.level = "x86-64-v3"}, {.level = "x86-64-v4"}, {.level = "native"}};
  static const char *const names[] = {"kernels.v3.so", "kernels.v4.so", "kernels.native.so"};
  int count = model->options->native ? 3 : 2;
  kernels_compile(arena, &model->plan->kernels, levels, count);
  for (int i = 0; i < count; i++)
    vec_push(arena, *sections, (PackageSection){names[i], levels[i].data, levels[i].size});
  if (model->options->native)
    add_text(arena, sections, "native.cpu", cpu_features());
}

/* Section cubin.<arch>: "NAME offset size" of every unit, an empty line, their bytes. */
static PackageSection cubin_section(Arena *arena, const CudaSource *source, const char *arch) {
  bool *wanted = arena_alloc(arena, (size_t)source->count + 1);
  memset(wanted, true, (size_t)source->count);
  Bytes *cubins = cuda_load_units(source, wanted, arch, (Mapping){0});
  const char *index = "";
  size_t size = 0;
  for (int i = 0; i < source->count; i++) {
    if (!cubins[i].data)
      continue;
    index = arena_print(arena, "%s%s %zu %zu\n", index, source->units[i].name, size, cubins[i].size);
    size += cubins[i].size;
  }
  size_t head = strlen(index) + 1, at = head;
  char *data = arena_alloc(arena, head + size);
  memcpy(data, arena_print(arena, "%s\n", index), head);
  for (int i = 0; i < source->count; i++) {
    if (!cubins[i].data)
      continue;
    memcpy(data + at, cubins[i].data, cubins[i].size);
    at += cubins[i].size;
  }
  return (PackageSection){arena_print(arena, "cubin.%s", arch), data, head + size};
}

static void add_cuda(Arena *arena, PackageSection **sections, Model *model) {
  model_lower_cuda(model);
  const char *text = arena_print(arena, "%s%s", kernels_source_cuda(arena, &model->cuda->kernels), cuda_runtime_unit);
  add_text(arena, sections, "plan.cuda", plan_text(model->cuda));
  if (model->cuda_module != model->module)
    add_text(arena, sections, "passes.cuda.ir", module_text(model->cuda_module));
  add_text(arena, sections, "kernels.cu", text);
  CudaSource source = cuda_source_read(text, strlen(text));
  for (uint32_t i = 0; i < vec_len(model->options->precompile); i++) {
    const char *arch = model->options->precompile[i];
    vec_push(arena, *sections, cubin_section(arena, &source, arch));
    if (model->options->pipeline.time_passes)
      fprintf(stderr, "%-14s %s\n", arch, cuda_load_summary());
  }
}

/* Compiling takes seconds: a path that cannot be written is said before. */
static void check_writable(Arena *arena, const char *path) {
  const char *slash = strrchr(path, '/');
  const char *directory = slash ? arena_copy(arena, path, (size_t)(slash - path) + 1) : ".";
  if (access(directory, F_OK) != 0)
    environment_fail("%s: cannot write the trainer: there is no directory %s", path, directory);
  if (access(directory, W_OK) != 0)
    environment_fail("%s: cannot write the trainer: directory %s is not writable", path, directory);
}

static void check_same(const Options *options, const char *ir, const char *path) {
  if (!path || !file_exists(path))
    return;
  Bytes text = file_read("the run's model", path);
  if (payload_ir_hash(text.data, text.size) != payload_ir_hash(ir, strlen(ir)))
    ir_fail((Loc){options->model, 0},
            "this is another model than the run's, whose IR is %s; a changed model begins a new run with another --out",
            path);
  free(text.data);
}

void build_trainer(Arena *arena, const Options *options, const char *path, const char *same_model) {
  check_writable(arena, path);
  Model model = model_load(arena, options, true);
  check_same(options, model.graph_text, same_model);
  model_optimize(&model);
  model_lower(&model);
  PackageSection *sections = NULL;
  add_text(arena, &sections, "config.json", model.config_json);
  add_text(arena, &sections, "model.ir", model.graph_text);
  add_text(arena, &sections, "passes.ir", module_text(model.module));
  if (options->cpu) {
    add_text(arena, &sections, "plan.cpu", plan_text(model.plan));
    add_text(arena, &sections, "kernels.c", kernels_source_c(arena, &model.plan->kernels));
    add_kernels(arena, &sections, &model);
  }
  if (options->cuda)
    add_cuda(arena, &sections, &model);
  add_text(arena, &sections, "ledger.json", model_ledger_json(&model));
  if (options->cpu)
    add_text(arena, &sections, "forecast.cpu.json", forecast_json(model.plan, NULL, model_rates(options, PLAN_CPU)));
  if (options->cuda)
    add_text(arena, &sections, "forecast.cuda.json", forecast_json(model.cuda, NULL, model_rates(options, PLAN_CUDA)));
  PackageSection shim = {TOKENIZER_SHIM_SECTION, moec_shim_start, (size_t)(moec_shim_end - moec_shim_start)};
  vec_push(arena, sections, shim);
  package_write(arena, path, sections);
}

int command_build(int argc, char **argv) {
  Arena *arena = arena_new();
  Options options = options_read(arena, COMMAND_BUILD, argc, argv);
  if (!options.output)
    usage_fail(COMMAND_BUILD, "-o TRAINER is missing");
  build_trainer(arena, &options, options.output, NULL);
  return 0;
}
