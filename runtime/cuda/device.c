/* The device CUDA: a plan's steps are kernel launches, cuBLASLt's products and memsets in one stream of one GPU.
 *
 * In: a function of the plan, its arguments in page-locked memory of the host. Out: its results there. A run is: status
 * cell and arguments up, the steps, results and status down, an event that its end is waited for by. The first run of a
 * function goes step by step; the second is captured as a CUDA graph, which every later one launches as long as the
 * arenas are the same. So the same kernels run on the same memory in the same order either way.
 */
#include "runtime/device.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cuda/choices.h"
#include "runtime/cuda/compile.h"
#include "runtime/cuda/kernels.h"
#include "runtime/cuda/libraries.h"
#include "runtime/cuda/product.h"
#include "runtime/cuda/refuse.h"
#include "runtime/cuda/transfer.h"
#include "runtime/error.h"
#include "runtime/files.h"
#include "runtime/memory.h"

enum { STATUS_CELLS = 4 };

typedef struct CudaFunction { /* of the plan */
  TransferList in, out;       /* arguments and results in `act` */
  int64_t *status;            /* where the status cell comes down, behind the results */
  FunctionOptions options;    /* which steps run */
  bool ready, ran;
  CUevent done; /* recorded behind its last run */
  CUgraphExec graph;
  char *bound[SPACE_COUNT]; /* what executor->base was at the capture of the graph */
} CudaFunction;

typedef struct CudaState {
  CudaGpu gpu;
  const Payload *payload;
  const char *start_note, *library;
  CudaKernels kernels;
  CudaFunction *functions; /* by index in plan->funcs */
  bool products;           /* the plan has products, so cuBLASLt is open */
  bool step_by_step;       /* $MOEC_CUDA_BLOCKING: waits after every step, so that a failure names its step */
  char *workspace, *seed, *status;
  CUevent *events; /* for the profile: one more than the longest function has steps */
  int event_count;
} CudaState;

static CudaState *cuda_state(const Executor *executor) {
  return executor->state;
}

/* ---------------------------------------------------------------- memory */

static int64_t cuda_available(Executor *executor) {
  (void)executor;
  return cuda_gpu_available(NULL);
}

static void cuda_refuse(const Executor *executor, const char *need) {
  refuse_memory(cuda_state(executor)->payload, need);
}

static char *cuda_allocate(Executor *executor, const char *what, int64_t bytes) {
  CudaState *state = cuda_state(executor);
  char *memory = cuda_gpu_allocate(bytes);
  if (!memory)
    cuda_refuse(executor, string_format("%s need %.3f GB", what, (double)bytes / 1e9));
  memory_count(bytes);
  if (bytes > 0)
    cuda_check(cuda.cuMemsetD8Async(cuda_pointer(memory), 0, (size_t)bytes, state->gpu.stream), what);
  cuda_gpu_wait(&state->gpu, what);
  return memory;
}

static void cuda_release(Executor *executor, char *memory, int64_t bytes) {
  (void)executor;
  cuda_gpu_free(memory);
  memory_count(-bytes);
}

static void cuda_read(const Executor *executor, void *to, const char *from, int64_t bytes) {
  const CudaState *state = cuda_state(executor);
  if (bytes > 0)
    cuda_check(cuda.cuMemcpyDtoHAsync_v2(to, cuda_pointer(from), (size_t)bytes, state->gpu.stream), "a copy");
  cuda_gpu_wait(&state->gpu, "a copy to the host");
}

static void cuda_write(Executor *executor, char *to, const void *from, int64_t bytes) {
  const CudaState *state = cuda_state(executor);
  if (bytes > 0)
    cuda_check(cuda.cuMemcpyHtoDAsync_v2(cuda_pointer(to), from, (size_t)bytes, state->gpu.stream), "a copy");
  cuda_gpu_wait(&state->gpu, "a copy from the host");
}

static void cuda_add(Executor *executor, char *sum, const char *first, const char *second, int64_t count) {
  CudaState *state = cuda_state(executor);
  if (!second) {
    cuda_check(cuda.cuMemcpyDtoDAsync_v2(cuda_pointer(sum), cuda_pointer(first), (size_t)count * sizeof(float),
                                         state->gpu.stream),
               "a copy");
    return;
  }
  if (!state->kernels.sum_arenas)
    runtime_fail(FAIL_BUG, "gradients are summed, but the plan has one micro-batch a step");
  long long elements = count;
  void *parameters[] = {&sum, &first, &second, &elements};
  cuda_check(cuda.cuLaunchKernel(state->kernels.sum_arenas, (unsigned)((count + 255) / 256), 1, 1, 256, 1, 1, 0,
                                 state->gpu.stream, parameters, NULL),
             "the sum of gradients");
}

/* ---------------------------------------------------------------- life */

/* NVRTC is open only where a kernel did not come with the trainer. */
static const char *describe_libraries(const CudaState *state) {
  const char *compiler = cuda.nvrtcVersion ? string_format("NVRTC %s", cuda_compiler_version()) : "precompiled kernels";
  return state->products ? string_format("%s, %s", compiler, product_library()) : compiler;
}

static bool plan_has_products(const Plan *plan) {
  for (int f = 0; f < plan->func_count; f++)
    for (int s = 0; s < plan->funcs[f].step_count; s++)
      if (plan->funcs[f].steps[s].kind == STEP_GEMM)
        return true;
  return false;
}

static void cuda_open_device(Executor *executor, const Payload *payload) {
  CudaState *state = runtime_allocate(1, sizeof *state);
  const char *blocking = getenv("MOEC_CUDA_BLOCKING");
  executor->state = state;
  state->payload = payload;
  state->step_by_step = blocking && blocking[0] && strcmp(blocking, "0") != 0;
  state->gpu = cuda_gpu_open();
  state->products = plan_has_products(executor->plan);
  state->functions = runtime_allocate((size_t)executor->plan->func_count, sizeof *state->functions);
  state->seed = cuda_allocate(executor, "the seed", sizeof executor->seed);
  state->status = cuda_allocate(executor, "the status", STATUS_CELLS * (int64_t)sizeof(int64_t));
  executor->base[SPACE_ACT] = cuda_allocate(executor, "activations", executor->plan->act);
  executor->base[SPACE_SEED] = state->seed;
  executor->base[SPACE_STATUS] = state->status;
  if (state->products) {
    state->workspace = cuda_allocate(executor, "the workspace of products", PRODUCT_WORKSPACE);
    product_open(&state->gpu, state->workspace);
  }
  state->kernels = cuda_kernels_load(executor->plan, payload, &state->gpu); /* last: it may take seconds */
  state->start_note =
      string_format("%s; %s", cuda_gpu_driver(), state->kernels.note ? state->kernels.note : "no kernels");
  state->library = describe_libraries(state);
}

static void close_function(CudaFunction *function) {
  if (function->graph)
    cuda_check(cuda.cuGraphExecDestroy(function->graph), "the end of a graph");
  if (function->done)
    cuda_check(cuda.cuEventDestroy_v2(function->done), "the end of an event");
  cuda_gpu_free_host(function->in.host);
  cuda_gpu_free_host(function->out.host);
  options_free(&function->options);
}

static void cuda_close(Executor *executor) {
  CudaState *state = cuda_state(executor);
  for (int i = 0; i < executor->plan->func_count; i++)
    close_function(&state->functions[i]);
  if (state->products) {
    product_close();
    cuda_release(executor, state->workspace, PRODUCT_WORKSPACE);
  }
  cuda_release(executor, state->seed, sizeof executor->seed);
  cuda_release(executor, state->status, STATUS_CELLS * (int64_t)sizeof(int64_t));
  cuda_release(executor, executor->base[SPACE_ACT], executor->plan->act);
  cuda_gpu_close(&state->gpu);
  free(state->functions);
  free(state->kernels.functions);
  free(state);
}

static const char *cuda_level(const Executor *executor) {
  const CudaGpu *gpu = &cuda_state(executor)->gpu;
  return string_format("%s (%s)", gpu->name, gpu->arch);
}

static const char *cuda_library(const Executor *executor) {
  return cuda_state(executor)->library;
}

static const char *cuda_start_note(const Executor *executor) {
  return cuda_state(executor)->start_note;
}

static int cuda_threads(const Executor *executor) {
  (void)executor;
  return 1;
}

/* ---------------------------------------------------------------- steps */

static void run_launch(const Executor *executor, const StepLaunch *s) {
  const CudaState *state = cuda_state(executor);
  uint64_t values[s->operand_count + 1];
  void *parameters[s->operand_count + 1];
  for (int i = 0; i < s->operand_count; i++) {
    PlanSpace space = s->operands[i].space;
    values[i] = space == SPACE_TAG    ? (uint64_t)s->operands[i].offset
                : space == SPACE_NULL ? 0
                                      : cuda_pointer(device_address(executor, s->operands[i]));
    parameters[i] = &values[i];
  }
  cuda_check(cuda.cuLaunchKernel(state->kernels.functions[s->kernel], (unsigned)s->blocks[0], (unsigned)s->blocks[1],
                                 (unsigned)s->blocks[2], (unsigned)s->threads, 1, 1, (unsigned)s->shared,
                                 state->gpu.stream, parameters, NULL),
             executor->plan->kernels[s->kernel]);
}

static ProductAddresses product_addresses(const Executor *executor, const StepGemm *s) {
  return (ProductAddresses){.a = device_address(executor, s->a),
                            .b = device_address(executor, s->b),
                            .c = device_address(executor, s->c),
                            .bias = device_address(executor, s->bias),
                            .aux = device_address(executor, s->aux),
                            .add = device_address(executor, s->add)};
}

static void run_step(const Executor *executor, const PlanStep *step) {
  const CudaState *state = cuda_state(executor);
  if (step->kind == STEP_LAUNCH) {
    run_launch(executor, &step->launch);
  } else if (step->kind == STEP_GEMM) {
    ProductAddresses addresses = product_addresses(executor, &step->gemm);
    product_run(&step->gemm, &addresses);
  } else if (step->kind == STEP_MEMSET) {
    cuda_check(cuda.cuMemsetD8Async(cuda_pointer(device_address(executor, step->memset.to)), 0,
                                    (size_t)step->memset.bytes, state->gpu.stream),
               "a memset");
  } else {
    runtime_fail(FAIL_BUG, "a step of kind %s in a plan for CUDA", plan_step_name(step->kind));
  }
}

static double step_flops(const PlanStep *step) {
  if (step->kind != STEP_GEMM)
    return 0;
  return 2.0 * (double)step->gemm.m.number * (double)step->gemm.n.number * (double)step->gemm.k.number;
}

/* ---------------------------------------------------------------- a run */

static CudaFunction *function_of(const Executor *executor, const PlanFunc *func) {
  CudaState *state = cuda_state(executor);
  CudaFunction *function = &state->functions[func - executor->plan->funcs];
  if (!function->ready) {
    function->options = options_find(executor->plan, func, state->kernels.functions, &state->gpu);
    function->in = transfer_arguments(func);
    function->out = transfer_results(func);
    function->in.host = cuda_gpu_host_memory(function->in.bytes);
    function->out.host = cuda_gpu_host_memory(function->out.bytes + STATUS_CELLS * (int64_t)sizeof(int64_t));
    function->status = (int64_t *)(function->out.host + function->out.bytes);
    cuda_check(cuda.cuEventCreate(&function->done, CU_EVENT_DISABLE_TIMING), "the making of an event");
    function->ready = true;
  }
  return function;
}

/* What comes before the steps. */
static void begin(const Executor *executor, const CudaFunction *function) {
  const CudaState *state = cuda_state(executor);
  char *act = executor->base[SPACE_ACT];
  cuda_check(cuda.cuMemsetD8Async(cuda_pointer(state->status), 0, STATUS_CELLS * sizeof(int64_t), state->gpu.stream),
             "a memset");
  for (int i = 0; i < function->in.count; i++) {
    const Transfer *t = &function->in.transfers[i];
    cuda_check(cuda.cuMemcpyHtoDAsync_v2(cuda_pointer(act + t->at), function->in.host + t->host_at, (size_t)t->bytes,
                                         state->gpu.stream),
               "a copy of arguments");
  }
}

/* What comes behind them. */
static void end(const Executor *executor, const CudaFunction *function) {
  const CudaState *state = cuda_state(executor);
  const char *act = executor->base[SPACE_ACT];
  for (int i = 0; i < function->out.count; i++) {
    const Transfer *t = &function->out.transfers[i];
    cuda_check(cuda.cuMemcpyDtoHAsync_v2(function->out.host + t->host_at, cuda_pointer(act + t->at), (size_t)t->bytes,
                                         state->gpu.stream),
               "a copy of results");
  }
  cuda_check(cuda.cuMemcpyDtoHAsync_v2(function->status, cuda_pointer(state->status), STATUS_CELLS * sizeof(int64_t),
                                       state->gpu.stream),
             "a copy of the status");
}

static void run_all(const Executor *executor, const PlanFunc *func, const CudaFunction *function) {
  const CudaState *state = cuda_state(executor);
  begin(executor, function);
  for (int i = 0; i < func->step_count; i++) {
    const PlanStep *step = &func->steps[i];
    if (function->options.skipped[i])
      continue;
    run_step(executor, step);
    if (state->step_by_step)
      cuda_gpu_wait(&state->gpu,
                    string_format("step %d of %s (%s %s, %s)", i, func->name, plan_step_name(step->kind),
                                  step->kind == STEP_LAUNCH ? executor->plan->kernels[step->launch.kernel] : "",
                                  plan_step_location(step)));
  }
  end(executor, function);
}

static void run_profiled(Executor *executor, const PlanFunc *func, const CudaFunction *function) {
  CudaState *state = cuda_state(executor);
  if (state->event_count <= func->step_count) {
    free(state->events);
    state->events = runtime_allocate((size_t)func->step_count + 1, sizeof *state->events);
    for (state->event_count = 0; state->event_count <= func->step_count; state->event_count++)
      cuda_check(cuda.cuEventCreate(&state->events[state->event_count], CU_EVENT_DEFAULT), "the making of an event");
  }
  begin(executor, function);
  cuda_check(cuda.cuEventRecord(state->events[0], state->gpu.stream), "an event");
  for (int i = 0; i < func->step_count; i++) {
    if (!function->options.skipped[i])
      run_step(executor, &func->steps[i]);
    cuda_check(cuda.cuEventRecord(state->events[i + 1], state->gpu.stream), "an event");
  }
  end(executor, function);
  cuda_gpu_wait(&state->gpu, func->name);
  for (int i = 0; i < func->step_count; i++) {
    float milliseconds = 0;
    if (function->options.skipped[i])
      continue;
    cuda_check(cuda.cuEventElapsedTime_v2(&milliseconds, state->events[i], state->events[i + 1]), "an event");
    profile_add(executor->profile, func, i, 1e-3 * (double)milliseconds, step_flops(&func->steps[i]));
  }
}

static void capture(const Executor *executor, const PlanFunc *func, CudaFunction *function) {
  const CudaState *state = cuda_state(executor);
  CUgraph graph;
  if (function->graph)
    cuda_check(cuda.cuGraphExecDestroy(function->graph), "the end of a graph");
  function->graph = NULL;
  cuda_check(cuda.cuStreamBeginCapture_v2(state->gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "a capture");
  run_all(executor, func, function);
  cuda_check(cuda.cuStreamEndCapture(state->gpu.stream, &graph), "a capture");
  cuda_check(cuda.cuGraphInstantiateWithFlags(&function->graph, graph, 0), "the making of a graph");
  cuda_check(cuda.cuGraphDestroy(graph), "the end of a capture");
  memcpy(function->bound, executor->base, sizeof function->bound);
}

static bool is_product_known(const Executor *executor, const PlanStep *step) {
  ProductAddresses addresses = product_addresses(executor, &step->gemm);
  return product_chosen(&step->gemm, &addresses);
}

static void tune_product(const Executor *executor, const PlanStep *step) {
  ProductAddresses addresses = product_addresses(executor, &step->gemm);
  product_tune(&step->gemm, &addresses);
}

static bool is_tuned(const Executor *executor, const PlanFunc *func, const CudaFunction *function) {
  for (int i = 0; i < function->options.count; i++)
    if (!function->options.choices[i].known)
      return false;
  for (int i = 0; i < func->step_count; i++)
    if (func->steps[i].kind == STEP_GEMM && !is_product_known(executor, &func->steps[i]))
      return false;
  return true;
}

/* Chooses the algorithms of the function's products that have none yet, then among the options of its choices, all in
 * their places of a run: they are timed on what the steps before have left in memory, since sizes of groups must be
 * sizes. That run changes nothing that the proper one reads: functions with products or choices write activations and
 * gradients only, which they make anew. Its results, and mistakes that it reports, nobody sees. */
static void tune(const Executor *executor, const PlanFunc *func, CudaFunction *function) {
  CudaState *state = cuda_state(executor);
  if (is_tuned(executor, func, function))
    return;
  begin(executor, function);
  for (int i = 0; i < func->step_count; i++) {
    OptionChoice *choice = options_at(&function->options, i);
    for (int k = i; k < (choice ? choice->end : i + 1); k++)
      if (func->steps[k].kind == STEP_GEMM)
        tune_product(executor, &func->steps[k]);
    if (choice && !choice->known)
      options_time(executor, func, &function->options, choice, state->kernels.functions, &state->gpu, run_step);
    if (!function->options.skipped[i])
      run_step(executor, &func->steps[i]);
  }
  end(executor, function);
  cuda_gpu_wait(&state->gpu, func->name);
}

static void check_status(const PlanFunc *func, const int64_t status[STATUS_CELLS]) {
  if (status[0] == 0)
    return;
  if (status[1] < 0 || status[1] >= func->step_count || func->steps[status[1]].kind != STEP_LAUNCH)
    runtime_fail(FAIL_BUG, "%s: the status cell names step %" PRId64, func->name, status[1]);
  const PlanStep *step = &func->steps[status[1]];
  const StepLaunch *s = &step->launch;
  device_fail_mistake(step, (Mistake)status[0], status[2], status[3],
                      (MistakeBounds){.n = s->n, .k = s->k, .bound = s->bound, .rows = s->check_rows});
}

static void cuda_start(Executor *executor, const PlanFunc *func) {
  CudaState *state = cuda_state(executor);
  CudaFunction *function = function_of(executor, func);
  if (!function->ran)
    tune(executor, func, function);
  if (executor->profile) {
    run_profiled(executor, func, function);
  } else if (!function->ran || state->step_by_step) {
    run_all(executor, func, function);
  } else {
    if (!function->graph || memcmp(function->bound, executor->base, sizeof function->bound) != 0)
      capture(executor, func, function);
    cuda_check(cuda.cuGraphLaunch(function->graph, state->gpu.stream), func->name);
  }
  function->ran = true;
  cuda_check(cuda.cuEventRecord(function->done, state->gpu.stream), "an event");
}

static void cuda_finish(Executor *executor, const PlanFunc *func) {
  const CudaFunction *function = function_of(executor, func);
  CUresult result = cuda.cuEventSynchronize(function->done);
  if (result != CUDA_SUCCESS)
    cuda_check(result, cuda_state(executor)->step_by_step
                           ? func->name
                           : string_format("%s (with MOEC_CUDA_BLOCKING=1 the message names the step)", func->name));
  check_status(func, function->status);
}

static void *cuda_argument(Executor *executor, const PlanFunc *func, const PlanArgument *argument) {
  return transfer_find(&function_of(executor, func)->in, argument->at.offset);
}

static const void *cuda_result(const Executor *executor, const PlanFunc *func, const PlanResult *result) {
  return transfer_find(&function_of(executor, func)->out, result->at.offset);
}

static const ProductChoice *cuda_choices(const Executor *executor, int *count) {
  (void)executor;
  return choices_all(count);
}

static void cuda_set_choices(Executor *executor, const ProductChoice *choices, int count) {
  (void)executor;
  choices_set(choices, count);
}

const Device device_cuda = {.name = "cuda",
                            .open = cuda_open_device,
                            .close = cuda_close,
                            .level = cuda_level,
                            .library = cuda_library,
                            .start_note = cuda_start_note,
                            .threads = cuda_threads,
                            .allocate = cuda_allocate,
                            .release = cuda_release,
                            .available = cuda_available,
                            .refuse = cuda_refuse,
                            .read = cuda_read,
                            .write = cuda_write,
                            .add = cuda_add,
                            .argument = cuda_argument,
                            .start = cuda_start,
                            .finish = cuda_finish,
                            .result = cuda_result,
                            .choices = cuda_choices,
                            .set_choices = cuda_set_choices};
