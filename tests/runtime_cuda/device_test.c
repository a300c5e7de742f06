/* The executor on the device CUDA, with a plan and a kernel written here, run on the simulator's libraries (in
 * $MOEC_CUDA_PATH; without them skipped): the first run, the captured one and the replayed one give the same; other
 * arenas give another graph; gradients are summed on the device; a mistake that a kernel reports ends the program with
 * the script's line; what was taken is given back. */
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/cuda/compile.h"
#include "runtime/cuda/libraries.h"
#include "runtime/error.h"
#include "runtime/execute.h"
#include "runtime/memory.h"
#include "tests/runtime/check.h"

static const char plan_text[] =
    "moec-plan 1 target=cuda module=toy task=lm\n"
    "arena act=4096\n"
    "run steps=1 batch=3 accumulate=3 sequence=4 vocabulary=7 tokens=4 segments=1\n"
    "table t size=64 gradients=256 segments=1 params=1\n"
    "  segment 0 offset=0 size=64 decay=0 birth=0\n"
    "  param w offset=0 shape=2,4 segment=0 init=zeros\n"
    "phase a steps=0 table=t enter=- line=m.lua:1\n"
    "func a.train table=t act=4096\n"
    "  arg x f32 shape=3,2 at=act:0\n"
    "  arg scale f32 shape= at=act:512\n"
    "  result y f32 shape=3,4 at=act:1024\n"
    "  result sum f32 shape= at=act:2048\n"
    "  result way f32 shape= at=act:3072\n"
    "  result grad @w f32 shape=2,4 at=grad:0\n"
    "  gemm m=3 n=4 k=2 ta=0 tb=0 a=act:0 lda=2 b=param:0 ldb=4 c=act:1024 ldc=4 beta=0   # %y m.lua:7\n"
    "  memset grad:0 bytes=256\n"
    "  launch toy blocks=1 threads=32 act:1024 act:512 act:2048 grad:0 seed:0 tag:5 null   # m.lua:8\n"
    "  launch hopper_way blocks=1 threads=32 choice=1 option=hopper act:3072\n"
    "  launch toy_greedy blocks=1 threads=32 shared=999999 choice=1 option=greedy act:3072\n"
    "  launch toy_way blocks=1 threads=32 choice=1 option=slow act:3072 tag:1\n"
    "  launch toy_way blocks=1 threads=32 choice=1 option=slow act:3072 tag:300000\n"
    "  launch toy_way blocks=1 threads=32 choice=1 option=fast act:3072 tag:2\n"
    "  launch toy_check blocks=1 threads=32 check=route n=3 k=1 bound=3 act:512 status:0 tag:8   # m.lua:9\n"
    "end\n";

/* y *= scale; sum = the sum of y, and seed + 5; grad = scale. A negative scale is a mistake of the user's. */
static const char kernel_text[] =
    "#define COUNT 12\n"
    "//@unit toy\n"
    "extern \"C\" __global__ void toy(float *y, const float *scale, float *sum, float *grad,\n"
    "                                const unsigned long long *seed, long long tag, const void *nothing) {\n"
    "  if (threadIdx.x < COUNT) y[threadIdx.x] *= *scale;\n"
    "  if (threadIdx.x < 8) grad[threadIdx.x] = *scale;\n"
    "  __syncthreads();\n"
    "  if (threadIdx.x == 0) {\n"
    "    float total = nothing ? 0 : (float)(*seed + tag);\n"
    "    for (int i = 0; i < COUNT; i++) total += y[i];\n"
    "    *sum = total;\n"
    "  }\n"
    "}\n"
    "extern \"C\" __global__ void toy_way(float *way, long long work) {\n"
    "  if (threadIdx.x != 0) return;\n"
    "  for (long long i = 0; i < work; i++) *way = (float)(i + 1);\n"
    "}\n"
    "extern \"C\" __global__ void toy_greedy(float *way) { *way = 3; }\n" /* asks for more than there is */
    "extern \"C\" __global__ void toy_check(const float *scale, long long *status, long long site) {\n"
    "  if (threadIdx.x == 0 && *scale < 0) {\n"
    "    status[0] = 1; status[1] = site; status[2] = 2; status[3] = 4;\n"
    "  }\n"
    "}\n"
    "//@unit hopper_way arch=sm_90a\n"
    "this is no CUDA\n";

static const PlanFunc *train;

static void run(Executor *ex, float scale, float weight) {
  float *x = executor_argument(ex, train, "x");
  for (int i = 0; i < 6; i++)
    x[i] = (float)(i + 1);
  *(float *)executor_argument(ex, train, "scale") = scale;
  executor_run(ex, train);
  const float *y = executor_result(ex, train, "y");
  for (int row = 0; row < 3; row++)
    for (int column = 0; column < 4; column++)
      CHECK(y[4 * row + column] == scale * weight * (float)(4 * row + 3), "y[%d,%d] is %g", row, column,
            (double)y[4 * row + column]);
  CHECK(executor_scalar(ex, train, "sum") == 105 + 4 * 21 * scale * weight, "sum");
}

static Arenas *arenas_of(Executor *ex, const Plan *plan, float weight) {
  Arenas *arenas = arenas_new(ex, plan_table(plan, "t"));
  for (int i = 0; i < 64; i++)
    arenas_write(arenas, ARENA_PARAM)[i] = weight;
  arenas_settle(arenas);
  return arenas;
}

static void check_gradients(Executor *ex, Arenas *arenas) {
  for (int micro = 0; micro < 3; micro++) {
    run(ex, (float)(micro + 1), 2);
    executor_sum_gradients(ex, micro, 3);
  }
  CHECK(arenas_read(arenas, ARENA_GRAD)[7] == 6 && arenas_read(arenas, ARENA_GRAD)[8] == 0, "the sum of gradients");
  arenas_settle(arenas);
}

#define MISTAKE "--mistake" /* argument of the second process */

static Executor *executor_of(const Plan *plan) {
  static char text[8192];
  snprintf(text, sizeof text, "%s%s", kernel_text, cuda_runtime_unit);
  static PayloadSection sections[] = {{"kernels.cu", (const uint8_t *)text, 0}};
  sections[0].size = strlen(text);
  static Payload payload = {.sections = sections, .count = 1};
  Executor *ex = executor_new(plan, &payload);
  executor_set_seed(ex, 100);
  return ex;
}

/* What the second process does: a token selects more experts than the plan's bound, which ends it. */
static void make_mistake(const Plan *plan) {
  Executor *ex = executor_of(plan);
  executor_set_table(ex, arenas_of(ex, plan, 2));
  run(ex, -1, 2);
}

/* The message and the code are those of the CPU's route. A process of its own and not just a fork: threads of OpenMP do
 * not survive one. */
static void check_mistake(void) {
  int pipes[2], status;
  char text[2048] = "";
  size_t size = 0;
  CHECK(pipe(pipes) == 0, "pipe");
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipes[1], 2);
    execl("/proc/self/exe", "device_test", MISTAKE, (char *)NULL);
    _exit(127);
  }
  close(pipes[1]);
  for (ssize_t got = 1; got > 0; size += got > 0 ? (size_t)got : 0)
    got = read(pipes[0], text + size, sizeof text - 1 - size);
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == FAIL_USER &&
            strstr(text, "m.lua:9: the gate selects 4 experts for token 2 of the micro-batch, its bound is k = 1") &&
            strstr(text, "the GPU does not take kernel toy_greedy"),
        "%s", text);
}

/* The product, and the faster of the two ways that the device has kernels for. */
static void check_choices(const Executor *ex) {
  int count;
  const ProductChoice *choices = executor_choices(ex, &count);
  CHECK(count == 2 && !strcmp(choices[0].kind, "product") && !strcmp(choices[1].kind, "kernel"), "%d choices", count);
  CHECK(!strcmp(choices[1].algorithm, "fast") && choices[1].candidates == 2 &&
            strstr(choices[1].shape, "slow: toy_way 1, toy_way 1; fast: toy_way 1"),
        "%s of %s", choices[1].algorithm, choices[1].shape);
  CHECK(executor_scalar(ex, train, "way") == 2, "the way that is taken gives %g", executor_scalar(ex, train, "way"));
}

#define ASKED "--asked" /* argument of the second process */

/* What the user names is taken untimed; names that no option has are passed over. */
static void take_asked(const Plan *plan) {
  Executor *ex = executor_of(plan);
  executor_set_table(ex, arenas_of(ex, plan, 2));
  run(ex, 1, 2);
  int count;
  executor_choices(ex, &count);
  CHECK(executor_scalar(ex, train, "way") == 300000 && count == 1, "asked for slow: %g, %d choices",
        executor_scalar(ex, train, "way"), count);
}

static void check_asked(void) {
  int status;
  pid_t child = fork();
  if (child == 0) {
    setenv("MOEC_CUDA_OPTIONS", "other,hopper,slow", 1);
    execl("/proc/self/exe", "device_test", ASKED, (char *)NULL);
    _exit(127);
  }
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "asked for a way: status %d", status);
}

int main(int argc, char **argv) {
  const char *problem = getenv("MOEC_CUDA_PATH") ? cuda_open(CUDA_DRIVER) : "no MOEC_CUDA_PATH";
  if (problem) {
    printf("skipped: %s\n", problem);
    return 77;
  }
  const Plan *plan = plan_read("plan", plan_text, strlen(plan_text));
  train = plan_func(plan, "a.train");
  if (argc > 1 && strcmp(argv[1], MISTAKE) == 0) {
    make_mistake(plan);
    return 0;
  }
  if (argc > 1 && strcmp(argv[1], ASKED) == 0) {
    take_asked(plan);
    return 0;
  }
  check_mistake();
  check_asked();
  Executor *ex = executor_of(plan);
  Arenas *first = arenas_of(ex, plan, 2), *second = arenas_of(ex, plan, 3);
  executor_set_table(ex, first);
  for (int i = 0; i < 4; i++) /* step by step, captured, replayed */
    run(ex, (float)(i + 1), 2);
  executor_set_table(ex, second);
  run(ex, 2, 3);
  executor_set_table(ex, first);
  run(ex, 5, 2);
  check_gradients(ex, first);
  check_choices(ex);
  arenas_free(first);
  arenas_free(second);
  executor_free(ex);
  CHECK(memory_held() == 0, "%lld bytes are not given back", (long long)memory_held());
  printf("device CUDA: ok\n");
  return 0;
}
