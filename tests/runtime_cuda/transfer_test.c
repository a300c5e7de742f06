/* Which copies a function's arguments and results make (runtime/cuda/transfer.h). */
#include "runtime/cuda/transfer.h"

#include "tests/runtime/check.h"

static const char plan_text[] = "moec-plan 1 target=cuda module=tiny task=lm\n"
                                "arena act=8192\n"
                                "run steps=1 batch=1 accumulate=1 sequence=4 vocabulary=7 tokens=4 segments=1\n"
                                "table t size=64 gradients=256 segments=1 params=1\n"
                                "  segment 0 offset=0 size=64 decay=0 birth=0\n"
                                "  param w offset=0 shape=8 segment=0 init=zeros\n"
                                "phase a steps=0 table=t enter=- line=m.lua:1\n"
                                "func a.train table=t act=8192\n"
                                "  arg tokens i32 shape=4 at=act:1024\n"
                                "  arg step i32 shape= at=act:1152\n"
                                "  arg live f32 shape=4 at=act:4096\n"
                                "  arg p0 f32 shape=64 at=param:0\n"
                                "  result loss f32 shape= at=act:64\n"
                                "  result load.h1 f32 shape=1,2 at=act:6000\n"
                                "  result grad @w f32 shape=8 at=grad:0\n"
                                "  memset act:64 bytes=4\n"
                                "end\n";

static void check_transfer(const Transfer *t, int64_t at, int64_t bytes, int64_t host_at) {
  CHECK(t->at == at && t->bytes == bytes && t->host_at == host_at, "%lld bytes at %lld, host %lld", (long long)t->bytes,
        (long long)t->at, (long long)t->host_at);
}

int main(void) {
  const Plan *plan = plan_read("plan", plan_text, strlen(plan_text));
  const PlanFunc *func = plan_func(plan, "a.train");
  TransferList in = transfer_arguments(func), out = transfer_results(func);
  CHECK(in.count == 2 && out.count == 2, "%d copies up, %d down", in.count, out.count);
  check_transfer(&in.transfers[0], 1024, 132, 0);
  check_transfer(&in.transfers[1], 4096, 16, 192);
  check_transfer(&out.transfers[0], 64, 4, 0);
  check_transfer(&out.transfers[1], 6000, 8, 64);
  CHECK(in.bytes == 256 && out.bytes == 128, "%lld and %lld bytes of the host", (long long)in.bytes,
        (long long)out.bytes);
  in.host = test_memory(in.bytes);
  CHECK(transfer_find(&in, 1152) == in.host + 128 && transfer_find(&in, 4100) == in.host + 196, "inside");
  CHECK(!transfer_find(&in, 1156) && !transfer_find(&in, 0) && !transfer_find(&in, 4112), "outside");
  printf("transfers: ok\n");
  return 0;
}
