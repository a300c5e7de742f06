/* A trainer: this program with a payload (payload.h) behind it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/commands.h"
#include "runtime/error.h"
#include "runtime/execute.h"

static const char help[] =
    "TRAINER train  --data D --out R     train into the run directory R\n"
    "    --steps N              the absolute last step (default: the model's)\n"
    "    --resume               go on from R's newest checkpoint\n"
    "    --eval-every N         evaluate every N steps (default 500; 0: at transitions and the end only)\n"
    "    --checkpoint-every N   write a checkpoint every N steps (default 1000; 0: at transitions and the end only)\n"
    "    --routing-every N      a line of routing.jsonl every N steps (default 10)\n"
    "    --probe-every N        a line of probe.jsonl every N steps, at transitions and the end (default 0: never):\n"
    "                           the experts of the same tokens of the valid split, at the cost of evaluating one\n"
    "                           micro-batch\n"
    "    --tune                 time both versions of a phase's training when it begins, instead of the cost model\n"
    "    --tuning=FILE          take over what another run's tuning.json says\n"
    "    --profile              print the time of every kind of step at the end\n"
    "    --seed=N               of all random draws and the order of the data (default 1)\n"
    "TRAINER eval   --data D --checkpoint C [--split=valid|test|train]\n"
    "TRAINER sample --checkpoint C --prompt TEXT -n 100 [--temperature=1] [--top-k=0] [--seed=1]\n"
    "TRAINER info                        what this trainer is\n"
    "    --ir --passes --plan --c --cuda --ledger --forecast    print what it carries (--plan: of --device=cpu|cuda)\n"
    "\n"
    "C is a checkpoint directory or a run directory (its newest). train, eval and sample take --device=cpu|cuda; "
    "without\n"
    "it they run on the GPU where the trainer carries a plan for it and one answers. --cpu=native takes the kernels\n"
    "that moec build --cpu=native made for exactly this machine, --cpu=v3 or =v4 those of a lower level.\n";

/* Wherever the trainer ends well: what it printed has arrived, or it was not done. */
static void finish(int code, void *unused) {
  (void)unused;
  if (code != 0 || (fflush(stdout) == 0 && !ferror(stdout)))
    return;
  fprintf(stderr, "trainer: standard output: cannot write: %s\n", strerror(errno));
  _exit(FAIL_ENVIRONMENT);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
  } commands[] = {{"train", trainer_train},
                  {"eval", trainer_eval},
                  {"sample", trainer_sample},
                  {"info", trainer_info},
                  {"exec", trainer_exec}};
  runtime_start(argv);
  on_exit(finish, NULL);
  if (argc < 2)
    runtime_fail(FAIL_USAGE, "train, eval, sample, info or --help expected");
  bool asks_help = false;
  for (int i = 1; i < argc; i++)
    asks_help |= strcmp(argv[i], "--help") == 0;
  if (asks_help) {
    fputs(help, stdout);
    return 0;
  }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    if (strcmp(argv[1], commands[i].name) != 0)
      continue;
    return commands[i].run(argc - 2, argv + 2);
  }
  runtime_fail(FAIL_USAGE, "unknown command '%s': train, eval, sample, info or --help expected", argv[1]);
}
