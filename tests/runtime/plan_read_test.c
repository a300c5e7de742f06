/* The plan reader, the payload and the executor: a small plan with emitted kernels, carried in a file like a trainer's,
 * read back and run; every way such a file or a plan can be wrong ends with its message and exit code. */
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/execute.h"
#include "runtime/memory.h"
#include "tests/runtime/check.h"

static char directory[] = "moec-runtime-test-XXXXXX";

static const char plan_text[] =
    "moec-plan 1 target=cpu module=tiny task=lm\n"
    "arena act=4096\n"
    "symbol N=4 D=3\n"
    "run steps=10 batch=2 accumulate=1 sequence=2 vocabulary=7 tokens=4 segments=2\n"
    "schedule lr count=5 linear(0.5,-0.125,3);raw(0.100000001,2)   # peak\n"
    "table t size=64 gradients=256 segments=1 params=2\n"
    "  segment 0 offset=0 size=48 decay=0.1 birth=0\n"
    "  param h1.w offset=0 shape=3,4 segment=0 init=normal(0, 0.02)\n"
    "  param h1.b offset=48 shape=4 segment=-1 init=zeros\n"
    "table u size=128 gradients=512 segments=0 params=0\n"
    "phase a steps=4 table=t enter=- line=model.lua:3\n"
    "phase b steps=0 table=u enter=t_to_u line=model.lua:9 crossover=5.5\n"
    "func a.train table=t act=4096\n"
    "  work flops=1e6 pair=96\n"
    "  arg x f32 shape=4,3 at=act:0\n"
    "  arg tau f32 shape= at=act:64\n"
    "  arg live i32 shape=1 at=act:68\n"
    "  result loss f32 shape= at=act:1024\n"
    "  result y f32 shape=4,4 at=act:128 live=*act:68\n"
    "  result grad @h1.w f32 shape=3,4 at=grad:0\n"
    "  value y f32 shape=4,4 ld=4 at=act:128 live=*act:68\n"
    "  gemm m=*act:68 n=4 k=3 ta=0 tb=0 a=act:0 lda=3 b=param:0 ldb=4 c=act:128 ldc=4 beta=0 type=f32  # %y "
    "model.lua:41\n"
    "  launch test_total rows=*act:68 act:128 act:64 act:1024 seed:0  # %loss model.lua:42\n"
    "  fill rows=1 columns=12 type=f32 to=grad:0 ldt=12 value=0.5\n"
    "end\n"
    "func a.route table=- act=4096\n"
    "  arg mask f32 shape=4,3 at=act:0\n"
    "  route n=4 experts=3 k=1 bound=4 mask=act:0 ldm=3 pair=act:256 off=act:512 slot=act:768 scratch=act:1024  # "
    "%pair, %off, %slot models/m.lua:17\n"
    "end\n"
    "func t_to_u table=u act=0\n"
    "  copy rows=1 columns=12 type=f32 from=src.param:0 ldf=12 to=param:64 ldt=12\n"
    "end\n";

static const char kernel_source[] = "#include <stdint.h>\n"
                                    "typedef struct moec_launch { void *const *pointer; int64_t rows; } moec_launch;\n"
                                    "void test_total(const moec_launch *l) {\n"
                                    "  float sum = 0;\n"
                                    "  for (int64_t i = 0; i < 4 * l->rows; i++) sum += ((float *)l->pointer[0])[i];\n"
                                    "  *(float *)l->pointer[2] = sum * *(float *)l->pointer[1]"
                                    " + (float)*(uint64_t *)l->pointer[3];\n"
                                    "}\n";

/* ---------------------------------------------------------------- files */

/* Valid until the fourth call from here. */
static const char *path_of(const char *name) {
  static char path[4][512];
  static int next;
  char *text = path[next++ % 4];
  snprintf(text, 512, "%s/%s", directory, name);
  return text;
}

static void write_file(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  CHECK(file && fwrite(data, 1, size, file) == size && !fclose(file), "%s cannot be written", path);
}

static size_t read_file(const char *path, char **data) {
  FILE *file = fopen(path, "rb");
  CHECK(file, "%s cannot be read", path);
  fseek(file, 0, SEEK_END);
  size_t size = (size_t)ftell(file);
  rewind(file);
  *data = malloc(size + 1);
  CHECK(fread(*data, 1, size, file) == size, "%s is short", path);
  fclose(file);
  return size;
}

static void put_u64(FILE *file, uint64_t value) {
  for (int i = 0; i < 8; i++)
    fputc((int)(value >> 8 * i & 255), file);
}

typedef struct Part {
  const char *name;
  const void *data;
  size_t size;
} Part;

/* A file as the compiler writes it: some executable, sections, index, trailer. */
static void write_payload(const char *path, const Part *parts, int count) {
  FILE *file = fopen(path, "wb");
  CHECK(file, "%s cannot be written", path);
  fputs("executable", file);
  char index[1024] = "";
  for (int i = 0; i < count; i++) {
    snprintf(index + strlen(index), 200, "%s %ld %zu\n", parts[i].name, ftell(file), parts[i].size);
    fwrite(parts[i].data, 1, parts[i].size, file);
  }
  long at = ftell(file);
  fputs(index, file);
  fwrite(PAYLOAD_MAGIC, 1, 8, file);
  put_u64(file, (uint64_t)at);
  put_u64(file, strlen(index));
  fclose(file);
  char *bytes;
  size_t size = read_file(path, &bytes);
  file = fopen(path, "ab");
  put_u64(file, payload_hash(bytes, size));
  fclose(file);
  free(bytes);
}

static void make_trainer(const char *path) {
  write_file(path_of("kernels.c"), kernel_source, strlen(kernel_source));
  char command[2048], *library;
  snprintf(command, sizeof command, "cc -O1 -shared -fPIC %s -o %s", path_of("kernels.c"), path_of("kernels.so"));
  CHECK(!system(command), "cc failed");
  size_t size = read_file(path_of("kernels.so"), &library);
  Part parts[] = {
      {"plan", plan_text, strlen(plan_text)}, {"kernels.v3.so", library, size}, {"kernels.v4.so", library, size}};
  write_payload(path, parts, 3);
  free(library);
}

/* ---------------------------------------------------------------- what is right */

static void check_plan(const Plan *plan) {
  CHECK(!strcmp(plan->module, "tiny") && plan->run.tokens == 4 && plan->run.vocabulary == 7, "header");
  const PlanSchedule *lr = plan_schedule(plan, "lr");
  static const float expected[] = {0.5f, 0.375f, 0.25f, 0.1f, 2, 2};
  for (int i = 0; i < 6; i++)
    CHECK(plan_schedule_value(lr, i) == expected[i], "lr[%d] is %.9g", i, plan_schedule_value(lr, i));
  const PlanTable *t = plan_table(plan, "t");
  const PlanParam *w = plan_param(t, "h1.w");
  CHECK(w && w->shape.rank == 2 && w->shape.elements == 12 && !strcmp(w->init, "normal(0, 0.02)"), "parameter");
  CHECK(t->segments[0].decay == 0.1 && plan_param(t, "h1.b")->segment == -1, "segments");
  const PlanPhase *b = plan_phase(plan, "b");
  CHECK(b->table == plan_table(plan, "u") && b->enter == plan_func(plan, "t_to_u") && !b->steps && b->crossover == 5.5,
        "phase");
  const PlanFunc *train = plan_func(plan, "a.train");
  CHECK(train->step_count == 3 && train->steps[0].kind == STEP_GEMM && train->steps[0].gemm.m.dynamic, "steps");
  CHECK(train->flops == 1e6 && train->flops_per_pair == 96, "work");
  CHECK(plan_argument(train, "tau")->shape.rank == 0 && plan_argument(train, "tau")->shape.elements == 1, "scalar");
  CHECK(plan_result(train, "grad", "h1.w") && !plan_result(train, "grad", NULL), "results");
  CHECK(!strcmp(plan_step_location(&train->steps[0]), "model.lua:41"), "location");
  CHECK(train->value_count == 1 && train->values[0].ld == 4, "values");
  CHECK(!plan_func(plan, "b.train") && plan->kernel_count == 1, "functions");
}

static void check_run(const char *path) {
  CHECK(payload_present(path) && !payload_present(path_of("kernels.c")), "payload_present");
  Payload *payload = payload_open(path);
  const PayloadSection *section = payload_section(payload, "plan");
  CHECK(!payload_find(payload, "nothing"), "payload_find");
  Plan *plan = plan_read("plan", (const char *)section->data, section->size);
  check_plan(plan);
  Executor *ex = executor_new(plan, payload);
  const PlanFunc *train = plan_func(plan, "a.train");
  Arenas *t = arenas_new(ex, plan_table(plan, "t")), *u = arenas_new(ex, plan_table(plan, "u"));
  int64_t held = memory_held();
  CHECK(held == 4096 + 4 * 4 * (64 + 128), "memory_held is %lld", (long long)held);
  executor_set_table(ex, t);
  executor_set_seed(ex, 1000);
  for (int i = 0; i < 12; i++) {
    ((float *)executor_argument(ex, train, "x"))[i] = (float)i;
    arenas_write(t, ARENA_PARAM)[i] = 1;
  }
  *(float *)executor_argument(ex, train, "tau") = 2;
  *(int32_t *)executor_argument(ex, train, "live") = 3;
  CHECK(!executor_argument(ex, train, "nothing") && !executor_result(ex, train, "nothing"), "absent names");
  executor_set_profile(ex, true);
  executor_run(ex, train);
  CHECK(executor_scalar(ex, train, "loss") == 1000 + 2 * 4 * 36, "loss is %g", executor_scalar(ex, train, "loss"));
  CHECK(arenas_read(t, ARENA_GRAD)[11] == 0.5f && arenas_read(t, ARENA_GRAD)[12] == 0, "grad");
  CHECK(executor_count(ex, plan_result(train, "y", NULL)->live) == 3, "live rows");
  executor_set_profile(ex, false);
  executor_set_source(ex, t);
  executor_set_table(ex, u);
  executor_run(ex, plan_func(plan, "t_to_u"));
  CHECK(arenas_read(u, ARENA_PARAM)[16] == 1 && arenas_read(u, ARENA_PARAM)[28] == 0, "transition");
  arenas_free(t);
  arenas_free(u);
  executor_free(ex);
  CHECK(memory_held() == 0 && memory_peak() == held, "memory is given back");
}

/* ---------------------------------------------------------------- what is wrong */

/* Runs `action` in a child: it must end with `code` and print `message`. */
static void check_failure(void (*action)(const char *), const char *argument, int code, const char *message) {
  int pipes[2], status;
  char text[4096] = "";
  CHECK(!pipe(pipes), "pipe");
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    dup2(pipes[1], 2);
    close(pipes[0]);
    close(pipes[1]);
    action(argument);
    _exit(99);
  }
  close(pipes[1]);
  for (size_t length = 0; length < sizeof text - 1;) {
    ssize_t got = read(pipes[0], text + length, sizeof text - 1 - length);
    if (got <= 0)
      break;
    length += (size_t)got;
  }
  close(pipes[0]);
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code && strstr(text, message),
        "expected exit %d with '%s', got %d with '%s'", code, message, WEXITSTATUS(status), text);
}

static void open_payload(const char *path) {
  payload_open(path);
}

static void read_plan(const char *text) {
  plan_read("plan", text, strlen(text));
}

/* The plan with `from` replaced by `to`. */
static void read_changed(const char *change) {
  char from[256], *text = malloc(sizeof plan_text + 1024);
  const char *arrow = strstr(change, " => ");
  snprintf(from, sizeof from, "%.*s", (int)(arrow - change), change);
  const char *at = strstr(plan_text, from);
  CHECK(at, "the plan does not hold '%s'", from);
  sprintf(text, "%.*s%s%s", (int)(at - plan_text), plan_text, arrow + 4, at + strlen(from));
  read_plan(text);
}

static void run_route(const char *mask) {
  Plan *plan = plan_read("plan", plan_text, strlen(plan_text));
  plan->kernel_count = 0;
  Executor *ex = executor_new(plan, NULL);
  const PlanFunc *route = plan_func(plan, "a.route");
  for (int i = 0; i < 12; i++)
    ((float *)executor_argument(ex, route, "mask"))[i] = (float)(mask[i] - '0');
  executor_run(ex, route);
  int32_t off[4];
  executor_read(ex, (PlanPlace){SPACE_ACT, 512}, off, sizeof off);
  _exit(off[3] == 4 ? 0 : 98);
}

static void run_unbound(const char *what) {
  Plan *plan = plan_read("plan", plan_text, strlen(plan_text));
  plan->kernel_count = 0;
  Executor *ex = executor_new(plan, NULL);
  if (*what)
    executor_set_table(ex, arenas_new(ex, plan_table(plan, what)));
  executor_run(ex, plan_func(plan, "a.train"));
}

static void map_too_much(const char *argument) {
  (void)argument;
  memory_map("parameters", (int64_t)1 << 50);
}

static void check_damaged_files(const char *trainer) {
  char *data;
  size_t size = read_file(trainer, &data);
  write_file(path_of("cut"), data, size - 1);
  check_failure(open_payload, path_of("cut"), FAIL_USER, "its end was cut off");
  write_file(path_of("short"), data, 20);
  check_failure(open_payload, path_of("short"), FAIL_USER, "carries no model");
  data[size - 40] ^= 1;
  write_file(path_of("index"), data, size);
  check_failure(open_payload, path_of("index"), FAIL_USER, "its checksum is not the one at its end");
  data[size - 40] ^= 1;
  data[size - 20] = 1;
  write_file(path_of("offset"), data, size);
  check_failure(open_payload, path_of("offset"), FAIL_USER, "the index lies outside the file");
  check_failure(open_payload, path_of("absent"), FAIL_USER, "cannot be read");
  free(data);
}

int main(void) {
  CHECK(mkdtemp(directory), "no directory for the test");
  char *trainer = strdup(path_of("trainer"));
  make_trainer(trainer);
  check_damaged_files(trainer);
  check_failure(read_plan, "hello", FAIL_BUG, "not a plan");
  check_failure(read_plan, "moec-plan 2 target=cpu", FAIL_BUG, "version 2");
  check_failure(read_changed, "beta=0  => ", FAIL_BUG, "plan:22: gemm lacks key 'beta'");
  check_failure(read_changed, "lda=3 => lda=3 lda=3", FAIL_BUG, "given twice");
  check_failure(read_changed, "lda=3 => lad=3", FAIL_BUG, "no key 'lad'");
  check_failure(read_changed, "lda=3 => lda=x", FAIL_BUG, "'x' is not a number");
  check_failure(read_changed, "gemm => gmm", FAIL_BUG, "'gmm' is not part of a function");
  check_failure(read_changed, "a=act:0 => a=act:5000", FAIL_BUG, "outside the arena");
  check_failure(read_changed, "a=act:0 => a=heap:0", FAIL_BUG, "no space is called 'heap'");
  check_failure(read_changed, "count=5 => count=6", FAIL_BUG, "5 values, count=6");
  check_failure(read_changed, "table=u enter => table=w enter", FAIL_BUG, "there is no table 'w'");
  check_failure(read_changed, "enter=t_to_u => enter=x", FAIL_BUG, "there is no function 'x'");
  check_failure(read_changed, "offset=48 shape=4 => offset=61 shape=4", FAIL_BUG, "outside its table");
  check_failure(run_route, "100010001100", 0, "");
  check_failure(run_route, "100010011100", FAIL_USER,
                "models/m.lua:17: the gate selects 2 experts for token 2 of the micro-batch, its bound is k = 1");
  check_failure(run_unbound, "", FAIL_BUG, "without the arena");
  check_failure(run_unbound, "u", FAIL_BUG, "runs on table t, but table u is bound");
  check_failure(map_too_much, NULL, FAIL_ENVIRONMENT, "not enough memory: parameters need 1125899.907 GB");
  check_run(trainer);
  free(trainer);
  char command[256];
  snprintf(command, sizeof command, "rm -r %s", directory);
  CHECK(!system(command), "the test's directory stays");
  printf("plan, payload, executor: ok\n");
  return 0;
}
