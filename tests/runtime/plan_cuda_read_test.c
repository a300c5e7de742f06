/* The steps of a plan for CUDA as the reader gives them, and what it says of wrong ones. */
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/plan.h"
#include "tests/runtime/check.h"

static const char head[] = "moec-plan 1 target=cuda module=tiny task=lm\narena act=4096\nfunc f table=- act=4096\n";

static const char steps[] =
    "  launch moec_a blocks=12,3 threads=128 shared=1024 act:64 tag:7 null seed:0  # %a = add m.lua:3\n"
    "  launch moec_b_scan blocks=1 threads=1024 act:0 status:0 tag:1 check=route n=16 k=2 bound=32\n"
    "  gemm m=4 n=5 k=6 ta=0 tb=1 a=act:0 lda=6 b=param:0 ldb=6 c=act:256 ldc=5 beta=0 type=bf16 ctype=f32\n"
    "  gemm m=4 n=8 k=8 ta=0 tb=0 a=act:0 lda=8 b=param:0 ldb=8 c=act:256 ldc=8 beta=1 type=bf16 ctype=bf16 "
    "epilogue=gelu_aux_bias bias=param:64 aux=act:1024 ldaux=8\n"
    "  memset grad:128 bytes=64\n"
    "  launch moec_a blocks=2,2,2 threads=32 check=scatter_rows n=4 rows=9 status:0\n"
    "  launch moec_a blocks=1 threads=32 choice=1 option=mma act:0\n"
    "  launch moec_a blocks=1 choice=1 option=wgmma threads=32 act:64\n"
    "  memset act:0 bytes=64 choice=2 option=mma\n";

static const Plan *read_steps(const char *text) {
  char all[4096];
  snprintf(all, sizeof all, "%s%send\n", head, text);
  return plan_read("plan", all, strlen(all));
}

static void check_launches(const Plan *plan) {
  const PlanFunc *f = plan_func(plan, "f");
  CHECK(f->step_count == 9 && plan->kernel_count == 2, "%d steps, %d kernels", f->step_count, plan->kernel_count);
  const StepLaunch *a = &f->steps[0].launch, *b = &f->steps[1].launch, *c = &f->steps[5].launch;
  CHECK(f->steps[0].kind == STEP_LAUNCH && a->blocks[0] == 12 && a->blocks[1] == 3 && a->blocks[2] == 1, "blocks");
  CHECK(a->threads == 128 && a->shared == 1024 && a->check == CHECK_NONE, "threads, shared");
  CHECK(a->operand_count == 4 && a->operands[0].space == SPACE_ACT && a->operands[0].offset == 64 &&
            a->operands[1].space == SPACE_TAG && a->operands[1].offset == 7 && a->operands[2].space == SPACE_NULL &&
            a->operands[2].offset == 0 && a->operands[3].space == SPACE_SEED,
        "operands");
  CHECK(b->check == CHECK_ROUTE && b->n == 16 && b->k == 2 && b->bound == 32 && b->shared == 0, "route");
  CHECK(b->operand_count == 3 && b->operands[1].space == SPACE_STATUS, "status");
  CHECK(c->kernel == a->kernel && c->blocks[2] == 2 && c->check == CHECK_SCATTER_ROWS && c->check_rows == 9 &&
            c->operand_count == 1,
        "scatter_rows");
  CHECK(!strcmp(plan_step_location(&f->steps[0]), "m.lua:3"), "location");
  unsigned spaces = 1u << SPACE_ACT | 1u << SPACE_SEED | 1u << SPACE_STATUS | 1u << SPACE_PARAM | 1u << SPACE_GRAD;
  CHECK(f->spaces == spaces, "spaces %x, expected %x", f->spaces, spaces);
}

static void check_others(const Plan *plan) {
  const PlanFunc *f = plan_func(plan, "f");
  const StepGemm *plain = &f->steps[2].gemm, *fused = &f->steps[3].gemm;
  CHECK(plain->epilogue == EPILOGUE_NONE && plain->bias.space == SPACE_NULL && plain->aux.space == SPACE_NULL, "plain");
  CHECK(plain->m.number == 4 && plain->tb == 1 && plain->type == PLAN_BF16 && plain->ctype == PLAN_F32, "sizes");
  CHECK(fused->epilogue == EPILOGUE_GELU_AUX_BIAS && fused->bias.offset == 64 && fused->aux.offset == 1024 &&
            fused->ldaux == 8 && fused->beta == 1,
        "epilogue");
  const StepMemset *zero = &f->steps[4].memset;
  CHECK(f->steps[4].kind == STEP_MEMSET && zero->to.space == SPACE_GRAD && zero->to.offset == 128 && zero->bytes == 64,
        "memset");
}

static void check_options(const Plan *plan) {
  const PlanStep *steps_of_f = plan_func(plan, "f")->steps;
  static const char *const options[] = {"mma", "wgmma", "mma"};
  CHECK(steps_of_f[5].choice == 0 && !steps_of_f[5].option, "a step of no choice");
  for (int i = 0; i < 3; i++)
    CHECK(steps_of_f[6 + i].choice == 1 + i / 2 && !strcmp(steps_of_f[6 + i].option, options[i]), "option %d", i);
  CHECK(steps_of_f[7].launch.operand_count == 1 && steps_of_f[7].launch.threads == 32, "what stands around an option");
}

/* Reading ends in a child with FAIL_BUG and this message. */
static void check_refusal(const char *text, const char *message) {
  int pipes[2], status;
  char said[1024] = "";
  CHECK(!pipe(pipes), "pipe");
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipes[1], 2);
    read_steps(text);
    _exit(99);
  }
  close(pipes[1]);
  for (size_t length = 0; length < sizeof said - 1;) {
    ssize_t got = read(pipes[0], said + length, sizeof said - 1 - length);
    if (got <= 0)
      break;
    length += (size_t)got;
  }
  close(pipes[0]);
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == FAIL_BUG && strstr(said, message),
        "'%s': expected '%s', got %d with '%s'", text, message, WEXITSTATUS(status), said);
}

int main(void) {
  const Plan *plan = read_steps(steps);
  check_launches(plan);
  check_others(plan);
  check_options(plan);
  check_refusal("  memset act:0 bytes=64 choice=2 option=mma\n", "choice=2: expected 1");
  check_refusal("  memset act:0 bytes=64 choice=1\n", "choice= and option= belong together");
  check_refusal("  memset act:0 bytes=64 choice=0 option=mma\n", "choices count from 1");
  check_refusal("  launch a threads=32 act:0\n", "blocks=, and threads= of at most 1024 expected");
  check_refusal("  launch a blocks=1 threads=2048 act:0\n", "threads= of at most 1024");
  check_refusal("  launch a blocks=1,2,3,4 threads=32\n", "at most three numbers");
  check_refusal("  launch a blocks=0 threads=32\n", "0 is not a number of blocks");
  check_refusal("  launch a blocks=1 threads=32 rows=4 speed=9\n", "launch has no key 'speed'");
  check_refusal("  launch a blocks=1 threads=32 check=nothing\n", "no check is called 'nothing'");
  check_refusal("  launch a blocks=1 threads=32 act:5000\n", "outside the arena");
  check_refusal("  memset act:0\n", "lacks key 'bytes'");
  check_refusal("  copy rows=1 columns=1 from=act:0 ldf=1 to=act:0 ldt=1\n", "'copy' is not part of a function");
  check_refusal("  gemm m=*act:0 n=5 k=6 ta=0 tb=1 a=act:0 lda=6 b=act:0 ldb=6 c=act:256 ldc=5 beta=0\n",
                "are numbers in a plan for CUDA");
  check_refusal("  gemm m=4 n=5 k=6 ta=0 tb=1 a=act:0 lda=6 b=act:0 ldb=6 c=act:256 ldc=5 beta=0 epilogue=relu\n",
                "no epilogue is called 'relu'");
  check_refusal("  gemm m=4 n=5 k=6 ta=0 tb=1 a=act:0 lda=6 b=act:0 ldb=6 c=act:256 ldc=5 beta=0 epilogue=dgelu_bgrad "
                "bias=act:0 aux=act:512 ldaux=4\n",
                "the epilogue wants bias= and aux= with ldaux= of at least n");
  check_refusal("  gemm m=4 n=5 k=6 ta=0 tb=1 a=act:0 lda=6 b=act:0 ldb=6 c=act:256 ldc=5 beta=0 epilogue=dgelu "
                "bias=act:0 aux=act:512 ldaux=8\n",
                "the epilogue wants no bias= and aux=");
  check_refusal("  gemm m=4 n=5 k=6 ta=0 tb=1 a=act:0 lda=6 b=act:0 ldb=6 c=act:256 ldc=5 beta=0 add=act:512 ldadd=8\n",
                "add= wants beta=1");
  printf("plan for CUDA: ok\n");
  return 0;
}
