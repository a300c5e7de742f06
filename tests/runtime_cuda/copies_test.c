/* Copies of parameters in bf16 on the device CUDA, with a plan and kernels written here, run on the simulator's
 * libraries (in $MOEC_CUDA_PATH; without them skipped): they are made before the first function that touches them, made
 * anew after the host or a function wrote parameters, and not after an update, which writes its own. */
#include "runtime/cuda/compile.h"
#include "runtime/cuda/libraries.h"
#include "runtime/execute.h"
#include "runtime/memory.h"
#include "tests/runtime/check.h"

enum { SIZE = 64, BF16_OF_1 = 0x3f80, BF16_OF_2 = 0x4000, BF16_OF_3 = 0x4040, MARK = 7 };

static const char plan_text[] =
    "moec-plan 1 target=cuda module=toy task=lm\n"
    "arena act=256\n"
    "run steps=1 batch=1 accumulate=1 sequence=4 vocabulary=7 tokens=4 segments=1\n"
    "table t size=64 gradients=256 segments=1 params=1\n"
    "  segment 0 offset=0 size=64 decay=0 birth=0\n"
    "  param w offset=0 shape=64 segment=0 init=zeros\n"
    "table plain size=64 gradients=256 segments=1 params=1\n"
    "  segment 0 offset=0 size=64 decay=0 birth=0\n"
    "  param w offset=0 shape=64 segment=0 init=zeros\n"
    "phase a steps=0 table=t enter=- line=m.lua:1\n"
    "func a.train table=t act=256\n"
    "  result bits f32 shape= at=act:0\n"
    "  launch look blocks=1 threads=1 param.bf16:126 act:0\n"
    "end\n"
    "func t.update table=t act=256\n" /* writes something else than the copy, so that one can tell */
    "  result p0 f32 shape=64 at=param:0\n"
    "  result p0.bf16 bf16 shape=64 at=param.bf16:0\n"
    "  launch write_both blocks=1 threads=64 param:0 param.bf16:0\n"
    "end\n"
    "func init table=t act=256\n"
    "  result param @w f32 shape=64 at=param:0\n"
    "  launch write blocks=1 threads=64 param:0\n"
    "end\n"
    "func t.copies table=t act=256\n"
    "  arg p f32 shape=64 at=param:0\n"
    "  result p.bf16 bf16 shape=64 at=param.bf16:0\n"
    "  launch narrow blocks=1 threads=64 param:0 param.bf16:0\n"
    "end\n";

static const char kernel_text[] =
    "//@unit look\n"
    "extern \"C\" __global__ void look(const unsigned short *copy, float *bits) { *bits = (float)*copy; }\n"
    "//@unit write\n"
    "extern \"C\" __global__ void write(float *p) { p[threadIdx.x] = 3.0f; }\n"
    "extern \"C\" __global__ void write_both(float *p, unsigned short *copy) {\n"
    "  p[threadIdx.x] = 1.0f;\n"
    "  copy[threadIdx.x] = 7;\n"
    "}\n"
    "//@unit narrow\n"
    "extern \"C\" __global__ void narrow(const float *p, unsigned short *copy) {\n"
    "  copy[threadIdx.x] = (unsigned short)(__float_as_uint(p[threadIdx.x]) >> 16);\n"
    "}\n";

static int look(Executor *ex, const PlanFunc *train) {
  executor_run(ex, train);
  return (int)executor_scalar(ex, train, "bits");
}

static void fill(Arenas *arenas, float value) {
  for (int i = 0; i < SIZE; i++)
    arenas_write(arenas, ARENA_PARAM)[i] = value;
  arenas_settle(arenas);
}

int main(void) {
  const char *problem = getenv("MOEC_CUDA_PATH") ? cuda_open(CUDA_DRIVER) : "no MOEC_CUDA_PATH";
  if (problem) {
    printf("skipped: %s\n", problem);
    return 77;
  }
  const Plan *plan = plan_read("plan", plan_text, strlen(plan_text));
  const PlanFunc *train = plan_func(plan, "a.train"), *update = plan_func(plan, "t.update");
  PayloadSection section = {"kernels.cu", (const uint8_t *)kernel_text, strlen(kernel_text)};
  Payload payload = {.sections = &section, .count = 1};
  Executor *ex = executor_new(plan, &payload);
  int64_t held = memory_held(), with_copies = 4 * 4 * SIZE + 2 * SIZE;
  Arenas *first = arenas_new(ex, plan_table(plan, "t")), *second = arenas_new(ex, plan_table(plan, "t"));
  Arenas *plain = arenas_new(ex, plan_table(plan, "plain"));
  CHECK(memory_held() - held == 2 * with_copies + 4 * 4 * SIZE, "%lld bytes for arenas",
        (long long)(memory_held() - held));
  CHECK(arenas_bytes(plan, plan_table(plan, "t")) == with_copies, "arenas_bytes");
  executor_set_table(ex, first);
  fill(first, 2);
  CHECK(look(ex, train) == BF16_OF_2, "what the host wrote");
  executor_run(ex, update);
  for (int i = 0; i < 3; i++) /* step by step, captured, replayed */
    CHECK(look(ex, train) == MARK, "what an update wrote");
  executor_set_table(ex, second);
  CHECK(look(ex, train) == 0, "of other arenas");
  executor_set_table(ex, first);
  CHECK(look(ex, train) == MARK, "and back");
  executor_run(ex, plan_func(plan, "init"));
  CHECK(look(ex, train) == BF16_OF_3, "what a function wrote");
  executor_run(ex, update);
  fill(first, 1);
  CHECK(look(ex, train) == BF16_OF_1, "what the host wrote later");
  arenas_free(first);
  arenas_free(second);
  arenas_free(plain);
  executor_free(ex);
  CHECK(memory_held() == 0, "%lld bytes are not given back", (long long)memory_held());
  printf("copies in bf16: ok\n");
  return 0;
}
